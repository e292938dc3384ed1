//! The daemon: pipelines side by side, their health, and changes of the configuration while they run.
//!
//! `build.rs` puts pipelines together from [`Settings`], `reload.rs` changes those that run, `hint.rs` says how to watch
//! them, and `status.rs` how they do.

mod build;
mod check;
#[cfg(feature = "gstreamer")]
mod clips;
mod events;
mod hint;
pub mod reload;
mod steering;
pub mod status;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded, never};
use tracing::info;

use crate::choose::Chooser;
use crate::config::{DEFAULT_LISTEN, FileLook, Origin, Settings};
use crate::health::{Health, Limits, Watched, notify};
use crate::pipeline;
use crate::supervise::{Background, Hangups, Job, Ticker, run_all, signals};
use crate::turns::Turns;
use crate::web;
use vision::error::{Error, Result};
use vision::file;
use vision::infer::Device;

pub use build::{Built, build, build_camera};
pub use check::check_outputs;
use reload::Fleet;
use steering::Steering;

/// How long after the start nothing but a missing camera counts as unwell.
const WARM_UP: Duration = Duration::from_secs(20);

/// How often the configuration file is looked at, where it is.
const LOOK: Duration = Duration::from_secs(1);

/// Runs until the sources have ended or a signal comes. With `watches_config` the configuration file is read again when it
/// changes, as at SIGHUP.
///
/// # Errors
/// Usage for wrong arguments or configuration; otherwise what ended a pipeline.
pub fn run(origin: Origin, watches_config: bool) -> Result<()> {
    let hangups = Hangups::take()?;
    let (changed, _watch) = match watches_config {
        true => watch(&origin)?,
        false => (never(), None),
    };
    let settings = origin.settings()?;
    let chooser = Arc::new(Chooser::default());
    let builds_engines = |device| device == Device::TensorRt;
    let preparing = match settings.cameras.iter().any(|c| builds_engines(c.model.device)) {
        true => Some(notify::preparing()?),
        false => None,
    };
    let built = build(&settings, &chooser)?;
    drop(preparing);
    if built.len() > 1 {
        let turns = Turns::new(std::thread::available_parallelism().map_or(1, usize::from));
        built.iter().for_each(|b| b.parts.control.share(turns.clone()));
    }
    let live = built.iter().all(|b| b.options.live);
    let desk = events::desk(&settings);
    let health = Health::new(watched(&settings, &built)).with_events(desk.clone());
    let signals = signals(&hangups, notify::stopping)?;
    let fleet = Fleet::new(settings.clone(), &built, chooser);
    let gate = fleet.gate();
    let steering = Steering::new(fleet);
    let _http = if live {
        let app = web::App::new(health.clone(), gate).with_origin(origin.clone());
        serve_health(&settings, app.with_changer(steering.clone()))?
    } else {
        None
    };
    hint::say(&settings, _http.as_ref().map(|(page, _)| *page));
    let _status = status::log_status(health.clone())?;
    let _progress = match (live, built.as_slice()) {
        (false, [only]) => status::show_progress(only.parts.metrics.clone(), only.options.max_frames)?,
        _ => None,
    };
    {
        let mut fleet = steering.fleet();
        fleet.upgrade()?;
        fleet.watch(&desk, &health)?;
    }
    let jobs = settings.cameras.iter().zip(built);
    let jobs = jobs.map(|(camera, built)| {
        let metrics = built.parts.metrics.clone();
        Job {
            name: camera.name.clone(),
            run: Box::new(move |stop| {
                pipeline::run(built.parts, built.options, stop)
                    .inspect_err(|e| metrics.vitals.set_failed(e.to_string()))
            }),
        }
    });
    let jobs = jobs.collect();
    let _notify = notify::start(health.clone())?;
    let _reload = reload::on_signal([signals.reload, changed], origin, steering, health)?;
    let ended = run_all(jobs, &signals.stop);
    desk.close();
    ended.map(drop)
}

/// Fires when the configuration file has changed; several changes while one is dealt with count as one.
fn watch(origin: &Origin) -> Result<(Receiver<()>, Option<Ticker>)> {
    let path = origin.file().ok_or_else(|| {
        Error::usage("--watch-config: there is no configuration file to watch")
            .hint("name one with --config, or make /etc/segd/segd.toml")
    })?;
    file::check(&path).or_else(|e| match e.kind() {
        // It is waited for.
        ErrorKind::NotFound => Ok(()),
        _ => Err(Error::usage(format!("--watch-config: {}", path.display()))
            .caused_by(e)
            .hint("what is no file can be read once alone")),
    })?;
    let (tx, changed) = bounded(1);
    let mut look = FileLook::new(path.clone());
    let ticker = Ticker::start("watch", LOOK, move || {
        if look.has_changed() {
            info!("{} has changed", path.display());
            let _ = tx.try_send(());
        }
    })?;
    Ok((changed, Some(ticker)))
}

fn watched(settings: &Settings, built: &[Built]) -> Vec<Watched> {
    let cameras = settings.cameras.iter().zip(built);
    cameras
        .map(|(camera, built)| Watched {
            name: camera.name.clone(),
            metrics: built.parts.metrics.clone(),
            clock: built.parts.clock.clone(),
            control: built.parts.control.clone(),
            limits: Limits {
                silence: built.options.stall_timeout,
                mask_age: settings.health.max_mask_age,
                warm_up: WARM_UP,
            },
            began_ns: built.parts.clock.now_ns(),
        })
        .collect()
}

/// Starts HTTP. A port that was asked for must be free; the default one may belong to another segd.
fn serve_health(settings: &Settings, app: web::App) -> Result<Option<(SocketAddr, Background)>> {
    let bound = match settings.health.listen.as_deref() {
        Some("") => return Ok(None),
        Some(listen) => web::bind(listen, &settings.access)?,
        None => match web::bind(DEFAULT_LISTEN, &settings.access) {
            Ok(bound) => bound,
            Err(e) => {
                info!("no health over HTTP: {e}");
                return Ok(None);
            }
        },
    };
    let address = bound.address();
    let serving = bound.with_webrtc(&settings.health.webrtc)?.serve(app)?;
    Ok(Some((address, serving)))
}
