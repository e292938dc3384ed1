//! A network that tells objects apart: it learns a made set by heart, and what is exported finds the same objects in tract and
//! in ONNX Runtime, through the daemon's decoder.

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use image::{GrayImage, Luma, Rgb, RgbImage};
use indicatif::ProgressBar;
use segd_train::augment::Size;
use segd_train::export::model::{self, NetworkFile};
use segd_train::export::{float, qlinear, score};
use segd_train::loss::Term;
use segd_train::objects::Source;
use segd_train::picture::Picture;
use segd_train::quantize::calibrate;
use segd_train::recipe::Recipe;
use segd_train::run::Folder;
use segd_train::train::{Run, Validation, train};
use segd_train::weights::{Weights, fold};
use segd_train::{data, validate};
use tch::{Device, Tensor};
use vision::dataset::objects::{ObjectDataset, ObjectFormat};
use vision::dataset::{Dataset, Format};
use vision::frame::LabelMap;
use vision::model::Model;
use vision::model::contract::{Contract, OutputKind, Precision};
use vision::picture::image_ref;
use vision::rle::Rle;
use vision::segment::Engine;
use vision::timing::Untimed;

const WIDTH: u32 = 96;
const HEIGHT: u32 = 64;

/// The boxes of picture `index`: left, top, width, height, class. The first two are of one class and touch.
fn boxes(index: u32) -> [[u32; 5]; 3] {
    let (x, y) = (4 + 5 * (index % 4), 4 + 4 * (index % 3));
    [
        [x, y, 22, 24, 1],
        [x + 22, y + 2, 22, 22, 1],
        [x + 20, y + 28, 30, 16, 2],
    ]
}

/// Writes `count` pictures: red boxes that touch, and a blue one.
fn write_objects(root: &Path, count: u32) {
    for folder in [
        "ImageSets/Segmentation",
        "JPEGImages",
        "SegmentationClass",
        "SegmentationObject",
    ] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    let mut names = String::new();
    for index in 0..count {
        let name = format!("{index:06}");
        names += &format!("{name}\n");
        let list = boxes(index);
        let at = |x: u32, y: u32| {
            let inside = |b: &[u32; 5]| (b[0]..b[0] + b[2]).contains(&x) && (b[1]..b[1] + b[3]).contains(&y);
            list.iter().position(inside)
        };
        let color = |x, y| match at(x, y) {
            // Lighter to the right, so that a border can be seen.
            Some(number) if list[number][4] == 1 => {
                let light = 3 * (x - list[number][0]) as u8;
                Rgb([150 + light, 30 + light, 30])
            }
            Some(_) => Rgb([30, 50, 210]),
            None => Rgb([60, 150, 70]),
        };
        let save = |folder: &str, value: &dyn Fn(usize) -> u8| {
            let image = GrayImage::from_fn(WIDTH, HEIGHT, |x, y| Luma([at(x, y).map_or(0, value)]));
            image.save(root.join(format!("{folder}/{name}.png"))).unwrap();
        };
        RgbImage::from_fn(WIDTH, HEIGHT, color)
            .save(root.join(format!("JPEGImages/{name}.jpg")))
            .unwrap();
        save("SegmentationClass", &|number| list[number][4] as u8);
        save("SegmentationObject", &|number| number as u8 + 1);
    }
    for split in ["train", "val"] {
        fs::write(root.join(format!("ImageSets/Segmentation/{split}.txt")), &names).unwrap();
    }
}

fn recipe(steps: u64) -> Recipe {
    let mut recipe = common::recipe(steps);
    recipe.network.arch = "panoptic-deeplab-light".to_owned();
    recipe.network.pretrained = false;
    recipe.network.trunk = Some(segd_train::nets::TrunkKind::MobilenetV2Half);
    recipe.train.loss = terms(
        r#"[{ kind = "cross-entropy" }, { kind = "center-heat" }, { kind = "center-offsets", weight = 0.1 }]"#,
    );
    recipe.augment.crop = Size {
        width: WIDTH as usize,
        height: HEIGHT as usize,
    };
    recipe.augment.longest = WIDTH as f32;
    recipe.augment.scale = [0.95, 1.05];
    recipe.train.batch = 4;
    recipe.augment.whole = true;
    recipe.validate.longest = WIDTH as usize;
    recipe.check().unwrap();
    recipe
}

struct Made {
    folder: tempfile::TempDir,
    pictures: Vec<Picture>,
    truth: ObjectDataset,
}

fn made(count: u32) -> Made {
    tch::set_num_threads(1);
    let folder = tempfile::tempdir().unwrap();
    write_objects(folder.path(), count);
    let samples = Dataset::open(Format::Voc, folder.path())
        .unwrap()
        .split("train")
        .unwrap();
    let (source, boxes) = Source::of_voc(folder.path()).unwrap();
    assert_eq!(boxes, None);
    let bar = ProgressBar::hidden();
    let pictures = data::load_with(&samples, 3, Some(&source), 200, 2, &bar).unwrap();
    let mut truth = ObjectDataset::open(ObjectFormat::Voc, folder.path(), "val").unwrap();
    // The network knows two of VOC's classes.
    truth.classes.truncate(2);
    Made {
        folder,
        pictures,
        truth,
    }
}

/// SOLO on the same set.
fn solo(steps: u64) -> Recipe {
    let mut recipe = recipe(steps);
    recipe.network.arch = "solo-light".to_owned();
    recipe.network.decoder = None;
    recipe.network.pyramid = None;
    recipe.network.rates = None;
    recipe.train.loss = terms(r#"[{ kind = "cell-focal" }, { kind = "mask-dice", weight = 3.0 }]"#);
    recipe.train.head_rate = 4e-3;
    recipe.train.trunk_rate = 4e-3;
    recipe.train.batch = 2;
    recipe.validate.score = 0.1;
    recipe.check().unwrap();
    recipe
}

fn terms(text: &str) -> Vec<Term> {
    let table: toml::Table = format!("loss = {text}").parse().unwrap();
    table["loss"].clone().try_into().unwrap()
}

#[test]
fn objects_that_touch_are_learnt_and_found_in_every_backend() {
    check(&recipe(400), 4, OutputKind::Centers, 3, 0.9);
}

#[test]
fn solo_finds_objects_that_touch_in_every_backend() {
    // A cell of its deepest features is as wide as two thirds of an object: the two that touch are not always told apart.
    check(&solo(150), 2, OutputKind::Prototypes, 1, 0.5);
}

/// Learns `count` pictures of the made set to a mask AP50 of `least`; its exported files find the same objects, whose numbers
/// begin with `first`.
fn check(recipe: &Recipe, count: u32, kind: OutputKind, first: u8, least: f64) {
    let learns_all = least >= 0.9;
    let made = made(count);
    let graph = recipe.graph();
    let mut run = Run::new(recipe, graph.clone(), Weights::random(&graph, 3, Device::Cpu));
    let out = Folder::create(&made.folder.path().join("run")).unwrap();
    let order: Vec<u32> = (0..made.pictures.len() as u32).collect();
    let validation = Validation::Objects(made.truth.clone());
    let stop = AtomicBool::new(false);
    train(&mut run, recipe, &made.pictures, &order, &validation, &out, &stop).unwrap();
    let log = fs::read_to_string(out.log()).unwrap();
    assert!(log.starts_with("step,seconds,loss,mask_ap50\n"), "{log}");
    assert!(run.best > least, "mask AP50 {}: {log}", run.best);

    let convs = fold(&graph, &run.ema).unwrap();
    let samples = &made.truth.samples;
    let images: Vec<RgbImage> = samples.iter().map(|sample| sample.load().unwrap().0).collect();
    let inputs: Vec<Tensor> = images
        .iter()
        .map(|image| validate::input(image, recipe, Device::Cpu).unwrap())
        .collect();
    let fp32 = float::write_exact("made", &graph, &convs);
    let int8 = qlinear::write("made", &graph, &convs, &calibrate(&graph, &run.ema, &inputs));
    let files = [NetworkFile::int8(&int8), NetworkFile::fp32(&fp32)];
    let folder = made.folder.path().join("model");
    let mut contract = model::write_folder(&folder, recipe, &graph, &run.ema, &files, None).unwrap();
    contract.classes.truncate(3);
    model::write(&folder, model::CONTRACT, contract.to_toml().unwrap().as_bytes()).unwrap();
    let contract =
        Contract::parse(&fs::read_to_string(folder.join(model::CONTRACT)).unwrap(), "made").unwrap();
    assert_eq!((contract.format, contract.output.kind), (2, kind));
    assert!(!contract.classes[0].thing && contract.classes[1].thing);

    let mut cases = vec![("tract", Precision::Fp32), ("tract", Precision::Int8)];
    if score::backend("ort", Precision::Fp32).is_ok() {
        cases.extend([("ort", Precision::Fp32), ("ort", Precision::Int8)]);
    } else {
        assert!(
            std::env::var_os("SEGD_REQUIRE_ORT").is_none(),
            "ONNX Runtime's library is not found"
        );
    }
    for (name, precision) in cases {
        let model = Arc::new(Model::open(&folder).unwrap());
        let mut engine = Engine::new(
            model,
            score::backend(name, precision).unwrap(),
            None,
            Arc::new(Untimed),
        );
        let (mut same, mut pixels) = (0, 0);
        for image in &images {
            let expected = validate::see(&graph, &run.ema, recipe, image).unwrap();
            let (mut map, mut segments) = (LabelMap::zeros(0, 0), Vec::new());
            engine
                .segment_objects(&image_ref(image).unwrap(), &mut map, &mut segments)
                .unwrap();
            let boxes = |map: &LabelMap, count: usize| -> Vec<[u64; 4]> {
                (first..count as u8)
                    .map(|number| Rle::of(map, number).bbox())
                    .collect()
            };
            let (found, wanted) = (
                boxes(&map, segments.len()),
                boxes(&expected.map, expected.segments.len()),
            );
            assert!(
                wanted.len() == 3 || !learns_all && wanted.len() >= 2,
                "{name} {precision:?}: {wanted:?}"
            );
            if precision == Precision::Fp32 {
                // Boxes are whole pixels: within half a pixel they are equal. The order is that of the scores.
                assert_eq!(found, wanted, "{name}");
                same += map
                    .labels
                    .iter()
                    .zip(&expected.map.labels)
                    .filter(|(a, b)| a == b)
                    .count();
            } else {
                assert!(found.len() == 3 || !learns_all, "{name} int8: {found:?}");
                // Rounding may change the order of objects that are equally sure.
                let class = |map: &LabelMap, segments: &[vision::scene::Segment], at: usize| {
                    segments[usize::from(map.labels[at])].class
                };
                same += (0..map.labels.len())
                    .filter(|&at| class(&map, &segments, at) == class(&expected.map, &expected.segments, at))
                    .count();
            }
            pixels += map.labels.len();
        }
        let (agreement, least) = (
            same as f64 / pixels as f64,
            if precision == Precision::Fp32 { 0.995 } else { 0.97 },
        );
        assert!(
            agreement >= least,
            "{name} {precision:?}: {agreement} of the pixels agree"
        );
    }
}

#[test]
fn frozen_classes_stay_bit_for_bit() {
    let made = made(3);
    let mut recipe = recipe(4);
    recipe.network.pretrained = true;
    recipe.network.frozen_classes = true;
    recipe.train.loss.remove(0);
    recipe.check().unwrap();
    let graph = recipe.graph();
    let mut run = Run::new(&recipe, graph.clone(), Weights::random(&graph, 3, Device::Cpu));
    let before = run.weights.deep_copy();
    let order: Vec<u32> = (0..made.pictures.len() as u32).collect();
    let loss = data::loss(&made.pictures, &order, &recipe, Device::Cpu);
    for step in 0..3 {
        let batch = data::batch(&made.pictures, &order, &data::Donors::default(), &recipe, step);
        assert!(run.train_step(&recipe, &loss, &batch, Device::Cpu).is_finite());
    }
    for (name, tensor) in run.weights.iter() {
        let changed = tensor != before.get(name);
        assert_eq!(changed, name.starts_with("instances."), "{name}");
    }
}

#[test]
fn recipes_that_can_t_tell_objects_apart_are_refused_by_key() {
    let refused = |change: &dyn Fn(&mut Recipe)| {
        let mut recipe = recipe(1);
        change(&mut recipe);
        recipe.check().unwrap_err().to_string()
    };
    let message = refused(&|recipe| recipe.train.loss.truncate(1));
    assert!(message.contains("center-offsets"), "{message}");
    let message = refused(&|recipe| {
        recipe.train.loss.remove(0);
    });
    assert!(message.contains("network.frozen_classes"), "{message}");
    let message = refused(&|recipe| recipe.network.frozen_classes = true);
    assert!(message.contains("network.pretrained"), "{message}");
    let message = refused(&|recipe| recipe.network.arch = "deeplabv3-light".to_owned());
    assert!(message.contains("tells no objects apart"), "{message}");
    let message = refused(&|recipe| recipe.validate.score = 1.5);
    assert!(message.contains("validate.score is 1.5"), "{message}");

    let refused = |change: &dyn Fn(&mut Recipe)| {
        let mut recipe = solo(1);
        change(&mut recipe);
        recipe.check().unwrap_err().to_string()
    };
    let message = refused(&|recipe| recipe.train.loss.truncate(1));
    assert!(message.contains("mask-dice"), "{message}");
    let message = refused(&|recipe| recipe.train.loss.extend(segd_train::loss::cross_entropy()));
    assert!(
        message.contains("neither logits of classes nor centres"),
        "{message}"
    );
    let message = refused(&|recipe| recipe.train.machine_masks = false);
    assert!(message.contains("box-projection"), "{message}");
    let message = refused(&|recipe| recipe.train.loss = terms(r#"[{ kind = "cell-focal", alpha = 1.0 }]"#));
    assert!(message.contains("alpha is 1"), "{message}");
}
