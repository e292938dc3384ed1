//! `segd image`, as it is used.

#![cfg(feature = "tract")]

#[path = "common/onnx.rs"]
mod onnx;

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use assert_cmd::assert::Assert;
use image::{Rgb, RgbImage};
use onnx::Tiny;
use predicates::prelude::*;
use vision::dataset::read_index_png;

/// A folder with a model in `models/tiny`.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Tiny::default().write(&folder.path().join("models/tiny"));
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A picture whose left and right halves have two colours with different labels.
    fn halves(&self, name: &str, width: u32, height: u32) -> RgbImage {
        let colors = Tiny::default().two_colors();
        let picture = RgbImage::from_fn(width, height, |x, _| Rgb(colors[usize::from(2 * x >= width)]));
        std::fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        picture.save(self.path(name)).unwrap();
        picture
    }

    fn image(&self, args: &[&str]) -> Assert {
        Command::cargo_bin("segd")
            .unwrap()
            .current_dir(self.0.path())
            .env("SEGD_MODELS", self.path("models"))
            .env("SEGD_LOG", "error")
            .arg("image")
            .args(args)
            .args(["--model", "tiny", "--backend", "tract"])
            .assert()
    }
}

fn check_halves(path: &Path, width: usize, height: usize) {
    let tiny = Tiny::default();
    let [left, right] = tiny.two_colors().map(|c| tiny.label(c));
    let labels = read_index_png(path).unwrap();
    assert_eq!((labels.width, labels.height), (width, height));
    for y in 0..height {
        let row = &labels.data[y * width..][..width];
        // The edge is as sharp as the network's cells.
        assert!(
            row[..width * 3 / 8].iter().all(|&l| l == left),
            "row {y}: {row:?}"
        );
        assert!(
            row[width * 5 / 8..].iter().all(|&l| l == right),
            "row {y}: {row:?}"
        );
    }
}

#[test]
fn labels_are_class_indices_at_the_pictures_size() {
    let place = Place::new();
    for (width, height) in [(64, 48), (33, 17), (200, 10)] {
        place.halves("in.png", width, height);
        place
            .image(&["in.png", "-o", "out.png", "--visualize", "labels"])
            .success()
            .stderr("");
        check_halves(&place.path("out.png"), width as usize, height as usize);
    }
}

#[test]
fn the_smallest_picture() {
    let place = Place::new();
    let color = Tiny::default().two_colors()[0];
    RgbImage::from_pixel(1, 1, Rgb(color))
        .save(place.path("dot.png"))
        .unwrap();
    place
        .image(&["dot.png", "-o", "out.png", "--visualize", "labels"])
        .success();
    assert_eq!(
        read_index_png(&place.path("out.png")).unwrap().data,
        [Tiny::default().label(color)]
    );
    place.image(&["dot.png", "-o", "drawn.png"]).success();
    assert_eq!(
        image::open(place.path("drawn.png"))
            .unwrap()
            .to_rgb8()
            .dimensions(),
        (1, 1)
    );
}

#[test]
fn drawings() {
    let place = Place::new();
    let picture = place.halves("in.png", 64, 48);
    let drawn = |args: &[&str]| {
        place
            .image(&[&["in.png", "-o", "out.png"], args].concat())
            .success();
        image::open(place.path("out.png")).unwrap().to_rgb8()
    };
    // Nothing is drawn with no opacity.
    assert_eq!(drawn(&["--alpha", "0", "--legend=false"]), picture);
    assert_ne!(
        drawn(&[
            "--alpha",
            "0.5",
            "--legend=false",
            "--classes",
            "class0,class1,class2,class3"
        ]),
        picture
    );
    assert_eq!(drawn(&["--visualize", "side-by-side"]).dimensions(), (128, 48));
    // The mask has the classes' colours, or black for what is not drawn.
    let tiny = Tiny::default();
    let label = tiny.label(tiny.two_colors()[1]);
    let mask = drawn(&[
        "--visualize",
        "mask",
        "--legend=false",
        "--classes",
        &format!("class{label}"),
    ]);
    let contract = tiny.contract("0".repeat(64));
    assert_eq!(
        mask.get_pixel(60, 24).0,
        contract.classes[usize::from(label)].color
    );
    assert_eq!(mask.get_pixel(4, 24).0, [0, 0, 0]);
}

#[test]
fn many_pictures_with_a_broken_one_among_them() {
    let place = Place::new();
    place.halves("a/x.png", 32, 16);
    place.halves("b/x.png", 16, 32);
    place.halves("b/y.bmp", 40, 40);
    std::fs::write(place.path("broken.jpg"), b"\xff\xd8\xff\xe0 not a picture").unwrap();
    place
        .image(&[
            "a/x.png",
            "broken.jpg",
            "missing.png",
            "b",
            "-o",
            "out",
            "--visualize",
            "labels",
        ])
        .code(1)
        .stderr(
            predicate::str::contains("broken.jpg: not a picture")
                .and(predicate::str::contains("missing.png: can't be read"))
                .and(predicate::str::contains("2 of 5 pictures")),
        );
    check_halves(&place.path("out/x.png"), 32, 16);
    check_halves(&place.path("out/x-2.png"), 16, 32);
    check_halves(&place.path("out/y.png"), 40, 40);
    // Nothing else, and nothing half written.
    assert_eq!(std::fs::read_dir(place.path("out")).unwrap().count(), 3);
}

#[test]
fn a_picture_is_not_written_over_itself() {
    let place = Place::new();
    place.halves("in.png", 32, 16);
    let before = std::fs::read(place.path("in.png")).unwrap();
    for output in ["in.png", "."] {
        place
            .image(&["in.png", "-o", output])
            .code(2)
            .stderr(predicate::str::contains("over itself"));
    }
    assert_eq!(std::fs::read(place.path("in.png")).unwrap(), before);
}

#[test]
fn wrong_arguments_say_what_to_do() {
    let place = Place::new();
    place.halves("in.png", 32, 16);
    place.halves("other.png", 32, 16);
    std::fs::create_dir(place.path("empty")).unwrap();
    for (args, expected) in [
        (&["in.png", "-o", "out.jpg"][..], "ends in .png"),
        (&["in.png", "other.png", "-o", "out.png"], "2 pictures"),
        (&["empty", "-o", "out"], "empty holds no picture"),
        (
            &["in.png", "-o", "out.png", "--classes", "clas1"],
            "did you mean \"class1\"?",
        ),
        (&["in.png", "-o", "out.png", "--alpha", "2"], "alpha = 2"),
        (&["in.png", "-o", "out.png", "--size", "5"], "size = 5"),
    ] {
        place
            .image(args)
            .code(2)
            .stderr(predicate::str::contains(expected));
    }
}

#[test]
fn regions_are_objects_with_boxes_if_asked() {
    let place = Place::new();
    let [thing, other] = Tiny::default().two_colors();
    let tiny = Tiny::default();
    let (thing, other) = match tiny.label(thing) {
        0 => (other, thing),
        _ => (thing, other),
    };
    // Two blocks of one class, apart from each other.
    let picture = RgbImage::from_fn(128, 96, |x, y| {
        let inside = (16..48).contains(&y) && ((16..48).contains(&x) || (80..112).contains(&x));
        Rgb(if inside { thing } else { other })
    });
    picture.save(place.path("blocks.png")).unwrap();
    let found = |args: &[&str]| -> Vec<serde_json::Value> {
        let output = place.image(args).success().get_output().stdout.clone();
        serde_json::from_slice(&output).unwrap()
    };
    assert!(found(&["blocks.png", "--json"]).len() <= 2, "one for each class");
    let objects = found(&["blocks.png", "--json", "--regions"]);
    let name = format!("class{}", tiny.label(thing));
    let mut boxes: Vec<Vec<f64>> = objects
        .iter()
        .filter(|object| object["category_name"] == name.as_str())
        .map(|object| serde_json::from_value(object["bbox"].clone()).unwrap())
        .collect();
    boxes.sort_by(|a, b| a[0].total_cmp(&b[0]));
    assert_eq!(boxes.len(), 2, "{objects:?}");
    for (found, expected) in boxes
        .iter()
        .zip([[16.0, 16.0, 32.0, 32.0], [80.0, 16.0, 32.0, 32.0]])
    {
        let off = found
            .iter()
            .zip(expected)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max);
        assert!(off <= 4.0, "{found:?} is not {expected:?}");
    }
}
