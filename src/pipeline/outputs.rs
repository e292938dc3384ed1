//! The outputs of a pipeline: opened, fed, and opened again when one fails.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::OUTPUT_BUFFERS;
use super::apart::{self, Apart, Ending};
use crate::clock::{SharedClock, Stop, TimeNs};
use crate::metrics::Metrics;
use crate::stream::{FrameSink, SinkOpener};
use crate::supervise::Backoff;
use vision::error::Result;
use vision::frame::{Frame, FrameFormat};
use vision::pool::{FramePool, PooledBuffer};

/// How long an output that failed is left alone; doubled for each failure in a row.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_secs(1),
    max: Duration::from_secs(60),
};

/// An output that held for so long has recovered: the next failure counts as the first.
const RECOVERED_NS: u64 = 60_000_000_000;

/// How long recordings on their own threads may take to be completed, in all.
const COMPLETE: Duration = Duration::from_secs(25);

/// An open output.
enum Sink {
    /// Fed by compose: it never waits, or compose is to wait for it.
    Here(Box<dyn FrameSink>),
    /// A recording beside live outputs.
    Apart(Apart),
}

impl Sink {
    fn push(&mut self, frame: Frame) -> Result<()> {
        match self {
            Self::Here(sink) => sink.push(frame),
            Self::Apart(sink) => sink.push(frame),
        }
    }

    fn dropped(&self) -> u64 {
        match self {
            Self::Here(sink) => sink.dropped(),
            Self::Apart(sink) => sink.dropped(),
        }
    }

    fn clients(&self) -> usize {
        match self {
            Self::Here(sink) => sink.clients(),
            Self::Apart(_) => 0,
        }
    }

    fn is_open(&self) -> bool {
        match self {
            Self::Here(_) => true,
            Self::Apart(sink) => sink.is_open(),
        }
    }
}

/// One output.
struct Slot {
    /// Its place in the openers' list.
    opener: usize,
    sink: Option<Sink>,
    /// What it was before, as long as that is not complete: it is not opened again meanwhile.
    ending: Option<Ending>,
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
        openers: &[Arc<dyn SinkOpener>],
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
                ending: None,
                failures: 0,
                at_ns: clock.now_ns(),
                dropped: 0,
            };
            match opener.open(format, frame_rate) {
                Ok(sink) => {
                    info!(output = sink.describe(), "stream");
                    slot.sink = Some(if live && !opener.is_live() {
                        Sink::Apart(Apart::start(opener, format, frame_rate, Some(sink))?)
                    } else {
                        Sink::Here(sink)
                    });
                }
                Err(why) if live && (again || why.is_transient()) => {
                    slot.fail(&clock, &metrics, &format!("{}: {why}", opener.name()));
                }
                Err(why) => return Err(why),
            }
            slots.push(slot);
        }
        let apart = openers.iter().filter(|opener| live && !opener.is_live()).count();
        let buffers = OUTPUT_BUFFERS * slots.len().max(1) + apart::QUEUED_FRAMES * apart;
        let pool = FramePool::new(buffers, format.packed_bytes());
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
        openers: &[Arc<dyn SinkOpener>],
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
                damaged: painted.damaged,
                data: copy,
            };
            self.push_to(index, copy, openers)?;
        }
        self.push_to(last, painted, openers)?;
        self.count();
        Ok(())
    }

    fn push_to(&mut self, index: usize, frame: Frame, openers: &[Arc<dyn SinkOpener>]) -> Result<()> {
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
        match slot.sink.take() {
            Some(Sink::Here(sink)) => {
                if let Err(why) = sink.finish() {
                    warn!("output {name} was not completed: {why}");
                }
            }
            Some(Sink::Apart(sink)) => slot.ending = Some(sink.end()),
            None => {}
        }
        slot.dropped = 0;
        Ok(())
    }

    /// Opens those outputs again whose time has come.
    fn reopen(&mut self, openers: &[Arc<dyn SinkOpener>]) {
        let now = self.clock.now_ns();
        for slot in self
            .slots
            .iter_mut()
            .filter(|s| s.sink.is_none() && s.at_ns <= now)
        {
            if slot.ending.as_ref().is_some_and(Ending::is_busy) {
                continue;
            }
            slot.ending = None;
            let opener = &openers[slot.opener];
            let opened = if self.live && !opener.is_live() {
                Apart::start(opener, self.format, self.frame_rate, None).map(Sink::Apart)
            } else {
                opener.open(self.format, self.frame_rate).map(|sink| {
                    info!(output = sink.describe(), "stream: open again");
                    Sink::Here(sink)
                })
            };
            match opened {
                Ok(sink) => {
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
            down += u64::from(!sink.is_open());
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
        let mut apart = Vec::new();
        for sink in self.slots.into_iter().filter_map(|slot| slot.sink) {
            match sink {
                Sink::Here(sink) => finished = finished.and(sink.finish()),
                Sink::Apart(sink) => apart.push(sink.end()),
            }
        }
        // All at the same time: one that is stuck takes nothing from the others.
        let deadline = Instant::now() + COMPLETE;
        for ending in apart {
            finished = finished.and(ending.wait(deadline));
        }
        finished
    }
}
