//! What can be said of accelerators without one: that TensorRT takes the networks, and that 16-bit floats are enough for
//! them.

#![cfg(all(feature = "tract", feature = "ort"))]

use std::path::Path;
use std::sync::Arc;

use image::RgbImage;
use image::imageops::{brighten, flip_horizontal};
use prost::Message;
use segd::metrics::Metrics;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, ModelProto, NodeProto};
use vision::frame::LabelMap;
use vision::infer::ort::OrtBackend;
use vision::infer::qdq::from_qlinear;
use vision::infer::{Backend, Outputs, TensorData};
use vision::model::contract::{ModelFile, Precision};
use vision::model::load::{CONTRACT_FILE, sha256_hex};
use vision::model::{Model, Origin};
use vision::picture::{image_ref, read_rgb};
use vision::segment::Engine;
use vision::tensor::Values;

#[path = "common/tensorrt.rs"]
mod tensorrt;

use tensorrt::objections;

/// The models that are shipped.
fn models() -> Vec<Model> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let mut folders: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join(CONTRACT_FILE).is_file())
        .collect();
    folders.sort();
    assert!(!folders.is_empty());
    folders
        .iter()
        .map(|folder| Model::open(folder).unwrap())
        .collect()
}

fn read(model: &Model, file: &ModelFile) -> ModelProto {
    ModelProto::decode(&*model.network(file).unwrap()).unwrap()
}

/// The file that `--device tensorrt` takes for fp32 and fp16.
fn fp32(model: &Model) -> &ModelFile {
    model.contract.file_for("ort", Some(Precision::Fp32)).unwrap()
}

/// The file for CPUs.
fn int8(model: &Model) -> &ModelFile {
    model.contract.file_for("ort", Some(Precision::Int8)).unwrap()
}

/// What `--device tensorrt --precision int8` makes of it.
fn with_pairs(model: &Model) -> ModelProto {
    let bytes = from_qlinear(&model.network(int8(model)).unwrap()).unwrap();
    ModelProto::decode(&*bytes).unwrap()
}

#[test]
fn tensorrt_takes_every_network_that_it_would_be_given() {
    for model in models() {
        let name = &model.contract.name;
        for network in [read(&model, fp32(&model)), with_pairs(&model)] {
            let refused = objections(&network);
            assert!(refused.is_empty(), "{name}: {refused:#?}");
        }
        let pairs = with_pairs(&model).graph.unwrap().node;
        let count = |op: &str| pairs.iter().filter(|n| n.op_type == op).count();
        let stored = read(&model, int8(&model)).graph.unwrap().node;
        let convs = stored.iter().filter(|n| n.op_type == "QLinearConv").count();
        assert!(
            count("QuantizeLinear") > convs,
            "{name}: a pair follows each convolution"
        );
        assert_eq!(
            count("DequantizeLinear"),
            count("QuantizeLinear") + convs,
            "{name}: and one precedes its weights"
        );
    }
}

/// An engine of 8 bits can't be had without the device. ONNX Runtime computes the pairs as ONNX defines them.
#[test]
fn tensorrt_s_eight_bits_label_about_as_well_as_the_processor_s() {
    let Some(ort) = ort() else { return };
    for model in models() {
        let folder = tempfile::tempdir().unwrap();
        let [float, cpu, tensorrt] = [
            with_file(&model, folder.path(), "float.onnx", &read(&model, fp32(&model))),
            with_file(&model, folder.path(), "cpu.onnx", &read(&model, int8(&model))),
            with_file(&model, folder.path(), "pairs.onnx", &with_pairs(&model)),
        ];
        let (cpu, tensorrt) = (agreement(&ort, &float, &cpu), agreement(&ort, &float, &tensorrt));
        let name = &model.contract.name;
        // A symmetric byte has half the steps of an unsigned one for a value that is never negative.
        assert!(
            tensorrt >= cpu - 0.02 && tensorrt < 1.0,
            "{name}: {tensorrt} of the labels are those of 32 bits, with unsigned bytes {cpu}"
        );
    }
}

/// The list says no, too.
#[test]
fn what_tensorrt_does_not_take_is_refused() {
    let models = models();
    let refused = objections(&read(&models[0], int8(&models[0])));
    assert!(
        refused.iter().any(|r| r.starts_with("TensorRT 8.6: QLinearConv")),
        "{refused:?}"
    );
    assert!(
        refused.iter().any(|r| r.starts_with("TensorRT 10: QLinearConv")),
        "{refused:?}"
    );
    assert!(
        refused.contains(&"TensorRT 10: operators of com.microsoft".to_owned()),
        "{refused:?}"
    );

    let plain = || read(&models[0], fp32(&models[0]));
    let says = |change: &dyn Fn(&mut ModelProto), text: &str| {
        let mut network = plain();
        change(&mut network);
        let refused = objections(&network);
        assert!(refused.iter().any(|r| r.contains(text)), "{text}: {refused:?}");
    };
    let add = |network: &mut ModelProto, operator: &str, input: &str, attributes: Vec<AttributeProto>| {
        network
            .graph
            .as_mut()
            .unwrap()
            .node
            .push(node(operator, &[input], "added", attributes));
    };
    let logits = plain().graph.unwrap().output[0].name.clone();
    says(&|n| n.opset_import[0].version = 18, "8.6: operator set 18");
    says(&|n| add(n, "MaxUnpool", &logits, vec![]), "MaxUnpool");
    says(
        &|n| {
            add(n, "Cast", &logits, vec![int("to", DataType::Uint8 as i64)]);
            n.graph
                .as_mut()
                .unwrap()
                .node
                .push(node("Relu", &["added"], "more", vec![]));
        },
        "Relu more of UINT8",
    );
    let cubic = AttributeProto {
        name: "mode".into(),
        r#type: AttributeType::String as i32,
        s: b"cubic".to_vec(),
        ..AttributeProto::default()
    };
    says(&|n| add(n, "Resize", &logits, vec![cubic.clone()]), "mode cubic");
    // Asymmetric 8-bit numbers.
    let mut shifted = with_pairs(&models[0]);
    let graph = shifted.graph.as_mut().unwrap();
    let zero = graph
        .node
        .iter()
        .find(|n| n.op_type == "QuantizeLinear")
        .unwrap()
        .input[2]
        .clone();
    let zero = graph.initializer.iter_mut().find(|t| t.name == zero).unwrap();
    (zero.raw_data, zero.int32_data) = (vec![3], vec![]);
    let refused = objections(&shifted);
    assert!(
        refused.iter().any(|r| r.contains("zero point is not zero")),
        "{refused:?}"
    );
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Int as i32,
        i: value,
        ..AttributeProto::default()
    }
}

fn node(operator: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: vec![output.to_owned()],
        name: output.to_owned(),
        op_type: operator.to_owned(),
        attribute,
        ..NodeProto::default()
    }
}

/// The network with every weight and every value between two nodes rounded to a 16-bit float, as an fp16 engine stores
/// them; sums are of 32 bits, as they are on tensor cores.
fn rounded_to_fp16(network: &ModelProto) -> ModelProto {
    let mut rounded = network.clone();
    let graph = rounded.graph.as_mut().unwrap();
    let cast = |from: &str, to: &str, kind: DataType| NodeProto {
        name: format!("{to}/cast"),
        ..node("Cast", &[from], to, vec![int("to", kind as i64)])
    };
    let round = |value: &str, to: &str| {
        let half = format!("{to}/half");
        [
            cast(value, &half, DataType::Float16),
            cast(&half, to, DataType::Float),
        ]
    };
    let mut nodes = Vec::new();
    for weights in &mut graph.initializer {
        if weights.data_type == DataType::Float as i32 {
            let name = weights.name.clone();
            weights.name = format!("{name}/full");
            nodes.extend(round(&weights.name, &name));
        }
    }
    for mut one in std::mem::take(&mut graph.node) {
        // What a comparison gives is no number.
        if one.op_type != "Equal" {
            let name = one.output[0].clone();
            one.output[0] = format!("{name}/full");
            let [narrow, wide] = round(&one.output[0], &name);
            nodes.extend([one, narrow, wide]);
        } else {
            nodes.push(one);
        }
    }
    graph.node = nodes;
    rounded
}

/// Whether a 16-bit float can hold the value.
fn is_fp16(value: f32) -> bool {
    // Ten bits of the mantissa's 23 are left, and below 2^-14 steps of 2^-24.
    let subnormal = value.abs() < 2f32.powi(-14) && (value * 2f32.powi(24)).fract() == 0.0;
    subnormal || (value.to_bits().trailing_zeros() >= 13 && value.abs() <= 65504.0)
}

/// The self-test's picture, the same mirrored and dark, and a made one of waves in all directions and colours.
fn pictures(model: &Model) -> Vec<RgbImage> {
    let Origin::Folder(folder) = &model.origin else {
        panic!("{} has no folder", model.contract.name);
    };
    let own = read_rgb(&folder.join(&model.contract.selftest.as_ref().unwrap().image)).unwrap();
    let waves = RgbImage::from_fn(400, 300, |x, y| {
        let (x, y) = (f64::from(x), f64::from(y));
        let wave = |a: f64, b: f64| 127.5 + 127.5 * (a * x + b * y + 0.0003 * x * y).sin();
        image::Rgb([wave(0.05, 0.02), wave(-0.03, 0.04), wave(0.01, 0.09)].map(|v| v as u8))
    });
    vec![brighten(&flip_horizontal(&own), -60), own, waves]
}

/// ONNX Runtime on the processor; `None` if its library isn't here and isn't required.
fn ort() -> Option<Arc<dyn Backend>> {
    match OrtBackend::load(Default::default()) {
        Ok(ort) => Some(Arc::new(ort)),
        Err(why) => {
            let required = std::env::var_os("SEGD_REQUIRE_ORT").is_some();
            assert!(!required, "ONNX Runtime's library is not found: {why}");
            None
        }
    }
}

/// The model with `network`, kept in `folder`, for its only file.
fn with_file(model: &Model, folder: &Path, name: &str, network: &ModelProto) -> Arc<Model> {
    let bytes = network.encode_to_vec();
    std::fs::write(folder.join(name), &bytes).unwrap();
    let mut contract = model.contract.clone();
    contract.files = vec![ModelFile {
        path: name.into(),
        precision: Precision::Fp32,
        backends: vec!["ort".into()],
        sha256: sha256_hex(&bytes),
    }];
    Arc::new(Model {
        contract,
        origin: Origin::Folder(folder.to_path_buf()),
    })
}

/// The share of pixels of the model's pictures that both label alike.
fn agreement(ort: &Arc<dyn Backend>, one: &Arc<Model>, other: &Arc<Model>) -> f64 {
    let labels = |model: &Arc<Model>, picture: &RgbImage| {
        let mut engine = Engine::new(model.clone(), ort.clone(), None, Metrics::shared());
        let image = image_ref(picture).unwrap();
        let mut mask = LabelMap::zeros(image.format.width, image.format.height);
        engine.segment(&image, &mut mask).unwrap();
        mask.labels
    };
    let (mut same, mut pixels) = (0, 0);
    let shipped = models()
        .into_iter()
        .find(|m| m.contract.name == one.contract.name);
    for picture in pictures(&shipped.unwrap()) {
        let (a, b) = (labels(one, &picture), labels(other, &picture));
        let equal = a.iter().zip(&b).filter(|(a, b)| a == b).count();
        println!(
            "{}: {:.3} %",
            one.contract.name,
            100.0 * equal as f64 / a.len() as f64
        );
        (same, pixels) = (same + equal, pixels + a.len());
    }
    same as f64 / pixels as f64
}

#[test]
fn sixteen_bit_floats_label_as_thirty_two_do() {
    let Some(ort) = ort() else { return };
    for model in models() {
        let network = read(&model, fp32(&model));
        let folder = tempfile::tempdir().unwrap();
        let [full, half] = [
            with_file(&model, folder.path(), "full.onnx", &network),
            with_file(&model, folder.path(), "half.onnx", &rounded_to_fp16(&network)),
        ];

        // The rounding takes place: what comes out are 16-bit floats.
        let size = full
            .contract
            .input
            .size_for(full.contract.input.width, full.contract.input.height, None);
        let mut segmenter = ort.prepare(&half, size).unwrap();
        let mut outputs = Outputs::default();
        segmenter
            .run(&TensorData::zeros(full.contract.input.dtype, size), &mut outputs)
            .unwrap();
        let Values::F32(values) = &outputs.tensors()[0].values else {
            panic!("no logits");
        };
        assert!(
            values.iter().all(|v| is_fp16(*v)),
            "{}: not rounded",
            model.contract.name
        );

        let share = agreement(&ort, &full, &half);
        // Where a network unpools, values of a cell that 16 bits make equal let another of its places win.
        let unpools = network.graph.unwrap().node.iter().any(|n| n.op_type == "Equal");
        let least = if unpools { 0.98 } else { 0.995 };
        assert!(
            share >= least,
            "{}: {share} of the labels agree",
            model.contract.name
        );
    }
}
