//! Weights published by others.

pub mod file;
pub mod pth;
pub mod trunk;
