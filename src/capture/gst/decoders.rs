//! Which element decodes a compressed video: a board's own hardware before the CPU.
//!
//! decodebin takes the element of the highest rank. Ranks of hardware decoders differ between versions of
//! GStreamer (VA's had none before 1.24) and between boards, so those that are known are put first, in one order.
//! An order that the user sets in [`GST_PLUGIN_FEATURE_RANK`] is left alone.
//!
//! [`GST_PLUGIN_FEATURE_RANK`]: https://gstreamer.freedesktop.org/documentation/gstreamer/running.html

use std::sync::Once;

use gstreamer as gst;
use gstreamer::prelude::*;

/// A way that video is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// H.264.
    H264,
    /// H.265.
    H265,
    /// A JPEG a picture.
    Jpeg,
}

impl Compression {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::H264, Self::H265, Self::Jpeg];

    /// Decoders in hardware, best first: Jetson's, then those of V4L2 (Raspberry Pi), then VA.
    pub fn hardware(self) -> &'static [&'static str] {
        match self {
            Self::H264 => &["nvv4l2decoder", "v4l2h264dec", "v4l2slh264dec", "vah264dec"],
            Self::H265 => &["nvv4l2decoder", "v4l2h265dec", "v4l2slh265dec", "vah265dec"],
            // nvv4l2decoder takes JPEG only with a property of its own, which decodebin doesn't set.
            Self::Jpeg => &["nvjpegdec", "vajpegdec"],
        }
    }

    /// Decoders on the CPU, best first.
    pub fn software(self) -> &'static [&'static str] {
        match self {
            Self::H264 => &["avdec_h264", "openh264dec"],
            Self::H265 => &["avdec_h265", "libde265dec"],
            Self::Jpeg => &["jpegdec", "avdec_mjpeg"],
        }
    }
}

/// The decoders to try in order, of those that `has` knows.
pub fn candidates(compression: Compression, has: &dyn Fn(&str) -> bool) -> Vec<&'static str> {
    let all = compression.hardware().iter().chain(compression.software());
    all.copied().filter(|name| has(name)).collect()
}

/// The ranks by which decodebin takes hardware decoders in our order, above every other decoder's.
/// `ranked_by_user` tells whose rank the user has set.
pub fn ranks(has: &dyn Fn(&str) -> bool, ranked_by_user: &dyn Fn(&str) -> bool) -> Vec<(&'static str, i32)> {
    /// `GST_RANK_PRIMARY` is 256; elements go up to a few above it.
    const ABOVE_ALL: i32 = 512;
    let mut ranks: Vec<(&str, i32)> = Vec::new();
    for compression in Compression::ALL {
        for (place, name) in compression.hardware().iter().enumerate() {
            if has(name) && !ranked_by_user(name) && !ranks.iter().any(|(known, _)| known == name) {
                ranks.push((name, ABOVE_ALL - place as i32));
            }
        }
    }
    ranks
}

/// Puts the known hardware decoders first, once for the process.
pub(super) fn prefer_hardware() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let set = std::env::var("GST_PLUGIN_FEATURE_RANK").unwrap_or_default();
        let by_user = |name: &str| set.split(',').any(|pair| pair.split(':').next() == Some(name));
        let has = |name: &str| gst::ElementFactory::find(name).is_some();
        for (name, rank) in ranks(&has, &by_user) {
            if let Some(factory) = gst::ElementFactory::find(name) {
                factory.set_rank(gst::Rank::from(rank));
            }
        }
    });
}

/// Whether an element decodes video in hardware.
pub(super) fn is_hardware(factory: &gst::ElementFactory) -> bool {
    let name = factory.name();
    let klass = factory.metadata("klass").unwrap_or_default();
    let is = |part: &str| klass.split('/').any(|k| k == part);
    let known = Compression::ALL
        .iter()
        .any(|c| c.hardware().contains(&name.as_str()));
    known || (is("Decoder") && is("Hardware"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_stands_before_the_cpu() {
        let all = |_: &str| true;
        assert_eq!(candidates(Compression::H264, &all)[0], "nvv4l2decoder");
        let pi = |name: &str| ["v4l2h264dec", "avdec_h264", "avdec_h265"].contains(&name);
        assert_eq!(candidates(Compression::H264, &pi), ["v4l2h264dec", "avdec_h264"]);
        assert_eq!(candidates(Compression::H265, &pi), ["avdec_h265"]);
        assert!(candidates(Compression::Jpeg, &pi).is_empty());
    }

    #[test]
    fn ranks_follow_the_order_and_leave_the_users_alone() {
        let none = |_: &str| false;
        let all = ranks(&|_| true, &none);
        let rank = |name: &str| all.iter().find(|(n, _)| *n == name).unwrap().1;
        assert!(rank("nvv4l2decoder") > rank("v4l2h264dec"));
        assert!(rank("v4l2h264dec") > rank("vah264dec"));
        // Above GST_RANK_PRIMARY (256) with what elements add to it.
        assert!(all.iter().all(|(_, rank)| *rank > 300));
        let names: std::collections::HashSet<_> = all.iter().map(|(n, _)| n).collect();
        assert_eq!(names.len(), all.len(), "each once");
        assert!(!names.contains(&"avdec_h264"), "the CPU's keep their ranks");
        let set = |name: &str| name == "vah264dec";
        assert!(ranks(&|_| true, &set).iter().all(|(n, _)| *n != "vah264dec"));
        assert!(ranks(&none, &none).is_empty());
    }
}
