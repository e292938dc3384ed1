//! `/events`: what happens in zones and at lines, as server-sent events
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::timeout;

use super::app::{Gate, OfConnection};
use crate::health::Health;

/// While nothing happens, a comment goes out this often: so both sides learn that the other is gone.
const ALIVE: Duration = Duration::from_secs(15);

/// Which events.
#[derive(Deserialize)]
pub(super) struct Asked {
    /// Those of all cameras if not given.
    camera: Option<String>,
}

/// 200 and events without end, each with its id; one called `lost` says how many were missed by a reader that is too slow.
/// 404 for no such camera; 503 if as many watch as may.
pub(super) async fn events(
    State(health): State<Health>,
    State(gate): State<Arc<Gate>>,
    Query(asked): Query<Asked>,
    connection: OfConnection,
) -> Response {
    let names = || health.cameras().iter().map(|camera| camera.name.as_str());
    let known = asked
        .camera
        .as_deref()
        .is_none_or(|asked| names().any(|name| name == asked));
    let (Some(desk), true) = (health.events(), known) else {
        let names: Vec<&str> = names().collect();
        return (StatusCode::NOT_FOUND, format!("cameras: {}\n", names.join(", "))).into_response();
    };
    let ticket = match gate.admit_reader() {
        Ok(ticket) => ticket,
        Err(full) => return full.into_response(),
    };
    if let Some(Extension(connection)) = connection {
        connection.keep();
    }
    let from = desk.listen();
    let camera: Option<Arc<str>> = asked.camera.map(Into::into);
    let stream = unfold((from, camera, ticket), |(mut from, camera, ticket)| async move {
        loop {
            let event = match timeout(ALIVE, from.recv()).await {
                Err(_) => Event::default().comment("alive"),
                Ok(Ok(told))
                    if camera
                        .as_ref()
                        .is_some_and(|camera| **camera != *told.event.camera) =>
                {
                    continue;
                }
                Ok(Ok(told)) => Event::default().id(&told.event.id).data(&told.json),
                Ok(Err(RecvError::Lagged(count))) => Event::default().event("lost").data(count.to_string()),
                Ok(Err(RecvError::Closed)) => return None,
            };
            return Some((Ok::<_, Infallible>(event), (from, camera, ticket)));
        }
    });
    Sse::new(stream).into_response()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};

    use super::*;
    use crate::events::EventDesk;
    use crate::events::event::{Kind, tests::event};
    use crate::health::tests::watched;
    use crate::output::access::RtspAccess;
    use crate::web::tests::{connect, get, serve, serve_as};

    #[test]
    fn events_come_as_they_happen_and_of_the_camera_that_was_asked_for() {
        let desk = EventDesk::new(["door", "yard"]);
        let cameras = vec![watched("door").into(), watched("yard").into()];
        let (address, _http) = serve(Health::new(cameras).with_events(desk.clone()));
        assert_eq!(
            get(address, "/events?camera=none").text(),
            "cameras: door, yard\n"
        );
        let open = |query: &str| {
            let mut stream = connect(address);
            write!(stream, "GET /events{query} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
            let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
            assert!(
                head.contains(&"content-type: text/event-stream".to_owned()),
                "{head:?}"
            );
            lines.filter_map(|line| line.strip_prefix("data: ").map(str::to_owned))
        };
        let (mut all, mut of_yard) = (open(""), open("?camera=yard"));
        let of_door = event(Kind::Start);
        let other = crate::events::Event {
            camera: "yard".into(),
            ..event(Kind::End)
        };
        desk.publish(of_door.clone());
        desk.publish(other.clone());
        let read =
            |line: Option<String>| serde_json::from_str::<crate::events::Event>(&line.unwrap()).unwrap();
        assert_eq!((read(all.next()), read(all.next())), (of_door, other.clone()));
        assert_eq!(read(of_yard.next()), other);
    }

    #[test]
    fn listeners_count_as_clients_until_they_go() {
        let desk = EventDesk::new(["door"]);
        let health = Health::new(vec![watched("door").into()]).with_events(desk.clone());
        let rules = RtspAccess {
            max_clients: 1,
            ..RtspAccess::default()
        };
        let (address, _http) = serve_as(health, rules);
        let listen = || {
            let mut stream = connect(address);
            write!(stream, "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            let mut first = String::new();
            let mut lines = BufReader::new(stream);
            lines.read_line(&mut first).unwrap();
            (first.split(' ').nth(1).unwrap().to_owned(), lines)
        };
        let (code, held) = listen();
        assert_eq!((code.as_str(), listen().0.as_str()), ("200", "503"));
        drop(held);
        let limit = std::time::Instant::now() + Duration::from_secs(30);
        while listen().0 != "200" {
            // That it is gone is found out when something is written to it.
            desk.publish(event(Kind::Start));
            assert!(std::time::Instant::now() < limit);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
