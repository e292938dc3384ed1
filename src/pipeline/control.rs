//! What can be changed while the pipeline runs: how masks are drawn and what is hidden, at once; the model,
//! between two frames.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::frame::FrameFormat;
use crate::model::contract::Class;
use crate::overlay::OverlayOptions;
use crate::redact::RedactOptions;
use crate::segment::Engine;
use crate::snapshot::SnapshotDesk;
use crate::turns::Turns;

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
    /// Which model's labels this speaks of; counts the models that have run.
    pub generation: u64,
    /// The model's classes.
    pub classes: Vec<Class>,
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

/// Changes a running pipeline from another thread.
pub struct Control {
    looks: ArcSwap<Looks>,
    next_model: Mutex<Option<NextModel>>,
    infer_interval_ns: AtomicU64,
    format: Mutex<Option<FrameFormat>>,
    /// Outgoing pictures for who asks.
    pub snapshots: SnapshotDesk,
    turns: OnceLock<Arc<Turns>>,
}

impl Control {
    /// The state that a pipeline begins with.
    pub fn new(looks: Looks, infer_interval: Duration) -> Arc<Self> {
        Arc::new(Self {
            looks: ArcSwap::from_pointee(looks),
            next_model: Mutex::new(None),
            infer_interval_ns: AtomicU64::new(infer_interval.as_nanos() as u64),
            format: Mutex::new(None),
            snapshots: SnapshotDesk::default(),
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

    /// Hands over a model; its masks are shown from its first one on. One that was handed over before and not
    /// taken yet is dropped.
    pub fn swap_model(&self, next: NextModel) {
        *self.next_model.lock().unwrap_or_else(|e| e.into_inner()) = Some(next);
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
        self.next_model.lock().unwrap_or_else(|e| e.into_inner()).take()
    }

    /// The first mask of a new model is there.
    pub(super) fn model_runs(&self, looks: &Arc<Looks>) {
        if self.looks.load().generation < looks.generation {
            self.looks.store(looks.clone());
        }
    }
}
