//! DeepLabv3 as its paper has it (Chen et al. 2017, section 3.3): atrous spatial pyramid pooling with dense 3x3
//! convolutions of rates 6, 12 and 18 at stride 16, image pooling, 256 channels, and no decoder.
//!
//! The paper resizes the pooled image features, which are constant over the picture, and concatenates them with the
//! branches before a 1x1 projection. The projection of a concatenation is a sum of projections, so the pooled part is
//! projected by itself and broadcast in an Add. It has as many weights.

use super::{BATCH_NORM_EPS, Features, Trunk, classifier, conv_relu};
use crate::graph::{Conv, Graph, Op, Part};

/// Channels of the pyramid.
const PYRAMID: i64 = 256;
/// Dilations at output stride 16.
const RATES: [i64; 3] = [6, 12, 18];

/// Puts the head on a trunk; the output is `[N, classes, H / 16, W / 16]`. The head's channels are divided by `divide`.
#[must_use]
pub fn deeplabv3(trunk: Trunk, classes: i64, divide: i64) -> Graph {
    let mut graph = trunk.graph;
    let pyramid = PYRAMID / divide;
    let (deep, channels) = trunk.stride16;
    let part = Part::Head;
    let pointwise = |inputs: i64| Conv::pointwise(inputs, pyramid, BATCH_NORM_EPS);
    let mut branches = vec![conv_relu(&mut graph, part, "aspp.0", pointwise(channels), deep)];
    for (index, rate) in RATES.into_iter().enumerate() {
        let conv = Conv {
            kernel: 3,
            padding: [rate; 2],
            dilation: rate,
            ..pointwise(channels)
        };
        branches.push(conv_relu(
            &mut graph,
            part,
            &format!("aspp.{}", index + 1),
            conv,
            deep,
        ));
    }
    let spatial = graph.push(part, "aspp.concat", Op::Concat, &branches);
    let project = Op::Conv(pointwise(4 * pyramid));
    let spatial = graph.push(part, "aspp.project", project, &[spatial]);
    let pooled = graph.push(part, "aspp.pool", Op::GlobalAvgPool, &[deep]);
    let pooled = conv_relu(&mut graph, part, "aspp.pool.conv", pointwise(channels), pooled);
    let project = Conv {
        batch_norm: None,
        ..pointwise(pyramid)
    };
    let pooled = graph.push(part, "aspp.pool.project", Op::Conv(project), &[pooled]);
    let x = graph.push(part, "aspp.add", Op::Add, &[spatial, pooled]);
    let x = graph.push(part, "aspp.relu", Op::Relu, &[x]);
    let conv = Conv {
        kernel: 3,
        padding: [1, 1],
        ..pointwise(pyramid)
    };
    let x: Features = (conv_relu(&mut graph, part, "head", conv, x), pyramid);
    classifier(&mut graph, x, classes);
    graph
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nets::{mobilenet_v2::mobilenet_v2, resnet::resnet18};

    #[test]
    fn the_head_has_the_published_parameters() {
        // torchvision's deeplabv3_resnet50 has 42,004,074: 23,508,032 in the trunk, 2,365,205 in the auxiliary head, and
        // this head on 2048 channels.
        let graph = Graph::new(2048);
        let input = (0, 2048);
        let trunk = Trunk {
            graph,
            stride2: input,
            stride4: input,
            stride8: input,
            stride16: input,
        };
        let head = deeplabv3(trunk, 21, 1);
        assert_eq!(head.parameters(), 42_004_074 - 23_508_032 - 2_365_205);
    }

    #[test]
    fn rates_and_stride() {
        for trunk in [resnet18(16, 1), mobilenet_v2(1.0)] {
            let graph = deeplabv3(trunk, 21, 1);
            assert_eq!(graph.shapes(96, 160)[graph.output], [21, 6, 10]);
            let rates: Vec<i64> = graph
                .convs()
                .filter(|(node, conv)| node.name.starts_with("aspp") && conv.kernel == 3)
                .map(|(_, conv)| conv.dilation)
                .collect();
            assert_eq!(rates, [6, 12, 18]);
        }
    }
}
