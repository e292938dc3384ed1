//! What a person sees while a pipeline runs: a progress bar on a terminal, a status line in the log otherwise.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tracing::info;

use crate::error::Result;
use crate::metrics::{Metrics, Snapshot, resident_bytes};
use crate::supervise::Ticker;

/// How often the log gets a status line.
const STATUS_PERIOD: Duration = Duration::from_secs(30);

/// Logs one line every 30 s.
///
/// # Errors
/// If its thread can't be started.
pub fn log_status(metrics: Arc<Metrics>) -> Result<Ticker> {
    let mut last = (Instant::now(), metrics.snapshot());
    Ticker::start("status", STATUS_PERIOD, move || {
        let now = (Instant::now(), metrics.snapshot());
        let seconds = now.0.duration_since(last.0).as_secs_f64();
        let rate = |now: u64, before: u64| ((now - before) as f64 / seconds * 10.0).round() / 10.0;
        info!(
            fps = rate(now.1.composed, last.1.composed),
            inferences_per_second = rate(now.1.inferences, last.1.inferences),
            mask_age_p50_ms = now.1.mask_age.p50_ms.round(),
            dropped = dropped(&now.1) - dropped(&last.1),
            reconnects = now.1.reconnects,
            rss_mib = resident_bytes().unwrap_or(0) / (1 << 20),
            "status"
        );
        last = now;
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
