//! Encoded video to RTSP clients: one stream for all of them.
//!
//! The stream reads the encoder only while someone watches. The first client makes gst-rtsp-server build the bin
//! `appsrc ! rtph264pay` (or `rtph265pay`), and it is gone again when the last client has left. Nothing waits for it:
//! where its queue is full it loses units up to the next keyframe, counted.
//!
//! A picture's time in the stream is that of its capture, and its first packet says it in full, as an RTP header
//! extension with a 64-bit NTP time (<https://www.rfc-editor.org/rfc/rfc6051#section-3.3>): a client knows when each
//! picture was taken, in the server's wall clock.

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

use crate::clock::{RealClock, TimeNs};
use crate::encode::elements::{self, internal};
use crate::encode::{AccessUnit, EncodeOptions, Encoder, Membership, Offered, Parameters, Queue, ReaderKind};
use crate::output::access::RtspAccess;
use crate::output::rtsp_server::{Mount, Server};
use crate::output::{Output, OutputOpener, RtspAddress, ServedOutput, StreamOptions, Video};
use vision::error::{Error, Result};

/// Units that wait to be sent at most: about a second.
const QUEUED_UNITS: u64 = 32;
/// While a client still sets up its session: what it gets first is not to be old.
const QUEUED_BEFORE_PLAY: u64 = 2;

/// Clients see that the camera is lost, and a late picture is worth nothing to them.
const READER: ReaderKind = ReaderKind {
    notices: true,
    low_delay: true,
};

/// The RTP header extension that carries a frame's time of capture: a 64-bit NTP time.
pub const CAPTURE_TIME_URI: &str = "urn:ietf:params:rtp-hdrext:ntp-64";
/// Its number in the packets.
const CAPTURE_TIME_ID: u32 = 1;
/// A frame that is older, or younger than now, has no time of the machine's clock.
const OLDEST_NS: TimeNs = 10_000_000_000;

/// Opens an [`RtspOutput`].
#[derive(Debug, Clone)]
pub struct RtspOpener {
    address: RtspAddress,
    encoding: EncodeOptions,
    access: RtspAccess,
}

impl RtspOpener {
    /// An opener for this address.
    pub fn new(address: RtspAddress, options: &StreamOptions) -> Self {
        Self {
            address,
            encoding: options.encoding(),
            access: options.access.clone(),
        }
    }

    /// Chooses a working encoder, and serves the stream: on the server that listens there already, or a new one.
    ///
    /// # Errors
    /// Usage, if the address isn't one of this machine or may not be served like this, the path is taken, or the
    /// encoder's name is wrong; fatal, if the port is in use or no encoder works.
    pub fn serve(&self, video: &Video) -> Result<RtspOutput> {
        elements::init()?;
        for element in [self.encoding.codec.payloader(), "rtpbin", "multiudpsink"] {
            elements::make(element, "gstreamer1.0-plugins-good")?;
        }
        let encoder = video.encoder(&self.encoding)?;
        let stream = Arc::new(Stream {
            encoder,
            live: Mutex::default(),
            clients: AtomicUsize::new(0),
            dropped: AtomicU64::new(0),
            failure: Mutex::default(),
        });
        let server = Server::get(&self.address, &self.access)?;
        let factory = media_factory(&stream, self.address.tls);
        server.mount(&self.address.path, factory, stream.clone())?;
        Ok(RtspOutput {
            address: server.address(&self.address.path),
            stream,
            server: Some(server),
        })
    }
}

impl OutputOpener for RtspOpener {
    fn name(&self) -> String {
        self.address.to_string()
    }

    fn is_live(&self) -> bool {
        true
    }

    fn open(&self, video: &Video) -> Result<Output> {
        Ok(Output::Served(Box::new(self.serve(video)?)))
    }
}

/// What the output and the server's threads share.
struct Stream {
    encoder: Arc<Encoder>,
    live: Mutex<Option<Live>>,
    clients: AtomicUsize,
    /// Units lost by pipelines that are gone.
    dropped: AtomicU64,
    failure: Mutex<Option<Error>>,
}

/// The pipeline that clients watch.
struct Live {
    appsrc: gst_app::AppSrc,
    media: glib::WeakRef<gst_rtsp_server::RTSPMedia>,
    membership: Membership,
}

impl Stream {
    fn live(&self) -> MutexGuard<'_, Option<Live>> {
        // Its holders only look, or replace the value.
        self.live.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn failure(&self) -> MutexGuard<'_, Option<Error>> {
        self.failure.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Leaves the encoder, without the lock: that may have to wait for the encoder's thread, which comes here.
    fn leave(&self, live: Option<Live>) {
        if let Some(live) = live {
            self.dropped
                .fetch_add(live.membership.dropped(), Ordering::Relaxed);
        }
    }
}

impl Mount for Stream {
    fn play(&self) {
        self.encoder.request_keyframe();
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

/// The queue of the pipeline that clients watch.
struct ToClients {
    appsrc: gst_app::AppSrc,
    stream: Arc<Stream>,
    last_pts: Mutex<gst::ClockTime>,
}

impl ToClients {
    fn is_watched(&self) -> bool {
        self.stream.clients.load(Ordering::Relaxed) > 0
    }

    fn buffer(&self, unit: &AccessUnit, now: gst::ClockTime) -> Option<gst::Buffer> {
        let mut pts = stream_time(now, unit.captured_at_ns, RealClock::now())?;
        let mut last = self.last_pts.lock().unwrap_or_else(|e| e.into_inner());
        // A notice that the camera is away may have gone out after the camera took its next picture.
        if (pts..=now).contains(&*last) {
            pts = *last + gst::ClockTime::MSECOND;
        }
        *last = pts;
        Some(elements::unit_buffer(unit, pts))
    }
}

impl Queue for ToClients {
    fn offer(&self, unit: &AccessUnit) -> Offered {
        // None until the pipeline plays.
        let Some(now) = running_time(&self.appsrc) else {
            return Offered::NotYet;
        };
        let level = self.appsrc.current_level_buffers();
        if self.is_watched() {
            if level >= QUEUED_UNITS {
                return Offered::Full;
            }
        } else if level >= QUEUED_BEFORE_PLAY {
            return Offered::NotYet;
        }
        let Some(buffer) = self.buffer(unit, now) else {
            return Offered::NotYet;
        };
        match self.appsrc.push_buffer(buffer) {
            Ok(_) => Offered::Taken,
            // The last client has just left.
            Err(gst::FlowError::Flushing | gst::FlowError::Eos) => Offered::NotYet,
            Err(e) => {
                self.stream
                    .failure()
                    .get_or_insert_with(|| Error::transient("the RTSP pipeline takes no video").caused_by(e));
                Offered::Gone
            }
        }
    }

    fn has_room(&self) -> bool {
        let level = self.appsrc.current_level_buffers();
        let room = match self.is_watched() {
            true => level < QUEUED_UNITS / 2,
            // One that is needed to tell the first client what it will get.
            false => level == 0,
        };
        room && running_time(&self.appsrc).is_some()
    }
}

/// A stream of an RTSP server.
pub struct RtspOutput {
    address: RtspAddress,
    stream: Arc<Stream>,
    server: Option<Arc<Server>>,
}

impl RtspOutput {
    /// The address that clients open, with the port that was really bound.
    pub fn address(&self) -> &RtspAddress {
        &self.address
    }

    /// Disconnects those who watch; the last stream of a server frees its port and ends its thread.
    fn shutdown(&mut self) {
        if let Some(server) = self.server.take() {
            server.unmount(&self.address.path);
            let live = self.stream.live().take();
            self.stream.leave(live);
        }
    }
}

impl ServedOutput for RtspOutput {
    fn describe(&self) -> String {
        self.stream.encoder.describe(&self.address)
    }

    fn check(&self) -> Result<()> {
        let failure = self.stream.failure().take();
        match failure.or_else(|| self.stream.encoder.failure()) {
            Some(why) => Err(why),
            None => Ok(()),
        }
    }

    fn dropped(&self) -> u64 {
        let now = self.stream.live().as_ref().map_or(0, |l| l.membership.dropped());
        self.stream.dropped.load(Ordering::Relaxed) + now
    }

    fn clients(&self) -> usize {
        self.stream.clients.load(Ordering::Relaxed)
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.shutdown();
        Ok(())
    }
}

impl Drop for RtspOutput {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// The factory that builds the pipeline for the first client and shares it with the others.
fn media_factory(stream: &Arc<Stream>, tls: bool) -> factory::Factory {
    let factory = factory::Factory::new(stream.encoder.parameters());
    factory.set_shared(true);
    // RTP over UDP would be in clear: over TLS there is only its own connection, and whoever asks for UDP is answered 461.
    factory.set_protocols(match tls {
        true => gst_rtsp::RTSPLowerTrans::TCP,
        false => gst_rtsp::RTSPLowerTrans::UDP | gst_rtsp::RTSPLowerTrans::TCP,
    });
    let stream = stream.clone();
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
        let queue = Box::new(ToClients {
            appsrc: appsrc.clone(),
            stream: stream.clone(),
            last_pts: Mutex::new(gst::ClockTime::ZERO),
        });
        // Its failure is the output's.
        let attached = stream.encoder.attach("RTSP", READER, queue);
        let membership = match attached {
            Ok(membership) => membership,
            Err(why) => {
                tracing::error!("RTSP clients get no video: {why}");
                *stream.failure() = Some(why);
                return;
            }
        };
        let before = stream.live().replace(Live {
            appsrc: appsrc.clone(),
            media: media.downgrade(),
            membership,
        });
        stream.leave(before);
        let unprepared = stream.clone();
        media.connect_unprepared(move |_| {
            let left = {
                let mut live = unprepared.live();
                // A new pipeline may stand there already.
                live.take_if(|live| live.appsrc == appsrc)
            };
            unprepared.leave(left);
        });
        // The server reads the bus itself; a synchronous look takes nothing from it.
        if let Some(bus) = bin.parent().and_downcast::<gst::Pipeline>().and_then(|p| p.bus()) {
            let (failed, ours) = (stream.clone(), bin.downgrade());
            bus.enable_sync_message_emission();
            bus.connect_sync_message(Some("error"), move |_, message| {
                if let (gst::MessageView::Error(e), Some(bin)) = (message.view(), ours.upgrade())
                    && message.src().is_some_and(|src| src.has_as_ancestor(&bin))
                {
                    let why = elements::message_text(e);
                    *failed.failure() = Some(Error::transient("the RTSP pipeline failed").caused_by(why));
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

/// A media factory that builds its bin for the units of an encoder, element by element.
mod factory {
    use std::sync::OnceLock;

    use gstreamer_rtsp_server::subclass::prelude::*;

    use super::*;

    #[derive(Default)]
    pub struct Imp {
        parameters: OnceLock<Parameters>,
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
            match build(self.parameters.get()?) {
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
        pub fn new(parameters: Parameters) -> Self {
            let factory: Self = glib::Object::new();
            // A new object's are empty.
            let _ = factory.imp().parameters.set(parameters);
            factory
        }
    }

    fn build(parameters: &Parameters) -> Result<gst::Bin> {
        let bin = gst::Bin::new();
        let appsrc = elements::make_unit_appsrc(parameters)?;
        appsrc.set_is_live(true);
        appsrc.set_block(false);
        // How many may wait is decided where units are offered.
        appsrc.set_max_buffers(0);
        bin.add(&appsrc).map_err(|e| internal("adding appsrc", e))?;
        // Parameter sets with each keyframe, so that a client can begin at any of them
        // (<https://www.rfc-editor.org/rfc/rfc6184>, <https://www.rfc-editor.org/rfc/rfc7798>).
        let payloader = parameters.codec.payloader();
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
        appsrc
            .link(&pay)
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
