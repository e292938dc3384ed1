//! An ONNX file to its [`Signature`].

use std::collections::{BTreeMap, HashMap};

use tract_onnx::pb::tensor_proto::{DataLocation, DataType};
use tract_onnx::pb::tensor_shape_proto::dimension;
use tract_onnx::pb::{ModelProto, ValueInfoProto, type_proto};
use tract_onnx::prelude::Framework;

use super::{Element, Refusal, Signature, Value};

pub(super) fn read(bytes: &[u8]) -> Result<Signature, Refusal> {
    let no_onnx = || {
        Refusal::new(
            "not an ONNX file, or a damaged one",
            "export the network as ONNX: a .pt, .h5 or .tflite file is not read",
        )
    };
    let model: ModelProto = tract_onnx::onnx()
        .proto_model_for_read(&mut &bytes[..])
        .map_err(|_| no_onnx())?;
    let graph = model.graph.as_ref().ok_or_else(no_onnx)?;
    let is_external = |tensor: &tract_onnx::pb::TensorProto| {
        tensor.data_location == Some(DataLocation::External as i32) || !tensor.external_data.is_empty()
    };
    if let Some(tensor) = graph.initializer.iter().find(|tensor| is_external(tensor)) {
        return Err(Refusal::new(
            format!("its tensor {:?} lies in another file", tensor.name),
            "export as one file: torch.onnx.export(..., external_data=False), or onnx.save(model, FILE) after loading",
        ));
    }
    let operators: HashMap<&str, &str> = graph
        .node
        .iter()
        .flat_map(|node| {
            node.output
                .iter()
                .map(|out| (out.as_str(), node.op_type.as_str()))
        })
        .collect();
    let value = |info: &ValueInfoProto| Value {
        name: info.name.clone(),
        operator: operators
            .get(info.name.as_str())
            .copied()
            .unwrap_or_default()
            .to_owned(),
        ..shape(info)
    };
    let is_weight = |info: &&ValueInfoProto| graph.initializer.iter().all(|w| w.name != info.name);
    let scored = graph
        .initializer
        .iter()
        .find(|tensor| tensor.name.ends_with("cls_score.weight") || tensor.name.ends_with("cls_score.bias"));
    Ok(Signature {
        inputs: graph.input.iter().filter(is_weight).map(value).collect(),
        outputs: graph.output.iter().map(value).collect(),
        metadata: model
            .metadata_props
            .iter()
            .map(|entry| (entry.key.clone(), entry.value.clone()))
            .collect::<BTreeMap<_, _>>(),
        opset: model
            .opset_import
            .iter()
            .find(|set| set.domain.is_empty() || set.domain == "ai.onnx")
            .map_or(0, |set| set.version),
        operators: graph.node.iter().map(|node| node.op_type.clone()).collect(),
        scored_classes: scored.and_then(|tensor| usize::try_from(*tensor.dims.first()?).ok()),
        f16_weights: graph
            .initializer
            .iter()
            .any(|tensor| tensor.data_type == DataType::Float16 as i32),
    })
}

fn shape(info: &ValueInfoProto) -> Value {
    let mut value = Value {
        name: String::new(),
        element: Element::Other,
        dims: Vec::new(),
        operator: String::new(),
    };
    let tensor = info.r#type.as_ref().and_then(|t| t.value.as_ref());
    if let Some(type_proto::Value::TensorType(tensor)) = tensor {
        value.element = match DataType::try_from(tensor.elem_type).unwrap_or(DataType::Undefined) {
            DataType::Float => Element::F32,
            DataType::Float16 => Element::F16,
            DataType::Int64 => Element::I64,
            DataType::Int32 => Element::I32,
            DataType::Uint8 => Element::U8,
            _ => Element::Other,
        };
        let dims = tensor.shape.iter().flat_map(|shape| &shape.dim);
        value.dims = dims
            .map(|dim| match dim.value {
                Some(dimension::Value::DimValue(side)) if side > 0 => usize::try_from(side).ok(),
                _ => None,
            })
            .collect();
    }
    value
}
