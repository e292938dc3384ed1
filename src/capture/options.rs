//! What the user wants of a source.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

/// How the frames of a recording are timed. Cameras and network streams have their own time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pace {
    /// At the times the recording says, as a camera would deliver them.
    #[default]
    Recorded,
    /// As fast as the pipeline takes them, each exactly once.
    AsFastAsPossible,
}

/// What a camera's control is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum ControlValue {
    /// On or off.
    Switch(bool),
    /// A number, or the number of a menu's entry.
    Number(i64),
}

/// How an RTSP stream's packets travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RtspTransport {
    /// UDP, and TCP when no packet came within two seconds.
    #[default]
    Auto,
    /// UDP alone.
    Udp,
    /// TCP alone: for networks that lose packets or block UDP.
    Tcp,
}

/// How a camera is to deliver its pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CameraFormat {
    /// 4:2:0 in three planes.
    Yu12,
    /// 4:2:0 with interleaved chroma.
    Nv12,
    /// 4:2:2.
    Yuyv,
    /// 4:2:2, chroma first.
    Uyvy,
    /// JPEG.
    Mjpg,
}

/// What the user wants of a source. Keys that don't concern the source at hand are ignored.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CaptureOptions {
    /// Wanted width in pixels: cameras take their nearest mode, the test pattern exactly this.
    /// Recordings and network streams keep their own size.
    pub width: u32,
    /// Wanted height in pixels.
    pub height: u32,
    /// Wanted frames per second: cameras take their nearest mode, folders of images and the test
    /// pattern exactly this.
    pub fps: f64,
    /// How recordings (files, folders, the test pattern) are timed.
    pub pace: Pace,
    /// Whether recordings begin again at their end.
    #[serde(rename = "loop")]
    pub looped: bool,
    /// How long opening a stream may take until its first frame, in milliseconds.
    pub open_timeout_ms: u64,
    /// How long a read may wait for a frame before the source counts as stalled, in milliseconds.
    pub read_timeout_ms: u64,
    /// How long an RTSP stream's packets are held to put them in order, in milliseconds.
    pub rtsp_latency_ms: u32,
    /// How an RTSP stream's packets travel.
    pub rtsp_transport: RtspTransport,
    /// Threads of a software video decoder; each one beyond the first costs a frame of delay.
    pub decoder_threads: u32,
    /// The most pixels that an image file may have.
    pub max_image_pixels: u64,
    /// Only modes of this format of a camera; the cheapest that has the size and rate if `None`.
    pub pixel_format: Option<CameraFormat>,
    /// What a camera's controls are set to, by name.
    pub controls: Vec<(String, ControlValue)>,
    /// Frames per second of recordings that tell no times: streams of H.264 and the like without a file around them. What
    /// GStreamer guesses (25) if `None`.
    pub untimed_fps: Option<f64>,
    /// SHA-256 of the certificate that an `rtsps://` source has to show, in hexadecimal digits, with colons or without;
    /// no other one is trusted then.
    pub tls_fingerprint: Option<String>,
    /// A PEM file of the certificates that are trusted to sign an `rtsps://` source's; the system's if `None`.
    pub tls_ca: Option<PathBuf>,
}

impl Default for CaptureOptions {
    fn default() -> Self {
        Self {
            width: 640,
            height: 480,
            fps: 30.0,
            pace: Pace::Recorded,
            looped: false,
            open_timeout_ms: 10_000,
            read_timeout_ms: 2_000,
            rtsp_latency_ms: 100,
            rtsp_transport: RtspTransport::Auto,
            decoder_threads: 1,
            max_image_pixels: 100_000_000,
            pixel_format: None,
            controls: Vec::new(),
            untimed_fps: None,
            tls_fingerprint: None,
            tls_ca: None,
        }
    }
}

impl CaptureOptions {
    /// How long opening a stream may take until its first frame.
    pub fn open_timeout(&self) -> Duration {
        Duration::from_millis(self.open_timeout_ms)
    }

    /// How long a read may wait before the source counts as stalled.
    pub fn read_timeout(&self) -> Duration {
        Duration::from_millis(self.read_timeout_ms)
    }
}
