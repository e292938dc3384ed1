//! Where composed video goes.
//!
//! An output takes pictures as they are (a folder of images), or encoded units, which it reads from an encoder that it
//! may share with others ([`crate::encode`]): from a queue on a thread of its own (a recording), or as its clients want
//! them (an RTSP server).

use std::sync::Arc;

use crate::encode::Encoders;
#[cfg(feature = "gstreamer")]
use crate::encode::{AccessUnit, EncodeOptions, Encoder, Reader};
use vision::error::Result;
use vision::frame::{Frame, FrameFormat};

pub mod access;
#[cfg(feature = "gstreamer")]
pub mod browser;
#[cfg(feature = "gstreamer")]
pub mod camera;
mod clash;
#[cfg(feature = "gstreamer")]
pub mod clips;
#[cfg(feature = "gstreamer")]
pub mod file;
pub mod images;
mod keep;
mod names;
mod null;
#[cfg(feature = "gstreamer")]
pub mod push;
pub mod push_address;
#[cfg(feature = "gstreamer")]
pub mod record;
#[cfg(feature = "gstreamer")]
pub mod rtsp;
#[cfg(feature = "gstreamer")]
pub mod rtsp_auth;
#[cfg(feature = "gstreamer")]
mod rtsp_client;
#[cfg(feature = "gstreamer")]
mod rtsp_push;
#[cfg(feature = "gstreamer")]
pub mod rtsp_server;
#[cfg(feature = "gstreamer")]
mod segment;
#[cfg(feature = "gstreamer")]
mod shelf;
mod spec;

pub use crate::encode::Codec;
pub use clash::check_files;
pub use keep::{ClipOptions, Keep, RecordOptions};
pub use spec::{DEFAULT_OUTPUT, OutputSpec, RtspAddress, StreamOptions, parse_output};

/// The video that an output is opened for.
#[derive(Clone)]
pub struct Video {
    /// The format of the composed frames: always I420.
    pub format: FrameFormat,
    /// Frames a second, if known.
    pub frame_rate: Option<f64>,
    /// Whether frames may be dropped: a camera, or a file at its own pace. Otherwise every frame counts.
    pub live: bool,
    /// The encoders of the pipeline.
    pub encoders: Arc<Encoders>,
}

impl Video {
    /// Video with encoders of its own.
    pub fn new(format: FrameFormat, frame_rate: Option<f64>, live: bool) -> Self {
        Self {
            format,
            frame_rate,
            live,
            encoders: Encoders::new(live),
        }
    }

    /// The pipeline's encoder of this video with these options, which others may read as well.
    ///
    /// # Errors
    /// As [`Encoders::get`].
    #[cfg(feature = "gstreamer")]
    pub fn encoder(&self, options: &EncodeOptions) -> Result<Arc<Encoder>> {
        self.encoders.get(self.format, self.frame_rate, options)
    }
}

/// Opens an output once the format of the frames is known.
pub trait OutputOpener: Send + Sync {
    /// Where to, for logs and errors.
    fn name(&self) -> String;

    /// Whether it is watched as it happens (RTSP): it waits for nobody, and shows notices as well. Otherwise it is
    /// kept (files).
    fn is_live(&self) -> bool;

    /// Whether opening waits for somebody, such as a server. A live pipeline then opens it apart, and goes on meanwhile.
    fn connects(&self) -> bool {
        false
    }

    /// Opens the output for this video.
    ///
    /// # Errors
    /// Usage, fatal or transient (a port in use, a path that can't be written, no encoder).
    fn open(&self, video: &Video) -> Result<Output>;
}

/// An open output, by what it takes.
pub enum Output {
    /// It takes the pictures.
    Frames(Box<dyn FrameOutput>),
    /// It takes encoded units from its reader.
    #[cfg(feature = "gstreamer")]
    Units(Reader, Box<dyn UnitOutput>),
    /// It reads an encoder by itself while it has clients.
    Served(Box<dyn ServedOutput>),
}

impl Output {
    /// Where to, for logs: the address or path, and the encoder.
    pub fn describe(&self) -> String {
        match self {
            Self::Frames(output) => output.describe(),
            #[cfg(feature = "gstreamer")]
            Self::Units(_, output) => output.describe(),
            Self::Served(output) => output.describe(),
        }
    }
}

/// Takes composed frames (always I420).
pub trait FrameOutput: Send {
    /// Where to, for logs.
    fn describe(&self) -> String;

    /// Takes a frame; waits where there is no room. Beside live outputs one that is kept has a thread of its own for
    /// that.
    ///
    /// # Errors
    /// Transient or fatal, as the output knows; it is not used after an error, but finished.
    fn push(&mut self, frame: Frame) -> Result<()>;

    /// Frames that were pushed and dropped so far.
    fn dropped(&self) -> u64 {
        0
    }

    /// Ends the output.
    ///
    /// # Errors
    /// If the output could not be completed.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// Takes encoded units, on a thread of its own.
#[cfg(feature = "gstreamer")]
pub trait UnitOutput: Send {
    /// Where to, for logs: the path, and the encoder.
    fn describe(&self) -> String;

    /// Takes a unit; the first one is a keyframe. Waits where there is no room.
    ///
    /// # Errors
    /// As the output knows; it is not used after an error, but finished.
    fn push(&mut self, unit: &AccessUnit) -> Result<()>;

    /// Ends the output: a file gets its last bytes and its final name.
    ///
    /// # Errors
    /// If the output could not be completed.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// Serves encoded video to clients that come and go.
pub trait ServedOutput: Send {
    /// Where, for logs: the address, and the encoder.
    fn describe(&self) -> String;

    /// Looks whether it still works; called for every frame.
    ///
    /// # Errors
    /// Why it does not; it is not used after that, but finished.
    fn check(&self) -> Result<()>;

    /// Units that its clients have lost because they were taken too slowly.
    fn dropped(&self) -> u64;

    /// Clients that watch now.
    fn clients(&self) -> usize;

    /// Disconnects the clients.
    ///
    /// # Errors
    /// If it could not be ended.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// Refuses an encoder that is asked for and can't be had: one that is not known, makes another codec, or is not installed.
///
/// # Errors
/// Usage, with what could be used or what to install.
#[cfg(feature = "gstreamer")]
pub fn check_encoder(options: &StreamOptions) -> Result<()> {
    crate::encode::check_encoder(&options.encoding())
}
