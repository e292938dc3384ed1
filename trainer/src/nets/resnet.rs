//! ResNet-18 without its classifier (He et al. 2016, table 1), with torchvision's layer names.
//!
//! Past a chosen stride, blocks are atrous instead of strided, as in Chen et al. 2017 and Zhao et al. 2017.

use super::{BATCH_NORM_EPS, Features, Trunk, conv_relu, vgg::conv3x3};
use crate::graph::{Conv, Graph, NodeId, Op, Part, Pool};

/// Mean the published weights were trained with, subtracted from 0..255 RGB.
pub use super::mobilenet_v2::{MEAN, STD};

/// Channels and stride of the four layers of two blocks each.
const LAYERS: [(i64, i64); 4] = [(64, 1), (128, 2), (256, 2), (512, 2)];

/// Builds the trunk with channels divided by `divide`; the last features have stride `output_stride`, 8 or 16, and are
/// called `stride16` also where they are of stride 8.
#[must_use]
pub fn resnet18(output_stride: i64, divide: i64) -> Trunk {
    let mut graph = Graph::new(3);
    let stem = Conv {
        kernel: 7,
        stride: 2,
        padding: [3, 3],
        ..Conv::pointwise(3, 64 / divide, BATCH_NORM_EPS)
    };
    let stem = conv_relu(&mut graph, Part::Stem, "conv1", stem, 0);
    let pooled = graph.push(Part::Stem, "maxpool", Op::MaxPool(Pool::Overlapping), &[stem]);
    let mut x: Features = (pooled, 64 / divide);
    let mut features = Vec::new();
    let (mut total_stride, mut dilation) = (4, 1);
    for (index, (outputs, stride)) in LAYERS.into_iter().enumerate() {
        let outputs = outputs / divide;
        // torchvision's rule: the first convolution of a layer keeps the dilation of the layer before.
        let before = dilation;
        let stride = if total_stride * stride > output_stride {
            dilation *= stride;
            1
        } else {
            stride
        };
        total_stride *= stride;
        let part = if total_stride <= 4 {
            Part::Stem
        } else {
            Part::Trunk
        };
        for block in 0..2 {
            let name = format!("layer{}.{block}", index + 1);
            let (stride, first) = if block == 0 {
                (stride, before)
            } else {
                (1, dilation)
            };
            let (name, dilations) = (name.as_str(), [first, dilation]);
            x = (
                basic_block(&mut graph, part, name, x, outputs, stride, dilations),
                outputs,
            );
        }
        features.push(x);
    }
    Trunk {
        graph,
        stride2: (stem, 64 / divide),
        stride4: features[0],
        stride8: features[1],
        stride16: features[3],
    }
}

/// Two 3x3 convolutions beside the entry, which is projected where size or channels change.
fn basic_block(
    graph: &mut Graph,
    part: Part,
    name: &str,
    entry: Features,
    outputs: i64,
    stride: i64,
    [first, second]: [i64; 2],
) -> NodeId {
    let atrous = |conv: Conv, dilation: i64| Conv {
        dilation,
        padding: [dilation; 2],
        ..conv
    };
    let conv = Conv {
        stride,
        ..atrous(conv3x3(entry.1, outputs, true), first)
    };
    let x = conv_relu(graph, part, &format!("{name}.conv1"), conv, entry.0);
    let conv = atrous(conv3x3(outputs, outputs, true), second);
    let x = graph.push(part, format!("{name}.conv2"), Op::Conv(conv), &[x]);
    let shortcut = if stride != 1 || entry.1 != outputs {
        let conv = Conv {
            stride,
            ..Conv::pointwise(entry.1, outputs, BATCH_NORM_EPS)
        };
        graph.push(part, format!("{name}.downsample.0"), Op::Conv(conv), &[entry.0])
    } else {
        entry.0
    };
    let x = graph.push(part, format!("{name}.add"), Op::Add, &[x, shortcut]);
    graph.push(part, format!("{name}.relu"), Op::Relu, &[x])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_strides_and_dilations() {
        for (output_stride, dilations) in [(8, [1, 1, 2, 4]), (16, [1, 1, 1, 2])] {
            let trunk = resnet18(output_stride, 1);
            // torchvision's resnet18 has 11,689,512 parameters, 513,000 of them in its classifier.
            assert_eq!(trunk.graph.parameters(), 11_689_512 - 513_000);
            assert_eq!(trunk.graph.convs().count(), 20);
            let shapes = trunk.graph.shapes(96, 160);
            assert_eq!(shapes[trunk.stride2.0], [64, 48, 80]);
            assert_eq!(shapes[trunk.stride4.0], [64, 24, 40]);
            assert_eq!(shapes[trunk.stride8.0], [128, 12, 20]);
            assert_eq!(
                shapes[trunk.stride16.0],
                [512, 96 / output_stride, 160 / output_stride]
            );
            for (layer, dilation) in dilations.into_iter().enumerate() {
                let name = format!("layer{}.1.conv2", layer + 1);
                let (_, conv) = trunk.graph.convs().find(|(node, _)| node.name == name).unwrap();
                assert_eq!((conv.dilation, conv.padding), (dilation, [dilation; 2]), "{name}");
            }
        }
    }
}
