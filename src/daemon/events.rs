//! Where events go, from settings.

use std::sync::Arc;

use crate::config::Settings;
use crate::events::EventDesk;
use crate::events::file::{Lines, Stdout};
use vision::error::Result;

/// A desk with the sinks of the settings.
///
/// # Errors
/// Fatal if a thread can't be started.
pub(super) fn desk(settings: &Settings) -> Result<Arc<EventDesk>> {
    let desk = EventDesk::new(settings.cameras.iter().map(|camera| camera.name.as_str()));
    if settings.events.stdout {
        desk.add("file", "-".into(), Box::new(Stdout))?;
    }
    if let Some(file) = settings.events.file.clone() {
        let to = file.path.display().to_string();
        desk.add("file", to, Box::new(Lines::new(file)))?;
    }
    Ok(desk)
}
