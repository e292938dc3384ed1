//! Sources of frames.
//!
//! [`spec`] says what a source's name means and knows no source; [`open`] makes the opener for it; each kind of source
//! has a folder. What is common to them is in [`source`] and [`options`].

pub mod open;
pub mod options;
pub mod source;
pub mod spec;

mod credentials;
mod meant;
mod paced;

pub mod files;
#[cfg(feature = "gstreamer")]
pub mod gst;
pub mod test;
#[cfg(feature = "camera")]
pub mod v4l2;

pub use credentials::mask_credentials;
pub use options::{CameraFormat, CaptureOptions, ControlValue, Pace, RtspTransport};
pub use source::{Capture, FrameSource, SourceCounters, SourceOpener};
pub use spec::{SourceSpec, TestPattern, parse_uri};
#[cfg(feature = "camera")]
pub use v4l2::{CameraInfo, list_cameras};
