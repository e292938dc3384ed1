//! What systemd is told: READY, STATUS, WATCHDOG, STOPPING, RELOADING
//! (<https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html>). Without systemd nothing is sent.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tracing::{debug, info, warn};

use super::{Health, Watched};
use crate::supervise::Ticker;
use vision::error::Result;

/// From one look to the next.
const PERIOD: Duration = Duration::from_secs(1);

/// From one status text to the next.
const STATUS_PERIOD: Duration = Duration::from_secs(5);

/// Without a watchdog of systemd's, `/livez` goes by one of this patience.
const WATCHDOG: Duration = Duration::from_secs(30);

/// An inference that runs for longer hangs: the watchdog is no longer fed.
const INFERENCE_HANGS: Duration = Duration::from_secs(20);

fn tell(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        debug!("systemd is not told: {e}");
    }
}

/// The service is stopping.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

/// Longest that a network may take until it is ready to run: TensorRT's first engine takes minutes on a board.
const LONGEST_PREPARATION: Duration = Duration::from_secs(30 * 60);

/// From one word to the next while it is prepared, and how long systemd waits for the next one.
const PREPARATION_PERIOD: Duration = Duration::from_secs(10);
const PREPARATION_PATIENCE_US: u32 = 60_000_000;

/// Keeps systemd waiting for READY while networks are prepared, until it is dropped, for half an hour at most.
///
/// # Errors
/// Fatal if the system can't start another thread.
pub fn preparing() -> Result<Ticker> {
    let began = Instant::now();
    Ticker::start("preparing", PREPARATION_PERIOD, move || {
        let Some(text) = preparation_status(began.elapsed()) else {
            return;
        };
        tell(&[
            NotifyState::ExtendTimeoutUsec(PREPARATION_PATIENCE_US),
            NotifyState::Status(&text),
        ]);
    })
}

/// What the status says after so long; `None` once it is too long.
fn preparation_status(elapsed: Duration) -> Option<String> {
    (elapsed < LONGEST_PREPARATION).then(|| {
        format!(
            "preparing the network for {} s (TensorRT builds an engine once)",
            elapsed.as_secs()
        )
    })
}

/// The configuration is being read again; end with [`reloaded`].
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(e) => debug!("no monotonic time: {e}"),
    }
}

/// The configuration was read again, with this outcome.
pub fn reloaded(outcome: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(outcome)]);
}

/// The counters of one pipeline when last looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Steps {
    capture: u64,
    compose: u64,
    captured: u64,
    out: u64,
}

impl Steps {
    /// The counters now.
    pub fn of(camera: &Watched) -> Self {
        let metrics = &camera.metrics;
        let vitals = &metrics.vitals;
        Self {
            capture: vitals.capture_steps.load(Relaxed),
            compose: vitals.compose_steps.load(Relaxed),
            captured: metrics.captured.load(Relaxed),
            out: metrics.composed.load(Relaxed)
                + metrics.dropped_compose.load(Relaxed)
                + vitals.notices.load(Relaxed),
        }
    }

    /// Whether the pipeline has moved since `before`: its source was read or tried, and what was captured went
    /// out. A missing camera is no hang; a restart would not bring it back.
    pub fn moved_since(&self, before: &Self) -> bool {
        let captured = self.captured > before.captured;
        self.capture > before.capture && self.compose > before.compose && (!captured || self.out > before.out)
    }
}

/// Whether each pipeline has moved within the last half of the watchdog's time.
struct Pulse {
    patience: Duration,
    seen: Vec<(Steps, Instant)>,
}

impl Pulse {
    fn new(health: &Health, watchdog: Duration, now: Instant) -> Self {
        Self {
            patience: watchdog / 2,
            seen: health.cameras().iter().map(|c| (Steps::of(c), now)).collect(),
        }
    }

    fn beats(&mut self, health: &Health, now: Instant) -> bool {
        let mut all = true;
        for (camera, (before, at)) in health.cameras().iter().zip(&mut self.seen) {
            if camera.metrics.vitals.failed().is_some() {
                // A restart would end those that go on.
                continue;
            }
            let steps = Steps::of(camera);
            if steps.moved_since(before) {
                (*before, *at) = (steps, now);
            }
            let hangs = camera.observe().inferring.is_some_and(|t| t > INFERENCE_HANGS);
            if now.duration_since(*at) > self.patience || hangs {
                warn!(camera = camera.name, "no sign of life: the watchdog is not fed");
                all = false;
            }
        }
        all
    }
}

/// One line of figures since `before`.
fn status(health: &Health, composed_before: &mut Vec<u64>, seconds: f64) -> String {
    composed_before.resize(health.cameras().len(), 0);
    let lines: Vec<String> = health
        .cameras()
        .iter()
        .zip(composed_before.iter_mut())
        .map(|(camera, before)| {
            let composed = camera.metrics.composed.load(Relaxed);
            let fps = composed.saturating_sub(*before) as f64 / seconds;
            *before = composed;
            let seen = camera.observe();
            let mask = match (&seen.source_lost, seen.mask_age) {
                _ if seen.failed.is_some() => "failed".to_owned(),
                (Some(_), _) => format!("source lost for {} s", seen.silent.as_secs()),
                (None, Some(age)) => format!("mask age {} ms", age.as_millis()),
                (None, None) => "no mask".to_owned(),
            };
            let clients = camera.metrics.vitals.watching();
            let name = if health.cameras().len() > 1 {
                format!("{}: ", camera.name)
            } else {
                String::new()
            };
            format!("{name}{fps:.1} fps, {mask}, {clients} clients")
        })
        .collect();
    lines.join("; ")
}

/// Tells systemd how it goes, until dropped.
///
/// # Errors
/// If the thread can't be started.
pub fn start(health: Health) -> Result<Ticker> {
    let watchdog = sd_notify::watchdog_enabled();
    let began = Instant::now();
    let mut ready = false;
    let mut pulse: Option<Pulse> = None;
    let mut composed = Vec::new();
    let mut last_status = began;
    let period = watchdog.map_or(PERIOD, |w| PERIOD.min(w / 4));
    Ticker::start("notify", period, move || {
        let now = Instant::now();
        if !ready && health.has_begun() {
            ready = true;
            tell(&[NotifyState::Ready]);
            info!(after_s = began.elapsed().as_secs_f64(), "ready");
            pulse = Some(Pulse::new(&health, watchdog.unwrap_or(WATCHDOG), now));
        }
        // What takes long before the first picture is a preparation.
        if pulse.as_mut().is_none_or(|pulse| pulse.beats(&health, now)) {
            health.pulse.beat(now);
            if ready && watchdog.is_some() {
                tell(&[NotifyState::Watchdog]);
            }
        }
        let since = now.duration_since(last_status);
        if ready && since >= STATUS_PERIOD {
            last_status = now;
            tell(&[NotifyState::Status(&status(
                &health,
                &mut composed,
                since.as_secs_f64(),
            ))]);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preparation_is_not_waited_for_without_end() {
        let said = preparation_status(Duration::from_secs(95)).unwrap();
        assert!(said.contains("for 95 s"), "{said}");
        assert_eq!(preparation_status(LONGEST_PREPARATION), None);
    }
    use crate::health::tests::watched;

    #[test]
    fn the_watchdog_is_fed_only_while_things_move() {
        let camera = watched("a");
        let health = Health::new(vec![(*camera).clone()]);
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut pulse = Pulse::new(&health, Duration::from_secs(30), start);
        let vitals = &camera.metrics.vitals;
        let step = |frames: u64, out: u64| {
            vitals.capture_steps.fetch_add(1, Relaxed);
            vitals.compose_steps.fetch_add(1, Relaxed);
            camera.metrics.captured.fetch_add(frames, Relaxed);
            camera.metrics.composed.fetch_add(out, Relaxed);
        };
        step(30, 30);
        assert!(pulse.beats(&health, at(1)));
        // Nothing moves.
        assert!(pulse.beats(&health, at(15)));
        assert!(!pulse.beats(&health, at(17)));
        // The camera is away: it is tried, and compose waits for it.
        step(0, 0);
        assert!(pulse.beats(&health, at(18)));
        // Frames are captured and none goes out.
        step(300, 0);
        assert!(!pulse.beats(&health, at(34)));
        step(300, 300);
        assert!(pulse.beats(&health, at(35)));
        // An inference hangs while frames go on.
        let now = camera.clock.now_ns();
        vitals.infer_began_ns.store(now + 1, Relaxed);
        step(30, 30);
        assert!(pulse.beats(&health, at(36)));
        camera.advance(Duration::from_secs(25));
        step(30, 30);
        assert!(!pulse.beats(&health, at(37)));
        // It has failed: the others go on without it.
        vitals.set_failed("out of memory".into());
        assert!(pulse.beats(&health, at(99)));
    }

    #[test]
    fn the_status_says_what_matters() {
        let camera = watched("a");
        let health = Health::new(vec![(*camera).clone()]);
        camera.metrics.composed.store(100, Relaxed);
        camera.metrics.vitals.captured_at(1);
        camera.metrics.vitals.mask_age_ns.store(90_000_000, Relaxed);
        let mut before = vec![50];
        assert_eq!(
            status(&health, &mut before, 5.0),
            "10.0 fps, mask age 90 ms, 0 clients"
        );
        camera.metrics.vitals.set_source_lost("x".into());
        assert!(status(&health, &mut before, 5.0).starts_with("0.0 fps, source lost for "));
    }
}
