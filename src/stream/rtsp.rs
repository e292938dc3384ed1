//! Frames to RTSP clients, as H.264 or H.265: one encoder for all of them.
//!
//! The encoder exists only while someone watches. The first client makes gst-rtsp-server build the bin
//! `appsrc ! encoder ! rtph264pay` (or `rtph265pay`), and the appsrc is gone again when the last client has left. [`push`]
//! never waits: without a client it drops the frame, and where the encoder is late appsrc drops the oldest
//! of its two frames.
//!
//! A frame's time in the stream is that of its capture, and its first packet says it in full, as an RTP header
//! extension with a 64-bit NTP time (<https://www.rfc-editor.org/rfc/rfc6051#section-3.3>): a client knows when each
//! picture was taken, in the server's wall clock.
//!
//! [`push`]: FrameSink::push

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_rtp as gst_rtp;
use gstreamer_rtp::prelude::*;
use gstreamer_rtsp_server as gst_rtsp_server;
use gstreamer_rtsp_server::gst_rtsp;
use gstreamer_rtsp_server::prelude::*;
use gstreamer_video as gst_video;

use crate::clock::{RealClock, TimeNs};
use crate::stream::elements::{self, VideoLayout, internal};
use crate::stream::encoder::{ENCODER_NAME, EncoderPlan};
use crate::stream::rtsp_server::{Mount, Server};
use crate::stream::{FrameSink, RtspAddress, SinkOpener, StreamOptions};
use vision::error::{Error, Result};
use vision::frame::{Frame, FrameFormat};

/// Frames that wait for the encoder at most.
const QUEUED_FRAMES: u64 = 2;

/// The RTP header extension that carries a frame's time of capture: a 64-bit NTP time.
pub const CAPTURE_TIME_URI: &str = "urn:ietf:params:rtp-hdrext:ntp-64";
/// Its number in the packets.
const CAPTURE_TIME_ID: u32 = 1;
/// A frame that is older, or younger than now, has no time of the machine's clock.
const OLDEST_NS: TimeNs = 10_000_000_000;

/// Opens an [`RtspSink`].
#[derive(Debug, Clone)]
pub struct RtspOpener {
    address: RtspAddress,
    options: StreamOptions,
}

impl RtspOpener {
    /// An opener for this address.
    pub fn new(address: RtspAddress, options: StreamOptions) -> Self {
        Self { address, options }
    }
}

impl SinkOpener for RtspOpener {
    fn name(&self) -> String {
        self.address.to_string()
    }

    fn is_live(&self) -> bool {
        true
    }

    fn open(&self, format: FrameFormat, frame_rate: Option<f64>) -> Result<Box<dyn FrameSink>> {
        Ok(Box::new(RtspSink::open(
            &self.address,
            &self.options,
            format,
            frame_rate,
        )?))
    }
}

/// What the pushing thread and the server's threads share.
#[derive(Default)]
struct Shared {
    live: Mutex<Option<Live>>,
    clients: AtomicUsize,
    dropped: AtomicU64,
    failure: Mutex<Option<String>>,
}

/// The pipeline that clients watch.
#[derive(Clone)]
struct Live {
    appsrc: gst_app::AppSrc,
    encoder: Option<gst::Element>,
    media: glib::WeakRef<gst_rtsp_server::RTSPMedia>,
}

impl Shared {
    fn live(&self) -> MutexGuard<'_, Option<Live>> {
        // Its holders only copy or replace the value.
        self.live.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn failure(&self) -> MutexGuard<'_, Option<String>> {
        self.failure.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// A keyframe now: someone has begun to watch.
    fn force_keyframe(&self) {
        let encoder = self.live().as_ref().and_then(|live| live.encoder.clone());
        if let Some(pad) = encoder.and_then(|e| e.static_pad("src")) {
            pad.send_event(
                gst_video::UpstreamForceKeyUnitEvent::builder()
                    .all_headers(true)
                    .build(),
            );
        }
    }
}

impl Mount for Shared {
    fn play(&self) {
        self.force_keyframe();
    }

    fn clients(&self) -> &AtomicUsize {
        &self.clients
    }

    fn is_running(&self) -> bool {
        use gst_rtsp_server::RTSPMediaStatus as Status;
        self.live()
            .as_ref()
            .and_then(|live| live.media.upgrade())
            .is_some_and(|media| !matches!(media.status(), Status::Unprepared | Status::Error))
    }
}

/// A stream of an RTSP server, that shows the pushed frames.
pub struct RtspSink {
    address: RtspAddress,
    plan: EncoderPlan,
    layout: VideoLayout,
    shared: Arc<Shared>,
    server: Option<Arc<Server>>,
    last_pts: gst::ClockTime,
}

impl RtspSink {
    /// Chooses a working encoder, and serves the stream: on the server that listens there already, or a new one.
    ///
    /// # Errors
    /// Usage, if the address isn't one of this machine or may not be served like this, the path is taken, or the
    /// encoder's name is wrong; fatal, if the port is in use or no encoder works.
    pub fn open(
        address: &RtspAddress,
        options: &StreamOptions,
        format: FrameFormat,
        frame_rate: Option<f64>,
    ) -> Result<Self> {
        let layout = VideoLayout::new(format, frame_rate)?;
        for element in [options.codec.payloader(), "rtpbin", "multiudpsink"] {
            elements::make(element, "gstreamer1.0-plugins-good")?;
        }
        let plan = elements::working_encoder(&layout, frame_rate, options)?;
        let shared = Arc::new(Shared::default());
        let server = Server::get(address, &options.access)?;
        server.mount(
            &address.path,
            media_factory(&layout, &plan, &shared),
            shared.clone(),
        )?;
        Ok(Self {
            address: server.address(&address.path),
            plan,
            layout,
            shared,
            server: Some(server),
            last_pts: gst::ClockTime::ZERO,
        })
    }

    /// The address that clients open, with the port that was really bound.
    pub fn address(&self) -> &RtspAddress {
        &self.address
    }

    /// Disconnects those who watch; the last stream of a server frees its port and ends its thread.
    fn shutdown(&mut self) {
        if let Some(server) = self.server.take() {
            server.unmount(&self.address.path);
        }
    }
}

impl FrameSink for RtspSink {
    fn describe(&self) -> String {
        format!("{} ({} by {})", self.address, self.plan.codec, self.plan.encoder)
    }

    fn push(&mut self, frame: Frame) -> Result<()> {
        if frame.format != self.layout.format() {
            return Err(Error::transient(format!(
                "a frame of {:?} came; the stream was opened for {:?}",
                frame.format,
                self.layout.format()
            )));
        }
        if let Some(why) = self.shared.failure().take() {
            return Err(Error::transient("the encoding pipeline failed").caused_by(why));
        }
        let Some(appsrc) = self.shared.live().as_ref().map(|live| live.appsrc.clone()) else {
            return Ok(());
        };
        // None until the pipeline plays.
        let Some(now) = running_time(&appsrc) else {
            return Ok(());
        };
        // While the first client still sets up its session, frames wait for it and drop: nobody misses them.
        if appsrc.current_level_buffers() >= QUEUED_FRAMES && self.clients() > 0 {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
        let Some(mut pts) = stream_time(now, frame.captured_at_ns, RealClock::now()) else {
            return Ok(());
        };
        // A notice that the camera is away may have gone out after the camera took its next picture.
        if (pts..=now).contains(&self.last_pts) {
            pts = self.last_pts + gst::ClockTime::MSECOND;
        }
        self.last_pts = pts;
        let buffer = self.layout.buffer(frame.data, pts)?;
        match appsrc.push_buffer(buffer) {
            // The last client has just left.
            Ok(_) | Err(gst::FlowError::Flushing | gst::FlowError::Eos) => Ok(()),
            Err(e) => Err(Error::transient("the encoding pipeline takes no frames").caused_by(e)),
        }
    }

    fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    fn clients(&self) -> usize {
        self.shared.clients.load(Ordering::Relaxed)
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.shutdown();
        Ok(())
    }
}

impl Drop for RtspSink {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// The factory that builds the pipeline for the first client and shares it with the others.
fn media_factory(layout: &VideoLayout, plan: &EncoderPlan, shared: &Arc<Shared>) -> factory::Factory {
    let factory = factory::Factory::new(layout.clone(), plan.clone());
    factory.set_shared(true);
    factory.set_protocols(gst_rtsp::RTSPLowerTrans::UDP | gst_rtsp::RTSPLowerTrans::TCP);
    let shared = shared.clone();
    factory.connect_media_configure(move |_, media| {
        let bin = media.element();
        let Some(bin) = bin.downcast_ref::<gst::Bin>() else {
            return;
        };
        let appsrc = bin
            .by_name("src")
            .and_then(|e| e.downcast::<gst_app::AppSrc>().ok());
        let Some(appsrc) = appsrc else {
            return;
        };
        *shared.live() = Some(Live {
            appsrc: appsrc.clone(),
            encoder: bin.by_name(ENCODER_NAME),
            media: media.downgrade(),
        });
        let unprepared = shared.clone();
        media.connect_unprepared(move |_| {
            let mut live = unprepared.live();
            // A new pipeline may stand there already.
            if live.as_ref().is_some_and(|live| live.appsrc == appsrc) {
                *live = None;
            }
        });
        // The server reads the bus itself; a synchronous look takes nothing from it.
        if let Some(bus) = bin.parent().and_downcast::<gst::Pipeline>().and_then(|p| p.bus()) {
            let (failed, ours) = (shared.clone(), bin.downgrade());
            bus.enable_sync_message_emission();
            bus.connect_sync_message(Some("error"), move |_, message| {
                if let (gst::MessageView::Error(e), Some(bin)) = (message.view(), ours.upgrade())
                    && message.src().is_some_and(|src| src.has_as_ancestor(&bin))
                {
                    *failed.failure() = Some(elements::message_text(e));
                }
            });
        }
    });
    factory
}

/// The element's running time; `None` before its pipeline plays.
///
/// A pipeline that starts hands out its clock before its base time. Between the two,
/// `gst_element_get_current_running_time` counts from the machine's boot, and a sink would hold a frame stamped
/// so for as long: <https://gstreamer.freedesktop.org/documentation/application-development/advanced/clocks.html>.
fn running_time(element: &impl IsA<gst::Element>) -> Option<gst::ClockTime> {
    let base = element.base_time().filter(|base| !base.is_zero())?;
    element.current_clock_time()?.checked_sub(base)
}

/// When a frame was taken, in the running time of a pipeline that stands at `now`. `None` if that was before the
/// pipeline began.
fn stream_time(now: gst::ClockTime, captured_at_ns: TimeNs, clock_ns: TimeNs) -> Option<gst::ClockTime> {
    match clock_ns.checked_sub(captured_at_ns) {
        Some(age_ns) if age_ns <= OLDEST_NS => now.checked_sub(gst::ClockTime::from_nseconds(age_ns)),
        _ => Some(now),
    }
}

/// A media factory that builds its bin from an [`EncoderPlan`], element by element.
mod factory {
    use std::sync::OnceLock;

    use gstreamer_rtsp_server::subclass::prelude::*;

    use super::*;

    #[derive(Default)]
    pub struct Imp {
        recipe: OnceLock<(VideoLayout, EncoderPlan)>,
    }

    #[glib::object_subclass]
    impl ObjectSubclass for Imp {
        const NAME: &'static str = "SegdRtspMediaFactory";
        type Type = Factory;
        type ParentType = gst_rtsp_server::RTSPMediaFactory;
    }

    impl ObjectImpl for Imp {}

    impl RTSPMediaFactoryImpl for Imp {
        fn create_element(&self, _url: &gst_rtsp::RTSPUrl) -> Option<gst::Element> {
            let (layout, plan) = self.recipe.get()?;
            match build(layout, plan) {
                Ok(bin) => Some(bin.upcast()),
                Err(e) => {
                    tracing::error!("the pipeline for RTSP clients can't be built: {e}");
                    None
                }
            }
        }
    }

    glib::wrapper! {
        pub struct Factory(ObjectSubclass<Imp>) @extends gst_rtsp_server::RTSPMediaFactory;
    }

    impl Factory {
        pub fn new(layout: VideoLayout, plan: EncoderPlan) -> Self {
            let factory: Self = glib::Object::new();
            // A new object's recipe is empty.
            let _ = factory.imp().recipe.set((layout, plan));
            factory
        }
    }

    fn build(layout: &VideoLayout, plan: &EncoderPlan) -> Result<gst::Bin> {
        let bin = gst::Bin::new();
        let appsrc = elements::make_appsrc(layout)?;
        appsrc.set_is_live(true);
        appsrc.set_block(false);
        appsrc.set_max_buffers(QUEUED_FRAMES);
        appsrc.set_leaky_type(gst_app::AppLeakyType::Downstream);
        bin.add(&appsrc).map_err(|e| internal("adding appsrc", e))?;
        let last = elements::append_encoder(&bin, appsrc.upcast_ref(), plan)?;
        // Parameter sets with each keyframe, so that a client can begin at any of them
        // (<https://www.rfc-editor.org/rfc/rfc6184>, <https://www.rfc-editor.org/rfc/rfc7798>).
        let payloader = plan.codec.payloader();
        let pay = gst::ElementFactory::make(payloader)
            .name("pay0")
            .property("pt", 96u32)
            .property("config-interval", -1i32)
            .property_from_str("aggregate-mode", "zero-latency")
            .build()
            .map_err(|e| internal(payloader, e))?;
        // GStreamer's RTP session fills it in from the buffers' times. It is part of gstreamer1.0-plugins-good.
        match gst_rtp::RTPHeaderExtension::create_from_uri(CAPTURE_TIME_URI) {
            Some(extension) => {
                extension.set_id(CAPTURE_TIME_ID);
                pay.emit_by_name::<()>("add-extension", &[&extension]);
            }
            None => tracing::debug!("no {CAPTURE_TIME_URI}: frames go out without their time of capture"),
        }
        bin.add(&pay).map_err(|e| internal("adding the payloader", e))?;
        last.link(&pay)
            .map_err(|e| internal("linking the payloader", e))?;
        Ok(bin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_s_time_in_the_stream_is_that_of_its_capture() {
        let ms = gst::ClockTime::from_mseconds;
        // The pipeline has run for 700 ms; the clock shows 5 s.
        let at = |captured_ms: u64| stream_time(ms(700), captured_ms * 1_000_000, 5_000_000_000);
        assert_eq!(at(5_000), Some(ms(700)));
        assert_eq!(at(4_960), Some(ms(660)));
        assert_eq!(at(4_300), Some(ms(0)));
        assert_eq!(at(4_299), None, "taken before the stream began");
        // Times of another clock.
        assert_eq!(at(9_000), Some(ms(700)));
        assert_eq!(stream_time(ms(700), 0, 20_000_000_000), Some(ms(700)));
    }
}
