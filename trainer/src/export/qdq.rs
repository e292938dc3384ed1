//! The int8 file in the form that TensorRT takes: QuantizeLinear and DequantizeLinear around values and weights, symmetric.
//!
//! TensorRT fuses the pairs into its 8-bit layers (NVIDIA TensorRT developer guide, "Working with quantized types"): s8
//! with zero point 0, one scale a value, one scale an output channel of weights. It is made from the f32 file: a pair
//! follows every value that is stored, and every convolution's weights but the classifier's are stored in s8.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use prost::Message;
use tract_onnx::pb::{ModelProto, NodeProto, TensorProto, tensor_proto::DataType};

use super::builder::{INPUT, int};
use super::float;
use crate::graph::{Graph, Op};
use crate::quantize::{Calibration, Params, Plan, WeightBits, correct_bias, quantize_conv};
use crate::weights::FoldedConv;

/// Writes the network with pairs of QuantizeLinear and DequantizeLinear.
///
/// # Errors
/// The f32 file can't be read back.
pub fn write(
    name: &str,
    graph: &Graph,
    convs: &BTreeMap<String, FoldedConv>,
    calibration: &Calibration,
) -> Result<Vec<u8>> {
    let mut model = ModelProto::decode(&*float::write_exact(name, graph, convs)).context("the f32 file")?;
    let network = model.graph.as_mut().context("the f32 file holds no graph")?;
    let plan = Plan::new(graph);
    let ranges = plan.ranges(calibration);
    let mut pairs = Vec::new();
    let mut constants = Vec::new();

    for (id, node) in graph.nodes.iter().enumerate() {
        let Op::Conv(conv) = &node.op else { continue };
        if graph.is_output(id) {
            continue;
        }
        let folded = &convs[&node.name];
        let symmetric = Params {
            scale: symmetric_scale(ranges[node.inputs[0]].low, ranges[node.inputs[0]].high),
            zero_point: 0,
        };
        let mut quantized = quantize_conv(conv, folded, symmetric, WeightBits::Eight);
        let mut bias = folded.bias.clone();
        if calibration.correct_bias {
            bias = correct_bias(conv, folded, &quantized, &calibration.means[node.inputs[0]]).bias;
            quantized.bias.clear();
        }
        let weight = format!("{}.weight", node.name);
        network
            .initializer
            .retain(|constant| constant.name != weight && constant.name != format!("{}.bias", node.name));
        let stored = quantized.weight.iter().map(|&weight| weight as u8).collect();
        let scales = quantized
            .scales
            .iter()
            .flat_map(|scale| scale.to_le_bytes())
            .collect();
        let biases = bias.iter().flat_map(|bias| bias.to_le_bytes()).collect();
        let channels = vec![conv.outputs];
        constants.extend([
            constant(
                &format!("{weight}.s8"),
                conv.weight_shape().to_vec(),
                DataType::Int8,
                stored,
            ),
            constant(
                &format!("{weight}.scale"),
                channels.clone(),
                DataType::Float,
                scales,
            ),
            constant(
                &format!("{weight}.zero"),
                channels.clone(),
                DataType::Int8,
                vec![0; conv.outputs as usize],
            ),
            constant(&format!("{}.bias", node.name), channels, DataType::Float, biases),
        ]);
        let mut dequantize = pair_node(
            "DequantizeLinear",
            [
                &format!("{weight}.s8"),
                &format!("{weight}.scale"),
                &format!("{weight}.zero"),
            ],
            &weight,
        );
        dequantize.attribute.push(int("axis", 0));
        pairs.push(dequantize);
    }

    constants.push(constant("zero.s8", vec![], DataType::Int8, vec![0]));
    for (id, node) in graph.nodes.iter().enumerate() {
        let is_stored = plan.storage[id] == id && !graph.is_output(id) && !matches!(node.op, Op::Unpool);
        if !is_stored {
            continue;
        }
        let value = if id == 0 {
            INPUT.to_owned()
        } else {
            node.name.clone()
        };
        let scale = symmetric_scale(ranges[id].low, ranges[id].high);
        let scale_name = format!("{value}.scale");
        constants.push(constant(
            &scale_name,
            vec![],
            DataType::Float,
            scale.to_le_bytes().to_vec(),
        ));
        let (stored, real) = (format!("{value}.s8"), format!("{value}.real"));
        for reader in network.node.iter_mut().flat_map(|reader| &mut reader.input) {
            if *reader == value {
                reader.clone_from(&real);
            }
        }
        pairs.push(pair_node(
            "QuantizeLinear",
            [&value, &scale_name, "zero.s8"],
            &stored,
        ));
        pairs.push(pair_node(
            "DequantizeLinear",
            [&stored, &scale_name, "zero.s8"],
            &real,
        ));
    }
    network.initializer.extend(constants);
    network.node = sorted(std::mem::take(&mut network.node), pairs);
    Ok(model.encode_to_vec())
}

/// The step of a symmetric s8 storage of a range.
fn symmetric_scale(low: f32, high: f32) -> f32 {
    (high.max(-low) / 127.0).max(1e-12)
}

fn constant(name: &str, dims: Vec<i64>, data_type: DataType, raw_data: Vec<u8>) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims,
        data_type: data_type as i32,
        raw_data,
        ..Default::default()
    }
}

fn pair_node(op: &str, inputs: [&str; 3], output: &str) -> NodeProto {
    NodeProto {
        input: inputs.map(str::to_owned).to_vec(),
        output: vec![output.to_owned()],
        name: output.to_owned(),
        op_type: op.to_owned(),
        ..Default::default()
    }
}

/// The nodes in the order that ONNX asks for: each after those it reads. Pairs go right before their first reader.
fn sorted(nodes: Vec<NodeProto>, pairs: Vec<NodeProto>) -> Vec<NodeProto> {
    let mut waiting: BTreeMap<String, NodeProto> = pairs
        .into_iter()
        .map(|pair| (pair.output[0].clone(), pair))
        .collect();
    let mut sorted = Vec::with_capacity(nodes.len() + waiting.len());
    for node in nodes {
        for input in &node.input {
            // A DequantizeLinear may read a QuantizeLinear that waits too.
            let mut chain = Vec::new();
            let mut next = waiting.remove(input);
            while let Some(pair) = next {
                next = waiting.remove(&pair.input[0]);
                chain.push(pair);
            }
            sorted.extend(chain.into_iter().rev());
        }
        sorted.push(node);
    }
    sorted
}
