//! SegNet (Badrinarayanan et al. 2017): an encoder of convolutions and poolings, and a decoder that mirrors it, undoing
//! each pooling with the places of its maxima. The output has the input's size.
//!
//! Convolutions have no bias of their own: the batch normalisation after each makes up for it.

use super::{BATCH_NORM_EPS, Features, classifier, conv_relu, vgg};
use crate::graph::{Conv, Graph, Op, Part, Pool};

/// SegNet on VGG16's thirteen convolutions with batch normalisation. Sides are multiples of 32; channels are divided by
/// `divide`.
#[must_use]
pub fn segnet(classes: i64, divide: i64) -> Graph {
    let mut graph = Graph::new(3);
    let groups = vgg::push(&mut graph, true, divide);
    let mut x: Features = (groups[4].pooled, groups[4].channels);
    for (index, group) in groups.iter().enumerate().rev() {
        let name = format!("decoder{}", index + 1);
        x.0 = graph.push(
            Part::Head,
            format!("{name}.unpool"),
            Op::Unpool,
            &[x.0, group.input, group.pooled],
        );
        let (convs, _) = vgg::GROUPS[index];
        // The last convolution of a step has the channels of the next one. The very last is the classifier.
        let next = if index == 0 { 0 } else { groups[index - 1].channels };
        for layer in (0..convs).rev() {
            let outputs = if layer == 0 { next } else { group.channels };
            if outputs == 0 {
                break;
            }
            let conv = vgg::conv3x3(x.1, outputs, true);
            let name = format!("{name}.{layer}");
            x = (conv_relu(&mut graph, Part::Head, &name, conv, x.0), outputs);
        }
    }
    let conv = Conv {
        kernel: 3,
        padding: [1, 1],
        bias: true,
        batch_norm: None,
        ..Conv::pointwise(x.1, classes, BATCH_NORM_EPS)
    };
    graph.push(Part::Head, "classifier", Op::Conv(conv), &[x.0]);
    graph
}

/// SegNet-Basic: four encoders and four decoders of one 7x7 convolution with 64 channels each, without activation in the
/// decoder. Sides are multiples of 16; channels are divided by `divide`.
#[must_use]
pub fn segnet_basic(classes: i64, divide: i64) -> Graph {
    let mut graph = Graph::new(3);
    let channels = 64 / divide;
    let conv7x7 = |inputs: i64| Conv {
        kernel: 7,
        padding: [3, 3],
        ..Conv::pointwise(inputs, channels, BATCH_NORM_EPS)
    };
    let mut x: Features = (0, 3);
    let mut poolings = Vec::new();
    for step in 1..=4 {
        let name = format!("encoder{step}");
        let input = conv_relu(&mut graph, Part::Head, &name, conv7x7(x.1), x.0);
        let pooled = graph.push(
            Part::Head,
            format!("{name}.pool"),
            Op::MaxPool(Pool::Cells),
            &[input],
        );
        poolings.push((step, input, pooled));
        x = (pooled, channels);
    }
    for (step, input, pooled) in poolings.into_iter().rev() {
        let name = format!("decoder{step}");
        let unpooled = graph.push(
            Part::Head,
            format!("{name}.unpool"),
            Op::Unpool,
            &[x.0, input, pooled],
        );
        x.0 = graph.push(Part::Head, name, Op::Conv(conv7x7(channels)), &[unpooled]);
    }
    classifier(&mut graph, x, classes);
    graph
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(graph: &Graph) -> usize {
        let poolings = graph
            .nodes
            .iter()
            .filter(|node| matches!(node.op, Op::MaxPool(_)));
        let unpoolings = graph.nodes.iter().filter(|node| node.op == Op::Unpool);
        let count = poolings.count();
        assert_eq!(count, unpoolings.count());
        count
    }

    #[test]
    fn segnet_has_13_convolutions_on_each_side() {
        let graph = segnet(11, 1);
        assert_eq!((graph.convs().count(), pairs(&graph)), (26, 5));
        // VGG16-BN's convolutions, their mirror image, and the classifier: the paper's 29.45 M.
        let encoder = 14_723_136 - 4_224;
        let mirror = 3 * 9 * 512 * 512
            + 2 * 9 * 512 * 512
            + 9 * 512 * 256
            + 2 * 9 * 256 * 256
            + 9 * 256 * 128
            + 9 * 128 * 128
            + 9 * 128 * 64
            + 9 * 64 * 64;
        let normalisation = 2 * (5 * 512 + 3 * 256 + 2 * 128 + 2 * 64);
        assert_eq!(
            graph.parameters(),
            encoder + mirror + normalisation + 9 * 64 * 11 + 11
        );
        assert_eq!((graph.parameters() as f64 / 1e4).round() / 100.0, 29.44);
        assert_eq!(graph.shapes(96, 160)[graph.output], [11, 96, 160]);
    }

    #[test]
    fn segnet_basic_has_four_7x7_convolutions_on_each_side() {
        let graph = segnet_basic(11, 1);
        assert_eq!((graph.convs().count(), pairs(&graph)), (9, 4));
        let weights = 49 * 64 * 3 + 7 * 49 * 64 * 64;
        assert_eq!(graph.parameters(), weights + 8 * 2 * 64 + 64 * 11 + 11);
        assert_eq!((graph.parameters() as f64 / 1e4).round() / 100.0, 1.42);
        assert_eq!(graph.shapes(96, 160)[graph.output], [11, 96, 160]);
        let activations = graph.nodes.iter().filter(|node| node.op == Op::Relu);
        assert_eq!(activations.count(), 4);
    }
}
