//! The compose thread: makes the outgoing pictures, and hands them to the outputs.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tracing::{info, warn};

use super::control::{Control, Looks};
use super::lost::{Lost, in_words};
use super::masks::Masks;
use super::outputs::Outputs;
use super::painting::Painting;
use super::{PipelineOptions, TimedMask, ToCompose};
use crate::clock::{SharedClock, Stop};
use crate::mailbox::{MailboxReceiver, Received};
use crate::metrics::{Metrics, Stage, Vitals};
use crate::observe::Seen;
use crate::output::OutputOpener;
use crate::stamp;
use vision::error::Result;
use vision::frame::{Frame, FrameFormat};
use vision::overlay::notice;
use vision::scene::Scene;

/// How long compose waits for a frame before it looks whether the source is away.
const WAIT: Duration = Duration::from_millis(100);

/// What compose holds while it runs.
#[derive(Default)]
struct State {
    painting: Option<Painting>,
    outputs: Option<Outputs>,
    /// Whether the outputs were opened before the source told its format.
    provisional: bool,
    last_sequence: u64,
    last_pts_ns: u64,
    last_captured_ns: u64,
    /// Added to the source's times, so that they keep rising when it is opened again.
    pts_offset_ns: u64,
}

/// Paints masks onto frames, and hands them to the outputs.
pub(super) struct ComposeStage {
    pub(super) from: MailboxReceiver<ToCompose>,
    pub(super) openers: Vec<Arc<dyn OutputOpener>>,
    pub(super) control: Arc<Control>,
    /// Where frames come without their masks.
    pub(super) masks: Option<Masks>,
    pub(super) clock: SharedClock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) stop: Stop,
    pub(super) options: PipelineOptions,
}

impl ComposeStage {
    pub(super) fn run(mut self) -> Result<()> {
        let mut state = State::default();
        let mut masks = self.masks.take();
        let result = self.compose_all(&mut state, masks.as_mut());
        // Outputs are completed even after an error: what is written so far is worth having.
        result.and(state.outputs.map_or(Ok(()), Outputs::finish))
    }

    fn compose_all(&self, state: &mut State, mut masks: Option<&mut Masks>) -> Result<()> {
        let mut composed = 0u64;
        let mut lost = self
            .options
            .lost_picture
            .clone()
            .map(|options| Lost::new(options, self.clock.now_ns()));
        while self.options.max_frames.is_none_or(|max| composed < max) {
            let received = match &lost {
                Some(_) => self.from.recv_timeout(WAIT),
                None => self.from.recv(),
            };
            self.metrics.vitals.compose_steps.fetch_add(1, Relaxed);
            match received {
                Received::Item(item) => {
                    if let Some(lost) = &mut lost {
                        lost.frame(self.clock.now_ns(), item.frame_rate);
                    }
                    if self.compose(state, masks.as_deref_mut(), &item)? {
                        composed += 1;
                    }
                }
                Received::Timeout => {
                    if let Some(lost) = &mut lost
                        && self.metrics.vitals.source_is_live.load(Relaxed)
                    {
                        self.show_lost(state, lost)?;
                    }
                }
                Received::Closed => return Ok(()),
            }
        }
        Ok(())
    }

    fn open(&self, format: FrameFormat, frame_rate: Option<f64>, again: bool) -> Result<Outputs> {
        let (clock, metrics) = (self.clock.clone(), self.metrics.clone());
        let how = (self.options.live, again);
        Outputs::open(&self.openers, format, frame_rate, how, clock, metrics)
    }

    /// Paintings and outputs for frames of `item`'s format. Outputs keep the format that they began with, and the
    /// picture is fitted to it: clients stay connected, and a recording stays one file.
    fn make_ready(&self, state: &mut State, item: &ToCompose, looks: &Arc<Looks>) -> Result<()> {
        let format = item.frame.format;
        if state.painting.as_ref().is_some_and(|p| p.is_for(format, looks)) && state.outputs.is_some() {
            return Ok(());
        }
        let painting = Painting::new(format, looks.clone(), None);
        let painted = painting.painted_format();
        let keep = state
            .outputs
            .as_ref()
            .map(Outputs::format)
            .filter(|out| *out == painted || !state.provisional);
        state.painting = match keep {
            Some(out) if out != painted => {
                info!(
                    "the picture is {}x{} now; the outputs keep their {}x{}",
                    painted.width, painted.height, out.width, out.height
                );
                Some(Painting::new(format, looks.clone(), Some(out)))
            }
            _ => Some(painting),
        };
        if keep.is_none() {
            let again = state.outputs.is_some();
            if let Some(Err(why)) = state.outputs.take().map(Outputs::finish) {
                if !self.options.live {
                    return Err(why);
                }
                warn!("{why}");
            }
            state.outputs = Some(self.open(painted, item.frame_rate, again)?);
        }
        state.provisional = false;
        Ok(())
    }

    /// Paints one frame and pushes it to every output; false if no buffer was free.
    fn compose(&self, state: &mut State, masks: Option<&mut Masks>, item: &ToCompose) -> Result<bool> {
        let frame = &item.frame;
        let mask = match masks {
            Some(masks) => masks.for_frame(frame, item.frame_rate),
            None => item.own_mask.as_deref(),
        };
        // A mask of another model is shown as that model's are.
        let looks = self.control.looks();
        let looks = match mask.map(|m| &m.looks) {
            Some(own) if own.model.generation != looks.model.generation => own.clone(),
            _ => looks,
        };
        self.make_ready(state, item, &looks)?;
        let pts_ns = rising(state, frame);
        let (Some(painting), Some(outputs)) = (&mut state.painting, &mut state.outputs) else {
            return Ok(false);
        };
        let Some(mut buffer) = outputs.buffer(&self.stop) else {
            return Ok(false);
        };
        self.tell(frame, mask, &looks);
        let vitals = &self.metrics.vitals;
        match mask {
            Some(mask) => {
                let age = frame.captured_at_ns.saturating_sub(mask.captured_at_ns);
                self.metrics.mask_age.record(age);
                vitals.mask_age_ns.store(age, Relaxed);
                vitals.last_masked_ns.store(self.clock.now_ns().max(1), Relaxed);
            }
            None => {
                self.metrics.without_mask.fetch_add(1, Relaxed);
                vitals.mask_age_ns.store(Vitals::NO_MASK, Relaxed);
            }
        }
        let hidden = self
            .metrics
            .time(Stage::Overlay, || painting.paint(frame, mask, &mut buffer));
        vitals.hidden.fetch_add(u64::from(hidden), Relaxed);
        if let Some(preparing) = vitals.preparing() {
            painting.say_preparing(&preparing, self.clock.now_ns(), &mut buffer);
        }
        if self.options.stamp {
            stamp::write(outputs.format(), &mut buffer, frame.captured_at_ns);
        }
        self.control.snapshots.offer(outputs.format(), &buffer);
        let painted = Frame {
            sequence: frame.sequence,
            captured_at_ns: frame.captured_at_ns,
            pts_ns,
            format: outputs.format(),
            damaged: frame.damaged,
            data: buffer,
        };
        state.last_sequence = frame.sequence;
        self.metrics.time(Stage::Stream, || {
            outputs.push(painted, false, &self.openers, &self.stop)
        })?;
        let now = self.clock.now_ns();
        let latency = now.saturating_sub(frame.captured_at_ns);
        self.metrics.capture_to_stream.record(latency);
        vitals.latency_ns.store(latency.max(1), Relaxed);
        vitals.last_composed_ns.store(now.max(1), Relaxed);
        self.metrics.composed.fetch_add(1, Relaxed);
        Ok(true)
    }

    /// Tells who wants to know what is seen.
    fn tell(&self, frame: &Frame, mask: Option<&TimedMask>, looks: &Looks) {
        let scenes = &self.control.scenes;
        if !scenes.is_wanted() {
            return;
        }
        let seen = match mask {
            Some(mask) => Seen::Scene(Arc::new(Scene::new(
                (frame.captured_at_ns, frame.sequence),
                mask.captured_at_ns,
                looks.model.clone(),
                mask.mask.clone(),
                mask.segments.clone(),
            ))),
            None => Seen::Unknown {
                captured_at_ns: frame.captured_at_ns,
                sequence: frame.sequence,
            },
        };
        scenes.offer(&seen);
    }

    /// Shows that the source is away, if that is due.
    fn show_lost(&self, state: &mut State, lost: &mut Lost) -> Result<()> {
        let now = self.clock.now_ns();
        let Some(away) = lost.due(now) else {
            return Ok(());
        };
        if state.outputs.is_none() {
            let options = lost.options();
            state.outputs = Some(self.open(options.format, options.frame_rate, false)?);
            state.provisional = true;
        }
        let Some(outputs) = &mut state.outputs else {
            return Ok(());
        };
        let Some(mut buffer) = outputs.buffer(&self.stop) else {
            return Ok(());
        };
        let format = outputs.format();
        let what = match self.metrics.vitals.last_captured_ns.load(Relaxed) {
            0 => "waiting for camera",
            _ => "camera lost",
        };
        notice(format, &[what, &in_words(away)], &mut buffer);
        self.control.snapshots.offer(format, &buffer);
        let picture = Frame {
            sequence: state.last_sequence,
            captured_at_ns: now,
            pts_ns: now,
            format,
            damaged: false,
            data: buffer,
        };
        self.metrics.vitals.notices.fetch_add(1, Relaxed);
        self.metrics.vitals.mask_age_ns.store(Vitals::NO_MASK, Relaxed);
        outputs.push(picture, true, &self.openers, &self.stop)
    }
}

/// The frame's own time, rising over all openings of the source.
fn rising(state: &mut State, frame: &Frame) -> u64 {
    let mut pts_ns = frame.pts_ns.saturating_add(state.pts_offset_ns);
    if pts_ns < state.last_pts_ns {
        // The times of a source that begins again continue, later by the time between the two captures.
        let gap = frame.captured_at_ns.saturating_sub(state.last_captured_ns).max(1);
        pts_ns = state.last_pts_ns.saturating_add(gap);
        state.pts_offset_ns = pts_ns.saturating_sub(frame.pts_ns);
    }
    state.last_pts_ns = pts_ns;
    state.last_captured_ns = frame.captured_at_ns;
    pts_ns
}
