//! `/scene.json` and `/mask.png`: what is seen in the next outgoing picture.
//!
//! A scene is made while somebody asks and at no other time. Classes that `[privacy]` hides are left out of both, and where
//! the picture itself is hidden for want of a young mask, nothing is known.

use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use tokio::time::timeout;

use super::camera::{Asked, find};
use super::off_thread::off_thread;
use crate::health::{Health, Watched};
use crate::scenes::{Known, unix_ms};
use vision::picture::index_png;

/// How long a picture is waited for: several frames of a slow camera.
const WAIT: Duration = Duration::from_secs(3);

/// Waits for the next picture; `None` if none goes out.
async fn next(camera: &Watched) -> Option<Known> {
    let seen = timeout(WAIT, camera.control.scenes.next()).await.ok()?.ok()?;
    Some(Known::of(seen, camera.control.looks()))
}

const NO_PICTURE: (StatusCode, &str) = (StatusCode::SERVICE_UNAVAILABLE, "no picture went out\n");

/// 200 and what is seen, which is `null` where there is no young mask; 404 for no such camera; 503 if no picture went out.
pub(super) async fn scene(State(health): State<Health>, Query(asked): Query<Asked>) -> Response {
    let camera = match find(&health, &asked) {
        Ok(camera) => camera,
        Err(unknown) => return unknown.into_response(),
    };
    let Some(known) = next(camera).await else {
        return NO_PICTURE.into_response();
    };
    let (name, at) = (camera.name.clone(), unix_ms(&camera.clock, known.captured_at_ns));
    match off_thread(move || known.to_json(&name, at, false)).await {
        Ok(value) => ([(CONTENT_TYPE, "application/json")], format!("{value:#}\n")).into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n")).into_response(),
    }
}

/// 200 and each pixel's class as a palette PNG; 404 for no such camera; 503 if no picture went out, or nothing is known of it.
pub(super) async fn mask(State(health): State<Health>, Query(asked): Query<Asked>) -> Response {
    let camera = match find(&health, &asked) {
        Ok(camera) => camera,
        Err(unknown) => return unknown.into_response(),
    };
    let Some(known) = next(camera).await else {
        return NO_PICTURE.into_response();
    };
    let Some(scene) = known.scene().cloned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "there is no young mask\n").into_response();
    };
    let encode = move || index_png(&known.class_map(&scene), &scene.model.classes);
    match off_thread(encode).await {
        Ok(Ok(body)) => ([(CONTENT_TYPE, "image/png")], body).into_response(),
        Ok(Err(e)) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the mask can't be encoded: {e}\n"),
        )
            .into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::tests::watched;
    use crate::observe::Seen;
    use crate::scenes::tests::{looks, seen};
    use crate::web::tests::{Answer, answer, connect, get, serve};
    use serde_json::Value;
    use std::io::Write;
    use std::net::SocketAddr;

    /// Asks while pictures go out.
    fn while_seen(address: SocketAddr, camera: &Watched, path: &str, seen: &Seen) -> Answer {
        let mut stream = connect(address);
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let asked = std::thread::spawn(move || answer(stream).expect("an answer"));
        while !asked.is_finished() {
            camera.control.scenes.offer(seen);
            std::thread::yield_now();
        }
        asked.join().unwrap()
    }

    #[test]
    fn both_are_made_only_while_somebody_asks() {
        let camera = watched("door");
        camera.control.set_looks(looks(None, 0));
        let (address, _http) = serve(Health::new(vec![(*camera).clone()]));
        assert_eq!(get(address, "/scene.json?camera=yard").text(), "cameras: door\n");
        assert!(!camera.control.scenes.is_wanted());

        let seen = seen(&camera.control.looks(), 0);
        let json = while_seen(address, &camera, "/scene.json", &seen);
        assert_eq!(
            (json.code, json.header("content-type")),
            (200, Some("application/json"))
        );
        let told: Value = serde_json::from_slice(&json.body).unwrap();
        assert_eq!(told["seen"]["segments"][0]["class"], "person");

        let png = while_seen(address, &camera, "/mask.png?camera=door", &seen);
        assert_eq!((png.code, png.header("content-type")), (200, Some("image/png")));
        let decoder = png::Decoder::new(std::io::Cursor::new(&png.body));
        let mut reader = decoder.read_info().unwrap();
        assert_eq!(reader.info().color_type, png::ColorType::Indexed);
        assert_eq!(reader.info().palette.as_ref().unwrap()[6..9], [6, 20, 30]);
        let mut labels = vec![0; 8];
        reader.next_frame(&mut labels).unwrap();
        assert_eq!(labels, [0, 2, 2, 0, 0, 2, 1, 0]);

        let unknown = Seen::Unknown {
            captured_at_ns: 1,
            sequence: 1,
        };
        assert_eq!(while_seen(address, &camera, "/mask.png", &unknown).code, 503);
        assert!(!camera.control.scenes.is_wanted());
    }
}
