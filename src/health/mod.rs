//! Seen from outside: is it well, and how does it do; and what systemd is told of it. [`web`](crate::web) says it over HTTP.

mod judge;
pub mod notify;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::clock::SharedClock;
use crate::events::EventDesk;
use crate::metrics::{Metrics, Vitals};
use crate::pipeline::control::Control;

pub use judge::{Limits, Observed, Trouble, judge};

/// One pipeline, as seen from outside.
#[derive(Clone)]
pub struct Watched {
    /// The camera's name.
    pub name: String,
    /// Its counters and signs of life.
    pub metrics: Arc<Metrics>,
    /// Its clock.
    pub clock: SharedClock,
    /// Where to ask for its pictures.
    pub control: Arc<Control>,
    /// What counts as unwell.
    pub limits: Limits,
    /// When it was made, on its clock.
    pub began_ns: u64,
}

/// All pipelines of the process.
#[derive(Clone)]
pub struct Health {
    cameras: Arc<Vec<Watched>>,
    /// Configurations taken and refused since the start.
    pub reloads: Arc<Reloads>,
    /// When all pipelines last showed a sign of life.
    pub pulse: Arc<LastBeat>,
    events: Option<Arc<EventDesk>>,
}

/// What became of reloads.
#[derive(Debug, Default)]
pub struct Reloads {
    /// Taken.
    pub taken: AtomicU64,
    /// Refused: nothing was changed.
    pub refused: AtomicU64,
}

/// Without a beat for so long, a process hangs.
const LIFE: Duration = Duration::from_secs(15);

/// When all pipelines last moved. [`notify`] looks each second and is patient by itself; one that does not look
/// any more hangs as well.
#[derive(Debug)]
pub struct LastBeat(Mutex<Instant>);

impl Default for LastBeat {
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl LastBeat {
    /// They move, or have moved a short while ago.
    pub fn beat(&self, now: Instant) {
        *self.0.lock().unwrap_or_else(|e| e.into_inner()) = now;
    }

    /// For how long nothing has moved; `None` while that is no time to speak of.
    pub fn stopped(&self, now: Instant) -> Option<Duration> {
        let last = *self.0.lock().unwrap_or_else(|e| e.into_inner());
        Some(now.saturating_duration_since(last)).filter(|since| *since > LIFE)
    }
}

impl Watched {
    /// What the signs of life are now.
    pub fn observe(&self) -> Observed {
        let vitals = &self.metrics.vitals;
        let now_ns = self.clock.now_ns();
        let since =
            |at: u64| Duration::from_nanos(now_ns.saturating_sub(if at == 0 { self.began_ns } else { at }));
        let began = vitals.infer_began_ns.load(Relaxed);
        Observed {
            failed: vitals.failed(),
            source_is_live: vitals.source_is_live.load(Relaxed),
            source_lost: vitals.source_lost(),
            has_captured: vitals.last_captured_ns.load(Relaxed) > 0,
            silent: since(vitals.last_captured_ns.load(Relaxed)),
            uncomposed: since(vitals.last_composed_ns.load(Relaxed)),
            mask_age: match vitals.mask_age_ns.load(Relaxed) {
                Vitals::NO_MASK => None,
                ns => Some(Duration::from_nanos(ns)),
            },
            unmasked: since(vitals.last_masked_ns.load(Relaxed)),
            has_composed: self.metrics.composed.load(Relaxed) > 0,
            inferring: (began > 0).then(|| Duration::from_nanos(now_ns.saturating_sub(began))),
            running: Duration::from_nanos(now_ns.saturating_sub(self.began_ns)),
            outputs_down: vitals.outputs_down.load(Relaxed),
            outputs_trouble: vitals.outputs_trouble(),
            provider_change: vitals.provider_change(),
        }
    }

    /// What is wrong with it.
    pub fn troubles(&self) -> Vec<Trouble> {
        judge(&self.observe(), &self.limits)
    }
}

impl Health {
    /// The health of these pipelines.
    pub fn new(cameras: Vec<Watched>) -> Self {
        Self {
            cameras: Arc::new(cameras),
            reloads: Arc::default(),
            pulse: Arc::default(),
            events: None,
        }
    }

    /// The same, with where events go.
    #[must_use]
    pub fn with_events(mut self, desk: Arc<EventDesk>) -> Self {
        self.events = Some(desk);
        self
    }

    /// Where events go.
    pub fn events(&self) -> Option<&Arc<EventDesk>> {
        self.events.as_ref()
    }

    /// The pipelines.
    pub fn cameras(&self) -> &[Watched] {
        &self.cameras
    }

    /// Each camera's troubles, and those of the sinks of events, in one line each.
    pub fn troubles(&self) -> Vec<String> {
        let all = self
            .cameras
            .iter()
            .flat_map(|c| c.troubles().into_iter().map(move |t| format!("{}: {t}", c.name)));
        all.chain(self.events.iter().flat_map(|desk| desk.troubles()))
            .collect()
    }

    /// Whether every pipeline that has not failed has handed a picture to its outputs, a notice that the camera is
    /// missing included.
    pub fn has_begun(&self) -> bool {
        self.cameras.iter().all(|c| {
            let vitals = &c.metrics.vitals;
            c.metrics.composed.load(Relaxed) > 0
                || vitals.notices.load(Relaxed) > 0
                || vitals.failed().is_some()
        })
    }

    /// Whether every pipeline shows its camera's pictures now.
    pub fn is_ready(&self) -> bool {
        self.cameras.iter().all(|c| {
            let seen = c.observe();
            seen.has_composed && seen.source_lost.is_none() && seen.failed.is_none()
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::clock::SimulatedClock;
    use crate::pipeline::control::Looks;
    use vision::overlay::OverlayOptions;
    use vision::scene::ModelInfo;

    /// A pipeline that has done nothing yet, on a clock that stands still.
    pub(crate) struct Fake {
        watched: Watched,
        time: Arc<SimulatedClock>,
    }

    impl std::ops::Deref for Fake {
        type Target = Watched;
        fn deref(&self) -> &Watched {
            &self.watched
        }
    }

    impl From<Fake> for Watched {
        fn from(fake: Fake) -> Self {
            fake.watched
        }
    }

    impl Fake {
        pub(crate) fn advance(&self, by: Duration) {
            self.time.advance(by);
        }
    }

    pub(crate) fn watched(name: &str) -> Fake {
        let time = SimulatedClock::manual();
        let looks = Looks {
            model: Arc::new(ModelInfo {
                name: "made".into(),
                generation: 0,
                classes: Vec::new(),
            }),
            overlay: OverlayOptions::default(),
            colors: Default::default(),
            privacy: None,
        };
        let watched = Watched {
            name: name.into(),
            metrics: Metrics::shared(),
            clock: time.clone(),
            control: Control::new(looks, Duration::ZERO),
            limits: Limits {
                silence: Duration::from_secs(5),
                mask_age: Duration::from_secs(3),
                warm_up: Duration::from_secs(20),
            },
            began_ns: 0,
        };
        Fake { watched, time }
    }
}
