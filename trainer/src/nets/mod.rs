//! Networks: trunks pretrained on ImageNet, and the heads that label pixels.

pub mod deeplabv3;
pub mod deeplabv3_light;
pub mod efficientnet_lite;
pub mod fcn;
pub mod inverted_residual;
pub mod mobilenet_edgetpu;
pub mod mobilenet_v2;
pub mod panoptic_deeplab_light;
pub mod pspnet;
pub mod registry;
pub mod resnet;
pub mod segformer;
pub mod segnet;
pub mod segnet_separable;
pub mod solo_light;
pub mod unet;
pub mod unet_light;
pub mod vgg;

pub use registry::{ARCHITECTURES, Architecture, ObjectForm, Sizes, TrunkKind, by_name};

use crate::graph::{Conv, Graph, NodeId, Op, Part};

/// A node and its channels.
pub type Features = (NodeId, i64);

/// The epsilon of batch normalisation in heads, and in trunks that torch's defaults were used for.
const BATCH_NORM_EPS: f64 = 1e-5;

/// A trunk within a graph.
pub struct Trunk {
    /// The graph, with the trunk's nodes.
    pub graph: Graph,
    /// Features at half of the input's size.
    pub stride2: Features,
    /// Features at a quarter of the input's size.
    pub stride4: Features,
    /// Features at an eighth of the input's size.
    pub stride8: Features,
    /// Features at a sixteenth of the input's size.
    pub stride16: Features,
}

/// Appends a convolution of the head with batch normalisation and ReLU6.
fn conv_relu6(graph: &mut Graph, name: &str, conv: Conv, input: NodeId) -> NodeId {
    let x = graph.push(Part::Head, name, Op::Conv(conv), &[input]);
    graph.push(Part::Head, format!("{name}.relu6"), Op::Relu6, &[x])
}

/// Appends a convolution and ReLU.
fn conv_relu(graph: &mut Graph, part: Part, name: &str, conv: Conv, input: NodeId) -> NodeId {
    let x = graph.push(part, name, Op::Conv(conv), &[input]);
    graph.push(part, format!("{name}.relu"), Op::Relu, &[x])
}

/// Appends a depthwise-separable convolution of the head: `<name>.depthwise`, then `<name>.pointwise`.
fn separable(
    graph: &mut Graph,
    name: &str,
    kernel: i64,
    (input, channels): Features,
    outputs: i64,
) -> NodeId {
    let depthwise = Conv::depthwise(channels, kernel, 1, 1, BATCH_NORM_EPS);
    let x = conv_relu6(graph, &format!("{name}.depthwise"), depthwise, input);
    let pointwise = Conv::pointwise(channels, outputs, BATCH_NORM_EPS);
    conv_relu6(graph, &format!("{name}.pointwise"), pointwise, x)
}

/// Appends two separable 3x3 convolutions of the head, `<name>.1` and `<name>.2`: what a decoder does after a skip.
fn refined(graph: &mut Graph, name: &str, input: Features, channels: i64) -> Features {
    let first = separable(graph, &format!("{name}.1"), 3, input, channels);
    let second = separable(graph, &format!("{name}.2"), 3, (first, channels), channels);
    (second, channels)
}

/// Appends the last convolution: 1x1, with a bias, to a logit a class.
fn classifier(graph: &mut Graph, (input, channels): Features, classes: i64) -> NodeId {
    let conv = Conv {
        bias: true,
        batch_norm: None,
        ..Conv::pointwise(channels, classes, BATCH_NORM_EPS)
    };
    graph.push(Part::Head, "classifier", Op::Conv(conv), &[input])
}
