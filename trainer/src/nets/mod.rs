//! Networks: trunks pretrained on ImageNet, and the heads that label pixels.

pub mod deeplabv3;
pub mod efficientnet_lite;
pub mod mobilenet_v2;

use crate::graph::{Graph, NodeId};

/// A trunk within a graph.
pub struct Trunk {
    /// The graph, with the trunk's nodes.
    pub graph: Graph,
    /// Features at a eighth of the input's size, and their channels.
    pub stride8: (NodeId, i64),
    /// Features at a sixteenth of the input's size, and their channels.
    pub stride16: (NodeId, i64),
}
