//! Whether TensorRT's parser takes a network: its operators, their types, and the restrictions that TensorRT puts on them,
//! by a list that is kept beside this file.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::{BTreeMap, HashMap};

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, type_proto};

/// What one version takes.
#[derive(serde::Deserialize)]
struct Version {
    /// Newest operator set.
    operator_set: i64,
    /// Whether 64-bit integers are cast to 32 bits, and taken where those are.
    casts_int64: bool,
    /// Names of types to names of operators, both apart by spaces.
    types: BTreeMap<String, String>,
}

fn versions() -> BTreeMap<String, Version> {
    toml::from_str(include_str!("tensorrt-operators.toml")).unwrap()
}

impl Version {
    /// The types of an operator's data; `None` for one that it does not have.
    fn types_of(&self, operator: &str) -> Option<&str> {
        let has = |(_, names): &(&String, &String)| names.split_whitespace().any(|name| name == operator);
        self.types.iter().find(has).map(|(types, _)| types.as_str())
    }
}

/// What each version of the list would refuse, one line each; none for a network that they take.
pub fn objections(model: &ModelProto) -> Vec<String> {
    let mut found = Vec::new();
    let graph = model.graph.as_ref().unwrap();
    let values = values(graph);
    for (name, version) in versions() {
        let mut object = |what: String| found.push(format!("TensorRT {name}: {what}"));
        for set in &model.opset_import {
            if !["", "ai.onnx"].contains(&set.domain.as_str()) {
                object(format!("operators of {}", set.domain));
            } else if !(9..=version.operator_set).contains(&set.version) {
                object(format!("operator set {}", set.version));
            }
        }
        for node in &graph.node {
            let operator = node.op_type.as_str();
            let Some(types) = version.types_of(operator).filter(|_| node.domain.is_empty()) else {
                object(format!("{operator} {}", node.name));
                continue;
            };
            for input in data_inputs(node) {
                let kind = values.get(input).map_or("unknown", |v| type_name(*v));
                let takes = |kind: &str| types.split(' ').any(|one| one == kind);
                if !(takes(kind) || kind == "INT64" && version.casts_int64 && takes("INT32")) {
                    object(format!("{operator} {} of {kind}, it takes {types}", node.name));
                }
            }
            if let Some(what) = restriction(node, graph) {
                object(format!("{operator} {}: {what}", node.name));
            }
        }
    }
    found
}

/// Names as the list has them.
fn type_name(data_type: DataType) -> &'static str {
    match data_type {
        DataType::Float => "FP32",
        DataType::Float16 => "FP16",
        DataType::Bfloat16 => "BF16",
        DataType::Int8 => "INT8",
        DataType::Uint8 => "UINT8",
        DataType::Int32 => "INT32",
        DataType::Int64 => "INT64",
        DataType::Bool => "BOOL",
        _ => "another type",
    }
}

fn data_type(number: i32) -> DataType {
    DataType::try_from(number).unwrap_or(DataType::Undefined)
}

/// The type of each value of the graph.
fn values(graph: &GraphProto) -> HashMap<&str, DataType> {
    let mut known: HashMap<&str, DataType> = HashMap::new();
    for input in &graph.input {
        if let Some(type_proto::Value::TensorType(tensor)) =
            input.r#type.as_ref().and_then(|t| t.value.as_ref())
        {
            known.insert(&input.name, data_type(tensor.elem_type));
        }
    }
    known.extend(
        graph
            .initializer
            .iter()
            .map(|t| (t.name.as_str(), data_type(t.data_type))),
    );
    for node in &graph.node {
        let of = |index: usize| {
            let name = node.input.get(index)?.as_str();
            known.get(name).copied()
        };
        let given = match node.op_type.as_str() {
            "QuantizeLinear" => of(2).unwrap_or(DataType::Uint8),
            "DequantizeLinear" => of(1).unwrap_or(DataType::Undefined),
            "Cast" => attribute(node, "to").map_or(DataType::Undefined, |a| data_type(a.i as i32)),
            "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" | "Not" | "And" | "Or"
            | "Xor" => DataType::Bool,
            "Shape" | "Size" | "ArgMax" | "ArgMin" | "NonZero" => DataType::Int64,
            "Where" => of(1).unwrap_or(DataType::Undefined),
            "Constant" => match attribute(node, "value").and_then(|a| a.t.as_ref()) {
                Some(tensor) => data_type(tensor.data_type),
                None => DataType::Float,
            },
            _ => of(0).unwrap_or(DataType::Undefined),
        };
        // A second output is of places: MaxPool's, TopK's.
        for (index, output) in node.output.iter().enumerate() {
            known.insert(output, if index == 0 { given } else { DataType::Int64 });
        }
    }
    known
}

/// The inputs whose type the list speaks of; the others are sizes, axes, scales and zero points.
fn data_inputs(node: &NodeProto) -> impl Iterator<Item = &str> {
    let count = match node.op_type.as_str() {
        "Reshape" | "Resize" | "Slice" | "Pad" | "Squeeze" | "Unsqueeze" | "Split" | "Tile" | "Expand"
        | "Gather" | "TopK" | "QuantizeLinear" | "DequantizeLinear" | "OneHot" | "ConstantOfShape"
        | "CumSum" => 1,
        _ => usize::MAX,
    };
    let skip = usize::from(node.op_type == "ConstantOfShape");
    node.input
        .iter()
        .map(String::as_str)
        .filter(|name| !name.is_empty())
        .take(count)
        .skip(skip)
}

fn attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|a| a.name == name)
}

fn text(node: &NodeProto, name: &str, otherwise: &str) -> String {
    attribute(node, name).map_or_else(
        || otherwise.to_owned(),
        |a| String::from_utf8_lossy(&a.s).into_owned(),
    )
}

/// What breaks one of the restrictions in the tables' last column.
fn restriction(node: &NodeProto, graph: &GraphProto) -> Option<String> {
    let initializer = |index: usize| {
        let name = node.input.get(index).filter(|name| !name.is_empty())?;
        graph.initializer.iter().find(|t| t.name == *name)
    };
    match node.op_type.as_str() {
        "QuantizeLinear" | "DequantizeLinear" => match (initializer(1), initializer(2)) {
            (None, _) => Some("its scale is no constant".to_owned()),
            (_, None) => Some("without a zero point it is of UINT8".to_owned()),
            (_, Some(zero)) if !all_zero(zero) => Some("its zero point is not zero".to_owned()),
            (_, Some(zero)) if data_type(zero.data_type) != DataType::Int8 => {
                Some("it is not of INT8".to_owned())
            }
            _ => None,
        },
        "Conv" | "ConvTranspose" => {
            let kernel = attribute(node, "kernel_shape").map_or(0, |a| a.ints.len());
            (![2, 3].contains(&kernel)).then(|| format!("{kernel} dimensions, it takes 2 or 3"))
        }
        "MaxPool" | "AveragePool" | "LpPool" => {
            let dilated = attribute(node, "dilations").is_some_and(|a| a.ints.iter().any(|d| *d != 1));
            let kernel = attribute(node, "kernel_shape").map_or(0, |a| a.ints.len());
            if node.output.len() > 1 {
                Some("its places are asked for".to_owned())
            } else if dilated {
                Some("dilated".to_owned())
            } else {
                (![2, 3].contains(&kernel)).then(|| format!("{kernel} dimensions, it takes 2 or 3"))
            }
        }
        "Resize" => {
            let mode = text(node, "mode", "nearest");
            let places = text(node, "coordinate_transformation_mode", "half_pixel");
            let antialias = attribute(node, "antialias").is_some_and(|a| a.i != 0);
            if !["nearest", "linear"].contains(&mode.as_str()) {
                Some(format!("mode {mode}"))
            } else if ![
                "half_pixel",
                "pytorch_half_pixel",
                "tf_half_pixel_for_nn",
                "asymmetric",
                "align_corners",
            ]
            .contains(&places.as_str())
            {
                Some(format!("coordinates {places}"))
            } else {
                antialias.then(|| "antialiased".to_owned())
            }
        }
        "Squeeze" | "Unsqueeze" | "Slice" | "ReduceMean" | "ReduceSum" | "ReduceMax" => {
            // Axes, where an input names them.
            let index = if node.op_type == "Slice" { 3 } else { 1 };
            let named = node.input.get(index).is_some_and(|name| !name.is_empty());
            (named && initializer(index).is_none()).then(|| "its axes are no constant".to_owned())
        }
        _ => None,
    }
}

fn all_zero(tensor: &TensorProto) -> bool {
    tensor.raw_data.iter().all(|b| *b == 0) && tensor.int32_data.iter().all(|v| *v == 0)
}
