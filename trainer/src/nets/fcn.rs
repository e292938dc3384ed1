//! Fully convolutional networks on VGG16 (Long et al. 2015): FCN-32s, FCN-16s, FCN-8s.
//!
//! The last upsampling of the paper is a fixed bilinear one and not part of the graph: segd interpolates the logits.
//! Where the paper pads the picture by 100 pixels and crops, the first dense layer here is padded by three cells, so that
//! sides are multiples of 32 and cells stay in place. Skip scores are not scaled before they are added.

use super::{BATCH_NORM_EPS, Features, conv_relu, vgg};
use crate::graph::{Conv, ConvTranspose, Graph, NodeId, Op, Part};

/// Channels of the dense layers that became convolutions.
const DENSE: i64 = 4096;

/// Builds FCN-32s, 16s or 8s, as `stride` says; the output is `[N, classes, H / stride, W / stride]`. Channels but the
/// classes are divided by `divide`.
///
/// # Panics
/// `stride` is none of the three.
#[must_use]
pub fn fcn(stride: i64, classes: i64, divide: i64) -> Graph {
    assert!([32, 16, 8].contains(&stride), "there is no FCN-{stride}s");
    let mut graph = Graph::new(3);
    let groups = vgg::push(&mut graph, false, divide);
    let dense = DENSE / divide;
    let plain = |kernel: i64, inputs: i64, outputs: i64| Conv {
        kernel,
        padding: [kernel / 2; 2],
        bias: true,
        batch_norm: None,
        ..Conv::pointwise(inputs, outputs, BATCH_NORM_EPS)
    };
    let deep = groups[4];
    // torchvision's names of the dense layers, which hold the published weights.
    let fc6 = plain(7, deep.channels, dense);
    let x = conv_relu(&mut graph, Part::Trunk, "classifier.0", fc6, deep.pooled);
    let x = conv_relu(&mut graph, Part::Trunk, "classifier.3", plain(1, dense, dense), x);
    let mut x = score(&mut graph, "score", (x, dense), classes);
    let skips = [("pool4", groups[3], 16), ("pool3", groups[2], 8)];
    for (name, group, reached) in skips {
        if stride <= reached {
            let up = ConvTranspose {
                inputs: classes,
                outputs: classes,
                kernel: 4,
                stride: 2,
                bias: false,
                bilinear: true,
            };
            let up = graph.push(Part::Head, format!("up_{name}"), Op::ConvTranspose(up), &[x]);
            let skip = score(
                &mut graph,
                &format!("score_{name}"),
                (group.pooled, group.channels),
                classes,
            );
            x = graph.push(Part::Head, format!("sum_{name}"), Op::Add, &[up, skip]);
        }
    }
    graph
}

fn score(graph: &mut Graph, name: &str, (input, channels): Features, classes: i64) -> NodeId {
    let conv = Conv {
        bias: true,
        batch_norm: None,
        // The paper starts them at zero, which would keep the gradient from the layers before.
        gain: 0.1,
        ..Conv::pointwise(channels, classes, BATCH_NORM_EPS)
    };
    graph.push(Part::Head, name, Op::Conv(conv), &[input])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_strides_and_parameters() {
        // VGG16's convolutions, fc6 of 7x7x512x4096, fc7 of 4096x4096, a score a class.
        let common = 14_714_688 + 102_764_544 + 16_781_312 + (4096 + 1) * 21;
        let pool4 = (512 + 1) * 21 + 21 * 21 * 16;
        let pool3 = (256 + 1) * 21 + 21 * 21 * 16;
        for (stride, parameters, convs) in [
            (32, common, 16),
            (16, common + pool4, 17),
            (8, common + pool4 + pool3, 18),
        ] {
            let graph = fcn(stride, 21, 1);
            assert_eq!(graph.parameters(), parameters);
            assert_eq!(graph.convs().count(), convs);
            assert_eq!(
                graph.shapes(224, 352)[graph.output],
                [21, 224 / stride, 352 / stride]
            );
        }
        assert_eq!(common, 134_346_581);
    }
}
