//! From a picture to what is in it, and onto it.
//!
//! ```text
//! picture --> [preprocess] --> [infer] --> [decode] --> mask --> [propagate] --> [overlay, redact] --> picture
//! ```
//!
//! [`segment::Engine`] joins the first three. Nothing here captures, streams or waits: that is the daemon's. The
//! trainer stands on the same code, so that what it scores is what runs.

// What every stage stands on.
pub mod error;
pub mod file;
pub mod frame;
pub mod pool;
pub mod tensor;
pub mod scene;
pub mod rle;
pub mod timing;

// The path of a picture.
pub mod model;
pub mod answer;
pub mod preprocess;
pub mod infer;
pub mod decode;
pub mod propagate;
pub mod track;
pub mod overlay;
pub mod redact;
pub mod fit;

// The stages joined, and held to what they should say.
pub mod segment;
pub mod selftest;

// A network's file to a model's contract.
pub mod import;

// Data sets, scores and picture files.
pub mod picture;
pub mod dataset;
pub mod score;

pub use error::{Error, Result};
