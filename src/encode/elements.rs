//! What encoders and those who read them share of `GStreamer`: caps and buffers of our frames and units, an encoder's
//! chain built from its plan and tried.

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;

use super::plan::{self, ENCODER_NAME, EncoderPlan, EncoderSettings, Step};
use super::{AccessUnit, EncodeOptions, Parameters};
use vision::error::{Error, Result};
use vision::frame::{Colorimetry, FrameFormat, Matrix, PixelFormat, Range};
use vision::pool::PooledBuffer;

/// The smallest side that the encoders and containers take.
const MIN_SIDE: usize = 16;

/// How long an encoder may take for its first pictures before it counts as broken.
const TRIAL: gst::ClockTime = gst::ClockTime::from_seconds(5);

/// Loads `GStreamer`. Cheap when it is loaded already.
///
/// # Errors
/// Fatal, if the library doesn't start.
pub fn init() -> Result<()> {
    gst::init().map_err(|e| Error::fatal("GStreamer does not start").caused_by(e))
}

/// Makes an element.
///
/// # Errors
/// Fatal, if it isn't installed; `package` is what to install.
pub fn make(factory: &str, package: &str) -> Result<gst::Element> {
    gst::ElementFactory::make(factory).build().map_err(|e| {
        Error::fatal(format!("GStreamer has no element {factory}"))
            .caused_by(e)
            .hint(format!("install the package {package}"))
    })
}

/// A `GStreamer` failure that no installation should show.
pub fn internal(what: &str, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::fatal(format!("GStreamer: {what}")).caused_by(cause)
}

/// How frames of one format are handed to `GStreamer`: caps, and where the planes lie.
///
/// 4:2:0 video has even sides, so the last column or row of an odd picture isn't encoded. Our planes lie
/// without padding, where `GStreamer`'s default pads rows to 4 bytes; a `GstVideoMeta` tells the difference
/// (<https://gstreamer.freedesktop.org/documentation/video/gstvideometa.html>). It is ordinary memory on every board; docs/design/0046-zero-copy-on-a-jetson.md
/// says where a Jetson's own would be named.
#[derive(Debug, Clone)]
pub struct VideoLayout {
    format: FrameFormat,
    width: u32,
    height: u32,
    offsets: [usize; 3],
    strides: [i32; 3],
    default_layout: bool,
    caps: gst::Caps,
}

impl VideoLayout {
    /// The layout of I420 frames.
    ///
    /// # Errors
    /// Usage, for other pixel formats and for sizes that can't be encoded.
    pub fn new(format: FrameFormat, frame_rate: Option<f64>) -> Result<Self> {
        init()?;
        if format.pixel != PixelFormat::I420 {
            return Err(Error::usage(format!(
                "frames to encode are {:?}; I420 is expected",
                format.pixel
            )));
        }
        let (width, height) = (format.width & !1, format.height & !1);
        if width < MIN_SIDE || height < MIN_SIDE || width > 16_384 || height > 16_384 {
            return Err(Error::usage(format!(
                "a picture of {}x{} can't be encoded as video; {MIN_SIDE}x{MIN_SIDE} to 16384x16384 can",
                format.width, format.height
            )));
        }
        let (luma, chroma) = (
            PixelFormat::I420.plane_size(0, format.width, format.height),
            PixelFormat::I420.plane_size(1, format.width, format.height),
        );
        let first_chroma = luma.row_bytes * luma.rows;
        let offsets = [0, first_chroma, first_chroma + chroma.row_bytes * chroma.rows];
        // Sides are below 16384.
        let strides = [
            luma.row_bytes as i32,
            chroma.row_bytes as i32,
            chroma.row_bytes as i32,
        ];
        let (width, height) = (width as u32, height as u32);
        let fraction = fraction(frame_rate).unwrap_or_else(|| gst::Fraction::new(0, 1));
        let info = gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, width, height)
            .fps(fraction)
            .colorimetry(&colorimetry(format.color))
            .build()
            .map_err(|e| internal("video format", e))?;
        let default_layout = info.offset() == offsets && info.stride() == strides;
        let caps = info.to_caps().map_err(|e| internal("video caps", e))?;
        Ok(Self {
            format,
            width,
            height,
            offsets,
            strides,
            default_layout,
            caps,
        })
    }

    /// The frames' format.
    pub fn format(&self) -> FrameFormat {
        self.format
    }

    /// Width and height of the video in pixels; both are even.
    pub fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// The caps of [`buffer`](Self::buffer)'s buffers.
    pub fn caps(&self) -> &gst::Caps {
        &self.caps
    }

    /// Wraps a frame's bytes without copying; they go back to their pool when `GStreamer` releases the buffer.
    ///
    /// # Errors
    /// Fatal, if `data` is too short for the format.
    pub fn buffer(&self, data: PooledBuffer, pts: gst::ClockTime) -> Result<gst::Buffer> {
        let needed = self.format.packed_bytes();
        if data.len() < needed {
            return Err(Error::fatal(format!(
                "a frame has {} bytes; {}x{} needs {needed}",
                data.len(),
                self.format.width,
                self.format.height
            )));
        }
        let mut buffer = gst::Buffer::from_slice(data);
        // The only reference, so it is writable.
        if let Some(buffer) = buffer.get_mut() {
            buffer.set_pts(pts);
            if !self.default_layout {
                gst_video::VideoMeta::add_full(
                    buffer,
                    gst_video::VideoFrameFlags::empty(),
                    gst_video::VideoFormat::I420,
                    self.width,
                    self.height,
                    &self.offsets,
                    &self.strides,
                )
                .map_err(|e| internal("video meta", e))?;
            }
        }
        Ok(buffer)
    }
}

/// A frame rate in `GStreamer`'s terms.
fn fraction(frame_rate: Option<f64>) -> Option<gst::Fraction> {
    frame_rate
        .filter(|r| r.is_finite() && *r > 0.0 && *r <= 1000.0)
        .and_then(gst::Fraction::approximate_f64)
}

/// Our colorimetry in `GStreamer`'s terms. Full range 601 is JPEG's, with sRGB transfer and primaries.
fn colorimetry(color: Colorimetry) -> gst_video::VideoColorimetry {
    use gst_video::{
        VideoColorMatrix, VideoColorPrimaries, VideoColorRange, VideoColorimetry, VideoTransferFunction,
    };
    let range = match color.range {
        Range::Limited => VideoColorRange::Range16_235,
        Range::Full => VideoColorRange::Range0_255,
    };
    let (matrix, transfer, primaries) = match (color.matrix, color.range) {
        (Matrix::Bt601, Range::Limited) => (
            VideoColorMatrix::Bt601,
            VideoTransferFunction::Bt601,
            VideoColorPrimaries::Smpte170m,
        ),
        (Matrix::Bt601, Range::Full) => (
            VideoColorMatrix::Bt601,
            VideoTransferFunction::Srgb,
            VideoColorPrimaries::Bt709,
        ),
        (Matrix::Bt709, _) => (
            VideoColorMatrix::Bt709,
            VideoTransferFunction::Bt709,
            VideoColorPrimaries::Bt709,
        ),
        (Matrix::Bt2020, _) => (
            VideoColorMatrix::Bt2020,
            VideoTransferFunction::Bt202010,
            VideoColorPrimaries::Bt2020,
        ),
    };
    VideoColorimetry::new(range, matrix, transfer, primaries)
}

/// Adds `plan`'s elements to `bin` behind `from`, and gives the last one.
///
/// # Errors
/// Fatal, if an element can't be made or linked.
pub fn append_encoder(bin: &gst::Bin, from: &gst::Element, plan: &EncoderPlan) -> Result<gst::Element> {
    let mut last = from.clone();
    for step in &plan.chain {
        let element = match step {
            Step::Caps(text) => {
                let caps: gst::Caps = text.parse().map_err(|e| internal(text, e))?;
                gst::ElementFactory::make("capsfilter")
                    .property("caps", caps)
                    .build()
                    .map_err(|e| internal("capsfilter", e))?
            }
            Step::Element { factory, properties } => {
                let mut builder = gst::ElementFactory::make(factory);
                if *factory == plan.encoder {
                    builder = builder.name(ENCODER_NAME);
                }
                let element = builder.build().map_err(|e| internal(factory, e))?;
                set_properties(&element, factory, properties);
                element
            }
        };
        bin.add(&element).map_err(|e| internal("adding an element", e))?;
        last.link(&element)
            .map_err(|e| internal("linking the encoder", e))?;
        last = element;
    }
    Ok(last)
}

/// The caps of an encoder's units.
pub fn unit_caps(parameters: &Parameters) -> gst::Caps {
    let mut caps = gst::Caps::builder(parameters.codec.media_type())
        .field("stream-format", "byte-stream")
        .field("alignment", "au")
        // Sides are below 16384.
        .field("width", parameters.width as i32)
        .field("height", parameters.height as i32)
        .field("pixel-aspect-ratio", gst::Fraction::new(1, 1))
        .field("colorimetry", colorimetry(parameters.color).to_string());
    if let Some(rate) = fraction(parameters.frame_rate) {
        caps = caps.field("framerate", rate);
    }
    caps.build()
}

/// A unit's bytes, shared, as a buffer for whom units are in order of decoding as they are in order of showing.
pub fn unit_buffer(unit: &AccessUnit, pts: gst::ClockTime) -> gst::Buffer {
    let mut buffer = gst::Buffer::from_slice(unit.data.clone());
    // The only reference, so it is writable.
    if let Some(buffer) = buffer.get_mut() {
        buffer.set_pts(pts);
        buffer.set_dts(pts);
        buffer.set_duration(gst::ClockTime::from_nseconds(unit.duration_ns));
        if !unit.is_keyframe {
            buffer.set_flags(gst::BufferFlags::DELTA_UNIT);
        }
    }
    buffer
}

/// An appsrc for units, named `src`.
///
/// # Errors
/// Fatal, if appsrc is missing.
pub fn make_unit_appsrc(parameters: &Parameters) -> Result<gst_app::AppSrc> {
    named_appsrc(&unit_caps(parameters))
}

fn set_properties(element: &gst::Element, factory: &str, properties: &[(&'static str, String)]) {
    for (name, text) in properties {
        let Some(spec) = element.find_property(name) else {
            tracing::debug!(
                element = factory,
                property = name,
                "not in this version, left out"
            );
            continue;
        };
        match gst::glib::Value::deserialize_with_pspec(text, &spec) {
            Ok(value) => element.set_property_from_value(name, &value),
            Err(_) => tracing::warn!(element = factory, property = name, value = text, "not taken"),
        }
    }
}

/// An appsrc for frames of `layout`, named `src`.
///
/// # Errors
/// Fatal, if appsrc is missing.
pub fn make_appsrc(layout: &VideoLayout) -> Result<gst_app::AppSrc> {
    named_appsrc(layout.caps())
}

fn named_appsrc(caps: &gst::Caps) -> Result<gst_app::AppSrc> {
    let element = make("appsrc", "gstreamer1.0-plugins-base")?;
    element.set_property("name", "src");
    let appsrc = element
        .downcast::<gst_app::AppSrc>()
        .map_err(|_| Error::fatal("GStreamer: appsrc is not an appsrc"))?;
    appsrc.set_caps(Some(caps));
    appsrc.set_format(gst::Format::Time);
    appsrc.set_max_bytes(0);
    Ok(appsrc)
}

/// What an encoder for frames of this layout is asked for.
pub fn settings(layout: &VideoLayout, frame_rate: Option<f64>, options: &EncodeOptions) -> EncoderSettings {
    let (width, height) = (layout.width as usize, layout.height as usize);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    EncoderSettings {
        codec: options.codec,
        width,
        height,
        bitrate_kbps: options
            .bitrate_kbps
            .unwrap_or_else(|| plan::default_bitrate_kbps(options.codec, width, height, frame_rate))
            .min(options.max_bitrate_kbps),
        keyframe_interval_frames: plan::keyframe_interval_frames(options.keyframe_interval_s, frame_rate),
        threads: plan::threads(width, height, cores),
        default_layout: layout.default_layout,
    }
}

/// The first encoder that really encodes frames of this layout; those that don't are named in the log. `wanted` names the
/// only one to use.
///
/// # Errors
/// Usage or fatal, if none is installed or none works.
pub fn working_encoder(
    layout: &VideoLayout,
    settings: &EncoderSettings,
    wanted: Option<&str>,
) -> Result<EncoderPlan> {
    let has = |name: &str| gst::ElementFactory::find(name).is_some();
    let plans = plan::plans(settings, wanted, &has)?;
    let mut failures = Vec::new();
    for plan in plans {
        match try_encoder(&plan, layout) {
            Ok(()) => {
                tracing::info!(
                    encoder = plan.encoder,
                    kbps = settings.bitrate_kbps,
                    keyframe_every = settings.keyframe_interval_frames,
                    "{} encoder chosen",
                    settings.codec
                );
                return Ok(plan);
            }
            Err(e) => {
                tracing::warn!(encoder = plan.encoder, why = %e, "this encoder is installed but does not work");
                failures.push(format!("{}: {e}", plan.encoder));
            }
        }
    }
    Err(Error::fatal(format!(
        "no installed {} encoder works for {}x{} ({})",
        settings.codec,
        layout.width,
        layout.height,
        failures.join("; ")
    ))
    .hint(format!(
        "for one that needs no hardware {}",
        plan::software_hint(settings.codec)
    )))
}

/// Encodes two grey pictures: the hardware is opened, the format negotiated, and a picture comes out.
fn try_encoder(plan: &EncoderPlan, layout: &VideoLayout) -> Result<()> {
    let pipeline = gst::Pipeline::new();
    let result = trial_run(&pipeline, plan, layout);
    // Releases the device; the outcome is known already.
    let _ = pipeline.set_state(gst::State::Null);
    result
}

fn trial_run(pipeline: &gst::Pipeline, plan: &EncoderPlan, layout: &VideoLayout) -> Result<()> {
    let appsrc = make_appsrc(layout)?;
    let sink = gst::ElementFactory::make("fakesink")
        .property("sync", false)
        .property("async", false)
        .build()
        .map_err(|e| internal("fakesink", e))?;
    pipeline
        .add_many([appsrc.upcast_ref(), &sink])
        .map_err(|e| internal("adding an element", e))?;
    let last = append_encoder(pipeline.upcast_ref(), appsrc.upcast_ref(), plan)?;
    last.link(&sink).map_err(|e| internal("linking the encoder", e))?;
    let encoded = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let seen = encoded.clone();
    if let Some(pad) = sink.static_pad("sink") {
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            gst::PadProbeReturn::Ok
        });
    }
    let bus = pipeline.bus().ok_or_else(|| Error::fatal("GStreamer: no bus"))?;
    let state = pipeline.set_state(gst::State::Playing);
    if state.is_ok() {
        for n in 0..2u64 {
            let grey = PooledBuffer::unpooled(vec![128; layout.format.packed_bytes()]);
            let buffer = layout.buffer(grey, gst::ClockTime::from_mseconds(n * 33))?;
            if appsrc.push_buffer(buffer).is_err() {
                break;
            }
        }
        // An error shows on the bus.
        let _ = appsrc.end_of_stream();
    }
    let message = bus.timed_pop_filtered(TRIAL, &[gst::MessageType::Error, gst::MessageType::Eos]);
    match message.as_deref().map(gst::MessageRef::view) {
        Some(gst::MessageView::Error(e)) => Err(Error::fatal(message_text(e))),
        Some(gst::MessageView::Eos(_)) if encoded.load(std::sync::atomic::Ordering::Relaxed) > 0 => Ok(()),
        Some(gst::MessageView::Eos(_)) => Err(Error::fatal("no picture came out")),
        _ => Err(Error::fatal(format!(
            "no picture came out within {} s",
            TRIAL.seconds()
        ))),
    }
}

/// An error message of the bus in one line: the element, what it says, its details.
pub fn message_text(error: &gst::message::Error) -> String {
    let source = error.src().map(|s| s.name().to_string()).unwrap_or_default();
    let details = error
        .debug()
        .map(|d| d.lines().last().unwrap_or_default().trim().to_owned())
        .filter(|d| !d.is_empty())
        .map(|d| format!(" ({d})"))
        .unwrap_or_default();
    format!("{source}: {}{details}", error.error())
}
