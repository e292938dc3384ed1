//! Models found by name and folder, and backends chosen only after they gave the right answer.

#![cfg(feature = "tract")]

#[path = "common/onnx.rs"]
mod onnx;

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use onnx::Tiny;
use predicates::prelude::*;
use segd::choose::{BackendName, ChoiceOptions};
use vision::model::contract::{Contract, ModelFile, Precision, SelfTest};
use vision::model::load::sha256_hex;
use vision::model::{Model, Origin, Registry};

/// A folder of models, each called as its folder.
fn models(names: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in names {
        Tiny::default().write(&folder.path().join(name));
    }
    folder
}

/// `segd` with these models only, in a folder without any.
fn segd(models: &Path, here: &Path) -> Command {
    let mut command = Command::cargo_bin("segd").unwrap();
    command
        .current_dir(here)
        .env("SEGD_MODELS", models)
        .env_remove("SEGD_MODEL")
        .env("SEGD_LOG", "warn");
    command
}

/// Arguments that segment `picture` into `out.png` with the model `tiny`.
fn segment<'a>(picture: &'a str, backend: &'a str) -> [&'a str; 8] {
    [
        "image",
        picture,
        "-o",
        "out.png",
        "--model",
        "tiny",
        "--backend",
        backend,
    ]
}

fn picture(folder: &Path, name: &str, colors: [[u8; 3]; 2]) -> PathBuf {
    let path = folder.join(name);
    image::RgbImage::from_fn(32, 16, |x, _| image::Rgb(colors[usize::from(x >= 16)]))
        .save(&path)
        .unwrap();
    path
}

#[test]
fn names_are_found_in_the_order_of_folders() {
    let (first, second) = (models(&["a", "b"]), models(&["b", "c"]));
    let registry = Registry::new([first.path().to_path_buf(), second.path().to_path_buf()]);
    let names: Vec<String> = registry.list().into_iter().map(|f| f.name).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(
        registry.find("b").unwrap().origin,
        Origin::Folder(first.path().join("b"))
    );
    assert_eq!(
        registry.find("c").unwrap().origin,
        Origin::Folder(second.path().join("c"))
    );
    let folder = second.path().join("b");
    assert_eq!(
        registry.find(folder.to_str().unwrap()).unwrap().origin,
        Origin::Folder(folder)
    );
}

#[test]
fn an_unknown_name_lists_what_there_is() {
    let folder = models(&["street", "people"]);
    let registry = Registry::new([folder.path().to_path_buf()]);
    let error = registry.find("stret").unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let text = error.to_string();
    for part in [
        "\"stret\"",
        "did you mean \"street\"?",
        "there are: people, street",
    ] {
        assert!(text.contains(part), "{text} lacks {part}");
    }
    let text = registry.find("../people").unwrap_err().to_string();
    assert!(text.contains("../people/contract.toml"), "{text}");
    assert!(
        !registry
            .find("")
            .unwrap_err()
            .to_string()
            .contains("did you mean")
    );
}

#[test]
fn the_list_shows_broken_models_too() {
    let folder = models(&["good"]);
    std::fs::create_dir(folder.path().join("broken")).unwrap();
    std::fs::write(folder.path().join("broken/contract.toml"), "format = 9").unwrap();
    let here = tempfile::tempdir().unwrap();
    let output = segd(folder.path(), here.path())
        .args(["models", "--json", "--time"])
        .assert()
        .success();
    let json: serde_json::Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    let of = |name: &str| {
        json.as_array()
            .unwrap()
            .iter()
            .find(|m| m["name"] == name)
            .unwrap()
            .clone()
    };
    assert_eq!(of("good")["contract"]["classes"].as_array().unwrap().len(), 4);
    let time = &of("good")["times"][0];
    assert_eq!(
        (&time["backend"], &time["precision"]),
        (&"tract".into(), &"fp32".into())
    );
    assert!(time["cpu_ms"].as_f64().unwrap() > 0.0, "{time}");
    assert!(of("broken")["error"].as_str().unwrap().contains("contract.toml"));
    segd(folder.path(), here.path())
        .arg("models")
        .assert()
        .success()
        .stdout(predicate::str::contains("4: class0, class1").and(predicate::str::contains("broken")));
}

#[test]
fn tract_on_an_accelerator_is_a_usage_error() {
    let folder = models(&["tiny"]);
    let options = ChoiceOptions {
        model: folder.path().join("tiny").display().to_string(),
        backend: BackendName::Tract,
        device: vision::infer::Device::Cuda,
        ..ChoiceOptions::default()
    };
    let error = options.choose().err().unwrap();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("--device cuda"), "{error}");
}

#[test]
fn a_self_test_is_written_passed_and_failed() {
    let folder = models(&["tiny"]);
    let here = tempfile::tempdir().unwrap();
    let model = folder.path().join("tiny");
    let colors = Tiny::default().two_colors();
    let street = picture(here.path(), "street.png", colors);
    segd(folder.path(), here.path())
        .args(["models", "--write-selftest"])
        .args([&street, &model])
        .assert()
        .success();
    let contract = Model::open(&model).unwrap().contract;
    let test = contract.selftest.clone().unwrap();
    let labels = vision::dataset::read_index_png(&model.join(&test.labels)).unwrap();
    assert_eq!((labels.width, labels.height), (32, 16));
    assert_eq!(labels.data[0], Tiny::default().label(colors[0]));
    assert_eq!(labels.data[31], Tiny::default().label(colors[1]));

    let options = ChoiceOptions {
        model: model.display().to_string(),
        backend: BackendName::Tract,
        ..ChoiceOptions::default()
    };
    let chosen = options.choose().unwrap();
    assert!(chosen.why.contains("100.0 %"), "{}", chosen.why);

    // Another network under the same contract gives other labels.
    let other = Tiny {
        shift: 1,
        ..Tiny::default()
    }
    .onnx();
    let mut wrong = contract;
    wrong.files[0].sha256 = sha256_hex(&other);
    std::fs::write(model.join("net.onnx"), &other).unwrap();
    std::fs::write(model.join("contract.toml"), wrong.to_toml().unwrap()).unwrap();
    let error = options.choose().err().unwrap();
    assert_eq!(error.exit_code(), 1);
    let text = error.to_string();
    for part in [
        "backend tract fails the self-test",
        "at least 90 %",
        "--no-selftest",
    ] {
        assert!(text.contains(part), "{text} lacks {part}");
    }
    // From the command line too, unless it is switched off.
    let run = |extra: &[&str]| {
        segd(folder.path(), here.path())
            .args(segment("street.png", "tract"))
            .args(extra)
            .assert()
    };
    run(&[])
        .code(1)
        .stderr(predicate::str::contains("fails the self-test"));
    run(&["--no-selftest"]).success();
}

#[test]
fn a_library_that_was_named_and_is_not_there_is_an_error() {
    let folder = models(&["tiny"]);
    let here = tempfile::tempdir().unwrap();
    picture(here.path(), "a.png", Tiny::default().two_colors());
    for backend in ["auto", "ort"] {
        segd(folder.path(), here.path())
            .args(segment("a.png", backend))
            .args(["--ort-library", "/nowhere/libonnxruntime.so"])
            .assert()
            .code(2)
            .stderr(predicate::str::contains("/nowhere/libonnxruntime.so"));
    }
}

#[test]
fn without_a_library_auto_takes_tract_and_ort_says_what_to_do() {
    let folder = models(&["tiny"]);
    let here = tempfile::tempdir().unwrap();
    picture(here.path(), "a.png", Tiny::default().two_colors());
    // A copy of the binary, away from any library beside it.
    let binary = here.path().join("segd");
    std::fs::copy(assert_cmd::cargo::cargo_bin("segd"), &binary).unwrap();
    let run = |backend: &str| {
        Command::new(&binary)
            .current_dir(here.path())
            .env("SEGD_MODELS", folder.path())
            .env("SEGD_LOG", "info")
            .env_remove("ORT_DYLIB_PATH")
            .args(segment("a.png", backend))
            .assert()
    };
    if std::path::Path::new("/usr/lib/libonnxruntime.so").exists() {
        eprintln!("NOT TESTED: this system has its own ONNX Runtime");
        return;
    }
    run("auto")
        .success()
        .stderr(predicate::str::contains("backend=\"tract\""));
    run("ort")
        .code(1)
        .stderr(predicate::str::contains("make run").and(predicate::str::contains("ORT_DYLIB_PATH")));
}

#[test]
fn nothing_in_the_working_directory_is_run_or_stands_in_for_a_model() {
    let here = tempfile::tempdir().unwrap();
    for folder in ["models/voc21", "voc21", "tiny"] {
        std::fs::create_dir_all(here.path().join(folder)).unwrap();
        std::fs::write(here.path().join(folder).join("contract.toml"), "broken").unwrap();
    }
    std::fs::create_dir(here.path().join(".ort")).unwrap();
    for name in [".ort/libonnxruntime.so", "libonnxruntime.so"] {
        std::fs::write(here.path().join(name), "no library").unwrap();
    }
    picture(here.path(), "a.png", Tiny::default().two_colors());
    let empty = models(&[]);
    let run = |arguments: &[&str]| {
        segd(empty.path(), here.path())
            .env_remove("ORT_DYLIB_PATH")
            .env("SEGD_LOG", "info")
            .args(arguments)
            .assert()
    };
    let image = ["image", "a.png", "-o", "out.png"];
    run(&[&image[..], &["--backend", "auto"]].concat())
        .success()
        // A library that is tried and can't be loaded is said.
        .stderr(predicate::str::contains(".ort").not());
    // A plain name is no folder of the working directory, and the way to name that is said.
    run(&[&image[..], &["--model", "tiny"]].concat())
        .code(2)
        .stderr(predicate::str::contains("no model called \"tiny\"").and(predicate::str::contains("./tiny")));
    run(&[&image[..], &["--model", "./tiny"]].concat())
        .code(2)
        .stderr(predicate::str::contains("./tiny/contract.toml"));
    run(&["models"])
        .success()
        .stdout(predicate::str::contains("inside the binary").and(predicate::str::contains("broken").not()));
}

/// Choices that need ONNX Runtime's library.
#[cfg(feature = "ort")]
mod ort {
    use super::*;

    fn library_is_there() -> bool {
        let loaded = vision::infer::ort::OrtBackend::load(Default::default());
        if let Err(why) = loaded {
            assert!(
                std::env::var_os("SEGD_REQUIRE_ORT").is_none_or(|v| v != "1"),
                "{why}"
            );
            eprintln!("NOT TESTED: choices with ONNX Runtime, because {why}");
            return false;
        }
        true
    }

    /// tract's file gives the right labels, ONNX Runtime's file those of another network.
    fn write_disagreeing(folder: &Path) -> Contract {
        let (right, wrong) = (
            Tiny::default().onnx(),
            Tiny {
                shift: 1,
                ..Tiny::default()
            }
            .onnx(),
        );
        let mut contract = Tiny::default().contract(sha256_hex(&right));
        contract.files[0].backends = vec!["tract".into()];
        contract.files.push(ModelFile {
            path: "wrong.onnx".into(),
            precision: Precision::Fp32,
            backends: vec!["ort".into()],
            sha256: sha256_hex(&wrong),
        });
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join("net.onnx"), right).unwrap();
        std::fs::write(folder.join("wrong.onnx"), wrong).unwrap();
        std::fs::write(folder.join("contract.toml"), contract.to_toml().unwrap()).unwrap();
        contract
    }

    fn options(model: &Path, backend: BackendName) -> ChoiceOptions {
        ChoiceOptions {
            model: model.display().to_string(),
            backend,
            ..ChoiceOptions::default()
        }
    }

    #[test]
    fn auto_takes_ort_when_it_agrees() {
        if !library_is_there() {
            return;
        }
        let folder = models(&["tiny"]);
        let model = folder.path().join("tiny");
        // Without a self-test of its own: compared with tract.
        let chosen = options(&model, BackendName::Auto).choose().unwrap();
        assert_eq!(chosen.backend.name(), "ort");
        assert!(chosen.why.contains("% of labels as expected"), "{}", chosen.why);
    }

    #[test]
    fn auto_refuses_an_ort_that_disagrees_with_tract() {
        if !library_is_there() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("tiny");
        write_disagreeing(&model);
        let chosen = options(&model, BackendName::Auto).choose().unwrap();
        assert_eq!(chosen.backend.name(), "tract");
        assert!(chosen.why.contains("fails the self-test"), "{}", chosen.why);
        let error = options(&model, BackendName::Ort).choose().err().unwrap();
        assert!(
            error.to_string().contains("backend ort fails the self-test"),
            "{error}"
        );
        let mut trusting = options(&model, BackendName::Ort);
        trusting.selftest = false;
        assert_eq!(trusting.choose().unwrap().backend.name(), "ort");
    }

    #[test]
    fn auto_refuses_an_ort_that_disagrees_with_the_stored_labels() {
        if !library_is_there() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("tiny");
        let mut contract = write_disagreeing(&model);
        let colors = Tiny::default().two_colors();
        picture(&model, "selftest.png", colors);
        let labels: Vec<u8> = (0..32 * 16)
            .map(|i| Tiny::default().label(colors[usize::from(i % 32 >= 16)]))
            .collect();
        image::GrayImage::from_raw(32, 16, labels)
            .unwrap()
            .save(model.join("labels.png"))
            .unwrap();
        contract.selftest = Some(SelfTest {
            image: "selftest.png".into(),
            labels: "labels.png".into(),
            agreement: 0.85,
        });
        std::fs::write(model.join("contract.toml"), contract.to_toml().unwrap()).unwrap();
        let chosen = options(&model, BackendName::Auto).choose().unwrap();
        assert_eq!(chosen.backend.name(), "tract");
        assert!(chosen.why.contains("self-test: "), "{}", chosen.why);
    }

    #[test]
    fn auto_takes_the_first_file_of_ort_that_gives_the_right_labels() {
        if !library_is_there() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("tiny");
        let mut contract = write_disagreeing(&model);
        contract.files[0].backends.push("ort".into());
        // The other network poses as an 8-bit file, which comes first.
        contract.files[1].precision = Precision::Int8;
        contract.files.swap(0, 1);
        std::fs::write(model.join("contract.toml"), contract.to_toml().unwrap()).unwrap();
        let chosen = options(&model, BackendName::Auto).choose().unwrap();
        assert_eq!(chosen.backend.name(), "ort");
        let size = chosen.model.contract.input.size_for(32, 16, None);
        let segmenter = chosen.backend.prepare(&chosen.model, size).unwrap();
        assert_eq!(segmenter.runs_on().precision, "fp32");
        assert!(
            chosen.why.contains("before: backend ort fails the self-test"),
            "{}",
            chosen.why
        );
    }

    #[test]
    fn a_model_without_a_file_for_ort_runs_on_tract() {
        let folder = tempfile::tempdir().unwrap();
        let tiny = Tiny {
            backends: vec!["tract"],
            ..Tiny::default()
        };
        tiny.write(folder.path());
        let chosen = options(folder.path(), BackendName::Auto).choose().unwrap();
        assert_eq!(chosen.backend.name(), "tract");
        assert!(
            chosen.why.contains("no such file for ONNX Runtime"),
            "{}",
            chosen.why
        );
    }
}
