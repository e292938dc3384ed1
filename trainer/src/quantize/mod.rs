//! Post-training quantization to 8-bit integers.
//!
//! Activations are u8 with one scale and zero point a value, weights s8 with one scale an output channel and zero
//! point 0, biases i32: what 8-bit dot-product instructions (VNNI, NEON's sdot and udot) want.

mod calibrate;
mod equalise;
mod fine_tune;
mod weights;

pub use calibrate::{Calibration, Method, Observations, Range, calibrate, observe};
pub use equalise::equalise;
pub use fine_tune::{FineTune, fine_tune, quantized_forward};
pub use weights::{QuantizedConv, WeightBits, correct_bias, quantize_conv};

use std::collections::BTreeMap;

use anyhow::Result;
use tch::{Device, Tensor};

use crate::graph::{Graph, Node, NodeId, Op};
use crate::weights::{FoldedConv, Weights};

/// The network with batch normalisation folded: a graph whose convolutions have biases and no normalisation, and weights
/// from `convs`.
///
/// # Errors
/// `convs` belongs to another graph.
pub fn folded(graph: &Graph, convs: &BTreeMap<String, FoldedConv>) -> Result<(Graph, Weights)> {
    let mut graph = graph.clone();
    for node in &mut graph.nodes {
        match &mut node.op {
            Op::Conv(conv) => (conv.bias, conv.batch_norm, conv.scale) = (true, None, 1.0),
            Op::ConvTranspose(conv) => conv.bias = true,
            _ => {}
        }
    }
    let mut weights = Weights::random(&graph, 0, Device::Cpu);
    for (name, folded) in convs {
        let weight = format!("{name}.weight");
        let shape = weights.get(&weight).size();
        weights.set(&weight, &Tensor::from_slice(&folded.weight).reshape(shape))?;
        weights.set(&format!("{name}.bias"), &Tensor::from_slice(&folded.bias))?;
    }
    Ok((graph, weights))
}

/// How a value is stored in u8: `real = scale * (stored - zero_point)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Params {
    /// Step between two stored values.
    pub scale: f32,
    /// The stored value that means zero.
    pub zero_point: u8,
}

impl Params {
    /// The finest storage of `range`, which is widened to hold zero exactly.
    #[must_use]
    pub fn of(range: Range) -> Self {
        let (low, high) = (range.low.min(0.0), range.high.max(0.0));
        let scale = ((high - low) / 255.0).max(f32::MIN_POSITIVE * 1e6);
        Self {
            scale,
            zero_point: (-low / scale).round().clamp(0.0, 255.0) as u8,
        }
    }

    /// The stored value nearest to `real`.
    #[must_use]
    pub fn store(self, real: f32) -> u8 {
        // ONNX rounds halves to even.
        ((real / self.scale).round_ties_even() + f32::from(self.zero_point)).clamp(0.0, 255.0) as u8
    }

    /// The real value of a stored one.
    #[must_use]
    pub fn real(self, stored: u8) -> f32 {
        self.scale * (f32::from(stored) - f32::from(self.zero_point))
    }
}

/// Where the values of a graph are quantized.
///
/// An activation is absorbed by the node before it: that node's value is stored in the activation's range, and the
/// store saturates. Concatenation, depth-to-space, pooling and unpooling move stored values, so inputs and outputs share
/// their storage. A concatenation of activations with values below zero is an exception: in a shared storage, which has
/// negative values, the activations' negative inputs would no longer saturate to zero. There each keeps its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// For every node, the node whose calibrated range its stored value has; several share a storage.
    pub storage: Vec<NodeId>,
    /// For every node, whether it is an activation that the node before it absorbs.
    pub absorbed: Vec<bool>,
    /// Sets of nodes that share one storage, whose range is the union of theirs.
    pub unions: Vec<Vec<NodeId>>,
}

impl Plan {
    /// Whether the node after `id` is an activation that `id` absorbs: its own value is never stored.
    #[must_use]
    pub fn absorbs(&self, graph: &Graph, id: NodeId) -> bool {
        graph
            .nodes
            .iter()
            .enumerate()
            .any(|(reader, node)| self.absorbed[reader] && node.inputs[0] == id)
    }

    /// How each node's value is stored.
    #[must_use]
    pub fn params(&self, calibration: &Calibration) -> Vec<Params> {
        self.ranges(calibration).into_iter().map(Params::of).collect()
    }

    /// The range of each node's storage.
    #[must_use]
    pub fn ranges(&self, calibration: &Calibration) -> Vec<Range> {
        let mut ranges = calibration.ranges.clone();
        for union in &self.unions {
            let range = union
                .iter()
                .map(|&id| calibration.ranges[id])
                .reduce(Range::union)
                .expect("a concatenation has inputs");
            ranges[self.storage[union[0]]] = range;
        }
        self.storage.iter().map(|&owner| ranges[owner]).collect()
    }

    /// Plans a graph.
    ///
    /// # Panics
    /// An activation reads a value that other nodes read too: no network here has that.
    #[must_use]
    pub fn new(graph: &Graph) -> Self {
        let count = graph.nodes.len();
        let mut readers = vec![0; count];
        for &input in graph.nodes.iter().flat_map(|node| &node.inputs) {
            readers[input] += 1;
        }
        let mut storage: Vec<NodeId> = (0..count).collect();
        let mut absorbed = vec![false; count];
        let mut unions = Vec::new();
        for (id, node) in graph.nodes.iter().enumerate() {
            match node.op {
                Op::Relu6 | Op::Relu => {
                    let input = node.inputs[0];
                    assert_eq!(
                        readers[input], 1,
                        "{} reads a value that others read too",
                        node.name
                    );
                    absorbed[id] = true;
                    storage[input] = id;
                }
                Op::DepthToSpace | Op::MaxPool(_) | Op::Unpool => storage[id] = storage[node.inputs[0]],
                Op::Concat if shares_storage(graph, node) => {
                    let members: Vec<NodeId> = node.inputs.iter().map(|&input| storage[input]).collect();
                    for &member in &members {
                        storage[member] = id;
                    }
                    unions.push(members);
                }
                _ => {}
            }
        }
        // A chain (convolution, activation, concatenation) ends at the node that owns the storage.
        for id in 0..count {
            let mut owner = storage[id];
            while storage[owner] != owner {
                owner = storage[owner];
            }
            storage[id] = owner;
        }
        Self {
            storage,
            absorbed,
            unions,
        }
    }
}

/// Whether the inputs of a concatenation can be stored alike.
fn shares_storage(graph: &Graph, concat: &Node) -> bool {
    let activations = concat
        .inputs
        .iter()
        .filter(|&&input| is_non_negative(graph, input))
        .count();
    activations == 0 || activations == concat.inputs.len()
}

/// Whether a value comes from a ReLU, directly or through operations that keep it from falling below zero.
fn is_non_negative(graph: &Graph, id: NodeId) -> bool {
    let node = &graph.nodes[id];
    match node.op {
        Op::Relu | Op::Relu6 | Op::Coordinates { .. } => true,
        Op::Add | Op::Concat => node.inputs.iter().all(|&input| is_non_negative(graph, input)),
        Op::DepthToSpace
        | Op::MaxPool(_)
        | Op::Unpool
        | Op::GlobalAvgPool
        | Op::BinPool { .. }
        | Op::ResizeLike
        | Op::ResizeTo { .. } => is_non_negative(graph, node.inputs[0]),
        Op::Input { .. }
        | Op::Conv(_)
        | Op::ConvTranspose(_)
        | Op::LayerNorm { .. }
        | Op::Gelu
        | Op::Attention { .. }
        | Op::PointsNms
        | Op::Rows => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Conv, Part};
    use crate::nets::{deeplabv3_light as deeplabv3, efficientnet_lite};

    #[test]
    fn zero_is_stored_exactly_and_the_range_is_covered() {
        for (low, high) in [(-1.0, 3.0), (0.0, 6.0), (0.5, 2.0), (-4.0, -1.0), (-0.37, 11.2)] {
            let params = Params::of(Range { low, high });
            assert_eq!(params.real(params.store(0.0)), 0.0);
            for i in 0..=100 {
                let real = low.min(0.0) + (high.max(0.0) - low.min(0.0)) * i as f32 / 100.0;
                let error = (params.real(params.store(real)) - real).abs();
                assert!(
                    error <= 0.51 * params.scale,
                    "{real} in {low}..{high}: {error} of {}",
                    params.scale
                );
            }
        }
    }

    #[test]
    fn values_outside_the_range_saturate() {
        let relu6 = Params::of(Range { low: 0.0, high: 6.0 });
        assert_eq!(relu6.store(-5.0), 0);
        assert_eq!(relu6.store(100.0), 255);
    }

    #[test]
    fn a_constant_zero_has_a_storage() {
        let params = Params::of(Range { low: 0.0, high: 0.0 });
        assert!(params.scale > 0.0);
        assert_eq!(params.real(params.store(0.0)), 0.0);
    }

    #[test]
    fn activations_are_absorbed_and_concatenated_values_share_their_storage() {
        let mut graph = Graph::new(3);
        let conv = |graph: &mut Graph, name: &str| {
            let x = graph.push(Part::Head, name, Op::Conv(Conv::pointwise(3, 4, 1e-5)), &[0]);
            (
                x,
                graph.push(Part::Head, format!("{name}.relu6"), Op::Relu6, &[x]),
            )
        };
        let (a, a6) = conv(&mut graph, "a");
        let (b, b6) = conv(&mut graph, "b");
        let both = graph.push(Part::Head, "both", Op::Concat, &[a6, b6]);
        let up = graph.push(Part::Head, "up", Op::DepthToSpace, &[both]);
        let plan = Plan::new(&graph);
        assert_eq!(plan.storage, [0, both, both, both, both, both, both]);
        assert!(plan.absorbed[a6] && plan.absorbed[b6] && !plan.absorbed[a] && !plan.absorbed[b]);
        assert_eq!(plan.unions, [vec![a6, b6]]);
        assert_eq!(plan.storage[up], both);
    }

    #[test]
    fn activations_keep_their_storage_beside_values_below_zero() {
        let mut graph = Graph::new(3);
        let conv = |graph: &mut Graph, name: &str| {
            graph.push(Part::Head, name, Op::Conv(Conv::pointwise(3, 4, 1e-5)), &[0])
        };
        let a = conv(&mut graph, "a");
        let relu = graph.push(Part::Head, "a.relu", Op::Relu, &[a]);
        let b = conv(&mut graph, "b");
        let mixed = graph.push(Part::Head, "mixed", Op::Concat, &[relu, b]);
        let c = conv(&mut graph, "c");
        let linear = graph.push(Part::Head, "linear", Op::Concat, &[c, c]);
        let plan = Plan::new(&graph);
        assert_eq!(plan.storage, [0, relu, relu, b, mixed, linear, linear]);
        assert_eq!(plan.unions, [vec![c, c]]);
    }

    #[test]
    fn a_real_network_can_be_planned() {
        let head = deeplabv3::Head {
            pyramid: 32,
            decoder: vec![16],
            rates: vec![2, 4, 6],
            classes: 5,
        };
        let graph = deeplabv3::deeplabv3_light(efficientnet_lite::lite(efficientnet_lite::LITE0), &head);
        let plan = Plan::new(&graph);
        for (id, node) in graph.nodes.iter().enumerate() {
            if matches!(node.op, Op::Relu6) {
                assert_eq!(plan.storage[node.inputs[0]], plan.storage[id], "{}", node.name);
            }
        }
    }
}
