//! Weights out of files: those published by others, and those of exported networks.

pub mod file;
pub mod huggingface;
pub mod pth;
pub mod trunk;
pub mod whole;
