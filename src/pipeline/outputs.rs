//! The outputs of a pipeline: opened, fed, and opened again when one fails.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::apart::{self, Apart, Begin, Ending};
use super::{ENCODER_BUFFERS, OUTPUT_BUFFERS};
use crate::clock::{SharedClock, Stop, TimeNs};
use crate::metrics::Metrics;
use crate::output::{FrameOutput, Output, OutputOpener, ServedOutput, Video};
use crate::supervise::Backoff;
use vision::error::Result;
use vision::frame::{Frame, FrameFormat};
use vision::pool::{FramePool, PooledBuffer};

/// How long an output that failed is left alone; doubled for each failure in a row.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_secs(1),
    max: Duration::from_secs(60),
};

/// An output that worked for this long has recovered: the next failure counts as the first.
const RECOVERED_NS: u64 = 60_000_000_000;

/// How long the outputs of a live pipeline that have their own threads may take to be completed, in all.
const COMPLETE: Duration = Duration::from_secs(25);

/// As [`COMPLETE`], for a conversion: a slow disk may have gigabytes to bring home.
const COMPLETE_CONVERSION: Duration = Duration::from_secs(600);

/// An open output.
enum Open {
    /// Fed by compose: it never waits, or compose is to wait for it.
    Frames(Box<dyn FrameOutput>),
    /// Serves clients by itself.
    Served(Box<dyn ServedOutput>),
    /// On a thread of its own.
    Apart(Apart),
}

impl Open {
    fn takes_frames(&self) -> bool {
        match self {
            Self::Frames(_) => true,
            Self::Served(_) => false,
            Self::Apart(output) => output.takes_frames(),
        }
    }

    fn push(&mut self, frame: Frame) -> Result<()> {
        match self {
            Self::Frames(output) => return output.push(frame),
            Self::Served(_) => {}
            Self::Apart(output) => output.push(frame),
        }
        Ok(())
    }

    /// Looks whether it still works.
    fn check(&self) -> Result<()> {
        match self {
            Self::Frames(_) => Ok(()),
            Self::Served(output) => output.check(),
            Self::Apart(output) => output.check(),
        }
    }

    fn dropped(&self) -> u64 {
        match self {
            Self::Frames(output) => output.dropped(),
            Self::Served(output) => output.dropped(),
            Self::Apart(output) => output.dropped(),
        }
    }

    fn clients(&self) -> usize {
        match self {
            Self::Served(output) => output.clients(),
            Self::Frames(_) | Self::Apart(_) => 0,
        }
    }

    fn is_open(&self) -> bool {
        match self {
            Self::Frames(_) | Self::Served(_) => true,
            Self::Apart(output) => output.is_open(),
        }
    }
}

/// One output.
struct Slot {
    /// Its place in the openers' list.
    opener: usize,
    open: Option<Open>,
    /// What it was before, as long as that is not complete: it is not opened again meanwhile.
    ending: Option<Ending>,
    failures: u32,
    /// While it is down: when to try again. While it works: since when it does.
    at_ns: TimeNs,
    /// Its frames dropped and clients when last looked at.
    dropped: u64,
    /// Why it failed last, and its name.
    why: Option<String>,
}

impl Slot {
    /// Leaves the output alone for a while.
    fn fail(&mut self, clock: &SharedClock, metrics: &Metrics, why: &str) {
        self.failures = self.failures.saturating_add(1);
        let delay = BACKOFF.delay(self.failures);
        self.at_ns = clock.now_ns() + delay.as_nanos() as u64;
        error!(retry_in_s = delay.as_secs(), "output {why}");
        self.why = Some(why.to_owned());
        metrics.vitals.output_failures.fetch_add(1, Relaxed);
    }
}

/// What was counted when it was last looked at.
#[derive(Default)]
struct Counted {
    encoder_drops: u64,
    encoded: u64,
}

/// All outputs, for frames of one format.
pub(super) struct Outputs {
    slots: Vec<Slot>,
    /// Its outputs' failures don't end a live pipeline; a conversion ends with the first.
    video: Video,
    pool: FramePool,
    counted: Counted,
    /// Outputs that were down, and failures in a row, when it was last said why.
    said: (u64, u64),
    clock: SharedClock,
    metrics: Arc<Metrics>,
}

impl Outputs {
    /// Opens all. `again` if they were open before, in another format.
    ///
    /// # Errors
    /// The first output's that can't be opened, if opening it later would not help: at the start that is a mistake to be
    /// shown, not waited out. A live pipeline that has begun goes on in any case.
    pub(super) fn open(
        openers: &[Arc<dyn OutputOpener>],
        format: FrameFormat,
        frame_rate: Option<f64>,
        (live, again): (bool, bool),
        clock: SharedClock,
        metrics: Arc<Metrics>,
    ) -> Result<Self> {
        let video = Video::new(format, frame_rate, live);
        let mut slots = Vec::with_capacity(openers.len());
        let mut buffers = 0;
        for (index, opener) in openers.iter().enumerate() {
            let mut slot = Slot {
                opener: index,
                open: None,
                ending: None,
                failures: 0,
                at_ns: clock.now_ns(),
                dropped: 0,
                why: None,
            };
            if live && opener.connects() {
                buffers += ENCODER_BUFFERS;
                slot.open = Some(Open::Apart(Apart::start(opener, &video, Begin::First)?));
                slots.push(slot);
                continue;
            }
            match opener.open(&video) {
                Ok(output) => {
                    info!(output = output.describe(), "the output is open");
                    buffers += match output {
                        Output::Frames(_) if live && !opener.is_live() => {
                            OUTPUT_BUFFERS + apart::QUEUED_FRAMES
                        }
                        Output::Frames(_) => OUTPUT_BUFFERS,
                        _ => 0,
                    };
                    slot.open = Some(begin(opener, &video, output)?);
                }
                Err(why) if live && (again || why.is_transient()) => {
                    // Whatever it will take.
                    buffers += ENCODER_BUFFERS;
                    slot.fail(&clock, &metrics, &format!("{}: {why}", opener.name()));
                }
                Err(why) => return Err(why),
            }
            slots.push(slot);
        }
        buffers += ENCODER_BUFFERS * video.encoders.count();
        let pool = FramePool::new(buffers.max(OUTPUT_BUFFERS), format.packed_bytes());
        let mut outputs = Self {
            slots,
            video,
            pool,
            counted: Counted::default(),
            said: (0, 0),
            clock,
            metrics,
        };
        outputs.count();
        Ok(outputs)
    }

    /// The format of the frames that go out.
    pub(super) fn format(&self) -> FrameFormat {
        self.video.format
    }

    /// A free buffer. If there is none, a live pipeline drops the frame (counted); any other waits.
    pub(super) fn buffer(&self, stop: &Stop) -> Option<PooledBuffer> {
        loop {
            if let Some(buffer) = self.pool.take() {
                return Some(buffer);
            }
            if self.video.live {
                self.metrics.dropped_compose.fetch_add(1, Relaxed);
                return None;
            }
            if stop.wait(Duration::from_micros(500)) {
                return None;
            }
        }
    }

    /// Gives the picture to each encoder that has a reader and each output that takes frames: the painted buffer to the
    /// last one, a copy to each other one. A notice only goes to live outputs: no recording wants it.
    ///
    /// # Errors
    /// An output's, unless the pipeline is live: then the output is opened again after a while.
    pub(super) fn push(
        &mut self,
        painted: Frame,
        notice: bool,
        openers: &[Arc<dyn OutputOpener>],
        stop: &Stop,
    ) -> Result<()> {
        self.reopen(openers);
        self.check(openers)?;
        let encoders = self.video.encoders.reading(notice);
        let wants = |slot: &Slot| {
            slot.open.as_ref().is_some_and(Open::takes_frames) && (!notice || openers[slot.opener].is_live())
        };
        let mut takers = encoders.len() + self.slots.iter().filter(|slot| wants(slot)).count();
        let mut painted = Some(painted);
        for encoder in &encoders {
            takers -= 1;
            if let Some(frame) = self.share(&mut painted, takers == 0, stop) {
                encoder.push(frame, notice);
            }
        }
        for index in 0..self.slots.len() {
            if takers == 0 || !wants(&self.slots[index]) {
                continue;
            }
            takers -= 1;
            let Some(frame) = self.share(&mut painted, takers == 0, stop) else {
                continue;
            };
            let pushed = match &mut self.slots[index].open {
                Some(open) => open.push(frame),
                None => Ok(()),
            };
            if let Err(why) = pushed {
                self.failed(index, why, openers)?;
            }
        }
        self.count();
        Ok(())
    }

    /// The picture for the last one who wants it, a copy for others; `None` if no buffer was free.
    fn share(&self, painted: &mut Option<Frame>, last: bool, stop: &Stop) -> Option<Frame> {
        if last {
            return painted.take();
        }
        let painted = painted.as_ref()?;
        let mut copy = self.buffer(stop)?;
        copy.copy_from_slice(&painted.data);
        Some(Frame {
            data: copy,
            ..*painted
        })
    }

    /// Looks whether those outputs still work that nothing is pushed to.
    fn check(&mut self, openers: &[Arc<dyn OutputOpener>]) -> Result<()> {
        for index in 0..self.slots.len() {
            if let Some(Err(why)) = self.slots[index].open.as_ref().map(Open::check) {
                self.failed(index, why, openers)?;
            }
        }
        Ok(())
    }

    /// An output has failed: it is completed, and opened again after a while. Not in a conversion, which ends.
    fn failed(
        &mut self,
        index: usize,
        why: vision::error::Error,
        openers: &[Arc<dyn OutputOpener>],
    ) -> Result<()> {
        if !self.video.live {
            return Err(why);
        }
        let slot = &mut self.slots[index];
        let now = self.clock.now_ns();
        if now.saturating_sub(slot.at_ns) > RECOVERED_NS {
            slot.failures = 0;
        }
        let name = openers[slot.opener].name();
        slot.fail(&self.clock, &self.metrics, &format!("{name} has failed: {why}"));
        // What it has so far may still be worth having.
        let finished = match slot.open.take() {
            Some(Open::Frames(output)) => output.finish(),
            Some(Open::Served(output)) => output.finish(),
            Some(Open::Apart(output)) => {
                slot.ending = Some(output.end());
                Ok(())
            }
            None => Ok(()),
        };
        if let Err(why) = finished {
            warn!("output {name} was not completed: {why}");
        }
        slot.dropped = 0;
        Ok(())
    }

    /// Opens those outputs again whose time has come.
    fn reopen(&mut self, openers: &[Arc<dyn OutputOpener>]) {
        let now = self.clock.now_ns();
        for slot in self
            .slots
            .iter_mut()
            .filter(|s| s.open.is_none() && s.at_ns <= now)
        {
            if slot.ending.as_ref().is_some_and(Ending::is_busy) {
                continue;
            }
            slot.ending = None;
            let opener = &openers[slot.opener];
            let opened = if self.video.live && (!opener.is_live() || opener.connects()) {
                Apart::start(opener, &self.video, Begin::Again).map(Open::Apart)
            } else {
                opener.open(&self.video).and_then(|output| {
                    info!(output = output.describe(), "the output is open again");
                    begin(opener, &self.video, output)
                })
            };
            match opened {
                Ok(open) => {
                    slot.open = Some(open);
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
            let Some(open) = &slot.open else {
                down += 1;
                continue;
            };
            match open.is_open() {
                true => slot.why = None,
                false => down += 1,
            }
            clients += open.clients() as u64;
            let dropped = open.dropped();
            vitals
                .dropped_outputs
                .fetch_add(dropped.saturating_sub(slot.dropped), Relaxed);
            slot.dropped = dropped;
        }
        let encoders = &self.video.encoders;
        let (drops, encoded) = (encoders.dropped(), encoders.encoded());
        let counted = &mut self.counted;
        vitals
            .dropped_outputs
            .fetch_add(drops.saturating_sub(counted.encoder_drops), Relaxed);
        vitals
            .encoded
            .fetch_add(encoded.saturating_sub(counted.encoded), Relaxed);
        *counted = Counted {
            encoder_drops: drops,
            encoded,
        };
        vitals.encoders.store(encoders.running() as u64, Relaxed);
        vitals.clients.store(clients, Relaxed);
        vitals.outputs_down.store(down, Relaxed);
        // Few words, and only when something changes: this is done for each picture.
        let why = || self.slots.iter().filter_map(|slot| slot.why.as_deref());
        let failures = self.slots.iter().map(|slot| u64::from(slot.failures)).sum();
        if (down, failures) != self.said {
            self.said = (down, failures);
            vitals.set_outputs_trouble(why().collect::<Vec<_>>().join("; "));
        }
    }

    /// Completes all outputs.
    ///
    /// # Errors
    /// The first that could not be completed.
    pub(super) fn finish(mut self) -> Result<()> {
        // What is inside the encoders still goes out; after that, their readers have all.
        self.video.encoders.finish();
        self.count();
        let mut finished = Ok(());
        let mut apart = Vec::new();
        for open in self.slots.into_iter().filter_map(|slot| slot.open) {
            match open {
                Open::Frames(output) => finished = finished.and(output.finish()),
                Open::Served(output) => finished = finished.and(output.finish()),
                Open::Apart(output) => apart.push(output.end()),
            }
        }
        // All at the same time: one that is stuck takes nothing from the others.
        let limit = match self.video.live {
            true => COMPLETE,
            false => COMPLETE_CONVERSION,
        };
        let deadline = Instant::now() + limit;
        for ending in apart {
            finished = finished.and(ending.wait(deadline));
        }
        finished
    }
}

/// Sets an output to work. Those that read an encoder, and those that compose is not to wait for, get their own thread.
fn begin(opener: &Arc<dyn OutputOpener>, video: &Video, output: Output) -> Result<Open> {
    Ok(match output {
        Output::Frames(output) if !video.live || opener.is_live() => Open::Frames(output),
        Output::Served(output) => Open::Served(output),
        output => Open::Apart(Apart::start(opener, video, Begin::Open(output))?),
    })
}
