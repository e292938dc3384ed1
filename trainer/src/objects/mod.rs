//! Objects to train on: how they are read, and what a network that tells them apart is taught of them.

mod annotation;
pub mod grids;
mod read;
pub mod shown;
pub mod targets;

pub use annotation::{Boxed, read_boxes};
pub use read::Source;
