//! `segd eval` on data sets whose scores are known by hand.

#![cfg(feature = "tract")]

#[path = "common/onnx.rs"]
mod onnx;

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use image::{GrayImage, Rgb, RgbImage};
use onnx::Tiny;
use predicates::prelude::*;

/// A folder with a model in `models/tiny`.
fn place(classes: usize) -> (tempfile::TempDir, Tiny) {
    let folder = tempfile::tempdir().unwrap();
    let tiny = Tiny {
        classes,
        ..Tiny::default()
    };
    tiny.write(&folder.path().join("models/tiny"));
    (folder, tiny)
}

fn eval(here: &Path, args: &[&str]) -> Command {
    let mut command = Command::cargo_bin("segd").unwrap();
    command
        .current_dir(here)
        .env("SEGD_MODELS", here.join("models"))
        .env("SEGD_LOG", "error")
        .args([
            "eval",
            "--dataset",
            "data",
            "--model",
            "tiny",
            "--backend",
            "tract",
        ])
        .args(args);
    command
}

fn file(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join("data").join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    path
}

fn plain(path: &Path, width: u32, height: u32, color: [u8; 3]) {
    RgbImage::from_pixel(width, height, Rgb(color))
        .save(path)
        .unwrap();
}

fn json(command: &mut Command) -> serde_json::Value {
    let output = command
        .arg("--json")
        .assert()
        .success()
        .get_output()
        .stdout
        .clone();
    serde_json::from_slice(&output).unwrap()
}

fn close(value: &serde_json::Value, expected: f64) {
    let found = value.as_f64().unwrap_or(f64::NAN);
    assert!((found - expected).abs() < 1e-9, "{found} is not {expected}");
}

/// Two pictures, each of one colour. The first: 48 pixels right, 8 of the second's class, 8 void. The second: right.
fn write_two(folder: &Path, tiny: &Tiny, images: [&str; 2], labels: [&str; 2], void: u8) -> [usize; 2] {
    let colors = tiny.two_colors();
    let [a, b] = colors.map(|c| tiny.label(c));
    plain(&file(folder, images[0]), 8, 8, colors[0]);
    plain(&file(folder, images[1]), 6, 4, colors[1]);
    GrayImage::from_fn(8, 8, |_, y| {
        image::Luma([[a, a, a, a, a, a, b, void][y as usize]])
    })
    .save(file(folder, labels[0]))
    .unwrap();
    GrayImage::from_pixel(6, 4, image::Luma([b]))
        .save(file(folder, labels[1]))
        .unwrap();
    [usize::from(a), usize::from(b)]
}

fn check_two(report: &serde_json::Value, [a, b]: [usize; 2]) {
    assert_eq!(report["images"], 2);
    close(&report["classes"][a]["iou"], 48.0 / 56.0);
    close(&report["classes"][b]["iou"], 24.0 / 32.0);
    close(&report["mean_iou"], (48.0 / 56.0 + 24.0 / 32.0) / 2.0);
    close(&report["pixel_accuracy"], 72.0 / 80.0);
    close(&report["mean_class_accuracy"], (1.0 + 24.0 / 32.0) / 2.0);
    close(
        &report["frequency_weighted_iou"],
        (48.0 * 48.0 / 56.0 + 32.0 * 24.0 / 32.0) / 80.0,
    );
    close(&report["mean_dice"], (96.0 / 104.0 + 48.0 / 56.0) / 2.0);
    // One row of the second class is not found, and the first class has it.
    close(&report["over_segmentation"], 8.0 / 80.0);
    close(&report["under_segmentation"], 48.0 * (8.0 / 56.0) / 72.0);
    close(&report["mean_boundary_f"], 0.0);
    assert_eq!(report["backend"], "tract");
    assert_eq!(report["precision"], "fp32");
    assert_eq!(report["sha256"].as_str().unwrap().len(), 64);
    assert!(report["protocol"].as_str().unwrap().contains("full resolution"));
}

#[test]
fn voc() {
    let (folder, tiny) = place(21);
    let root = folder.path();
    std::fs::write(file(root, "ImageSets/Segmentation/val.txt"), "one\ntwo\n").unwrap();
    // VOC's pictures are JPEG; one colour survives that within a level or two.
    let classes = write_two(
        root,
        &tiny,
        ["JPEGImages/one.jpg", "JPEGImages/two.jpg"],
        ["SegmentationClass/one.png", "SegmentationClass/two.png"],
        255,
    );
    let report = json(&mut eval(root, &["--format", "voc"]));
    check_two(&report, classes);
    assert_eq!(report["split"], "val");
    eval(root, &["--format", "voc"]).assert().success().stdout(
        predicate::str::contains("mean IoU               80.36 %").and(predicate::str::contains("protocol")),
    );
    let one = json(&mut eval(root, &["--format", "voc", "--limit", "1"]));
    assert_eq!(one["images"], 1);
    close(&one["pixel_accuracy"], 48.0 / 56.0);

    // A quarter of the draws holds the first picture alone, another the second alone.
    close(&report["mean_iou_interval"][0], 48.0 / 56.0 / 2.0);
    close(&report["mean_iou_interval"][1], 1.0);
    assert_eq!(report["worst"], serde_json::json!([]));
    let arguments = ["--format", "voc", "--worst", "1", "--draw", "sheets/worst"];
    let worst = json(&mut eval(root, &arguments));
    assert_eq!(worst["worst"][0]["name"], "one");
    close(
        &worst["worst"][0]["cost"],
        1.0 - (48.0 / 56.0 + 24.0 / 32.0) / 2.0,
    );
    let sheet = image::open(root.join("sheets/worst/001-one.png"))
        .unwrap()
        .to_rgb8();
    assert_eq!(sheet.dimensions(), (4 * 8 + 3 * 4, 8));
    let red = sheet.pixels().filter(|p| p.0[0] > 200 && p.0[1] < 50).count();
    assert!(red >= 8, "one row of eight pixels is wrong: {red}");
    assert_eq!(std::fs::read_dir(root.join("sheets/worst")).unwrap().count(), 1);
}

#[test]
fn camvid() {
    let (folder, tiny) = place(11);
    let classes = write_two(
        folder.path(),
        &tiny,
        ["test/one.png", "test/two.png"],
        ["testannot/one.png", "testannot/two.png"],
        11,
    );
    check_two(
        &json(&mut eval(
            folder.path(),
            &["--format", "camvid", "--split", "test"],
        )),
        classes,
    );
}

#[test]
fn masks_score_one_class_against_all_others() {
    let (folder, tiny) = place(4);
    let root = folder.path();
    let [fore, back] = tiny.two_colors();
    plain(&file(root, "Training_Images/a.png"), 8, 8, fore);
    plain(&file(root, "Training_Images/b.png"), 8, 8, back);
    GrayImage::from_fn(8, 8, |_, y| image::Luma([if y < 6 { 255 } else { 0 }]))
        .save(file(root, "Ground_Truth/a.png"))
        .unwrap();
    GrayImage::from_pixel(8, 8, image::Luma([0]))
        .save(file(root, "Ground_Truth/b.png"))
        .unwrap();
    let name = format!("class{}", tiny.label(fore));
    let report = json(&mut eval(root, &["--format", "masks", "--foreground", &name]));
    close(&report["classes"][1]["iou"], 48.0 / 64.0);
    close(&report["classes"][0]["iou"], 64.0 / 80.0);
    assert_eq!(report["classes"][1]["name"], name.as_str());
    eval(root, &["--format", "masks"])
        .assert()
        .code(2)
        .stderr(predicate::str::contains("--foreground \"person\""));
}

#[test]
fn a_model_of_other_classes_is_refused() {
    let (folder, _) = place(4);
    eval(folder.path(), &["--format", "voc"])
        .assert()
        .code(2)
        .stderr(predicate::str::contains("4 classes, voc has 21"));
}

#[test]
fn a_picture_that_is_missing_is_named() {
    let (folder, tiny) = place(11);
    let colors = tiny.two_colors();
    plain(&file(folder.path(), "val/one.png"), 8, 8, colors[0]);
    std::fs::write(file(folder.path(), "valannot/one.png"), "not a PNG").unwrap();
    eval(folder.path(), &["--format", "camvid"])
        .assert()
        .code(1)
        .stderr(predicate::str::contains("one.png"));
}
