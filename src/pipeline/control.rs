//! What can be changed while the pipeline runs: how masks are drawn and what is hidden, at once; the model,
//! between two frames.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::observe::SceneDesk;
#[cfg(feature = "gstreamer")]
use crate::output::{browser::EncoderDesk, clips::ClipDesk};
use crate::snapshot::SnapshotDesk;
use crate::turns::Turns;
use vision::frame::FrameFormat;
use vision::overlay::OverlayOptions;
use vision::redact::RedactOptions;
use vision::scene::ModelInfo;
use vision::segment::Engine;

/// What is hidden in every outgoing frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Privacy {
    /// Which classes, how, and how far around them.
    pub redact: RedactOptions,
    /// With a mask older than this, or none, the whole picture is hidden.
    pub max_mask_age: Duration,
}

/// How the masks of one model are shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Looks {
    /// Which model's masks this speaks of.
    pub model: Arc<ModelInfo>,
    /// How masks are drawn.
    pub overlay: OverlayOptions,
    /// What is hidden, if anything.
    pub privacy: Option<Privacy>,
}

/// A model that is prepared and waits to be swapped in.
pub struct NextModel {
    /// Segments with the new model.
    pub engine: Engine,
    /// How its masks are shown; a generation above all before.
    pub looks: Arc<Looks>,
}

/// Tells the model that was handed over last from those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u64);

/// What waits to be swapped in.
#[derive(Default)]
struct Next {
    model: Option<NextModel>,
    /// Models that were handed over so far.
    handed_over: u64,
}

/// Changes a running pipeline from another thread.
pub struct Control {
    looks: ArcSwap<Looks>,
    next: Mutex<Next>,
    infer_interval_ns: AtomicU64,
    format: Mutex<Option<FrameFormat>>,
    /// Outgoing pictures for whoever asks.
    pub snapshots: SnapshotDesk,
    /// What is seen, for who asks.
    pub scenes: SceneDesk,
    /// Encoded video for browsers.
    #[cfg(feature = "gstreamer")]
    pub video: Arc<EncoderDesk>,
    /// Where clips of events are asked for.
    #[cfg(feature = "gstreamer")]
    pub clips: Arc<ClipDesk>,
    turns: OnceLock<Arc<Turns>>,
}

impl Control {
    /// The state that a pipeline begins with.
    pub fn new(looks: Looks, infer_interval: Duration) -> Arc<Self> {
        Arc::new(Self {
            looks: ArcSwap::from_pointee(looks),
            next: Mutex::default(),
            infer_interval_ns: AtomicU64::new(infer_interval.as_nanos() as u64),
            format: Mutex::new(None),
            snapshots: SnapshotDesk::default(),
            scenes: SceneDesk::default(),
            #[cfg(feature = "gstreamer")]
            video: Arc::default(),
            #[cfg(feature = "gstreamer")]
            clips: Arc::default(),
            turns: OnceLock::new(),
        })
    }

    /// Inferences take turns with those of other pipelines. Once, before the pipeline runs.
    pub fn share(&self, turns: Arc<Turns>) {
        let _ = self.turns.set(turns);
    }

    /// Where turns are taken, if they are.
    pub(super) fn turns(&self) -> Option<&Arc<Turns>> {
        self.turns.get()
    }

    /// How masks are shown now.
    pub fn looks(&self) -> Arc<Looks> {
        self.looks.load_full()
    }

    /// Shows masks in another way from the next frame on. For another model, use [`swap_model`](Self::swap_model).
    pub fn set_looks(&self, looks: Looks) {
        self.looks.store(Arc::new(looks));
    }

    /// Shows the model's masks in the way that `change` makes of how they are shown now. Nothing is lost where several
    /// change something at once: `change` is then called again.
    pub fn change_looks(&self, mut change: impl FnMut(&Looks) -> Looks) {
        self.looks.rcu(|now| change(now));
    }

    /// Hands over a model; its masks are shown from its first one on. One that was handed over before and not
    /// taken yet is dropped.
    pub fn swap_model(&self, next: NextModel) {
        let mut slot = self.next();
        slot.handed_over += 1;
        slot.model = Some(next);
    }

    /// Stands for the model that runs, or was handed over last.
    pub fn ticket(&self) -> Ticket {
        Ticket(self.next().handed_over)
    }

    /// Hands over another engine of the same model. False, and nothing changes, if another model was handed over since
    /// `ticket` was taken.
    pub fn swap_engine(&self, engine: Engine, ticket: Ticket) -> bool {
        let mut slot = self.next();
        if slot.handed_over != ticket.0 {
            return false;
        }
        // The model's own looks, if its first engine was not taken yet.
        let looks = slot.model.take().map_or_else(|| self.looks(), |next| next.looks);
        slot.model = Some(NextModel { engine, looks });
        true
    }

    fn next(&self) -> MutexGuard<'_, Next> {
        // Its holders only copy or replace values.
        self.next.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// At least this long between the starts of two inferences.
    pub fn infer_interval(&self) -> Duration {
        Duration::from_nanos(self.infer_interval_ns.load(Relaxed))
    }

    /// Changes the time between inferences.
    pub fn set_infer_interval(&self, interval: Duration) {
        self.infer_interval_ns.store(interval.as_nanos() as u64, Relaxed);
    }

    /// The format of the frames that are segmented now; a new model is prepared for it before it is swapped in.
    pub fn format(&self) -> Option<FrameFormat> {
        *self.format.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(super) fn set_format(&self, format: FrameFormat) {
        *self.format.lock().unwrap_or_else(|e| e.into_inner()) = Some(format);
    }

    /// The model that waits, if one does.
    pub(super) fn take_next_model(&self) -> Option<NextModel> {
        self.next().model.take()
    }

    /// The first mask of a new model is there.
    pub(super) fn model_runs(&self, looks: &Arc<Looks>) {
        if self.looks.load().model.generation < looks.model.generation {
            self.looks.store(looks.clone());
        }
    }
}
