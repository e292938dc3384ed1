//! U-Net's decoder (Ronneberger et al. 2015) on a trunk of inverted residuals, with depthwise-separable convolutions:
//! at each step the features are doubled in size and concatenated with the encoder's of that stride.

use super::{BATCH_NORM_EPS, Features, Trunk, classifier, refined};
use crate::graph::{Conv, Graph, Op, Part};

/// Sizes of the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Channels of the decoder at stride 8, 4 and 2.
    pub channels: [i64; 3],
    /// Classes.
    pub classes: i64,
}

/// Puts the decoder on a trunk; the output is `[N, classes, H / 2, W / 2]`.
#[must_use]
pub fn unet_light(trunk: Trunk, sizes: Sizes) -> Graph {
    let mut graph = trunk.graph;
    let mut x: Features = trunk.stride16;
    let skips = [trunk.stride8, trunk.stride4, trunk.stride2];
    for ((skip, channels), name) in skips.into_iter().zip(sizes.channels).zip(["up8", "up4", "up2"]) {
        let layer = |layer: &str| format!("{name}.{layer}");
        let conv = Conv::pointwise(x.1, 4 * channels, BATCH_NORM_EPS);
        let up = graph.push(Part::Head, layer("conv"), Op::Conv(conv), &[x.0]);
        let up = graph.push(Part::Head, layer("relu6"), Op::Relu6, &[up]);
        let up = graph.push(Part::Head, layer("depth_to_space"), Op::DepthToSpace, &[up]);
        // The trunk's linear output gets a convolution of its own: stored in 8 bits beside `up`, it keeps its range.
        let conv = Conv::pointwise(skip.1, channels, BATCH_NORM_EPS);
        let skip = super::conv_relu6(&mut graph, &layer("skip"), conv, skip.0);
        let both = graph.push(Part::Head, layer("concat"), Op::Concat, &[up, skip]);
        x = refined(&mut graph, name, (both, 2 * channels), channels);
    }
    classifier(&mut graph, x, sizes.classes);
    graph
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nets::efficientnet_lite::{LITE0, lite};

    #[test]
    fn logits_have_half_the_input_s_size() {
        let sizes = Sizes {
            channels: [96, 48, 24],
            classes: 2,
        };
        let graph = unet_light(lite(LITE0), sizes);
        assert_eq!(graph.shapes(256, 192)[graph.output], [2, 128, 96]);
    }
}
