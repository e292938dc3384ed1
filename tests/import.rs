//! `segd import`, as it is used: from an exporter's file to objects in a picture.

#![cfg(feature = "tract")]

#[path = "common/objects.rs"]
mod objects;
#[path = "common/onnx.rs"]
mod onnx;

use std::path::PathBuf;

use assert_cmd::Command;
use assert_cmd::assert::Assert;
use image::{Rgb, RgbImage};
use onnx::Tiny;
use predicates::prelude::*;
use prost::Message;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use vision::dataset::read_index_png;
use vision::infer::InputSize;
use vision::model::Model;
use vision::model::contract::{OutputKind, Resize};

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn segd(&self, args: &[&str]) -> Assert {
        Command::cargo_bin("segd")
            .unwrap()
            .current_dir(self.0.path())
            .env("SEGD_LOG", "error")
            .args(args)
            .assert()
    }

    fn model(&self, folder: &str) -> Model {
        Model::open(&self.path(folder)).unwrap()
    }

    /// A dark picture with two bright squares, of the network's size.
    fn squares(&self) {
        let side = objects::SIDE as u32;
        let bright = |x: u32, y: u32| (8..24).contains(&y) && ((8..24).contains(&x) || (40..56).contains(&x));
        RgbImage::from_fn(side, side, |x, y| Rgb([if bright(x, y) { 255 } else { 0 }; 3]))
            .save(self.path("squares.png"))
            .unwrap();
    }

    /// With a network that finds a person and a car in [`squares`](Self::squares), imported as `yolo`.
    fn with_yolo() -> Self {
        let place = Self::new();
        let file = objects::yolo(&["person", "car"], &PERSON_AND_CAR);
        std::fs::write(place.path("yolo.onnx"), file).unwrap();
        place.squares();
        place
            .segd(&["import", "yolo.onnx", "--image", "squares.png"])
            .success();
        place
    }
}

/// A network with its output's shape, as exporters write it.
fn shaped(tiny: &Tiny, classes: i64, cells: i64) -> Vec<u8> {
    use tract_onnx::pb::{TensorShapeProto, type_proto};
    let side = |value| Dimension {
        denotation: String::new(),
        value: Some(dimension::Value::DimValue(value)),
    };
    let mut proto = tiny.proto();
    for output in proto.graph.iter_mut().flat_map(|graph| &mut graph.output) {
        if let Some(type_proto::Value::TensorType(tensor)) =
            output.r#type.as_mut().and_then(|t| t.value.as_mut())
        {
            tensor.shape = Some(TensorShapeProto {
                dim: [1, classes, cells, cells].map(side).to_vec(),
            });
        }
    }
    proto.encode_to_vec()
}

const PERSON_AND_CAR: [objects::Candidate; 3] = [
    ([4.0, 4.0, 28.0, 28.0], 0.9, 0),
    // The same again, less surely.
    ([5.0, 4.0, 29.0, 28.0], 0.8, 0),
    ([36.0, 4.0, 60.0, 28.0], 0.7, 1),
];

#[test]
fn a_yolo_becomes_a_model_that_finds_its_objects() {
    let place = Place::new();
    std::fs::write(
        place.path("yolo.onnx"),
        objects::yolo(&["person", "car"], &PERSON_AND_CAR),
    )
    .unwrap();
    place.squares();
    place
        .segd(&["import", "yolo.onnx", "--image", "squares.png"])
        .success()
        .stdout(
            predicate::str::contains("as YOLO gives them: 3 classes")
                .and(predicate::str::contains("runs on  tract"))
                .and(predicate::str::contains("assumed").not())
                .and(predicate::str::contains("no self-test").not())
                .and(predicate::str::contains("wrote    ./yolo/contract.toml")),
        );
    let contract = place.model("yolo").contract;
    assert_eq!(
        (contract.format, contract.output.kind),
        (2, OutputKind::Prototypes)
    );
    assert_eq!(
        (contract.input.resize, contract.input.width),
        (Resize::Letterbox, 64)
    );
    assert_eq!(contract.description, "made network");
    assert!(contract.selftest.is_some());
    let sheet = image::open(place.path("yolo/normalizations.png")).unwrap();
    assert_eq!((sheet.width(), sheet.height()), (1280, 1280));

    for backend in ["tract", "auto"] {
        place
            .segd(&[
                "image",
                "squares.png",
                "-o",
                "labels.png",
                "--visualize",
                "labels",
                "--model",
                "./yolo",
                "--backend",
                backend,
            ])
            .success();
        let labels = read_index_png(&place.path("labels.png")).unwrap();
        let at = |x: usize, y: usize| labels.data[y * labels.width + x];
        assert_eq!((at(16, 16), at(48, 16), at(32, 16), at(16, 40)), (1, 2, 0, 0));
        let count = |class: u8| labels.data.iter().filter(|&&l| l == class).count();
        // Edges lie where the brightness of two cells is half, so each square keeps its size.
        assert!(
            count(1).abs_diff(256) < 40 && count(2).abs_diff(256) < 40,
            "{} {}",
            count(1),
            count(2)
        );
    }
    // Importing again is no mistake; another network in the same folder is.
    place.segd(&["import", "yolo.onnx"]).success();
    std::fs::write(place.path("other.onnx"), objects::yolo(&["cup"], &[])).unwrap();
    place
        .segd(&["import", "other.onnx", "--out", "yolo"])
        .code(2)
        .stderr(predicate::str::contains("another model"));
}

#[test]
fn a_mask_r_cnn_of_one_picture_becomes_a_model() {
    let place = Place::new();
    let candidates: Vec<objects::Candidate> = PERSON_AND_CAR.iter().map(|&(b, s, c)| (b, s, c + 1)).collect();
    std::fs::write(place.path("rcnn.onnx"), objects::mask_rcnn(3, &candidates)).unwrap();
    std::fs::write(place.path("names.txt"), "person\ncar\n").unwrap();
    place.squares();
    place
        .segd(&[
            "import",
            "rcnn.onnx",
            "--labels",
            "names.txt",
            "--out",
            "made/rcnn",
            "--image",
            "squares.png",
        ])
        .success()
        .stdout(
            predicate::str::contains("as Mask R-CNN gives them")
                .and(predicate::str::contains("runs on  tract")),
        );
    let contract = place.model("made/rcnn").contract;
    assert_eq!(contract.output.objects.first_class, 0);
    assert!(place.path("made/rcnn/normalizations.png").is_file());
    place
        .segd(&[
            "image",
            "squares.png",
            "-o",
            "labels.png",
            "--visualize",
            "labels",
            "--model",
            "made/rcnn",
        ])
        .success();
    let labels = read_index_png(&place.path("labels.png")).unwrap();
    let at = |x: usize, y: usize| labels.data[y * labels.width + x];
    assert_eq!((at(16, 16), at(48, 16), at(16, 40)), (1, 2, 0));
}

#[test]
fn what_is_not_known_is_said_and_can_be_told() {
    let place = Place::new();
    let tiny = Tiny {
        fixed: Some(InputSize {
            width: 32,
            height: 32,
        }),
        ..Tiny::default()
    };
    std::fs::write(place.path("tiny.onnx"), shaped(&tiny, 4, 16)).unwrap();
    place.segd(&["import", "tiny.onnx"]).success().stdout(
        predicate::str::contains("assumed  the classes' names")
            .and(predicate::str::contains("--normalize"))
            .and(predicate::str::contains("look at  ./tiny/normalizations.png")),
    );
    assert_eq!(place.model("tiny").contract.input.mean, [123.675, 116.28, 103.53]);
    std::fs::write(place.path("names.txt"), "sky\nroad\ncar\ntree\n").unwrap();
    place
        .segd(&[
            "import",
            "tiny.onnx",
            "--normalize",
            "symmetric",
            "--labels",
            "names.txt",
        ])
        .success()
        .stdout(predicate::str::contains("--normalize").not());
    let contract = place.model("tiny").contract;
    assert_eq!(
        (contract.input.mean, contract.classes[3].name.as_str()),
        ([127.5; 3], "tree")
    );
}

#[test]
fn files_that_are_no_network_are_refused_and_leave_nothing() {
    let place = Place::new();
    std::fs::write(place.path("broken.onnx"), b"PK\x03\x04 not a network").unwrap();
    let unknown = Tiny {
        unknown_operator: true,
        ..Tiny::default()
    };
    std::fs::write(place.path("unknown.onnx"), shaped(&unknown, 4, 8)).unwrap();
    std::fs::write(place.path("names.txt"), "a\nb\n").unwrap();
    std::fs::write(place.path("shapeless.onnx"), Tiny::default().onnx()).unwrap();
    std::fs::write(place.path("tiny.onnx"), shaped(&Tiny::default(), 4, 8)).unwrap();
    for (args, code, said) in [
        (&["missing.onnx"][..], 2, "missing.onnx: can't be read"),
        (&["broken.onnx"], 2, "not an ONNX file"),
        (&["unknown.onnx"], 1, "Frobnicate"),
        (&["shapeless.onnx"], 2, "no shapes"),
        (&["tiny.onnx", "--labels", "names.txt"], 2, "--labels has 2 names"),
        (&["tiny.onnx", "--labels", "none.txt"], 2, "none.txt"),
    ] {
        place
            .segd(&[&["import"], args].concat())
            .code(code)
            .stderr(predicate::str::contains(said));
    }
    let left: Vec<_> = std::fs::read_dir(place.0.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 5, "{left:?}");
}

#[test]
fn objects_are_printed_as_coco_has_them() {
    let place = Place::with_yolo();
    let out = place
        .segd(&["image", "squares.png", "--json", "--model", "./yolo"])
        .success();
    let found: serde_json::Value = serde_json::from_slice(&out.get_output().stdout).unwrap();
    let names: Vec<&str> = found
        .as_array()
        .unwrap()
        .iter()
        .map(|o| o["category_name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["person", "car"]);
    for (object, (score, left)) in found.as_array().unwrap().iter().zip([(0.9, 8), (0.7, 40)]) {
        assert_eq!(
            (object["file_name"].as_str(), object["image_id"].as_str()),
            (Some("squares.png"), Some("squares"))
        );
        assert!(
            (object["score"].as_f64().unwrap() - score).abs() < 1e-6,
            "{object}"
        );
        let bbox: Vec<i64> = object["bbox"]
            .as_array()
            .unwrap()
            .iter()
            .map(|v| v.as_i64().unwrap())
            .collect();
        assert!(
            (bbox[0] - left).abs() <= 1 && (bbox[2] - 16).abs() <= 2,
            "{object}"
        );
        assert_eq!(object["segmentation"]["size"], serde_json::json!([64, 64]));
        let text = object["segmentation"]["counts"].as_str().unwrap();
        let mask = vision::rle::Rle::from_coco(64, 64, text).unwrap();
        assert_eq!(Some(mask.area()), object["area"].as_u64());
    }
    place
        .segd(&["image", "squares.png", "--model", "./yolo"])
        .code(2)
        .stderr(predicate::str::contains("--output"));
}

#[test]
fn objects_are_scored() {
    let place = Place::with_yolo();
    for folder in [
        "ImageSets/Segmentation",
        "JPEGImages",
        "SegmentationClass",
        "SegmentationObject",
    ] {
        std::fs::create_dir_all(place.path("voc").join(folder)).unwrap();
    }
    std::fs::write(place.path("voc/ImageSets/Segmentation/val.txt"), "one\n").unwrap();
    image::open(place.path("squares.png"))
        .unwrap()
        .to_rgb8()
        .save(place.path("voc/JPEGImages/one.jpg"))
        .unwrap();
    let side = objects::SIDE as u32;
    let labels = |person: u8, car: u8| {
        image::GrayImage::from_fn(side, side, |x, y| {
            let inside = (8..24).contains(&y);
            image::Luma([match x {
                8..24 if inside => person,
                40..56 if inside => car,
                _ => 0,
            }])
        })
    };
    labels(1, 2)
        .save(place.path("voc/SegmentationObject/one.png"))
        .unwrap();
    labels(15, 7)
        .save(place.path("voc/SegmentationClass/one.png"))
        .unwrap();
    let eval =
        |args: &[&str]| place.segd(&[&["eval", "--dataset", "voc", "--model", "./yolo"], args].concat());
    let out = eval(&["--objects", "voc", "--json"]).success();
    let report: serde_json::Value = serde_json::from_slice(&out.get_output().stdout).unwrap();
    assert_eq!(
        (
            report["mask_ap50"].as_f64(),
            report["recognition_quality"].as_f64()
        ),
        (Some(1.0), Some(1.0))
    );
    assert!(report["panoptic_quality"].as_f64().unwrap() > 0.8, "{report}");
    // Both objects are 16x16, and their boxes are as good as their masks.
    for key in ["mask_ap_small", "box_ap", "box_ap_small"] {
        assert_eq!(report[key], report["mask_ap"], "{key}");
    }
    assert!(report["mask_ap_medium"].is_null() && report["box_ap_large"].is_null());
    assert_eq!(report["not_scored"].as_array().unwrap().len(), 18);
    // A car that is not there.
    labels(1, 0)
        .save(place.path("voc/SegmentationObject/one.png"))
        .unwrap();
    let out = eval(&["--objects", "voc"]).success();
    let text = String::from_utf8_lossy(&out.get_output().stdout).into_owned();
    assert!(
        text.contains("person") && text.contains("PQ") && text.contains("potted plant"),
        "{text}"
    );
    eval(&[]).code(2).stderr(predicate::str::contains("--format"));
    eval(&["--format", "voc", "--objects", "voc"]).code(2);
}

#[test]
fn segments_are_written_for_programs() {
    let place = Place::with_yolo();
    let image = |args: &[&str]| {
        place.segd(
            &[
                &["image", "squares.png", "--model", "./yolo", "--backend", "tract"],
                args,
            ]
            .concat(),
        )
    };
    image(&[
        "--instances",
        "objects.png",
        "--panoptic",
        "panoptic.png",
        "--json",
    ])
    .success();
    let instances = match image::open(place.path("objects.png")).unwrap() {
        image::DynamicImage::ImageLuma16(picture) => picture,
        other => panic!("{:?}", other.color()),
    };
    let ids = image::open(place.path("panoptic.png")).unwrap().to_rgb8();
    let text = std::fs::read_to_string(place.path("panoptic.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&report["images"][0]["file_name"], &report["images"][0]["width"]),
        (&"squares.png".into(), &64.into())
    );
    let categories = report["categories"].as_array().unwrap();
    let names: Vec<(u64, &str, u64)> = categories
        .iter()
        .map(|c| {
            (
                c["id"].as_u64().unwrap(),
                c["name"].as_str().unwrap(),
                c["isthing"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(names, [(1, "person", 1), (2, "car", 1)]);
    let annotation = &report["annotations"][0];
    assert_eq!(
        (&annotation["image_id"], &annotation["file_name"]),
        (&"squares".into(), &"panoptic.png".into())
    );
    let infos = annotation["segments_info"].as_array().unwrap();
    assert_eq!(infos.len(), 2);
    for (info, (class, at)) in infos.iter().zip([(1, [16, 16]), (2, [48, 16])]) {
        let [x, y] = at;
        let [r, g, b] = ids.get_pixel(x, y).0.map(u64::from);
        let id = info["id"].as_u64().unwrap();
        assert_eq!(r + 256 * g + 65_536 * b, id);
        assert_eq!(
            (&info["category_id"], &info["iscrowd"]),
            (&class.into(), &0.into())
        );
        let own = ids.pixels().filter(|p| p.0 == ids.get_pixel(x, y).0).count();
        assert_eq!(info["area"], own);
        assert_eq!(
            instances.get_pixel(x, y).0,
            [256 * class + class],
            "the surest object is number 1"
        );
        assert_eq!(
            instances
                .pixels()
                .filter(|p| p.0 == [256 * class + class])
                .count(),
            own
        );
    }
    assert_eq!(
        (ids.get_pixel(32, 60).0, instances.get_pixel(32, 60).0),
        ([0; 3], [0])
    );

    // Folders, with one JSON for all pictures.
    std::fs::copy(place.path("squares.png"), place.path("17.png")).unwrap();
    place
        .segd(&[
            "image",
            "squares.png",
            "17.png",
            "--model",
            "./yolo",
            "--backend",
            "tract",
            "--panoptic",
            "pan/",
        ])
        .success();
    let text = std::fs::read_to_string(place.path("pan.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (
            &report["annotations"][1]["image_id"],
            &report["annotations"][1]["file_name"]
        ),
        (&17.into(), &"17.png".into())
    );
    assert!(place.path("pan/squares.png").is_file() && place.path("pan/17.png").is_file());
    image(&["-o", "same.png", "--instances", "same.png"])
        .code(2)
        .stderr(predicate::str::contains("same.png would be written twice"));
    image(&[]).code(2).stderr(predicate::str::contains("--output"));
}

#[test]
fn unsure_objects_are_left_out_of_the_drawing() {
    let place = Place::with_yolo();
    let drawn = |args: &[&str]| {
        let all = [
            "image",
            "squares.png",
            "-o",
            "out.png",
            "--model",
            "./yolo",
            "--backend",
            "tract",
            "--legend=false",
        ];
        place.segd(&[&all, args].concat()).success();
        image::open(place.path("out.png")).unwrap().to_rgb8()
    };
    let plain = image::open(place.path("squares.png")).unwrap().to_rgb8();
    for mode in ["overlay", "instances", "panoptic"] {
        let (all, sure) = (
            drawn(&["--visualize", mode]),
            drawn(&["--visualize", mode, "--score", "0.8"]),
        );
        // The person's score is 0.9, the car's 0.7.
        assert_eq!(all.get_pixel(20, 20), sure.get_pixel(20, 20), "{mode}");
        assert_ne!(all.get_pixel(52, 20), plain.get_pixel(52, 20), "{mode}");
        assert_eq!(sure.get_pixel(52, 20), plain.get_pixel(52, 20), "{mode}");
    }
    place
        .segd(&[
            "image",
            "squares.png",
            "-o",
            "out.png",
            "--model",
            "./yolo",
            "--score",
            "2",
        ])
        .code(2)
        .stderr(predicate::str::contains("overlay.score"));
}
