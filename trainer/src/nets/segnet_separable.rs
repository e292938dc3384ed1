//! A SegNet made for real time: inverted residuals in the encoder, depthwise-separable convolutions in the decoder,
//! and, as in SegNet (Badrinarayanan et al. 2017), nothing but the places of the maxima passed from one to the other.
//!
//! EfficientNet-Lite0 halves the size by strided convolutions. Beside each of those steps a max-pooling branch runs, as
//! in ENet's downsampling (Paszke et al. 2016, figure 2b): features go through a 1x1 convolution, are pooled, projected
//! and added to those of the next stride. The decoder undoes each pooling with its indices. The branch's projection
//! starts small, so that pretrained weights keep their meaning.

use super::efficientnet_lite::{LITE0, lite_with};
use super::{BATCH_NORM_EPS, Features, classifier, conv_relu6, refined};
use crate::graph::{Conv, Graph, NodeId, Op, Part, Pool};

/// Sizes of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Channels that are pooled and unpooled at stride 8, 4 and 2.
    pub channels: [i64; 3],
    /// Classes.
    pub classes: i64,
}

/// A pooling step of the encoder: what was pooled, the pooled values, and their channels.
struct Pooling {
    input: NodeId,
    pooled: NodeId,
    channels: i64,
}

/// Builds the network; the output is `[N, classes, H / 2, W / 2]`. Sides are multiples of 16.
#[must_use]
pub fn segnet_separable(sizes: Sizes) -> Graph {
    let mut poolings: Vec<Pooling> = Vec::new();
    let trunk = lite_with(LITE0, |graph, stride, before, own| {
        let Some(before) = before else { return own };
        let channels = match stride {
            4 => sizes.channels[2],
            8 => sizes.channels[1],
            _ => sizes.channels[0],
        };
        let name = |layer: &str| format!("pool{stride}.{layer}");
        let conv = Conv::pointwise(before.1, channels, BATCH_NORM_EPS);
        let input = conv_relu6(graph, &name("conv"), conv, before.0);
        let pooled = graph.push(Part::Head, name("max"), Op::MaxPool(Pool::Cells), &[input]);
        let project = Conv {
            bias: true,
            batch_norm: None,
            gain: 0.1,
            ..Conv::pointwise(channels, own.1, BATCH_NORM_EPS)
        };
        let project = graph.push(Part::Head, name("project"), Op::Conv(project), &[pooled]);
        let sum = graph.push(Part::Head, name("add"), Op::Add, &[own.0, project]);
        poolings.push(Pooling {
            input,
            pooled,
            channels,
        });
        (sum, own.1)
    });
    let mut graph = trunk.graph;
    let mut x: Features = trunk.stride16;
    let names = ["unpool8", "unpool4", "unpool2"];
    for (pooling, name) in poolings.iter().rev().zip(names) {
        let layer = |layer: &str| format!("{name}.{layer}");
        let channels = pooling.channels;
        let conv = Conv::pointwise(x.1, channels, BATCH_NORM_EPS);
        let z = conv_relu6(&mut graph, &layer("conv"), conv, x.0);
        let unpooled = graph.push(
            Part::Head,
            layer("unpool"),
            Op::Unpool,
            &[z, pooling.input, pooling.pooled],
        );
        x = refined(&mut graph, name, (unpooled, channels), channels);
    }
    classifier(&mut graph, x, sizes.classes);
    graph
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poolings_and_unpoolings_mirror_each_other() {
        let sizes = Sizes {
            channels: [96, 64, 32],
            classes: 11,
        };
        let graph = segnet_separable(sizes);
        let shapes = graph.shapes(352, 480);
        assert_eq!(shapes[graph.output], [11, 176, 240]);
        let count = |op: &Op| graph.nodes.iter().filter(|node| node.op == *op).count();
        assert_eq!((count(&Op::MaxPool(Pool::Cells)), count(&Op::Unpool)), (3, 3));
        for node in graph.nodes.iter().filter(|node| node.op == Op::Unpool) {
            assert_eq!(shapes[node.inputs[0]], shapes[node.inputs[2]], "{}", node.name);
            assert_eq!(
                graph.nodes[node.inputs[2]].inputs,
                [node.inputs[1]],
                "{}",
                node.name
            );
        }
    }
}
