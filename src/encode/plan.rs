//! Which encoder, with which properties: a pure choice over what is installed.
//!
//! All settings put latency first: no B-frames, no lookahead, a small rate-control buffer. Each element
//! has its own names and units: NVIDIA's, V4L2's and OpenH264's bit rates are in bit/s, those of x264, x265 and
//! VA in kbit/s.

use super::Codec;
use vision::error::{Error, Result};

/// The encoders of a codec that are known, best first: dedicated hardware, then the CPU.
pub fn known(codec: Codec) -> &'static [&'static str] {
    match codec {
        Codec::H264 => &[
            "nvv4l2h264enc",
            "v4l2h264enc",
            "vah264enc",
            "x264enc",
            "openh264enc",
        ],
        Codec::H265 => &["nvv4l2h265enc", "vah265enc", "x265enc"],
    }
}

/// The name that the encoder element gets inside its bin.
pub const ENCODER_NAME: &str = "encoder";

/// What any encoder is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderSettings {
    /// What is made.
    pub codec: Codec,
    /// Pixels a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Mean bit rate, kbit/s.
    pub bitrate_kbps: u32,
    /// Frames from one keyframe to the next at most.
    pub keyframe_interval_frames: u32,
    /// Threads for encoders that run on the CPU.
    pub threads: u32,
    /// Whether rows and planes lie as `GStreamer` lays them out by default (rows padded to 4 bytes).
    /// Hardware elements may ignore a buffer's own layout, so others are copied for them first.
    pub default_layout: bool,
}

/// A step of an encoder's chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// An element with its properties as text. A property that the installed version doesn't have is
    /// left out.
    Element {
        /// The element's factory.
        factory: &'static str,
        /// Property names and values.
        properties: Vec<(&'static str, String)>,
    },
    /// A filter of caps.
    Caps(&'static str),
}

/// An encoder and what must stand before and behind it: raw I420 in, the codec's stream out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncoderPlan {
    /// What comes out.
    pub codec: Codec,
    /// The encoder's factory, one of [`known`].
    pub encoder: &'static str,
    /// The elements in order.
    pub chain: Vec<Step>,
}

/// The bit rate for a picture's size and rate where none is set: 0.15 bit a pixel, which an annotated
/// scene needs from a fast encoder to look clean; 640x480 at 30 Hz gets 1382 kbit/s, 1920x1080 gets
/// 9331. H.265 gets two thirds of that. Between 300 and 20000 kbit/s; a rate that isn't known counts as 30 Hz.
pub fn default_bitrate_kbps(codec: Codec, width: usize, height: usize, frame_rate: Option<f64>) -> u32 {
    let rate = known_rate(frame_rate);
    let bits_per_pixel = match codec {
        Codec::H264 => 0.15,
        Codec::H265 => 0.1,
    };
    let kbps = bits_per_pixel * width as f64 * height as f64 * rate / 1000.0;
    kbps.clamp(300.0, 20_000.0) as u32
}

/// Frames between keyframes that lie `interval_s` seconds apart; at least 1.
pub fn keyframe_interval_frames(interval_s: f64, frame_rate: Option<f64>) -> u32 {
    (interval_s * known_rate(frame_rate))
        .round()
        .clamp(1.0, 100_000.0) as u32
}

/// Threads for an encoder on the CPU: one leaves the cores to the network; pictures above 1 megapixel get
/// a second where there are four cores, so that one frame's encoding stays well below a frame's time.
pub fn threads(width: usize, height: usize, cores: usize) -> u32 {
    if cores >= 4 && width * height > 1_000_000 {
        2
    } else {
        1
    }
}

fn known_rate(frame_rate: Option<f64>) -> f64 {
    frame_rate.filter(|r| r.is_finite() && *r > 0.0).unwrap_or(30.0)
}

/// The encoders to try in order, each with all its elements present. `wanted` names the only one to use.
///
/// # Errors
/// Usage, if `wanted` is not known or not installed; fatal, if none is installed.
pub fn plans(
    settings: &EncoderSettings,
    wanted: Option<&str>,
    has: &dyn Fn(&str) -> bool,
) -> Result<Vec<EncoderPlan>> {
    let missing = |plan: &EncoderPlan| -> Vec<&'static str> {
        plan.chain
            .iter()
            .filter_map(|step| match step {
                Step::Element { factory, .. } if !has(factory) => Some(*factory),
                _ => None,
            })
            .collect()
    };
    let known_ones = known(settings.codec);
    if let Some(wanted) = wanted {
        let Some(name) = known_ones.iter().find(|name| **name == wanted) else {
            return Err(unfit(wanted, settings.codec));
        };
        let plan = plan(name, settings);
        let missing = missing(&plan);
        if !missing.is_empty() {
            return Err(Error::usage(format!(
                "encoder {wanted:?} can't be used: GStreamer has no element {}",
                missing.join(", ")
            ))
            .hint(package_hint(wanted)));
        }
        return Ok(vec![plan]);
    }
    let plans: Vec<_> = known_ones
        .iter()
        .map(|name| plan(name, settings))
        .filter(|plan| missing(plan).is_empty())
        .collect();
    if plans.is_empty() {
        return Err(Error::fatal(format!(
            "no {} encoder is installed (looked for {})",
            settings.codec,
            known_ones.join(", ")
        ))
        .hint(software_hint(settings.codec)));
    }
    Ok(plans)
}

/// The error for an encoder that isn't one of the codec's.
fn unfit(wanted: &str, codec: Codec) -> Error {
    if let Some(other) = Codec::ALL.into_iter().find(|c| known(*c).contains(&wanted)) {
        return Error::usage(format!(
            "encoder {wanted:?} makes {other}; the stream is to be {codec} (stream.codec)"
        ))
        .hint(format!(
            "use --codec {}, or one of {}",
            other.name(),
            known(codec).join(", ")
        ));
    }
    Error::usage(format!("encoder {wanted:?} is not known")).hint(format!(
        "use one of {}, or none to let segd choose",
        known(codec).join(", ")
    ))
}

/// What to install for an encoder that needs no hardware.
pub fn software_hint(codec: Codec) -> String {
    package_hint(match codec {
        Codec::H264 => "x264enc",
        Codec::H265 => "x265enc",
    })
}

/// The Debian package that has an encoder.
pub fn package_hint(encoder: &str) -> String {
    match encoder {
        "x264enc" => "install the package gstreamer1.0-plugins-ugly".into(),
        "nvv4l2h264enc" | "nvv4l2h265enc" => {
            "install the package nvidia-l4t-gstreamer; boards without an encoder, such as the Orin Nano, have none"
                .into()
        }
        "v4l2h264enc" => {
            "install the package gstreamer1.0-plugins-good; it appears where the kernel has an encoder".into()
        }
        _ => "install the package gstreamer1.0-plugins-bad".into(),
    }
}

fn element(factory: &'static str, properties: &[(&'static str, &str)]) -> Step {
    Step::Element {
        factory,
        properties: properties.iter().map(|(k, v)| (*k, (*v).to_owned())).collect(),
    }
}

/// One encoder's chain.
fn plan(encoder: &'static str, settings: &EncoderSettings) -> EncoderPlan {
    let kbps = settings.bitrate_kbps.to_string();
    let bps = (u64::from(settings.bitrate_kbps) * 1000)
        .min(u64::from(u32::MAX))
        .to_string();
    let keyframes = settings.keyframe_interval_frames.to_string();
    let threads = settings.threads.to_string();
    let chain = match encoder {
        // <https://docs.nvidia.com/jetson/archives/r36.4/DeveloperGuide/SD/Multimedia/AcceleratedGstreamer.html>
        "nvv4l2h264enc" | "nvv4l2h265enc" => {
            let mut chain = Vec::new();
            if !settings.default_layout {
                chain.push(element("videoconvert", &[]));
                chain.push(Step::Caps("video/x-raw,format=NV12"));
            }
            chain.push(element("nvvidconv", &[]));
            chain.push(Step::Caps("video/x-raw(memory:NVMM),format=NV12"));
            chain.push(element(
                encoder,
                &[
                    ("control-rate", "1"),
                    ("bitrate", &bps),
                    ("iframeinterval", &keyframes),
                    ("idrinterval", &keyframes),
                    ("insert-sps-pps", "true"),
                    ("insert-vui", "true"),
                    ("maxperf-enable", "true"),
                    ("preset-level", "1"),
                    ("num-B-Frames", "0"),
                    ("poc-type", "2"),
                ],
            ));
            chain
        }
        // Control names: <https://docs.kernel.org/userspace-api/media/v4l/ext-ctrls-codec.html>.
        // The Raspberry Pi's driver refuses to start where no level is set.
        "v4l2h264enc" => {
            let controls = format!(
                "controls,video_bitrate={bps},h264_i_frame_period={keyframes},repeat_sequence_header=1"
            );
            vec![
                element("videoconvert", &[]),
                element(encoder, &[("extra-controls", &controls)]),
                Step::Caps("video/x-h264,level=(string)4"),
            ]
        }
        "vah264enc" | "vah265enc" => vec![
            element("videoconvert", &[]),
            Step::Caps("video/x-raw,format=NV12"),
            element(
                encoder,
                &[
                    ("rate-control", "cbr"),
                    ("bitrate", &kbps),
                    ("key-int-max", &keyframes),
                    ("b-frames", "0"),
                    ("ref-frames", "1"),
                    ("target-usage", "7"),
                ],
            ),
        ],
        // Rates in x265's own options are in kbit/s, its buffer in kbit: 300 ms, as for x264.
        // <https://x265.readthedocs.io/en/stable/cli.html>
        "x265enc" => {
            let options = format!(
                "pools={threads}:frame-threads=1:vbv-maxrate={kbps}:vbv-bufsize={}",
                (u64::from(settings.bitrate_kbps) * 3 / 10).max(1)
            );
            vec![element(
                encoder,
                &[
                    ("tune", "zerolatency"),
                    ("speed-preset", "ultrafast"),
                    ("bitrate", &kbps),
                    ("key-int-max", &keyframes),
                    ("option-string", &options),
                ],
            )]
        }
        "openh264enc" => vec![element(
            encoder,
            &[
                ("usage-type", "camera"),
                ("complexity", "low"),
                ("rate-control", "bitrate"),
                ("bitrate", &bps),
                ("gop-size", &keyframes),
                ("multi-thread", &threads),
                ("enable-frame-skip", "false"),
                ("scene-change-detection", "false"),
            ],
        )],
        _ => vec![element(
            encoder,
            &[
                ("tune", "zerolatency"),
                ("speed-preset", "ultrafast"),
                ("bitrate", &kbps),
                ("vbv-buf-capacity", "300"),
                ("key-int-max", &keyframes),
                ("bframes", "0"),
                ("threads", &threads),
                // Units say themselves where they end.
                ("aud", "false"),
            ],
        )],
    };
    EncoderPlan {
        codec: settings.codec,
        encoder,
        chain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> EncoderSettings {
        EncoderSettings {
            codec: Codec::H264,
            width: 640,
            height: 480,
            bitrate_kbps: 1500,
            keyframe_interval_frames: 60,
            threads: 1,
            default_layout: true,
        }
    }

    fn names(installed: &[&str]) -> Vec<&'static str> {
        plans(&settings(), None, &|name| installed.contains(&name))
            .map(|plans| plans.iter().map(|p| p.encoder).collect())
            .unwrap_or_default()
    }

    fn property<'a>(plan: &'a EncoderPlan, name: &str) -> Option<&'a str> {
        plan.chain.iter().find_map(|step| match step {
            Step::Element { factory, properties } if *factory == plan.encoder => properties
                .iter()
                .find(|(k, _)| *k == name)
                .map(|(_, v)| v.as_str()),
            _ => None,
        })
    }

    #[test]
    fn an_encoder_without_its_converter_is_passed_over() {
        assert_eq!(names(&["nvv4l2h264enc", "x264enc"]), ["x264enc"]);
    }

    #[test]
    fn nothing_installed_says_what_to_install() {
        let e = plans(&settings(), None, &|_| false).unwrap_err();
        assert!(e.to_string().contains("gstreamer1.0-plugins-ugly"), "{e}");
        assert_eq!(e.exit_code(), 1);
    }

    #[test]
    fn a_wanted_encoder_is_the_only_one_or_an_error() {
        let has = |name: &str| ["x264enc", "openh264enc"].contains(&name);
        let plans_of = |wanted| plans(&settings(), Some(wanted), &has);
        let found = plans_of("openh264enc").unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].encoder, "openh264enc");
        let absent = plans_of("nvv4l2h264enc").unwrap_err();
        assert!(absent.to_string().contains("nvvidconv"), "{absent}");
        assert_eq!(absent.exit_code(), 2);
        let unknown = plans_of("h265enc").unwrap_err();
        assert!(unknown.to_string().contains("x264enc"), "{unknown}");
        let of_another_codec = plans_of("x265enc").unwrap_err();
        assert!(
            of_another_codec.to_string().contains("--codec h265"),
            "{of_another_codec}"
        );
        assert_eq!(of_another_codec.exit_code(), 2);
    }

    #[test]
    fn h265_has_encoders_of_its_own() {
        let settings = EncoderSettings {
            codec: Codec::H265,
            ..settings()
        };
        let all = plans(&settings, None, &|_| true).unwrap();
        let names: Vec<&str> = all.iter().map(|plan| plan.encoder).collect();
        assert_eq!(names, known(Codec::H265));
        assert!(all.iter().all(|plan| plan.codec == Codec::H265));
        let none = plans(&settings, None, &|name| name.contains("264")).unwrap_err();
        assert!(none.to_string().contains("no H.265 encoder"), "{none}");
        assert!(none.to_string().contains("gstreamer1.0-plugins-bad"), "{none}");
    }

    #[test]
    fn bit_rates_are_in_each_element_s_unit() {
        for (encoder, bitrate) in [
            ("nvv4l2h264enc", "1500000"),
            ("nvv4l2h265enc", "1500000"),
            ("vah265enc", "1500"),
            ("x265enc", "1500"),
            ("openh264enc", "1500000"),
            ("x264enc", "1500"),
            ("vah264enc", "1500"),
        ] {
            assert_eq!(
                property(&plan(encoder, &settings()), "bitrate"),
                Some(bitrate),
                "{encoder}"
            );
        }
        let v4l2 = plan("v4l2h264enc", &settings());
        let controls = property(&v4l2, "extra-controls").unwrap();
        assert!(controls.contains("video_bitrate=1500000,"), "{controls}");
        assert!(controls.contains("h264_i_frame_period=60,"), "{controls}");
        let x265 = plan("x265enc", &settings());
        let options = property(&x265, "option-string").unwrap();
        assert!(options.contains("vbv-maxrate=1500:vbv-bufsize=450"), "{options}");
    }

    #[test]
    fn a_layout_of_our_own_is_copied_for_nvidia_only() {
        let odd = EncoderSettings {
            default_layout: false,
            ..settings()
        };
        let first = |encoder, settings: &EncoderSettings| match &plan(encoder, settings).chain[0] {
            Step::Element { factory, .. } => *factory,
            Step::Caps(caps) => caps,
        };
        assert_eq!(first("nvv4l2h264enc", &settings()), "nvvidconv");
        assert_eq!(first("nvv4l2h264enc", &odd), "videoconvert");
        assert_eq!(first("x264enc", &odd), "x264enc");
    }

    #[test]
    fn defaults_follow_size_and_rate() {
        assert_eq!(default_bitrate_kbps(Codec::H264, 640, 480, Some(30.0)), 1382);
        assert_eq!(default_bitrate_kbps(Codec::H264, 640, 480, None), 1382);
        assert_eq!(default_bitrate_kbps(Codec::H265, 640, 480, None), 921);
        assert_eq!(default_bitrate_kbps(Codec::H264, 160, 120, Some(5.0)), 300);
        assert_eq!(default_bitrate_kbps(Codec::H264, 7680, 4320, Some(60.0)), 20_000);
        assert_eq!(keyframe_interval_frames(2.0, Some(29.97)), 60);
        assert_eq!(keyframe_interval_frames(0.0, Some(30.0)), 1);
        assert_eq!(keyframe_interval_frames(1.0, Some(f64::NAN)), 30);
        assert_eq!(threads(640, 480, 16), 1);
        assert_eq!(threads(1920, 1080, 4), 2);
        assert_eq!(threads(1920, 1080, 2), 1);
    }
}
