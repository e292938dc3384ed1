//! Whatever outputs a network gives, a decoder refuses them or makes a map whose numbers are segments, and hides what it may.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vision::answer::Answer;
use vision::decode::decoder;
use vision::frame::LabelMap;
use vision::model::Contract;
use vision::tensor::{Elements, InputSize, Outputs, Placement};

const KINDS: [&str; 9] = [
    "kind = \"prototypes\"\nnms = 0.5\ntensors = [{ role = \"detections\", name = \"a\" }, { role = \"prototypes\", name = \"b\" }]",
    "kind = \"boxes-masks\"\ntensors = [{ role = \"boxes\", name = \"a\" }, { role = \"masks\", name = \"b\" }, \
     { role = \"scores\", name = \"c\" }, { role = \"classes\", name = \"d\", dtype = \"i64\" }]",
    "kind = \"queries\"\nactivation = \"softmax\"\ntensors = [{ role = \"scores\", name = \"a\" }, { role = \"masks\", name = \"b\" }]",
    "kind = \"queries\"\nactivation = \"sigmoid\"\nreading = \"instance\"\ntensors = [{ role = \"scores\", name = \"a\" }, \
     { role = \"masks\", name = \"b\" }]",
    "kind = \"prototypes\"\nmatrix_nms = 2.0\ntensors = [{ role = \"scores\", name = \"a\" }, \
     { role = \"coefficients\", name = \"b\" }, { role = \"prototypes\", name = \"c\" }]",
    "kind = \"queries\"\nactivation = \"sigmoid\"\nreading = \"instance\"\nmask_quality = false\n\
     tensors = [{ role = \"scores\", name = \"a\" }, { role = \"masks\", name = \"b\" }]",
    "kind = \"centers\"\ntensors = [{ role = \"logits\", name = \"a\" }, { role = \"heat\", name = \"b\" }, \
     { role = \"offsets\", name = \"c\" }]",
    "kind = \"boxes\"\nnms = 0.5\nboxes = \"cells\"\ndetections = \"objectness\"\ntensors = [{ role = \"logits\", name = \"a\" }, \
     { role = \"detections\", name = \"b\" }]",
    "kind = \"boxes\"\ntensors = [{ role = \"logits\", name = \"a\" }, { role = \"boxes\", name = \"b\" }, \
     { role = \"scores\", name = \"c\" }]",
];

fuzz_target!(|input: (u8, u8, Vec<(Vec<u8>, Vec<f32>)>, Vec<i64>, (u8, u8))| {
    let (kind, hides, tensors, classes, (width, height)) = input;
    let text = format!(
        "format = 2\nname = \"fuzz\"\n[input]\nlayout = \"nchw\"\ndtype = \"f32\"\ncolor = \"rgb\"\nresize = \"stretch\"\nwidth = 16\n\
         height = 16\n[output]\n{}\n[[classes]]\nname = \"no\"\ncolor = [0, 0, 0]\nbackground = true\n[[classes]]\nname = \"one\"\n\
         color = [1, 1, 1]\nthing = true\n[[classes]]\nname = \"two\"\ncolor = [2, 2, 2]\nthing = true\n[[files]]\npath = \"a\"\n\
         precision = \"fp32\"\nbackends = [\"ort\"]\nsha256 = \"{}\"\n",
        KINDS[usize::from(kind) % KINDS.len()],
        "0".repeat(64)
    );
    let contract = Contract::parse(&text, "fuzz").expect("the kinds are valid");
    let mut outputs = Outputs::default();
    for (index, (shape, values)) in tensors.iter().take(3).enumerate() {
        let shape: Vec<usize> = shape.iter().take(6).map(|&side| side.into()).collect();
        outputs.write(index, "output", &shape, Elements::F32(values));
    }
    outputs.write(3, "classes", &[classes.len()], Elements::I64(&classes));
    let size = InputSize { width: 16, height: 16 };
    let placement = Placement { x: 0, y: 0, width: 16, height: 16 };
    let picture = (usize::from(width).max(1), usize::from(height).max(1));
    let mut decoder = decoder(&contract, "fuzz", size, placement, picture);
    let mut hidden = [false; 256];
    (hidden[1], hidden[2]) = (hides & 1 == 1, hides & 2 == 2);
    decoder.hide(&hidden);
    let mut answer = Answer::empty();
    if decoder.read(&mut outputs, &mut answer).is_err() {
        return;
    }
    let (mut map, mut segments) = (LabelMap::zeros(0, 0), Vec::new());
    decoder.decode(&answer, &mut map, &mut segments);
    assert_eq!((map.width, map.height), picture);
    assert!(segments.len() <= 255 && map.labels.iter().all(|&n| usize::from(n) < segments.len()));
});
