use super::*;

const GOOD: &str = r#"
    format = 1
    name = "tiny"
    [input]
    layout = "nchw"
    dtype = "f32"
    color = "rgb"
    mean = [123.675, 116.28, 103.53]
    std = [58.395, 57.12, 57.375]
    resize = "fit"
    width = 384
    height = 384
    multiple = 32
    [output]
    kind = "logits"
    [[classes]]
    name = "background"
    color = [0, 0, 0]
    background = true
    [[classes]]
    name = "person"
    color = [192, 128, 128]
    [[files]]
    path = "fp32.onnx"
    precision = "fp32"
    backends = ["tract", "ort"]
    sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"#;

#[test]
fn a_contract_survives_writing_and_reading() {
    let contract = Contract::parse(GOOD, "contract.toml").unwrap();
    let again = Contract::parse(&contract.to_toml().unwrap(), "again").unwrap();
    assert_eq!(contract, again);
    assert_eq!(contract.class_index("Person"), Some(1));
    assert_eq!(contract.file_for("ort", None).unwrap().path, "fp32.onnx");
    assert!(contract.file_for("ort", Some(Precision::Int8)).is_none());
}

#[test]
fn bad_contracts_are_refused_with_the_key() {
    for (from, to, expected) in [
        ("format = 1", "format = 3", "format = 3"),
        (
            "color = [192, 128, 128]",
            "color = [0, 0, 0]\nthing = true",
            "need format = 2",
        ),
        ("kind = \"logits\"", "kind = \"semantic\"", "0 [[output.tensors]]"),
        (
            "kind = \"logits\"",
            "kind = \"semantic\"\nname = \"x\"",
            "[[output.tensors]]",
        ),
        ("name = \"tiny\"", "name = \"../x\"", "name ="),
        ("path = \"fp32.onnx\"", "path = \"../fp32.onnx\"", "files.path"),
        ("e3b0", "E3B0", "files.sha256"),
        ("std = [58.395", "std = [0.0", "input.std[0]"),
        ("width = 384", "width = 0", "input.width = 0"),
        ("multiple = 32", "multiple = 0", "input.multiple"),
        ("multiple = 32", "multipel = 32", "multipel"),
        ("\"tract\", \"ort\"", "\"tensorflow\"", "files.backends"),
        ("name = \"person\"", "name = \"background\"", "used twice"),
        ("resize = \"fit\"", "resize = \"stretch\"\npad = 300", "pad"),
        ("dtype = \"f32\"", "dtype = \"u8\"", "mean must be 0"),
        (
            "[output]",
            "[selftest]\nimage = \"a/b.png\"\nlabels = \"l.png\"\n[output]",
            "selftest.image",
        ),
        (
            "[output]",
            "[selftest]\nimage = \"i.png\"\nlabels = \"l.png\"\nagreement = 90\n[output]",
            "selftest.agreement = 90",
        ),
    ] {
        let text = GOOD.replacen(from, to, 1);
        assert_ne!(text, GOOD, "{from}");
        let error = Contract::parse(&text, "contract.toml").unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(expected), "{error}");
        assert!(error.to_string().starts_with("contract.toml: "), "{error}");
    }
}

#[test]
fn fit_keeps_the_aspect_within_half_a_step() {
    let input = Contract::parse(GOOD, "").unwrap().input;
    assert_eq!(
        input.size_for(640, 480, None),
        InputSize {
            width: 384,
            height: 288
        }
    );
    assert_eq!(
        input.size_for(1280, 720, None),
        InputSize {
            width: 384,
            height: 224
        }
    );
    assert_eq!(
        input.size_for(480, 640, None),
        InputSize {
            width: 288,
            height: 384
        }
    );
    assert_eq!(
        input.size_for(640, 480, Some(513)),
        InputSize {
            width: 512,
            height: 384
        }
    );
    assert_eq!(
        input.size_for(10000, 1, None),
        InputSize {
            width: 384,
            height: 32
        }
    );
}

#[test]
fn sides_with_an_offset() {
    let mut input = Contract::parse(GOOD, "").unwrap().input;
    input.multiple = 16;
    input.offset = 1;
    assert_eq!(input.nearest_side(513), 513);
    assert_eq!(input.nearest_side(510), 513);
    assert_eq!(input.nearest_side(0), 1);
    assert!(input.is_valid_side(513) && !input.is_valid_side(512));
}

#[test]
fn format_2_lists_outputs_and_things_and_is_written_only_where_it_is_needed() {
    let old = Contract::parse(GOOD, "contract.toml").unwrap();
    let new = GOOD.replace("format = 1", "format = 2").replace(
        "kind = \"logits\"",
        "kind = \"semantic\"\ntensors = [{ role = \"logits\" }]",
    );
    let new = Contract::parse(&new, "contract.toml").unwrap();
    assert_eq!(new.output, old.output);
    assert!(new.to_toml().unwrap().starts_with("format = 1\n"));

    let mut things = new;
    things.classes[1].thing = true;
    let text = things.to_toml().unwrap();
    assert!(
        text.starts_with("format = 2\n") && text.contains("thing = true"),
        "{text}"
    );
    assert_eq!(Contract::parse(&text, "again").unwrap().classes, things.classes);
}

const OBJECTS: &str = r#"
    format = 2
    name = "objects"
    [input]
    layout = "nchw"
    dtype = "f32"
    color = "rgb"
    resize = "letterbox"
    width = 640
    height = 640
    [output]
    kind = "prototypes"
    nms = 0.45
    score = 0.25
    tensors = [{ role = "detections", name = "output0" }, { role = "prototypes", name = "output1" }]
    [[classes]]
    name = "nothing"
    color = [0, 0, 0]
    background = true
    [[classes]]
    name = "person"
    color = [192, 128, 128]
    thing = true
    [[files]]
    path = "fp32.onnx"
    precision = "fp32"
    backends = ["tract", "ort"]
    sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"#;

#[test]
fn objects_survive_writing_and_reading() {
    let contract = Contract::parse(OBJECTS, "contract.toml").unwrap();
    assert_eq!(contract.output.kind, OutputKind::Prototypes);
    assert_eq!(
        (contract.output.objects.score, contract.output.objects.doubt),
        (0.25, 0.125)
    );
    let text = contract.to_toml().unwrap();
    assert!(text.starts_with("format = 2\n"), "{text}");
    assert_eq!(Contract::parse(&text, "again").unwrap(), contract);
}

#[test]
fn contracts_that_decide_nothing_are_refused() {
    let queries = "kind = \"queries\"\nactivation = \"softmax\"\n\
        tensors = [{ role = \"scores\", name = \"a\" }, { role = \"masks\", name = \"b\" }]";
    let old = "kind = \"prototypes\"\n    nms = 0.45\n    score = 0.25\n    \
        tensors = [{ role = \"detections\", name = \"output0\" }, { role = \"prototypes\", name = \"output1\" }]";
    assert!(Contract::parse(&OBJECTS.replacen(old, queries, 1), "").is_ok());
    let kernels = "kind = \"prototypes\"\nmatrix_nms = 2.0\n\
        tensors = [{ role = \"scores\", name = \"a\" }, { role = \"coefficients\", name = \"b\" }, { role = \"prototypes\", name = \"c\" }]";
    let contract = Contract::parse(&OBJECTS.replacen(old, kernels, 1), "").unwrap();
    assert_eq!(contract.output.objects.matrix_nms, Some(2.0));
    let again = Contract::parse(&contract.to_toml().unwrap(), "again").unwrap();
    assert_eq!(again, contract);
    for (from, to, expected) in [
        ("format = 2", "format = 1", "need format = 2"),
        ("score = 0.25", "score = 0.0", "output.score = 0"),
        ("score = 0.25", "score = 1.0", "output.score = 1"),
        ("score = 0.25", "doubt = 0.9", "output.doubt"),
        ("nms = 0.45", "nms = 1.5", "output.nms"),
        ("nms = 0.45", "matrix_nms = 2.0", "set output.nms"),
        (
            old,
            &kernels.replace("matrix_nms", "nms = 0.5 #"),
            "set output.matrix_nms",
        ),
        (old, &kernels.replace("2.0", "0.0"), "output.matrix_nms = 0"),
        (
            "nms = 0.45",
            "mask_quality = true",
            "output.mask_quality is not a key",
        ),
        ("nms = 0.45", "threshold = nan", "output.threshold"),
        ("nms = 0.45", "max_objects = 300", "output.max_objects"),
        ("nms = 0.45", "first_class = 2", "output.first_class"),
        (
            "nms = 0.45",
            "reading = \"instance\"",
            "output.reading is not a key",
        ),
        ("nms = 0.45", "activation = \"softmax\"", "softmax"),
        ("nms = 0.45", "layout = \"nchw\"", "[[output.tensors]]"),
        (
            "role = \"detections\"",
            "role = \"boxes\"",
            "expected detections, prototypes",
        ),
        ("name = \"output1\"", "dtype = \"f32\"", "needs its name"),
        (
            "name = \"output1\"",
            "name = \"output1\", dtype = \"i64\"",
            "must be \"f32\"",
        ),
        ("thing = true", "", "needs thing = true"),
        ("background = true", "", "background = true"),
        (
            "background = true",
            "background = true\nthing = true",
            "can't be a thing",
        ),
        (
            old,
            &queries.replace("activation = \"softmax\"\n", ""),
            "output.activation",
        ),
        (
            old,
            &queries.replace("softmax\"", "softmax\"\nreading = \"semantic\"\nfirst_class = 1"),
            "first_class = 0",
        ),
        (
            old,
            "kind = \"binary\"\ntensors = [{ role = \"logits\" }]",
            "output.activation",
        ),
        (
            old,
            "kind = \"binary\"\nactivation = \"none\"\ntensors = [{ role = \"labels\" }]",
            "expected logits",
        ),
    ] {
        let text = OBJECTS.replacen(from, to, 1);
        assert_ne!(text, OBJECTS, "{from}");
        let error = Contract::parse(&text, "contract.toml").unwrap_err().to_string();
        assert!(error.contains(expected), "{from} -> {to}: {error}");
    }
    let one = GOOD.replacen(
        "[[classes]]\n    name = \"background\"\n    color = [0, 0, 0]\n    background = true\n",
        "",
        1,
    );
    let error = Contract::parse(&one, "contract.toml").unwrap_err().to_string();
    assert!(error.contains("labels every pixel"), "{error}");
}
