//! Writes trained networks: ONNX files, contract and card.

pub mod builder;
pub mod card;
pub mod f16;
pub mod float;
pub mod model;
pub mod qlinear;
pub mod receipt;
pub mod score;
