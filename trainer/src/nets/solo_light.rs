//! SOLOv2 in a light form (Wang et al. 2020, arXiv:2003.10152): cells of three grids say of which class an object with its
//! middle there is, and give a kernel that makes its mask out of features.
//!
//! The trunk's features at stride 16 go up to stride 4 as in [`deeplabv3_light`](super::deeplabv3_light); the last ones give the
//! features of the masks. Grids of `S` x `S` cells are resized from strides 8 and 16, whatever the picture's sides. A kernel is
//! of 1x1: its numbers times the features are the mask's logits. Kernels and features know where their cells lie (CoordConv),
//! features at stride 4 as well, as in CondInst (Tian et al. 2020).

use super::deeplabv3_light::decoder_step;
use super::{BATCH_NORM_EPS, Features, Trunk, conv_relu6, separable};
use crate::graph::{Conv, Graph, NodeId, Op, Output, Part};

/// The name of the first output: the features that masks are made of, `[N, FEATURES, H / 4, W / 4]`.
pub const PROTOTYPES: &str = "prototypes";
/// The name of the output of each cell's classes, as logits: `[N, cells, classes - 1]`.
pub const SCORES: &str = "scores";
/// The name of the output of each cell's kernel: `[N, cells, FEATURES]`.
pub const KERNELS: &str = "coefficients";
/// What every name beyond the trunk begins with.
pub const PREFIX: &str = "solo.";
/// Planes of features, and numbers of a kernel.
pub const FEATURES: i64 = 64;

/// A grid of cells.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// Cells along each axis.
    pub side: i64,
    /// Which objects its cells find: square roots of box areas, in shares of that of the picture, from and to.
    pub scales: [f32; 2],
    /// Whether it looks at stride 8; otherwise at 16.
    fine: bool,
}

/// The grids. An object may be found in two of them.
pub const LEVELS: [Level; 3] = [
    Level {
        side: 32,
        scales: [0.0, 0.25],
        fine: true,
    },
    Level {
        side: 20,
        scales: [0.15, 0.55],
        fine: false,
    },
    Level {
        side: 12,
        scales: [0.4, f32::INFINITY],
        fine: false,
    },
];

/// Channels of the features at stride 16, and of both branches on the grids.
const WIDE: i64 = 96;
/// Cells of the map of places that is resized to strides 16 and 4.
const PLACES: i64 = 64;
/// Few cells have an object: scores start where one of a hundred has (Lin et al. 2017).
const FIRST_SCORE: f64 = -4.6;

/// The node of a level's logits of classes, `[N, classes - 1, S, S]`, before points NMS.
#[must_use]
pub fn category_name(level: usize) -> String {
    format!("{PREFIX}{level}.category.last")
}

/// The node of a level's kernels, `[N, FEATURES, S, S]`.
#[must_use]
pub fn kernel_name(level: usize) -> String {
    format!("{PREFIX}{level}.kernel.last")
}

/// Puts the head on a trunk; `decoder` has the channels at stride 8 and 4.
///
/// # Panics
/// There are fewer than two classes.
#[must_use]
pub fn solo_light(trunk: Trunk, decoder: [i64; 2], classes: i64) -> Graph {
    assert!(
        classes >= 2,
        "{classes} classes, expected the background and one more"
    );
    let Trunk {
        mut graph,
        stride4,
        stride8,
        stride16: deep,
        ..
    } = trunk;
    let graph = &mut graph;
    let name = |layer: &str| format!("{PREFIX}{layer}");

    let places = graph.push(Part::Head, name("places"), Op::Coordinates { side: PLACES }, &[0]);
    let (deep, channels) = deep;
    let near = graph.push(Part::Head, name("places.deep"), Op::ResizeLike, &[places, deep]);
    let project = Conv::pointwise(channels, WIDE, BATCH_NORM_EPS);
    let x = conv_relu6(graph, &name("deep"), project, deep);
    let x = graph.push(Part::Head, name("deep.concat"), Op::Concat, &[x, near]);
    let x = separable(graph, &name("deep.refine"), 3, (x, WIDE + 2), WIDE);
    let coarse: Features = (x, WIDE);
    let [wide, narrow] = decoder;
    let fine = (
        decoder_step(graph, &name("decoder8"), coarse, stride8, wide),
        wide,
    );
    let finest = decoder_step(graph, &name("decoder4"), fine, stride4, narrow);

    // Where a cell lies tells objects apart that look alike: kernels cut features by it.
    let near = graph.push(Part::Head, name("places.fine"), Op::ResizeLike, &[places, finest]);
    let x = graph.push(Part::Head, name("fine.concat"), Op::Concat, &[finest, near]);
    let x = separable(graph, &name("fine"), 3, (x, narrow + 2), FEATURES);
    let features = Conv::pointwise(FEATURES, FEATURES, BATCH_NORM_EPS);
    let features = graph.push(Part::Head, name("features"), Op::Conv(features), &[x]);

    let (mut scores, mut kernels) = (Vec::new(), Vec::new());
    for (index, level) in LEVELS.iter().enumerate() {
        let own = |layer: &str| name(&format!("{index}.{layer}"));
        let (x, channels) = if level.fine { fine } else { coarse };
        let side = level.side;
        let x = graph.push(Part::Head, own("grid"), Op::ResizeTo { side }, &[x]);
        let category = Conv {
            first_bias: FIRST_SCORE,
            ..last(classes - 1)
        };
        let y = tower(graph, &own("category"), (x, channels));
        let y = graph.push(Part::Head, category_name(index), Op::Conv(category), &[y]);
        scores.push(graph.push(Part::Head, own("points"), Op::PointsNms, &[y]));

        let places = graph.push(Part::Head, own("places"), Op::Coordinates { side }, &[0]);
        let x = graph.push(Part::Head, own("concat"), Op::Concat, &[x, places]);
        let y = tower(graph, &own("kernel"), (x, channels + 2));
        kernels.push(graph.push(Part::Head, kernel_name(index), Op::Conv(last(FEATURES)), &[y]));
    }
    let mut output = |output: &'static str, levels: &[NodeId]| Output {
        name: output,
        node: graph.push(Part::Head, name(output), Op::Rows, levels),
    };
    let others = vec![output(SCORES, &scores), output(KERNELS, &kernels)];
    let mut graph = std::mem::replace(graph, Graph::new(1));
    (graph.output, graph.first, graph.others) = (features, PROTOTYPES, others);
    graph
}

/// Two separable 3x3 convolutions.
fn tower(graph: &mut Graph, name: &str, input: Features) -> NodeId {
    let x = separable(graph, &format!("{name}.0"), 3, input, WIDE);
    separable(graph, &format!("{name}.1"), 3, (x, WIDE), WIDE)
}

/// The last layer of a branch: 1x1, with a bias.
fn last(outputs: i64) -> Conv {
    Conv {
        bias: true,
        batch_norm: None,
        ..Conv::pointwise(WIDE, outputs, BATCH_NORM_EPS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nets::efficientnet_lite::{LITE0, lite};
    use crate::nets::mobilenet_v2::mobilenet_v2;

    #[test]
    fn grids_have_their_cells_at_any_size() {
        let graph = solo_light(lite(LITE0), [96, 64], 21);
        for (height, width) in [(288, 384), (32, 64)] {
            let shapes = graph.shapes(height, width);
            assert_eq!(shapes[graph.output], [64, height / 4, width / 4]);
            let cells = 32 * 32 + 20 * 20 + 12 * 12;
            assert_eq!(shapes[graph.other(SCORES).unwrap()], [1, cells, 20]);
            assert_eq!(shapes[graph.other(KERNELS).unwrap()], [1, cells, 64]);
            for (index, level) in LEVELS.iter().enumerate() {
                let node = |name: String| shapes[graph.node(&name).unwrap()];
                assert_eq!(node(category_name(index)), [20, level.side, level.side]);
                assert_eq!(node(kernel_name(index)), [64, level.side, level.side]);
            }
        }
        let names: Vec<&str> = graph.output_names().collect();
        assert_eq!(names, [PROTOTYPES, SCORES, KERNELS]);
    }

    #[test]
    fn every_size_of_object_has_a_grid() {
        for share in (1..100).map(|percent| percent as f32 / 100.0) {
            let grids = LEVELS
                .iter()
                .filter(|level| (level.scales[0]..level.scales[1]).contains(&share));
            assert!((1..=2).contains(&grids.count()), "{share}");
        }
    }

    #[test]
    fn layers_add_up_to_its_parameters() {
        for (trunk, wide) in [(lite(LITE0), [24, 40, 320]), (mobilenet_v2(0.5), [16, 16, 160])] {
            let before = trunk.graph.parameters();
            let graph = solo_light(trunk, [96, 64], 21);
            let conv = |inputs: i64, outputs: i64| inputs * outputs + 2 * outputs;
            let separable = |inputs: i64, outputs: i64| 11 * inputs + conv(inputs, outputs);
            let step = |x: i64, skip: i64, outputs: i64| {
                conv(x, 4 * outputs) + conv(skip, outputs) + separable(outputs, outputs)
            };
            let deep = conv(wide[2], 96) + separable(98, 96);
            let decoder = step(96, wide[1], 96) + step(96, wide[0], 64) + separable(66, 64) + conv(64, 64);
            let category = 2 * separable(96, 96) + 97 * 20;
            let kernel = separable(98, 96) + separable(96, 96) + 97 * 64;
            assert_eq!(
                graph.parameters() - before,
                deep + decoder + 3 * (category + kernel)
            );
        }
    }
}
