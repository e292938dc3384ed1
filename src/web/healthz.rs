//! `/healthz`, `/readyz` and `/livez`: is it well, do pictures go out, and would a restart help.

use std::time::Instant;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;

use super::guard::{Role, Who};
use crate::health::Health;

/// 200, or 503 and a line for each trouble; one line in all for who has not logged in.
pub(super) async fn healthz(
    State(health): State<Health>,
    who: Option<Extension<Who>>,
) -> (StatusCode, String) {
    let troubles = health.troubles();
    let may_look = who.is_some_and(|Extension(who)| who.role >= Role::Viewer);
    if troubles.is_empty() {
        (StatusCode::OK, "ok\n".into())
    } else if !may_look {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "unwell: log in to read why\n".into(),
        )
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, troubles.join("\n") + "\n")
    }
}

/// 200 while every camera's pictures go out, otherwise 503.
pub(super) async fn readyz(State(health): State<Health>) -> (StatusCode, &'static str) {
    if health.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "not every camera's pictures go out\n",
        )
    }
}

/// 200 while every pipeline moves, or waits for a camera that is away; 503 when one hangs.
pub(super) async fn livez(State(health): State<Health>) -> (StatusCode, String) {
    match health.pulse.stopped(Instant::now()) {
        None => (StatusCode::OK, "alive\n".into()),
        Some(since) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("no sign of life for {} s\n", since.as_secs()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::tests::watched;
    use crate::web::tests::{get, serve};
    use std::sync::atomic::Ordering::Relaxed;
    use std::time::Duration;

    #[test]
    fn pages_say_how_it_is() {
        let camera = watched("door");
        let health = Health::new(vec![(*camera).clone()]);
        let (address, _http) = serve(health.clone());
        let get = |path: &str| {
            let answer = get(address, path);
            (answer.code, answer.text())
        };
        assert_eq!(get("/healthz"), (200, "ok\n".into()));
        assert_eq!(get("/readyz").0, 503);
        assert_eq!(get("/livez"), (200, "alive\n".into()));
        if let Some(long_ago) = Instant::now().checked_sub(Duration::from_secs(16)) {
            health.pulse.beat(long_ago);
            assert_eq!(get("/livez"), (503, "no sign of life for 16 s\n".into()));
            health.pulse.beat(Instant::now());
            assert_eq!(get("/livez").0, 200);
        }
        camera.metrics.vitals.captured_at(1);
        camera.metrics.composed.store(1, Relaxed);
        assert_eq!(get("/readyz"), (200, "ready\n".into()));
        camera.metrics.vitals.set_source_lost("unplugged".into());
        let (code, body) = get("/healthz");
        assert_eq!(code, 503);
        assert!(
            body.starts_with("door: source lost for") && body.contains("unplugged"),
            "{body}"
        );
        assert_eq!(get("/readyz").0, 503);
        let status: serde_json::Value = serde_json::from_str(&get("/status").1).unwrap();
        assert_eq!(status["cameras"][0]["name"], "door");
        assert_eq!(status["healthy"], false);
        assert!(get("/metrics").1.contains("segd_healthy{camera=\"door\"} 0"));
    }
}
