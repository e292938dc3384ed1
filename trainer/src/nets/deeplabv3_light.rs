//! DeepLabv3's head in a light form: logits at an eighth, a quarter or half of the input's size.
//!
//! Atrous spatial pyramid pooling (Chen et al. 2017) with depthwise-separable convolutions. The image-pooling branch
//! is projected on its own and added, which broadcasts, so the graph needs no Resize and runs at any size. Each step
//! of the decoder doubles the resolution by DepthToSpace and adds the trunk's features of that stride.

use super::{BATCH_NORM_EPS, Features, Trunk, classifier, conv_relu6, separable};
use crate::graph::{Conv, Graph, Op, Part};

/// Sizes of the head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Channels of each pyramid branch and of their projection.
    pub pyramid: i64,
    /// Channels of the decoder at stride 8, then 4, then 2; one to three of them.
    pub decoder: Vec<i64>,
    /// Dilations of the atrous branches. Without any the pyramid is that of MobileNetV2's paper (Sandler et al. 2018,
    /// section 6.3), a 1x1 convolution and image pooling, which published weights go with: it trains like the trunk.
    pub rates: Vec<i64>,
    /// Classes.
    pub classes: i64,
}

/// Puts the head on a trunk; the output is `[N, classes, H / s, W / s]`, where `s` is the stride of the last step of
/// the decoder.
///
/// # Panics
/// The decoder has no step, or more than three.
#[must_use]
pub fn deeplabv3_light(trunk: Trunk, head: &Head) -> Graph {
    let Trunk {
        mut graph,
        stride2,
        stride4,
        stride8,
        stride16: (deep, channels),
    } = trunk;
    let part = Part::Head;
    let eps = BATCH_NORM_EPS;
    let pyramid_starts = graph.nodes.len();

    let mut branches = vec![conv_relu6(
        &mut graph,
        "aspp.0",
        Conv::pointwise(channels, head.pyramid, eps),
        deep,
    )];
    for (index, &rate) in head.rates.iter().enumerate() {
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
    let spatial = match branches.as_slice() {
        &[one] => one,
        several => graph.push(part, "aspp.concat", Op::Concat, several),
    };
    let project = Conv::pointwise(branches.len() as i64 * head.pyramid, head.pyramid, eps);
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
    if head.rates.is_empty() {
        for node in &mut graph.nodes[pyramid_starts..] {
            node.part = Part::Trunk;
        }
    }

    assert!(
        (1..=3).contains(&head.decoder.len()),
        "the decoder has {} steps, expected 1 to 3",
        head.decoder.len()
    );
    let mut x: Features = (x, head.pyramid);
    let names = ["decoder", "decoder4", "decoder2"];
    for ((skip, &outputs), name) in [stride8, stride4, stride2]
        .into_iter()
        .zip(&head.decoder)
        .zip(names)
    {
        x = (decoder_step(&mut graph, name, x, skip, outputs), outputs);
    }
    classifier(&mut graph, x, head.classes);
    graph
}

/// Doubles the resolution and adds features of that stride.
pub(super) fn decoder_step(
    graph: &mut Graph,
    name: &str,
    x: Features,
    skip: Features,
    outputs: i64,
) -> usize {
    let part = Part::Head;
    let name = |layer: &str| format!("{name}.{layer}");
    let up = Conv::pointwise(x.1, 4 * outputs, BATCH_NORM_EPS);
    let x = graph.push(part, name("up"), Op::Conv(up), &[x.0]);
    let x = graph.push(part, name("depth_to_space"), Op::DepthToSpace, &[x]);
    let project = Conv::pointwise(skip.1, outputs, BATCH_NORM_EPS);
    let skip = graph.push(part, name("skip"), Op::Conv(project), &[skip.0]);
    let x = graph.push(part, name("add"), Op::Add, &[x, skip]);
    let x = graph.push(part, name("relu6"), Op::Relu6, &[x]);
    let stem = name("");
    separable(graph, stem.trim_end_matches('.'), 3, (x, outputs), outputs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nets::{
        efficientnet_lite::{LITE0, lite},
        mobilenet_v2::{deeplab, mobilenet_v2},
    };

    #[test]
    fn both_trunks_give_logits_at_the_decoder_s_stride() {
        let mut head = Head {
            pyramid: 32,
            decoder: vec![16],
            rates: vec![2, 4, 6],
            classes: 21,
        };
        for trunk in [lite(LITE0), mobilenet_v2(1.0), mobilenet_v2(0.5)] {
            let graph = deeplabv3_light(trunk, &head);
            assert_eq!(graph.shapes(288, 384)[graph.output], [21, 36, 48]);
            assert_eq!(graph.shapes(16, 48)[graph.output], [21, 2, 6]);
        }
        head.rates.clear();
        let graph = deeplabv3_light(deeplab(0.5), &head);
        assert_eq!(graph.shapes(288, 384)[graph.output], [21, 36, 48]);
        assert!(graph.nodes.iter().all(|node| node.name != "aspp.concat"));
        assert!(
            graph
                .nodes
                .iter()
                .all(|node| !node.name.starts_with("aspp.") || node.part == Part::Trunk)
        );
        for (decoder, stride) in [(vec![16, 8], 4), (vec![16, 8, 8], 2)] {
            head.decoder = decoder;
            let graph = deeplabv3_light(lite(LITE0), &head);
            assert_eq!(graph.shapes(64, 96)[graph.output], [21, 64 / stride, 96 / stride]);
        }
    }
}
