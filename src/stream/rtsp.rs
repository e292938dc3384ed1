//! Frames to RTSP clients, as H.264: one encoder for all of them.
//!
//! The encoder exists only while someone watches. The first client makes gst-rtsp-server build the bin
//! `appsrc ! encoder ! rtph264pay`, and the appsrc is gone again when the last client has left. [`push`]
//! never waits: without a client it drops the frame, and where the encoder is late appsrc drops the oldest
//! of its two frames.
//!
//! [`push`]: FrameSink::push

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_rtsp_server as gst_rtsp_server;
use gstreamer_rtsp_server::gst_rtsp;
use gstreamer_rtsp_server::prelude::*;
use gstreamer_video as gst_video;

use crate::error::{Error, Result};
use crate::frame::{Frame, FrameFormat};
use crate::stream::elements::{self, VideoLayout, internal};
use crate::stream::encoder::{ENCODER_NAME, EncoderPlan};
use crate::stream::{FrameSink, RtspAddress, SinkOpener, StreamOptions};

/// Frames that wait for the encoder at most.
const QUEUED_FRAMES: u64 = 2;

/// Clients at most, so that forgotten viewers can't use up memory and sockets.
const MAX_SESSIONS: u32 = 32;

/// Seconds without a sign of life after which a client's session is closed.
const SESSION_TIMEOUT_S: u32 = 30;

/// How long clients' pipelines may take to stop.
const MEDIA_STOP: Duration = Duration::from_millis(1200);

/// How long the server's thread may take to end.
const JOIN: Duration = Duration::from_millis(1800);

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
    stopping: AtomicBool,
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

    fn has_running_media(&self) -> bool {
        use gst_rtsp_server::RTSPMediaStatus as Status;
        self.live()
            .as_ref()
            .and_then(|live| live.media.upgrade())
            .is_some_and(|media| !matches!(media.status(), Status::Unprepared | Status::Error))
    }
}

/// An RTSP server that shows the pushed frames.
pub struct RtspSink {
    address: RtspAddress,
    encoder: &'static str,
    layout: VideoLayout,
    shared: Arc<Shared>,
    context: glib::MainContext,
    thread: Option<(JoinHandle<()>, Receiver<()>)>,
}

impl RtspSink {
    /// Chooses a working encoder, binds the port and starts the thread `rtsp`.
    ///
    /// # Errors
    /// Usage, if the address isn't one of this machine or the encoder's name is wrong; fatal, if the port is
    /// in use or no encoder works.
    pub fn open(
        address: &RtspAddress,
        options: &StreamOptions,
        format: FrameFormat,
        frame_rate: Option<f64>,
    ) -> Result<Self> {
        let layout = VideoLayout::new(format, frame_rate)?;
        for element in ["rtph264pay", "rtpbin", "multiudpsink"] {
            elements::make(element, "gstreamer1.0-plugins-good")?;
        }
        let plan = elements::working_encoder(&layout, frame_rate, options)?;
        let shared = Arc::new(Shared::default());
        let context = glib::MainContext::new();

        let server = gst_rtsp_server::RTSPServer::new();
        server.set_address(&address.host);
        server.set_service(&address.port.to_string());
        let mounts = server
            .mount_points()
            .ok_or_else(|| Error::fatal("GStreamer: an RTSP server without mount points"))?;
        mounts.add_factory(&address.path, media_factory(&layout, &plan, &shared));
        let sessions = server
            .session_pool()
            .ok_or_else(|| Error::fatal("GStreamer: an RTSP server without sessions"))?;
        sessions.set_max_sessions(MAX_SESSIONS);
        watch_clients(&server, &sessions, &shared, &context);

        let source = server
            .create_source(gst_rtsp_server::gio::Cancellable::NONE)
            .map_err(|e| bind_error(address, e))?;
        source.attach(Some(&context));
        let mut address = address.clone();
        // Port 0 asks for any free one.
        address.port = u16::try_from(server.bound_port()).unwrap_or(address.port);
        let cleaning = sessions.clone();
        let cleaner = glib::timeout_source_new_seconds(5, None, glib::Priority::DEFAULT, move || {
            cleaning.cleanup();
            glib::ControlFlow::Continue
        });
        cleaner.attach(Some(&context));

        let (ended_tx, ended) = bounded::<()>(0);
        let (thread_shared, thread_context) = (shared.clone(), context.clone());
        let thread = std::thread::Builder::new()
            .name("rtsp".into())
            .spawn(move || {
                // Dropped when the thread ends: the receiver sees that.
                let _ended = ended_tx;
                serve(&thread_context, &server, &thread_shared, &[source, cleaner]);
            })
            .map_err(|e| Error::transient("the thread rtsp can't be started").caused_by(e))?;
        if !address.is_loopback() {
            tracing::warn!(
                url = %address,
                "the video can be watched by everyone who reaches this address: there is no password"
            );
        }
        Ok(Self {
            address,
            encoder: plan.encoder,
            layout,
            shared,
            context,
            thread: Some((thread, ended)),
        })
    }

    /// The address that clients open, with the port that was really bound.
    pub fn address(&self) -> &RtspAddress {
        &self.address
    }

    /// Disconnects the clients, frees the port and ends the thread.
    fn shutdown(&mut self) -> Result<()> {
        let Some((thread, ended)) = self.thread.take() else {
            return Ok(());
        };
        self.shared.stopping.store(true, Ordering::Release);
        self.context.wakeup();
        match ended.recv_timeout(JOIN) {
            Err(RecvTimeoutError::Timeout) => Err(Error::fatal(format!(
                "the thread rtsp did not end within {} ms",
                JOIN.as_millis()
            ))),
            _ => thread
                .join()
                .map_err(|_| Error::fatal("the thread rtsp ended with a panic")),
        }
    }
}

impl FrameSink for RtspSink {
    fn describe(&self) -> String {
        format!("{} (H.264 by {})", self.address, self.encoder)
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
        let buffer = self.layout.buffer(frame.data, now)?;
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
        self.shutdown()
    }
}

impl Drop for RtspSink {
    fn drop(&mut self) {
        if let Err(e) = self.shutdown() {
            tracing::error!("{e}");
        }
    }
}

/// The server thread: serves until told to stop, then sends the clients away and waits for their pipeline.
fn serve(
    context: &glib::MainContext,
    server: &gst_rtsp_server::RTSPServer,
    shared: &Shared,
    sources: &[glib::Source],
) {
    let run = context.with_thread_default(|| {
        while !shared.stopping.load(Ordering::Acquire) {
            context.iteration(true);
        }
        for source in sources {
            source.destroy();
        }
        server.client_filter(Some(&mut |_, _| gst_rtsp_server::RTSPFilterResult::Remove));
        if let Some(sessions) = server.session_pool() {
            sessions.filter(Some(&mut |_, _| gst_rtsp_server::RTSPFilterResult::Remove));
        }
        let deadline = Instant::now() + MEDIA_STOP;
        while (shared.has_running_media() || context.pending()) && Instant::now() < deadline {
            if !context.iteration(false) {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    });
    if let Err(e) = run {
        tracing::error!("the RTSP server's main context is not ours: {e}");
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

/// Counts the clients that watch, gives each a keyframe, and closes the sessions of those that went away.
fn watch_clients(
    server: &gst_rtsp_server::RTSPServer,
    sessions: &gst_rtsp_server::RTSPSessionPool,
    shared: &Arc<Shared>,
    context: &glib::MainContext,
) {
    let (shared, sessions, context) = (shared.clone(), sessions.clone(), context.clone());
    server.connect_client_connected(move |_, client| {
        let playing = Arc::new(AtomicBool::new(false));
        let (play, on_play) = (playing.clone(), shared.clone());
        client.connect_play_request(move |_, _| {
            if !play.swap(true, Ordering::Relaxed) {
                on_play.clients.fetch_add(1, Ordering::Relaxed);
            }
            on_play.force_keyframe();
        });
        let stopped = {
            let shared = shared.clone();
            Arc::new(move || {
                if playing.swap(false, Ordering::Relaxed) {
                    shared.clients.fetch_sub(1, Ordering::Relaxed);
                }
            })
        };
        let (on_pause, on_teardown, on_close) = (stopped.clone(), stopped.clone(), stopped);
        client.connect_pause_request(move |_, _| on_pause());
        client.connect_teardown_request(move |_, _| on_teardown());

        let own_sessions = Arc::new(Mutex::new(
            Vec::<glib::WeakRef<gst_rtsp_server::RTSPSession>>::new(),
        ));
        let opened = own_sessions.clone();
        client.connect_new_session(move |_, session| {
            session.set_timeout(SESSION_TIMEOUT_S);
            opened
                .lock()
                .unwrap_or_else(|e| e.into_inner())
                .push(session.downgrade());
        });
        let (sessions, context) = (sessions.clone(), context.clone());
        client.connect_closed(move |_| {
            on_close();
            // A UDP client that was killed: without this its video would go on until the session's timeout.
            // Removed by the server's thread, not inside the client's own signal.
            let left = std::mem::take(&mut *own_sessions.lock().unwrap_or_else(|e| e.into_inner()));
            let sessions = sessions.clone();
            context.invoke(move || {
                for session in left.iter().filter_map(glib::WeakRef::upgrade) {
                    // It may be gone already.
                    let _ = sessions.remove(&session);
                }
            });
        });
    });
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

/// Why the address can't be bound, and what to do.
fn bind_error(address: &RtspAddress, e: glib::Error) -> Error {
    use gst_rtsp_server::gio::IOErrorEnum;
    let (host, port) = (&address.host, address.port);
    let error = if e.matches(IOErrorEnum::AddressInUse) {
        Error::fatal(format!(
            "{address}: port {port} of {host} is in use by another program"
        ))
        .hint("stop that program (`ss -ltnp` names it) or choose another port")
    } else if e.matches(IOErrorEnum::PermissionDenied) {
        Error::fatal(format!("{address}: port {port} may not be opened"))
            .hint("choose a port above 1023, or give the program CAP_NET_BIND_SERVICE")
    } else if host.parse::<IpAddr>().is_ok() {
        Error::usage(format!("{address}: {host} is not an address of this machine"))
            .hint("use one that `ip address` lists, 127.0.0.1 for this machine alone, or 0.0.0.0 for all")
    } else {
        Error::usage(format!("{address}: {host} can't be listened on"))
            .hint("use an IP address, such as 127.0.0.1 for this machine alone, or 0.0.0.0 for all")
    };
    error.caused_by(e)
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
        // (<https://www.rfc-editor.org/rfc/rfc6184>).
        let pay = gst::ElementFactory::make("rtph264pay")
            .name("pay0")
            .property("pt", 96u32)
            .property("config-interval", -1i32)
            .property_from_str("aggregate-mode", "zero-latency")
            .build()
            .map_err(|e| internal("rtph264pay", e))?;
        bin.add(&pay).map_err(|e| internal("adding rtph264pay", e))?;
        last.link(&pay).map_err(|e| internal("linking rtph264pay", e))?;
        Ok(bin)
    }
}
