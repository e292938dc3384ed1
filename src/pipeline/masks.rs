//! Which mask a frame goes out with: asks for those that are needed, and moves the newest to where the picture is.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::control::Control;
use super::{AskedMask, Done, TimedMask, ToInfer};
use crate::clock::{SharedClock, TimeNs};
use crate::mailbox::{MailboxReceiver, MailboxSender, Received};
use crate::metrics::{Metrics, Stage, process_cpu_ns};
use crate::schedule::{Reason, ScheduleOptions, Scheduler, Seen};
use vision::frame::{FrameFormat, LabelMap, SharedFrame};
use vision::propagate::{Key, Keys, MotionField, warp_labels};

/// Keys that are followed at a time: the one that is shown, and those that are being segmented.
const KEYS: usize = 3;
/// Maps beside the one that is shown, for scenes that are still read. With more readers than that, maps are made anew.
const SPARE_MAPS: usize = 4;
/// How often the load of everything but inference is measured for a CPU budget.
const LOAD_PERIOD_NS: u64 = 500_000_000;

/// A mask that was asked for and is not there yet.
#[derive(Debug, Clone, Copy)]
struct Asked {
    id: u64,
    at_ns: TimeNs,
}

/// What is kept from frame to frame.
pub(super) struct Masks {
    scheduler: Scheduler,
    to_infer: MailboxSender<ToInfer>,
    done: MailboxReceiver<Done>,
    /// For frames of one format.
    keys: Option<(FrameFormat, Keys<Arc<TimedMask>>)>,
    asked: Vec<Asked>,
    next_id: u64,
    /// The shown key's mask where it belongs on the current frame.
    moved: TimedMask,
    /// Maps that scenes held, or hold still, to move masks into.
    spare_maps: Vec<Arc<LabelMap>>,
    /// A field that came back from inference.
    spare: Option<MotionField>,
    load: Load,
    /// Frames that can't be lost wait for their masks as long as it takes.
    live: bool,
    clock: SharedClock,
    metrics: Arc<Metrics>,
    control: Arc<Control>,
}

/// CPU time at the last look.
#[derive(Debug, Default)]
struct Load {
    at_ns: TimeNs,
    process_ns: u64,
    inference_ns: u64,
    /// CPU time of all inferences so far.
    inferences_ns: u64,
}

impl Masks {
    pub(super) fn new(
        options: ScheduleOptions,
        to_infer: MailboxSender<ToInfer>,
        done: MailboxReceiver<Done>,
        live: bool,
        (clock, metrics, control): (SharedClock, Arc<Metrics>, Arc<Control>),
    ) -> Self {
        Self {
            scheduler: Scheduler::new(options),
            to_infer,
            done,
            keys: None,
            asked: Vec::with_capacity(KEYS),
            next_id: 0,
            moved: TimedMask::empty(control.looks()),
            spare_maps: Vec::new(),
            spare: None,
            load: Load::default(),
            live,
            clock,
            metrics,
            control,
        }
    }

    /// The mask for a frame; the frame may wait for its own.
    pub(super) fn for_frame(&mut self, frame: &SharedFrame, frame_rate: Option<f64>) -> Option<&TimedMask> {
        while let Received::Item(done) = self.done.try_recv() {
            self.deliver(done);
        }
        let now_ns = if self.live {
            frame.captured_at_ns
        } else {
            frame.pts_ns
        };
        self.take_options();
        let mut keys = match self.keys.take() {
            Some((format, keys)) if format == frame.format => keys,
            _ => Keys::new(frame.format.width, frame.format.height, KEYS),
        };
        let options = *self.scheduler.options();
        if options.follows_motion() {
            self.metrics
                .time(Stage::Propagate, || keys.advance(&frame.image(), now_ns));
        }
        if let Some(reason) = self.decide(&keys, now_ns) {
            self.ask(&mut keys, frame, frame_rate, now_ns, reason);
            self.keys = Some((frame.format, keys));
            self.wait_for_own();
        } else {
            self.keys = Some((frame.format, keys));
        }
        self.show(now_ns, &options)
    }

    /// Takes the schedule that somebody has changed.
    fn take_options(&mut self) {
        let now = *self.scheduler.options();
        let Some(wanted) = self.control.schedule() else {
            return;
        };
        let wanted = ScheduleOptions {
            min_interval: now.min_interval,
            ..wanted
        };
        if wanted == now {
            return;
        }
        if wanted.follows_motion() != now.follows_motion() {
            // The keys' motion has not been followed, or will not be.
            self.keys = None;
        }
        self.scheduler.set_options(wanted);
    }

    fn decide(&mut self, keys: &Keys<Arc<TimedMask>>, now_ns: TimeNs) -> Option<Reason> {
        self.scheduler.set_min_interval(self.control.infer_interval());
        if self.scheduler.options().cpu_budget.is_some() {
            self.measure_load();
        }
        let newest = keys.newest();
        self.scheduler.decide(&Seen {
            now_ns,
            fit: newest.map(|key| key.fit),
            cut: newest.is_some_and(|key| key.before_cut),
            in_flight: self.asked.len(),
        })
    }

    fn measure_load(&mut self) {
        let now_ns = self.clock.now_ns();
        let passed = now_ns.saturating_sub(self.load.at_ns);
        if passed < LOAD_PERIOD_NS {
            return;
        }
        let process_ns = process_cpu_ns();
        if self.load.at_ns > 0 {
            let all = process_ns.saturating_sub(self.load.process_ns);
            let inference = self.load.inferences_ns.saturating_sub(self.load.inference_ns);
            self.scheduler
                .others_use(all.saturating_sub(inference) as f64 / passed as f64);
        }
        self.load.at_ns = now_ns;
        self.load.process_ns = process_ns;
        self.load.inference_ns = self.load.inferences_ns;
    }

    /// Makes the frame a key.
    fn ask(
        &mut self,
        keys: &mut Keys<Arc<TimedMask>>,
        frame: &SharedFrame,
        frame_rate: Option<f64>,
        now_ns: TimeNs,
        reason: Reason,
    ) {
        let options = self.scheduler.options();
        let id = self.next_id;
        self.next_id += 1;
        // Objects are followed along the motion as well.
        let is_wanted = options.smooth.is_on() || self.control.looks().model.has_things();
        let cut = keys.newest().is_some_and(|key| key.before_cut);
        let known = keys.newest().filter(|_| options.propagate && is_wanted && !cut);
        let along = known.map(|before| {
            let field = match self.spare.take() {
                Some(mut field) if field.vectors.len() == before.field().vectors.len() => {
                    field.copy_from(before.field());
                    field
                }
                _ => before.field().clone(),
            };
            (before.id, field)
        });
        let key = AskedMask {
            id,
            along,
            smooth: options.smooth,
            cut,
        };
        keys.start(id, now_ns);
        self.asked.push(Asked {
            id,
            at_ns: self.clock.now_ns(),
        });
        self.metrics.asked[reason as usize].fetch_add(1, Relaxed);
        self.to_infer.send(ToInfer {
            frame: frame.clone(),
            frame_rate,
            key: Some(key),
        });
    }

    fn wait_for_own(&mut self) {
        let Some(own) = self.asked.last().copied() else {
            return;
        };
        let wait = match self.live {
            true => self.scheduler.wait_for_own(),
            false => Duration::MAX,
        };
        if wait.is_zero() {
            return;
        }
        let deadline_ns = own
            .at_ns
            .saturating_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX));
        while self.asked.iter().any(|asked| asked.id == own.id) {
            let received = match self.live {
                true => {
                    let left = deadline_ns.saturating_sub(self.clock.now_ns());
                    self.done.recv_timeout(Duration::from_nanos(left))
                }
                false => self.done.recv(),
            };
            match received {
                Received::Item(done) => self.deliver(done),
                Received::Timeout => {
                    self.metrics.waited_in_vain.fetch_add(1, Relaxed);
                    return;
                }
                Received::Closed => return,
            }
        }
        self.metrics.waited.fetch_add(1, Relaxed);
    }

    fn deliver(&mut self, done: Done) {
        if let Some(at) = self.asked.iter().position(|asked| asked.id == done.id) {
            let asked = self.asked.remove(at);
            self.scheduler
                .finished(done.at_ns.saturating_sub(asked.at_ns), done.cpu_ns);
        }
        self.load.inferences_ns += done.cpu_ns;
        if done.field.is_some() {
            self.spare = done.field;
        }
        if let Some((_, keys)) = &mut self.keys {
            match done.mask {
                Some(mask) => {
                    keys.deliver(done.id, mask);
                }
                None => keys.abandon(done.id),
            }
        }
    }

    /// The shown key's mask, moved.
    fn show(&mut self, now_ns: TimeNs, options: &ScheduleOptions) -> Option<&TimedMask> {
        let (format, keys) = self.keys.as_ref()?;
        let key = keys.shown()?;
        let mask = key.mask.as_ref()?;
        if (mask.mask.width, mask.mask.height) != (format.width, format.height) {
            return None;
        }
        let age_ns = u128::from(now_ns.saturating_sub(key.fresh_ns));
        if key.before_cut || (self.live && age_ns > options.hide_after.as_nanos()) {
            self.metrics.blanked.fetch_add(1, Relaxed);
            return None;
        }
        if !options.propagate || key.field().is_still() {
            return Some(mask);
        }
        let moved = &mut self.moved;
        if Arc::get_mut(&mut moved.mask).is_none() {
            let free = self
                .spare_maps
                .iter_mut()
                .position(|map| Arc::get_mut(map).is_some());
            match free {
                Some(free) => std::mem::swap(&mut self.spare_maps[free], &mut moved.mask),
                None if self.spare_maps.len() < SPARE_MAPS => {
                    let held = std::mem::replace(&mut moved.mask, Arc::new(LabelMap::zeros(0, 0)));
                    self.spare_maps.push(held);
                }
                None => {}
            }
        }
        self.metrics
            .time(Stage::Propagate, || move_mask(key, mask, moved));
        self.metrics.propagated.fetch_add(1, Relaxed);
        Some(moved)
    }
}

fn move_mask(key: &Key<Arc<TimedMask>>, mask: &TimedMask, moved: &mut TimedMask) {
    warp_labels(&mask.mask, &mask.tiles, key.field(), moved.mask_mut());
    if moved.segments != mask.segments {
        moved.segments.clone_from(&mask.segments);
    }
    moved.captured_at_ns = mask.captured_at_ns;
    if !Arc::ptr_eq(&moved.looks, &mask.looks) {
        moved.looks = mask.looks.clone();
    }
}
