//! The inverted residual block that MobileNetV2 and EfficientNet-Lite are made of: a 1x1 expansion, a depthwise
//! convolution, a 1x1 projection without activation, and the entry added where sizes and channels allow it
//! (Sandler et al. 2018, section 3.4).

use crate::graph::{Conv, Graph, NodeId, Op, Part};

/// A layer of a block, to be named as published weights name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// The 1x1 expansion.
    Expand,
    /// The depthwise convolution.
    Depthwise,
    /// The 1x1 projection.
    Project,
    /// The sum with the entry.
    Add,
}

/// Sizes of a block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Block {
    /// How it is trained.
    pub part: Part,
    /// Channels that come in.
    pub inputs: i64,
    /// Channels after the expansion; equal to `inputs`, there is none.
    pub wide: i64,
    /// Channels that go out.
    pub outputs: i64,
    /// Side of the depthwise kernel.
    pub kernel: i64,
    /// Stride of the depthwise convolution.
    pub stride: i64,
    /// Dilation of the depthwise convolution.
    pub dilation: i64,
    /// Whether the odd zero of a stride of two goes after the picture instead of before it.
    pub pad_after: bool,
    /// Whether the entry is added.
    pub residual: bool,
    /// Epsilon of the batch normalisation.
    pub eps: f64,
}

/// Appends a block. `name` gives the name of a layer and of the activation after it (`None` where there is none).
pub fn push(
    graph: &mut Graph,
    entry: NodeId,
    block: Block,
    name: impl Fn(Layer) -> (String, Option<String>),
) -> NodeId {
    let Block { part, eps, .. } = block;
    let mut layer = |layer: Layer, conv: Conv, x: NodeId| {
        let (conv_name, activation) = name(layer);
        let x = graph.push(part, conv_name, Op::Conv(conv), &[x]);
        match activation {
            Some(activation) => graph.push(part, activation, Op::Relu6, &[x]),
            None => x,
        }
    };
    let mut x = entry;
    if block.wide != block.inputs {
        x = layer(Layer::Expand, Conv::pointwise(block.inputs, block.wide, eps), x);
    }
    let mut depthwise = Conv::depthwise(block.wide, block.kernel, block.stride, block.dilation, eps);
    if block.pad_after {
        depthwise.padding = [block.kernel / 2 - 1, block.kernel / 2];
    }
    x = layer(Layer::Depthwise, depthwise, x);
    x = layer(Layer::Project, Conv::pointwise(block.wide, block.outputs, eps), x);
    if block.residual {
        x = graph.push(part, name(Layer::Add).0, Op::Add, &[x, entry]);
    }
    x
}

/// The strides of a trunk that stops at a sixteenth: blocks that would go on to stride 32 are atrous instead
/// (Chen et al. 2017, section 3.1).
#[derive(Clone, Copy, Debug)]
pub struct Strides {
    /// Stride of what the last block gave.
    pub total: i64,
    dilation: i64,
}

impl Strides {
    /// After a stem of stride 2.
    #[must_use]
    pub fn after_stem() -> Self {
        Self {
            total: 2,
            dilation: 1,
        }
    }

    /// Stride and dilation of the next block, which would have `stride` by itself. The block that would go on to stride
    /// 32 itself sees cells of stride 16; those after it are atrous.
    pub fn next(&mut self, stride: i64) -> (i64, i64) {
        let own_dilation = self.dilation;
        let mut stride = stride;
        if self.total * stride > 16 {
            stride = 1;
            self.dilation = 2;
        }
        self.total *= stride;
        (stride, own_dilation)
    }

    /// How a block of the stride reached is trained: the features of stride 4 and less stay as they are.
    #[must_use]
    pub fn part(&self) -> Part {
        if self.total <= 4 { Part::Stem } else { Part::Trunk }
    }
}
