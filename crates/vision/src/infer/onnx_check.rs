//! Checks an ONNX file before tract reads it, so that a damaged or foreign one is an error with a reason.
//!
//! tract trusts counts and attributes: wrong ones make it panic, or allocate without bound. Checked here is what the
//! standard demands of a graph (<https://onnx.ai/onnx/repo-docs/IR.html>): every tensor
//! has a producer before its consumers and holds as many elements as its shape says, and the attributes that
//! sizes are computed from are in range.

use std::collections::HashSet;

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, ModelProto, NodeProto, TensorProto, tensor_proto};

/// Operator sets that tract reads.
pub(super) const OPSETS: std::ops::RangeInclusive<i64> = 9..=21;

/// What is wrong with the model, if anything.
pub(super) fn check(model: &ModelProto) -> Result<(), String> {
    let opset = model
        .opset_import
        .iter()
        .find(|o| o.domain.is_empty() || o.domain == "ai.onnx")
        .ok_or("it names no ONNX operator set: not an ONNX file, or a damaged one")?
        .version;
    if !OPSETS.contains(&opset) {
        return Err(format!(
            "it uses operator set {opset}, tract reads {} to {}",
            OPSETS.start(),
            OPSETS.end()
        ));
    }
    let graph = model.graph.as_ref().ok_or("it has no graph")?;
    if graph.output.is_empty() {
        return Err("its graph has no output".into());
    }
    if !graph.sparse_initializer.is_empty() {
        return Err("it has sparse weights, which are not supported".into());
    }
    let mut known: HashSet<&str> = HashSet::new();
    for tensor in &graph.initializer {
        check_tensor(tensor)?;
        known.insert(&tensor.name);
    }
    known.extend(graph.input.iter().map(|i| i.name.as_str()));
    for node in &graph.node {
        for input in node.input.iter().filter(|n| !n.is_empty()) {
            if !known.contains(input.as_str()) {
                return Err(format!(
                    "node {:?} ({}) takes {input:?}, which nothing before it gives",
                    node.name, node.op_type
                ));
            }
        }
        if node.output.iter().all(String::is_empty) {
            return Err(format!("node {:?} ({}) has no output", node.name, node.op_type));
        }
        for attribute in &node.attribute {
            if let Some(tensor) = &attribute.t {
                check_tensor(tensor)?;
            }
            check_attribute(node, attribute)?;
        }
        for output in node.output.iter().filter(|n| !n.is_empty()) {
            if !known.insert(output) {
                return Err(format!("two nodes give {output:?}"));
            }
        }
    }
    match graph.output.iter().find(|o| !known.contains(o.name.as_str())) {
        Some(missing) => Err(format!("nothing gives its output {:?}", missing.name)),
        None => Ok(()),
    }
}

/// tract divides by strides, allocates what padding asks for, and applies permutations, all unchecked.
fn check_attribute(node: &NodeProto, attribute: &AttributeProto) -> Result<(), String> {
    const LARGEST: i64 = 4096;
    let bad = |values: &[i64]| {
        Err(format!(
            "node {:?} ({}) has {} = {values:?}",
            node.name, node.op_type, attribute.name
        ))
    };
    let ints = &attribute.ints;
    match attribute.name.as_str() {
        "strides" | "dilations" | "kernel_shape" if !ints.iter().all(|v| (1..=LARGEST).contains(v)) => {
            bad(ints)
        }
        // `Pad` of old operator sets may cut with negative numbers.
        "pads" if node.op_type == "Pad" && !ints.iter().all(|v| (-LARGEST..=LARGEST).contains(v)) => {
            bad(ints)
        }
        "pads" | "output_padding"
            if node.op_type != "Pad" && !ints.iter().all(|v| (0..=LARGEST).contains(v)) =>
        {
            bad(ints)
        }
        "group" if attribute.i < 1 => bad(&[attribute.i]),
        "perm" => {
            let mut sorted = ints.clone();
            sorted.sort_unstable();
            if sorted.iter().zip(0..).all(|(&found, expected)| found == expected) {
                Ok(())
            } else {
                bad(ints)
            }
        }
        _ => Ok(()),
    }
}

fn check_tensor(tensor: &TensorProto) -> Result<(), String> {
    let name = &tensor.name;
    if tensor.data_location == Some(tensor_proto::DataLocation::External as i32)
        || !tensor.external_data.is_empty()
    {
        return Err(format!(
            "its tensor {name:?} lies in another file; a model's network is one file"
        ));
    }
    let elements = tensor
        .dims
        .iter()
        .try_fold(1usize, |n, &d| n.checked_mul(usize::try_from(d).ok()?))
        .ok_or_else(|| format!("its tensor {name:?} has shape {:?}", tensor.dims))?;
    let kind = DataType::try_from(tensor.data_type).unwrap_or(DataType::Undefined);
    // Bytes of an element in `raw_data`, and elements in the field of the type's own.
    let (bytes, own) = match kind {
        DataType::Float => (4, tensor.float_data.len()),
        DataType::Int32 => (4, tensor.int32_data.len()),
        DataType::Uint32 => (4, tensor.uint64_data.len()),
        DataType::Int64 => (8, tensor.int64_data.len()),
        DataType::Uint64 => (8, tensor.uint64_data.len()),
        DataType::Double => (8, tensor.double_data.len()),
        DataType::Int8 | DataType::Uint8 | DataType::Bool => (1, tensor.int32_data.len()),
        DataType::Int16 | DataType::Uint16 | DataType::Float16 => (2, tensor.int32_data.len()),
        other => return Err(format!("its tensor {name:?} has elements of type {other:?}")),
    };
    let found = if tensor.raw_data.is_empty() {
        own
    } else if tensor.raw_data.len().is_multiple_of(bytes) {
        tensor.raw_data.len() / bytes
    } else {
        return Err(format!(
            "its tensor {name:?} has {} bytes, not a multiple of {bytes}",
            tensor.raw_data.len()
        ));
    };
    if found != elements {
        return Err(format!(
            "its tensor {name:?} of shape {:?} holds {found} elements",
            tensor.dims
        ));
    }
    Ok(())
}
