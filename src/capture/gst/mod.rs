//! Video files, RTSP streams, CSI cameras and launch lines, through GStreamer.

mod build;
pub mod csi;
pub mod decoders;
mod opener;
mod source;
mod stream;

pub use build::init;
pub use opener::GstOpener;
