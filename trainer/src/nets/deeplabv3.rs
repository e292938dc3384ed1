//! DeepLabv3's head with a light decoder: logits at an eighth of the input's size.
//!
//! Atrous spatial pyramid pooling (Chen et al. 2017) with depthwise-separable convolutions. The image-pooling branch
//! is projected on its own and added, which broadcasts, so the graph needs no Resize and runs at any size; the
//! decoder doubles the resolution by DepthToSpace and adds the features of stride 8.

use super::Trunk;
use crate::graph::{Conv, Graph, Op, Part};

/// The epsilon of the head's batch normalisation.
const BATCH_NORM_EPS: f64 = 1e-5;

/// Sizes of the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Channels of each pyramid branch and of their projection.
    pub pyramid: i64,
    /// Channels of the decoder.
    pub decoder: i64,
    /// Dilations of the atrous branches.
    pub rates: [i64; 3],
    /// Classes.
    pub classes: i64,
}

/// Puts the head on a trunk; the output is `[N, classes, H / 8, W / 8]`.
#[must_use]
pub fn deeplabv3(trunk: Trunk, head: Head) -> Graph {
    let Trunk {
        mut graph,
        stride8: (skip, skip_channels),
        stride16: (deep, channels),
    } = trunk;
    let part = Part::Head;
    let eps = BATCH_NORM_EPS;
    let conv_relu6 = |graph: &mut Graph, name: &str, conv: Conv, input| {
        let x = graph.push(part, name, Op::Conv(conv), &[input]);
        graph.push(part, format!("{name}.relu6"), Op::Relu6, &[x])
    };

    let mut branches = vec![conv_relu6(
        &mut graph,
        "aspp.0",
        Conv::pointwise(channels, head.pyramid, eps),
        deep,
    )];
    for (index, rate) in head.rates.into_iter().enumerate() {
        let name = format!("aspp.{}", index + 1);
        let x = conv_relu6(
            &mut graph,
            &format!("{name}.depthwise"),
            Conv::depthwise(channels, 3, 1, rate, eps),
            deep,
        );
        branches.push(conv_relu6(
            &mut graph,
            &name,
            Conv::pointwise(channels, head.pyramid, eps),
            x,
        ));
    }
    let spatial = graph.push(part, "aspp.concat", Op::Concat, &branches);
    let project = Conv::pointwise(4 * head.pyramid, head.pyramid, eps);
    let spatial = graph.push(part, "aspp.project", Op::Conv(project), &[spatial]);
    let pooled = graph.push(part, "aspp.pool", Op::GlobalAvgPool, &[deep]);
    let pooled = conv_relu6(
        &mut graph,
        "aspp.pool.conv",
        Conv::pointwise(channels, head.pyramid, eps),
        pooled,
    );
    let project = Conv {
        bias: true,
        batch_norm: None,
        ..Conv::pointwise(head.pyramid, head.pyramid, eps)
    };
    let pooled = graph.push(part, "aspp.pool.project", Op::Conv(project), &[pooled]);
    let x = graph.push(part, "aspp.add", Op::Add, &[spatial, pooled]);
    let x = graph.push(part, "aspp.relu6", Op::Relu6, &[x]);

    let up = Conv::pointwise(head.pyramid, 4 * head.decoder, eps);
    let x = graph.push(part, "decoder.up", Op::Conv(up), &[x]);
    let x = graph.push(part, "decoder.depth_to_space", Op::DepthToSpace, &[x]);
    let project = Conv::pointwise(skip_channels, head.decoder, eps);
    let skip = graph.push(part, "decoder.skip", Op::Conv(project), &[skip]);
    let x = graph.push(part, "decoder.add", Op::Add, &[x, skip]);
    let x = graph.push(part, "decoder.relu6", Op::Relu6, &[x]);
    let x = conv_relu6(
        &mut graph,
        "decoder.depthwise",
        Conv::depthwise(head.decoder, 3, 1, 1, eps),
        x,
    );
    let x = conv_relu6(
        &mut graph,
        "decoder.pointwise",
        Conv::pointwise(head.decoder, head.decoder, eps),
        x,
    );
    let classify = Conv {
        bias: true,
        batch_norm: None,
        ..Conv::pointwise(head.decoder, head.classes, eps)
    };
    graph.push(part, "classifier", Op::Conv(classify), &[x]);
    graph
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nets::{efficientnet_lite::lite0, mobilenet_v2::mobilenet_v2};

    #[test]
    fn both_trunks_give_logits_at_stride_8() {
        let head = Head {
            pyramid: 32,
            decoder: 16,
            rates: [2, 4, 6],
            classes: 21,
        };
        for trunk in [lite0(), mobilenet_v2()] {
            let graph = deeplabv3(trunk, head);
            assert_eq!(graph.shapes(288, 384)[graph.output], [21, 36, 48]);
            assert_eq!(graph.shapes(16, 48)[graph.output], [21, 2, 6]);
        }
    }
}
