//! SegFormer-B0 (Xie et al. 2021, arXiv:2105.15203): a transformer of four stages, and a head that joins their features.
//!
//! Layers are called as in Hugging Face's files. Tokens stay where they are in the picture: a linear layer is a 1x1
//! convolution, and a normalisation goes over the channels of each cell. So the network takes any sides that are multiples of 32.

use super::{BATCH_NORM_EPS, Features};
use crate::graph::{Conv, Graph, NodeId, Op, Part};

/// What every name of the encoder begins with.
pub const ENCODER: &str = "segformer.encoder.";
/// What every name of the head begins with.
pub const HEAD: &str = "decode_head.";
/// The last layer, which depends on the classes.
pub const CLASSIFIER: &str = "decode_head.classifier";
/// The convolution whose batch normalisation files call [`FUSED_BATCH_NORM`].
pub const FUSE: &str = "decode_head.linear_fuse";
/// The head's batch normalisation in files.
pub const FUSED_BATCH_NORM: &str = "decode_head.batch_norm";

/// A stage of the encoder.
struct Stage {
    channels: i64,
    heads: i64,
    /// Keys and values are those of a picture smaller by this.
    reduction: i64,
    /// Kernel, stride and padding of the convolution that begins it.
    embedding: [i64; 3],
}

/// Table 6 of the paper.
const STAGES: [Stage; 4] = [
    Stage {
        channels: 32,
        heads: 1,
        reduction: 8,
        embedding: [7, 4, 3],
    },
    Stage {
        channels: 64,
        heads: 2,
        reduction: 4,
        embedding: [3, 2, 1],
    },
    Stage {
        channels: 160,
        heads: 5,
        reduction: 2,
        embedding: [3, 2, 1],
    },
    Stage {
        channels: 256,
        heads: 8,
        reduction: 1,
        embedding: [3, 2, 1],
    },
];
/// Blocks of a stage.
const DEPTH: usize = 2;
/// Channels within a feed-forward part, in those of its stage.
const EXPANSION: i64 = 4;
/// Channels of the head.
const DECODER: i64 = 256;
/// Of random weights: of layers after a normalisation, and of those whose output is added to what they began with.
const GAINS: [f64; 2] = [0.7, 0.35];

/// Builds the network with channels divided by `divide`; logits at stride 4.
///
/// The first stage is the part that stays as it is where published weights are the start.
#[must_use]
pub fn segformer_b0(classes: i64, divide: i64) -> Graph {
    let mut graph = Graph::new(3);
    let mut x: Features = (0, 3);
    let mut features = Vec::new();
    for (index, stage) in STAGES.iter().enumerate() {
        let mut builder = Builder {
            graph: &mut graph,
            part: if index == 0 { Part::Stem } else { Part::Trunk },
        };
        x = builder.stage(index, stage, stage.channels / divide, x);
        features.push(x);
    }
    let mut builder = Builder {
        graph: &mut graph,
        part: Part::Head,
    };
    builder.head(&features, DECODER / divide, classes);
    graph
}

struct Builder<'a> {
    graph: &'a mut Graph,
    part: Part,
}

impl Builder<'_> {
    fn stage(&mut self, index: usize, stage: &Stage, channels: i64, input: Features) -> Features {
        let [kernel, stride, padding] = stage.embedding;
        let name = |layer: &str| format!("{ENCODER}patch_embeddings.{index}.{layer}");
        let conv = Conv {
            kernel,
            stride,
            padding: [padding; 2],
            ..linear(input.1, channels, 1.0)
        };
        let x = self.push(name("proj"), Op::Conv(conv), &[input.0]);
        let mut x = self.norm(name("layer_norm"), channels, x);
        for block in 0..DEPTH {
            let name = |layer: &str| format!("{ENCODER}block.{index}.{block}.{layer}");
            let y = self.norm(name("layer_norm_1"), channels, x);
            let y = self.attention(&name("attention"), stage, (y, channels));
            x = self.push(name("attention.add"), Op::Add, &[x, y]);
            let y = self.norm(name("layer_norm_2"), channels, x);
            let y = self.feed_forward(&name("mlp"), (y, channels));
            x = self.push(name("mlp.add"), Op::Add, &[x, y]);
        }
        let x = self.norm(format!("{ENCODER}layer_norm.{index}"), channels, x);
        (x, channels)
    }

    fn attention(&mut self, name: &str, stage: &Stage, (x, channels): Features) -> NodeId {
        let own = |layer: &str| format!("{name}.self.{layer}");
        let each = || Op::Conv(linear(channels, channels, GAINS[0]));
        let mut seen = x;
        if stage.reduction > 1 {
            let conv = Conv {
                kernel: stage.reduction,
                stride: stage.reduction,
                ..linear(channels, channels, GAINS[0])
            };
            let reduced = self.push(own("sr"), Op::Conv(conv), &[x]);
            seen = self.norm(own("layer_norm"), channels, reduced);
        }
        let query = self.push(own("query"), each(), &[x]);
        let key = self.push(own("key"), each(), &[seen]);
        let value = self.push(own("value"), each(), &[seen]);
        let heads = stage.heads;
        let x = self.push(own("attention"), Op::Attention { heads }, &[query, key, value]);
        let dense = linear(channels, channels, GAINS[1]);
        self.push(format!("{name}.output.dense"), Op::Conv(dense), &[x])
    }

    /// The paper's Mix-FFN: a depthwise 3x3 convolution between two linear layers says where a cell is.
    fn feed_forward(&mut self, name: &str, (x, channels): Features) -> NodeId {
        let wide = EXPANSION * channels;
        let name = |layer: &str| format!("{name}.{layer}");
        let x = self.push(name("dense1"), Op::Conv(linear(channels, wide, GAINS[0])), &[x]);
        let depthwise = Conv {
            bias: true,
            batch_norm: None,
            ..Conv::depthwise(wide, 3, 1, 1, BATCH_NORM_EPS)
        };
        let x = self.push(name("dwconv.dwconv"), Op::Conv(depthwise), &[x]);
        let x = self.push(name("gelu"), Op::Gelu, &[x]);
        self.push(name("dense2"), Op::Conv(linear(wide, channels, GAINS[1])), &[x])
    }

    /// Features of all stages, brought to the same channels and to the first one's size.
    fn head(&mut self, features: &[Features], channels: i64, classes: i64) {
        let mut first = None;
        let mut joined = Vec::new();
        for (index, &(x, inputs)) in features.iter().enumerate() {
            let name = format!("{HEAD}linear_c.{index}");
            let x = self.push(
                format!("{name}.proj"),
                Op::Conv(linear(inputs, channels, GAINS[0])),
                &[x],
            );
            joined.push(match first {
                None => *first.insert(x),
                Some(first) => self.push(format!("{name}.resize"), Op::ResizeLike, &[x, first]),
            });
        }
        // The deepest come first, as the published weights expect.
        joined.reverse();
        let x = self.push(format!("{HEAD}concat"), Op::Concat, &joined);
        let fuse = Conv::pointwise(joined.len() as i64 * channels, channels, BATCH_NORM_EPS);
        let x = self.push(FUSE.to_owned(), Op::Conv(fuse), &[x]);
        let x = self.push(format!("{HEAD}relu"), Op::Relu, &[x]);
        self.push(
            CLASSIFIER.to_owned(),
            Op::Conv(linear(channels, classes, 1.0)),
            &[x],
        );
    }

    fn norm(&mut self, name: String, channels: i64, x: NodeId) -> NodeId {
        self.push(name, Op::LayerNorm { channels }, &[x])
    }

    fn push(&mut self, name: String, op: Op, inputs: &[NodeId]) -> NodeId {
        self.graph.push(self.part, name, op, inputs)
    }
}

/// A linear layer: 1x1, with a bias.
fn linear(inputs: i64, outputs: i64, gain: f64) -> Conv {
    Conv {
        bias: true,
        batch_norm: None,
        gain,
        ..Conv::pointwise(inputs, outputs, BATCH_NORM_EPS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts of `SegformerForSemanticSegmentation` of Hugging Face's transformers, with the configuration of
    /// `nvidia/segformer-b0-finetuned-ade-512-512` (150 classes) and of `...-cityscapes-1024-1024` (19): 3.75 M and 3.72 M; the
    /// paper has 3.8 M and 3.7 M.
    #[test]
    fn it_has_as_many_parameters_as_the_published_one() {
        let graph = segformer_b0(150, 1);
        assert_eq!(graph.parameters(), 3_752_694);
        assert_eq!(segformer_b0(19, 1).parameters(), 3_719_027);
        let encoder: i64 = graph
            .nodes
            .iter()
            .filter(|node| node.name.starts_with(ENCODER))
            .map(|node| match &node.op {
                Op::Conv(conv) => conv.weight_shape().iter().product::<i64>() + conv.outputs,
                Op::LayerNorm { channels } => 2 * channels,
                _ => 0,
            })
            .sum();
        assert_eq!(encoder, 3_319_392);
    }

    #[test]
    fn stages_have_the_paper_s_strides_and_keys_are_few() {
        let graph = segformer_b0(21, 1);
        let shapes = graph.shapes(128, 256);
        for (index, (channels, stride)) in [(32, 4), (64, 8), (160, 16), (256, 32)].into_iter().enumerate() {
            let id = graph.node(&format!("{ENCODER}layer_norm.{index}")).unwrap();
            assert_eq!(shapes[id], [channels, 128 / stride, 256 / stride]);
            let key = graph
                .node(&format!("{ENCODER}block.{index}.1.attention.self.key"))
                .unwrap();
            assert_eq!(shapes[key], [channels, 4, 8]);
        }
        assert_eq!(shapes[graph.output], [21, 32, 64]);
        let first =
            ["patch_embeddings.0.", "block.0.", "layer_norm.0"].map(|part| format!("{ENCODER}{part}"));
        for node in &graph.nodes[1..] {
            let is_first = first.iter().any(|part| node.name.starts_with(part));
            assert_eq!(node.part == Part::Stem, is_first, "{}", node.name);
        }
    }
}
