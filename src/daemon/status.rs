//! What a person sees while a pipeline runs: a progress bar on a terminal, a status line in the log otherwise.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tracing::{info, warn};

use crate::health::Health;
use crate::heap;
use crate::metrics::{Metrics, Snapshot, resident_bytes};
use crate::supervise::Ticker;
use vision::error::Result;

/// How often the log gets a status line.
const STATUS_PERIOD: Duration = Duration::from_secs(30);

/// How many status lines apart free memory is given back. The first two lines do so as well: by then all cameras run, and what
/// their start needed lies unused in the heap, 4 MiB a camera.
const LINES_BETWEEN_TRIMS: u64 = 20;

/// Logs one line for each camera every 30 s, and now and then gives free memory back.
///
/// # Errors
/// If its thread can't be started.
pub fn log_status(health: Health) -> Result<Ticker> {
    let snapshots = |health: &Health| -> Vec<Snapshot> {
        let cameras = health.cameras().iter();
        cameras.map(|c| c.metrics.snapshot()).collect()
    };
    let mut last = (Instant::now(), snapshots(&health));
    let mut lines = 0u64;
    Ticker::start("status", STATUS_PERIOD, move || {
        let now = (Instant::now(), snapshots(&health));
        let seconds = now.0.duration_since(last.0).as_secs_f64();
        let rate = |now: u64, before: u64| ((now - before) as f64 / seconds * 10.0).round() / 10.0;
        for (camera, (now, last)) in health.cameras().iter().zip(now.1.iter().zip(&last.1)) {
            info!(
                camera = camera.name,
                fps = rate(now.composed, last.composed),
                inferences_per_second = rate(now.inferences, last.inferences),
                propagated = now.propagated - last.propagated,
                blanked = now.blanked - last.blanked,
                mask_age_p50_ms = now.mask_age.p50_ms.round(),
                dropped = dropped(now) - dropped(last),
                reconnects = now.reconnects,
                clients = camera.metrics.vitals.watching(),
                rss_mib = resident_bytes().unwrap_or(0) / (1 << 20),
                "status"
            );
            if let Some(preparing) = camera.metrics.vitals.preparing() {
                let ns = camera.clock.now_ns().saturating_sub(preparing.since_ns);
                info!(
                    camera = camera.name,
                    for_s = ns / 1_000_000_000,
                    "{} is still being prepared",
                    preparing.name
                );
            }
        }
        for trouble in health.troubles() {
            warn!("unwell: {trouble}");
        }
        last = now;
        lines += 1;
        if lines <= 2 || lines.is_multiple_of(LINES_BETWEEN_TRIMS) {
            heap::give_back();
        }
    })
}

/// Frames dropped anywhere.
pub fn dropped(snapshot: &Snapshot) -> u64 {
    snapshot.dropped_capture
        + snapshot.dropped_compose
        + snapshot.dropped_mailboxes.iter().map(|(_, n)| n).sum::<u64>()
}

/// Shows progress over `total` frames (a spinner where that is unknown), if standard error is a terminal.
///
/// # Errors
/// If its thread can't be started.
pub fn show_progress(metrics: Arc<Metrics>, total: Option<u64>) -> Result<Option<Ticker>> {
    if !std::io::stderr().is_terminal() {
        return Ok(None);
    }
    let bar = match total {
        Some(total) => {
            ProgressBar::new(total).with_style(style("{bar:40} {pos}/{len} frames, {per_sec}, {eta} left"))
        }
        None => ProgressBar::new_spinner().with_style(style("{spinner} {pos} frames, {per_sec}")),
    };
    let bar = Finish(bar);
    Ticker::start("progress", Duration::from_millis(200), move || {
        bar.0
            .set_position(metrics.composed.load(std::sync::atomic::Ordering::Relaxed));
    })
    .map(Some)
}

struct Finish(ProgressBar);

impl Drop for Finish {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A progress bar's style; the templates are constants.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
