//! U-Net as its paper draws it (Ronneberger et al. 2015, figure 1): 23 convolutions, four poolings, channels from 64 to
//! 1024, 2x2 up-convolutions, and the encoder's features concatenated at each step.
//!
//! Two differences: convolutions are padded, so that sizes match without crops, and the input has three channels.

use super::{Features, classifier, conv_relu, vgg::conv3x3};
use crate::graph::{ConvTranspose, Graph, NodeId, Op, Part, Pool};

/// Channels of the encoder's steps.
const CHANNELS: [i64; 5] = [64, 128, 256, 512, 1024];

/// Builds the network; the output is `[N, classes, H, W]`. Sides are multiples of 16; channels are divided by `divide`.
#[must_use]
pub fn unet(classes: i64, divide: i64) -> Graph {
    let mut graph = Graph::new(3);
    let mut x: Features = (0, 3);
    let mut skips = Vec::new();
    for (step, channels) in CHANNELS.map(|channels| channels / divide).into_iter().enumerate() {
        x = (double(&mut graph, &format!("down{step}"), x, channels), channels);
        if step < 4 {
            skips.push(x);
            let name = format!("down{step}.pool");
            x.0 = graph.push(Part::Head, name, Op::MaxPool(Pool::Cells), &[x.0]);
        }
    }
    for (step, skip) in skips.into_iter().enumerate().rev() {
        let up = ConvTranspose {
            inputs: x.1,
            outputs: skip.1,
            kernel: 2,
            stride: 2,
            bias: true,
            bilinear: false,
        };
        let name = |layer: &str| format!("up{step}{layer}");
        let up = graph.push(Part::Head, name(".up"), Op::ConvTranspose(up), &[x.0]);
        let both = graph.push(Part::Head, name(".concat"), Op::Concat, &[skip.0, up]);
        x = (double(&mut graph, &name(""), (both, 2 * skip.1), skip.1), skip.1);
    }
    classifier(&mut graph, x, classes);
    graph
}

/// Two 3x3 convolutions with ReLU.
fn double(graph: &mut Graph, name: &str, (input, channels): Features, outputs: i64) -> NodeId {
    let mut push = |layer: &str, inputs: i64, x: NodeId| {
        let conv = conv3x3(inputs, outputs, false);
        conv_relu(graph, Part::Head, &format!("{name}.{layer}"), conv, x)
    };
    let x = push("1", channels, input);
    push("2", outputs, x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_and_parameters() {
        let graph = unet(2, 1);
        // The paper's network, which takes one channel, has 31,030,658; two more cost 2 * 9 * 64.
        assert_eq!(graph.parameters(), 31_030_658 + 1_152);
        assert_eq!(graph.convs().count() + graph.transposed().count(), 23);
        assert_eq!(graph.shapes(96, 160)[graph.output], [2, 96, 160]);
    }
}
