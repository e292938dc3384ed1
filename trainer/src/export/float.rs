//! The f32 file: batch normalisation folded into the convolutions, weights as they are or stored as f16.

use std::collections::BTreeMap;

use super::builder::{
    Builder, INPUT, SIDE, conv_attributes, depth_to_space_attributes, max_pool_attributes, output_name,
};
use crate::graph::{Graph, Op};
use crate::weights::FoldedConv;

/// Writes the network, which computes in f32, with its weights stored as f16.
///
/// # Panics
/// `convs` lacks a convolution of the graph.
#[must_use]
pub fn write(name: &str, graph: &Graph, convs: &BTreeMap<String, FoldedConv>) -> Vec<u8> {
    write_with(Builder::storing_f16(), name, graph, convs)
}

/// Writes the network with its weights as they are, in f32.
///
/// # Panics
/// As [`write()`].
#[must_use]
pub fn write_exact(name: &str, graph: &Graph, convs: &BTreeMap<String, FoldedConv>) -> Vec<u8> {
    write_with(Builder::default(), name, graph, convs)
}

fn write_with(
    mut builder: Builder,
    name: &str,
    graph: &Graph,
    convs: &BTreeMap<String, FoldedConv>,
) -> Vec<u8> {
    let value = |id: usize| match id {
        0 => INPUT.to_owned(),
        id => output_name(graph, id).unwrap_or(&graph.nodes[id].name).to_owned(),
    };
    builder.floats("zero", &[], &[0.0]);
    if graph.nodes.iter().any(|node| node.op == Op::Relu6) {
        builder.floats("six", &[], &[6.0]);
    }
    let shapes = graph.shapes(SIDE, SIDE);
    for (id, node) in graph.nodes.iter().enumerate() {
        let inputs: Vec<String> = node.inputs.iter().map(|&input| value(input)).collect();
        let mut inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let output = value(id);
        match &node.op {
            Op::Input { .. } => {}
            Op::Conv(conv) => {
                let folded = &convs[&node.name];
                let (weight, bias) = (format!("{}.weight", node.name), format!("{}.bias", node.name));
                builder.weights(&weight, &conv.weight_shape(), &folded.weight);
                builder.floats(&bias, &[conv.outputs], &folded.bias);
                builder.node(
                    "Conv",
                    &[inputs[0], &weight, &bias],
                    &output,
                    conv_attributes(conv),
                );
            }
            Op::Relu6 => {
                inputs.extend(["zero", "six"]);
                builder.node("Clip", &inputs, &output, vec![]);
            }
            Op::Relu => builder.node("Relu", &inputs, &output, vec![]),
            Op::Add => builder.node("Add", &inputs, &output, vec![]),
            Op::Concat => builder.node("Concat", &inputs, &output, vec![super::builder::int("axis", 1)]),
            Op::GlobalAvgPool => builder.node("GlobalAveragePool", &inputs, &output, vec![]),
            Op::DepthToSpace => builder.node("DepthToSpace", &inputs, &output, depth_to_space_attributes()),
            Op::MaxPool(pool) => builder.node("MaxPool", &inputs, &output, max_pool_attributes(*pool)),
            Op::Unpool => builder.unpool([inputs[0], inputs[1], inputs[2]], "zero", &output),
            Op::ConvTranspose(_)
            | Op::BinPool { .. }
            | Op::ResizeLike
            | Op::ResizeTo { .. }
            | Op::LayerNorm { .. }
            | Op::Gelu
            | Op::Attention { .. }
            | Op::Coordinates { .. }
            | Op::PointsNms
            | Op::Rows => {
                let channels = shapes[node.inputs[0]][0];
                builder.float_only(&node.op, channels, &inputs, &output, convs.get(&node.name));
            }
        }
    }
    builder.finish(name, graph)
}
