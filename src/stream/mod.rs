//! Sinks of composed frames.

use vision::error::Result;
use vision::frame::{Frame, FrameFormat};

pub mod access;
#[cfg(feature = "gstreamer")]
mod elements;
#[cfg(feature = "gstreamer")]
pub mod encoder;
#[cfg(feature = "gstreamer")]
pub mod file;
pub mod images;
mod null;
mod output;
#[cfg(feature = "gstreamer")]
pub mod rtsp;
#[cfg(feature = "gstreamer")]
pub mod rtsp_auth;
#[cfg(feature = "gstreamer")]
pub mod rtsp_server;

pub use output::{Codec, DEFAULT_OUTPUT, OutputSpec, RtspAddress, StreamOptions, parse_output};

/// Where composed frames (always I420) go.
pub trait FrameSink: Send {
    /// Where to, for logs: the address or path, and the encoder.
    fn describe(&self) -> String;

    /// Hands a frame on. A live sink (RTSP) never waits: it keeps the newest frames and counts what it
    /// drops. A file sink waits for room; beside live outputs it has a thread of its own for that.
    ///
    /// # Errors
    /// Transient or fatal, as the sink knows; the sink is not used after an error.
    fn push(&mut self, frame: Frame) -> Result<()>;

    /// Frames that were pushed and dropped so far.
    fn dropped(&self) -> u64 {
        0
    }

    /// Clients that watch now; 0 for files.
    fn clients(&self) -> usize {
        0
    }

    /// Ends the output: a file gets its last bytes and its final name.
    ///
    /// # Errors
    /// If the output could not be completed.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// Opens a sink once the format of the frames is known.
pub trait SinkOpener: Send + Sync {
    /// Where to, for logs and errors.
    fn name(&self) -> String;

    /// Whether a push never waits (RTSP), or waits until there is room (files).
    fn is_live(&self) -> bool;

    /// Opens the sink for frames of `format`, at `frame_rate` per second if known.
    ///
    /// # Errors
    /// Usage, fatal or transient (a port in use, a path that can't be written, no encoder).
    fn open(&self, format: FrameFormat, frame_rate: Option<f64>) -> Result<Box<dyn FrameSink>>;
}

/// Refuses an encoder that is asked for and can't be had: one that is not known, makes another codec, or is not installed.
///
/// # Errors
/// Usage, with what could be used or what to install.
#[cfg(feature = "gstreamer")]
pub fn check_encoder(options: &StreamOptions) -> Result<()> {
    let Some(wanted) = options.encoder.as_deref() else {
        return Ok(());
    };
    elements::init()?;
    let (width, height) = (640, 480);
    let settings = encoder::EncoderSettings {
        codec: options.codec,
        width,
        height,
        bitrate_kbps: options.max_bitrate_kbps,
        keyframe_interval_frames: 1,
        threads: 1,
        default_layout: true,
    };
    let has = |name: &str| gstreamer::ElementFactory::find(name).is_some();
    encoder::plans(&settings, Some(wanted), &has).map(drop)
}

/// The encoder that would be used for frames of `format`: the first that really works here.
///
/// # Errors
/// Usage or fatal, if none is installed or none works.
#[cfg(feature = "gstreamer")]
pub fn chosen_encoder(
    format: FrameFormat,
    frame_rate: Option<f64>,
    options: &StreamOptions,
) -> Result<&'static str> {
    elements::init()?;
    let layout = elements::VideoLayout::new(format, frame_rate)?;
    elements::working_encoder(&layout, frame_rate, options).map(|plan| plan.encoder)
}
