//! HTTP/1.1 for a few readers: one request a connection, bounded in number, size and time, so that clients that say
//! nothing, stop in the middle or never end hold nobody up.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::debug;

use crate::clock::Stop;
use crate::supervise::Background;
use vision::error::Result;

/// Connections at a time; a further one takes the oldest one's place.
const MAX_CONNECTIONS: usize = 16;
/// Bytes of a request's line and headers at most.
const MAX_HEAD: usize = 8 * 1024;
/// Headers at most.
const MAX_HEADERS: usize = 64;
/// How long a request may take to come; and how long its answer may find nobody who takes it.
const PATIENCE: Duration = Duration::from_secs(5);
/// From one look for new connections to the next.
const PERIOD: Duration = Duration::from_millis(20);

/// A body, its type, and the status code.
pub(super) struct Answer {
    pub(super) code: u16,
    pub(super) kind: &'static str,
    pub(super) body: Vec<u8>,
}

/// Answers the method and the address of a request.
pub(super) type Answering = Arc<dyn Fn(&str, &str) -> Answer + Send + Sync>;

/// Text as an answer.
pub(super) fn text(code: u16, body: impl Into<String>) -> Answer {
    Answer {
        code,
        kind: "text/plain; charset=utf-8",
        body: body.into().into_bytes(),
    }
}

/// A connection and its thread.
struct Connection {
    stream: TcpStream,
    thread: Background,
}

/// Serves until told to stop.
pub(super) fn serve(listener: &TcpListener, stop: &Stop, answer: &Answering) {
    let mut connections: Vec<Connection> = Vec::new();
    loop {
        connections.retain(|c| !c.thread.is_finished());
        match listener.accept() {
            Ok((stream, _)) => {
                if connections.len() >= MAX_CONNECTIONS {
                    hang_up(&connections.remove(0));
                }
                match begin(stream, answer.clone()) {
                    Ok(connection) => connections.push(connection),
                    Err(e) => debug!("http: {e}"),
                }
                if stop.is_stopped() {
                    break;
                }
            }
            // None is waiting, or no file is left for it.
            Err(_) if stop.wait(PERIOD) => break,
            Err(_) => {}
        }
    }
    connections.iter().for_each(hang_up);
}

/// Ends a connection, and thus its thread.
fn hang_up(connection: &Connection) {
    // It may have ended by itself.
    let _ = connection.stream.shutdown(Shutdown::Both);
}

fn begin(stream: TcpStream, answer: Answering) -> Result<Connection> {
    let own = stream
        .try_clone()
        .map_err(|e| vision::error::Error::transient("a connection can't be kept").caused_by(e))?;
    let thread = Background::spawn("http-client", move |_| {
        if let Err(e) = converse(&own, &*answer) {
            debug!("http: {e}");
        }
        let _ = own.shutdown(Shutdown::Both);
    })?;
    Ok(Connection { stream, thread })
}

/// What has come so far.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// A request: its method and address.
    Request(String, String),
    /// Its beginning.
    NotYet,
    /// No request.
    Nonsense,
}

/// Reads a request's head as far as it is there.
pub fn read(head: &[u8]) -> Asked {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => match (request.method, request.path) {
            (Some(method), Some(path)) => Asked::Request(method.to_owned(), path.to_owned()),
            _ => Asked::Nonsense,
        },
        Ok(httparse::Status::Partial) if head.len() < MAX_HEAD => Asked::NotYet,
        _ => Asked::Nonsense,
    }
}

fn converse(
    mut stream: &TcpStream,
    answer: &(dyn Fn(&str, &str) -> Answer + Send + Sync),
) -> std::io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut head = Vec::with_capacity(1024);
    let mut bytes = [0; 1024];
    let (answer, with_body) = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let count = stream.read(&mut bytes)?;
        if count == 0 {
            return Ok(());
        }
        head.extend_from_slice(&bytes[..count]);
        match read(&head) {
            Asked::Request(method, path) => break (answer(&method, &path), method != "HEAD"),
            Asked::Nonsense => break (text(400, "this is no request\n"), true),
            Asked::NotYet => {}
        }
    };
    let reason = match answer.code {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    };
    let mut out = format!(
        "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n",
        answer.code,
        answer.kind,
        answer.body.len()
    )
    .into_bytes();
    if with_body {
        out.extend_from_slice(&answer.body);
    }
    stream.write_all(&out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::stop_pair;

    #[test]
    fn heads_are_read_when_they_are_whole() {
        let whole = b"GET /metrics?x HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(read(whole), Asked::Request("GET".into(), "/metrics?x".into()));
        for end in 0..whole.len() {
            assert_eq!(read(&whole[..end]), Asked::NotYet);
        }
        assert_eq!(read(b"\x16\x03\x01\x02"), Asked::Nonsense);
        assert_eq!(
            read(format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(MAX_HEAD)).as_bytes()),
            Asked::Nonsense
        );
    }

    #[test]
    fn who_says_nothing_holds_nobody_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (handle, stop) = stop_pair();
        let server = std::thread::spawn(move || {
            let answer: Answering = Arc::new(|method, path| text(200, format!("{method} {path}\n")));
            serve(&listener, &stop, &answer);
        });
        let ask = |request: &str| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        };
        let silent: Vec<TcpStream> = (0..100)
            .map(|n| {
                let mut stream = TcpStream::connect(address).unwrap();
                let _ = stream.write_all(if n % 2 == 0 { b"GET /met" } else { b"" });
                stream
            })
            .collect();
        for _ in 0..20 {
            let answer = ask("GET /a HTTP/1.1\r\n\r\n");
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nGET /a\n"));
        }
        assert!(
            ask("HEAD /a HTTP/1.0\r\n\r\n")
                .ends_with("Content-Length: 8\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n")
        );
        assert!(ask("nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "));
        drop(handle);
        server.join().unwrap();
        drop(silent);
    }
}
