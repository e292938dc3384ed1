//! Encoded video: one encoder for each distinct set of settings, whatever the number of those who read it.
//!
//! ```text
//! compose --pictures--> [Encoder] --AccessUnit--> reader's queue --> RTSP
//!                                 \-------------> reader's queue --> recording
//! ```
//!
//! An encoder runs while it has a reader. Each reader has a bounded queue of its own and begins with a keyframe, at its
//! start and after its queue was full; what it lost is counted. A live encoder waits for nobody. The encoder of a
//! conversion waits for its slowest reader and loses nothing.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
#[cfg(feature = "gstreamer")]
use vision::error::Result;
#[cfg(feature = "gstreamer")]
use vision::frame::{FrameFormat, PixelFormat};

#[cfg(feature = "gstreamer")]
pub mod elements;
#[cfg(feature = "gstreamer")]
mod encoder;
mod encoders;
#[cfg(feature = "gstreamer")]
mod fanout;
#[cfg(feature = "gstreamer")]
pub mod fragments;
#[cfg(feature = "gstreamer")]
mod keyframes;
#[cfg(feature = "gstreamer")]
pub mod plan;
#[cfg(feature = "gstreamer")]
pub mod rtp;
mod unit;

#[cfg(feature = "gstreamer")]
pub use encoder::{Encoder, Membership, Reader};
#[cfg(feature = "gstreamer")]
pub(crate) use encoder::{Timeline, period_ns};
pub use encoders::Encoders;
#[cfg(feature = "gstreamer")]
pub use fanout::{Offered, Queue, ReaderKind};
#[cfg(all(test, feature = "gstreamer"))]
pub(crate) use unit::made_unit;
pub use unit::{AccessUnit, Parameters};

/// What the video is encoded as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// Every player has it.
    #[default]
    H264,
    /// About a third fewer bits for the same picture; browsers and old players lack it.
    H265,
}

impl Codec {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::H264, Self::H265];

    /// As options write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::H264 => "h264",
            Self::H265 => "h265",
        }
    }

    /// The element that cuts a stream into pictures and tells their format.
    pub fn parser(self) -> &'static str {
        match self {
            Self::H264 => "h264parse",
            Self::H265 => "h265parse",
        }
    }

    /// The element that makes RTP packets of a stream.
    pub fn payloader(self) -> &'static str {
        match self {
            Self::H264 => "rtph264pay",
            Self::H265 => "rtph265pay",
        }
    }

    /// The name of its streams in `GStreamer`'s caps.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::H264 => "video/x-h264",
            Self::H265 => "video/x-h265",
        }
    }
}

/// As the standards write it.
impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::H264 => "H.264",
            Self::H265 => "H.265",
        })
    }
}

/// How video is to be encoded.
#[derive(Debug, Clone, PartialEq)]
pub struct EncodeOptions {
    /// What is made.
    pub codec: Codec,
    /// Mean bit rate in kbit/s; chosen from size and frame rate if absent (0.15 bit a pixel).
    pub bitrate_kbps: Option<u32>,
    /// Most that a chosen bit rate may be, kbit/s.
    pub max_bitrate_kbps: u32,
    /// Seconds between keyframes at most.
    pub keyframe_interval_s: f64,
    /// The encoder's GStreamer element; the best that works if absent.
    pub encoder: Option<String>,
}

/// The encoder that would be used for frames of `format`: the first that really works here.
///
/// # Errors
/// Usage or fatal, if none is installed or none works.
#[cfg(feature = "gstreamer")]
pub fn chosen_encoder(
    format: FrameFormat,
    frame_rate: Option<f64>,
    options: &EncodeOptions,
) -> Result<&'static str> {
    let layout = elements::VideoLayout::new(format, frame_rate)?;
    let settings = elements::settings(&layout, frame_rate, options);
    elements::working_encoder(&layout, &settings, options.encoder.as_deref()).map(|plan| plan.encoder)
}

/// Refuses an encoder that is asked for and can't be had: one that is not known, makes another codec, or is not installed.
///
/// # Errors
/// Usage, with what could be used or what to install.
#[cfg(feature = "gstreamer")]
pub fn check_encoder(options: &EncodeOptions) -> Result<()> {
    let Some(wanted) = options.encoder.as_deref() else {
        return Ok(());
    };
    elements::init()?;
    // Whether there is such an encoder does not depend on the picture.
    let layout = elements::VideoLayout::new(FrameFormat::new(PixelFormat::I420, 640, 480), None)?;
    let settings = elements::settings(&layout, None, options);
    let has = |name: &str| gstreamer::ElementFactory::find(name).is_some();
    plan::plans(&settings, Some(wanted), &has).map(drop)
}
