//! Networks of 8 bits in tract: our operators replace tract's own and add those that it lacks.
//!
//! tract reads the network and runs it. Between the first byte and the last, samples lie in planes of four channels
//! ([`planes`]), which the processor's instructions for bytes take as they are. Results equal those of ONNX Runtime, which
//! the shipped 8-bit files are made for: sums are exact, and are scaled and rounded in the same way.

pub mod conv;
mod depthwise;
pub mod filter;
mod import;
pub mod lanes;
mod ops;
pub mod pixels;
pub mod planes;
mod replace;
mod taps;
#[cfg(test)]
mod tests;

pub use import::register;
pub use replace::replace;

use tract_onnx::pb::ModelProto;

/// Whether a file holds convolutions of bytes.
pub fn is_int8(proto: &ModelProto) -> bool {
    let mut nodes = proto.graph.iter().flat_map(|graph| &graph.node);
    nodes.any(|node| node.op_type == "QLinearConv")
}

/// Whether networks of 8 bits run faster here than the same in 32-bit float.
pub fn is_fast() -> bool {
    lanes::Level::best().is_fast()
}
