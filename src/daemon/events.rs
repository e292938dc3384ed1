//! Where events go, from settings.

use std::sync::Arc;

use crate::config::Settings;
use crate::events::EventDesk;
use crate::events::file::{Lines, Stdout};
use crate::events::mqtt::{self, Camera};
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
    #[cfg(feature = "gstreamer")]
    let (clip_folders, clips) = clips(settings, health);
    let settings = &settings.events;
    if settings.stdout {
        desk.add("file", "-".into(), Box::new(Stdout))?;
    }
    if let Some(file) = settings.file.clone() {
        let to = file.path.display().to_string();
        desk.add("file", to, Box::new(Lines::new(file)))?;
    }
    #[cfg(feature = "gstreamer")]
    if !clips.is_empty() {
        desk.add("clips", clip_folders, Box::new(super::clips::Clips(clips)))?;
    }
    if let Some(options) = settings.mqtt.clone() {
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
        })?;
    }
    Ok(())
}

/// The folders of clips, and the desks of those cameras that have one.
#[cfg(feature = "gstreamer")]
fn clips(settings: &Settings, health: &Health) -> (String, Vec<(String, Arc<ClipDesk>)>) {
    let (mut folders, mut desks) = (Vec::new(), Vec::new());
    for (camera, watched) in settings.cameras.iter().zip(health.cameras()) {
        let of_camera = camera.outputs.iter().filter_map(|output| match output {
            OutputSpec::Clips(folder) => Some(folder.display().to_string()),
            _ => None,
        });
        let before = folders.len();
        folders.extend(of_camera);
        if folders.len() > before {
            desks.push((camera.name.clone(), watched.control.clips.clone()));
        }
    }
    (folders.join(", "), desks)
}
