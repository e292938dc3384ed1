//! The outputs of a pipeline: opened, fed, and opened again when one fails.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tracing::{error, info, warn};

use super::OUTPUT_BUFFERS;
use crate::clock::{SharedClock, Stop, TimeNs};
use crate::error::Result;
use crate::frame::{Frame, FrameFormat};
use crate::metrics::Metrics;
use crate::pool::{FramePool, PooledBuffer};
use crate::stream::{FrameSink, SinkOpener};
use crate::supervise::Backoff;

/// How long an output that failed is left alone; doubled for each failure in a row.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_secs(1),
    max: Duration::from_secs(60),
};

/// An output that held for so long has recovered: the next failure counts as the first.
const RECOVERED_NS: u64 = 60_000_000_000;

/// One output.
struct Slot {
    /// Its place in the openers' list.
    opener: usize,
    sink: Option<Box<dyn FrameSink>>,
    failures: u32,
    /// While it is down: when to try again. While it works: since when it does.
    at_ns: TimeNs,
    /// Its frames dropped and clients when last looked at.
    dropped: u64,
}

impl Slot {
    /// Leaves the output alone for a while.
    fn fail(&mut self, clock: &SharedClock, metrics: &Metrics, why: &str) {
        self.failures = self.failures.saturating_add(1);
        let delay = BACKOFF.delay(self.failures);
        self.at_ns = clock.now_ns() + delay.as_nanos() as u64;
        error!(retry_in_s = delay.as_secs(), "output {why}");
        metrics.vitals.output_failures.fetch_add(1, Relaxed);
    }
}

/// All outputs, for frames of one format.
pub(super) struct Outputs {
    slots: Vec<Slot>,
    format: FrameFormat,
    frame_rate: Option<f64>,
    pool: FramePool,
    /// A live pipeline outlives its outputs' failures; a conversion ends with the first.
    live: bool,
    clock: SharedClock,
    metrics: Arc<Metrics>,
}

impl Outputs {
    /// Opens all. `again` if they were open before, in another format.
    ///
    /// # Errors
    /// The first output's that can't be opened, and whose fault opening it later can't mend: at the start that is a
    /// mistake to be shown, not waited out. A live pipeline that has begun goes on in any case.
    pub(super) fn open(
        openers: &[Box<dyn SinkOpener>],
        format: FrameFormat,
        frame_rate: Option<f64>,
        (live, again): (bool, bool),
        clock: SharedClock,
        metrics: Arc<Metrics>,
    ) -> Result<Self> {
        let mut slots = Vec::with_capacity(openers.len());
        for (index, opener) in openers.iter().enumerate() {
            let mut slot = Slot {
                opener: index,
                sink: None,
                failures: 0,
                at_ns: clock.now_ns(),
                dropped: 0,
            };
            match opener.open(format, frame_rate) {
                Ok(sink) => {
                    info!(output = sink.describe(), "stream");
                    slot.sink = Some(sink);
                }
                Err(why) if live && (again || why.is_transient()) => {
                    slot.fail(&clock, &metrics, &format!("{}: {why}", opener.name()));
                }
                Err(why) => return Err(why),
            }
            slots.push(slot);
        }
        let pool = FramePool::new(OUTPUT_BUFFERS * slots.len().max(1), format.packed_bytes());
        let mut outputs = Self {
            slots,
            format,
            frame_rate,
            pool,
            live,
            clock,
            metrics,
        };
        outputs.count();
        Ok(outputs)
    }

    /// The format of the frames that go out.
    pub(super) fn format(&self) -> FrameFormat {
        self.format
    }

    /// A free buffer. A live pipeline drops the frame (counted) where there is none; otherwise it waits.
    pub(super) fn buffer(&self, stop: &Stop) -> Option<PooledBuffer> {
        loop {
            if let Some(buffer) = self.pool.take() {
                return Some(buffer);
            }
            if self.live {
                self.metrics.dropped_compose.fetch_add(1, Relaxed);
                return None;
            }
            if stop.wait(Duration::from_micros(500)) {
                return None;
            }
        }
    }

    /// The last output gets the painted buffer, each other one a copy. A notice only goes to live outputs: no
    /// recording wants it.
    ///
    /// # Errors
    /// An output's, unless the pipeline is live: then the output is opened again after a while.
    pub(super) fn push(
        &mut self,
        painted: Frame,
        notice: bool,
        openers: &[Box<dyn SinkOpener>],
        stop: &Stop,
    ) -> Result<()> {
        self.reopen(openers);
        let wants = |slot: &Slot| slot.sink.is_some() && (!notice || openers[slot.opener].is_live());
        let Some(last) = self.slots.iter().rposition(wants) else {
            return Ok(());
        };
        for index in 0..last {
            if !wants(&self.slots[index]) {
                continue;
            }
            let Some(mut copy) = self.buffer(stop) else {
                continue;
            };
            copy.copy_from_slice(&painted.data);
            let copy = Frame {
                sequence: painted.sequence,
                captured_at_ns: painted.captured_at_ns,
                pts_ns: painted.pts_ns,
                format: painted.format,
                data: copy,
            };
            self.push_to(index, copy, openers)?;
        }
        self.push_to(last, painted, openers)?;
        self.count();
        Ok(())
    }

    fn push_to(&mut self, index: usize, frame: Frame, openers: &[Box<dyn SinkOpener>]) -> Result<()> {
        let slot = &mut self.slots[index];
        let Some(sink) = &mut slot.sink else {
            return Ok(());
        };
        let Err(why) = sink.push(frame) else {
            return Ok(());
        };
        if !self.live {
            return Err(why);
        }
        let now = self.clock.now_ns();
        if now.saturating_sub(slot.at_ns) > RECOVERED_NS {
            slot.failures = 0;
        }
        let name = openers[slot.opener].name();
        slot.fail(&self.clock, &self.metrics, &format!("{name} has failed: {why}"));
        // What it has so far may still be worth having.
        if let Some(Err(why)) = slot.sink.take().map(FrameSink::finish) {
            warn!("output {name} was not completed: {why}");
        }
        slot.dropped = 0;
        Ok(())
    }

    /// Opens those outputs again whose time has come.
    fn reopen(&mut self, openers: &[Box<dyn SinkOpener>]) {
        let now = self.clock.now_ns();
        for slot in self
            .slots
            .iter_mut()
            .filter(|s| s.sink.is_none() && s.at_ns <= now)
        {
            let opener = &openers[slot.opener];
            match opener.open(self.format, self.frame_rate) {
                Ok(sink) => {
                    info!(output = sink.describe(), "stream: open again");
                    slot.sink = Some(sink);
                    slot.at_ns = self.clock.now_ns();
                }
                Err(why) => slot.fail(&self.clock, &self.metrics, &format!("{}: {why}", opener.name())),
            }
        }
    }

    fn count(&mut self) {
        let vitals = &self.metrics.vitals;
        let (mut clients, mut down) = (0, 0);
        for slot in &mut self.slots {
            let Some(sink) = &slot.sink else {
                down += 1;
                continue;
            };
            clients += sink.clients() as u64;
            let dropped = sink.dropped();
            vitals
                .dropped_outputs
                .fetch_add(dropped.saturating_sub(slot.dropped), Relaxed);
            slot.dropped = dropped;
        }
        vitals.clients.store(clients, Relaxed);
        vitals.outputs_down.store(down, Relaxed);
    }

    /// Completes all outputs.
    ///
    /// # Errors
    /// The first that could not be completed.
    pub(super) fn finish(self) -> Result<()> {
        let mut finished = Ok(());
        for sink in self.slots.into_iter().filter_map(|slot| slot.sink) {
            finished = finished.and(sink.finish());
        }
        finished
    }
}
