//! What segd takes on each board, by the elements that are installed there. docs/boards.md shows the same table.
#![cfg(all(feature = "gstreamer", feature = "camera"))]

use segd::capture::CaptureOptions;
use segd::capture::gst::csi;
use segd::capture::gst::decoders::{self, Compression};
use segd::capture::v4l2::converted;
use segd::capture::v4l2::mode::{Choice, Encoding, Interval};
use segd::encode::plan::{self as encoder, EncoderPlan, EncoderSettings, Step};
use segd::output::Codec;

/// Elements that every machine with GStreamer's base, good, bad, ugly and libav plugins has.
const PLUGINS: &[&str] = &[
    "v4l2src",
    "videoconvert",
    "x264enc",
    "openh264enc",
    "x265enc",
    "avdec_h264",
    "avdec_h265",
    "openh264dec",
    "libde265dec",
    "jpegdec",
    "avdec_mjpeg",
];

/// What JetPack adds on every Jetson.
const JETPACK: &[&str] = &[
    "nvarguscamerasrc",
    "nvv4l2camerasrc",
    "nvvidconv",
    "nvv4l2decoder",
    "nvjpegdec",
    "nvjpegenc",
];

/// What JetPack adds where the board has an encoder.
const NVENC: &[&str] = &["nvv4l2h264enc", "nvv4l2h265enc"];

struct Board {
    name: &'static str,
    elements: Vec<&'static str>,
    /// Encoders of H.264 in the order in which they are tried.
    h264: &'static str,
    /// As for H.264.
    h265: &'static str,
    /// What reads `csi://0`.
    csi: &'static str,
    /// What reads a camera that gives UYVY at 1920x1080; every other USB camera is read directly.
    uyvy: &'static str,
    /// What decodes H.264, H.265 and JPEG from files and streams.
    decoders: [&'static str; 3],
}

fn boards() -> Vec<Board> {
    let of = |parts: &[&[&'static str]]| parts.concat();
    let jetson = |name, elements, h264, h265| Board {
        name,
        elements,
        h264,
        h265,
        csi: "nvarguscamerasrc",
        uyvy: "nvv4l2camerasrc",
        decoders: ["nvv4l2decoder", "nvv4l2decoder", "nvjpegdec"],
    };
    let nvenc = "nvv4l2h264enc, x264enc, openh264enc";
    let nvenc265 = "nvv4l2h265enc, x265enc";
    // JetPack 4 and 5 have GStreamer 1.14 and 1.16, and the older encoders of OpenMAX beside these.
    let old = of(&[PLUGINS, JETPACK, NVENC, &["omxh264enc", "omxh265enc"]]);
    vec![
        jetson("Jetson Nano", old, nvenc, nvenc265),
        jetson(
            "Jetson Xavier NX",
            of(&[PLUGINS, JETPACK, NVENC]),
            nvenc,
            nvenc265,
        ),
        jetson(
            "Jetson Orin Nano",
            of(&[PLUGINS, JETPACK]),
            "x264enc, openh264enc",
            "x265enc",
        ),
        jetson("Jetson AGX Orin", of(&[PLUGINS, JETPACK, NVENC]), nvenc, nvenc265),
        Board {
            name: "Raspberry Pi 4",
            elements: of(&[
                PLUGINS,
                &[
                    "libcamerasrc",
                    "v4l2h264enc",
                    "v4l2jpegenc",
                    "v4l2convert",
                    "v4l2h264dec",
                    "v4l2slh265dec",
                    "v4l2jpegdec",
                ],
            ]),
            h264: "v4l2h264enc, x264enc, openh264enc",
            h265: "x265enc",
            csi: "libcamerasrc",
            uyvy: "direct",
            decoders: ["v4l2h264dec", "v4l2slh265dec", "jpegdec"],
        },
        Board {
            name: "Raspberry Pi 5",
            elements: of(&[PLUGINS, &["libcamerasrc", "v4l2slh265dec"]]),
            h264: "x264enc, openh264enc",
            h265: "x265enc",
            csi: "libcamerasrc",
            uyvy: "direct",
            decoders: ["avdec_h264", "v4l2slh265dec", "jpegdec"],
        },
        Board {
            name: "PC with VA",
            elements: of(&[
                PLUGINS,
                &[
                    "vah264enc",
                    "vah265enc",
                    "vah264dec",
                    "vah265dec",
                    "vajpegdec",
                    "vapostproc",
                ],
            ]),
            h264: "vah264enc, x264enc, openh264enc",
            h265: "vah265enc, x265enc",
            csi: "none",
            uyvy: "direct",
            decoders: ["vah264dec", "vah265dec", "vajpegdec"],
        },
        Board {
            name: "PC",
            elements: of(&[PLUGINS]),
            h264: "x264enc, openh264enc",
            h265: "x265enc",
            csi: "none",
            uyvy: "direct",
            decoders: ["avdec_h264", "avdec_h265", "jpegdec"],
        },
    ]
}

impl Board {
    fn has(&self) -> impl Fn(&str) -> bool {
        |name| self.elements.contains(&name)
    }

    fn plans(&self, codec: Codec) -> Vec<EncoderPlan> {
        let settings = EncoderSettings {
            codec,
            width: 1280,
            height: 720,
            bitrate_kbps: 3000,
            keyframe_interval_frames: 60,
            threads: 1,
            default_layout: true,
        };
        encoder::plans(&settings, None, &self.has()).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    fn encoders(&self, codec: Codec) -> String {
        let names: Vec<&str> = self.plans(codec).iter().map(|plan| plan.encoder).collect();
        names.join(", ")
    }

    fn row(&self) -> String {
        let csi = if self.csi == "none" { "" } else { self.csi };
        format!(
            "| {} | {} | {} | {csi} | {} | {} |",
            self.name,
            self.h264,
            self.h265,
            self.uyvy,
            self.decoders.join(", ")
        )
    }
}

#[test]
fn each_board_gets_what_its_hardware_has() {
    for board in boards() {
        let name = board.name;
        assert_eq!(board.encoders(Codec::H264), board.h264, "{name}");
        assert_eq!(board.encoders(Codec::H265), board.h265, "{name}");

        let csi = csi::plans(0, &CaptureOptions::default(), &board.has());
        let csi = csi.map_or("none", |plans| plans[0].element);
        assert_eq!(csi, board.csi, "{name}");

        let choice = |encoding| Choice {
            encoding,
            width: 1920,
            height: 1080,
            interval: Some(Interval {
                numerator: 1,
                denominator: 30,
            }),
        };
        let usb = |encoding| {
            let plans = converted::plans("/dev/video0", &choice(encoding), &board.has());
            plans.first().map_or("direct", |plan| plan.element)
        };
        assert_eq!(usb(Encoding::Uyvy), board.uyvy, "{name}");
        for encoding in [Encoding::Yuyv, Encoding::Nv12, Encoding::I420, Encoding::Mjpeg] {
            assert_eq!(usb(encoding), "direct", "{name}");
        }

        let decoders = Compression::ALL.map(|c| decoders::candidates(c, &board.has())[0]);
        assert_eq!(decoders, board.decoders, "{name}");
    }
}

/// NVIDIA's encoders take pictures in NVMM memory alone, and what brings them there is on the same board.
#[test]
fn chains_name_installed_elements_and_end_in_their_encoder() {
    for board in boards() {
        for codec in Codec::ALL {
            for plan in board.plans(codec) {
                let elements: Vec<&str> = plan
                    .chain
                    .iter()
                    .filter_map(|step| match step {
                        Step::Element { factory, .. } => Some(*factory),
                        Step::Caps(_) => None,
                    })
                    .collect();
                assert_eq!(elements.last(), Some(&plan.encoder), "{}", board.name);
                for element in &elements {
                    assert!(board.has()(element), "{}: {element}", board.name);
                }
                let nvidia = plan.encoder.starts_with("nvv4l2");
                let nvmm = Step::Caps("video/x-raw(memory:NVMM),format=NV12");
                assert_eq!(plan.chain.contains(&nvmm), nvidia, "{}", board.name);
                assert_eq!(elements.contains(&"nvvidconv"), nvidia, "{}", board.name);
            }
        }
    }
}

#[test]
fn the_documentation_shows_this_table() {
    let page = include_str!("../docs/boards.md");
    for board in boards() {
        let row = board.row();
        assert!(
            page.lines().any(|line| line == row),
            "docs/boards.md lacks:\n{row}"
        );
    }
}
