//! segd captures camera frames, labels every pixel with a segmentation network, draws the result
//! onto the video and streams it.
//!
//! ```text
//! camera --> [capture] --newest--> [infer: preprocess, run, decode] -------newest mask--+
//!                |                                                                       v
//!                +----------------------- every frame ------------------------> [compose: overlay] -> [output]
//! ```
//!
//! The video never waits for the network: every captured frame goes out with the newest mask that
//! exists. Read [`pipeline`] first; it wires the stages, which are listed here in the order in which
//! a frame meets them. Stages never import each other. What is done to pixels is in the crate [`vision`].

// What every stage stands on.
pub mod clock;
pub mod heap;
pub mod mailbox;
pub mod turns;

// The path of a frame.
pub mod capture;
pub mod encode;
pub mod output;

// What is wired, and by what.
pub mod config;
pub mod choose;
pub mod schedule;
pub mod pipeline;
pub mod upgrade;
pub mod supervise;
pub mod daemon;
pub mod metrics;
pub mod stamp;
pub mod snapshot;
pub mod observe;
pub mod events;
pub mod scenes;
pub mod health;
pub mod web;

// What the machine is.
pub mod board;

// What a person sees.
pub mod stdio;
pub mod cli;

pub use vision::error::{Error, Result};
