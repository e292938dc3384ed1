//! `/snapshot.jpg`: the next picture that goes out.

use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use tokio::time::timeout;

use super::camera::{Asked, find};
use super::off_thread::off_thread;
use crate::health::Health;
use crate::snapshot::jpeg;

/// How long a picture is waited for: several frames of a slow camera, or two notices of a missing one.
const WAIT: Duration = Duration::from_secs(3);

/// 200 and the picture; 404 for no such camera; 503 if no picture went out.
pub(super) async fn snapshot(State(health): State<Health>, Query(asked): Query<Asked>) -> Response {
    let camera = match find(&health, &asked) {
        Ok(camera) => camera,
        Err(unknown) => return unknown.into_response(),
    };
    let Ok(Ok(picture)) = timeout(WAIT, camera.control.snapshots.next()).await else {
        return (StatusCode::SERVICE_UNAVAILABLE, "no picture went out\n").into_response();
    };
    match off_thread(move || jpeg(&picture)).await.flatten() {
        Ok(body) => ([(CONTENT_TYPE, "image/jpeg")], body).into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::tests::watched;
    use crate::web::tests::{answer, connect, get, serve};
    use std::io::Write;
    use vision::frame::{FrameFormat, PixelFormat};

    #[test]
    fn who_waits_for_a_picture_holds_nobody_up() {
        let camera = watched("door");
        let (address, _http) = serve(Health::new(vec![(*camera).clone()]));
        let unknown = get(address, "/snapshot.jpg?camera=yard");
        assert_eq!((unknown.code, unknown.text()), (404, "cameras: door\n".into()));

        let waiting: Vec<_> = ["/snapshot.jpg", "/snapshot.jpg?camera=door"]
            .map(|path| {
                let mut stream = connect(address);
                write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
                stream
            })
            .into();
        assert_eq!(get(address, "/healthz").code, 200);
        let answers: Vec<_> = waiting
            .into_iter()
            .map(|stream| std::thread::spawn(move || answer(stream).expect("a picture")))
            .collect();
        let format = FrameFormat::new(PixelFormat::I420, 32, 16);
        let picture = vec![128; format.packed_bytes()];
        while !answers.iter().all(|a| a.is_finished()) {
            camera.control.snapshots.offer(format, &picture);
            std::thread::yield_now();
        }
        for answer in answers {
            let answer = answer.join().unwrap();
            assert_eq!(
                (answer.code, answer.header("content-type")),
                (200, Some("image/jpeg"))
            );
            let picture = image::load_from_memory(&answer.body).unwrap();
            assert_eq!((picture.width(), picture.height()), (32, 16));
        }
    }
}
