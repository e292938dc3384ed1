//! The capture thread: opens the source, again and again if so told, and passes every frame on.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tracing::{info, warn};

use super::{CAPTURE_BUFFERS, PipelineOptions, ToCompose, ToInfer};
use crate::capture::{Capture, FrameSource, SourceCounters, SourceOpener};
use crate::clock::{SharedClock, Stop};
use crate::mailbox::{MailboxSender, Sent};
use crate::metrics::{Metrics, Stage};
use crate::supervise::{Backoff, OnTransient, open_with_retry};
use vision::error::{Error, Result};
use vision::frame::{FrameFormat, SharedFrame};
use vision::pool::FramePool;

/// A source that gave frames for this long has recovered: its next failure counts as the first.
const RECOVERED: Duration = Duration::from_secs(1);

/// How long frames that are on their way may take to go out after a source has failed for good.
const LAST_FRAMES: Duration = Duration::from_secs(5);

/// Who gets the frames.
pub(super) enum CaptureTo {
    /// Compose, which asks for masks.
    Compose(MailboxSender<ToCompose>),
    /// Inference, which passes them on with their masks.
    Infer(MailboxSender<ToInfer>),
}

/// Opens the source, again and again if so told, and passes every frame on.
pub(super) struct CaptureStage {
    pub(super) source: Box<dyn SourceOpener>,
    pub(super) to: CaptureTo,
    pub(super) clock: SharedClock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) stop: Stop,
    pub(super) options: PipelineOptions,
}

/// Why reading came to an end without an error.
enum Read {
    /// The source has ended.
    End,
    /// A stop was asked for, or nobody listens any more.
    Stopped,
}

impl CaptureStage {
    pub(super) fn run(self) -> Result<()> {
        let result = self.read_all();
        let Self { to, stop, .. } = self;
        if result.is_err() {
            // An error stops the other threads; what was read before it goes out first.
            drop(to);
            stop.wait(LAST_FRAMES);
        }
        result
    }

    fn read_all(&self) -> Result<()> {
        let mut name = self.source.name();
        let vitals = &self.metrics.vitals;
        let mut policy = self.options.on_source_error;
        let mut failures = 0u32;
        let mut opened_before = false;
        let mut pool: Option<FramePool> = None;
        loop {
            let open = || {
                vitals.capture_steps.fetch_add(1, Relaxed);
                self.source
                    .open_until(&self.stop)
                    .inspect_err(|e| vitals.set_source_lost(e.to_string()))
            };
            let opened = open_with_retry(&name, policy, &*self.clock, &self.stop, open);
            let mut source = match opened {
                Ok(Some(source)) => source,
                Ok(None) => return Ok(()),
                Err(_) if self.stop.is_stopped() => return Ok(()),
                Err(error) => return Err(error),
            };
            if opened_before {
                self.metrics.reconnects.fetch_add(1, Relaxed);
            }
            opened_before = true;
            info!(source = source.describe(), format = ?source.format(), "capture");
            if source.is_live() && self.options.live && policy == OnTransient::GiveUp {
                // Only now is it known that this one can be waited for.
                policy = OnTransient::Retry(Backoff::default());
                vitals.source_is_live.store(true, Relaxed);
            }
            let opened_ns = self.clock.now_ns();
            match self.read(&mut *source, &mut pool) {
                Ok(Read::End) if self.source.advance() => {
                    name = self.source.name();
                    opened_before = false;
                }
                Ok(_) => return Ok(()),
                Err(error) => match policy {
                    OnTransient::Retry(backoff) if error.is_transient() => {
                        warn!("{name}: {error}; opening it again");
                        vitals.set_source_lost(error.to_string());
                        drop(source);
                        let lived = Duration::from_nanos(self.clock.now_ns().saturating_sub(opened_ns));
                        failures = if lived > RECOVERED {
                            1
                        } else {
                            failures.saturating_add(1)
                        };
                        // Otherwise a source that opens and fails at once is opened without pause.
                        self.clock.wait(backoff.delay(failures), &self.stop);
                    }
                    _ => return Err(error),
                },
            }
        }
    }

    /// Reads until the end, a stop, or an error.
    fn read(&self, source: &mut dyn FrameSource, kept: &mut Option<FramePool>) -> Result<Read> {
        let mut frame_rate = source.frame_rate();
        let mut pool = pool_for(source.format(), kept);
        let mut last_frame_ns = self.clock.now_ns();
        let mut frames = 0u64;
        let mut counted = SourceCounters::default();
        let vitals = &self.metrics.vitals;
        while !self.stop.is_stopped() {
            // Where nothing may be lost, wait for a free buffer instead of losing a frame to an empty pool.
            if !self.options.live && pool.available() == 0 {
                self.stop.wait(Duration::from_micros(500));
                continue;
            }
            let timeout = self.options.read_timeout;
            let read = self
                .metrics
                .time(Stage::Capture, || source.next_frame(&pool, timeout));
            vitals.capture_steps.fetch_add(1, Relaxed);
            let counters = source.counters();
            vitals.add_counters(counted, counters);
            counted = counters;
            match read? {
                Capture::Frame(frame) => {
                    last_frame_ns = self.clock.now_ns();
                    vitals.captured_at(last_frame_ns);
                    frames += 1;
                    self.metrics.captured.fetch_add(1, Relaxed);
                    if !self.share(Arc::new(frame), frame_rate) {
                        return Ok(Read::Stopped);
                    }
                }
                Capture::Dropped => {
                    last_frame_ns = self.clock.now_ns();
                    self.metrics.dropped_capture.fetch_add(1, Relaxed);
                }
                Capture::NewFormat => {
                    frame_rate = source.frame_rate();
                    pool = pool_for(source.format(), kept);
                }
                Capture::Timeout => {
                    let silent_ns = self.clock.now_ns().saturating_sub(last_frame_ns);
                    if silent_ns > self.options.stall_timeout.as_nanos() as u64 {
                        return Err(Error::transient(format!(
                            "{}: no frame for {:.1} s",
                            source.describe(),
                            silent_ns as f64 / 1e9
                        )));
                    }
                }
                Capture::End => {
                    info!(frames, "the source has ended");
                    return Ok(Read::End);
                }
            }
        }
        Ok(Read::Stopped)
    }

    /// Passes a frame on; false when nobody listens any more.
    fn share(&self, frame: SharedFrame, frame_rate: Option<f64>) -> bool {
        let sent = match &self.to {
            CaptureTo::Compose(to) => to.send(ToCompose {
                frame,
                own_mask: None,
                frame_rate,
            }),
            CaptureTo::Infer(to) => to.send(ToInfer {
                frame,
                frame_rate,
                key: None,
            }),
        };
        sent != Sent::Closed
    }
}

/// Buffers for frames of `format`; those that were made last, if they have its size.
fn pool_for(format: FrameFormat, kept: &mut Option<FramePool>) -> FramePool {
    let bytes = format.packed_bytes();
    match kept {
        Some(pool) if pool.buffer_bytes() == bytes => pool.clone(),
        _ => kept.insert(FramePool::new(CAPTURE_BUFFERS, bytes)).clone(),
    }
}
