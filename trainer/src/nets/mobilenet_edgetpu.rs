//! MobileNetEdgeTPU without its classifier, at output stride 16, as DeepLab's slim form for Cityscapes has it.
//!
//! The network: `mobilenet_edgetpu.py` of TensorFlow's model garden (Howard and Gupta 2019), with TF-Slim's layer names.
//! Where pictures are large its blocks expand by a whole 3x3 convolution, which processors for matrices like better
//! than a depthwise one; ReLU is not cut off at 6. The weights of `google-coral/test_data` were trained on ImageNet, then on Cityscapes,
//! at mean 128 and divisor 128.

use super::Trunk;
use super::inverted_residual::Strides;
use super::mobilenet_v2::CENTRED;
use crate::graph::{Conv, Graph, NodeId, Op, Part};

/// The epsilon of its batch normalisation.
pub const BATCH_NORM_EPS: f64 = 1e-3;
/// Channels of the last 1x1 convolution.
const LAST: i64 = 1280;

/// How a block widens its entry.
#[derive(Clone, Copy, PartialEq)]
enum Widen {
    /// By nothing: the first block is a projection alone.
    Not,
    /// By a whole 3x3 convolution, which also strides.
    Fused,
    /// By a 1x1 convolution; a depthwise one of this side follows, and strides.
    Depthwise(i64),
}

/// A run of blocks: how they widen, expansion of the first and of the others, output channels, repeats, stride.
const STAGES: [(Widen, i64, i64, i64, i64, i64); 7] = [
    (Widen::Not, 1, 1, 16, 1, 1),
    (Widen::Fused, 8, 4, 24, 4, 2),
    (Widen::Fused, 8, 4, 40, 4, 2),
    (Widen::Depthwise(3), 8, 4, 72, 4, 2),
    (Widen::Depthwise(3), 8, 4, 72, 4, 1),
    (Widen::Depthwise(5), 8, 4, 120, 4, 2),
    (Widen::Depthwise(3), 8, 8, 144, 1, 1),
];

/// Builds the trunk.
#[must_use]
pub fn mobilenet_edgetpu() -> Trunk {
    let mut graph = Graph::new(3);
    let padding = |stride: i64, level: usize, kernel: i64, dilation: i64| match stride {
        2 if CENTRED[level] => [kernel / 2 - 1, kernel / 2],
        _ => [dilation * (kernel / 2); 2],
    };
    let mut channels = 24;
    let stem = Conv {
        kernel: 3,
        stride: 2,
        padding: padding(2, 0, 3, 1),
        ..Conv::pointwise(3, channels, BATCH_NORM_EPS)
    };
    let relu = |graph: &mut Graph, part: Part, name: &str, conv: Conv, x: NodeId| {
        let x = graph.push(part, name, Op::Conv(conv), &[x]);
        graph.push(part, format!("{name}.relu"), Op::Relu, &[x])
    };
    let mut x = relu(&mut graph, Part::Stem, "Conv", stem, 0);
    let mut strides = Strides::after_stem();
    let mut features = Vec::new();
    let mut index = 0;
    for (widen, first, others, outputs, repeats, stride) in STAGES {
        for repeat in 0..repeats {
            let before = strides.total;
            let (stride, dilation) = strides.next(if repeat == 0 { stride } else { 1 });
            if strides.total != before {
                features.push((x, channels));
            }
            let part = strides.part();
            let block = match index {
                0 => "expanded_conv".to_owned(),
                _ => format!("expanded_conv_{index}"),
            };
            let wide = channels * if repeat == 0 { first } else { others };
            let entry = x;
            let side = if let Widen::Depthwise(kernel) = widen {
                kernel
            } else {
                3
            };
            let padding = padding(stride, features.len(), side, dilation);
            match widen {
                Widen::Not => {}
                Widen::Fused => {
                    let conv = Conv {
                        kernel: 3,
                        stride,
                        padding,
                        ..Conv::pointwise(channels, wide, BATCH_NORM_EPS)
                    };
                    x = relu(&mut graph, part, &format!("{block}.expand"), conv, x);
                }
                Widen::Depthwise(kernel) => {
                    let conv = Conv::pointwise(channels, wide, BATCH_NORM_EPS);
                    x = relu(&mut graph, part, &format!("{block}.expand"), conv, x);
                    let conv = Conv {
                        padding,
                        ..Conv::depthwise(wide, kernel, stride, dilation, BATCH_NORM_EPS)
                    };
                    x = relu(&mut graph, part, &format!("{block}.depthwise"), conv, x);
                }
            }
            let conv = Conv::pointwise(wide, outputs, BATCH_NORM_EPS);
            x = graph.push(part, format!("{block}.project"), Op::Conv(conv), &[x]);
            if repeat > 0 {
                x = graph.push(part, format!("{block}.add"), Op::Add, &[x, entry]);
            }
            channels = outputs;
            index += 1;
        }
    }
    let conv = Conv::pointwise(channels, LAST, BATCH_NORM_EPS);
    x = relu(&mut graph, Part::Trunk, "Conv_1", conv, x);
    Trunk {
        graph,
        stride2: features[0],
        stride4: features[1],
        stride8: features[2],
        stride16: (x, LAST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_channels_and_blocks() {
        let trunk = mobilenet_edgetpu();
        let shapes = trunk.graph.shapes(352, 480);
        for ((node, _), expected) in [trunk.stride2, trunk.stride4, trunk.stride8, trunk.stride16]
            .into_iter()
            .zip([[16, 176, 240], [24, 88, 120], [40, 44, 60], [1280, 22, 30]])
        {
            assert_eq!(shapes[node], expected);
        }
        let added = trunk.graph.nodes.iter().filter(|node| node.op == Op::Add).count();
        assert_eq!(added, 15);
        // As the published file lists its convolutions.
        let convs: Vec<_> = trunk.graph.convs().collect();
        assert_eq!(convs.len(), 58);
        let of = |name: &str| convs.iter().find(|(node, _)| node.name == name).unwrap().1;
        assert_eq!(of("expanded_conv_5.expand").weight_shape(), [192, 24, 3, 3]);
        assert_eq!(of("expanded_conv_13.depthwise").weight_shape(), [576, 1, 3, 3]);
        assert_eq!(of("expanded_conv_17.depthwise").dilation, 1);
        assert_eq!(of("expanded_conv_18.depthwise").dilation, 2);
        assert_eq!(of("expanded_conv_21.project").weight_shape(), [144, 960, 1, 1]);
    }
}
