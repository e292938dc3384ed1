//! `--output scenes:FILE.jsonl` through the binary.

#![cfg(feature = "tract")]

use std::path::Path;
use std::process::{Command, Output};

#[path = "common/onnx.rs"]
mod onnx;

use onnx::Tiny;
use serde_json::Value;

const FRAMES: usize = 40;

fn convert(model: &Path, output: &str, config: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("segd.toml");
    std::fs::write(&path, config).unwrap();
    Command::new(env!("CARGO_BIN_EXE_segd"))
        .arg("--config")
        .arg(&path)
        .args(["--input", &format!("test://?width=128&height=96&frames={FRAMES}")])
        .args(["--output", output, "--backend", "tract", "--lockstep", "--model"])
        .arg(model)
        .output()
        .unwrap()
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn classes(scene: &Value) -> Vec<String> {
    let segments = scene["seen"]["segments"].as_array().unwrap().iter();
    segments
        .map(|one| one["class"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_conversion_writes_a_line_for_each_picture_and_nothing_of_what_is_hidden() {
    let model = tempfile::tempdir().unwrap();
    Tiny::default().write(model.path());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scenes.jsonl");
    let output = format!("scenes:{}?masks=rle", path.display());
    let done = convert(model.path(), &output, "");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let scenes = lines(&path);
    assert_eq!(scenes.len(), FRAMES);
    let numbers: Vec<u64> = scenes
        .iter()
        .map(|scene| scene["sequence"].as_u64().unwrap())
        .collect();
    let expected: Vec<u64> = (numbers[0]..numbers[0] + FRAMES as u64).collect();
    assert_eq!(numbers, expected, "each picture once, in order");
    for scene in &scenes {
        assert_eq!((&scene["camera"], &scene["lost"]), (&"segd".into(), &0.into()));
        for segment in scene["seen"]["segments"].as_array().unwrap() {
            assert_eq!(segment["rle"]["size"], serde_json::json!([96, 128]));
            assert!(segment["area"].as_u64() > Some(0));
        }
    }
    let seen = classes(&scenes[0]);
    assert!(!seen.is_empty());

    // Lines are added; without masks if none are asked for.
    let privacy = format!("[privacy]\nfill = [{:?}]\n", seen[0]);
    let done = convert(model.path(), &format!("scenes:{}", path.display()), &privacy);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let scenes = lines(&path);
    assert_eq!(scenes.len(), 2 * FRAMES);
    for scene in &scenes[FRAMES..] {
        assert_eq!(scene["hidden_classes"], serde_json::json!([seen[0]]));
        assert!(!classes(scene).contains(&seen[0]));
        let segments = scene["seen"]["segments"].as_array().unwrap();
        assert!(segments.iter().all(|one| one.get("rle").is_none()));
    }
}

#[test]
fn a_disk_that_is_full_ends_a_conversion_and_a_missing_folder_begins_none() {
    let model = tempfile::tempdir().unwrap();
    Tiny::default().write(model.path());
    let full = convert(model.path(), "scenes:/dev/full?masks=rle", "");
    let why = String::from_utf8_lossy(&full.stderr).into_owned();
    assert_eq!(full.status.code(), Some(1), "{why}");
    assert!(why.contains("/dev/full") && why.contains("make room"), "{why}");
    let missing = convert(model.path(), "scenes:/no/such/folder/a.jsonl", "");
    let why = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert_eq!(missing.status.code(), Some(2), "{why}");
    assert!(why.contains("/no/such/folder"), "{why}");
}
