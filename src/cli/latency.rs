//! `segd bench --latency`: how long pictures are on their way from capture to a client.
//!
//! The client is a GStreamer pipeline of this process that connects over loopback and decodes. Every picture carries
//! the time of its capture as a pattern ([`crate::stamp`]), so what is measured is capture to decoded picture:
//! motion, overlay, encoding, RTSP and decoding are all in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;

use crate::clock::SharedClock;
use crate::error::{Error, Result};
use crate::metrics::{Latency, LatencySummary};
use crate::stamp;
use crate::supervise::Ticker;

/// Pictures that are not counted after the client has connected: the encoder's and the client's first steps.
const WARM_UP: u64 = 30;

/// What the client saw.
#[derive(Debug, Default)]
pub struct Seen {
    latency: Latency,
    pictures: AtomicU64,
    unreadable: AtomicU64,
}

impl Seen {
    /// Capture to decoded picture.
    pub fn summary(&self) -> LatencySummary {
        self.latency.summary()
    }

    /// Pictures that carried no readable time.
    pub fn unreadable(&self) -> u64 {
        self.unreadable.load(Relaxed)
    }

    fn picture(&self, now_ns: u64, sample: &gst::Sample) {
        let caps = sample.caps().and_then(|caps| caps.structure(0));
        let side = |name: &str| caps.and_then(|s| s.get::<i32>(name).ok()).map(|v| v as usize);
        let (Some(width), Some(height)) = (side("width"), side("height")) else {
            return;
        };
        let Some(buffer) = sample.buffer().and_then(|b| b.map_readable().ok()) else {
            return;
        };
        // GStreamer's I420 rows are padded to 4 bytes.
        let time = stamp::read(&buffer, width, height, width.next_multiple_of(4));
        let count = self.pictures.fetch_add(1, Relaxed);
        match time {
            Some(captured_ns) if count >= WARM_UP => self.latency.record(now_ns.saturating_sub(captured_ns)),
            Some(_) => {}
            None => {
                self.unreadable.fetch_add(1, Relaxed);
            }
        }
    }
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
        "rtspsrc location={address} protocols=tcp latency=0 ! rtph264depay ! h264parse ! {decoder} ! videoconvert ! \
         video/x-raw,format=I420 ! appsink name=out sync=false max-buffers=4"
    );
    let failed = Arc::new(AtomicBool::new(true));
    let mut pipeline: Option<Playing> = None;
    let ticker = Ticker::start("client", Duration::from_millis(100), move || {
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
