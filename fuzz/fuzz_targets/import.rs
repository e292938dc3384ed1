//! Whatever a network's file says of itself, and whatever lies beside it, there is a contract or a reason.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vision::import::{Beside, Element, Signature, Value, read_names};

/// Names that exporters give their outputs, which tell forms apart.
const NAMES: [&str; 6] = ["labels", "dets", "masks", "kernels", "class_queries_logits", "out"];

fuzz_target!(|input: (Vec<(u8, Vec<u16>)>, &str, &str, &str)| {
    let (values, names, labels, config) = input;
    let value = |(element, dims): &(u8, Vec<u16>)| Value {
        name: NAMES
            .get(usize::from(element >> 4))
            .map_or_else(|| format!("output{element}"), |name| (*name).into()),
        element: [Element::F32, Element::I64, Element::U8, Element::F16][usize::from(element % 4)],
        dims: dims.iter().map(|&side| (side > 0).then_some(side.into())).collect(),
        operator: if element & 4 == 0 { String::new() } else { "Sigmoid".into() },
    };
    let values: Vec<Value> = values.iter().take(8).map(value).collect();
    let inputs = values.len().min(1);
    let mut signature = Signature {
        inputs: values[..inputs].to_vec(),
        outputs: values[inputs..].to_vec(),
        ..Signature::default()
    };
    if !names.is_empty() {
        signature.metadata.insert("names".into(), names.into());
    }
    let beside = Beside {
        labels: (!labels.is_empty()).then(|| read_names(labels)),
        config: config.parse().ok(),
        preprocessor: config.parse().ok(),
    };
    let _ = signature.propose("fuzz", "fuzz.onnx", &"0".repeat(64), &beside);
});
