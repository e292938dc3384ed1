//! What happens in the picture, told to whoever wants to know: zones, lines, rules, events.
//!
//! ```text
//! SceneDesk --> Watcher (one a camera: measure, rules, gate) --> EventDesk --> a queue and a thread for each sink
//!                                                                    |
//!                                                                    +--> who listens over HTTP
//! ```
//!
//! `geometry.rs` knows polygons and lines, `measure.rs` what of a scene is in them, `rules.rs` and `gate.rs` when
//! something begins, ends and crosses; all four are pure. `watch.rs` joins them for one camera. `filling.rs` sums up
//! how full zones are. `event.rs` has the form of events, `desk.rs` the sinks' queues, and each sink has a file of its own.

pub mod desk;
pub mod event;
pub mod file;
pub mod filling;
pub mod gate;
pub mod geometry;
pub mod history;
pub mod measure;
pub mod mqtt;
pub mod rules;
mod runs;
pub mod secret;
pub mod snapshots;
pub mod watch;
pub mod webhook;

pub use desk::EventDesk;
pub use event::Event;
pub use watch::{LineRule, Watch, Watching, Zone};
