//! MobileNetV2 without its classifier, at output stride 16, with torchvision's layer names.
//!
//! Sandler et al. 2018, table 2; torchvision's `mobilenet_v2`, whose weights were trained on ImageNet's mean and
//! standard deviation and padded evenly.

use super::inverted_residual::{self, Block, Layer, Strides};
use super::{Features, Trunk};
use crate::graph::{Conv, Graph, Op, Part};

/// The epsilon of its batch normalisation.
pub const BATCH_NORM_EPS: f64 = 1e-5;
/// Mean the weights were trained with, subtracted from 0..255 RGB.
pub const MEAN: [f32; 3] = [123.675, 116.28, 103.53];
/// Divisor the weights were trained with.
pub const STD: [f32; 3] = [58.395, 57.12, 57.375];

/// A run of blocks: expansion, output channels, repeats, stride.
const STAGES: [(i64, i64, i64, i64); 7] = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
];

/// Builds the trunk with `width` times the paper's channels.
#[must_use]
pub fn mobilenet_v2(width: f64) -> Trunk {
    let mut graph = Graph::new(3);
    let mut channels = scaled(32, width);
    let conv = Conv {
        kernel: 3,
        stride: 2,
        padding: [1, 1],
        ..Conv::pointwise(3, channels, BATCH_NORM_EPS)
    };
    let mut x = graph.push(Part::Stem, "features.0.0", Op::Conv(conv), &[0]);
    x = graph.push(Part::Stem, "features.0.2", Op::Relu6, &[x]);

    let mut feature = 1;
    let mut strides = Strides::after_stem();
    let mut features: Vec<Features> = Vec::new();
    for (expansion, outputs, repeats, stride) in STAGES {
        let outputs = scaled(outputs, width);
        for repeat in 0..repeats {
            let before = strides.total;
            let (stride, dilation) = strides.next(if repeat == 0 { stride } else { 1 });
            if strides.total != before {
                features.push((x, channels));
            }
            let block = Block {
                part: strides.part(),
                inputs: channels,
                wide: channels * expansion,
                outputs,
                kernel: 3,
                stride,
                dilation,
                pad_after: false,
                residual: stride == 1 && channels == outputs,
                eps: BATCH_NORM_EPS,
            };
            x = inverted_residual::push(&mut graph, x, block, |layer| {
                let name = |layer: &str| format!("features.{feature}.conv.{layer}");
                let depthwise = usize::from(expansion != 1);
                match layer {
                    Layer::Expand => (name("0.0"), Some(name("0.2"))),
                    Layer::Depthwise => (
                        name(&format!("{depthwise}.0")),
                        Some(name(&format!("{depthwise}.2"))),
                    ),
                    Layer::Project => (name(&format!("{}", depthwise + 1)), None),
                    Layer::Add => (name("add"), None),
                }
            });
            channels = outputs;
            feature += 1;
        }
    }
    Trunk {
        graph,
        stride2: features[0],
        stride4: features[1],
        stride8: features[2],
        stride16: (x, channels),
    }
}

/// `channels` times `width`, to the nearest multiple of 8 that loses no more than a tenth, as the published networks
/// round.
fn scaled(channels: i64, width: f64) -> i64 {
    let exact = channels as f64 * width;
    let rounded = (((exact + 4.0) as i64) / 8 * 8).max(8);
    if (rounded as f64) < 0.9 * exact {
        rounded + 8
    } else {
        rounded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_channels_and_size() {
        let trunk = mobilenet_v2(1.0);
        let shapes = trunk.graph.shapes(224, 288);
        assert_eq!(shapes[trunk.stride8.0], [32, 28, 36]);
        assert_eq!(shapes[trunk.stride16.0], [320, 14, 18]);
        let weights: i64 = trunk
            .graph
            .convs()
            .map(|(_, conv)| conv.weight_shape().iter().product::<i64>())
            .sum();
        // torchvision's 3,504,872 parameters less the classifier, the last 1x1 and batch normalisation.
        assert_eq!(weights, 1_780_160);
    }
}
