//! A changed configuration for pipelines that run: everything is read, checked and prepared before anything changes.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crossbeam_channel::{Receiver, select_biased};
use tracing::{error, info, warn};

use super::build::{Built, engine};
use super::check::check_outputs;
use super::events;
use super::steering::Steering;
use crate::choose::{Choice, ChoiceOptions, Chooser};
use crate::clock::{SharedClock, Stop};
use crate::config::{CameraSettings, LineLayer, Origin, Settings, ZoneLayer, check_watched};
use crate::events::watch::WatcherParts;
use crate::events::{EventDesk, Watch, Watching};
use crate::health::{Health, notify};
use crate::metrics::Metrics;
use crate::pipeline::control::{Control, Looks, NextModel};
use crate::supervise::Background;
use crate::upgrade::{self, Upgrade};
use crate::web::Gate;
use vision::error::{Error, Result};
use vision::model::contract::Contract;
use vision::scene::ModelInfo;
use vision::segment::Engine;

/// A pipeline that runs.
struct Running {
    choice: Choice,
    control: Arc<Control>,
    metrics: Arc<Metrics>,
    clock: SharedClock,
    /// Of the model that was chosen last.
    generation: u64,
    /// Moves the network to faster devices.
    upgrade: Option<Background>,
    /// Watches its zones and lines, once there is a desk.
    watching: Option<Watching>,
}

/// The pipelines that run, and the settings that they run with.
pub struct Fleet {
    /// What is in force. Its cameras are those that run, in the same order.
    settings: Settings,
    running: Vec<Running>,
    chooser: Arc<Chooser>,
    gate: Arc<Gate>,
    /// The cameras and the desk that their events go to, once there is one.
    health: Option<Health>,
}

/// All that new settings need, ready to be put in force.
pub struct Prepared {
    new: Settings,
    /// For each pipeline that runs what it changes to; `None` for one that goes on as it is.
    changes: Vec<Option<Change>>,
    /// What takes effect at the next start, in words for a log.
    restart: Vec<String>,
}

/// What one pipeline will be changed to.
struct Change {
    settings: CameraSettings,
    looks: Looks,
    next: Option<(Engine, Choice)>,
}

impl Running {
    /// Begins to move the network to the faster devices of its choice.
    fn upgrade(&mut self, chooser: &Arc<Chooser>) -> Result<()> {
        // One that is still at work for the model before ends by itself.
        self.upgrade = None;
        if self.choice.faster.is_empty() {
            return Ok(());
        }
        let steps = self.choice.faster.iter().map(|options| {
            let (options, metrics, chooser) = (options.clone(), self.metrics.clone(), chooser.clone());
            let model = self.choice.model.clone();
            upgrade::Step {
                name: options.device.provider().to_owned(),
                make: Box::new(move || {
                    let choice = chooser.choose_for(&options, (*model).clone())?;
                    Ok(engine(&choice, metrics))
                }),
            }
        });
        let upgrade = Upgrade {
            control: self.control.clone(),
            metrics: self.metrics.clone(),
            clock: self.clock.clone(),
            steps: steps.collect(),
        };
        self.upgrade = Some(Background::spawn("upgrade", move |stop| upgrade.run(stop))?);
        Ok(())
    }
}

impl Fleet {
    /// The pipelines that `built` will run, one for each camera of the settings.
    pub fn new(settings: Settings, built: &[Built], chooser: Arc<Chooser>) -> Self {
        let running = built.iter().map(|built| Running {
            choice: built.choice.clone(),
            control: built.parts.control.clone(),
            metrics: built.parts.metrics.clone(),
            clock: built.parts.clock.clone(),
            generation: 0,
            upgrade: None,
            watching: None,
        });
        Self {
            gate: Gate::new(settings.access.clone()),
            settings,
            running: running.collect(),
            chooser,
            health: None,
        }
    }

    /// The gate of the pages over HTTP, which follows the settings.
    pub fn gate(&self) -> Arc<Gate> {
        self.gate.clone()
    }

    /// What is in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Begins to move networks to faster devices, where that was asked for.
    ///
    /// # Errors
    /// Fatal if a thread can't be started.
    pub fn upgrade(&mut self) -> Result<()> {
        let chooser = &self.chooser;
        self.running.iter_mut().try_for_each(|r| r.upgrade(chooser))
    }

    /// Starts the sinks of events, begins to watch zones and lines, and tells the desk, whose cameras are those of the settings
    /// and of `health`.
    ///
    /// # Errors
    /// Fatal if a thread can't be started.
    pub fn watch(&mut self, desk: &Arc<EventDesk>, health: &Health) -> Result<()> {
        events::start(desk, &self.settings, health)?;
        self.health = Some(health.clone());
        let cameras = self.settings.cameras.iter().zip(desk.cameras());
        for ((settings, camera), running) in cameras.zip(&mut self.running) {
            let mut watching = Watching::new(WatcherParts {
                control: running.control.clone(),
                desk: desk.clone(),
                camera: camera.clone(),
                clock: running.clock.clone(),
            });
            watching.set(settings.watch.clone())?;
            running.watching = Some(watching);
        }
        Ok(())
    }

    /// Prepares all that new settings need and changes nothing: a new model is loaded, tested and prepared beside the old
    /// one.
    ///
    /// # Errors
    /// As [`build`](super::build): what a start would refuse as well.
    pub fn prepare(&self, new: Settings) -> Result<Prepared> {
        let mut diff = Settings::diff(&self.settings, &new);
        let mut restart = Vec::new();
        let mut changes = Vec::new();
        for (old, running) in self.settings.cameras.iter().zip(&self.running) {
            let Some(camera) = new.camera(&old.name) else {
                restart.push(format!("[[camera]] {}", old.name));
                changes.push(None);
                continue;
            };
            if running.metrics.vitals.failed().is_some() {
                restart.push(format!(
                    "{}: the camera has failed, and what is said of it",
                    camera.name
                ));
                changes.push(None);
                continue;
            }
            let differs = diff.cameras.iter_mut().find(|(name, _)| *name == camera.name);
            let differs = differs
                .map(|(_, differs)| std::mem::take(differs))
                .unwrap_or_default();
            let checked = match differs.outputs {
                true => check_outputs(camera),
                false => Ok(()),
            };
            let change = checked.and_then(|()| self.change(camera, running, differs.model));
            changes.push(Some(change.map_err(|e| match self.running.len() {
                1 => e,
                _ => e.in_camera(&camera.name),
            })?));
            restart.extend(differs.restart);
        }
        for camera in new.cameras.iter().filter(|c| diff.added.contains(&c.name)) {
            self.try_added(camera).map_err(|e| e.in_camera(&camera.name))?;
            restart.push(format!("[[camera]] {}", camera.name));
        }
        restart.append(&mut diff.restart);
        Ok(Prepared {
            new,
            changes,
            restart,
        })
    }

    /// Tries a camera that begins at the next start, which must not fail for it.
    fn try_added(&self, camera: &CameraSettings) -> Result<()> {
        check_outputs(camera)?;
        let model = camera.model.find()?;
        camera.looks(&model.contract, 0)?;
        self.chooser.choose_for(&camera.model, model).map(drop)
    }

    /// What one pipeline changes to.
    fn change(&self, camera: &CameraSettings, running: &Running, other_model: bool) -> Result<Change> {
        let model = camera.model.find()?;
        // A model of the same name may have new files.
        if !other_model && model.contract == running.choice.model.contract {
            return Ok(Change {
                settings: camera.clone(),
                looks: camera.looks(&model.contract, running.generation)?,
                next: None,
            });
        }
        // Classes that don't exist are told before a backend is tried.
        let looks = camera.looks(&model.contract, running.generation + 1)?;
        let choice = self.chooser.choose_for(&camera.model, model)?;
        let mut engine = engine(&choice, running.metrics.clone());
        if let Some(format) = running.control.format() {
            engine.prepare(format)?;
        }
        info!(
            camera = camera.name,
            model = choice.model.contract.name,
            backend = choice.backend.name(),
            "the new model is ready"
        );
        Ok(Change {
            settings: camera.clone(),
            looks,
            next: Some((engine, choice)),
        })
    }

    /// Puts what was prepared in force, and gives the keys that need a restart.
    ///
    /// # Errors
    /// If the addresses that are served don't take the new users, before anything has changed; fatal if a thread can't be
    /// started.
    pub fn apply(&mut self, prepared: Prepared) -> Result<Vec<String>> {
        self.gate.set_rules(prepared.new.access.clone())?;
        if let Err(refused) = apply_access(&prepared.new.access) {
            self.gate.set_rules(self.settings.access.clone())?;
            return Err(refused);
        }
        self.settings.access = prepared.new.access;
        self.settings.health = prepared.new.health;
        if let Some((health, desk)) = self.health.as_ref().and_then(|h| Some((h, h.events()?))) {
            events::change(desk, &self.settings.events, &prepared.new.events, health)?;
        }
        self.settings.events = prepared.new.events;
        let cameras = self.settings.cameras.iter_mut().zip(&mut self.running);
        for ((settings, running), change) in cameras.zip(prepared.changes) {
            let Some(change) = change else {
                continue;
            };
            *settings = change.settings;
            running.control.set_infer_interval(settings.infer_interval);
            running.control.set_schedule(settings.pipeline.schedule);
            if let Some(watching) = &mut running.watching {
                watching.set(settings.watch.clone())?;
            }
            match change.next {
                None => running.control.set_looks(change.looks),
                Some((engine, choice)) => {
                    running.generation = change.looks.model.generation;
                    running.choice = choice;
                    running.control.swap_model(NextModel {
                        engine,
                        looks: Arc::new(change.looks),
                    });
                    running.upgrade(&self.chooser)?;
                }
            }
        }
        Ok(prepared.restart)
    }
}

impl Fleet {
    /// Watches these zones and lines in the pictures of `camera`, in place of its own.
    ///
    /// # Errors
    /// Usage, as a start would refuse them, and nothing is changed; fatal if a thread can't be started.
    pub fn set_watch(&mut self, camera: &str, zones: &[ZoneLayer], lines: &[LineLayer]) -> Result<()> {
        let watch = self.settings.watch_with(camera, zones, lines)?;
        let cameras = self.settings.cameras.iter_mut().zip(&mut self.running);
        for (settings, running) in cameras.filter(|(settings, _)| settings.name == camera) {
            let looks = running.control.looks();
            let model = &looks.model;
            check_watched(&watch, &model.classes, &model.name, looks.privacy.as_ref())?;
            if let Some(watching) = &mut running.watching {
                watching.set(watch.clone())?;
            }
            settings.watch.clone_from(&watch);
        }
        Ok(())
    }

    /// What is watched in the pictures of `camera`.
    pub(super) fn watch_of(&self, camera: &str) -> Watch {
        self.settings
            .camera(camera)
            .map(|camera| camera.watch.clone())
            .unwrap_or_default()
    }

    /// What is needed to load another model beside the one that runs for `camera`.
    ///
    /// # Errors
    /// Usage if there is no such camera.
    pub(super) fn begin_model(&self, camera: &str, model: &str) -> Result<Loading> {
        let mut cameras = self.settings.cameras.iter().zip(&self.running);
        let found = cameras.find(|(settings, _)| settings.name == camera);
        let (settings, running) = found.ok_or_else(|| Error::usage(format!("no camera {camera:?}")))?;
        let replaced = settings.model.clone();
        Ok(Loading {
            wanted: ChoiceOptions {
                model: model.to_owned(),
                ..replaced.clone()
            },
            replaced,
            chooser: self.chooser.clone(),
            control: running.control.clone(),
            metrics: running.metrics.clone(),
        })
    }

    /// Swaps a loaded model in, shown in the way in which masks are shown now; gives its generation.
    ///
    /// # Errors
    /// Usage, and nothing is changed, if the configuration was read again meanwhile, or the model lacks a class that is hidden
    /// or that a zone or line looks for; fatal if a thread can't be started.
    pub(super) fn end_model(
        &mut self,
        camera: &str,
        loading: &Loading,
        engine: Engine,
        choice: Choice,
    ) -> Result<u64> {
        let mut cameras = self.settings.cameras.iter_mut().zip(&mut self.running);
        let found = cameras.find(|(settings, _)| settings.name == camera);
        let (settings, running) = found.ok_or_else(|| Error::usage(format!("no camera {camera:?}")))?;
        if !settings.model.asks_the_same(&loading.replaced) {
            return Err(Error::usage(
                "the configuration was read again meanwhile, and has changed the model",
            ));
        }
        let generation = running.generation + 1;
        let looks = loading.looks(&choice.model.contract, generation, &settings.watch)?;
        settings.model.clone_from(&loading.wanted);
        running.generation = generation;
        running.choice = choice;
        running.control.swap_model(NextModel {
            engine,
            looks: Arc::new(looks),
        });
        running.upgrade(&self.chooser)?;
        Ok(generation)
    }
}

/// A model that is being loaded for one pipeline.
pub(super) struct Loading {
    wanted: ChoiceOptions,
    /// What was asked for before.
    replaced: ChoiceOptions,
    chooser: Arc<Chooser>,
    pub(super) control: Arc<Control>,
    metrics: Arc<Metrics>,
}

impl Loading {
    /// How the model's masks are shown.
    fn looks(&self, contract: &Contract, generation: u64, watch: &Watch) -> Result<Looks> {
        let looks = self
            .control
            .looks()
            .carried_to(ModelInfo::of(contract, generation))?;
        check_watched(watch, &contract.classes, &contract.name, looks.privacy.as_ref())?;
        Ok(looks)
    }

    /// Finds, tests and prepares the model. Takes seconds, or minutes where an engine is built.
    ///
    /// # Errors
    /// What a start would refuse as well, or as [`Fleet::end_model`].
    pub(super) fn load(&self, watch: &Watch) -> Result<(Engine, Choice)> {
        let model = self.wanted.find()?;
        // What is wrong with its classes is told before a backend is tried.
        self.looks(&model.contract, 0, watch)?;
        let choice = self.chooser.choose_for(&self.wanted, model)?;
        let mut engine = engine(&choice, self.metrics.clone());
        if let Some(format) = self.control.format() {
            engine.prepare(format)?;
        }
        Ok((engine, choice))
    }
}

#[cfg(feature = "gstreamer")]
fn apply_access(access: &crate::output::access::RtspAccess) -> Result<()> {
    crate::output::rtsp_server::set_access(access)
}

#[cfg(not(feature = "gstreamer"))]
fn apply_access(_access: &crate::output::access::RtspAccess) -> Result<()> {
    Ok(())
}

/// Reads the configuration again whenever SIGHUP has come or the file has changed.
pub(super) fn on_signal(
    [asked, changed]: [Receiver<()>; 2],
    origin: Origin,
    steering: Arc<Steering>,
    health: Health,
) -> Result<Background> {
    Background::spawn("reload", move |stop: &Stop| {
        loop {
            select_biased! {
                recv(stop.channel()) -> _ => return,
                recv(asked) -> fired => if fired.is_err() { return },
                recv(changed) -> fired => if fired.is_err() { return },
            }
            let mut fleet = steering.fleet();
            notify::reloading();
            if origin.file().is_none() {
                warn!(
                    "SIGHUP: there is no configuration file to read again (--config FILE, or /etc/segd/segd.toml); nothing \
                     was changed"
                );
                notify::reloaded("no configuration file to reload");
                continue;
            }
            let prepared = origin.settings().and_then(|new| fleet.prepare(new));
            match prepared.and_then(|prepared| fleet.apply(prepared)) {
                Ok(restart) => {
                    steering.forget_models();
                    info!("the configuration was read again and is in force");
                    for key in &restart {
                        warn!("{key} has changed: that takes effect at the next start");
                    }
                    health.reloads.taken.fetch_add(1, Relaxed);
                    notify::reloaded("configuration reloaded");
                }
                Err(e) => {
                    error!("the new configuration is refused, nothing was changed: {e}");
                    health.reloads.refused.fetch_add(1, Relaxed);
                    notify::reloaded(&format!("new configuration refused: {e}"));
                }
            }
        }
    })
}
