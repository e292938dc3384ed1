//! Cameras of the kernel's video interface (V4L2).

mod camera;
mod controls;
#[cfg(feature = "gstreamer")]
pub mod converted;
mod error;
pub mod identity;
mod list;
pub mod mjpeg;
pub mod mode;
mod offered;
mod shape;
mod unpack;

pub use camera::CameraOpener;
pub use list::{CameraInfo, list_cameras};
#[cfg(fuzzing)]
pub use unpack::fuzz_unpack as unpack;
