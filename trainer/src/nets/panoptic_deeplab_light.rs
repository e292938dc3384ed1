//! Panoptic-DeepLab's second branch (Cheng et al. 2020) beside DeepLabv3's light form: where objects have their centres,
//! and how far each cell is from its own.
//!
//! The classes come from [`deeplabv3_light`](super::deeplabv3_light) as they do without objects. The branch has a pyramid
//! and a decoder of its own, as in the paper, of depthwise-separable convolutions. Its first skip is what the decoder of
//! the classes gave, which knows where classes end; the second is the trunk's at stride 4, where it ends.

use super::deeplabv3_light::{Head, decoder_step, deeplabv3_light};
use super::{BATCH_NORM_EPS, Features, Trunk, conv_relu6, separable};
use crate::graph::{Conv, Graph, Op, Output, Part};

/// The name of the output that says how likely a cell is the centre of an object, as a logit: `[N, 1, H / 4, W / 4]`.
pub const HEAT: &str = "heat";
/// The name of the output that says how far it is to the centre, in input pixels, down and right: `[N, 2, H / 4, W / 4]`.
pub const OFFSETS: &str = "offsets";
/// What every name of the branch begins with.
pub const PREFIX: &str = "instances.";
/// Stride of the branch's cells.
pub const STRIDE: usize = 4;

/// Channels of the pyramid's branches, and of the decoder at strides 8 and 4.
const PYRAMID: i64 = 128;
const DECODER: [i64; 2] = [64, 32];
/// Cells far from a centre are most of all: heat starts where one of ten is.
const FIRST_HEAT: f64 = -2.2;
/// Offsets are learnt in this many pixels.
const OFFSET_SCALE: f64 = 64.0;

/// Puts both branches on a trunk; the logits are those of [`deeplabv3_light`] at stride 8.
///
/// # Panics
/// The decoder of the classes has more than one step.
#[must_use]
pub fn panoptic_deeplab_light(trunk: Trunk, head: &Head) -> Graph {
    assert_eq!(
        head.decoder.len(),
        1,
        "the decoder of the classes ends at stride 8"
    );
    let (stride4, deep) = (trunk.stride4, trunk.stride16);
    let mut graph = deeplabv3_light(trunk, head);
    let logits = graph.output;
    let classes = (graph.nodes[logits].inputs[0], head.decoder[0]);

    let name = |layer: &str| format!("{PREFIX}{layer}");
    let mut branches = vec![conv_relu6(
        &mut graph,
        &name("aspp.0"),
        Conv::pointwise(deep.1, PYRAMID, BATCH_NORM_EPS),
        deep.0,
    )];
    for (index, &rate) in head.rates.iter().enumerate() {
        let x = conv_relu6(
            &mut graph,
            &name(&format!("aspp.{}.depthwise", index + 1)),
            Conv::depthwise(deep.1, 3, 1, rate, BATCH_NORM_EPS),
            deep.0,
        );
        branches.push(conv_relu6(
            &mut graph,
            &name(&format!("aspp.{}", index + 1)),
            Conv::pointwise(deep.1, PYRAMID, BATCH_NORM_EPS),
            x,
        ));
    }
    let x = match branches.as_slice() {
        &[one] => one,
        several => graph.push(Part::Head, name("aspp.concat"), Op::Concat, several),
    };
    let project = Conv::pointwise(branches.len() as i64 * PYRAMID, PYRAMID, BATCH_NORM_EPS);
    let x = conv_relu6(&mut graph, &name("aspp.project"), project, x);
    let mut x: Features = (x, PYRAMID);
    for ((skip, outputs), step) in [classes, stride4]
        .into_iter()
        .zip(DECODER)
        .zip(["decoder8", "decoder4"])
    {
        x = (decoder_step(&mut graph, &name(step), x, skip, outputs), outputs);
    }
    let mut output = |output: &'static str, last: Conv| {
        let features = separable(&mut graph, &name(output), 3, x, x.1);
        let conv = Conv {
            bias: true,
            batch_norm: None,
            ..last
        };
        let node = graph.push(
            Part::Head,
            name(&format!("{output}.last")),
            Op::Conv(conv),
            &[features],
        );
        Output { name: output, node }
    };
    let heat = output(
        HEAT,
        Conv {
            first_bias: FIRST_HEAT,
            ..Conv::pointwise(x.1, 1, BATCH_NORM_EPS)
        },
    );
    let offsets = output(
        OFFSETS,
        Conv {
            scale: OFFSET_SCALE,
            ..Conv::pointwise(x.1, 2, BATCH_NORM_EPS)
        },
    );
    graph.output = logits;
    graph.others = vec![heat, offsets];
    graph
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nets::efficientnet_lite::{LITE0, lite};

    fn head() -> Head {
        Head {
            pyramid: 160,
            decoder: vec![96],
            rates: vec![3, 6, 9],
            classes: 21,
        }
    }

    #[test]
    fn the_branch_has_cells_of_stride_4_beside_the_network_of_the_classes() {
        let graph = panoptic_deeplab_light(lite(LITE0), &head());
        let shapes = graph.shapes(288, 384);
        assert_eq!(shapes[graph.output], [21, 36, 48]);
        assert_eq!(shapes[graph.other(HEAT).unwrap()], [1, 72, 96]);
        assert_eq!(shapes[graph.other(OFFSETS).unwrap()], [2, 72, 96]);
        assert_eq!(graph.other("masks"), None);
        // Without the branch it is the network of the classes, layer by layer.
        let classes = deeplabv3_light(lite(LITE0), &head());
        assert_eq!(graph.nodes[..classes.nodes.len()], classes.nodes);
        assert!(
            graph.nodes[classes.nodes.len()..]
                .iter()
                .all(|node| node.name.starts_with(PREFIX))
        );
        let branch = graph.parameters() - classes.parameters();
        let conv = |inputs: i64, outputs: i64| inputs * outputs + 2 * outputs;
        let depthwise = |channels: i64| 9 * channels + 2 * channels;
        let step = |x: i64, skip: i64, outputs: i64| {
            conv(x, 4 * outputs) + conv(skip, outputs) + depthwise(outputs) + conv(outputs, outputs)
        };
        let pyramid = 4 * conv(320, 128) + 3 * depthwise(320) + conv(512, 128);
        let decoder = step(128, 96, 64) + step(64, 24, 32);
        let outputs = 2 * (depthwise(32) + conv(32, 32)) + 33 + 66;
        assert_eq!(branch, pyramid + decoder + outputs);
    }

    #[test]
    fn frozen_classes_leave_the_branch_alone_to_train() {
        let graph = panoptic_deeplab_light(lite(LITE0), &head()).with_frozen_classes();
        for node in &graph.nodes {
            let expected = if node.name.starts_with(PREFIX) {
                Part::Head
            } else {
                Part::Stem
            };
            assert_eq!(node.part, expected, "{}", node.name);
        }
    }
}
