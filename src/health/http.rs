//! HTTP for monitors: `/healthz`, `/readyz`, `/metrics`, `/status`, `/snapshot.jpg`. Nothing is changed through it.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use tracing::info;

use super::http_server::{Answer, Answering, serve, text};
use super::{Health, prometheus, status};
use crate::snapshot::jpeg;
use crate::supervise::Background;
use vision::error::{Error, Result};

/// How long a snapshot is waited for: several frames of a slow camera, or two notices of a missing one.
const SNAPSHOT_WAIT: Duration = Duration::from_secs(3);

/// Where HTTP listens if nothing is said.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:8555";

/// A port that is bound, not served yet.
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
}

/// Reads `ADDRESS:PORT` and binds it. Anything but loopback needs `insecure`: it has no passwords.
///
/// # Errors
/// Usage: no address and port, or open to others; fatal: the port is in use.
pub fn bind(listen: &str, insecure: bool) -> Result<Bound> {
    let address = parse_listen(listen, insecure)?;
    let listener = TcpListener::bind(address).map_err(|e| {
        Error::fatal(format!("health.listen = {listen:?}: can't be listened on"))
            .caused_by(e)
            .hint("choose another port, or \"\" for none (--http \"\")")
    })?;
    let address = listener.local_addr().unwrap_or(address);
    Ok(Bound { listener, address })
}

/// Reads `ADDRESS:PORT`.
///
/// # Errors
/// As [`bind`].
pub fn parse_listen(listen: &str, insecure: bool) -> Result<SocketAddr> {
    let address: SocketAddr = listen.parse().map_err(|_| {
        Error::usage(format!(
            "health.listen = {listen:?}, expected ADDRESS:PORT, such as {DEFAULT_LISTEN}, or an empty text"
        ))
    })?;
    if !address.ip().is_loopback() && !insecure {
        return Err(Error::usage(format!(
            "health.listen = {listen:?}: everyone who reaches this address could look, and there are no passwords"
        ))
        .hint("serve 127.0.0.1, or say --insecure"));
    }
    Ok(address)
}

impl Bound {
    /// Serves on a thread until dropped.
    ///
    /// # Errors
    /// If the thread can't be started.
    pub fn serve(self, health: Health) -> Result<Background> {
        // The accepting thread looks at its stop as well.
        self.listener
            .set_nonblocking(true)
            .map_err(|e| Error::fatal("the HTTP server can't be started").caused_by(e))?;
        info!(
            "health: http://{}/healthz /readyz /metrics /status /snapshot.jpg",
            self.address
        );
        Background::spawn("http", move |stop| {
            let answering: Answering = Arc::new(move |method, url| answer(method, url, &health));
            serve(&self.listener, stop, &answering);
        })
    }
}

/// Answers one request.
fn answer(method: &str, url: &str, health: &Health) -> Answer {
    match method {
        "GET" | "HEAD" => page(url, health),
        _ => text(405, "only GET\n"),
    }
}

fn page(url: &str, health: &Health) -> Answer {
    let (path, query) = url.split_once('?').unwrap_or((url, ""));
    match path {
        "/healthz" => {
            let troubles = health.troubles();
            if troubles.is_empty() {
                text(200, "ok\n")
            } else {
                text(503, troubles.join("\n") + "\n")
            }
        }
        "/readyz" if health.is_ready() => text(200, "ready\n"),
        "/readyz" => text(503, "not every camera's pictures go out\n"),
        "/metrics" => Answer {
            kind: "text/plain; version=0.0.4; charset=utf-8",
            ..text(200, prometheus::render(health))
        },
        "/status" => Answer {
            kind: "application/json",
            ..text(200, format!("{:#}\n", status::render(health)))
        },
        "/snapshot.jpg" => snapshot(query, health),
        _ => text(
            404,
            "/healthz /readyz /metrics /status /snapshot.jpg[?camera=NAME]\n",
        ),
    }
}

fn snapshot(query: &str, health: &Health) -> Answer {
    let wanted = query.split('&').find_map(|pair| pair.strip_prefix("camera="));
    let camera = match wanted {
        Some(name) => health.cameras().iter().find(|c| c.name == name),
        None => health.cameras().first(),
    };
    let Some(camera) = camera else {
        let names: Vec<&str> = health.cameras().iter().map(|c| c.name.as_str()).collect();
        return text(404, format!("cameras: {}\n", names.join(", ")));
    };
    let Some(picture) = camera.control.snapshots.wait(SNAPSHOT_WAIT) else {
        return text(503, "no picture went out\n");
    };
    match jpeg(&picture) {
        Ok(body) => Answer {
            code: 200,
            kind: "image/jpeg",
            body,
        },
        Err(e) => text(500, format!("{e}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::tests::watched;
    use std::sync::atomic::Ordering::Relaxed;

    fn get(url: &str, health: &Health) -> (u16, String) {
        let answer = page(url, health);
        (answer.code, String::from_utf8_lossy(&answer.body).into_owned())
    }

    #[test]
    fn only_loopback_without_a_word() {
        assert!(parse_listen("127.0.0.1:1", false).is_ok());
        assert!(parse_listen("[::1]:1", false).is_ok());
        assert!(parse_listen("0.0.0.0:1", true).is_ok());
        let error = parse_listen("0.0.0.0:1", false).unwrap_err();
        assert!(error.to_string().contains("--insecure"), "{error}");
        assert_eq!(parse_listen("8555", false).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn pages_say_how_it_is() {
        let camera = watched("door");
        let health = Health::new(vec![(*camera).clone()]);
        assert_eq!(get("/healthz", &health), (200, "ok\n".into()));
        assert_eq!(get("/readyz", &health).0, 503);
        camera.metrics.vitals.captured_at(1);
        camera.metrics.composed.store(1, Relaxed);
        assert_eq!(get("/readyz", &health), (200, "ready\n".into()));
        camera.metrics.vitals.set_source_lost("unplugged".into());
        let (code, body) = get("/healthz", &health);
        assert_eq!(code, 503);
        assert!(
            body.starts_with("door: source lost for") && body.contains("unplugged"),
            "{body}"
        );
        assert_eq!(get("/readyz", &health).0, 503);
        let status: serde_json::Value = serde_json::from_str(&get("/status", &health).1).unwrap();
        assert_eq!(status["cameras"][0]["name"], "door");
        assert_eq!(status["healthy"], false);
        assert!(
            get("/metrics", &health)
                .1
                .contains("segd_healthy{camera=\"door\"} 0")
        );
        assert_eq!(
            get("/snapshot.jpg?camera=yard", &health),
            (404, "cameras: door\n".into())
        );
        assert_eq!(get("/../etc/passwd", &health).0, 404);
    }
}
