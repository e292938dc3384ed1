//! What a pipeline says of itself while it runs, in one place that its threads share: [`Metrics`], the counters and latency
//! histograms of every stage, which `segd bench` prints and the log sums up; and, as a part of it, [`Vitals`], the signs of
//! life that health, the watchdog and the log judge by.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use vision::timing::{Step, StepTimer};

use crate::mailbox::MailboxStats;
use crate::schedule::Reason;

mod vitals;

pub use vitals::{Preparing, ProviderChange, Vitals};

/// The stages, in the order in which a frame meets them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Reading a frame and copying it into a pooled buffer. Its wall time includes waiting for the source.
    Capture,
    /// Frame to tensor.
    Preprocess,
    /// The network.
    Infer,
    /// Logits to mask.
    Postprocess,
    /// Motion of the picture, and the mask moved along it.
    Propagate,
    /// Mask onto the picture.
    Overlay,
    /// Handing the frame to the outputs (encoding runs on threads of GStreamer's own).
    Stream,
}

impl Stage {
    /// All stages in order.
    pub const ALL: [Self; 7] = [
        Self::Capture,
        Self::Preprocess,
        Self::Infer,
        Self::Postprocess,
        Self::Propagate,
        Self::Overlay,
        Self::Stream,
    ];

    /// Lower-case name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Capture => "capture",
            Self::Preprocess => "preprocess",
            Self::Infer => "infer",
            Self::Postprocess => "postprocess",
            Self::Propagate => "propagate",
            Self::Overlay => "overlay",
            Self::Stream => "stream",
        }
    }
}

/// Largest latency that is told apart: one minute.
const MAX_NS: u64 = 60_000_000_000;

/// A latency histogram in nanoseconds with two significant digits; values over a minute count as one minute.
#[derive(Debug)]
pub struct Latency {
    histogram: Mutex<Histogram<u64>>,
    sum_ns: AtomicU64,
}

impl Default for Latency {
    fn default() -> Self {
        // The bounds are constants within hdrhistogram's limits.
        let histogram = Histogram::new_with_bounds(1_000, MAX_NS, 2).unwrap_or_else(|e| unreachable!("{e}"));
        Self {
            histogram: Mutex::new(histogram),
            sum_ns: AtomicU64::new(0),
        }
    }
}

impl Latency {
    /// Adds one value.
    pub fn record(&self, ns: u64) {
        self.sum_ns.fetch_add(ns.min(MAX_NS), Ordering::Relaxed);
        self.histogram
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .saturating_record(ns.clamp(1_000, MAX_NS));
    }

    /// How many values are at most each of `bounds_s` (seconds, rising), how many there are, and their sum in
    /// seconds.
    pub fn buckets(&self, bounds_s: &[f64]) -> (Vec<u64>, u64, f64) {
        let histogram = self.histogram.lock().unwrap_or_else(|e| e.into_inner());
        let bounds_ns: Vec<u64> = bounds_s.iter().map(|s| (s * 1e9) as u64).collect();
        let mut counts = vec![0; bounds_ns.len()];
        for value in histogram.iter_recorded() {
            let first = bounds_ns.partition_point(|bound| *bound < value.value_iterated_to());
            if let Some(count) = counts.get_mut(first) {
                *count += value.count_at_value();
            }
        }
        let mut sum = 0;
        for count in &mut counts {
            sum += *count;
            *count = sum;
        }
        let sum_s = self.sum_ns.load(Ordering::Relaxed) as f64 / 1e9;
        (counts, histogram.len(), sum_s)
    }

    /// Percentiles, in milliseconds.
    pub fn summary(&self) -> LatencySummary {
        let histogram = self.histogram.lock().unwrap_or_else(|e| e.into_inner());
        let ms = |q: f64| histogram.value_at_quantile(q) as f64 / 1e6;
        if histogram.is_empty() {
            return LatencySummary::default();
        }
        LatencySummary {
            count: histogram.len(),
            p50_ms: ms(0.5),
            p95_ms: ms(0.95),
            p99_ms: ms(0.99),
        }
    }
}

/// Percentiles of a [`Latency`]; all zero where nothing was recorded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct LatencySummary {
    /// Values recorded.
    pub count: u64,
    /// Median in milliseconds.
    pub p50_ms: f64,
    /// 95th percentile in milliseconds.
    pub p95_ms: f64,
    /// 99th percentile in milliseconds.
    pub p99_ms: f64,
}

/// Wall and CPU time of one stage.
#[derive(Debug, Default)]
pub struct StageMetrics {
    /// Wall time of each call.
    pub wall: Latency,
    /// CPU time of the calling thread, summed, in nanoseconds.
    pub cpu_ns: AtomicU64,
    /// Calls.
    pub calls: AtomicU64,
}

pub use vision::timing::thread_cpu_ns;

/// The CPU time this process has used, in nanoseconds.
pub fn process_cpu_ns() -> u64 {
    let t = clock_gettime(ClockId::ProcessCPUTime);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// All that is counted while a pipeline runs. Shared by its threads.
#[derive(Debug, Default)]
pub struct Metrics {
    stages: [StageMetrics; 7],
    /// Frames captured.
    pub captured: AtomicU64,
    /// Frames of the source that were lost because no buffer was free.
    pub dropped_capture: AtomicU64,
    /// Frames composed and handed to the outputs.
    pub composed: AtomicU64,
    /// Frames lost because no output buffer was free.
    pub dropped_compose: AtomicU64,
    /// Frames composed without any mask.
    pub without_mask: AtomicU64,
    /// Inferences.
    pub inferences: AtomicU64,
    /// Inferences asked for by the schedule, by [`Reason`].
    pub asked: [AtomicU64; Reason::ALL.len()],
    /// Frames composed with a mask that was moved with the picture.
    pub propagated: AtomicU64,
    /// Frames composed without a mask because the newest was too old, or from before a scene cut.
    pub blanked: AtomicU64,
    /// Frames that waited for their own mask and got it.
    pub waited: AtomicU64,
    /// Frames that waited for their own mask in vain.
    pub waited_in_vain: AtomicU64,
    /// How often the source was opened again.
    pub reconnects: AtomicU64,
    /// Age of the mask on each composed frame: the frame's capture time less that of the mask's frame.
    pub mask_age: Latency,
    /// From capture to the hand-over to the outputs.
    pub capture_to_stream: Latency,
    /// Signs of life, and what has gone wrong.
    pub vitals: Vitals,
    mailboxes: Mutex<Vec<(&'static str, Arc<MailboxStats>)>>,
}

impl Metrics {
    /// Metrics at zero.
    pub fn shared() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// The metrics of one stage.
    pub fn stage(&self, stage: Stage) -> &StageMetrics {
        &self.stages[stage as usize]
    }

    /// Runs `f` and records its wall and CPU time under `stage`.
    pub fn time<T>(&self, stage: Stage, f: impl FnOnce() -> T) -> T {
        let (wall, cpu) = (Instant::now(), thread_cpu_ns());
        let value = f();
        let wall_ns = wall.elapsed().as_nanos() as u64;
        self.record(stage, wall_ns, thread_cpu_ns().saturating_sub(cpu));
        value
    }

    /// One call of `stage` took so much wall time, and CPU time of its thread.
    pub fn record(&self, stage: Stage, wall_ns: u64, cpu_ns: u64) {
        let metrics = self.stage(stage);
        metrics.wall.record(wall_ns);
        metrics.cpu_ns.fetch_add(cpu_ns, Ordering::Relaxed);
        metrics.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds a mailbox whose drops are reported under `name`.
    pub fn add_mailbox(&self, name: &'static str, stats: Arc<MailboxStats>) {
        self.mailboxes
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .push((name, stats));
    }

    /// What each mailbox has dropped.
    pub fn mailbox_drops(&self) -> Vec<(&'static str, u64)> {
        let mailboxes = self.mailboxes.lock().unwrap_or_else(|e| e.into_inner());
        mailboxes
            .iter()
            .map(|(name, stats)| (*name, stats.dropped()))
            .collect()
    }

    /// A copy of all figures.
    pub fn snapshot(&self) -> Snapshot {
        let get = |a: &AtomicU64| a.load(Ordering::Relaxed);
        Snapshot {
            captured: get(&self.captured),
            composed: get(&self.composed),
            inferences: get(&self.inferences),
            asked: Reason::ALL
                .iter()
                .zip(&self.asked)
                .map(|(&reason, n)| (reason, get(n)))
                .collect(),
            propagated: get(&self.propagated),
            blanked: get(&self.blanked),
            waited: get(&self.waited),
            waited_in_vain: get(&self.waited_in_vain),
            without_mask: get(&self.without_mask),
            reconnects: get(&self.reconnects),
            dropped_capture: get(&self.dropped_capture),
            dropped_compose: get(&self.dropped_compose),
            dropped_mailboxes: self.mailbox_drops(),
            stages: Stage::ALL
                .iter()
                .map(|&stage| {
                    let m = self.stage(stage);
                    (
                        stage,
                        StageSummary {
                            wall: m.wall.summary(),
                            cpu_ms: get(&m.cpu_ns) as f64 / 1e6,
                        },
                    )
                })
                .collect(),
            mask_age: self.mask_age.summary(),
            capture_to_stream: self.capture_to_stream.summary(),
        }
    }
}

impl StepTimer for Metrics {
    fn record(&self, step: Step, wall_ns: u64, cpu_ns: u64) {
        let stage = match step {
            Step::Preprocess => Stage::Preprocess,
            Step::Infer => Stage::Infer,
            Step::Decode => Stage::Postprocess,
        };
        self.record(stage, wall_ns, cpu_ns);
    }
}

/// One stage's figures.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StageSummary {
    /// Wall time of a call.
    pub wall: LatencySummary,
    /// CPU time in all, in milliseconds.
    pub cpu_ms: f64,
}

/// A copy of the metrics at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Snapshot {
    /// Frames captured.
    pub captured: u64,
    /// Frames composed.
    pub composed: u64,
    /// Inferences.
    pub inferences: u64,
    /// Inferences asked for by the schedule, by reason.
    pub asked: Vec<(Reason, u64)>,
    /// Frames composed with a mask that was moved with the picture.
    pub propagated: u64,
    /// Frames composed without a mask because the newest was too old, or from before a scene cut.
    pub blanked: u64,
    /// Frames that waited for their own mask and got it.
    pub waited: u64,
    /// Frames that waited for their own mask in vain.
    pub waited_in_vain: u64,
    /// Frames composed without any mask.
    pub without_mask: u64,
    /// Times the source was opened again.
    pub reconnects: u64,
    /// Frames lost at capture because no buffer was free.
    pub dropped_capture: u64,
    /// Frames lost at compose because no buffer was free.
    pub dropped_compose: u64,
    /// Items dropped by each mailbox.
    pub dropped_mailboxes: Vec<(&'static str, u64)>,
    /// Each stage's figures.
    pub stages: Vec<(Stage, StageSummary)>,
    /// Age of masks.
    pub mask_age: LatencySummary,
    /// Capture to outputs.
    pub capture_to_stream: LatencySummary,
}

/// The process's resident memory in bytes, from `/proc/self/statm`
/// (<https://man7.org/linux/man-pages/man5/proc_pid_statm.5.html>); `None` where it can't be read.
pub fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// How long the process has run, to a hundredth of a second: from `starttime` in `/proc/self/stat`
/// (<https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html>). Zero where it can't be read.
pub fn process_age() -> std::time::Duration {
    let ticks = std::fs::read_to_string("/proc/self/stat").ok().and_then(|stat| {
        // The name, in parentheses, may hold spaces; the third field follows it.
        let (_, rest) = stat.rsplit_once(')')?;
        rest.split_whitespace().nth(19)?.parse::<f64>().ok()
    });
    let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let now_s = boot.tv_sec as f64 + boot.tv_nsec as f64 / 1e9;
    let age_s = ticks.map_or(0.0, |ticks| {
        now_s - ticks / rustix::param::clock_ticks_per_second() as f64
    });
    std::time::Duration::try_from_secs_f64(age_s).unwrap_or_default()
}

/// The process's open file descriptors; `None` where they can't be counted.
pub fn open_files() -> Option<usize> {
    std::fs::read_dir("/proc/self/fd").ok().map(Iterator::count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn percentiles() {
        let latency = Latency::default();
        for ms in 1..=100u64 {
            latency.record(ms * 1_000_000);
        }
        let s = latency.summary();
        assert_eq!(s.count, 100);
        assert!((s.p50_ms - 50.0).abs() <= 1.0, "{s:?}");
        assert!((s.p99_ms - 99.0).abs() <= 1.0, "{s:?}");
        assert_eq!(Latency::default().summary(), LatencySummary::default());
    }

    #[test]
    fn sleeping_is_wall_time_and_not_cpu_time() {
        let metrics = Metrics::default();
        metrics.time(Stage::Infer, || std::thread::sleep(Duration::from_millis(20)));
        let snapshot = metrics.snapshot();
        let (_, infer) = snapshot.stages[Stage::Infer as usize];
        assert!(infer.wall.p50_ms >= 19.0);
        assert!(infer.cpu_ms < 19.0);
    }

    #[test]
    fn the_process_grows_older() {
        let before = process_age();
        std::thread::sleep(Duration::from_millis(30));
        let passed = process_age() - before;
        assert!(before > Duration::ZERO);
        assert!(
            (Duration::from_millis(30)..Duration::from_secs(60)).contains(&passed),
            "{passed:?}"
        );
    }

    #[test]
    fn memory_is_known_on_linux() {
        assert!(resident_bytes().is_some_and(|b| b > 100_000));
    }
}
