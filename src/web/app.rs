//! What all handlers share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use arc_swap::ArcSwap;
use axum::Extension;
use axum::extract::FromRef;
use axum::http::StatusCode;

use super::mjpeg::Pictures;
use crate::health::{Health, Watched};
use crate::metrics::Metrics;
use crate::output::access::RtspAccess;

/// The rules on who may watch, and those who watch over HTTP now. A reload changes the rules.
#[derive(Debug)]
pub struct Gate {
    rules: ArcSwap<RtspAccess>,
    viewers: AtomicU32,
}

impl Gate {
    /// A gate with these rules.
    pub fn new(rules: RtspAccess) -> Arc<Self> {
        Arc::new(Self {
            rules: ArcSwap::from_pointee(rules),
            viewers: AtomicU32::new(0),
        })
    }

    /// Replaces the rules; those who watch go on.
    pub fn set_rules(&self, rules: RtspAccess) {
        self.rules.store(Arc::new(rules));
    }

    /// The rules in force.
    pub fn rules(&self) -> Arc<RtspAccess> {
        self.rules.load_full()
    }

    /// A viewer's place at a stream of `camera`.
    ///
    /// # Errors
    /// 503 if `max_clients` watch already.
    pub(super) fn admit(self: &Arc<Self>, camera: &Watched) -> Result<Ticket, (StatusCode, String)> {
        let max = self.rules.load().max_clients;
        let one_more = |now: u32| (now < max).then_some(now + 1);
        if self.viewers.fetch_update(Relaxed, Relaxed, one_more).is_err() {
            let full = format!("{max} viewers watch already (access.max_clients)\n");
            return Err((StatusCode::SERVICE_UNAVAILABLE, full));
        }
        camera.metrics.vitals.viewers.fetch_add(1, Relaxed);
        Ok(Ticket {
            gate: self.clone(),
            metrics: camera.metrics.clone(),
        })
    }
}

/// A viewer's place, left when dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    gate: Arc<Gate>,
    metrics: Arc<Metrics>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.gate.viewers.fetch_sub(1, Relaxed);
        self.metrics.vitals.viewers.fetch_sub(1, Relaxed);
    }
}

/// The connection that a request came by.
#[derive(Debug, Clone, Default)]
pub(super) struct Connection {
    /// Whether it carries a stream that counts as a viewer: it then keeps its place when others crowd in.
    streams: Arc<AtomicBool>,
}

impl Connection {
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

/// What all handlers share.
#[derive(Clone)]
pub struct App {
    health: Health,
    gate: Arc<Gate>,
    pictures: Arc<Pictures>,
}

impl App {
    /// For these pipelines, behind this gate.
    pub fn new(health: Health, gate: Arc<Gate>) -> Self {
        let pictures = Pictures::new(health.cameras().len());
        Self {
            health,
            gate,
            pictures: Arc::new(pictures),
        }
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

impl FromRef<App> for Arc<Pictures> {
    fn from_ref(app: &App) -> Self {
        app.pictures.clone()
    }
}
