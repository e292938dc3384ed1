//! The daemon: pipelines side by side, their health, and changes of the configuration while they run.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{Receiver, select_biased};
use tracing::{error, info, warn};

use crate::choose::{Choice, ChoiceOptions};
use crate::cli::run::{
    Built, RunArgs, access_from, build_camera, cameras, infer_interval, looks_from, pipeline_options,
    read_config, source_from, stream_options, wanted,
};
use crate::cli::status;
use crate::clock::{SharedClock, Stop};
use crate::config::{CameraConfig, FileConfig, PrivacyFile};
use crate::health::{Health, Limits, Watched, http, notify};
use crate::metrics::Metrics;
use crate::output::parse_output;
use crate::pipeline;
use crate::pipeline::control::{Control, Looks, NextModel};
use crate::supervise::{Background, Job, run_all, signals};
use crate::turns::Turns;
use crate::upgrade::{self, Upgrade};
use vision::error::Result;
use vision::infer::Device;
use vision::segment::Engine;

/// How long after the start nothing but a missing camera counts as unwell.
const WARM_UP: Duration = Duration::from_secs(20);

/// A pipeline that runs, as a reload sees it.
struct Running {
    config: CameraConfig,
    choice: Choice,
    control: Arc<Control>,
    metrics: Arc<Metrics>,
    clock: SharedClock,
    /// Of the model that was chosen last.
    generation: u64,
    /// Moves the network to faster devices.
    upgrade: Option<Background>,
}

impl Running {
    /// Begins to move the network to the faster devices of its choice.
    fn upgrade(&mut self) -> Result<()> {
        // One that is still at work for the model before ends by itself.
        self.upgrade = None;
        if self.choice.faster.is_empty() {
            return Ok(());
        }
        let step = |options: &ChoiceOptions| {
            let (options, metrics) = (options.clone(), self.metrics.clone());
            let model = self.choice.model.clone();
            upgrade::Step {
                name: options.device.provider().to_owned(),
                make: Box::new(move || Ok(engine(&options.choose_for((*model).clone())?, metrics))),
            }
        };
        let upgrade = Upgrade {
            control: self.control.clone(),
            metrics: self.metrics.clone(),
            clock: self.clock.clone(),
            steps: self.choice.faster.iter().map(step).collect(),
        };
        self.upgrade = Some(Background::spawn("upgrade", move |stop| upgrade.run(stop))?);
        Ok(())
    }
}

/// Segments with what was chosen.
fn engine(choice: &Choice, metrics: Arc<Metrics>) -> Engine {
    Engine::new(
        choice.model.clone(),
        choice.backend.clone(),
        choice.longest,
        metrics,
    )
    .with_fallbacks(choice.fallbacks.clone())
}

/// Runs until the sources have ended or a signal comes.
///
/// # Errors
/// Usage for wrong arguments or configuration; otherwise what ended a pipeline.
pub fn run(args: RunArgs) -> Result<()> {
    let file = read_config(args.config.as_ref())?;
    let configs = cameras(&args, &file)?;
    let builds_engines = |config: &CameraConfig| {
        let options = args.model.over(&config.model);
        options.is_ok_and(|options| options.device == Device::TensorRt)
    };
    let preparing = match configs.iter().any(builds_engines) {
        true => Some(notify::preparing()?),
        false => None,
    };
    let mut built = Vec::with_capacity(configs.len());
    for config in &configs {
        let made = build_camera(&args, config, &file, Metrics::shared());
        built.push(made.map_err(|e| match configs.len() {
            1 => e,
            _ => e.in_camera(&config.name),
        })?);
    }
    drop(preparing);
    if built.len() > 1 {
        let turns = Turns::new(std::thread::available_parallelism().map_or(1, usize::from));
        built.iter().for_each(|b| b.parts.control.share(turns.clone()));
    }
    let live = built.iter().all(|b| b.options.live);
    let health = Health::new(watched(&configs, &built, &file)?);
    let signals = signals(notify::stopping)?;
    let _http = if live {
        serve_health(&args, &file, &health)?
    } else {
        None
    };
    let _status = status::log_status(health.clone())?;
    let _progress = match (live, built.as_slice()) {
        (false, [only]) => status::show_progress(only.parts.metrics.clone(), args.frames)?,
        _ => None,
    };
    let mut running: Vec<Running> = configs
        .into_iter()
        .zip(&built)
        .map(|(config, built)| Running {
            config,
            choice: built.choice.clone(),
            control: built.parts.control.clone(),
            metrics: built.parts.metrics.clone(),
            clock: built.parts.clock.clone(),
            generation: 0,
            upgrade: None,
        })
        .collect();
    running.iter_mut().try_for_each(Running::upgrade)?;
    let jobs = running
        .iter()
        .zip(built)
        .map(|(running, built)| {
            let metrics = running.metrics.clone();
            Job {
                name: running.config.name.clone(),
                run: Box::new(move |stop| {
                    pipeline::run(built.parts, built.options, stop)
                        .inspect_err(|e| metrics.vitals.set_failed(e.to_string()))
                }),
            }
        })
        .collect();
    let _notify = notify::start(health.clone())?;
    let _reload = reload_on(signals.reload, args, file, running, health)?;
    run_all(jobs, &signals.stop)?;
    Ok(())
}

fn watched(configs: &[CameraConfig], built: &[Built], file: &FileConfig) -> Result<Vec<Watched>> {
    let mask_age_ms = file.health.max_mask_age_ms.unwrap_or(3_000);
    crate::config::check_range("health.max_mask_age_ms", mask_age_ms as f64, 1.0..=3_600_000.0)?;
    let one = |(config, built): (&CameraConfig, &Built)| Watched {
        name: config.name.clone(),
        metrics: built.parts.metrics.clone(),
        clock: built.parts.clock.clone(),
        control: built.parts.control.clone(),
        limits: Limits {
            silence: built.options.stall_timeout,
            mask_age: Duration::from_millis(mask_age_ms),
            warm_up: WARM_UP,
        },
        began_ns: built.parts.clock.now_ns(),
    };
    Ok(configs.iter().zip(built).map(one).collect())
}

/// Starts HTTP. A port that was asked for must be had; the default one may be another segd's.
fn serve_health(args: &RunArgs, file: &FileConfig, health: &Health) -> Result<Option<Background>> {
    let insecure = args.insecure || file.access.insecure.unwrap_or(false);
    let asked = args.http.clone().or_else(|| file.health.listen.clone());
    let bound = match asked.as_deref() {
        Some("") => return Ok(None),
        Some(listen) => http::bind(listen, insecure)?,
        None => match http::bind(http::DEFAULT_LISTEN, insecure) {
            Ok(bound) => bound,
            Err(e) => {
                info!("no health over HTTP: {e}");
                return Ok(None);
            }
        },
    };
    bound.serve(health.clone()).map(Some)
}

/// Reads the configuration again whenever `asked` fires.
fn reload_on(
    asked: Receiver<()>,
    args: RunArgs,
    file: FileConfig,
    running: Vec<Running>,
    health: Health,
) -> Result<Background> {
    let state = Mutex::new((file, running));
    Background::spawn("reload", move |stop: &Stop| {
        loop {
            select_biased! {
                recv(stop.channel()) -> _ => return,
                recv(asked) -> fired => if fired.is_err() { return },
            }
            let mut state = state.lock().unwrap_or_else(|e| e.into_inner());
            let (file, running) = &mut *state;
            notify::reloading();
            match reload(&args, file, running) {
                Ok(restart) => {
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

/// What one pipeline will be changed to.
struct Change {
    looks: Looks,
    interval: Duration,
    next: Option<(Engine, Choice)>,
}

/// Reads, checks and prepares everything, and only then changes anything. Gives the keys that need a restart.
fn reload(args: &RunArgs, file: &mut FileConfig, running: &mut [Running]) -> Result<Vec<String>> {
    let new_file = read_config(args.config.as_ref())?;
    let configs = cameras(args, &new_file)?;
    let access = access_from(args, &new_file.access)?;
    let mut restart = Vec::new();
    let mut changes = Vec::new();
    for old in running.iter() {
        let Some(config) = configs.iter().find(|c| c.name == old.config.name) else {
            restart.push(format!("[[camera]] {}", old.config.name));
            changes.push(None);
            continue;
        };
        if old.metrics.vitals.failed().is_some() {
            restart.push(format!(
                "{}: the camera has failed, and what is said of it",
                config.name
            ));
            changes.push(None);
            continue;
        }
        let change = prepare(args, config, &new_file, old).map_err(|e| match running.len() {
            1 => e,
            _ => e.in_camera(&config.name),
        })?;
        restart.extend(needs_restart(&old.config, config));
        changes.push(Some((config.clone(), change)));
    }
    for config in &configs {
        if !running.iter().any(|r| r.config.name == config.name) {
            restart.push(format!("[[camera]] {}", config.name));
        }
    }
    if new_file.health != file.health {
        restart.push("[health]".into());
    }
    if new_file.access.max_bitrate_kbps != file.access.max_bitrate_kbps {
        restart.push("access.max_bitrate_kbps".into());
    }
    apply_access(&access)?;
    for (old, change) in running.iter_mut().zip(changes) {
        let Some((config, change)) = change else {
            continue;
        };
        old.config = config;
        old.control.set_infer_interval(change.interval);
        match change.next {
            None => old.control.set_looks(change.looks),
            Some((engine, choice)) => {
                old.generation = change.looks.model.generation;
                old.choice = choice;
                old.control.swap_model(NextModel {
                    engine,
                    looks: Arc::new(change.looks),
                });
                old.upgrade()?;
            }
        }
    }
    *file = new_file;
    Ok(restart)
}

#[cfg(feature = "gstreamer")]
fn apply_access(access: &crate::output::access::RtspAccess) -> Result<()> {
    crate::output::rtsp_server::set_access(access)
}

#[cfg(not(feature = "gstreamer"))]
fn apply_access(_access: &crate::output::access::RtspAccess) -> Result<()> {
    Ok(())
}

/// Makes all that a changed configuration needs: a new model is loaded, tested and prepared beside the old one.
fn prepare(args: &RunArgs, config: &CameraConfig, file: &FileConfig, old: &Running) -> Result<Change> {
    let (spec, _) = source_from(&args.source, &config.capture)?;
    pipeline_options(args, config, &spec)?;
    let stream = stream_options(args, config, file)?;
    for output in &config.outputs {
        parse_output(output)?.opener(&stream)?;
    }
    let interval = infer_interval(args, &config.model)?;
    let model = |config: &CameraConfig| crate::config::ModelFile {
        max_inferences_per_second: None,
        ..config.model.clone()
    };
    let wanted = wanted(args, config, file.camera.len().max(1))?;
    // A model of the same name may have new files.
    let same_model =
        model(config) == model(&old.config) && wanted.find()?.contract == old.choice.model.contract;
    if same_model {
        let looks = looks_from(args, config, &old.choice.model.contract, old.generation)?;
        return Ok(Change {
            looks,
            interval,
            next: None,
        });
    }
    let choice = wanted.choose()?;
    let looks = looks_from(args, config, &choice.model.contract, old.generation + 1)?;
    let mut engine = engine(&choice, old.metrics.clone());
    if let Some(format) = old.control.format() {
        engine.prepare(format)?;
    }
    info!(
        camera = config.name,
        model = choice.model.contract.name,
        backend = choice.backend.name(),
        why = choice.why,
        "the new model is ready"
    );
    Ok(Change {
        looks,
        interval,
        next: Some((engine, choice)),
    })
}

/// The sections that differ and are only read at the start.
fn needs_restart(old: &CameraConfig, new: &CameraConfig) -> Vec<String> {
    let mut keys = Vec::new();
    let mut differ = |name: &str, differs: bool| {
        if differs {
            keys.push(format!("{}: {name}", new.name));
        }
    };
    differ("[capture]", old.capture != new.capture);
    differ("[masks]", old.masks != new.masks);
    differ(
        "[privacy] is new or gone, and with it how often masks are made: this",
        (old.privacy == PrivacyFile::default()) != (new.privacy == PrivacyFile::default()),
    );
    differ("[stream]", old.stream != new.stream || old.outputs != new.outputs);
    keys
}
