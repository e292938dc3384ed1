//! MobileNetV2 without its classifier, at output stride 16, with torchvision's layer names.
//!
//! Sandler et al. 2018, table 2; torchvision's `mobilenet_v2`, whose weights were trained on ImageNet's mean and
//! standard deviation and padded evenly.

use super::Trunk;
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

/// Builds the trunk.
#[must_use]
pub fn mobilenet_v2() -> Trunk {
    let mut graph = Graph::new(3);
    let conv = Conv {
        kernel: 3,
        stride: 2,
        padding: [1, 1],
        ..Conv::pointwise(3, 32, BATCH_NORM_EPS)
    };
    let mut x = graph.push(Part::Stem, "features.0.0", Op::Conv(conv), &[0]);
    x = graph.push(Part::Stem, "features.0.2", Op::Relu6, &[x]);

    let mut channels = 32;
    let mut feature = 1;
    let mut total_stride = 2;
    let mut dilation = 1;
    let mut stride8 = (0, 0);
    for (expansion, outputs, repeats, stride) in STAGES {
        for repeat in 0..repeats {
            let mut stride = if repeat == 0 { stride } else { 1 };
            let own_dilation = dilation;
            if total_stride * stride > 16 {
                stride = 1;
                dilation = 2;
            }
            total_stride *= stride;
            let part = if total_stride <= 4 {
                Part::Stem
            } else {
                Part::Trunk
            };
            let name = |layer: &str| format!("features.{feature}.conv.{layer}");
            let entry = x;
            let wide = channels * expansion;
            let mut layer = 0;
            if expansion != 1 {
                let conv = Conv::pointwise(channels, wide, BATCH_NORM_EPS);
                x = graph.push(part, name("0.0"), Op::Conv(conv), &[x]);
                x = graph.push(part, name("0.2"), Op::Relu6, &[x]);
                layer += 1;
            }
            let conv = Conv::depthwise(wide, 3, stride, own_dilation, BATCH_NORM_EPS);
            x = graph.push(part, name(&format!("{layer}.0")), Op::Conv(conv), &[x]);
            x = graph.push(part, name(&format!("{layer}.2")), Op::Relu6, &[x]);
            let conv = Conv::pointwise(wide, outputs, BATCH_NORM_EPS);
            x = graph.push(part, name(&format!("{}", layer + 1)), Op::Conv(conv), &[x]);
            if stride == 1 && channels == outputs {
                x = graph.push(part, name("add"), Op::Add, &[x, entry]);
            }
            channels = outputs;
            feature += 1;
            if total_stride == 8 {
                stride8 = (x, channels);
            }
        }
    }
    Trunk {
        graph,
        stride8,
        stride16: (x, channels),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_channels_and_size() {
        let trunk = mobilenet_v2();
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
