//! Cross-layer equalisation: channels of convolutions that follow each other are scaled against each other, so that
//! each has the same range (Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction",
//! section 4.1). What the network computes stays the same.

use std::collections::BTreeMap;

use crate::graph::{Conv, Graph, NodeId, Op};
use crate::weights::FoldedConv;

/// Rounds over all pairs; a channel between two others needs a few.
const ROUNDS: usize = 20;

/// Convolutions of which the second alone reads the first, through nothing or through a ReLU.
///
/// A ReLU6 is not passed: its limit would have to be scaled too.
#[must_use]
pub fn pairs(graph: &Graph) -> Vec<(NodeId, NodeId)> {
    let mut readers: Vec<Vec<NodeId>> = vec![vec![]; graph.nodes.len()];
    for (id, node) in graph.nodes.iter().enumerate() {
        for &input in &node.inputs {
            readers[input].push(id);
        }
    }
    let only_reader = |id: NodeId| match readers[id].as_slice() {
        &[reader] => Some(reader),
        _ => None,
    };
    let second = |first: NodeId| {
        let mut next = only_reader(first)?;
        if graph.nodes[next].op == Op::Relu {
            next = only_reader(next)?;
        }
        let Op::Conv(conv) = &graph.nodes[next].op else {
            return None;
        };
        (conv.groups == 1 || conv.groups == conv.inputs).then_some(next)
    };
    let ends = graph.ends();
    (0..graph.nodes.len())
        .filter(|&id| matches!(graph.nodes[id].op, Op::Conv(_)) && !ends[id])
        .filter_map(|id| Some((id, second(id)?)))
        .collect()
}

/// Equalises every pair of `graph` in `convs`; how many there are.
///
/// # Panics
/// `convs` belongs to another graph.
pub fn equalise(graph: &Graph, convs: &mut BTreeMap<String, FoldedConv>) -> usize {
    let pairs = pairs(graph);
    let conv = |id: NodeId| match &graph.nodes[id].op {
        Op::Conv(conv) => conv,
        op => panic!("{op:?} is no convolution"),
    };
    for _ in 0..ROUNDS {
        for &(first, second) in &pairs {
            let names = [first, second].map(|id| graph.nodes[id].name.clone());
            let (a, b) = (conv(first), conv(second));
            for channel in 0..a.outputs as usize {
                let largest = |folded: &FoldedConv, at: &[usize]| {
                    at.iter()
                        .fold(0f32, |largest, &i| largest.max(folded.weight[i].abs()))
                };
                let own = output_weights(a, channel);
                let read = input_weights(b, channel);
                let ranges = [
                    largest(&convs[&names[0]], &own),
                    largest(&convs[&names[1]], &read),
                ];
                if ranges.iter().any(|&range| range < 1e-8) {
                    continue;
                }
                let scale = (ranges[0] / ranges[1]).sqrt();
                let folded = convs.get_mut(&names[0]).expect("a convolution of the graph");
                for at in own {
                    folded.weight[at] /= scale;
                }
                folded.bias[channel] /= scale;
                let folded = convs.get_mut(&names[1]).expect("a convolution of the graph");
                for at in read {
                    folded.weight[at] *= scale;
                }
            }
        }
    }
    pairs.len()
}

/// Places of the weights that make output channel `channel`.
fn output_weights(conv: &Conv, channel: usize) -> Vec<usize> {
    let taps = (conv.inputs / conv.groups * conv.kernel * conv.kernel) as usize;
    (channel * taps..(channel + 1) * taps).collect()
}

/// Places of the weights that read input channel `channel`.
fn input_weights(conv: &Conv, channel: usize) -> Vec<usize> {
    if conv.groups > 1 {
        return output_weights(conv, channel);
    }
    let (inputs, area) = (conv.inputs as usize, (conv.kernel * conv.kernel) as usize);
    (0..conv.outputs as usize)
        .flat_map(|output| {
            let start = (output * inputs + channel) * area;
            start..start + area
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::{Mode, forward};
    use crate::graph::Part;
    use crate::quantize::folded;
    use crate::weights::{Weights, fold};
    use tch::{Device, Kind, Tensor};

    /// Dense, depthwise and pointwise convolutions with ReLU between, then one after a ReLU6.
    fn chain() -> Graph {
        let mut graph = Graph::new(3);
        let mut x = 0;
        for (name, conv) in [
            ("a", Conv::pointwise(3, 6, 1e-5)),
            ("b", Conv::depthwise(6, 3, 1, 1, 1e-5)),
            ("c", Conv::pointwise(6, 4, 1e-5)),
        ] {
            x = graph.push(Part::Head, name, Op::Conv(conv), &[x]);
            x = graph.push(Part::Head, format!("{name}.relu"), Op::Relu, &[x]);
        }
        x = graph.push(Part::Head, "d", Op::Conv(Conv::pointwise(4, 4, 1e-5)), &[x]);
        x = graph.push(Part::Head, "d.relu6", Op::Relu6, &[x]);
        graph.push(Part::Head, "e", Op::Conv(Conv::pointwise(4, 2, 1e-5)), &[x]);
        graph
    }

    #[test]
    fn channels_get_one_range_and_the_network_stays_the_same() {
        let graph = chain();
        let mut weights = Weights::random(&graph, 5, Device::Cpu);
        // Channels of very different ranges.
        let scales = Tensor::from_slice(&[0.01f32, 1.0, 20.0, 0.3, 5.0, 0.1]).reshape([6, 1, 1, 1]);
        let uneven = weights.get("a.weight") * scales;
        weights.set("a.weight", &uneven).unwrap();
        let before = fold(&graph, &weights).unwrap();
        let mut after = before.clone();
        assert_eq!(equalise(&graph, &mut after), 3);
        let named = |(a, b): (NodeId, NodeId)| (graph.nodes[a].name.clone(), graph.nodes[b].name.clone());
        let names: Vec<_> = pairs(&graph).into_iter().map(named).collect();
        assert_eq!(
            names,
            [("a", "b"), ("b", "c"), ("c", "d")].map(|(a, b)| (a.to_owned(), b.to_owned()))
        );

        let input = Tensor::randn([1, 3, 8, 8], (Kind::Float, Device::Cpu));
        let run = |convs| {
            let (graph, weights) = folded(&graph, convs).unwrap();
            tch::no_grad(|| forward(&graph, &weights, &input, Mode::Eval, Kind::Float))
        };
        let (x, y) = (run(&before), run(&after));
        assert!((&x - &y).abs().max().double_value(&[]) < 1e-4 * x.abs().max().double_value(&[]));

        let range = |folded: &FoldedConv, places: Vec<usize>| {
            places
                .into_iter()
                .fold(0f32, |largest, i| largest.max(folded.weight[i].abs()))
        };
        let conv = |name: &str| {
            graph
                .convs()
                .find(|(node, _)| node.name == name)
                .unwrap()
                .1
                .clone()
        };
        for channel in 0..6 {
            let own = range(&after["b"], output_weights(&conv("b"), channel));
            let read = range(&after["c"], input_weights(&conv("c"), channel));
            assert!((own / read - 1.0).abs() < 0.05, "{channel}: {own} {read}");
        }
    }
}
