//! HTTP: pages for monitors, and the place for all that a browser will ask for.
//!
//! One thread runs one asynchronous runtime, which serves every connection. Each resource has a file of its own and a row
//! in the table of `routes.rs`; `server.rs` knows about connections and limits and nothing about resources. A handler must
//! not hold the thread up: it waits with `await`, and hands long work to `off_thread.rs`.

mod app;
mod attempts;
mod camera;
mod controls;
#[cfg(feature = "gstreamer")]
mod feed;
mod diagnosis;
mod events;
mod files;
mod guard;
mod healthz;
mod history;
mod login;
mod metrics;
mod mjpeg;
mod models;
#[cfg(feature = "gstreamer")]
mod mse;
mod off_thread;
mod routes;
mod scene;
mod scenes;
mod server;
mod sessions;
mod snapshot;
mod status;
mod stream;
mod tls;
mod told;
mod unsaved;
#[cfg(feature = "gstreamer")]
mod webrtc;
mod websocket;
#[cfg(feature = "gstreamer")]
mod whep;
mod zones;

pub use app::{App, Changer, Gate, Models};
#[cfg(fuzzing)]
pub use routes::router;
pub use server::{Bound, bind};
#[cfg(fuzzing)]
pub use server::{Limits, converse, converse_on};
#[cfg(all(fuzzing, feature = "gstreamer"))]
pub use webrtc::answer_to;
#[cfg(fuzzing)]
pub use websocket::silent;

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpStream};
    use std::time::Duration;

    use super::*;
    use crate::health::Health;
    use crate::output::access::RtspAccess;
    use crate::supervise::Background;

    /// What came back over HTTP.
    #[derive(Debug)]
    pub(super) struct Answer {
        pub(super) code: u16,
        /// Status line and headers.
        pub(super) head: String,
        pub(super) body: Vec<u8>,
    }

    impl Answer {
        /// A header's value.
        pub(super) fn header(&self, name: &str) -> Option<&str> {
            self.head.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim())
            })
        }

        pub(super) fn text(&self) -> String {
            String::from_utf8_lossy(&self.body).into_owned()
        }
    }

    /// Serves on a free port until dropped.
    pub(super) fn serve(health: Health) -> (SocketAddr, Background) {
        serve_as(health, RtspAccess::default())
    }

    /// Serves by these rules on a free port until dropped.
    pub(super) fn serve_as(health: Health, rules: RtspAccess) -> (SocketAddr, Background) {
        serve_app(App::new(health, Gate::new(rules)))
    }

    /// Serves this on a free port until dropped.
    pub(super) fn serve_app(app: App) -> (SocketAddr, Background) {
        let bound = bind("127.0.0.1:0", &RtspAccess::default()).unwrap();
        (bound.address(), bound.serve(app).unwrap())
    }

    pub(super) fn connect(address: SocketAddr) -> TcpStream {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// Reads until the server hangs up; `None` if it said nothing.
    pub(super) fn answer(mut stream: TcpStream) -> Option<Answer> {
        let mut bytes = Vec::new();
        // A connection that is reset has said what it had to say.
        let _ = stream.read_to_end(&mut bytes);
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        let body = bytes[end + 4..].to_vec();
        Some(Answer { code, head, body })
    }

    pub(super) fn ask(address: SocketAddr, request: &str) -> Answer {
        let mut stream = connect(address);
        stream.write_all(request.as_bytes()).unwrap();
        answer(stream).expect("an answer")
    }

    pub(super) fn get(address: SocketAddr, path: &str) -> Answer {
        ask(
            address,
            &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        )
    }
}
