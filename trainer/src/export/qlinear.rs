//! The int8 file in the form that ONNX Runtime's CPU runs fastest: QLinearConv and its relatives, u8 activations.
//!
//! The last convolution, the classifier, stays f32 so that logits are fine-grained; so do those of other outputs, and what joins
//! them.

use std::collections::BTreeMap;

use super::builder::{
    Builder, INPUT, MICROSOFT, SIDE, conv_attributes, depth_to_space_attributes, int, max_pool_attributes,
    output_name,
};
use crate::graph::{Graph, NodeId, Op};
use crate::quantize::{Calibration, Params, Plan, correct_bias, quantize_conv};
use crate::weights::FoldedConv;

/// Writes the network in 8-bit integers.
///
/// # Panics
/// `convs` or `calibration` belong to another graph, or an output is no convolution.
#[must_use]
pub fn write(
    name: &str,
    graph: &Graph,
    convs: &BTreeMap<String, FoldedConv>,
    calibration: &Calibration,
) -> Vec<u8> {
    let plan = Plan::new(graph);
    let mut writer = Writer {
        builder: Builder::default(),
        graph,
        plan: &plan,
        params: plan.params(calibration),
    };
    let shapes = graph.shapes(SIDE, SIDE);
    let ends = graph.ends();
    for (id, node) in graph.nodes.iter().enumerate() {
        let output = node.name.clone();
        let result = output_name(graph, id).unwrap_or(&node.name);
        let inputs: Vec<String> = node.inputs.iter().map(|&input| writer.value(input)).collect();
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        match &node.op {
            Op::Input { .. } => {
                let [scale, zero] = writer.storage(id);
                writer.builder.node(
                    "QuantizeLinear",
                    &[INPUT, &scale, &zero],
                    &value_name(graph, id),
                    vec![],
                );
            }
            Op::PointsNms | Op::Rows => {
                let channels = shapes[node.inputs[0]][0];
                writer
                    .builder
                    .float_only(&node.op, channels, &inputs, result, None);
            }
            Op::Conv(conv) if ends[id] => {
                let [scale, zero] = writer.storage(node.inputs[0]);
                let float = format!("{}.input", node.name);
                writer
                    .builder
                    .node("DequantizeLinear", &[inputs[0], &scale, &zero], &float, vec![]);
                let (weight, bias) = (format!("{}.weight", node.name), format!("{}.bias", node.name));
                let folded = &convs[&node.name];
                writer
                    .builder
                    .floats(&weight, &conv.weight_shape(), &folded.weight);
                writer.builder.floats(&bias, &[conv.outputs], &folded.bias);
                writer
                    .builder
                    .node("Conv", &[&float, &weight, &bias], result, conv_attributes(conv));
            }
            Op::Conv(conv) => {
                let from = node.inputs[0];
                let folded = &convs[&node.name];
                let bits = calibration.weight_bits;
                let quantized = quantize_conv(conv, folded, writer.params[from], bits);
                let quantized = if calibration.correct_bias {
                    let corrected = correct_bias(conv, folded, &quantized, &calibration.means[from]);
                    quantize_conv(conv, &corrected, writer.params[from], bits)
                } else {
                    quantized
                };
                let [x_scale, x_zero] = writer.storage(from);
                let [y_scale, y_zero] = writer.storage(id);
                let part = |suffix: &str| format!("{}.{suffix}", node.name);
                let channels = [conv.outputs];
                writer
                    .builder
                    .signed_bytes(&part("weight"), &conv.weight_shape(), &quantized.weight);
                writer
                    .builder
                    .floats(&part("weight.scale"), &channels, &quantized.scales);
                writer
                    .builder
                    .signed_bytes(&part("weight.zero"), &channels, &vec![0; conv.outputs as usize]);
                writer.builder.ints(&part("bias"), &channels, &quantized.bias);
                let weight = [
                    part("weight"),
                    part("weight.scale"),
                    part("weight.zero"),
                    part("bias"),
                ];
                writer.builder.node(
                    "QLinearConv",
                    &[
                        inputs[0], &x_scale, &x_zero, &weight[0], &weight[1], &weight[2], &y_scale, &y_zero,
                        &weight[3],
                    ],
                    &output,
                    conv_attributes(conv),
                );
            }
            Op::Relu6 | Op::Relu => {}
            // ONNX Runtime has no 8-bit form of these: in and out of f32 around them. A sum of logits keeps its fine steps.
            op if is_float(op) || graph.is_output(id) && *op == Op::Add => {
                let channels = shapes[node.inputs[0]][0];
                let mut floats = Vec::new();
                // Where cells lie depends on no value.
                let read = if matches!(op, Op::Coordinates { .. }) {
                    &[]
                } else {
                    inputs.as_slice()
                };
                for (place, input) in read.iter().enumerate() {
                    let [scale, zero] = writer.storage(node.inputs[place]);
                    let float = format!("{output}.input{place}");
                    writer
                        .builder
                        .node("DequantizeLinear", &[input, &scale, &zero], &float, vec![]);
                    floats.push(float);
                }
                let floats: Vec<&str> = floats.iter().map(String::as_str).collect();
                let folded = convs.get(&node.name);
                let real = match output_name(graph, id) {
                    Some(name) => name.to_owned(),
                    None => format!("{output}.real"),
                };
                writer.builder.float_only(op, channels, &floats, &real, folded);
                if !graph.is_output(id) {
                    let [scale, zero] = writer.storage(id);
                    writer
                        .builder
                        .node("QuantizeLinear", &[&real, &scale, &zero], &output, vec![]);
                }
            }
            Op::Add => {
                let [a_scale, a_zero] = writer.storage(node.inputs[0]);
                let [b_scale, b_zero] = writer.storage(node.inputs[1]);
                let [y_scale, y_zero] = writer.storage(id);
                let inputs = [
                    inputs[0], &a_scale, &a_zero, inputs[1], &b_scale, &b_zero, &y_scale, &y_zero,
                ];
                writer
                    .builder
                    .node_of(MICROSOFT, "QLinearAdd", &inputs, &output, vec![]);
            }
            Op::Concat => {
                let stored_alike = node
                    .inputs
                    .iter()
                    .all(|&input| plan.storage[input] == plan.storage[id]);
                let attributes = vec![int("axis", 1)];
                if stored_alike {
                    writer.builder.node("Concat", &inputs, &output, attributes);
                } else {
                    let mut names: Vec<String> = writer.storage(id).into();
                    for (&from, input) in node.inputs.iter().zip(&inputs) {
                        names.push((*input).to_owned());
                        names.extend(writer.storage(from));
                    }
                    let names: Vec<&str> = names.iter().map(String::as_str).collect();
                    writer
                        .builder
                        .node_of(MICROSOFT, "QLinearConcat", &names, &output, attributes);
                }
            }
            Op::GlobalAvgPool => {
                let [x_scale, x_zero] = writer.storage(node.inputs[0]);
                let [y_scale, y_zero] = writer.storage(id);
                let inputs = [inputs[0], &x_scale, &x_zero, &y_scale, &y_zero];
                let attributes = vec![int("channels_last", 0)];
                writer.builder.node_of(
                    MICROSOFT,
                    "QLinearGlobalAveragePool",
                    &inputs,
                    &output,
                    attributes,
                );
            }
            Op::DepthToSpace => {
                writer
                    .builder
                    .node("DepthToSpace", &inputs, &output, depth_to_space_attributes())
            }
            Op::MaxPool(pool) => writer
                .builder
                .node("MaxPool", &inputs, &output, max_pool_attributes(*pool)),
            Op::ConvTranspose(_)
            | Op::BinPool { .. }
            | Op::ResizeLike
            | Op::ResizeTo { .. }
            | Op::LayerNorm { .. }
            | Op::Gelu
            | Op::Attention { .. }
            | Op::Coordinates { .. } => unreachable!("f32 alone"),
            Op::Unpool => {
                // A value and its zero are stored alike, and so are what was pooled and the maxima.
                let [_, zero] = writer.storage(id);
                writer
                    .builder
                    .unpool([inputs[0], inputs[1], inputs[2]], &zero, &output);
            }
        }
    }
    writer.builder.finish(name, graph)
}

/// Whether an operation has no 8-bit form.
fn is_float(op: &Op) -> bool {
    matches!(
        op,
        Op::ConvTranspose(_)
            | Op::BinPool { .. }
            | Op::ResizeLike
            | Op::ResizeTo { .. }
            | Op::LayerNorm { .. }
            | Op::Gelu
            | Op::Attention { .. }
            | Op::Coordinates { .. }
    )
}

struct Writer<'a> {
    builder: Builder,
    graph: &'a Graph,
    plan: &'a Plan,
    /// How each node's value is stored.
    params: Vec<Params>,
}

impl Writer<'_> {
    /// The name of a node's stored value: an absorbed activation's is the one before it.
    fn value(&self, id: NodeId) -> String {
        if self.plan.absorbed[id] {
            self.value(self.graph.nodes[id].inputs[0])
        } else {
            value_name(self.graph, id)
        }
    }

    /// The names of the scale and the zero point of a node's value, which are added where they are first used.
    fn storage(&mut self, id: NodeId) -> [String; 2] {
        let owner = self.plan.storage[id];
        let names = ["scale", "zero"].map(|suffix| format!("{}.{suffix}", value_name(self.graph, owner)));
        if !self.builder.has_constant(&names[0]) {
            let Params { scale, zero_point } = self.params[owner];
            self.builder.floats(&names[0], &[], &[scale]);
            self.builder.bytes(&names[1], &[], &[zero_point]);
        }
        names
    }
}

/// The input's stored value has another name than the input.
fn value_name(graph: &Graph, id: NodeId) -> String {
    if id == 0 {
        "input.stored".to_owned()
    } else {
        graph.nodes[id].name.clone()
    }
}
