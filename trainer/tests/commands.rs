//! The commands one after the other, as the README has them, on a made plain folder.

use std::fs;
use std::path::Path;

use anyhow::Result;
use clap::{Args, Parser};
use image::{GrayImage, Luma, Rgb, RgbImage};
use segd_train::command::{eval, export, labels, predict, quantize, report, train};
use vision::dataset::read_index_png;
use vision::model::Model;

/// Runs a command's arguments, words apart by blanks, after `front`.
fn run<A: Args>(run: impl Fn(&A) -> Result<()>, words: &str, rest: &[&Path]) -> Result<()> {
    #[derive(Parser)]
    struct Program<A: Args> {
        #[command(flatten)]
        arguments: A,
    }
    let words = std::iter::once("segd-train").chain(words.split_whitespace());
    let words = words
        .map(Into::into)
        .chain(rest.iter().map(|path| path.as_os_str().to_owned()));
    run(&Program::<A>::try_parse_from(words)?.arguments)
}

/// Pictures of 96x64 whose right part is blue, with labels 0 and 7.
fn write_data(root: &Path) {
    for folder in ["images", "labels"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    let classes = "[[classes]]\nname = 'ground'\ncolor = [10, 200, 30]\n[[classes]]\nname = 'water'\ncolor = [0, 0, 250]\nvalue = 7\n";
    fs::write(root.join("classes.toml"), classes).unwrap();
    for index in 0..8 {
        let is_water = |x: u32| x > 30 + 4 * index;
        let color = |x, _| {
            if is_water(x) {
                Rgb([20, 40, 210])
            } else {
                Rgb([90, 160, 70])
            }
        };
        let label = |x, _| Luma([if is_water(x) { 7 } else { 0 }]);
        RgbImage::from_fn(96, 64, color)
            .save(root.join(format!("images/{index}.png")))
            .unwrap();
        GrayImage::from_fn(96, 64, label)
            .save(root.join(format!("labels/{index}.png")))
            .unwrap();
    }
}

#[test]
fn from_a_folder_of_pictures_to_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (dir.path().join("data"), dir.path().join("run"));
    write_data(&data);
    let dataset = format!("folder:{}", data.display());
    let sheet = dir.path().join("sheets/labels.png");
    run(
        labels::run,
        &format!("{dataset} --split all --count 4 --out"),
        &[&sheet],
    )
    .unwrap();
    // Four of eight pictures of 96x64, three in a row.
    assert_eq!(
        image::open(&sheet).unwrap().to_rgb8().dimensions(),
        (6 * 240, 2 * 64)
    );
    let words = format!(
        "--arch deeplabv3-light-mobilenetv2-0.5 --dataset {dataset} --size 96x64 --steps 6 --batch 2 --device cpu --threads 1 --out"
    );
    run(train::run, &words, &[&out]).unwrap();
    for file in [
        "recipe.toml",
        "run.toml",
        "last.safetensors",
        "best.safetensors",
        "log.csv",
    ] {
        assert!(out.join(file).is_file(), "{file}");
    }
    let recipe = fs::read_to_string(out.join("recipe.toml")).unwrap();
    assert!(
        recipe.contains("name = \"water\"") && recipe.contains("steps = 6"),
        "{recipe}"
    );
    // A run is not overwritten by accident.
    let message = run(train::run, &words, &[&out]).unwrap_err().to_string();
    assert!(message.contains("--resume"), "{message}");

    run(report::run, "--threads 1 --pictures 2 --split all", &[&out]).unwrap();
    let html = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(html.contains("water") && html.contains("data:image/jpeg") && html.contains("<svg"));

    let drawn = dir.path().join("drawn");
    run(eval::run, "--split val --draw", &[&drawn, &out]).unwrap();
    assert_eq!(fs::read_dir(&drawn).unwrap().count(), 1);

    let masks = dir.path().join("masks");
    let words = format!(
        "{} --threads 1 --images {} -o",
        out.display(),
        data.join("images").display()
    );
    run(predict::run, &words, &[&masks]).unwrap();
    let labels = read_index_png(&masks.join("3.png")).unwrap();
    assert_eq!((labels.width, labels.height), (96, 64));
    assert!(labels.data.iter().all(|&label| label < 2));
    assert!(masks.join("3-overlay.png").is_file());

    if segd_train::export::score::backend("ort", vision::model::contract::Precision::Int8).is_err() {
        assert!(
            std::env::var_os("SEGD_REQUIRE_ORT").is_none(),
            "ONNX Runtime's library is not found"
        );
        return;
    }
    // So few steps leave a network that rounding may change much: whatever is lost is allowed.
    let model = dir.path().join("model");
    let selftest = data.join("images/0.png");
    let words = format!(
        "{} --count 4 --method mse --fine-tune 2 --limit 100 --selftest {} --out",
        out.display(),
        selftest.display()
    );
    run(quantize::run, &words, &[&model]).unwrap();
    let contract = Model::open(&model).unwrap().contract;
    let files: Vec<&str> = contract.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(files, ["int8.onnx", "fp32.onnx"]);
    assert_eq!(contract.classes[1].name, "water");
    let metrics: Vec<&str> = contract
        .scores
        .iter()
        .map(|score| score.metric.as_str())
        .collect();
    assert_eq!(
        metrics,
        ["mean IoU", "Dice of water", "mean IoU", "Dice of water"],
        "of int8, then of fp32"
    );
    let receipt = fs::read_to_string(model.join("receipt.toml")).unwrap();
    for key in [
        "good = true",
        "agreement",
        "iou_int8",
        "cpu_ms",
        "fine_tune = 2",
        "bias_corrected = true",
    ] {
        assert!(receipt.contains(key), "{key}: {receipt}");
    }
    let receipt: toml::Table = receipt.parse().unwrap();
    let speed = receipt["speed"].as_array().unwrap().iter();
    let timed: Vec<_> = speed
        .map(|of| (of["file"].as_str(), of["backend"].as_str()))
        .collect();
    for file in ["fp32.onnx", "int8.onnx"] {
        for backend in ["ort", "tract"] {
            assert!(
                timed.contains(&(Some(file), Some(backend))),
                "{file} on {backend}: {timed:?}"
            );
        }
    }

    // A loss that no file can meet: refused, and the folder stays usable in f32.
    let words = format!("{} --count 4 --method mse --limit -101 --out", out.display());
    let refused = dir.path().join("refused");
    let message = run(quantize::run, &words, &[&refused]).unwrap_err().to_string();
    assert!(
        message.contains("points of mean IoU") && message.contains("--fine-tune"),
        "{message}"
    );
    let contract = Model::open(&refused).unwrap().contract;
    assert_eq!(contract.files.len(), 1);
    assert_eq!(contract.files[0].path, "fp32.onnx");

    let words = format!("{} --calibrate 4 --out", out.display());
    let exported = dir.path().join("exported");
    run(export::run, &words, &[&exported]).unwrap();
    // A picture of the data tests backends, where none is named.
    let test = Model::open(&exported).unwrap().contract.selftest.unwrap();
    let picture = fs::read(exported.join(test.image)).unwrap();
    let pictures = fs::read_dir(data.join("images")).unwrap();
    assert!(
        pictures
            .into_iter()
            .any(|entry| fs::read(entry.unwrap().path()).unwrap() == picture)
    );
    assert!(test.agreement <= 0.95, "{}", test.agreement);
}
