//! Every backend, over the same cases: right answers for every layout and type, and one clear error for every
//! file that is not what its contract says.

#![cfg(feature = "tract")]

#[path = "common/onnx.rs"]
mod onnx;

use std::sync::Arc;

use onnx::{Tiny, write_model};
use vision::answer::{Answer, Reader};
use vision::error::Severity;
use vision::infer::tract::TractBackend;
use vision::infer::{Backend, InputSize, Outputs, Segmenter, TensorData};
use vision::model::Model;
use vision::model::contract::{InputType, Layout, OutputType, Precision, Role};
use vision::model::load::sha256_hex;
use vision::tensor::Values;

const SIZE: InputSize = InputSize { width: 12, height: 8 };

/// tract, and ONNX Runtime where its library is. `SEGD_REQUIRE_ORT=1` makes a missing library a failure.
fn backends() -> Vec<Arc<dyn Backend>> {
    let mut all: Vec<Arc<dyn Backend>> = vec![Arc::new(TractBackend::default())];
    #[cfg(feature = "ort")]
    match vision::infer::ort::OrtBackend::load(Default::default()) {
        Ok(backend) => all.push(Arc::new(backend)),
        Err(why) if std::env::var_os("SEGD_REQUIRE_ORT").is_some_and(|v| v == "1") => {
            panic!("SEGD_REQUIRE_ORT=1, but {why}")
        }
        Err(why) => eprintln!("NOT TESTED: the backend ort, because {why}"),
    }
    all
}

/// Runs `test` over each backend with the model in a folder of its own.
fn each(tiny: &Tiny, test: impl Fn(&dyn Backend, &Model)) {
    for backend in backends() {
        let folder = tempfile::tempdir().unwrap();
        let model = tiny.write(folder.path());
        test(backend.as_ref(), &model);
    }
}

/// The error that preparing the model gives, which must be one line that names the file.
fn error_of(backend: &dyn Backend, model: &Model, size: InputSize) -> segd::Error {
    let Err(error) = backend.prepare(model, size) else {
        panic!("{}: prepared a model that is not right", backend.name());
    };
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    error
}

/// Runs the network, and reads its answer as an engine does.
fn ask(
    segmenter: &mut dyn Segmenter,
    model: &Model,
    input: &TensorData,
    answer: &mut Answer,
) -> segd::Result<()> {
    let mut outputs = Outputs::default();
    segmenter.run(input, &mut outputs)?;
    Reader::new(&model.contract, "net.onnx").read(&mut outputs, answer)
}

fn check_answer(tiny: &Tiny, size: InputSize, seen: &[[f32; 3]], output: &Answer, backend: &str) {
    let (height, width) = (size.height / 2, size.width / 2);
    let pixel = |y: usize, x: usize| seen[2 * y * size.width + 2 * x];
    match output {
        Answer::Logits {
            classes,
            height: h,
            width: w,
            values,
        } => {
            assert_eq!((*classes, *h, *w), (tiny.classes, height, width), "{backend}");
            for (i, &value) in values.iter().enumerate() {
                let (class, y, x) = (i / (height * width), i / width % height, i % width);
                let expected = tiny.score(class, pixel(y, x));
                let close = (value - expected).abs() <= 1e-5 * expected.abs().max(1.0);
                assert!(
                    close,
                    "{backend}: class {class} at {x},{y} is {value}, expected {expected}"
                );
            }
        }
        Answer::Labels {
            height: h,
            width: w,
            labels,
        } => {
            assert_eq!((*h, *w), (height, width), "{backend}");
            let expected: Vec<u8> = (0..height * width)
                .map(|i| tiny.winner(pixel(i / width, i % width)))
                .collect();
            assert_eq!(*labels, expected, "{backend}");
        }
        Answer::Objects(_) => panic!("{backend}: objects"),
    }
}

#[test]
fn answers_are_right_for_every_layout_and_type() {
    let mut cases = Vec::new();
    for layout in [Layout::Nchw, Layout::Nhwc] {
        for dtype in [InputType::F32, InputType::U8] {
            let base = Tiny {
                layout,
                dtype,
                ..Tiny::default()
            };
            cases.push(base.clone());
            for label_type in [OutputType::I64, OutputType::I32, OutputType::U8, OutputType::F32] {
                cases.push(Tiny {
                    kind: Role::Labels,
                    label_type,
                    ..base.clone()
                });
            }
        }
    }
    cases.push(Tiny {
        kind: Role::Labels,
        keep_dims: true,
        ..Tiny::default()
    });
    cases.push(Tiny {
        second_output: true,
        ..Tiny::default()
    });
    cases.push(Tiny {
        fixed: Some(SIZE),
        ..Tiny::default()
    });
    for tiny in cases {
        each(&tiny, |backend, model| {
            let mut segmenter = backend
                .prepare(model, SIZE)
                .unwrap_or_else(|e| panic!("{}: {tiny:?}: {e}", backend.name()));
            assert_eq!(segmenter.input_size(), SIZE);
            let ran = segmenter.runs_on();
            assert_eq!(
                (ran.backend, ran.provider.as_str()),
                (backend.name(), "CPU"),
                "{ran:?}"
            );
            assert_eq!(ran.precision, "fp32");
            let mut output = Answer::empty();
            for seed in 0..3 {
                let (input, seen) = tiny.picture(SIZE, seed);
                ask(segmenter.as_mut(), model, &input, &mut output).unwrap();
                check_answer(&tiny, SIZE, &seen, &output, backend.name());
            }
        });
    }
}

#[test]
fn one_file_serves_every_size() {
    let tiny = Tiny::default();
    each(&tiny, |backend, model| {
        for (width, height) in [(2, 2), (16, 2), (2, 16), (34, 18)] {
            let size = InputSize { width, height };
            let mut segmenter = backend.prepare(model, size).unwrap();
            let (input, seen) = tiny.picture(size, 7);
            let mut output = Answer::empty();
            ask(segmenter.as_mut(), model, &input, &mut output).unwrap();
            check_answer(&tiny, size, &seen, &output, backend.name());
        }
    });
}

#[test]
fn the_output_buffer_is_reused() {
    let tiny = Tiny::default();
    each(&tiny, |backend, model| {
        let mut segmenter = backend.prepare(model, SIZE).unwrap();
        let mut outputs = Outputs::default();
        let mut address = None;
        for seed in 0..4 {
            segmenter.run(&tiny.picture(SIZE, seed).0, &mut outputs).unwrap();
            let Values::F32(values) = &outputs.tensors()[0].values else {
                panic!("no logits")
            };
            assert_eq!(*address.get_or_insert(values.as_ptr()), values.as_ptr());
        }
    });
}

#[test]
fn an_input_of_the_wrong_size_or_type_is_refused_and_the_next_runs() {
    let tiny = Tiny::default();
    let bytes = Tiny {
        dtype: InputType::U8,
        ..Tiny::default()
    };
    each(&tiny, |backend, model| {
        let mut segmenter = backend.prepare(model, SIZE).unwrap();
        let mut output = Answer::empty();
        let small = tiny.picture(InputSize { width: 10, height: 8 }, 1).0;
        for wrong in [small, bytes.picture(SIZE, 1).0] {
            let error = ask(segmenter.as_mut(), model, &wrong, &mut output).unwrap_err();
            assert!(error.to_string().contains("12x8"), "{error}");
        }
        let (input, seen) = tiny.picture(SIZE, 1);
        ask(segmenter.as_mut(), model, &input, &mut output).unwrap();
        check_answer(&tiny, SIZE, &seen, &output, backend.name());
    });
}

#[test]
fn a_file_that_was_changed_is_refused_with_both_hashes() {
    let tiny = Tiny::default();
    each(&tiny, |backend, model| {
        let mut bytes = tiny.onnx();
        let right = sha256_hex(&bytes);
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(model.locate("net.onnx"), &bytes).unwrap();
        let error = error_of(backend, model, SIZE);
        assert_eq!(error.severity(), Severity::Fatal);
        let text = error.to_string();
        for part in [
            "net.onnx",
            &right[..16],
            &sha256_hex(&bytes)[..16],
            "install the model again",
        ] {
            assert!(text.contains(part), "{text} lacks {part}");
        }
    });
}

#[test]
fn a_missing_file_is_refused_by_name() {
    each(&Tiny::default(), |backend, model| {
        std::fs::remove_file(model.locate("net.onnx")).unwrap();
        let error = error_of(backend, model, SIZE);
        assert_eq!(error.severity(), Severity::Fatal);
        assert!(error.to_string().contains("net.onnx"), "{error}");
    });
}

#[test]
fn files_that_are_not_what_the_contract_says_are_refused() {
    let logits = Tiny::default();
    let labels = Tiny {
        kind: Role::Labels,
        ..Tiny::default()
    };
    let with = |change: fn(&mut Tiny)| {
        let mut tiny = Tiny::default();
        change(&mut tiny);
        tiny
    };
    // What the file is, what the contract says, and what the error must say.
    let cases: Vec<(Tiny, Tiny, &[&str])> = vec![
        (with(|t| t.classes = 5), logits.clone(), &["5 classes", "has 4"]),
        (labels.clone(), logits.clone(), &["I64", "F32"]),
        (logits.clone(), labels.clone(), &["F32", "I64"]),
        (
            with(|t| t.layout = Layout::Nhwc),
            logits.clone(),
            &["[1, ?, ?, 3]", "[1, 3, 8, 12]"],
        ),
        (
            with(|t| t.dtype = InputType::U8),
            logits.clone(),
            &["input.dtype"],
        ),
        (
            with(|t| {
                t.fixed = Some(InputSize {
                    width: 12,
                    height: 10,
                });
            }),
            logits.clone(),
            &["[1, 3, 10, 12]", "[1, 3, 8, 12]"],
        ),
        (
            with(|t| t.second_output = true),
            logits.clone(),
            &["2 outputs", "output.name"],
        ),
        (
            logits.clone(),
            with(|t| t.second_output = true),
            // The second output's contract names "answer", which this file has too: it is right.
            &[],
        ),
        (with(|t| t.opset = 99), logits.clone(), &["99"]),
        (
            with(|t| t.unknown_operator = true),
            logits.clone(),
            &["Frobnicate"],
        ),
    ];
    for backend in backends() {
        for (file, contract, parts) in &cases {
            let folder = tempfile::tempdir().unwrap();
            let bytes = file.onnx();
            let model = write_model(folder.path(), &contract.contract(sha256_hex(&bytes)), &bytes);
            if parts.is_empty() {
                backend.prepare(&model, SIZE).unwrap();
                continue;
            }
            let error = error_of(backend.as_ref(), &model, SIZE);
            assert_eq!(error.severity(), Severity::Fatal, "{error}");
            let text = error.to_string();
            for part in parts.iter().copied().chain(["net.onnx"]) {
                assert!(text.contains(part), "{}: {text} lacks {part}", backend.name());
            }
        }
    }
}

#[test]
fn an_output_name_that_does_not_exist_is_refused() {
    each(&Tiny::default(), |backend, model| {
        let mut model = model.clone();
        model.contract.output.tensors[0].name = Some("scores".into());
        let text = error_of(backend, &model, SIZE).to_string();
        assert!(text.contains("\"scores\"") && text.contains("answer"), "{text}");
    });
}

#[test]
fn damaged_files_are_errors_never_panics() {
    let bytes = Tiny::default().onnx();
    let mut damaged: Vec<Vec<u8>> = Vec::new();
    damaged.extend((0..bytes.len()).step_by(23).map(|n| bytes[..n].to_vec()));
    damaged.push(b"not an ONNX file".to_vec());
    damaged.push(vec![0xff; 4096]);
    for backend in backends() {
        for file in &damaged {
            let folder = tempfile::tempdir().unwrap();
            let model = write_model(folder.path(), &Tiny::default().contract(sha256_hex(file)), file);
            let error = error_of(backend.as_ref(), &model, SIZE);
            assert_eq!(error.severity(), Severity::Fatal, "{error}");
            assert!(error.to_string().contains("net.onnx"), "{error}");
        }
    }
}

/// A flipped bit may leave a network that runs, or give an error; it never panics.
#[test]
fn flipped_bits_never_panic() {
    let labels = Tiny {
        layout: Layout::Nhwc,
        dtype: InputType::U8,
        kind: Role::Labels,
        label_type: OutputType::U8,
        ..Tiny::default()
    };
    let backend = TractBackend::default();
    for tiny in [Tiny::default(), labels] {
        let bytes = tiny.onnx();
        for bit in (0..bytes.len() * 8).step_by(7) {
            let mut file = bytes.clone();
            file[bit / 8] ^= 1 << (bit % 8);
            let folder = tempfile::tempdir().unwrap();
            let model = write_model(folder.path(), &tiny.contract(sha256_hex(&file)), &file);
            if let Err(error) = backend.prepare(&model, SIZE) {
                assert!(error.to_string().contains("net.onnx"), "bit {bit}: {error}");
            }
        }
    }
}

#[test]
fn a_model_without_a_file_for_the_backend_says_what_it_has() {
    for backend in backends() {
        let other = if backend.name() == "tract" { "ort" } else { "tract" };
        let tiny = Tiny {
            backends: vec![other],
            ..Tiny::default()
        };
        let folder = tempfile::tempdir().unwrap();
        let model = tiny.write(folder.path());
        let error = error_of(backend.as_ref(), &model, SIZE);
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        assert!(text.contains(&format!("net.onnx (fp32: {other})")), "{text}");
        assert!(
            text.contains(&format!("no file for {}", backend.name())),
            "{text}"
        );
    }
}

#[test]
fn a_precision_that_no_file_has_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let model = Tiny::default().write(folder.path());
    let backend = TractBackend::new(Some(Precision::Int8));
    let error = error_of(&backend, &model, SIZE);
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("no int8 file for tract"), "{error}");
}

#[cfg(feature = "ort")]
mod ort {
    use super::*;
    use vision::infer::Device;
    use vision::infer::ort::{OrtBackend, OrtOptions};

    #[test]
    fn an_accelerator_is_had_or_refused_never_replaced() {
        for device in [Device::Cuda, Device::TensorRt] {
            let options = OrtOptions {
                device,
                ..OrtOptions::default()
            };
            let Ok(backend) = OrtBackend::load(options) else {
                // That the library is missing is told by `backends`.
                return;
            };
            let folder = tempfile::tempdir().unwrap();
            let model = Tiny::default().write(folder.path());
            match backend.prepare(&model, SIZE) {
                Ok(segmenter) => assert!(segmenter.runs_on().provider.starts_with(device.provider())),
                Err(error) => {
                    let text = error.to_string();
                    assert_eq!(error.severity(), Severity::Fatal, "{text}");
                    assert!(
                        text.contains(device.provider()) && text.contains("--device cpu"),
                        "{text}"
                    );
                }
            }
        }
    }
}

#[test]
fn more_threads_give_the_same_answer() {
    let tiny = Tiny::default();
    each(&tiny, |backend, model| {
        let (input, seen) = tiny.picture(SIZE, 5);
        assert_eq!(backend.prepare(model, SIZE).unwrap().threads(), 1);
        for threads in [2, 3] {
            let threaded = backend.with_threads(threads).unwrap().unwrap();
            let mut segmenter = threaded.prepare(model, SIZE).unwrap();
            assert_eq!(segmenter.threads(), threads, "{}", backend.name());
            let mut output = Answer::empty();
            ask(segmenter.as_mut(), model, &input, &mut output).unwrap();
            check_answer(&tiny, SIZE, &seen, &output, backend.name());
        }
    });
}

/// Networks that are large enough to be shared out: their sums are exact in 8 bits, and of one order in 32.
#[test]
fn tract_gives_the_same_logits_with_any_number_of_threads() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    for (name, precision) in [
        ("voc21-fast", Precision::Int8),
        ("voc21-fast", Precision::Fp32),
        ("camvid-segnet", Precision::Int8),
    ] {
        let model = Model::open(&folder.join(name)).unwrap();
        let size = InputSize {
            width: 224,
            height: 160,
        };
        let mut input = TensorData::zeros(model.contract.input.dtype, size);
        match &mut input {
            TensorData::F32(values) => (0..)
                .zip(values)
                .for_each(|(n, v)| *v = (n % 251) as f32 / 125.5 - 1.0),
            TensorData::U8(values) => (0..).zip(values).for_each(|(n, v)| *v = (n % 251) as u8),
        }
        let [alone, shared] = [1, 3].map(|threads| {
            let backend = TractBackend::new(Some(precision)).threads(threads);
            let mut output = Answer::empty();
            let mut segmenter = backend.prepare(&model, size).unwrap();
            ask(segmenter.as_mut(), &model, &input, &mut output).unwrap();
            output
        });
        assert!(matches!(&alone, Answer::Logits { values, .. } if values.iter().any(|v| *v != values[0])));
        assert!(alone == shared, "{name} {precision:?}");
    }
}

/// The models that come with segd: both backends label the same picture alike with the fp32 file, and with the int8 file.
#[cfg(feature = "ort")]
#[test]
fn the_shipped_models_give_the_same_labels_on_both_backends() {
    use segd::metrics::Metrics;
    use vision::frame::{FrameFormat, ImageRef, LabelMap, PixelFormat};
    use vision::infer::ort::{OrtBackend, OrtOptions};
    use vision::segment::Engine;

    if backends().len() < 2 {
        return;
    }
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let mut seen = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let model = Arc::new(Model::open(&entry.unwrap().path()).unwrap());
        let name = model.contract.name.clone();
        let image = model.contract.selftest.as_ref().unwrap().image.clone();
        let picture = vision::picture::decode_rgb(&model.file(&image).unwrap(), &image).unwrap();
        let size = (picture.width() as usize, picture.height() as usize);
        let format = FrameFormat::new(PixelFormat::Rgb24, size.0, size.1);
        for precision in [Precision::Fp32, Precision::Int8] {
            let ort = OrtBackend::load(OrtOptions {
                precision: Some(precision),
                ..OrtOptions::default()
            });
            let tract = TractBackend::new(Some(precision));
            let both: [Arc<dyn Backend>; 2] = [Arc::new(tract), Arc::new(ort.unwrap())];
            let [a, b] = both.map(|backend| {
                let mut engine = Engine::new(model.clone(), backend, None, Metrics::shared());
                let mut mask = LabelMap::zeros(0, 0);
                let image = ImageRef::packed(format, picture.as_raw()).unwrap();
                engine.segment(&image, &mut mask).unwrap();
                mask.labels
            });
            let equal = a.iter().zip(&b).filter(|(a, b)| a == b).count();
            let share = equal as f64 / a.len() as f64;
            println!(
                "{name} {}: {:.3} % of labels are equal",
                precision.as_str(),
                100.0 * share
            );
            assert!(share >= 0.99, "{name} {}: {share}", precision.as_str());
            // A picture of one class would prove little.
            let classes: std::collections::HashSet<u8> = a.into_iter().collect();
            assert!(classes.len() >= 2, "{name}: {classes:?}");
        }
        seen.push(name);
    }
    assert!(seen.len() >= 5, "{seen:?}");
}

/// Without a GPU both accelerators are refused, with the reason and what to do; the CPU is always there.
#[cfg(feature = "ort")]
#[test]
fn a_provider_is_tried_without_a_model() {
    use vision::infer::Device;
    use vision::infer::ort::try_provider;
    if backends().len() < 2 {
        return;
    }
    try_provider(None, Device::Cpu).unwrap();
    if std::path::Path::new("/dev/nvidiactl").exists() {
        return;
    }
    for device in [Device::Cuda, Device::TensorRt] {
        let said = try_provider(None, device).unwrap_err().to_string();
        let name = device.provider();
        assert!(said.contains(&format!("built without {name}")), "{said}");
        assert!(
            said.contains("choose --device cpu") || said.contains("or --device cpu"),
            "{said}"
        );
    }
}
