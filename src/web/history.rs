//! `/history.json`: the figures of the last hour, from a ring in memory.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::HeaderName;
use axum::http::header::CONTENT_TYPE;
use serde_json::{Map, Value, json};
use tokio::time::{MissedTickBehavior, interval};

use crate::health::{Health, Watched};
use crate::metrics::{Vitals, process_cpu_ns, resident_bytes};
use crate::schedule::Reason;

/// From one sample to the next.
const PERIOD: Duration = Duration::from_secs(5);
/// An hour of them; the oldest goes.
const KEPT: usize = 720;

/// What is counted of one camera so far.
#[derive(Debug, Clone, Copy)]
struct Counted {
    composed: u64,
    asked: [u64; Reason::ALL.len()],
}

impl Counted {
    fn of(camera: &Watched) -> Self {
        let mut asked = [0; Reason::ALL.len()];
        for (count, counter) in asked.iter_mut().zip(&camera.metrics.asked) {
            *count = counter.load(Relaxed);
        }
        Self {
            composed: camera.metrics.composed.load(Relaxed),
            asked,
        }
    }
}

/// One camera in one period.
#[derive(Debug, Clone, Copy)]
struct CameraSample {
    fps: f64,
    latency_ms: Option<f64>,
    mask_age_ms: Option<f64>,
    /// Inferences a second, by why they were asked for.
    inferences: [f64; Reason::ALL.len()],
}

/// One period.
#[derive(Debug, Clone)]
struct Sample {
    cpu_cores: f64,
    rss_mib: f64,
    cameras: Vec<CameraSample>,
}

/// The last hour.
#[derive(Debug, Default)]
pub(super) struct History(Mutex<VecDeque<Sample>>);

fn per_second(now: u64, before: u64, seconds: f64) -> f64 {
    (now.saturating_sub(before) as f64 / seconds * 100.0).round() / 100.0
}

fn sample(camera: &Watched, now: &Counted, before: &Counted, seconds: f64) -> CameraSample {
    let vitals = &camera.metrics.vitals;
    let ms = |ns: u64| (ns as f64 / 1e4).round() / 1e2;
    let mut inferences = [0.0; Reason::ALL.len()];
    for (rate, (now, before)) in inferences.iter_mut().zip(now.asked.iter().zip(&before.asked)) {
        *rate = per_second(*now, *before, seconds);
    }
    let flows = now.composed > before.composed;
    CameraSample {
        fps: per_second(now.composed, before.composed, seconds),
        latency_ms: flows.then(|| ms(vitals.latency_ns.load(Relaxed))),
        mask_age_ms: match vitals.mask_age_ns.load(Relaxed) {
            Vitals::NO_MASK => None,
            ns => flows.then(|| ms(ns)),
        },
        inferences,
    }
}

impl History {
    fn samples(&self) -> MutexGuard<'_, VecDeque<Sample>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn push(&self, sample: Sample) {
        let mut samples = self.samples();
        if samples.len() == KEPT {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// Takes samples for ever.
    pub(super) async fn run(self: Arc<Self>, health: Health) {
        let counted = || -> Vec<Counted> { health.cameras().iter().map(Counted::of).collect() };
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first one comes at once.
        ticks.tick().await;
        let mut before = (Instant::now(), process_cpu_ns(), counted());
        loop {
            ticks.tick().await;
            let now = (Instant::now(), process_cpu_ns(), counted());
            let seconds = now.0.duration_since(before.0).as_secs_f64().max(1e-3);
            let cameras = health.cameras().iter().zip(now.2.iter().zip(&before.2));
            self.push(Sample {
                cpu_cores: per_second(now.1, before.1, seconds) / 1e9,
                rss_mib: (resident_bytes().unwrap_or(0) as f64 / f64::from(1 << 20)).round(),
                cameras: cameras
                    .map(|(camera, (now, before))| sample(camera, now, before, seconds))
                    .collect(),
            });
            before = now;
        }
    }

    fn to_json(&self, health: &Health) -> Value {
        let samples = self.samples();
        let all = |of: &dyn Fn(&Sample) -> Value| -> Value { samples.iter().map(of).collect() };
        let mut cameras = Map::new();
        for (number, camera) in health.cameras().iter().enumerate() {
            let each =
                |of: &dyn Fn(&CameraSample) -> Value| all(&|s| s.cameras.get(number).map_or(Value::Null, of));
            let reasons = Reason::ALL.iter().enumerate();
            let inferences: Map<String, Value> = reasons
                .map(|(at, reason)| (reason.as_str().to_owned(), each(&|s| json!(s.inferences[at]))))
                .collect();
            let figures = json!({
                "fps": each(&|s| json!(s.fps)),
                "latency_ms": each(&|s| json!(s.latency_ms)),
                "mask_age_ms": each(&|s| json!(s.mask_age_ms)),
                "inferences_per_second": inferences,
            });
            cameras.insert(camera.name.clone(), figures);
        }
        json!({
            "period_s": PERIOD.as_secs(),
            "cpu_cores": all(&|s| json!(s.cpu_cores)),
            "rss_mib": all(&|s| json!(s.rss_mib)),
            "cameras": cameras,
        })
    }
}

/// 200 and the last hour, the oldest sample first.
pub(super) async fn history(
    State(health): State<Health>,
    State(history): State<Arc<History>>,
) -> ([(HeaderName, &'static str); 1], String) {
    (
        [(CONTENT_TYPE, "application/json")],
        format!("{}\n", history.to_json(&health)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::tests::watched;

    #[test]
    fn a_sample_is_what_happened_in_its_period() {
        let camera = watched("door");
        let before = Counted::of(&camera);
        let vitals = &camera.metrics.vitals;
        vitals.latency_ns.store(12_345_678, Relaxed);
        vitals.mask_age_ns.store(40_000_000, Relaxed);
        let still = sample(&camera, &Counted::of(&camera), &before, 5.0);
        assert_eq!(
            (still.fps, still.latency_ms, still.mask_age_ms),
            (0.0, None, None)
        );
        camera.metrics.composed.store(125, Relaxed);
        camera.metrics.asked[1].store(10, Relaxed);
        let moving = sample(&camera, &Counted::of(&camera), &before, 5.0);
        assert_eq!(
            (moving.fps, moving.latency_ms, moving.mask_age_ms),
            (25.0, Some(12.35), Some(40.0))
        );
        assert_eq!(moving.inferences[1], 2.0);
        vitals.mask_age_ns.store(Vitals::NO_MASK, Relaxed);
        assert_eq!(
            sample(&camera, &Counted::of(&camera), &before, 5.0).mask_age_ms,
            None
        );
    }

    #[test]
    fn an_hour_is_kept() {
        let (history, health) = (History::default(), Health::new(vec![watched("door").into()]));
        for number in 0..KEPT + 3 {
            let one = CameraSample {
                fps: number as f64,
                latency_ms: None,
                mask_age_ms: Some(1.0),
                inferences: [0.5; Reason::ALL.len()],
            };
            history.push(Sample {
                cpu_cores: 0.25,
                rss_mib: 100.0,
                cameras: vec![one],
            });
        }
        let told = history.to_json(&health);
        let fps = told["cameras"]["door"]["fps"].as_array().unwrap();
        assert_eq!(
            (fps.len(), &fps[0], &fps[KEPT - 1]),
            (KEPT, &json!(3.0), &json!((KEPT + 2) as f64))
        );
        assert_eq!(told["cameras"]["door"]["latency_ms"][0], Value::Null);
        assert_eq!(told["cpu_cores"][0], 0.25);
        let why = told["cameras"]["door"]["inferences_per_second"]
            .as_object()
            .unwrap();
        assert_eq!(why.len(), Reason::ALL.len());
    }
}
