//! VGG16's thirteen convolutions (Simonyan and Zisserman 2015, table 1, column D), plain or with batch normalisation,
//! with torchvision's layer names.

use super::{BATCH_NORM_EPS, Features, conv_relu};
use crate::graph::{Conv, Graph, NodeId, Op, Part, Pool};

/// Convolutions and channels of each of the five groups, a pooling after each.
pub const GROUPS: [(usize, i64); 5] = [(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)];

/// What a group left behind.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// The last convolution's features, which were pooled.
    pub input: NodeId,
    /// The pooled features.
    pub pooled: NodeId,
    /// Channels of both.
    pub channels: i64,
}

/// A 3x3 convolution that keeps the size: with batch normalisation, or with a bias.
#[must_use]
pub fn conv3x3(inputs: i64, outputs: i64, batch_norm: bool) -> Conv {
    Conv {
        kernel: 3,
        padding: [1, 1],
        bias: !batch_norm,
        batch_norm: batch_norm.then_some(BATCH_NORM_EPS),
        ..Conv::pointwise(inputs, outputs, BATCH_NORM_EPS)
    }
}

/// Appends the convolutions and poolings to the input of `graph`, with channels divided by `divide`.
pub fn push(graph: &mut Graph, batch_norm: bool, divide: i64) -> [Group; 5] {
    let mut x: Features = (0, 3);
    // torchvision counts convolutions, normalisations, activations and poolings in one sequence.
    let mut layer = 0;
    GROUPS.map(|(convs, channels)| {
        let channels = channels / divide;
        for _ in 0..convs {
            let conv = conv3x3(x.1, channels, batch_norm);
            x = (
                conv_relu(graph, Part::Trunk, &format!("features.{layer}"), conv, x.0),
                channels,
            );
            layer += if batch_norm { 3 } else { 2 };
        }
        let input = x.0;
        let name = format!("features.{layer}");
        x.0 = graph.push(Part::Trunk, name, Op::MaxPool(Pool::Cells), &[input]);
        layer += 1;
        Group {
            input,
            pooled: x.0,
            channels,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_those_of_the_published_networks() {
        // torchvision's vgg16 has 138,357,544 and vgg16_bn 138,365,992, of which the three dense layers have 123,642,856.
        for (batch_norm, published) in [(false, 138_357_544), (true, 138_365_992)] {
            let mut graph = Graph::new(3);
            let groups = push(&mut graph, batch_norm, 1);
            // A bias before batch normalisation does nothing and is left out.
            let biases = if batch_norm { 4_224 } else { 0 };
            assert_eq!(graph.parameters(), published - 123_642_856 - biases);
            assert_eq!(graph.convs().count(), 13);
            let shapes = graph.shapes(224, 320);
            for (index, group) in groups.iter().enumerate() {
                let stride = 2 << index;
                assert_eq!(
                    shapes[group.pooled],
                    [GROUPS[index].1, 224 / stride, 320 / stride]
                );
            }
        }
    }
}
