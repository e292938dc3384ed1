//! The inference thread: segments the frames that it gets, and hands the masks on.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tracing::{error, info, warn};

use super::control::{Control, Looks};
use super::{AskedMask, Done, MASKS, TimedMask, ToCompose, ToInfer};
use crate::clock::{SharedClock, Stop, TimeNs};
use crate::mailbox::{MailboxReceiver, MailboxSender, Received};
use crate::metrics::{Metrics, Stage, thread_cpu_ns};
use vision::answer::Answer;
use vision::decode::Hidden;
use vision::error::{Error, Result};
use vision::frame::{Frame, FrameFormat, LabelMap};
use vision::infer::{RunsOn, cost_ns};
use vision::propagate::{LogitSmoother, Tiles, warp_labels};
use vision::scene::Segment;
use vision::segment::Engine;
use vision::track::{Before, Tracker};

/// Who gets the masks.
pub(super) enum InferTo {
    /// Compose, with the frames: each its own.
    Frames(MailboxSender<ToCompose>),
    /// Compose, which asked for them.
    Masks(MailboxSender<Done>),
}

/// Segments the frames that it gets, and hands the masks on.
pub(super) struct InferStage {
    pub(super) engine: Engine,
    pub(super) from: MailboxReceiver<ToInfer>,
    pub(super) to: InferTo,
    pub(super) control: Arc<Control>,
    /// How the engine's masks are shown.
    pub(super) looks: Arc<Looks>,
    pub(super) clock: SharedClock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) stop: Stop,
    /// When inferences began to fail, if the last one has.
    pub(super) failing_since_ns: Option<TimeNs>,
    /// How many have failed in a row.
    pub(super) failures: u32,
}

/// A network that fails for this long ends the run; a service manager then starts segd again.
const GIVE_UP_NS: u64 = 5_000_000_000;
/// After this many failed inferences in a row the next backend takes over, if there is one. A GPU that is out of memory
/// for a moment is waited for; one that is gone is not.
const FAILURES_BEFORE_NEXT: u32 = 3;
/// Between a failed inference and the next.
const AFTER_FAILURE: Duration = Duration::from_millis(50);

impl InferStage {
    pub(super) fn run(mut self) -> Result<()> {
        let mut masks: Vec<Arc<TimedMask>> = (0..MASKS)
            .map(|_| Arc::new(TimedMask::empty(self.looks.clone())))
            .collect();
        let mut prepared: Option<FrameFormat> = None;
        let mut chosen = true;
        let mut work = Work {
            answer: Answer::empty(),
            smoother: LogitSmoother::default(),
            last_key: None,
            follower: Follower::default(),
        };
        loop {
            let item = match self.from.recv() {
                Received::Item(item) => item,
                Received::Timeout => continue,
                Received::Closed => return Ok(()),
            };
            let turn = match self.control.turns() {
                None => None,
                Some(turns) => {
                    let Some(turn) = turns.take(&self.stop) else {
                        return Ok(());
                    };
                    Some(turn)
                }
            };
            let ToInfer {
                frame,
                frame_rate,
                key,
            } = item;
            if let Some(next) = self.control.take_next_model() {
                self.engine = next.engine;
                self.looks = next.looks;
                self.failures = 0;
                work.last_key = None;
                work.follower.restart();
                prepared = None;
                chosen = true;
            }
            if prepared != Some(frame.format) {
                let on = self.engine.prepare(frame.format)?;
                self.announce(&on);
                self.metrics.vitals.set_runs_on(on, chosen);
                chosen = false;
                prepared = Some(frame.format);
                self.control.set_format(frame.format);
            }
            let Some(slot) = self.free_mask(&mut masks) else {
                return Ok(());
            };
            let began = (thread_cpu_ns(), self.clock.now_ns());
            let (mut slot, mut segmented) = self.segment(&frame, key.as_ref(), slot, &mut work);
            while let Err(error) = &segmented
                && self.replace_backend(error)
            {
                (slot, segmented) = self.segment(&frame, key.as_ref(), slot, &mut work);
            }
            masks.push(slot.clone());
            drop(turn);
            let mask = match segmented {
                Ok(()) => {
                    self.failing_since_ns = None;
                    self.failures = 0;
                    Some(slot)
                }
                Err(error) => {
                    self.tolerate(error)?;
                    None
                }
            };
            let is_there = mask.is_some();
            match (&self.to, key) {
                (InferTo::Frames(to), _) => {
                    to.send(ToCompose {
                        frame,
                        own_mask: mask,
                        frame_rate,
                    });
                }
                (InferTo::Masks(to), Some(key)) => {
                    let at_ns = self.clock.now_ns();
                    let asking_ns = thread_cpu_ns().saturating_sub(began.0);
                    to.send(Done {
                        id: key.id,
                        mask,
                        field: key.along.map(|(_, field)| field),
                        at_ns,
                        cpu_ns: cost_ns(self.engine.threads(), asking_ns, at_ns.saturating_sub(began.1)),
                    });
                }
                (InferTo::Masks(_), None) => {}
            }
            if is_there {
                self.control.model_runs(&self.looks);
            }
        }
    }

    /// A mask that nobody else holds; waits for one where compose still has them all. `None` on stop.
    fn free_mask(&self, masks: &mut Vec<Arc<TimedMask>>) -> Option<Arc<TimedMask>> {
        loop {
            if let Some(slot) = take_free(masks) {
                return Some(slot);
            }
            if self.stop.wait(Duration::from_micros(500)) {
                return None;
            }
        }
    }

    /// Fills a mask that nobody else holds, and gives it back in any case.
    fn segment(
        &mut self,
        frame: &Frame,
        key: Option<&AskedMask>,
        mut slot: Arc<TimedMask>,
        work: &mut Work,
    ) -> (Arc<TimedMask>, Result<()>) {
        if let Some(timed) = Arc::get_mut(&mut slot) {
            self.engine
                .hide(&hidden_classes(&self.control.looks(), &self.looks));
            let vitals = &self.metrics.vitals;
            vitals.infer_began_ns.store(self.clock.now_ns().max(1), Relaxed);
            let inferred = self.engine.infer(&frame.image(), &mut work.answer);
            vitals.infer_began_ns.store(0, Relaxed);
            if let Err(error) = inferred {
                work.last_key = None;
                return (slot, Err(error));
            }
            if let Some(key) = key {
                self.smooth(key, work);
            }
            // Not through `timed` for both: the mask may have to be replaced.
            let mut segments = std::mem::take(&mut timed.segments);
            self.engine.decode(&work.answer, timed.mask_mut(), &mut segments);
            if let Some(least) = self.engine.least_score() {
                let map = timed.mask_mut();
                work.follower.follow(frame, key, least, map, &mut segments);
            }
            timed.segments = segments;
            timed.captured_at_ns = frame.captured_at_ns;
            if key.is_some() {
                timed.tiles.read(&timed.mask);
            }
            if !Arc::ptr_eq(&timed.looks, &self.looks) {
                timed.looks = self.looks.clone();
            }
        }
        self.metrics.inferences.fetch_add(1, Relaxed);
        (slot, Ok(()))
    }

    /// Mixes a key's logits with those of the key before.
    fn smooth(&self, key: &AskedMask, work: &mut Work) {
        if !key.smooth.is_on() {
            return;
        }
        let grid = self.engine.cells(&work.answer);
        if let (Some(grid), Answer::Logits { values, .. }) = (grid, &mut work.answer) {
            let along = key
                .along
                .as_ref()
                .filter(|(before, _)| work.last_key == Some(*before));
            self.metrics.time(Stage::Postprocess, || {
                work.smoother
                    .mix(values, &grid, along.map(|(_, field)| field), key.smooth);
            });
            work.last_key = Some(key.id);
        }
    }
}

/// What is kept from frame to frame.
struct Work {
    answer: Answer,
    smoother: LogitSmoother,
    /// The key whose logits the smoother holds.
    last_key: Option<u64>,
    follower: Follower,
}

/// Follows the objects from key to key.
#[derive(Default)]
struct Follower {
    tracker: Option<Tracker>,
    /// Whether the next picture is of another model.
    is_new: bool,
    /// The key before, its map, and when it was taken.
    key: Option<u64>,
    before: LabelMap,
    tiles: Tiles,
    moved: LabelMap,
    at_ns: TimeNs,
}

impl Follower {
    /// What comes next is another model's.
    fn restart(&mut self) {
        self.is_new = true;
        self.key = None;
    }

    /// Gives the objects of a picture their numbers; `least` is the least score that they have.
    fn follow(
        &mut self,
        frame: &Frame,
        key: Option<&AskedMask>,
        least: f32,
        map: &LabelMap,
        segments: &mut [Segment],
    ) {
        let tracker = self.tracker.get_or_insert_with(|| Tracker::new(least));
        if std::mem::take(&mut self.is_new) {
            tracker.restart(least);
        }
        let is_same_size = (map.width, map.height) == (self.before.width, self.before.height);
        let along = key
            .and_then(|key| key.along.as_ref())
            .filter(|(before, _)| is_same_size && self.key == Some(*before));
        // A source that was opened again begins with other times.
        let cut = key.is_some_and(|key| key.cut) || !is_same_size || frame.pts_ns < self.at_ns;
        let before = match along {
            _ if cut => Before::Cut,
            None => Before::Unknown,
            Some((_, field)) => {
                warp_labels(&self.before, &self.tiles, field, &mut self.moved);
                Before::Moved(&self.moved)
            }
        };
        tracker.update(map, segments, before, frame.pts_ns);
        (self.before.width, self.before.height) = (map.width, map.height);
        self.before.labels.clone_from(&map.labels);
        self.tiles.read(&self.before);
        self.key = key.map(|key| key.id);
        self.at_ns = frame.pts_ns;
    }
}

impl InferStage {
    /// Says in the log what runs.
    fn announce(&self, on: &RunsOn) {
        info!(
            backend = on.backend,
            version = %on.version,
            provider = %on.provider,
            precision = %on.precision,
            size = format!("{}x{}", on.input_size.width, on.input_size.height),
            "infer"
        );
    }

    /// After an inference that failed: whether another backend has taken over, to which the picture is to be given
    /// again.
    fn replace_backend(&mut self, why: &Error) -> bool {
        self.failures += 1;
        let lockstep = matches!(self.to, InferTo::Frames(_));
        let waited = lockstep || !why.is_transient() || self.failures >= FAILURES_BEFORE_NEXT;
        if !waited || !self.engine.has_fallback() {
            return false;
        }
        let Some(on) = self.engine.fall_back() else {
            return false;
        };
        self.failures = 0;
        self.failing_since_ns = None;
        self.metrics.vitals.infer_failures.fetch_add(1, Relaxed);
        error!(
            "the network runs on {} {} from now on: {why}",
            on.backend, on.provider
        );
        self.announce(&on);
        self.metrics.vitals.set_moved(on, why.to_string());
        true
    }

    /// A failed inference is skipped, and masks grow old. A network that keeps failing ends the run.
    fn tolerate(&mut self, error: Error) -> Result<()> {
        let now = self.clock.now_ns();
        let since = *self.failing_since_ns.get_or_insert(now);
        let lockstep = matches!(self.to, InferTo::Frames(_));
        if !error.is_transient() || lockstep || now.saturating_sub(since) > GIVE_UP_NS {
            return Err(error);
        }
        if since == now {
            warn!("an inference has failed: {error}");
        }
        self.metrics.vitals.infer_failures.fetch_add(1, Relaxed);
        self.clock.wait(AFTER_FAILURE, &self.stop);
        Ok(())
    }
}

/// Which classes of the engine's model must not be seen. `now` is what is shown, `own` what belongs to the model, which may
/// be about to be shown.
fn hidden_classes(now: &Looks, own: &Looks) -> Hidden {
    let looks = match now.model.generation == own.model.generation {
        true => now,
        false => own,
    };
    let mut hidden = [false; 256];
    let how = looks.privacy.iter().flat_map(|privacy| &privacy.redact.how);
    for (hidden, how) in hidden.iter_mut().zip(how) {
        *hidden = how.is_some();
    }
    hidden
}

/// Takes a mask that nobody else holds out of the list.
fn take_free(masks: &mut Vec<Arc<TimedMask>>) -> Option<Arc<TimedMask>> {
    let free = masks.iter_mut().position(|m| Arc::get_mut(m).is_some())?;
    Some(masks.swap_remove(free))
}
