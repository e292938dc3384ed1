//! A network as a list of nodes. The same list drives the forward pass in tch, the ONNX writer and the quantizer.

/// A node's place in [`Graph::nodes`].
pub type NodeId = usize;

/// How a part of the network is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Pretrained and left as it is: no gradient.
    Stem,
    /// Pretrained and fine-tuned; batch normalisation keeps its pretrained statistics.
    Trunk,
    /// New: trained from scratch, batch normalisation with the batch's statistics.
    Head,
}

/// A 2-D convolution, with the batch normalisation that follows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Conv {
    /// Input channels.
    pub inputs: i64,
    /// Output channels.
    pub outputs: i64,
    /// Side of the square kernel.
    pub kernel: i64,
    /// Step between output cells.
    pub stride: i64,
    /// Zeros added before and after the picture, the same for both axes.
    pub padding: [i64; 2],
    /// Step between kernel taps.
    pub dilation: i64,
    /// Groups; `groups == inputs == outputs` is a depthwise convolution.
    pub groups: i64,
    /// Adds a bias a channel. Never together with `batch_norm`.
    pub bias: bool,
    /// The epsilon of the batch normalisation that follows.
    pub batch_norm: Option<f64>,
    /// Factor on the deviation of random weights.
    pub gain: f64,
    /// What weights and bias are multiplied by where they are used. Numbers that are large, such as distances in pixels, are
    /// learnt as fast as others by it.
    pub scale: f64,
    /// What biases are before training, before [`scale`](Self::scale).
    pub first_bias: f64,
}

impl Conv {
    /// A 1x1 convolution with batch normalisation.
    #[must_use]
    pub fn pointwise(inputs: i64, outputs: i64, eps: f64) -> Self {
        Self {
            inputs,
            outputs,
            kernel: 1,
            stride: 1,
            padding: [0, 0],
            dilation: 1,
            groups: 1,
            bias: false,
            batch_norm: Some(eps),
            gain: 1.0,
            scale: 1.0,
            first_bias: 0.0,
        }
    }

    /// A depthwise convolution with batch normalisation, padded to keep the size at stride 1.
    #[must_use]
    pub fn depthwise(channels: i64, kernel: i64, stride: i64, dilation: i64, eps: f64) -> Self {
        let side = kernel / 2 * dilation;
        Self {
            inputs: channels,
            outputs: channels,
            kernel,
            stride,
            padding: [side, side],
            dilation,
            groups: channels,
            bias: false,
            batch_norm: Some(eps),
            gain: 1.0,
            scale: 1.0,
            first_bias: 0.0,
        }
    }

    /// Shape of the weights: `[outputs, inputs / groups, kernel, kernel]`.
    #[must_use]
    pub fn weight_shape(&self) -> [i64; 4] {
        [self.outputs, self.inputs / self.groups, self.kernel, self.kernel]
    }

    /// Size of the output along one axis.
    #[must_use]
    pub fn output_size(&self, input: i64) -> i64 {
        (input + self.padding[0] + self.padding[1] - self.dilation * (self.kernel - 1) - 1) / self.stride + 1
    }
}

/// What a max-pooling looks at; the stride is 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// Cells of 2x2.
    Cells,
    /// 3x3 around every second cell, one beyond the picture on each side.
    Overlapping,
}

impl Pool {
    /// Side of the kernel.
    #[must_use]
    pub fn kernel(self) -> i64 {
        match self {
            Self::Cells => 2,
            Self::Overlapping => 3,
        }
    }

    /// Cells added on each side.
    #[must_use]
    pub fn padding(self) -> i64 {
        match self {
            Self::Cells => 0,
            Self::Overlapping => 1,
        }
    }
}

/// A transposed convolution that multiplies height and width by its stride.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvTranspose {
    /// Input channels.
    pub inputs: i64,
    /// Output channels.
    pub outputs: i64,
    /// Side of the square kernel: the stride, or twice the stride.
    pub kernel: i64,
    /// What height and width are multiplied by.
    pub stride: i64,
    /// Adds a bias a channel.
    pub bias: bool,
    /// Starts as bilinear interpolation of each channel instead of at random.
    pub bilinear: bool,
}

impl ConvTranspose {
    /// Shape of the weights: `[inputs, outputs, kernel, kernel]`.
    #[must_use]
    pub fn weight_shape(&self) -> [i64; 4] {
        [self.inputs, self.outputs, self.kernel, self.kernel]
    }

    /// Cells taken off each side of the full output, so that its sides are the input's times the stride.
    #[must_use]
    pub fn padding(&self) -> i64 {
        (self.kernel - self.stride) / 2
    }
}

/// What a node computes; tensors are `[N, C, H, W]`.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// The network's input.
    Input {
        /// Channels.
        channels: i64,
    },
    /// Convolution, then batch normalisation where it has one.
    Conv(Conv),
    /// `min(max(x, 0), 6)`
    Relu6,
    /// `max(x, 0)`
    Relu,
    /// Sum of two inputs; the second may be `[N, C, 1, 1]`.
    Add,
    /// Inputs one after the other along the channels.
    Concat,
    /// Mean over height and width: `[N, C, 1, 1]`.
    GlobalAvgPool,
    /// `[N, 4 C, H, W]` to `[N, C, 2 H, 2 W]`; input channel `(2 i + j) C + c` goes to row `2 y + i`, column
    /// `2 x + j` of channel `c`: ONNX's DepthToSpace with block 2 in DCR mode.
    DepthToSpace,
    /// Largest value around every second cell; height and width are even.
    MaxPool(Pool),
    /// Undoes a [`Pool::Cells`]: inputs are the values `[N, C, H, W]`, what was pooled `[N, C, 2 H, 2 W]` and what the
    /// pooling gave `[N, C, H, W]`. Each value goes to the place of the maximum of its cell, the first in row order
    /// where several are equal, as torch's `max_unpool2d` has it; the rest is zero.
    Unpool,
    /// Transposed convolution.
    ConvTranspose(ConvTranspose),
    /// Means over `bins` x `bins` equal parts of the picture: `[N, C, bins, bins]`. Height and width are multiples of
    /// `bins`.
    BinPool {
        /// Parts along each axis.
        bins: i64,
    },
    /// The first input at the height and width of the second, bilinear between cell centres.
    ResizeLike,
    /// The input at `side` by `side` cells, whatever its own sides are, bilinear between cell centres.
    ResizeTo {
        /// Cells along each axis.
        side: i64,
    },
    /// Each cell by itself, over its channels: less their mean, over the root of their variance and [`LAYER_NORM_EPS`],
    /// times a weight and plus a bias of the channel.
    LayerNorm {
        /// Channels.
        channels: i64,
    },
    /// `x / 2 * (1 + erf(x / sqrt(2)))`
    Gelu,
    /// Attention of every cell of the first input to all cells of the second, whose values are the third: channels lie in
    /// `heads` equal parts, each of which weighs the values by the softmax of its scaled products (Vaswani et al. 2017).
    Attention {
        /// Parts.
        heads: i64,
    },
    /// Where the cells of a picture of `side` by `side` cells lie: to the right and down, 0 to 6 from edge to edge, the range of
    /// ReLU6, so that 8 bits store them beside its values; `[N, 2, side, side]`. The input says how many pictures there are.
    Coordinates {
        /// Cells along each axis.
        side: i64,
    },
    /// A logit where it is the largest of its cell and of those before it, to the left, above and above to the left; elsewhere
    /// [`NOTHING`] (the points NMS of Wang et al. 2020).
    PointsNms,
    /// The cells of all inputs as rows, one behind the other, each row by row: `[N, 1, cells, C]`. An output, which files have
    /// as `[1, cells, C]`.
    Rows,
}

/// What is added to a variance in [`Op::LayerNorm`].
pub const LAYER_NORM_EPS: f64 = 1e-5;
/// The logit that [`Op::PointsNms`] leaves where another cell has more: a probability of nothing.
pub const NOTHING: f64 = -100.0;

/// One operation of a network.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Unique name; weights are called `<name>.weight` and so on.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// The nodes it reads, all before it.
    pub inputs: Vec<NodeId>,
    /// How it is trained.
    pub part: Part,
}

/// The name of the first output of a network that gives classes.
pub const LOGITS: &str = "logits";

/// An output beside the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its name in the exported file.
    pub name: &'static str,
    /// The node whose value it is.
    pub node: NodeId,
}

/// A network: nodes in the order they run.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    /// The nodes; the first is the input.
    pub nodes: Vec<Node>,
    /// The node whose value is the network's first output: the logits of the classes, where the network gives some.
    pub output: NodeId,
    /// The name of the first output in files.
    pub first: &'static str,
    /// What a network that tells objects apart gives beside them.
    pub others: Vec<Output>,
}

impl Graph {
    /// A graph that holds an input of `channels` channels.
    #[must_use]
    pub fn new(channels: i64) -> Self {
        let input = Node {
            name: "input".into(),
            op: Op::Input { channels },
            inputs: vec![],
            part: Part::Stem,
        };
        Self {
            nodes: vec![input],
            output: 0,
            first: LOGITS,
            others: vec![],
        }
    }

    /// Appends a node, which becomes the output.
    ///
    /// # Panics
    /// The name is taken, or an input does not exist yet.
    pub fn push(&mut self, part: Part, name: impl Into<String>, op: Op, inputs: &[NodeId]) -> NodeId {
        let name = name.into();
        assert!(
            self.nodes.iter().all(|node| node.name != name),
            "two nodes are called {name}"
        );
        assert!(
            inputs.iter().all(|&input| input < self.nodes.len()),
            "{name} reads a node that does not exist"
        );
        self.nodes.push(Node {
            name,
            op,
            inputs: inputs.to_vec(),
            part,
        });
        self.output = self.nodes.len() - 1;
        self.output
    }

    /// Every output's node, the first one first.
    pub fn outputs(&self) -> impl Iterator<Item = NodeId> {
        std::iter::once(self.output).chain(self.others.iter().map(|output| output.node))
    }

    /// Whether a node's value is an output.
    #[must_use]
    pub fn is_output(&self, id: NodeId) -> bool {
        self.outputs().any(|output| output == id)
    }

    /// The names of the outputs in files, in the order of [`outputs`](Self::outputs).
    pub fn output_names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.first).chain(self.others.iter().map(|output| output.name))
    }

    /// The node called `name`.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<NodeId> {
        self.nodes.iter().position(|node| node.name == name)
    }

    /// For every node, whether it is an output or is made into one by nothing but [`Op::PointsNms`] and [`Op::Rows`]: its value is
    /// that of an output, as fine as it.
    #[must_use]
    pub fn ends(&self) -> Vec<bool> {
        let mut ends: Vec<bool> = (0..self.nodes.len()).map(|id| self.is_output(id)).collect();
        for node in self.nodes.iter().rev() {
            if matches!(node.op, Op::PointsNms | Op::Rows) {
                for &input in &node.inputs {
                    ends[input] = true;
                }
            }
        }
        ends
    }

    /// The node of the output called `name`, of those beside the first.
    #[must_use]
    pub fn other(&self, name: &str) -> Option<NodeId> {
        self.others
            .iter()
            .find(|output| output.name == name)
            .map(|output| output.node)
    }

    /// For every node, whether one of `wanted` is made of it, directly or through others.
    #[must_use]
    pub fn needed(&self, wanted: &[NodeId]) -> Vec<bool> {
        let mut needed = vec![false; self.nodes.len()];
        for &id in wanted {
            needed[id] = true;
        }
        for (id, node) in self.nodes.iter().enumerate().rev() {
            if needed[id] {
                for &input in &node.inputs {
                    needed[input] = true;
                }
            }
        }
        needed
    }

    /// Leaves all as it is that the logits are made of: the rest alone is trained.
    #[must_use]
    pub fn with_frozen_classes(mut self) -> Self {
        let frozen = self.needed(&[self.output]);
        for (node, frozen) in self.nodes.iter_mut().zip(frozen) {
            if frozen {
                node.part = Part::Stem;
            }
        }
        self
    }

    /// Makes every part trainable with batch statistics, for a network without pretrained weights.
    #[must_use]
    pub fn from_scratch(mut self) -> Self {
        for node in &mut self.nodes {
            node.part = Part::Head;
        }
        self
    }

    /// Every convolution with its node.
    pub fn convs(&self) -> impl Iterator<Item = (&Node, &Conv)> {
        self.nodes.iter().filter_map(|node| match &node.op {
            Op::Conv(conv) => Some((node, conv)),
            _ => None,
        })
    }

    /// Every transposed convolution with its node.
    pub fn transposed(&self) -> impl Iterator<Item = (&Node, &ConvTranspose)> {
        self.nodes.iter().filter_map(|node| match &node.op {
            Op::ConvTranspose(conv) => Some((node, conv)),
            _ => None,
        })
    }

    /// Every normalisation over channels, with how many there are.
    pub fn layer_norms(&self) -> impl Iterator<Item = (&Node, i64)> {
        self.nodes.iter().filter_map(|node| match node.op {
            Op::LayerNorm { channels } => Some((node, channels)),
            _ => None,
        })
    }

    /// For every node, the last node that reads it (itself where none does).
    #[must_use]
    pub fn last_uses(&self) -> Vec<NodeId> {
        let mut last: Vec<NodeId> = (0..self.nodes.len()).collect();
        for (id, node) in self.nodes.iter().enumerate() {
            for &input in &node.inputs {
                last[input] = id;
            }
        }
        last
    }

    /// Shape `[C, H, W]` of every node's value for an input of `height` by `width`.
    ///
    /// # Panics
    /// The graph is inconsistent: channels that don't fit, sizes that differ at an addition.
    #[must_use]
    pub fn shapes(&self, height: i64, width: i64) -> Vec<[i64; 3]> {
        let mut shapes: Vec<[i64; 3]> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let input = |i: usize| shapes[node.inputs[i]];
            let shape = match &node.op {
                Op::Input { channels } => [*channels, height, width],
                Op::Conv(conv) => {
                    let [channels, h, w] = input(0);
                    assert_eq!(channels, conv.inputs, "{}: input channels", node.name);
                    [conv.outputs, conv.output_size(h), conv.output_size(w)]
                }
                Op::Relu6 | Op::Relu => input(0),
                Op::Add => {
                    let (a, b) = (input(0), input(1));
                    assert!(a == b || b == [a[0], 1, 1], "{}: {a:?} + {b:?}", node.name);
                    a
                }
                Op::Concat => {
                    let first = input(0);
                    let channels = (0..node.inputs.len()).map(|i| {
                        assert_eq!(input(i)[1..], first[1..], "{}: sizes", node.name);
                        input(i)[0]
                    });
                    [channels.sum(), first[1], first[2]]
                }
                Op::GlobalAvgPool => [input(0)[0], 1, 1],
                Op::DepthToSpace => {
                    let [channels, h, w] = input(0);
                    assert_eq!(channels % 4, 0, "{}: channels", node.name);
                    [channels / 4, 2 * h, 2 * w]
                }
                Op::MaxPool(_) => {
                    let [channels, h, w] = input(0);
                    assert!(h % 2 == 0 && w % 2 == 0, "{}: {h}x{w} is not even", node.name);
                    [channels, h / 2, w / 2]
                }
                Op::Unpool => {
                    let [channels, h, w] = input(0);
                    assert_eq!(
                        input(1),
                        [channels, 2 * h, 2 * w],
                        "{}: what was pooled",
                        node.name
                    );
                    assert_eq!(input(2), input(0), "{}: what the pooling gave", node.name);
                    input(1)
                }
                Op::ConvTranspose(conv) => {
                    let [channels, h, w] = input(0);
                    assert_eq!(channels, conv.inputs, "{}: input channels", node.name);
                    [conv.outputs, conv.stride * h, conv.stride * w]
                }
                Op::BinPool { bins } => {
                    let [channels, h, w] = input(0);
                    assert!(
                        h % bins == 0 && w % bins == 0,
                        "{}: {h}x{w} is no multiple of {bins}",
                        node.name
                    );
                    [channels, *bins, *bins]
                }
                Op::ResizeLike => [input(0)[0], input(1)[1], input(1)[2]],
                Op::ResizeTo { side } => [input(0)[0], *side, *side],
                Op::LayerNorm { channels } => {
                    assert_eq!(input(0)[0], *channels, "{}: channels", node.name);
                    input(0)
                }
                Op::Gelu | Op::PointsNms => input(0),
                Op::Attention { heads } => {
                    let (query, key) = (input(0), input(1));
                    assert!(
                        query[0] == key[0] && query[0] % heads == 0 && key == input(2),
                        "{}: {query:?} to {key:?} in {heads} parts, values {:?}",
                        node.name,
                        input(2)
                    );
                    query
                }
                Op::Coordinates { side } => [2, *side, *side],
                Op::Rows => {
                    let channels = input(0)[0];
                    let cells = (0..node.inputs.len()).map(|i| {
                        assert_eq!(input(i)[0], channels, "{}: channels", node.name);
                        input(i)[1] * input(i)[2]
                    });
                    [1, cells.sum(), channels]
                }
            };
            shapes.push(shape);
        }
        shapes
    }

    /// Multiply-accumulates of one forward pass at `height` by `width`, of convolutions and attention alone.
    #[must_use]
    pub fn macs(&self, height: i64, width: i64) -> i64 {
        let shapes = self.shapes(height, width);
        self.nodes
            .iter()
            .enumerate()
            .map(|(id, node)| match &node.op {
                Op::Conv(conv) => {
                    let [_, h, w] = shapes[id];
                    conv.weight_shape().iter().product::<i64>() * h * w
                }
                Op::ConvTranspose(conv) => {
                    let [_, h, w] = shapes[node.inputs[0]];
                    conv.weight_shape().iter().product::<i64>() * h * w
                }
                Op::Attention { .. } => {
                    let ([channels, h, w], [_, rows, columns]) =
                        (shapes[node.inputs[0]], shapes[node.inputs[1]]);
                    // Of queries and keys, and of weights and values.
                    2 * channels * h * w * rows * columns
                }
                _ => 0,
            })
            .sum()
    }

    /// Weights and biases that training finds; batch normalisation has two a channel, its statistics are not counted.
    #[must_use]
    pub fn parameters(&self) -> i64 {
        self.nodes
            .iter()
            .map(|node| match &node.op {
                Op::Conv(conv) => {
                    let vectors = i64::from(conv.bias) + if conv.batch_norm.is_some() { 2 } else { 0 };
                    conv.weight_shape().iter().product::<i64>() + vectors * conv.outputs
                }
                Op::ConvTranspose(conv) => {
                    conv.weight_shape().iter().product::<i64>() + i64::from(conv.bias) * conv.outputs
                }
                Op::LayerNorm { channels } => 2 * channels,
                _ => 0,
            })
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_and_macs_follow_the_convolution_arithmetic() {
        let mut graph = Graph::new(3);
        let stem = Conv {
            stride: 2,
            ..Conv::pointwise(3, 8, 1e-3)
        };
        let stem = graph.push(
            Part::Stem,
            "stem",
            Op::Conv(Conv {
                kernel: 3,
                padding: [1, 1],
                ..stem
            }),
            &[0],
        );
        let deep = graph.push(
            Part::Head,
            "deep",
            Op::Conv(Conv::depthwise(8, 3, 1, 2, 1e-3)),
            &[stem],
        );
        let pool = graph.push(Part::Head, "pool", Op::GlobalAvgPool, &[deep]);
        let sum = graph.push(Part::Head, "sum", Op::Add, &[deep, pool]);
        let both = graph.push(Part::Head, "both", Op::Concat, &[sum, stem]);
        graph.push(Part::Head, "up", Op::DepthToSpace, &[both]);
        let shapes = graph.shapes(32, 48);
        assert_eq!(shapes[stem], [8, 16, 24]);
        assert_eq!(shapes[deep], [8, 16, 24]);
        assert_eq!(shapes[pool], [8, 1, 1]);
        assert_eq!(shapes[both], [16, 16, 24]);
        assert_eq!(shapes[graph.output], [4, 32, 48]);
        assert_eq!(graph.macs(32, 48), (27 + 9) * 8 * 16 * 24);
        assert_eq!(graph.last_uses()[deep], sum);
    }

    #[test]
    #[should_panic(expected = "two nodes are called a")]
    fn names_are_unique() {
        let mut graph = Graph::new(3);
        graph.push(Part::Head, "a", Op::Relu, &[0]);
        graph.push(Part::Head, "a", Op::Relu, &[0]);
    }
}
