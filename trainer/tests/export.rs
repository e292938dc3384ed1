//! The exported f32 file in tract against tch, and the int8 file's numbers.

mod common;

use std::sync::atomic::AtomicBool;

use indicatif::ProgressBar;
use segd_train::export::model::{self, CONTRACT, NetworkFile};
use segd_train::export::{float, qlinear, score};
use segd_train::forward::{Mode, forward};
use segd_train::graph::Graph;
use segd_train::nets::deeplabv3_light::{Head, deeplabv3_light};
use segd_train::nets::{efficientnet_lite, mobilenet_v2};
use segd_train::quantize::calibrate;
use segd_train::run::Folder;
use segd_train::train::{Run, Validation, train};
use segd_train::weights::{Weights, fold};
use segd_train::{data, validate};
use tch::{Device, Kind, Tensor};
use tract_onnx::prelude::*;
use vision::dataset::{Dataset, Format};
use vision::model::contract::Precision;

/// Weights with batch normalisation away from the identity.
fn lively(graph: &Graph) -> Weights {
    let mut weights = Weights::random(graph, 11, Device::Cpu);
    for name in weights
        .iter()
        .map(|(name, _)| name.to_owned())
        .collect::<Vec<_>>()
    {
        let tensor = weights.get(&name);
        let changed = if name.ends_with(".bn.var") || name.ends_with(".bn.weight") {
            tensor.rand_like() * 0.5 + 0.75
        } else if name.ends_with(".bn.bias") || name.ends_with(".bn.mean") {
            tensor.randn_like() * 0.2 + 0.1
        } else if name == "classifier.weight" {
            tensor.randn_like() * 0.3
        } else {
            continue;
        };
        weights.set(&name, &changed).unwrap();
    }
    weights
}

fn networks() -> Vec<(&'static str, Graph)> {
    let head = Head {
        pyramid: 24,
        decoder: vec![16],
        rates: vec![2, 3, 5],
        classes: 6,
    };
    vec![
        (
            "efficientnet-lite0",
            deeplabv3_light(efficientnet_lite::lite(efficientnet_lite::LITE0), &head),
        ),
        (
            "mobilenet-v2",
            deeplabv3_light(mobilenet_v2::mobilenet_v2(1.0), &head),
        ),
    ]
}

fn logits_by_tract(bytes: &[u8], input: &Tensor) -> Tensor {
    let (n, c, h, w) = input.size4().unwrap();
    let shape = [n as usize, c as usize, h as usize, w as usize];
    let model = tract_onnx::onnx()
        .model_for_read(&mut std::io::Cursor::new(bytes))
        .unwrap()
        .with_input_fact(0, f32::fact(shape).into())
        .unwrap()
        .into_optimized()
        .unwrap()
        .into_runnable()
        .unwrap();
    let values = Vec::<f32>::try_from(input.contiguous().view([-1])).unwrap();
    let value = tract_onnx::prelude::Tensor::from_shape(&shape, &values).unwrap();
    let outputs = model.run(tvec!(value.into())).unwrap();
    let output = outputs[0].to_plain_array_view::<f32>().unwrap();
    let shape: Vec<i64> = output.shape().iter().map(|&side| side as i64).collect();
    Tensor::from_slice(&output.iter().copied().collect::<Vec<f32>>()).reshape(shape)
}

fn agreement(a: &Tensor, b: &Tensor) -> f64 {
    a.argmax(1, false)
        .eq_tensor(&b.argmax(1, false))
        .to_kind(Kind::Float)
        .mean(None)
        .double_value(&[])
}

#[test]
fn the_f32_file_computes_what_tch_computes() {
    tch::set_num_threads(1);
    for (name, graph) in networks() {
        let weights = lively(&graph);
        let convs = fold(&graph, &weights).unwrap();
        // Weights as they are, and of eleven bits.
        let files = [
            (float::write_exact(name, &graph, &convs), 1e-4, 0.999),
            (float::write(name, &graph, &convs), 5e-2, 0.97),
        ];
        // One file, pictures of any valid size.
        for (height, width) in [(64, 96), (80, 48)] {
            let input = Tensor::randn([1, 3, height, width], (Kind::Float, Device::Cpu));
            let expected = tch::no_grad(|| forward(&graph, &weights, &input, Mode::Eval, Kind::Float));
            for (bytes, limit, least) in &files {
                let found = logits_by_tract(bytes, &input);
                assert_eq!(found.size(), [1, 6, height / 8, width / 8]);
                let scale = expected.abs().max().double_value(&[]);
                let error = (&found - &expected).abs().max().double_value(&[]);
                assert!(error < limit * scale, "{name}: off by {error} of {scale}");
                let agreement = agreement(&found, &expected);
                assert!(agreement >= *least, "{name}: {agreement} of the labels agree");
            }
        }
    }
}

/// A network that was trained on boxes, exported as a model's folder: segd must label with it as tch does, through tract
/// and, where its library is found, through ONNX Runtime in f32 and in 8 bits.
#[test]
fn an_exported_folder_labels_as_the_trained_network_does() {
    tch::set_num_threads(1);
    let folder = tempfile::tempdir().unwrap();
    common::write_dataset(folder.path(), 6);
    let samples = Dataset::open(Format::Voc, folder.path())
        .unwrap()
        .split("val")
        .unwrap();
    let pictures = data::load(&samples, 3, 96, 1, &ProgressBar::hidden()).unwrap();
    let mut recipe = common::recipe(240);
    recipe.network.pretrained = false;
    let graph = recipe.graph();
    let mut run = Run::new(&recipe, graph.clone(), Weights::random(&graph, 3, Device::Cpu));
    let order: Vec<u32> = (0..pictures.len() as u32).collect();
    let out = Folder::create(&folder.path().join("run")).unwrap();
    train(
        &mut run,
        &recipe,
        &pictures,
        &order,
        &Validation::Classes(samples.clone()),
        &out,
        &AtomicBool::new(false),
    )
    .unwrap();

    let convs = fold(&graph, &run.ema).unwrap();
    let inputs: Vec<Tensor> = samples
        .iter()
        .map(|sample| validate::input(&sample.load_image().unwrap(), &recipe, Device::Cpu).unwrap())
        .collect();
    let fp32 = float::write("made", &graph, &convs);
    let int8 = qlinear::write("made", &graph, &convs, &calibrate(&graph, &run.ema, &inputs));
    assert!(
        int8.len() * 3 < fp32.len() * 2,
        "{} and {} bytes",
        int8.len(),
        fp32.len()
    );
    let files = [NetworkFile::int8(&int8), NetworkFile::fp32(&fp32)];
    let model = folder.path().join("model");
    let mut contract = model::write_folder(&model, &recipe, &graph, &run.ema, &files, None).unwrap();
    // The made dataset has three classes.
    contract.classes.truncate(common::CLASSES as usize);
    model::write(&model, CONTRACT, contract.to_toml().unwrap().as_bytes()).unwrap();

    let reference: Vec<Vec<u8>> = samples
        .iter()
        .map(|sample| validate::predict(&graph, &run.ema, &recipe, &sample.load_image().unwrap()).unwrap())
        .collect();
    let mut cases = vec![("tract", Precision::Fp32, 0.999)];
    if score::backend("ort", Precision::Fp32).is_ok() {
        cases.extend([("ort", Precision::Fp32, 0.999), ("ort", Precision::Int8, 0.97)]);
    } else {
        assert!(
            std::env::var_os("SEGD_REQUIRE_ORT").is_none(),
            "ONNX Runtime's library is not found"
        );
    }
    for (name, precision, least) in cases {
        let (mut same, mut pixels) = (0, 0);
        let backend = score::backend(name, precision).unwrap();
        let scores = score::score(&model, backend, &samples, |index, labels| {
            same += labels
                .iter()
                .zip(&reference[index])
                .filter(|(a, b)| a == b)
                .count();
            pixels += labels.len();
        })
        .unwrap();
        let agreement = f64::from(same as u32) / f64::from(pixels as u32);
        assert!(
            agreement >= least,
            "{name} {precision:?}: {agreement} of the labels agree"
        );
        assert!(
            scores.whole().mean_iou().unwrap() > 0.5,
            "{name} {precision:?}: {:?}",
            scores.whole().mean_iou()
        );
    }
}

#[test]
fn a_contract_has_the_recipes_colours() {
    let recipe = segd_train::recipe::named("voc21").unwrap();
    let contract = model::contract(&recipe, &recipe.graph(), &[], None);
    let color = |name: &str| {
        contract
            .classes
            .iter()
            .find(|class| class.name == name)
            .unwrap()
            .color
    };
    assert_eq!(color("car"), [240, 130, 0]);
    assert_eq!(color("person"), [192, 128, 128], "VOC's own");
}
