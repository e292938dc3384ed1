//! MobileNetV2 without its classifier, at output stride 16, with torchvision's layer names.
//!
//! Sandler et al. 2018, table 2; torchvision's `mobilenet_v2`, whose weights were trained on ImageNet's mean and
//! standard deviation and padded evenly.
//!
//! [`deeplab`] is the same network as TensorFlow's DeepLab has it (its MobileNetV2 was trained on COCO and PASCAL VOC, at
//! mean 128 and divisor 128, on odd sizes, where even padding and "same" padding are one).

use super::inverted_residual::{self, Block, Layer, Strides};
use super::{Features, Trunk};
use crate::graph::{Conv, Graph, Op, Part};

/// The epsilon of its batch normalisation.
pub const BATCH_NORM_EPS: f64 = 1e-5;
/// Mean the weights were trained with, subtracted from 0..255 RGB.
pub const MEAN: [f32; 3] = [123.675, 116.28, 103.53];
/// Divisor the weights were trained with.
pub const STD: [f32; 3] = [58.395, 57.12, 57.375];

/// Mean that DeepLab's weights were trained with.
pub const DEEPLAB_MEAN: [f32; 3] = [128.0; 3];
/// Divisor that DeepLab's weights were trained with.
pub const DEEPLAB_STD: [f32; 3] = [128.0; 3];

/// Where the odd zero of a stride of two goes, from stride 2 to stride 16.
type Padding = [bool; 4];
/// Before the picture: cell `i` of stride `s` is centred on pixel `s * i`.
const EVEN: Padding = [false; 4];
/// After the picture at the first three: cells of stride 16 are centred on pixel `16 * i + 7`. The middle of their 16
/// pixels, which bilinear upsampling takes as their place, is `16 * i + 7.5`.
pub(super) const CENTRED: Padding = [true, true, true, false];

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
    build(width, 8, EVEN)
}

/// Builds DeepLab's trunk with `width` times the paper's channels. Its cells lie in the middle of the pixels that they
/// stand for, so that its published classifier is right at once, without a decoder that moves them.
#[must_use]
pub fn deeplab(width: f64) -> Trunk {
    build(width, 4, CENTRED)
}

/// Channels are multiples of `of`.
fn build(width: f64, of: i64, padding: Padding) -> Trunk {
    let mut graph = Graph::new(3);
    let mut channels = scaled(32, width, of);
    let conv = Conv {
        kernel: 3,
        stride: 2,
        padding: if padding[0] { [0, 1] } else { [1, 1] },
        ..Conv::pointwise(3, channels, BATCH_NORM_EPS)
    };
    let mut x = graph.push(Part::Stem, "features.0.0", Op::Conv(conv), &[0]);
    x = graph.push(Part::Stem, "features.0.2", Op::Relu6, &[x]);

    let mut feature = 1;
    let mut strides = Strides::after_stem();
    let mut features: Vec<Features> = Vec::new();
    for (expansion, outputs, repeats, stride) in STAGES {
        let outputs = scaled(outputs, width, of);
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
                pad_after: stride == 2 && padding[features.len()],
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

/// `channels` times `width`, to the nearest multiple of `of` that loses no more than a tenth, as the published networks
/// round.
fn scaled(channels: i64, width: f64, of: i64) -> i64 {
    let exact = channels as f64 * width;
    let rounded = ((exact + of as f64 / 2.0) as i64 / of * of).max(of);
    if (rounded as f64) < 0.9 * exact {
        rounded + of
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

    #[test]
    fn deeplab_s_cells_lie_in_the_middle_of_their_pixels() {
        // The pixel that a cell of each stride is centred on: the sum of the shifts of the strides before.
        let pads: Vec<[i64; 2]> = deeplab(1.0)
            .graph
            .convs()
            .filter(|(_, conv)| conv.stride == 2)
            .map(|(_, conv)| conv.padding)
            .collect();
        let centre: i64 = pads
            .iter()
            .enumerate()
            .map(|(level, pad)| (1 - pad[0]) << level)
            .sum();
        assert_eq!((pads.len(), centre), (4, 7));
        let channels = |trunk: Trunk| [trunk.stride4.1, trunk.stride8.1, trunk.stride16.1];
        assert_eq!(channels(deeplab(1.0)), channels(mobilenet_v2(1.0)));
        assert_eq!(channels(deeplab(0.5)), [12, 16, 160]);
        assert_eq!(channels(mobilenet_v2(0.5)), [16, 16, 160]);
    }
}
