//! PSPNet (Zhao et al. 2017, figure 3) on ResNet-18 at stride 8: means over 1, 4, 9 and 36 parts of the picture, each
//! through a 1x1 convolution to a quarter of the channels, brought back to the features' size, concatenated with them, and
//! a 3x3 convolution.
//!
//! Sides are multiples of 48, so that the parts are equal. The auxiliary loss of the paper is left out.

use super::{BATCH_NORM_EPS, Features, classifier, conv_relu, resnet::resnet18};
use crate::graph::{Conv, Graph, Op, Part};

/// Parts along each axis.
const BINS: [i64; 4] = [1, 2, 3, 6];

/// Builds the network; the output is `[N, classes, H / 8, W / 8]`. Channels are divided by `divide`.
#[must_use]
pub fn pspnet(classes: i64, divide: i64) -> Graph {
    let trunk = resnet18(8, divide);
    let mut graph = trunk.graph;
    let (deep, channels) = trunk.stride16;
    let quarter = channels / 4;
    let mut parts = vec![deep];
    for bins in BINS {
        let name = |layer: &str| format!("pyramid{bins}.{layer}");
        let pooled = graph.push(Part::Head, name("pool"), Op::BinPool { bins }, &[deep]);
        let conv = Conv::pointwise(channels, quarter, BATCH_NORM_EPS);
        let x = conv_relu(&mut graph, Part::Head, &name("conv"), conv, pooled);
        parts.push(graph.push(Part::Head, name("resize"), Op::ResizeLike, &[x, deep]));
    }
    let x = graph.push(Part::Head, "pyramid", Op::Concat, &parts);
    let conv = Conv {
        kernel: 3,
        padding: [1, 1],
        ..Conv::pointwise(2 * channels, quarter, BATCH_NORM_EPS)
    };
    let x: Features = (conv_relu(&mut graph, Part::Head, "head", conv, x), quarter);
    classifier(&mut graph, x, classes);
    graph
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_and_parameters() {
        let graph = pspnet(21, 1);
        let trunk = 11_689_512 - 513_000;
        let pyramid = 4 * (512 * 128 + 2 * 128);
        let head = 9 * 1024 * 128 + 2 * 128 + 128 * 21 + 21;
        assert_eq!(graph.parameters(), trunk + pyramid + head);
        let shapes = graph.shapes(96, 144);
        assert_eq!(shapes[graph.output], [21, 12, 18]);
        let means: Vec<i64> = graph
            .nodes
            .iter()
            .zip(shapes)
            .filter(|(node, _)| matches!(node.op, Op::BinPool { .. }))
            .map(|(_, [_, h, w])| h * w)
            .collect();
        assert_eq!(means, [1, 4, 9, 36]);
    }
}
