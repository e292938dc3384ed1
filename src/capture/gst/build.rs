//! Builds the GStreamer pipelines that end in an appsink: decoding an address, or a launch line.
//!
//! What an appsink takes is I420, NV12 or YUY2 with square pixels; A420 where a decoder gives transparency. `videoconvert`
//! stands before it and passes buffers through where the decoder gives one of these, which nearly all do; `videoflip` turns
//! a picture that is tagged as rotated, and `videoscale` gives it the shape that it is to be shown in. Decoders get as many
//! threads as the options say: their default, one thread a core with frame threading, adds a frame of delay and a stack of
//! pictures for each.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer_app::AppSink;
use gstreamer_video as gst_video;
use tracing::info;

use vision::error::{Error, Result};

use super::color;
use super::decoders;
use super::gate::Gate;
use super::trust::Trust;
use crate::capture::credentials::mask_credentials;
use crate::capture::options::{CaptureOptions, RtspTransport};

/// A pipeline that was built and not started.
#[derive(Debug)]
pub(super) struct Built {
    pub pipeline: gst::Pipeline,
    pub appsink: AppSink,
    /// Set when all streams of the source are known and none is video.
    pub no_video: Arc<AtomicBool>,
    /// The hardware decoder that was plugged in first, if one was.
    pub hardware: Arc<OnceLock<String>>,
    /// Tells whole pictures from damaged ones.
    pub gate: Arc<Gate>,
}

/// What may decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decoding {
    /// The best that there is.
    Any,
    /// No hardware.
    OnCpu,
}

/// Initialises GStreamer (any number of times).
///
/// # Errors
/// Fatal, if the library can't be initialised.
pub fn init() -> Result<()> {
    gst::init().map_err(|e| Error::fatal("GStreamer can't be initialised").caused_by(e))
}

/// The formats that an appsink takes, with square pixels.
fn wanted_caps(formats: &[&str]) -> gst::Caps {
    gst::Caps::builder("video/x-raw")
        .field("format", gst::List::new(formats))
        .field("pixel-aspect-ratio", gst::Fraction::new(1, 1))
        .build()
}

/// Without transparency.
const OPAQUE: [&str; 3] = ["I420", "NV12", "YUY2"];
/// With transparency, which is blended as pictures are copied.
const TRANSPARENT: [&str; 1] = ["A420"];
/// What a launch line may end in.
const ALL: [&str; 4] = ["I420", "NV12", "YUY2", "A420"];

fn element(factory: &str) -> Result<gst::Element> {
    gst::ElementFactory::make(factory).build().map_err(|e| {
        Error::fatal(format!("GStreamer has no element {factory:?}"))
            .caused_by(e)
            .hint("install GStreamer's base and good plugins (Debian: gstreamer1.0-plugins-base, -good)")
    })
}

fn configure(appsink: &AppSink) {
    // Pacing and queueing are ours; the sink hands on each buffer at once.
    appsink.set_sync(false);
    appsink.set_max_buffers(1);
    appsink.set_drop(false);
    appsink.set_property("enable-last-sample", false);
    appsink.set_property("qos", false);
}

/// A pipeline that decodes the video of `uri`, which the log calls `name`.
///
/// # Errors
/// Fatal, if GStreamer lacks a basic element.
pub(super) fn from_uri(
    uri: &str,
    name: &str,
    options: &CaptureOptions,
    decoding: Decoding,
    trust: Option<&Arc<Trust>>,
) -> Result<Built> {
    init()?;
    decoders::prefer_hardware();
    let decode = element("uridecodebin")?;
    decode.set_property("uri", uri);
    decode.set_property("force-sw-decoders", decoding == Decoding::OnCpu);
    let convert = element("videoconvert")?;
    let flip = element("videoflip")?;
    flip.set_property_from_str("video-direction", "auto");
    let shape = element("videoscale")?;
    // A picture is scaled as a whole; bars would be seen by the network.
    shape.set_property("add-borders", false);
    let appsink = AppSink::builder().caps(&wanted_caps(&OPAQUE)).build();
    configure(&appsink);

    let pipeline = gst::Pipeline::new();
    limit_threads(&pipeline, options.decoder_threads);
    let gate = Arc::new(Gate::new(name));
    watch(&pipeline, &gate);
    let hardware = Arc::new(OnceLock::new());
    let plugged = hardware.clone();
    pipeline.connect_deep_element_added(move |_, _, element| {
        if let Some(factory) = element.factory().filter(decoders::is_hardware) {
            plugged.get_or_init(|| factory.name().to_string());
        }
    });
    pipeline
        .add_many([&decode, &convert, &flip, &shape, appsink.upcast_ref()])
        .and_then(|()| gst::Element::link_many([&convert, &flip, &shape, appsink.upcast_ref()]))
        .map_err(|e| Error::fatal("GStreamer's elements don't link").caused_by(e))?;

    // Only raw pictures are needed: other streams stay encoded, and are not linked.
    let (silent, shown) = (AtomicBool::new(false), name.to_owned());
    decode.connect_closure(
        "autoplug-continue",
        false,
        glib::closure!(move |_: &gst::Element, _: &gst::Pad, caps: &gst::Caps| -> bool {
            let is = |kind: &str| caps.structure(0).is_some_and(|s| s.name().starts_with(kind));
            if is("audio/") && !silent.swap(true, Ordering::Relaxed) {
                info!("{shown}: its sound is left out");
            }
            !(is("audio/") || is("text/") || is("subpicture/"))
        }),
    );
    let entry = convert.static_pad("sink");
    let linked = entry.clone();
    let (weak, sink) = (pipeline.downgrade(), appsink.downgrade());
    decode.connect_pad_added(move |_, pad| {
        let (Some(pipeline), Some(sink), Some(entry)) = (weak.upgrade(), sink.upgrade(), &entry) else {
            return;
        };
        if entry.is_linked() {
            return;
        }
        let linked = if has_alpha(pad) {
            sink.set_caps(Some(&wanted_caps(&TRANSPARENT)));
            keep_alpha(&pipeline, &flip, &shape).and_then(|()| link_video(&pipeline, pad, entry))
        } else {
            link_video(&pipeline, pad, entry)
        };
        if let Err(why) = linked {
            gst::element_error!(pipeline, gst::CoreError::Negotiation, ["{}", why]);
        }
    });
    let no_video = Arc::new(AtomicBool::new(false));
    let flag = no_video.clone();
    decode.connect_no_more_pads(move |_| {
        if !linked.as_ref().is_some_and(|pad| pad.is_linked()) {
            flag.store(true, Ordering::Release);
        }
    });
    let (latency, trust) = (options.rtsp_latency_ms, trust.cloned());
    let transport = if uri.starts_with("rtsps:") {
        // Only the connection itself is encrypted: packets over UDP would cross the network in clear.
        RtspTransport::Tcp
    } else {
        options.rtsp_transport
    };
    decode.connect_closure(
        "source-setup",
        false,
        glib::closure!(move |_: &gst::Element, source: &gst::Element| {
            if source.factory().is_some_and(|f| f.name() == "rtspsrc") {
                configure_rtsp(source, latency, transport);
                if let Some(trust) = &trust {
                    trust.apply(source);
                }
            }
        }),
    );
    Ok(Built {
        pipeline,
        appsink,
        no_video,
        hardware,
        gate,
    })
}

/// Has `gate` watch the decoders of a pipeline, those that are there and those that are plugged in, and lets the tags of
/// streams win over those of files.
fn watch(pipeline: &gst::Pipeline, gate: &Arc<Gate>) {
    for element in pipeline.iterate_recurse().into_iter().flatten() {
        gate.watch(&element);
        color::prefer_the_streams_own(&element);
    }
    let gate = gate.clone();
    pipeline.connect_deep_element_added(move |_, _, element| {
        gate.watch(element);
        color::prefer_the_streams_own(element);
    });
}

/// Puts a converter between `flip`, which doesn't take the format that transparent pictures end in, and `shape`.
fn keep_alpha(pipeline: &gst::Pipeline, flip: &gst::Element, shape: &gst::Element) -> Result<(), String> {
    let text = |e: glib::BoolError| e.to_string();
    let convert = gst::ElementFactory::make("videoconvert").build().map_err(text)?;
    pipeline.add(&convert).map_err(text)?;
    flip.unlink(shape);
    gst::Element::link_many([flip, &convert, shape]).map_err(text)?;
    convert.sync_state_with_parent().map_err(text)
}

/// Whether a decoder's pictures have transparent parts.
fn has_alpha(pad: &gst::Pad) -> bool {
    let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
    gst_video::VideoInfo::from_caps(&caps).is_ok_and(|info| info.has_alpha())
}

fn configure_rtsp(source: &gst::Element, latency_ms: u32, transport: RtspTransport) {
    source.set_property("latency", latency_ms);
    source.set_property("drop-on-latency", true);
    source.set_property_from_str(
        "protocols",
        match transport {
            RtspTransport::Auto => "tcp+udp",
            RtspTransport::Udp => "udp",
            RtspTransport::Tcp => "tcp",
        },
    );
    // Microseconds without a UDP packet until TCP is tried, and until a TCP connection counts as dead.
    source.set_property("timeout", 2_000_000u64);
    source.set_property("tcp-timeout", 5_000_000u64);
}

/// Links a decoder's pad to `entry` if it carries video.
fn link_video(pipeline: &gst::Pipeline, pad: &gst::Pad, entry: &gst::Pad) -> Result<(), String> {
    let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
    let Some(structure) = caps.structure(0) else {
        return Ok(());
    };
    if structure.name() != "video/x-raw" {
        return Ok(());
    }
    let memory = caps
        .features(0)
        .and_then(|f| f.iter().map(|f| f.to_string()).find(|f| f.starts_with("memory:")))
        .unwrap_or_default();
    let has = |name: &str| gst::ElementFactory::find(name).is_some();
    let target = match download_element(&memory, &has)? {
        None => entry.clone(),
        Some(name) => {
            let text = |e: glib::BoolError| e.to_string();
            let download = gst::ElementFactory::make(name).build().map_err(text)?;
            pipeline.add(&download).map_err(text)?;
            let source = download.static_pad("src").ok_or("no source pad")?;
            source.link(entry).map_err(|e| e.to_string())?;
            download.sync_state_with_parent().map_err(text)?;
            download.static_pad("sink").ok_or("no sink pad")?
        }
    };
    pad.link(&target)
        .map_err(|e| format!("the decoder's output {caps} can't be linked: {e}"))?;
    Ok(())
}

/// The element that brings pictures from a device's memory into the computer's: none for ordinary
/// memory. `memory` is the caps feature; `has` tells which elements are there.
fn download_element(memory: &str, has: &dyn Fn(&str) -> bool) -> Result<Option<&'static str>, String> {
    let candidates: &[&str] = match memory {
        "" | "memory:SystemMemory" => return Ok(None),
        "memory:NVMM" => &["nvvidconv", "nvvideoconvert"],
        "memory:VAMemory" | "memory:DMABuf" => &["vapostproc"],
        "memory:VASurface" => &["vaapipostproc"],
        "memory:CUDAMemory" => &["cudadownload"],
        "memory:GLMemory" => &["gldownload"],
        other => {
            return Err(format!(
                "the decoder gives pictures in {other}, which segd can't read"
            ));
        }
    };
    match candidates.iter().find(|name| has(name)) {
        Some(name) => Ok(Some(name)),
        None => Err(format!(
            "the decoder gives pictures in {memory}; none of the elements that fetch them is there: {}",
            candidates.join(", ")
        )),
    }
}

/// Sets the number of threads of each software decoder that is plugged in.
fn limit_threads(pipeline: &gst::Pipeline, threads: u32) {
    let threads = threads.max(1).to_string();
    pipeline.connect_deep_element_added(move |_, _, element| {
        let Some(factory) = element.factory() else {
            return;
        };
        let property = match factory.name().as_str() {
            name if name.starts_with("avdec_") => "max-threads",
            "vp8dec" | "vp9dec" => "threads",
            "dav1ddec" => "n-threads",
            _ => return,
        };
        if element.has_property(property) {
            element.set_property_from_str(property, &threads);
        }
    });
}

/// A pipeline from a launch line with one appsink.
///
/// # Errors
/// Usage, if the line doesn't parse, has no appsink, or its appsink takes none of our formats.
pub(super) fn from_launch(line: &str, name: &str, options: &CaptureOptions) -> Result<Built> {
    init()?;
    let shown = mask_credentials(line);
    let parsed = gst::parse::launch_full(line, None, gst::ParseFlags::FATAL_ERRORS).map_err(|e| {
        Error::usage(format!(
            "launch line \"{shown}\": {}",
            mask_credentials(&e.to_string()).replace('\n', " ")
        ))
        .hint("try the line with gst-launch-1.0")
    })?;
    let no_sink = || {
        Error::usage(format!("launch line \"{shown}\" has no appsink"))
            .hint("end it with \"! appsink\", for example \"videotestsrc ! videoconvert ! appsink\"")
    };
    let pipeline = parsed.downcast::<gst::Pipeline>().map_err(|_| no_sink())?;
    let mut sinks: Vec<AppSink> = Vec::new();
    for element in pipeline.iterate_recurse().into_iter().flatten() {
        sinks.extend(element.downcast::<AppSink>());
    }
    let appsink = match sinks.len() {
        0 => return Err(no_sink()),
        1 => sinks.remove(0),
        n => {
            return Err(Error::usage(format!("launch line \"{shown}\" has {n} appsinks"))
                .hint("keep the one that gives the video"));
        }
    };
    let wanted = wanted_caps(&ALL);
    let caps = match appsink.caps() {
        None => wanted,
        Some(caps) => wanted.intersect(&caps),
    };
    if caps.is_empty() {
        return Err(Error::usage(format!(
            "launch line \"{shown}\": its appsink's caps leave none of video/x-raw I420, NV12, YUY2"
        ))
        .hint("leave the appsink's caps out"));
    }
    appsink.set_caps(Some(&caps));
    configure(&appsink);
    square_pixels(&appsink)?;
    limit_threads(&pipeline, options.decoder_threads);
    let gate = Arc::new(Gate::new(name));
    watch(&pipeline, &gate);
    Ok(Built {
        pipeline,
        appsink,
        no_video: Arc::default(),
        hardware: Arc::default(),
        gate,
    })
}

/// Puts a scaler before a launch line's appsink, which changes nothing where pixels are square. A line whose end is linked
/// only as it runs keeps its own way.
fn square_pixels(appsink: &AppSink) -> Result<()> {
    let failed = |e: glib::BoolError| Error::fatal("GStreamer's elements don't link").caused_by(e);
    let (Some(entry), Some(bin)) = (
        appsink.static_pad("sink"),
        appsink
            .parent()
            .and_then(|parent| parent.downcast::<gst::Bin>().ok()),
    ) else {
        return Ok(());
    };
    let Some(source) = entry.peer() else {
        return Ok(());
    };
    let shape = element("videoscale")?;
    shape.set_property("add-borders", false);
    bin.add(&shape).map_err(failed)?;
    source
        .unlink(&entry)
        .and_then(|()| shape.link(appsink))
        .map_err(failed)?;
    let Some(inlet) = shape.static_pad("sink") else {
        return Ok(());
    };
    source.link(&inlet).map(drop).map_err(|e| {
        Error::usage(format!(
            "the launch line's end gives no video that can be read: {e}"
        ))
        .hint("put \"! videoconvert\" before the appsink: segd takes I420, NV12 or YUY2")
    })
}

/// One line for an error that an element posted: the element, what it said, and its last detail.
pub(super) fn error_text(message: &gst::message::Error) -> String {
    let element = message
        .src()
        .and_then(|o| o.downcast_ref::<gst::Element>())
        .and_then(|e| e.factory())
        .map_or_else(|| "GStreamer".to_owned(), |f| f.name().to_string());
    let said = message.error().to_string();
    let debug = message.debug();
    // The first line of the detail names source code and the element's path.
    let detail = debug
        .as_deref()
        .map(|d| {
            d.lines()
                .skip(1)
                .filter(|l| !l.trim().is_empty())
                .collect::<Vec<_>>()
                .join(" ")
        })
        .unwrap_or_default();
    let text = if detail.is_empty() || said.contains(&detail) {
        format!("{element}: {said}")
    } else {
        format!("{element}: {} ({detail})", said.trim_end_matches('.'))
    };
    mask_credentials(&text).replace('\n', " ")
}

/// The decoder that a missing-plugin message asks for, in words.
/// (<https://gstreamer.freedesktop.org/documentation/additional/design/missing-plugins.html>)
pub(super) fn missing_plugin(message: &gst::message::Element) -> Option<String> {
    let structure = message.structure()?;
    if structure.name() != "missing-plugin" {
        return None;
    }
    structure.get::<String>("name").ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_in_device_memory_are_fetched_by_what_is_there() {
        let all = |_: &str| true;
        let none = |_: &str| false;
        assert_eq!(download_element("", &none), Ok(None));
        assert_eq!(download_element("memory:SystemMemory", &none), Ok(None));
        assert_eq!(download_element("memory:NVMM", &all), Ok(Some("nvvidconv")));
        assert_eq!(
            download_element("memory:NVMM", &|name| name == "nvvideoconvert"),
            Ok(Some("nvvideoconvert"))
        );
        let missing = download_element("memory:NVMM", &none).unwrap_err();
        assert!(missing.contains("nvvidconv, nvvideoconvert"), "{missing}");
        assert!(
            download_element("memory:Other", &all)
                .unwrap_err()
                .contains("memory:Other")
        );
    }

    #[test]
    fn launch_lines_are_checked() {
        let options = CaptureOptions::default();
        for (line, part) in [
            ("videotestsrc ! fakesink", "has no appsink"),
            ("appsink", "has no appsink"),
            ("videotestsrc ! nosuchelement ! appsink", "nosuchelement"),
            (
                "videotestsrc ! tee name=t t. ! appsink t. ! appsink",
                "has 2 appsinks",
            ),
            (
                "videotestsrc ! appsink caps=video/x-raw,format=GRAY8",
                "I420, NV12, YUY2",
            ),
            ("videotestsrc ! ! appsink", "launch line"),
        ] {
            let e = from_launch(line, "line", &options).unwrap_err();
            assert_eq!(e.exit_code(), 2);
            assert!(e.to_string().contains(part), "{line}: {e}");
            assert!(!e.to_string().contains('\n'));
        }
        let line = "videotestsrc ! appsink caps=video/x-raw,format=NV12";
        let built = from_launch(line, "line", &options).unwrap();
        assert_eq!(
            built.appsink.caps().unwrap().to_string(),
            "video/x-raw, format=(string)NV12, pixel-aspect-ratio=(fraction)1/1"
        );
    }
}
