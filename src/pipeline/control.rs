//! What can be changed while the pipeline runs: how masks are drawn and what is hidden, at once; the model,
//! between two frames.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::observe::SceneDesk;
#[cfg(feature = "gstreamer")]
use crate::output::{browser::EncoderDesk, clips::ClipDesk};
use crate::schedule::ScheduleOptions;
use crate::snapshot::SnapshotDesk;
use crate::turns::Turns;
use vision::error::{Error, Result};
use vision::frame::FrameFormat;
use vision::model::contract::Class;
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
    /// Classes, by their index, that are drawn in another colour than their model's.
    pub colors: BTreeMap<u8, [u8; 3]>,
}

impl Looks {
    /// How another model's masks are shown in the same way: its classes of the same names are drawn, coloured and hidden as
    /// before. Where it has none of those that are drawn, all are.
    ///
    /// # Errors
    /// Usage, if it lacks a class that is hidden: nothing would be hidden there.
    pub fn carried_to(&self, model: Arc<ModelInfo>) -> Result<Self> {
        let new_label = |label: usize| {
            let name = &self.model.classes.get(label)?.name;
            let known = model
                .classes
                .iter()
                .position(|class| class.name.eq_ignore_ascii_case(name))?;
            u8::try_from(known).ok()
        };
        let mut overlay = self.overlay.clone();
        if let Some(shown) = &self.overlay.shown {
            let known: Vec<u8> = shown
                .iter()
                .filter_map(|label| new_label(usize::from(*label)))
                .collect();
            overlay.shown = Some(known).filter(|known| !known.is_empty() || shown.is_empty());
        }
        let mut privacy = self.privacy.clone();
        if let Some(privacy) = &mut privacy {
            let before = std::mem::replace(&mut privacy.redact.how, vec![None; model.classes.len()]);
            for (label, how) in before.into_iter().enumerate().filter(|(_, how)| how.is_some()) {
                let known = new_label(label).and_then(|label| privacy.redact.how.get_mut(usize::from(label)));
                match known {
                    Some(slot) => *slot = how,
                    None => {
                        let name = self.model.classes.get(label).map_or("?", |class| &class.name);
                        return Err(Error::usage(format!(
                            "model {} has no class {name:?}, which is hidden: it would be seen",
                            model.name
                        ))
                        .hint("what is hidden is only shown again by the configuration file and a reload"));
                    }
                }
            }
        }
        let colors = self
            .colors
            .iter()
            .filter_map(|(label, color)| Some((new_label(usize::from(*label))?, *color)));
        Ok(Self {
            overlay,
            privacy,
            colors: colors.collect(),
            model,
        })
    }

    /// The model's classes in the colours in which they are drawn.
    pub fn colored(&self) -> Vec<Class> {
        let mut classes = self.model.classes.clone();
        for (label, color) in &self.colors {
            if let Some(class) = classes.get_mut(usize::from(*label)) {
                class.color = *color;
            }
        }
        classes
    }
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
    schedule: ArcSwapOption<ScheduleOptions>,
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
            schedule: ArcSwapOption::empty(),
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

    /// Which frames are segmented, if somebody has said so here; otherwise those that the pipeline began with.
    pub fn schedule(&self) -> Option<ScheduleOptions> {
        self.schedule.load().as_deref().copied()
    }

    /// Says which frames are segmented from now on. Its least time between two inferences is not looked at:
    /// [`set_infer_interval`](Self::set_infer_interval) says that.
    pub fn set_schedule(&self, schedule: ScheduleOptions) {
        self.schedule.store(Some(Arc::new(schedule)));
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

#[cfg(test)]
mod tests {
    use super::*;
    use vision::redact::How;

    fn model(name: &str, classes: &[&str]) -> Arc<ModelInfo> {
        let class = |name: &&str| Class {
            name: (*name).into(),
            color: [1, 2, 3],
            background: false,
            thing: false,
        };
        Arc::new(ModelInfo {
            name: name.into(),
            generation: 0,
            classes: classes.iter().map(class).collect(),
        })
    }

    #[test]
    fn another_model_shows_and_hides_what_is_called_the_same() {
        let looks = Looks {
            model: model("old", &["road", "person", "car"]),
            overlay: OverlayOptions {
                shown: Some(vec![2, 0]),
                alpha: 0.3,
                ..OverlayOptions::default()
            },
            privacy: Some(Privacy {
                redact: RedactOptions {
                    how: vec![None, Some(How::Fill), None],
                    margin: 0.1,
                },
                max_mask_age: Duration::from_millis(200),
            }),
            colors: BTreeMap::from([(0, [9, 9, 9]), (2, [8, 8, 8])]),
        };
        let new = model("new", &["Person", "sky", "car"]);
        let carried = looks.carried_to(new.clone()).unwrap();
        assert_eq!(
            (carried.overlay.shown, carried.overlay.alpha),
            (Some(vec![2]), 0.3)
        );
        let privacy = carried.privacy.unwrap();
        assert_eq!(privacy.redact.how, [Some(How::Fill), None, None]);
        assert_eq!(
            (privacy.redact.margin, privacy.max_mask_age),
            (0.1, Duration::from_millis(200))
        );
        assert_eq!(carried.colors, BTreeMap::from([(2, [8, 8, 8])]));
        let none = looks.carried_to(model("none", &["person", "sky"])).unwrap();
        assert_eq!(none.overlay.shown, None, "nothing of what was drawn: all is");
        let said = looks.carried_to(model("cats", &["cat"])).unwrap_err().to_string();
        assert!(
            said.contains("model cats has no class \"person\", which is hidden"),
            "{said}"
        );
        let open = Looks {
            privacy: None,
            overlay: OverlayOptions {
                shown: Some(vec![]),
                ..looks.overlay.clone()
            },
            ..looks
        };
        let nothing = open.carried_to(new).unwrap();
        assert_eq!((nothing.overlay.shown, nothing.privacy), (Some(vec![]), None));
    }
}
