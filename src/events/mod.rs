//! What happens in the picture, told to whoever wants to know: zones, lines, rules, events.
//!
//! `geometry.rs` knows polygons and lines, `measure.rs` what of a scene is in them, `rules.rs` and `gate.rs` when
//! something begins, ends and crosses. All four are pure.

pub mod gate;
pub mod geometry;
pub mod measure;
pub mod rules;
mod runs;
