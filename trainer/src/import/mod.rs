//! Weights published by others.

pub mod efficientnet_lite;
pub mod pth;
