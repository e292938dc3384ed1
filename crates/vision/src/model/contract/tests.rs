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
