//! segd captures camera frames, labels every pixel with a segmentation network, draws the result
//! onto the video and streams it.
//!
//! ```text
//! camera --> [capture] --newest--> [infer: preprocess, run, postprocess] --newest mask--+
//!                |                                                                       v
//!                +----------------------- every frame ------------------------> [compose: overlay] -> [stream]
//! ```
//!
//! The video never waits for the network: every captured frame goes out with the newest mask that
//! exists. Read [`pipeline`] first; it wires the stages, which are listed here in the order in which
//! a frame meets them. Stages never import each other.

// What every stage stands on.
pub mod clock;
pub mod error;
pub mod frame;
pub mod mailbox;
pub mod pool;
pub mod simd;
pub mod turns;

// The path of a frame.
pub mod capture;
pub mod preprocess;
pub mod infer;
pub mod postprocess;
pub mod propagate;
pub mod overlay;
pub mod redact;
pub mod fit;
pub mod stream;

// What is wired, and by what.
pub mod model;
pub mod config;
pub mod segment;
pub mod selftest;
pub mod choose;
pub mod schedule;
pub mod pipeline;
pub mod upgrade;
pub mod supervise;
pub mod metrics;
pub mod stamp;
pub mod vitals;
pub mod snapshot;
pub mod health;

// Data sets, scores and picture files, shared with the trainer.
pub mod dataset;
pub mod score;
pub mod picture;

// What the machine is.
pub mod board;

pub mod cli;

pub use error::{Error, Result};
