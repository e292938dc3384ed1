//! The inference thread: segments the frames that it gets, and publishes the masks.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tracing::info;

use super::control::{Control, Looks};
use super::{MASKS, NewestMask, TimedMask, ToCompose, ToInfer};
use crate::clock::{SharedClock, Stop};
use crate::error::Result;
use crate::frame::{FrameFormat, Mask, SharedFrame};
use crate::mailbox::{MailboxReceiver, MailboxSender, Received};
use crate::metrics::Metrics;
use crate::segment::Engine;

/// Segments the frames that it gets, and publishes the masks.
pub(super) struct InferStage {
    pub(super) engine: Engine,
    pub(super) from: MailboxReceiver<ToInfer>,
    pub(super) to_compose: Option<MailboxSender<ToCompose>>,
    pub(super) newest: Arc<NewestMask>,
    pub(super) control: Arc<Control>,
    /// How the engine's masks are shown.
    pub(super) looks: Arc<Looks>,
    pub(super) clock: SharedClock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) stop: Stop,
}

impl InferStage {
    pub(super) fn run(mut self) -> Result<()> {
        let mut masks: Vec<Arc<TimedMask>> = (0..MASKS)
            .map(|_| {
                Arc::new(TimedMask {
                    captured_at_ns: 0,
                    mask: Mask::zeros(0, 0),
                    looks: self.looks.clone(),
                })
            })
            .collect();
        let mut prepared: Option<FrameFormat> = None;
        let mut chosen = true;
        let mut next_ns = 0;
        loop {
            if self.clock.now_ns() < next_ns {
                self.clock.wait_until(next_ns, &self.stop);
            }
            let ToInfer { frame, frame_rate } = match self.from.recv() {
                Received::Item(item) => item,
                Received::Timeout => continue,
                Received::Closed => return Ok(()),
            };
            if let Some(next) = self.control.take_next_model() {
                self.engine = next.engine;
                self.looks = next.looks;
                prepared = None;
                chosen = true;
            }
            if prepared != Some(frame.format) {
                let on = self.engine.prepare(frame.format)?;
                let size = self
                    .engine
                    .input_size()
                    .map(|s| format!("{}x{}", s.width, s.height));
                let size = size.unwrap_or_default();
                info!(
                    backend = on.backend,
                    version = %on.version,
                    provider = %on.provider,
                    precision = %on.precision,
                    size,
                    "infer"
                );
                self.metrics.set_runs_on(format!(
                    "{} {} {} {} {size}",
                    on.backend, on.version, on.provider, on.precision
                ));
                self.metrics.vitals.set_runs_on(on, chosen);
                chosen = false;
                prepared = Some(frame.format);
                self.control.set_format(frame.format);
            }
            next_ns = self.clock.now_ns() + self.control.infer_interval().as_nanos() as u64;
            let Some(slot) = self.free_mask(&mut masks) else {
                return Ok(());
            };
            self.segment(frame, frame_rate, slot, &mut masks)?;
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

    fn segment(
        &mut self,
        frame: SharedFrame,
        frame_rate: Option<f64>,
        mut slot: Arc<TimedMask>,
        masks: &mut Vec<Arc<TimedMask>>,
    ) -> Result<()> {
        if let Some(timed) = Arc::get_mut(&mut slot) {
            let vitals = &self.metrics.vitals;
            vitals.infer_began_ns.store(self.clock.now_ns().max(1), Relaxed);
            let segmented = self.engine.segment(&frame.image(), &mut timed.mask);
            vitals.infer_began_ns.store(0, Relaxed);
            segmented?;
            timed.captured_at_ns = frame.captured_at_ns;
            if !Arc::ptr_eq(&timed.looks, &self.looks) {
                timed.looks = self.looks.clone();
            }
        }
        self.metrics.inferences.fetch_add(1, Relaxed);
        masks.push(slot.clone());
        match &self.to_compose {
            Some(to_compose) => {
                to_compose.send(ToCompose {
                    frame,
                    own_mask: Some(slot),
                    frame_rate,
                });
            }
            None => self.newest.set(slot),
        }
        self.control.model_runs(&self.looks);
        Ok(())
    }
}

/// Takes a mask that nobody else holds out of the list.
fn take_free(masks: &mut Vec<Arc<TimedMask>>) -> Option<Arc<TimedMask>> {
    let free = masks.iter_mut().position(|m| Arc::get_mut(m).is_some())?;
    Some(masks.swap_remove(free))
}
