//! What an encoder gives: the encoded pictures, one by one.

use std::sync::Arc;

use super::Codec;
use crate::clock::TimeNs;
use vision::frame::Colorimetry;

/// What a stream's units have in common: what a container or a session description says of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parameters {
    /// How they are encoded.
    pub codec: Codec,
    /// Pixels a row; even.
    pub width: u32,
    /// Rows; even.
    pub height: u32,
    /// Pictures a second, if known.
    pub frame_rate: Option<f64>,
    /// How colours are meant.
    pub color: Colorimetry,
}

/// One encoded picture: an access unit in the byte-stream form of its codec (start codes), whole. A keyframe begins
/// with the codec's parameter sets, so a decoder can begin with any.
///
/// Cheap to clone: the bytes are shared.
#[derive(Debug, Clone)]
pub struct AccessUnit {
    /// The bytes.
    pub data: Arc<[u8]>,
    /// The picture's [`pts_ns`](vision::frame::Frame::pts_ns): the source's own time.
    pub pts_ns: u64,
    /// When the picture was taken, on the pipeline's clock.
    pub captured_at_ns: TimeNs,
    /// Nanoseconds to the next picture at the stream's rate.
    pub duration_ns: u64,
    /// Whether it can be decoded without any before it.
    pub is_keyframe: bool,
    /// Whether it shows a notice ("camera lost") and no picture of the source.
    pub is_notice: bool,
    /// The stream's parameters.
    pub parameters: Arc<Parameters>,
}

/// A unit of zeros, for tests, whose times are all `at_ns`.
#[cfg(all(test, feature = "gstreamer"))]
pub(crate) fn made_unit(at_ns: TimeNs, is_keyframe: bool, bytes: usize) -> AccessUnit {
    AccessUnit {
        data: vec![0; bytes].into(),
        pts_ns: at_ns,
        captured_at_ns: at_ns,
        duration_ns: 1,
        is_keyframe,
        is_notice: false,
        parameters: Arc::new(Parameters {
            codec: Codec::H264,
            width: 64,
            height: 64,
            frame_rate: None,
            color: Colorimetry::default(),
        }),
    }
}
