//! `/scenes`: what is seen in each outgoing picture, as JSON over a WebSocket, one message for each.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::app::{Gate, OfConnection, Ticket};
use super::camera::{self, find};
use super::websocket;
use crate::health::{Health, Watched};
use crate::mailbox::Received;
use crate::observe::SceneReader;
use crate::scenes::{Known, unix_ms};

/// Documents that wait for a reader; while there is no room its scenes wait, and the oldest of those are lost, counted.
const QUEUED: usize = 2;
/// How often a thread that waits for scenes looks whether its reader is still there.
const LOOK: Duration = Duration::from_millis(200);
/// The name of these readers among those of the scenes.
const READER: &str = "websocket";

/// Which camera, and with which masks.
#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    camera: Option<String>,
    masks: Option<Masks>,
}

/// The form of masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Masks {
    None,
    Rle,
}

/// 101 and scenes; 404 for no such camera; 503 if as many watch as may; 400 or 426 for what begins no WebSocket.
pub(super) async fn stream(
    State(health): State<Health>,
    State(gate): State<Arc<Gate>>,
    Query(asked): Query<Asked>,
    connection: OfConnection,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Response {
    let camera = match find(&health, &camera::Asked::of(asked.camera)) {
        Ok(camera) => camera,
        Err(unknown) => return unknown.into_response(),
    };
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(why) => return why.into_response(),
    };
    let ticket = match gate.admit_reader() {
        Ok(ticket) => ticket,
        Err(full) => return full.into_response(),
    };
    if let Some(Extension(connection)) = connection {
        connection.keep();
    }
    let (sender, documents) = channel(QUEUED);
    let reader = camera.control.scenes.subscribe(READER);
    let (watched, rle) = (camera.clone(), asked.masks == Some(Masks::Rle));
    let thread = std::thread::Builder::new()
        .name("http-scenes".into())
        .spawn(move || write_all(&watched, &reader, rle, &sender));
    if let Err(e) = thread {
        let text = format!("thread http-scenes can't be started: {e}\n");
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    }
    websocket::to_reader(upgrade).on_upgrade(|socket| send(socket, documents, ticket))
}

/// Makes documents on a thread of its own, as fast as they are taken, until the reader goes.
fn write_all(camera: &Watched, reader: &SceneReader, rle: bool, to: &Sender<String>) {
    let stats = reader.stats();
    while !to.is_closed() {
        let seen = match reader.next(LOOK) {
            Received::Item(seen) => seen,
            Received::Timeout => continue,
            Received::Closed => return,
        };
        let known = Known::of(seen, camera.control.looks());
        let at = unix_ms(&camera.clock, known.captured_at_ns);
        let mut document = known.to_json(&camera.name, at, rle);
        document["lost"] = stats.dropped().into();
        if to.blocking_send(document.to_string()).is_err() {
            return;
        }
    }
}

/// Sends documents until the reader goes.
async fn send(mut socket: WebSocket, mut documents: Receiver<String>, ticket: Ticket) {
    let _held = ticket;
    while let Some(document) = websocket::next(&mut socket, &mut documents).await {
        if socket.send(Message::text(document)).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpStream};

    use super::*;
    use crate::health::tests::watched;
    use crate::output::access::RtspAccess;
    use crate::scenes::tests::{looks, seen};
    use crate::web::tests::{connect, get, serve_as};
    use serde_json::Value;

    /// Asks for a WebSocket; gives the status.
    fn open(address: SocketAddr, query: &str) -> (u16, TcpStream) {
        let mut stream = connect(address);
        write!(
            stream,
            "GET /scenes{query} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        .unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), stream)
    }

    /// The next message, which is text (<https://www.rfc-editor.org/rfc/rfc6455#section-5.2>).
    fn message(stream: &mut TcpStream) -> Value {
        let mut head = [0; 2];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(head[0], 0x81, "one frame of text");
        let length = match head[1] {
            126 => {
                let mut more = [0; 2];
                stream.read_exact(&mut more).unwrap();
                usize::from(u16::from_be_bytes(more))
            }
            short => usize::from(short),
        };
        let mut body = vec![0; length];
        stream.read_exact(&mut body).unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    #[track_caller]
    fn wait_for(mut ready: impl FnMut() -> bool) {
        let limit = std::time::Instant::now() + Duration::from_secs(30);
        while !ready() {
            assert!(std::time::Instant::now() < limit);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn served(max_clients: u32) -> (Arc<Watched>, SocketAddr, crate::supervise::Background) {
        let camera: Arc<Watched> = Arc::new((*watched("door")).clone());
        camera.control.set_looks(looks(Some(1), 0));
        let rules = RtspAccess {
            max_clients,
            ..RtspAccess::default()
        };
        let (address, http) = serve_as(Health::new(vec![(*camera).clone()]), rules);
        (camera, address, http)
    }

    #[test]
    fn scenes_come_as_pictures_go_out_and_readers_count_as_clients() {
        let (camera, address, _http) = served(2);
        assert_eq!(get(address, "/scenes?camera=none").text(), "cameras: door\n");
        assert_eq!(get(address, "/scenes").code, 400, "no WebSocket");
        assert_eq!(get(address, "/scenes?masks=png").code, 400);
        let (code, mut plain) = open(address, "");
        let (again, mut masks) = open(address, "?camera=door&masks=rle");
        assert_eq!((code, again), (101, 101));
        assert_eq!(open(address, "").0, 503, "access.max_clients");
        let looks = camera.control.looks();
        camera.control.scenes.offer(&seen(&looks, 40));
        let (plain, with_masks) = (message(&mut plain), message(&mut masks));
        assert_eq!(
            (&plain["camera"], &plain["lost"], &plain["sequence"]),
            (&"door".into(), &0.into(), &7.into())
        );
        let segments = plain["seen"]["segments"].as_array().unwrap();
        assert_eq!(segments.len(), 1, "the cat is hidden");
        assert_eq!(
            (&segments[0]["class"], &segments[0]["rle"]),
            (&"person".into(), &Value::Null)
        );
        let rle = &with_masks["seen"]["segments"][0]["rle"];
        assert_eq!(rle["size"], serde_json::json!([2, 4]));
        // Column by column: 2 pixels that are not, 3 that are, 3 that are not.
        assert_eq!(rle["counts"], "233");
        drop(masks);
        wait_for(|| {
            camera.control.scenes.offer(&seen(&looks, 40));
            open(address, "").0 == 101
        });
    }

    #[test]
    fn a_slow_reader_loses_scenes_and_they_are_counted() {
        let (camera, address, _http) = served(8);
        let (_, mut slow) = open(address, "?masks=rle");
        let looks = camera.control.looks();
        // Until the sockets' buffers are full.
        let dropped = || camera.control.scenes.counts()[0].2;
        wait_for(|| {
            (0..1000).for_each(|_| camera.control.scenes.offer(&seen(&looks, 40)));
            dropped() > 1000
        });
        let mut last = message(&mut slow);
        while last["lost"] == 0 {
            last = message(&mut slow);
        }
        assert!(last["lost"].as_u64().unwrap() <= dropped());
        assert!(
            get(address, "/metrics")
                .text()
                .contains("segd_scenes_dropped_total{camera=\"door\",reader=\"websocket\"}")
        );
        drop(slow);
        wait_for(|| {
            camera.control.scenes.offer(&seen(&looks, 40));
            !camera.control.scenes.is_wanted()
        });
        assert!(dropped() > 1000, "what was counted stays");
    }
}
