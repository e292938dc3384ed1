//! Mask of frame n to mask of frame n + k: the mask moves with the picture.
//!
//! ```text
//! frame n --> Luma (about 320 columns) --+
//! key's Luma ----------------------------------------+--> MotionField --> warp_labels(key's mask) --> mask of n
//!                                                    +--> Fit: does the key explain this frame? is it still?
//! ```
//!
//! A *key* is a frame that was segmented. For each 8x8 block of the current frame's small luma, block matching
//! finds where in the key that block lies ([`MotionField`]): a backward field, so that the warp is a plain
//! gather and every pixel gets a label. The match is made directly against the key, predicted from the frame
//! before, so that errors don't add up over the frames in between.
//!
//! Everything here is a plain function over slices, or a struct that only holds buffers. The fast forms give
//! exactly what the plain references beside them give.

mod block;
mod cut;
mod field;
mod keys;
mod luma;
mod smooth;
mod track;
mod warp;

pub use block::{block_difference, block_difference_reference};
pub use cut::{CutDetector, is_cut};
pub use field::{BLOCK, MotionField, UNITS, Vector};
pub use keys::{Key, Keys};
pub use luma::{Luma, PAD};
pub use smooth::{CellGrid, LogitSmoother, Smoothing};
pub use track::{Fit, Track};
pub use warp::{Tiles, warp_labels, warp_labels_reference};
