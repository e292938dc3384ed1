//! EfficientNet-Lite0, -Lite1 and -Lite2 without their classifier, at output stride 16.
//!
//! The network: `efficientnet_lite_builder.py` of TensorFlow's TPU models. Kernels, widths and repeats are those of
//! EfficientNet-B0; ReLU6 instead of swish and no squeeze-and-excitation make it fit for 8-bit integers.
//! The published weights were trained on `(x - 127) / 128`.

use super::inverted_residual::{self, Block, Layer, Strides};
use super::{Features, Trunk};
use crate::graph::{Conv, Graph, NodeId, Op, Part};

/// The epsilon of its batch normalisation.
pub const BATCH_NORM_EPS: f64 = 1e-3;
/// Mean the weights were trained with, subtracted from 0..255 RGB.
pub const MEAN: [f32; 3] = [127.0, 127.0, 127.0];
/// Divisor the weights were trained with.
pub const STD: [f32; 3] = [128.0, 128.0, 128.0];

/// How a member of the family differs from Lite0: more channels and more blocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// Factor of the channels, which are rounded to multiples of 8.
    pub width: f64,
    /// Factor of the blocks of a stage, rounded up; the first and the last stage keep theirs.
    pub depth: f64,
}

/// Lite0.
pub const LITE0: Scale = Scale {
    width: 1.0,
    depth: 1.0,
};
/// Lite1: five blocks more.
pub const LITE1: Scale = Scale {
    width: 1.0,
    depth: 1.1,
};
/// Lite2: five blocks more, and a tenth more channels.
pub const LITE2: Scale = Scale {
    width: 1.1,
    depth: 1.2,
};

impl Scale {
    /// Channels rounded to the nearest multiple of 8, but not down by more than a tenth.
    fn channels(self, channels: i64) -> i64 {
        let wanted = channels as f64 * self.width;
        let rounded = (((wanted + 4.0) / 8.0).floor() as i64 * 8).max(8);
        if (rounded as f64) < 0.9 * wanted {
            rounded + 8
        } else {
            rounded
        }
    }

    fn repeats(self, stage: usize, repeats: i64) -> i64 {
        if stage == 0 || stage + 1 == STAGES.len() {
            repeats
        } else {
            (repeats as f64 * self.depth).ceil() as i64
        }
    }
}

/// A run of Lite0's blocks: repeats, kernel, stride, expansion, output channels.
const STAGES: [(i64, i64, i64, i64, i64); 7] = [
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
];

/// Builds the trunk; its node names are those of the published weights.
///
/// The weights were trained with padding that TensorFlow calls "same": at stride 2 the zeros that don't come out even
/// go after the picture, and each such step moves the features by half an input cell. Here the stem, the first and
/// the last stride-2 stage put the odd zero before the picture instead and the second one after it, so that the
/// moves cancel to half a pixel at stride 8 and 3.5 pixels at stride 16. The features are the same either way.
#[must_use]
pub fn lite(scale: Scale) -> Trunk {
    lite_with(scale, |_, _, _, x| x)
}

/// As [`lite`], with `at_end` called at the end of the layers of each stride (2, 4, 8, 16): graph, stride, the
/// features, with their channels, of the stride before (`None` at stride 2), and its own features. What it gives goes
/// on in their place; it must have as many channels.
pub fn lite_with(
    scale: Scale,
    mut at_end: impl FnMut(&mut Graph, i64, Option<Features>, Features) -> Features,
) -> Trunk {
    let mut graph = Graph::new(3);
    let conv = Conv {
        kernel: 3,
        stride: 2,
        padding: [1, 1],
        ..Conv::pointwise(3, 32, BATCH_NORM_EPS)
    };
    let mut x = graph.push(Part::Stem, "_conv_stem", Op::Conv(conv), &[0]);
    x = graph.push(Part::Stem, "_conv_stem.relu6", Op::Relu6, &[x]);

    let mut channels = 32;
    let mut strides = Strides::after_stem();
    let mut features: Vec<Features> = Vec::new();
    let blocks: Vec<_> = STAGES
        .iter()
        .enumerate()
        .flat_map(|(stage, &(repeats, kernel, stride, expansion, outputs))| {
            let outputs = scale.channels(outputs);
            (0..scale.repeats(stage, repeats)).map(move |repeat| (repeat, kernel, stride, expansion, outputs))
        })
        .collect();
    for (index, &(repeat, kernel, stride, expansion, outputs)) in blocks.iter().enumerate() {
        let before = strides.total;
        let (stride, dilation) = strides.next(if repeat == 0 { stride } else { 1 });
        if strides.total != before {
            x = end(&mut graph, &mut features, before, (x, channels), &mut at_end);
        }
        let block = Block {
            part: strides.part(),
            inputs: channels,
            wide: channels * expansion,
            outputs,
            kernel,
            stride,
            dilation,
            pad_after: stride == 2 && strides.total == 8,
            residual: stride == 1 && repeat > 0,
            eps: BATCH_NORM_EPS,
        };
        x = inverted_residual::push(&mut graph, x, block, |layer| {
            let name = |layer: &str| format!("_blocks.{index}.{layer}");
            match layer {
                Layer::Expand => (name("_expand_conv"), Some(name("_expand_conv.relu6"))),
                Layer::Depthwise => (name("_depthwise_conv"), Some(name("_depthwise_conv.relu6"))),
                Layer::Project => (name("_project_conv"), None),
                Layer::Add => (name("add"), None),
            }
        });
        channels = outputs;
    }
    end(&mut graph, &mut features, 16, (x, channels), &mut at_end);
    Trunk {
        graph,
        stride2: features[0],
        stride4: features[1],
        stride8: features[2],
        stride16: features[3],
    }
}

/// Ends the layers of a stride: `at_end` has its say.
fn end(
    graph: &mut Graph,
    features: &mut Vec<Features>,
    stride: i64,
    own: Features,
    at_end: &mut impl FnMut(&mut Graph, i64, Option<Features>, Features) -> Features,
) -> NodeId {
    let last = at_end(graph, stride, features.last().copied(), own);
    features.push(last);
    last.0
}

/// The names that the published weights give to a convolution's batch normalisation.
///
/// Blocks number them by their place, and the first block has no expansion: `_expand_conv` has `_bn0`,
/// `_depthwise_conv` `_bn1`, `_project_conv` `_bn2`; the stem has `_bn0`.
#[must_use]
pub fn published_batch_norm(conv: &str) -> String {
    match conv.rsplit_once('.') {
        None => "_bn0".into(),
        Some((block, layer)) => {
            let index = match layer {
                "_expand_conv" => 0,
                "_depthwise_conv" => 1,
                _ => 2,
            };
            format!("{block}._bn{index}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_channels_and_size() {
        let trunk = lite(LITE0);
        for side in [32, 64, 224, 384] {
            let shapes = trunk.graph.shapes(side, 2 * side);
            assert_eq!(shapes[trunk.stride2.0], [16, side / 2, side]);
            assert_eq!(shapes[trunk.stride4.0], [24, side / 4, side / 2]);
            assert_eq!(shapes[trunk.stride8.0], [40, side / 8, side / 4]);
            assert_eq!(shapes[trunk.stride16.0], [320, side / 16, side / 8]);
        }
    }

    /// Against `efficientnet_lite_builder.py`: `round_filters`, `round_repeats`, and the weights of the published files (for
    /// Lite0 4.65 M parameters less the classifier, 1.28 M, the last 1x1, 0.41 M, and batch normalisation).
    #[test]
    fn larger_members_have_the_published_sizes() {
        assert_eq!(
            [16, 24, 40, 80, 112, 192, 320].map(|c| LITE2.channels(c)),
            [16, 24, 48, 88, 120, 208, 352]
        );
        for (scale, blocks, last, weights) in [
            (LITE0, 16, 320, 2_919_392),
            (LITE1, 21, 320, 3_672_416),
            (LITE2, 21, 352, 4_302_416),
        ] {
            let trunk = lite(scale);
            let count: i64 = trunk
                .graph
                .convs()
                .map(|(_, conv)| conv.weight_shape().iter().product::<i64>())
                .sum();
            assert_eq!(count, weights, "{scale:?}");
            let found = trunk
                .graph
                .convs()
                .filter(|(node, _)| node.name.ends_with("_project_conv"))
                .count();
            assert_eq!((found, trunk.stride16.1), (blocks, last), "{scale:?}");
        }
    }

    #[test]
    fn only_blocks_past_the_last_stride_are_atrous() {
        let dilated: Vec<String> = lite(LITE0)
            .graph
            .convs()
            .filter(|(_, conv)| conv.dilation == 2)
            .map(|(node, _)| node.name.clone())
            .collect();
        assert_eq!(
            dilated,
            [12, 13, 14, 15].map(|block| format!("_blocks.{block}._depthwise_conv"))
        );
    }
}
