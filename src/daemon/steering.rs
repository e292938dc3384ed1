//! What the page changes while pipelines run, beside reloads: one lock for both.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError, Weak};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::reload::{Fleet, Loading};
use crate::clock::Stop;
use crate::config::{LineLayer, ZoneLayer};
use crate::supervise::Background;
use crate::web::{Changer, Models};
use vision::error::{Error, Result};
use vision::model::Registry;

/// A model that was swapped in is waited for so long; until then nobody changes how masks are shown.
const TAKES_OVER_WITHIN: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);

/// A model that was asked for, and its thread.
#[derive(Default)]
struct Asked {
    models: Models,
    thread: Option<Background>,
}

/// The fleet, and those who change it.
pub struct Steering {
    fleet: Mutex<Fleet>,
    asked: Mutex<BTreeMap<String, Asked>>,
    /// Itself, for the threads that load models.
    itself: Weak<Self>,
}

impl Steering {
    /// Steers `fleet`.
    pub fn new(fleet: Fleet) -> Arc<Self> {
        Arc::new_cyclic(|itself| Self {
            fleet: Mutex::new(fleet),
            asked: Mutex::default(),
            itself: itself.clone(),
        })
    }

    /// The fleet, once nobody else changes it. A panic in between leaves each pipeline as it was or as it was to be.
    pub fn fleet(&self) -> MutexGuard<'_, Fleet> {
        self.fleet.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The fleet, if nobody changes it now: a reload may take minutes to prepare a model, and other requests wait behind this
    /// one.
    fn try_fleet(&self) -> Result<MutexGuard<'_, Fleet>> {
        match self.fleet.try_lock() {
            Ok(fleet) => Ok(fleet),
            Err(TryLockError::Poisoned(e)) => Ok(e.into_inner()),
            Err(TryLockError::WouldBlock) => {
                Err(Error::transient("the configuration is being read again")
                    .hint("try once more in a moment"))
            }
        }
    }

    fn asked(&self) -> MutexGuard<'_, BTreeMap<String, Asked>> {
        self.asked.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The configuration's models run again.
    pub(super) fn forget_models(&self) {
        for asked in self.asked().values_mut() {
            asked.models.chosen = None;
            asked.models.failed = None;
        }
    }

    /// Loads a model, and waits until its masks are shown.
    fn load(&self, camera: &str, model: &str, loading: &Loading, stop: &Stop) -> Result<()> {
        let watch = self.fleet().watch_of(camera);
        let (engine, choice) = loading.load(&watch)?;
        if stop.is_stopped() {
            return Ok(());
        }
        let backend = choice.backend.name();
        let generation = self.fleet().end_model(camera, loading, engine, choice)?;
        info!(camera, model, backend, "the new model is ready");
        let limit = Instant::now() + TAKES_OVER_WITHIN;
        while loading.control.looks().model.generation < generation && Instant::now() < limit {
            if stop.wait(LOOK) {
                break;
            }
        }
        Ok(())
    }

    /// Says what became of it.
    fn loaded(&self, camera: &str, model: String, outcome: Result<()>) {
        let mut asked = self.asked();
        let models = &mut asked.entry(camera.to_owned()).or_default().models;
        models.loading = None;
        match outcome {
            Ok(()) => models.chosen = Some(model),
            Err(why) => {
                warn!(
                    camera,
                    model, "the model is refused, the one before goes on: {why}"
                );
                models.failed = Some((model, why.to_string()));
            }
        }
    }
}

impl Changer for Steering {
    fn set_watch(&self, camera: &str, zones: &[ZoneLayer], lines: &[LineLayer]) -> Result<()> {
        self.try_fleet()?.set_watch(camera, zones, lines)
    }

    fn load_model(&self, camera: &str, model: &str) -> Result<()> {
        // A name, and no path to a folder that the configuration does not name.
        if model.contains('/') || model == "." || model == ".." {
            return Err(Error::usage(format!("{model:?} is no name of a model")));
        }
        Registry::from_environment().find(model)?;
        let loading = self.try_fleet()?.begin_model(camera, model)?;
        let mut asked = self.asked();
        let asked = asked.entry(camera.to_owned()).or_default();
        if let Some(other) = &asked.models.loading {
            return Err(Error::transient(format!("the model {other} is being loaded"))
                .hint("try again when it is there"));
        }
        let itself = self.itself.clone();
        let (camera, name) = (camera.to_owned(), model.to_owned());
        // The one before has ended.
        asked.thread = None;
        asked.thread = Some(Background::spawn("load-model", move |stop| {
            let Some(steering) = itself.upgrade() else {
                return;
            };
            let outcome = steering.load(&camera, &name, &loading, stop);
            steering.loaded(&camera, name, outcome);
        })?);
        asked.models.loading = Some(model.to_owned());
        asked.models.failed = None;
        Ok(())
    }

    fn models(&self, camera: &str) -> Models {
        self.asked()
            .get(camera)
            .map(|asked| asked.models.clone())
            .unwrap_or_default()
    }
}
