//! `?camera=NAME`: which camera a request is about.

use axum::http::StatusCode;
use serde::Deserialize;

use crate::health::{Health, Watched};

/// Which camera.
#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    /// The first one if not given.
    camera: Option<String>,
}

impl Asked {
    /// The camera of this name, or the first one.
    pub(super) fn of(camera: Option<String>) -> Self {
        Self { camera }
    }
}

/// The camera that is asked for.
///
/// # Errors
/// 404 and the names that there are.
pub(super) fn find<'a>(health: &'a Health, asked: &Asked) -> Result<&'a Watched, (StatusCode, String)> {
    let found = match &asked.camera {
        Some(name) => health.cameras().iter().find(|c| c.name == *name),
        None => health.cameras().first(),
    };
    found.ok_or_else(|| {
        let names: Vec<&str> = health.cameras().iter().map(|c| c.name.as_str()).collect();
        (StatusCode::NOT_FOUND, format!("cameras: {}\n", names.join(", ")))
    })
}
