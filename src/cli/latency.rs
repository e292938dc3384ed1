//! `segd bench --latency`: how long pictures are on their way from capture to a client.
//!
//! The client is a GStreamer pipeline of this process that connects over loopback and decodes, so what is measured is
//! capture to decoded picture: motion, overlay, encoding, RTSP and decoding are all in it. It reads the time of capture
//! twice: from a pattern in the picture ([`crate::stamp`]), which nothing on the way can set, and from the header of the
//! picture's first RTP packet, which every stream of segd has and every client can read.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_rtp as gst_rtp;

use serde::Serialize;

use crate::clock::SharedClock;
use crate::metrics::{Latency, LatencySummary, process_age};
use crate::output::rtsp::CAPTURE_TIME_URI;
use crate::stamp;
use crate::supervise::Ticker;
use vision::error::{Error, Result};

/// Pictures that are not counted after the client has connected: the encoder's and the client's first steps.
const WARM_UP: u64 = 30;

/// How often the client tries to connect.
const RETRY: Duration = Duration::from_millis(20);
/// The jitter buffer may give the packets of a picture times that differ by less than this.
const SAME_PICTURE_NS: u64 = 5_000_000;
/// Pictures whose packets have come and that are not decoded yet, at most.
const UNDECODED: usize = 64;

/// What the client saw.
#[derive(Debug, Default)]
pub struct Seen {
    by_pattern: Latency,
    by_header: Latency,
    pictures: AtomicU64,
    unreadable: AtomicU64,
    first_after_ns: AtomicU64,
    /// By presentation time: when a picture was captured, in nanoseconds of Unix time.
    headers: Mutex<VecDeque<(gst::ClockTime, u64)>>,
}

/// What the client saw, in the end.
#[derive(Debug, Clone, Serialize)]
pub struct ToClient {
    /// Capture to decoded picture, by the pattern in the picture.
    pub by_pattern: LatencySummary,
    /// The same by the time in the RTP header.
    pub by_header: LatencySummary,
    /// Pictures without a readable pattern.
    pub unreadable: u64,
    /// From the start of the process to the first decoded picture.
    pub first_picture_s: f64,
}

impl Seen {
    /// All that was seen.
    pub fn summary(&self) -> ToClient {
        ToClient {
            by_pattern: self.by_pattern.summary(),
            by_header: self.by_header.summary(),
            unreadable: self.unreadable.load(Relaxed),
            first_picture_s: self.first_after_ns.load(Relaxed) as f64 / 1e9,
        }
    }

    fn picture(&self, now_ns: u64, sample: &gst::Sample) {
        let unix_ns = unix_now_ns();
        let caps = sample.caps().and_then(|caps| caps.structure(0));
        let side = |name: &str| caps.and_then(|s| s.get::<i32>(name).ok()).map(|v| v as usize);
        let (Some(width), Some(height)) = (side("width"), side("height")) else {
            return;
        };
        let header_ns = sample.buffer().and_then(|b| self.header_of(b.pts()?));
        let Some(buffer) = sample.buffer().and_then(|b| b.map_readable().ok()) else {
            return;
        };
        // GStreamer's I420 rows are padded to 4 bytes.
        let pattern_ns = stamp::read(&buffer, width, height, width.next_multiple_of(4));
        let count = self.pictures.fetch_add(1, Relaxed);
        if count == 0 {
            self.first_after_ns
                .store(process_age().as_nanos() as u64, Relaxed);
        }
        if pattern_ns.is_none() {
            self.unreadable.fetch_add(1, Relaxed);
        }
        if count < WARM_UP {
            return;
        }
        if let Some(captured_ns) = pattern_ns {
            self.by_pattern.record(now_ns.saturating_sub(captured_ns));
        }
        if let Some(captured_ns) = header_ns {
            self.by_header.record(unix_ns.saturating_sub(captured_ns));
        }
    }

    /// Reads a packet's header.
    fn packet(&self, packet: &gst::BufferRef, id: u8) {
        let Some(captured_ns) = gst_rtp::RTPBuffer::from_buffer_readable(packet)
            .ok()
            .and_then(|rtp| rtp.extension_onebyte_header(id, 0)?.try_into().ok())
            .map(|ntp: [u8; 8]| gst_rtp::functions::rtcp_ntp_to_unix(u64::from_be_bytes(ntp)))
        else {
            return;
        };
        if let (Some(pts), Ok(mut headers)) = (packet.pts(), self.headers.lock()) {
            headers.truncate(UNDECODED - 1);
            headers.push_front((pts, captured_ns));
        }
    }

    /// The time in the header of the picture that is presented at `pts`.
    fn header_of(&self, pts: gst::ClockTime) -> Option<u64> {
        let headers = self.headers.lock().ok()?;
        let distance = |of: gst::ClockTime| of.nseconds().abs_diff(pts.nseconds());
        let nearest = headers.iter().min_by_key(|(of, _)| distance(*of))?;
        (distance(nearest.0) < SAME_PICTURE_NS).then_some(nearest.1)
    }
}

fn unix_now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}

/// The number that the stream's description gives to times of capture in packets' headers.
/// (<https://www.rfc-editor.org/rfc/rfc8285#section-5>)
fn capture_time_id(caps: &gst::CapsRef) -> Option<u8> {
    caps.structure(0)?
        .iter()
        .filter(|(_, value)| value.get::<&str>() == Ok(CAPTURE_TIME_URI))
        .find_map(|(name, _)| name.strip_prefix("extmap-")?.parse().ok())
}

/// A client that watches until it is dropped.
pub struct Client {
    _ticker: Ticker,
}

/// Starts a client of `address`, which may not be there yet. `clock` is the one that frames are captured by.
///
/// # Errors
/// Fatal if GStreamer lacks what it needs.
pub fn watch(address: &str, clock: SharedClock, seen: Arc<Seen>) -> Result<Client> {
    gst::init().map_err(|e| Error::fatal("GStreamer can't be started").caused_by(e))?;
    let decoder = ["avdec_h264", "openh264dec"]
        .into_iter()
        .find(|name| gst::ElementFactory::find(name).is_some())
        .ok_or_else(|| Error::fatal("there is no avdec_h264 and no openh264dec to decode the stream with"))?;
    let line = format!(
        "rtspsrc location={address} protocols=tcp latency=0 ! rtph264depay name=depay ! h264parse ! {decoder} ! videoconvert ! \
         video/x-raw,format=I420 ! appsink name=out sync=false max-buffers=4"
    );
    let failed = Arc::new(AtomicBool::new(true));
    let mut pipeline: Option<Playing> = None;
    let ticker = Ticker::start("client", RETRY, move || {
        if let Some(playing) = &pipeline
            && playing.has_failed()
        {
            failed.store(true, Relaxed);
        }
        if failed.swap(false, Relaxed) {
            pipeline = None;
            pipeline = Playing::start(&line, clock.clone(), seen.clone()).ok();
            failed.store(pipeline.is_none(), Relaxed);
        }
    })?;
    Ok(Client { _ticker: ticker })
}

/// A pipeline that stops when dropped.
struct Playing(gst::Pipeline);

impl Playing {
    fn start(line: &str, clock: SharedClock, seen: Arc<Seen>) -> Result<Self, gst::glib::BoolError> {
        let wrong = |_| gst::glib::bool_error!("the client's pipeline can't be made");
        let pipeline = gst::parse::launch(line)
            .map_err(|e| gst::glib::bool_error!("{e}"))?
            .downcast::<gst::Pipeline>()
            .map_err(wrong)?;
        let at_packets = seen.clone();
        let sink = pipeline
            .by_name("out")
            .and_then(|e| e.downcast::<gst_app::AppSink>().ok())
            .ok_or_else(|| gst::glib::bool_error!("the client has no sink"))?;
        sink.set_callbacks(
            gst_app::AppSinkCallbacks::builder()
                .new_sample(move |sink| {
                    let now_ns = clock.now_ns();
                    let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
                    seen.picture(now_ns, &sample);
                    Ok(gst::FlowSuccess::Ok)
                })
                .build(),
        );
        let depay = pipeline
            .by_name("depay")
            .and_then(|depay| depay.static_pad("sink"))
            .ok_or_else(|| gst::glib::bool_error!("the client has no depayloader"))?;
        depay.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
            if let Some(packet) = info.buffer()
                && let Some(id) = pad.current_caps().and_then(|caps| capture_time_id(&caps))
            {
                at_packets.packet(packet, id);
            }
            gst::PadProbeReturn::Ok
        });
        let playing = Self(pipeline);
        playing
            .0
            .set_state(gst::State::Playing)
            .map_err(|_| gst::glib::bool_error!("the client can't be started"))?;
        Ok(playing)
    }

    /// Whether it has to be started again: nobody listens yet, or the stream has ended.
    fn has_failed(&self) -> bool {
        let Some(bus) = self.0.bus() else { return true };
        bus.pop_filtered(&[gst::MessageType::Error, gst::MessageType::Eos])
            .is_some()
    }
}

impl Drop for Playing {
    fn drop(&mut self) {
        let _ = self.0.set_state(gst::State::Null);
    }
}
