use serde_json::json;

use super::names::python_names;
use super::*;
use crate::model::contract::{Activation, BoxForm, DetectionForm, Layout, OutputKind, Reading, Resize, Role};

const SHA: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn value(name: &str, element: Element, dims: &[usize]) -> Value {
    Value {
        name: name.into(),
        element,
        // 0 stands for a free side.
        dims: dims.iter().map(|&d| (d > 0).then_some(d)).collect(),
        operator: String::new(),
    }
}

fn signature(input: &[usize], outputs: &[(&str, &[usize])]) -> Signature {
    Signature {
        inputs: vec![value("images", Element::F32, input)],
        outputs: outputs
            .iter()
            .map(|(name, dims)| value(name, Element::F32, dims))
            .collect(),
        opset: 17,
        ..Signature::default()
    }
}

fn ultralytics(names: &str, outputs: &[(&str, &[usize])]) -> Signature {
    let mut signature = signature(&[1, 3, 640, 640], outputs);
    for (key, text) in [
        ("task", "segment"),
        ("stride", "32"),
        ("imgsz", "[640, 640]"),
        ("names", names),
    ] {
        signature.metadata.insert(key.into(), text.into());
    }
    signature
}

fn propose(signature: &Signature, beside: &Beside) -> Proposal {
    signature.propose("net", "net.onnx", SHA, beside).unwrap()
}

fn refusal(signature: &Signature, beside: &Beside) -> String {
    signature
        .propose("net", "net.onnx", SHA, beside)
        .unwrap_err()
        .to_string()
}

fn names(list: &[&str]) -> Option<Vec<String>> {
    Some(list.iter().map(|n| (*n).to_owned()).collect())
}

/// A shape may claim anything: names of so many classes would fill the memory.
#[test]
fn more_classes_than_a_model_has_are_refused() {
    let lies = signature(&[1, 3, 64, 64], &[("out", &[1, usize::MAX >> 8, 8, 8])]);
    let why = refusal(&lies, &Beside::default());
    assert!(why.contains("72057594037927935 classes"), "{why}");
}

#[test]
fn names_as_python_prints_them() {
    assert_eq!(
        python_names("{0: 'person', 1: \"it's\"}"),
        names(&["person", "it's"])
    );
    assert_eq!(python_names("{1: 'b', 0: 'a \\' c'}"), names(&["a ' c", "b"]));
    assert_eq!(python_names("['x', 'y']"), names(&["x", "y"]));
    assert_eq!(python_names("{'0': 'x'}"), names(&["x"]));
    assert_eq!(python_names("{}"), names(&[]));
    for bad in [
        "",
        "{",
        "{0: 'a'",
        "{1: 'a'}",
        "{0: a}",
        "{0: 'a'} more",
        "{99999: 'a'}",
        "{0: 'a\\",
    ] {
        assert_eq!(python_names(bad), None, "{bad}");
    }
}

#[test]
fn yolo_says_nearly_everything() {
    let yolo = ultralytics(
        "{0: 'person', 1: 'car'}",
        &[("output0", &[1, 38, 8400]), ("output1", &[1, 32, 160, 160])],
    );
    let found = propose(&yolo, &Beside::default());
    let contract = &found.contract;
    assert!(
        found.normalization_is_known && found.assumed.is_empty(),
        "{found:?}"
    );
    assert_eq!(
        (contract.format, contract.output.kind),
        (2, OutputKind::Prototypes)
    );
    assert_eq!(
        (contract.input.resize, contract.input.pad),
        (Resize::Letterbox, 114)
    );
    assert_eq!((contract.input.mean, contract.input.std), ([0.0; 3], [255.0; 3]));
    let classes: Vec<&str> = contract.classes.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(classes, ["nothing", "person", "car"]);
    assert!(contract.classes[0].background && contract.classes[1].thing);
    let objects = &contract.output.objects;
    assert_eq!(
        (objects.detections, objects.boxes),
        (DetectionForm::ClassScores, BoxForm::CenterSize)
    );
    assert_eq!((objects.nms, objects.score), (Some(0.45), 0.25));
    let position = contract.output.position(Role::Prototypes).unwrap();
    assert_eq!(contract.output.tensors[position].name.as_deref(), Some("output1"));

    // Outputs in the other order, with fields last, and one score more.
    let old = ultralytics("['a', 'b']", &[("p", &[1, 32, 160, 160]), ("d", &[1, 25200, 39])]);
    let contract = propose(&old, &Beside::default()).contract;
    assert_eq!(contract.output.objects.detections, DetectionForm::Objectness);
    assert_eq!(contract.output.tensors[0].name.as_deref(), Some("d"));

    // Picked by the network.
    let picked = ultralytics(
        "{0: 'a', 1: 'b', 2: 'c'}",
        &[("d", &[1, 300, 38]), ("p", &[1, 32, 160, 160])],
    );
    let objects = propose(&picked, &Beside::default()).contract.output.objects;
    assert_eq!(
        (objects.detections, objects.boxes),
        (DetectionForm::BestClass, BoxForm::Corners)
    );
    assert_eq!(objects.nms, None);

    // Fewer candidates than numbers of each.
    let few = ultralytics("{0: 'a', 1: 'b'}", &[("d", &[1, 7, 3]), ("p", &[1, 1, 16, 16])]);
    let output = propose(&few, &Beside::default()).contract.output;
    assert_eq!(
        (output.kind, output.objects.detections),
        (OutputKind::Prototypes, DetectionForm::ClassScores)
    );

    let mut detect = yolo.clone();
    detect.metadata.insert("task".into(), "detect".into());
    assert!(refusal(&detect, &Beside::default()).contains("\"detect\""));
    let labels = Beside {
        labels: names(&["only"]),
        ..Beside::default()
    };
    assert!(refusal(&yolo, &labels).contains("1 for 1 classes"));
}

#[test]
fn mask_r_cnn_is_told_by_ranks_and_types() {
    let mut rcnn = signature(
        &[3, 0, 0],
        &[("boxes", &[0, 4]), ("scores", &[0]), ("masks", &[0, 1, 28, 28])],
    );
    rcnn.outputs.insert(1, value("labels", Element::I64, &[0]));
    rcnn.operators.insert("RoiAlign".into());
    assert!(refusal(&rcnn, &Beside::default()).contains("--labels"));
    rcnn.scored_classes = Some(91);
    let found = propose(&rcnn, &Beside::default());
    assert!(found.normalization_is_known);
    let contract = &found.contract;
    assert_eq!(contract.output.kind, OutputKind::BoxesMasks);
    assert_eq!(
        (contract.classes.len(), contract.output.objects.first_class),
        (91, 0)
    );
    assert_eq!(
        (
            contract.classes[1].name.as_str(),
            contract.classes[90].name.as_str()
        ),
        ("person", "toothbrush")
    );
    let labels = |list: &[&str]| Beside {
        labels: names(list),
        ..Beside::default()
    };
    rcnn.scored_classes = None;
    let objects = propose(&rcnn, &labels(&["__background__", "cup"]))
        .contract
        .output
        .objects;
    assert_eq!(objects.first_class, 0);
    let objects = propose(&rcnn, &labels(&["cup", "pen"])).contract.output.objects;
    assert_eq!(objects.first_class, 1);
}

#[test]
fn hugging_face_leaves_files_beside_the_network() {
    let queries = signature(
        &[1, 3, 384, 384],
        &[
            ("class_queries_logits", &[1, 100, 3]),
            ("masks_queries_logits", &[1, 100, 96, 96]),
        ],
    );
    let beside = Beside {
        config: Some(json!({
            "_name_or_path": "somebody/mask2former-made-panoptic",
            "id2label": { "1": "road", "0": "person" },
        })),
        preprocessor: Some(
            json!({ "image_mean": [0.5, 0.25, 0.5], "image_std": [0.5, 0.5, 0.5], "do_rescale": true }),
        ),
        labels: None,
    };
    let found = propose(&queries, &beside);
    let contract = &found.contract;
    assert!(found.normalization_is_known);
    assert_eq!(contract.input.mean, [127.5, 63.75, 127.5]);
    let objects = &contract.output.objects;
    assert_eq!(
        (objects.reading, objects.activation),
        (Reading::Panoptic, Activation::Softmax)
    );
    let things: Vec<bool> = contract.classes.iter().map(|c| c.thing).collect();
    assert_eq!(things, [false, true, false]);

    let segformer = signature(&[1, 3, 0, 0], &[("logits", &[1, 2, 0, 0])]);
    let found = propose(&segformer, &beside);
    assert_eq!(found.contract.output.kind, OutputKind::Semantic);
    assert_eq!(
        (found.contract.format, found.contract.input.resize),
        (1, Resize::Fit)
    );
    assert!(
        found.assumed.iter().any(|note| note.contains("multiple")),
        "{found:?}"
    );
}

#[test]
fn kernels_on_features_are_told_from_queries() {
    let mut outputs: Vec<(&str, &[usize])> = vec![
        ("mask_features", &[1, 128, 96, 128]),
        ("cate_preds", &[1, 3872, 80]),
        ("kernel_preds", &[1, 3872, 128]),
    ];
    for _ in 0..3 {
        outputs.rotate_left(1);
        let contract = propose(&signature(&[1, 3, 384, 512], &outputs), &Beside::default()).contract;
        assert_eq!(contract.output.kind, OutputKind::Prototypes);
        let names = [Role::Scores, Role::Coefficients, Role::Prototypes].map(|role| {
            contract.output.tensors[contract.output.position(role).unwrap()]
                .name
                .clone()
                .unwrap()
        });
        assert_eq!(names, ["cate_preds", "kernel_preds", "mask_features"]);
        assert_eq!(
            (contract.output.objects.matrix_nms, contract.classes.len()),
            (Some(2.0), 81)
        );
    }
    // As many classes as features: only the names tell.
    let square: [(&str, &[usize]); 3] = [
        ("a", &[1, 64, 96, 96]),
        ("kernels", &[1, 1600, 64]),
        ("b", &[1, 1600, 64]),
    ];
    let contract = propose(&signature(&[1, 3, 384, 384], &square), &Beside::default()).contract;
    assert_eq!(contract.output.tensors[1].name.as_deref(), Some("kernels"));
}

#[test]
fn rf_detr_s_classes_are_counted_from_one_or_from_zero() {
    let net = |classes: usize| {
        signature(
            &[1, 3, 432, 432],
            &[
                ("dets", &[1, 200, 4]),
                ("labels", &[1, 200, classes]),
                ("masks", &[1, 200, 108, 108]),
            ],
        )
    };
    let contract = propose(&net(91), &Beside::default()).contract;
    let objects = contract.output.objects;
    assert_eq!(
        (
            contract.output.kind,
            objects.activation,
            objects.reading,
            objects.mask_quality
        ),
        (OutputKind::Queries, Activation::Sigmoid, Reading::Instance, false)
    );
    assert_eq!((objects.first_class, contract.classes.len()), (0, 91));
    assert_eq!(contract.classes[1].name, "person");
    assert!(contract.classes[0].background && !contract.classes[0].thing);
    let names = |list: &[&str]| Beside {
        labels: names(list),
        ..Beside::default()
    };
    let contract = propose(&net(3), &names(&["cup", "pen"])).contract;
    let list: Vec<&str> = contract.classes.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(
        (contract.output.objects.first_class, list),
        (1, vec!["nothing", "cup", "pen", "no class"])
    );
    assert!(refusal(&net(3), &names(&["cup"])).contains("3 classes"));
}

#[test]
fn plain_scores_labels_and_one_channel() {
    let found = propose(
        &signature(
            &[1, 3, 256, 256],
            &[("out", &[1, 21, 256, 256]), ("aux", &[1, 21, 256, 256])],
        ),
        &Beside::default(),
    );
    assert!(!found.normalization_is_known);
    assert_eq!(found.contract.output.semantic().name.as_deref(), Some("out"));
    let nhwc = propose(
        &signature(&[1, 128, 128, 3], &[("y", &[1, 128, 128, 5])]),
        &Beside::default(),
    )
    .contract;
    assert_eq!(
        (
            nhwc.input.layout,
            nhwc.output.semantic().layout,
            nhwc.classes.len()
        ),
        (Layout::Nhwc, Layout::Nhwc, 5)
    );

    let mut one = signature(&[1, 3, 320, 320], &[("y", &[1, 1, 320, 320])]);
    let binary = propose(&one, &Beside::default()).contract;
    assert_eq!(
        (binary.output.kind, binary.output.objects.activation),
        (OutputKind::Binary, Activation::Sigmoid)
    );
    one.outputs[0].operator = "Sigmoid".into();
    let binary = propose(&one, &Beside::default()).contract;
    assert_eq!(binary.output.objects.activation, Activation::None);

    let mut argmax = signature(&[1, 3, 64, 64], &[]);
    argmax.outputs = vec![value("labels", Element::I64, &[1, 64, 64])];
    assert!(refusal(&argmax, &Beside::default()).contains("--labels"));
    let labels = Beside {
        labels: names(&["background", "cup"]),
        ..Beside::default()
    };
    let contract = propose(&argmax, &labels).contract;
    assert_eq!(
        (contract.output.semantic().role, contract.classes[0].background),
        (Role::Labels, true)
    );
}

#[test]
fn centres_need_classes_that_are_known_as_things() {
    let panoptic = signature(
        &[1, 3, 512, 1024],
        &[
            ("sem", &[1, 3, 512, 1024]),
            ("ctr", &[1, 1, 512, 1024]),
            ("off", &[1, 2, 512, 1024]),
        ],
    );
    assert!(refusal(&panoptic, &Beside::default()).contains("which of its classes are things"));
    let labels = Beside {
        labels: names(&["road", "rider", "sky"]),
        ..Beside::default()
    };
    let contract = propose(&panoptic, &labels).contract;
    assert_eq!(contract.output.kind, OutputKind::Centers);
    assert_eq!(contract.classes.iter().filter(|c| c.thing).count(), 1);
}

#[test]
fn what_can_not_be_read_is_refused_with_what_to_export() {
    let good: &[(&str, &[usize])] = &[("y", &[1, 5, 8, 8])];
    for (input, said) in [
        (&[4, 3, 8, 8][..], "batch of 1"),
        (&[1, 1, 8, 8], "colour pictures"),
        (&[1, 3, 8, 8, 8], "expected [1, 3, H, W]"),
        (&[8], "expected [1, 3, H, W]"),
    ] {
        let text = refusal(&signature(input, good), &Beside::default());
        assert!(text.contains(said), "{input:?}: {text}");
    }
    let mut half = signature(&[1, 3, 8, 8], good);
    half.inputs[0].element = Element::F16;
    assert!(refusal(&half, &Beside::default()).contains("F16"));
    let text = refusal(&signature(&[1, 3, 8, 8], &[("y", &[])]), &Beside::default());
    assert!(
        text.contains("no shapes") && text.contains("infer_shapes"),
        "{text}"
    );
    let mut two = signature(&[1, 3, 8, 8], good);
    two.inputs.push(two.inputs[0].clone());
    assert!(refusal(&two, &Beside::default()).contains("2 inputs"));
    let text = refusal(
        &signature(&[1, 3, 8, 8], &[("y", &[1, 1000])]),
        &Beside::default(),
    );
    assert!(text.contains("\"y\" [1, 1000]"), "{text}");
    let text = refusal(
        &signature(&[1, 3, 8, 8], &[("y", &[1, 999, 8, 8])]),
        &Beside::default(),
    );
    assert!(text.contains("999 classes"), "{text}");
    let labels = Beside {
        labels: names(&["a", "b"]),
        ..Beside::default()
    };
    assert!(refusal(&signature(&[1, 3, 8, 8], good), &labels).contains("--labels has 2 names"));
}
