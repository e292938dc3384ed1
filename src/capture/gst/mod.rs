//! Video files, RTSP streams, CSI cameras and launch lines, through GStreamer.

mod build;
mod color;
pub mod csi;
pub mod decoders;
mod fifo;
mod gate;
mod opener;
mod picture;
mod source;
mod stream;
mod trust;

pub use build::init;
pub use opener::GstOpener;
