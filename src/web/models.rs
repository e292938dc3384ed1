//! `/models`: the models that are installed, which one runs, and a change to another one. It is loaded beside the one that
//! runs, which goes on if that fails.

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::app::{App, Models};
use super::camera::{Asked, find};
use super::off_thread::off_thread;
use crate::health::Health;
use vision::model::{Found, Registry};

/// Which model is to run.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    model: String,
}

fn entry(found: &Found) -> Value {
    let contract = match &found.model {
        Ok(model) => &model.contract,
        Err(why) => return json!({ "name": found.name, "error": why.to_string() }),
    };
    let input = &contract.input;
    json!({
        "name": found.name,
        "description": contract.description,
        "license": contract.license,
        "classes": contract.classes.iter().filter(|class| !class.background).map(|class| &class.name).collect::<Vec<_>>(),
        "width": input.width,
        "height": input.height,
        "multiply_accumulates": contract.multiply_accumulates,
        "precisions": contract.files.iter().map(|file| file.precision.as_str()).collect::<Vec<_>>(),
        "scores": contract.scores,
        "error": null,
    })
}

fn state(camera: &str, running: &str, models: &Models) -> Value {
    let failed = models.failed.as_ref();
    json!({
        "camera": camera,
        "running": running,
        "loading": models.loading,
        "failed": failed.map(|(model, why)| json!({ "model": model, "why": why })),
    })
}

/// 200, the models that are installed, and which one runs; 404 for no such camera.
pub(super) async fn models(
    State(app): State<App>,
    State(health): State<Health>,
    Query(asked): Query<Asked>,
) -> Response {
    let camera = match find(&health, &asked) {
        Ok(camera) => camera.clone(),
        Err(unknown) => return unknown.into_response(),
    };
    let known = app
        .changer()
        .map(|changer| changer.models(&camera.name))
        .unwrap_or_default();
    // It reads a folder for each model.
    let told = off_thread(move || {
        let running = camera.control.looks().model.name.clone();
        let mut told = state(&camera.name, &running, &known);
        let installed = Registry::from_environment().list();
        told["models"] = installed.iter().map(entry).collect();
        told
    });
    match told.await {
        Ok(value) => ([(CONTENT_TYPE, "application/json")], format!("{value:#}\n")).into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n")).into_response(),
    }
}

/// 202 once it is being loaded, and what is known of that; 404 for no such camera; 422 for no such model; 503 while another
/// one is being loaded, or the configuration is being read again.
pub(super) async fn load(
    State(app): State<App>,
    State(health): State<Health>,
    Query(asked): Query<Asked>,
    body: String,
) -> Response {
    let camera = match find(&health, &asked) {
        Ok(camera) => camera.clone(),
        Err(unknown) => return unknown.into_response(),
    };
    let wanted: Wanted = match serde_json::from_str(&body) {
        Ok(wanted) => wanted,
        Err(why) => return (StatusCode::UNPROCESSABLE_ENTITY, format!("{why}\n")).into_response(),
    };
    let changer = match app.changer() {
        Ok(changer) => changer,
        Err(refused) => return refused.into_response(),
    };
    let begun = off_thread(move || {
        changer.load_model(&camera.name, &wanted.model)?;
        tracing::info!(camera = camera.name, model = wanted.model, "asked for over HTTP");
        let running = camera.control.looks().model.name.clone();
        Ok(state(&camera.name, &running, &changer.models(&camera.name)))
    });
    match begun.await.flatten() {
        Ok(value) => {
            let told = format!("{value:#}\n");
            (StatusCode::ACCEPTED, [(CONTENT_TYPE, "application/json")], told).into_response()
        }
        Err(e) => (refusal(&e), format!("{e}\n")).into_response(),
    }
}

/// The code for why something could not be changed.
pub(super) fn refusal(error: &vision::error::Error) -> StatusCode {
    match error.is_transient() {
        true => StatusCode::SERVICE_UNAVAILABLE,
        false => StatusCode::UNPROCESSABLE_ENTITY,
    }
}
