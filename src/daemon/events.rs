//! Where events go, from settings.

use std::collections::BTreeMap;
#[cfg(feature = "gstreamer")]
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{EventSettings, Settings};
use crate::events::EventDesk;
use crate::events::file::{Lines, Stdout};
use crate::events::history;
use crate::events::mqtt::{self, Camera, MqttOptions};
use crate::events::snapshots;
use crate::events::webhook;
use crate::health::Health;
#[cfg(feature = "gstreamer")]
use crate::output::{OutputSpec, clips::ClipDesk};
use vision::error::Result;

/// A desk for the cameras of the settings.
pub(super) fn desk(settings: &Settings) -> Arc<EventDesk> {
    EventDesk::new(settings.cameras.iter().map(|camera| camera.name.as_str()))
}

/// Starts the sinks of the settings. The cameras of `health` are those of the desk.
///
/// # Errors
/// Fatal if a thread can't be started.
pub(super) fn start(desk: &EventDesk, settings: &Settings, health: &Health) -> Result<()> {
    change(desk, &EventSettings::default(), &settings.events, health)?;
    #[cfg(feature = "gstreamer")]
    {
        let clips = clips(settings, health);
        if !clips.is_empty() {
            let to: Vec<String> = clips
                .iter()
                .map(|(_, folder, _)| folder.display().to_string())
                .collect();
            let folders = clips
                .iter()
                .map(|(name, folder, _)| (name.clone(), folder.clone()));
            desk.set_clips(folders.collect());
            let desks = clips.into_iter().map(|(name, _, desk)| (name, desk)).collect();
            desk.add("clips", to.join(", "), Box::new(super::clips::Clips(desks)))?;
        }
    }
    Ok(())
}

/// Starts the sinks that are new or others than before, and ends those that were there in their place. The rest go on.
///
/// # Errors
/// Fatal if a thread can't be started.
pub(super) fn change(
    desk: &EventDesk,
    old: &EventSettings,
    new: &EventSettings,
    health: &Health,
) -> Result<()> {
    if (old.stdout, &old.file) != (new.stdout, &new.file) {
        // The new one takes over before the old one has ended: no event is missed between the two.
        let _ends = desk.take("file");
        if new.stdout {
            desk.add("file", "-".into(), Box::new(Stdout))?;
        }
        if let Some(file) = new.file.clone() {
            let to = file.path.display().to_string();
            desk.add("file", to, Box::new(Lines::new(file)))?;
        }
    }
    if old.history != new.history {
        let _ends = desk.take("history");
        desk.set_history(new.history.as_ref().map(|history| history.path.clone()));
        if let Some(options) = new.history.clone() {
            let (to, cameras) = (options.path.display().to_string(), desk.cameras().to_vec());
            desk.attach("history", to, move |state, from, stop| {
                history::run(&options, &cameras, state, from, stop);
            })?;
        }
    }
    if old.snapshots != new.snapshots {
        let _ends = desk.take("snapshots");
        desk.set_snapshots(new.snapshots.as_ref().map(|pictures| pictures.folder.clone()));
        if let Some(options) = new.snapshots.clone() {
            let to = options.folder.display().to_string();
            let cameras = health.cameras().iter();
            let cameras: BTreeMap<_, _> = cameras
                .map(|camera| (camera.name.clone(), camera.control.clone()))
                .collect();
            desk.attach("snapshots", to, move |state, from, stop| {
                snapshots::run(&options, &cameras, state, from, stop);
            })?;
        }
    }
    if old.webhook != new.webhook {
        let _ends = desk.take("webhook");
        if let Some(options) = new.webhook.clone() {
            let to = webhook::host_of(&options.url);
            desk.attach("webhook", to, move |state, from, stop| {
                webhook::run(&options, state, from, stop);
            })?;
        }
    }
    if old.mqtt != new.mqtt {
        // Both would have one name at the broker, which knows one connection of a name.
        drop(desk.take("mqtt"));
        if let Some(options) = new.mqtt.clone() {
            start_mqtt(desk, options, health)?;
        }
    }
    Ok(())
}

/// The cameras that keep clips: name, folder, where clips are asked for.
#[cfg(feature = "gstreamer")]
fn clips(settings: &Settings, health: &Health) -> Vec<(String, PathBuf, Arc<ClipDesk>)> {
    let cameras = settings.cameras.iter().zip(health.cameras());
    let with_clips = cameras.filter_map(|(camera, watched)| {
        let folder = camera.outputs.iter().find_map(|output| match output {
            OutputSpec::Clips(folder) => Some(folder.clone()),
            _ => None,
        })?;
        Some((camera.name.clone(), folder, watched.control.clips.clone()))
    });
    with_clips.collect()
}

fn start_mqtt(desk: &EventDesk, options: MqttOptions, health: &Health) -> Result<()> {
    let cameras = desk.cameras().iter().zip(health.cameras());
    let cameras = cameras.map(|(state, watched)| {
        let seen = watched.clone();
        Camera {
            state: state.clone(),
            control: watched.control.clone(),
            metrics: watched.metrics.clone(),
            clock: watched.clock.clone(),
            troubles: Arc::new(move || seen.troubles().iter().map(ToString::to_string).collect()),
        }
    });
    let cameras: Vec<Camera> = cameras.collect();
    let scheme = if options.tls { "mqtts" } else { "mqtt" };
    let to = format!("{scheme}://{}:{}", options.host, options.port);
    desk.attach("mqtt", to, move |state, from, stop| {
        mqtt::run(&options, cameras, state, from, stop);
    })
}
