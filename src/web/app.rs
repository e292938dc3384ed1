//! What all handlers share.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use arc_swap::ArcSwap;
use axum::Extension;
use axum::extract::FromRef;
use axum::http::StatusCode;

use tokio_rustls::TlsAcceptor;

use super::attempts::Attempts;
use super::history::History;
use super::mjpeg::Pictures;
use super::sessions::Sessions;
use super::tls::Tls;
#[cfg(feature = "gstreamer")]
use super::webrtc::Hub;
use crate::config::{LineLayer, Origin, ZoneLayer, may_listen};
use crate::health::{Health, Watched};
use crate::metrics::Metrics;
use crate::output::access::RtspAccess;
use vision::error::Result;

/// The rules on who may watch, and those who watch over HTTP now. A reload changes the rules.
pub struct Gate {
    rules: ArcSwap<RtspAccess>,
    tls: Tls,
    /// Where HTTP listens, if it does.
    address: OnceLock<SocketAddr>,
    #[cfg(feature = "gstreamer")]
    webrtc: OnceLock<Arc<Hub>>,
    viewers: AtomicU32,
}

impl Gate {
    /// A gate with these rules.
    pub fn new(rules: RtspAccess) -> Arc<Self> {
        Arc::new(Self {
            rules: ArcSwap::from_pointee(rules),
            tls: Tls::default(),
            address: OnceLock::new(),
            #[cfg(feature = "gstreamer")]
            webrtc: OnceLock::new(),
            viewers: AtomicU32::new(0),
        })
    }

    /// HTTP is served at this address from now on.
    ///
    /// # Errors
    /// Usage, if the certificate's files are wrong.
    pub(super) fn open(&self, address: SocketAddr) -> Result<()> {
        self.tls.set(self.rules.load().tls.as_ref())?;
        let _ = self.address.set(address);
        Ok(())
    }

    /// Replaces the rules; those who watch go on.
    ///
    /// # Errors
    /// Usage, and nothing is changed, if HTTP may not be served by these rules where it is, or the certificate's files are
    /// wrong.
    pub fn set_rules(&self, rules: RtspAccess) -> Result<()> {
        if let Some(address) = self.address.get() {
            may_listen(address, &rules)?;
            self.tls.set(rules.tls.as_ref())?;
        }
        self.rules.store(Arc::new(rules));
        Ok(())
    }

    /// WebRTC is served from now on.
    #[cfg(feature = "gstreamer")]
    pub(super) fn set_webrtc(&self, hub: Hub) {
        let _ = self.webrtc.set(Arc::new(hub));
    }

    /// WebRTC, if it is served.
    #[cfg(feature = "gstreamer")]
    pub(super) fn webrtc(&self) -> Option<Arc<Hub>> {
        self.webrtc.get().cloned()
    }

    /// What makes a connection one over TLS, if there is a certificate.
    pub(super) fn acceptor(&self) -> Option<TlsAcceptor> {
        self.tls.acceptor()
    }

    /// Reads the certificate again if it has changed; called every now and then.
    pub(super) fn renew_certificate(&self) {
        self.tls.renew(Instant::now());
    }

    /// The name of a session's cookie: a browser sends a machine's cookies to all its ports.
    pub(super) fn cookie(&self) -> String {
        format!("segd-{}", self.address.get().map_or(0, SocketAddr::port))
    }

    /// The rules in force.
    pub fn rules(&self) -> Arc<RtspAccess> {
        self.rules.load_full()
    }

    /// A viewer's place at a stream of `camera`.
    ///
    /// # Errors
    /// 503 if `max_clients` watch already.
    pub(super) fn admit(
        self: &Arc<Self>,
        camera: &Watched,
    ) -> std::result::Result<Ticket, (StatusCode, String)> {
        self.take_place()?;
        camera.metrics.vitals.viewers.fetch_add(1, Relaxed);
        Ok(Ticket {
            gate: self.clone(),
            metrics: Some(camera.metrics.clone()),
        })
    }

    /// The place of one who reads what is seen or what happens, and watches no camera's pictures.
    ///
    /// # Errors
    /// 503 if `max_clients` watch or read already.
    pub(super) fn admit_reader(self: &Arc<Self>) -> std::result::Result<Ticket, (StatusCode, String)> {
        self.take_place()?;
        Ok(Ticket {
            gate: self.clone(),
            metrics: None,
        })
    }

    fn take_place(&self) -> std::result::Result<(), (StatusCode, String)> {
        let max = self.rules.load().max_clients;
        let one_more = |now: u32| (now < max).then_some(now + 1);
        match self.viewers.fetch_update(Relaxed, Relaxed, one_more) {
            Ok(_) => Ok(()),
            Err(_) => {
                let full = format!("{max} viewers watch already (access.max_clients)\n");
                Err((StatusCode::SERVICE_UNAVAILABLE, full))
            }
        }
    }
}

/// A viewer's place, left when dropped.
pub(super) struct Ticket {
    gate: Arc<Gate>,
    /// Of the camera that is watched, if one is.
    metrics: Option<Arc<Metrics>>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.gate.viewers.fetch_sub(1, Relaxed);
        if let Some(metrics) = &self.metrics {
            metrics.vitals.viewers.fetch_sub(1, Relaxed);
        }
    }
}

/// The connection that a request came by.
#[derive(Debug, Clone, Default)]
pub(super) struct Connection {
    /// Who is at the other end.
    pub(super) peer: Option<SocketAddr>,
    /// The address of this machine that it came to.
    #[cfg_attr(not(feature = "gstreamer"), expect(dead_code, reason = "only WebRTC asks"))]
    pub(super) local: Option<SocketAddr>,
    /// Whether nobody reads along.
    pub(super) is_tls: bool,
    /// Whether this is to be asked for over TLS instead.
    pub(super) wants_tls: bool,
    /// Whether it carries a stream that counts as a viewer: it then keeps its place when others crowd in.
    streams: Arc<AtomicBool>,
}

impl Connection {
    /// One from `peer`, which came to `local`.
    pub(super) fn between(peer: SocketAddr, local: Option<SocketAddr>) -> Self {
        Self {
            peer: Some(peer),
            local,
            ..Self::default()
        }
    }

    /// It carries a viewer's stream from now on.
    pub(super) fn keep(&self) {
        self.streams.store(true, Relaxed);
    }

    /// Whether it carries a viewer's stream.
    pub(super) fn is_kept(&self) -> bool {
        self.streams.load(Relaxed)
    }
}

/// A request's connection; one that is kept by nobody where there is none, as in a test of the router alone.
pub(super) type OfConnection = Option<Extension<Connection>>;

/// Changes what runs, where a handler can't by itself.
pub trait Changer: Send + Sync {
    /// Watches these zones and lines in the pictures of `camera` from the next one on, in place of its own.
    ///
    /// # Errors
    /// Usage, in the words of `check-config`, and nothing is changed; transient while the configuration is being read again.
    fn set_watch(&self, camera: &str, zones: &[ZoneLayer], lines: &[LineLayer]) -> Result<()>;

    /// Begins to load a model beside the one that runs for `camera`, which it replaces once it is ready.
    ///
    /// # Errors
    /// Usage if there is no such model; transient while one is being loaded, or the configuration is being read again; fatal if
    /// a thread can't be started.
    fn load_model(&self, camera: &str, model: &str) -> Result<()>;

    /// What has become of that.
    fn models(&self, camera: &str) -> Models;
}

/// What is known of the models that were asked for over HTTP.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Models {
    /// The model that runs because it was asked for; `None` if the configuration's does.
    pub chosen: Option<String>,
    /// The model that is being loaded.
    pub loading: Option<String>,
    /// The model that could not be loaded last, and why.
    pub failed: Option<(String, String)>,
}

/// What all handlers share.
#[derive(Clone)]
pub struct App {
    health: Health,
    pub(super) gate: Arc<Gate>,
    pictures: Arc<Pictures>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) attempts: Arc<Attempts>,
    origin: Option<Arc<Origin>>,
    changer: Option<Arc<dyn Changer>>,
    history: Arc<History>,
}

impl App {
    /// For these pipelines, behind this gate.
    pub fn new(health: Health, gate: Arc<Gate>) -> Self {
        let pictures = Pictures::new(health.cameras().len());
        Self {
            health,
            gate,
            pictures: Arc::new(pictures),
            sessions: Arc::default(),
            attempts: Arc::default(),
            origin: None,
            changer: None,
            history: Arc::default(),
        }
    }

    /// With the configuration that segd runs with, which can be shown and changed then.
    #[must_use]
    pub fn with_origin(mut self, origin: Origin) -> Self {
        self.origin = Some(Arc::new(origin));
        self
    }

    /// With someone who changes what runs.
    #[must_use]
    pub fn with_changer(mut self, changer: Arc<dyn Changer>) -> Self {
        self.changer = Some(changer);
        self
    }

    /// Who changes what runs.
    ///
    /// # Errors
    /// 409 where nothing can be changed.
    pub(super) fn changer(&self) -> std::result::Result<Arc<dyn Changer>, (StatusCode, &'static str)> {
        self.changer
            .clone()
            .ok_or((StatusCode::CONFLICT, "nothing can be changed here\n"))
    }

    /// Work beside the answers, for ever.
    pub(super) fn beside(&self) -> impl Future<Output = ()> + Send + use<> {
        self.history.clone().run(self.health.clone())
    }

    /// The configuration that segd runs with.
    pub(super) fn origin(&self) -> Option<Arc<Origin>> {
        self.origin.clone()
    }

    /// The camera of this name, and its number.
    #[cfg(feature = "gstreamer")]
    pub(super) fn camera(&self, name: &str) -> Option<(usize, &Watched)> {
        self.health
            .cameras()
            .iter()
            .enumerate()
            .find(|(_, camera)| camera.name == name)
    }
}

impl FromRef<App> for Health {
    fn from_ref(app: &App) -> Self {
        app.health.clone()
    }
}

impl FromRef<App> for Arc<Gate> {
    fn from_ref(app: &App) -> Self {
        app.gate.clone()
    }
}

impl FromRef<App> for Arc<History> {
    fn from_ref(app: &App) -> Self {
        app.history.clone()
    }
}

impl FromRef<App> for Arc<Pictures> {
    fn from_ref(app: &App) -> Self {
        app.pictures.clone()
    }
}
