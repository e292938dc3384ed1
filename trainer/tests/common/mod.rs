//! A made dataset in VOC's form, and a recipe for it.

#![allow(dead_code, reason = "each test file uses its part")]

use std::fs;
use std::path::Path;

use image::{Rgb, RgbImage};
use segd_train::recipe::Recipe;
use tch::Tensor;
use vision::dataset::IGNORE;
use vision::infer::{Backend, InputSize, Outputs, TensorData};
use vision::model::Model;
use vision::tensor::Values;

/// Classes of the made dataset: ground, red boxes, blue boxes.
pub const CLASSES: i64 = 3;

/// A small network and a short run.
pub fn recipe(steps: u64) -> Recipe {
    let text = format!(
        r#"
        name = "made"
        dataset = "voc"
        [about]
        description = "boxes"
        license = "none"
        dataset = "made"
        data = "made"
        recipe = "test"
        [network]
        trunk = "efficientnet-lite0"
        pretrained = true
        pyramid = 64
        decoder = 128
        rates = [1, 2, 3]
        classes = {CLASSES}
        [augment]
        crop = 64
        label_stride = 2
        longest = 96.0
        scale = [0.8, 1.2]
        aspect = 1.1
        color = 0.05
        [train]
        steps = {steps}
        warm_up = 5
        batch = 8
        trunk_rate = 1e-3
        head_rate = 2e-3
        weight_decay = 0.0
        ema = 0.9
        real_weight = 1
        bf16 = false
        seed = 7
        [validate]
        every = 1000
        longest = 96
        multiple = 32
        "#
    );
    toml::from_str(&text).expect("a recipe")
}

/// Writes `count` pictures of 96x64 with a red and a blue box each on a green ground; the left column is ignored.
pub fn write_dataset(root: &Path, count: usize) {
    for folder in ["ImageSets/Segmentation", "JPEGImages", "SegmentationClass"] {
        fs::create_dir_all(root.join(folder)).expect("a folder");
    }
    let mut names = String::new();
    for index in 0..count {
        let name = format!("{index:06}");
        names += &format!("{name}\n");
        let (left, top) = (8 + 5 * (index as u32 % 4), 4 + 7 * (index as u32 % 3));
        let label = |x: u32, y: u32| {
            let inside = |x0: u32, y0: u32| (x0..x0 + 24).contains(&x) && (y0..y0 + 28).contains(&y);
            if x == 0 {
                IGNORE
            } else if inside(left, top) {
                1
            } else if inside(left + 40, top + 10) {
                2
            } else {
                0
            }
        };
        let image = RgbImage::from_fn(96, 64, |x, y| match label(x, y) {
            1 => Rgb([220, 40, 30]),
            2 => Rgb([30, 50, 210]),
            _ => Rgb([60, 150, 70]),
        });
        image
            .save(root.join(format!("JPEGImages/{name}.jpg")))
            .expect("a picture");
        let labels: Vec<u8> = (0..64)
            .flat_map(|y| (0..96).map(move |x| (x, y)))
            .map(|(x, y)| label(x, y))
            .collect();
        let file = fs::File::create(root.join(format!("SegmentationClass/{name}.png"))).expect("a file");
        let mut encoder = png::Encoder::new(file, 96, 64);
        encoder.set_color(png::ColorType::Grayscale);
        encoder.set_depth(png::BitDepth::Eight);
        encoder
            .write_header()
            .expect("a header")
            .write_image_data(&labels)
            .expect("labels");
    }
    for split in ["train", "val"] {
        fs::write(root.join(format!("ImageSets/Segmentation/{split}.txt")), &names).expect("a list");
    }
}

/// The logits that a backend computes for `[1, C, H, W]`.
pub fn logits_of(backend: &dyn Backend, model: &Model, input: &Tensor) -> Tensor {
    let (_, _, height, width) = input.size4().unwrap();
    let size = InputSize {
        width: width as usize,
        height: height as usize,
    };
    let mut segmenter = backend.prepare(model, size).unwrap();
    let values = Vec::try_from(input.contiguous().view([-1])).unwrap();
    let mut outputs = Outputs::default();
    segmenter.run(&TensorData::F32(values), &mut outputs).unwrap();
    // As they are: a made network may give the same value to every class.
    let [logits, ..] = outputs.tensors() else {
        panic!("the networks have an output")
    };
    let Values::F32(values) = &logits.values else {
        panic!("the networks give logits")
    };
    let shape: Vec<i64> = logits.shape.iter().map(|&side| side as i64).collect();
    Tensor::from_slice(values).reshape(&shape[..])
}
