//! The server: HTTP/1.1 on one thread, one request a connection, bounded in number, size and time, so that clients that say
//! nothing, stop in the middle or never end hold nobody up.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{DefaultBodyLimit, Request};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, yield_now};
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutWriter;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use super::app::{App, Connection, Gate};
use super::routes;
#[cfg(feature = "gstreamer")]
use super::webrtc::Hub;
use crate::clock::Stop;
use crate::config::{WebRtcSettings, parse_listen};
use crate::output::access::RtspAccess;
use crate::supervise::Background;
use vision::error::{Error, Result};

/// A port that is bound, not served yet.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
    /// For WebRTC, with the address that answers name in place of the one that was asked.
    udp: Option<(UdpSocket, Option<IpAddr>)>,
}

/// Reads `ADDRESS:PORT` and binds it. Anything but loopback needs users, or `insecure`.
///
/// # Errors
/// Usage: no address and port, or open to others; fatal: the port is in use.
pub fn bind(listen: &str, access: &RtspAccess) -> Result<Bound> {
    let address = parse_listen(listen, access)?;
    let listener = TcpListener::bind(address).map_err(|e| {
        Error::fatal(format!("health.listen = {listen:?}: can't be listened on"))
            .caused_by(e)
            .hint("choose another port, or \"\" for none (--http \"\")")
    })?;
    let address = listener.local_addr().unwrap_or(address);
    Ok(Bound {
        listener,
        address,
        udp: None,
    })
}

/// What clients may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time, beside those of viewers, who are counted elsewhere; a further one takes the oldest one's
    /// place.
    pub connections: usize,
    /// Headers of a request.
    pub headers: usize,
    /// Bytes of a request's line and headers, at least 8192.
    pub head_bytes: usize,
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// How long a request's line and headers may take to come; and how long its answer may find nobody who takes it.
    pub patience: Duration,
    /// How long it may take from there until an answer begins, a request's body included.
    pub answer: Duration,
}

impl Limits {
    /// A few readers and an owner with a browser.
    pub const DEFAULT: Self = Self {
        connections: 16,
        headers: 64,
        head_bytes: 8 * 1024,
        body_bytes: 64 * 1024,
        patience: Duration::from_secs(5),
        answer: Duration::from_secs(10),
    };
}

/// From one look at the stop to the next, and from one try to accept to the next when no file is left.
const PERIOD: Duration = Duration::from_millis(50);
/// From one look at the certificate's files to the next.
const LOOK_AT_CERTIFICATE: Duration = Duration::from_secs(2);

impl Bound {
    /// The address, with the port that a port of 0 became.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Binds the UDP port for WebRTC, at the same address.
    ///
    /// # Errors
    /// Fatal if a port that was asked for is in use; without the default one browsers watch in other ways.
    pub fn with_webrtc(mut self, how: &WebRtcSettings) -> Result<Self> {
        let port = how.port.unwrap_or(WebRtcSettings::PORT);
        if port == 0 || cfg!(not(feature = "gstreamer")) {
            return Ok(self);
        }
        match UdpSocket::bind((self.address.ip(), port)) {
            Ok(socket) => self.udp = Some((socket, how.address)),
            Err(e) if how.port.is_some() => {
                return Err(
                    Error::fatal(format!("health.webrtc_port = {port}: can't be used"))
                        .caused_by(e)
                        .hint("choose another UDP port, or 0 for no WebRTC"),
                );
            }
            Err(e) => info!("no WebRTC, browsers watch in other ways: UDP port {port}: {e}"),
        }
        Ok(self)
    }

    /// Serves on a thread until dropped.
    ///
    /// # Errors
    /// If the runtime or its thread can't be started.
    pub fn serve(self, app: App) -> Result<Background> {
        let gate = app.gate.clone();
        gate.open(self.address)?;
        let rules = gate.rules();
        let scheme = if rules.tls.is_some() { "https" } else { "http" };
        info!(
            "page: {scheme}://{0}/ (also {scheme}://{0}/healthz /metrics /status /snapshot.jpg; any other address lists all)",
            self.address
        );
        if !self.address.ip().is_loopback() && !rules.users.is_empty() && rules.tls.is_none() {
            warn!(
                "passwords for {} cross the network in clear: set access.certificate and access.key",
                self.address
            );
        }
        let beside = app.beside();
        self.serve_router(routes::router(app), gate, beside, Limits::DEFAULT)
    }

    fn serve_router(
        self,
        router: Router,
        gate: Arc<Gate>,
        beside: impl Future<Output = ()> + Send + 'static,
        limits: Limits,
    ) -> Result<Background> {
        let fail = |e: std::io::Error| Error::fatal("the HTTP server can't be started").caused_by(e);
        self.listener.set_nonblocking(true).map_err(fail)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(fail)?;
        let listener = {
            let _in = runtime.enter();
            tokio::net::TcpListener::from_std(self.listener).map_err(fail)?
        };
        #[cfg(feature = "gstreamer")]
        if let Some((socket, advertised)) = self.udp {
            let _in = runtime.enter();
            gate.set_webrtc(Hub::start(socket, advertised).map_err(fail)?);
        }
        let router = limited(router, &limits);
        Background::spawn("http", move |stop| {
            // That and connections end with the runtime.
            runtime.spawn(beside);
            runtime.block_on(accept(&listener, &router, &gate, &limits, stop));
        })
    }
}

/// Accepts clients until told to stop.
async fn accept(
    listener: &tokio::net::TcpListener,
    router: &Router,
    gate: &Arc<Gate>,
    limits: &Limits,
    stop: &Stop,
) {
    let mut looked = Instant::now();
    let mut connections: Vec<(AbortHandle, Connection)> = Vec::new();
    while !stop.is_stopped() {
        if looked.elapsed() >= LOOK_AT_CERTIFICATE {
            looked = Instant::now();
            gate.renew_certificate();
        }
        let (stream, peer) = match timeout(PERIOD, listener.accept()).await {
            Ok(Ok(accepted)) => accepted,
            Ok(Err(e)) => {
                debug!("http: {e}");
                sleep(PERIOD).await;
                continue;
            }
            Err(_) => continue,
        };
        connections.retain(|(task, _)| !task.is_finished());
        let in_turn = || connections.iter().enumerate().filter(|(_, (_, c))| !c.is_kept());
        if in_turn().count() >= limits.connections
            && let Some((oldest, _)) = in_turn().next()
        {
            connections.remove(oldest).0.abort();
            // It closes its socket when it is its turn.
            yield_now().await;
        }
        let this = Connection::between(peer, stream.local_addr().ok());
        let task = tokio::spawn(one(
            stream,
            router.clone(),
            gate.acceptor(),
            this.clone(),
            *limits,
        ));
        connections.push((task.abort_handle(), this));
    }
}

/// Serves one client. With a certificate the port speaks both: TLS to whoever begins with it, and plain HTTP to programs
/// of this machine; others are sent to TLS.
async fn one(
    stream: TcpStream,
    router: Router,
    acceptor: Option<TlsAcceptor>,
    mut this: Connection,
    limits: Limits,
) {
    /// The type of a record that begins a handshake (<https://www.rfc-editor.org/rfc/rfc8446#section-5.1>).
    const HANDSHAKE: u8 = 22;
    let with = |this: Connection| router.layer(Extension(this));
    let Some(acceptor) = acceptor else {
        return report(converse_and_upgrade(stream, with(this), &limits).await);
    };
    let mut first = [0];
    let begins = timeout(limits.patience, stream.peek(&mut first)).await;
    if !matches!(begins, Ok(Ok(1))) {
        return;
    }
    if first[0] != HANDSHAKE {
        this.wants_tls = !this
            .peer
            .is_some_and(|peer| peer.ip().to_canonical().is_loopback());
        return report(converse_and_upgrade(stream, with(this), &limits).await);
    }
    match timeout(limits.patience, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            this.is_tls = true;
            report(converse_and_upgrade(stream, with(this), &limits).await);
        }
        Ok(Err(e)) => debug!("https: {e}"),
        Err(_) => debug!("https: a handshake took too long"),
    }
}

fn report(conversed: hyper::Result<()>) {
    if let Err(e) = conversed {
        debug!("http: {e}");
    }
}

/// The router within the limits on bodies and answers.
fn limited(router: Router, limits: &Limits) -> Router {
    let answer = limits.answer;
    let in_time = move |request: Request, next: Next| async move {
        let late = (StatusCode::REQUEST_TIMEOUT, "it took too long\n");
        timeout(answer, next.run(request))
            .await
            .unwrap_or_else(|_| late.into_response())
    };
    router
        .layer(DefaultBodyLimit::max(limits.body_bytes))
        .layer(from_fn(in_time))
}

/// Reads a client's request and answers it.
///
/// # Errors
/// If it was no request, didn't come in time, or its answer wasn't taken.
#[cfg(fuzzing)]
pub async fn converse(
    stream: impl AsyncRead + AsyncWrite + Send,
    router: Router,
    limits: &Limits,
) -> hyper::Result<()> {
    let stream = TokioIo::new(Box::pin(with_patience(stream, limits)));
    http(limits)
        .serve_connection(stream, TowerToHyperService::new(router))
        .await
}

/// As [`converse_and_upgrade`], for targets of fuzzing.
///
/// # Errors
/// As there.
#[cfg(fuzzing)]
pub async fn converse_on(
    stream: impl AsyncRead + AsyncWrite + Send + 'static,
    router: Router,
    limits: &Limits,
) -> hyper::Result<()> {
    converse_and_upgrade(stream, router, limits).await
}

/// Reads a client's request and answers it, and goes on with a WebSocket if it asks for one.
///
/// # Errors
/// As a client that is none, or too slow, makes them.
async fn converse_and_upgrade(
    stream: impl AsyncRead + AsyncWrite + Send + 'static,
    router: Router,
    limits: &Limits,
) -> hyper::Result<()> {
    let stream = TokioIo::new(Box::pin(with_patience(stream, limits)));
    let connection = http(limits).serve_connection(stream, TowerToHyperService::new(router));
    connection.with_upgrades().await
}

fn with_patience<S: AsyncRead + AsyncWrite>(stream: S, limits: &Limits) -> TimeoutWriter<S> {
    let mut stream = TimeoutWriter::new(stream);
    stream.set_timeout(Some(limits.patience));
    stream
}

fn http(limits: &Limits) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.patience)
        .max_headers(limits.headers)
        .max_buf_size(limits.head_bytes)
        .keep_alive(false)
        // A client that has said all it has to say still wants its answer.
        .half_close(true);
    http
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpStream};
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use axum::body::{Body, Bytes};
    use axum::http::{Method, Uri};
    use axum::routing::{get, post};
    use crossbeam_channel::{Sender, bounded};

    use super::*;
    use crate::web::tests::{answer, ask, connect};

    /// Says what it was asked, on every address.
    fn echo() -> Router {
        Router::new().fallback(async |method: Method, uri: Uri| format!("{method} {uri}\n"))
    }

    fn serve(router: Router, limits: Limits) -> (SocketAddr, Background) {
        let access = RtspAccess::default();
        let bound = bind("127.0.0.1:0", &access).unwrap();
        let gate = Gate::new(access);
        (
            bound.address(),
            bound.serve_router(router, gate, async {}, limits).unwrap(),
        )
    }

    /// Little time.
    const HASTY: Limits = Limits {
        patience: Duration::from_millis(200),
        answer: Duration::from_millis(200),
        ..Limits::DEFAULT
    };

    #[test]
    fn who_says_nothing_holds_nobody_up() {
        let (address, http) = serve(echo(), Limits::DEFAULT);
        let silent: Vec<TcpStream> = (0..100)
            .map(|n| {
                let mut stream = TcpStream::connect(address).unwrap();
                let _ = stream.write_all(if n % 2 == 0 { b"GET /met" } else { b"" });
                stream
            })
            .collect();
        for _ in 0..20 {
            let answer = ask(address, "GET /a HTTP/1.1\r\n\r\n");
            assert!(answer.head.starts_with("HTTP/1.1 200 OK\r\n"), "{answer:?}");
            assert_eq!(answer.text(), "GET /a\n");
        }
        // A client of the old kind, which wants the head alone.
        let head = ask(address, "HEAD /a HTTP/1.0\r\n\r\n");
        assert_eq!(
            (head.code, head.header("content-length"), head.text()),
            (200, Some("8"), String::new())
        );
        assert_eq!(ask(address, "nonsense\r\n\r\n").code, 400);
        drop(http);
        // Those that are left are hung up on, and nobody listens any more.
        for mut stream in silent {
            let _ = stream.read_to_end(&mut Vec::new());
        }
        assert!(TcpStream::connect(address).is_err());
    }

    #[test]
    fn heads_are_read_when_they_are_whole() {
        let (address, _http) = serve(echo(), Limits::DEFAULT);
        let whole = "GET /metrics?x HTTP/1.1\r\nHost: a\r\n\r\n";
        for middle in [1, 3, 20, whole.len() - 1] {
            let mut stream = connect(address);
            stream.set_nodelay(true).unwrap();
            stream.write_all(&whole.as_bytes()[..middle]).unwrap();
            // One that comes later is answered in between.
            assert_eq!(ask(address, whole).text(), "GET /metrics?x\n");
            stream.write_all(&whole.as_bytes()[middle..]).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(answer(stream).unwrap().text(), "GET /metrics?x\n");
        }
        let many = "X: y\r\n".repeat(Limits::DEFAULT.headers + 1);
        let long = "y".repeat(Limits::DEFAULT.head_bytes);
        for (head, code) in [
            ("\x16\x03\x01\x02\r\n\r\n".to_owned(), 400),
            (format!("GET / HTTP/1.1\r\n{many}\r\n"), 431),
            (format!("GET / HTTP/1.1\r\nX: {long}"), 431),
            (format!("GET /{long}"), 431),
        ] {
            assert_eq!(ask(address, &head).code, code, "{head:.40}");
        }
    }

    #[test]
    fn a_connection_has_one_request() {
        let (address, _http) = serve(echo(), Limits::DEFAULT);
        let request = "GET /a HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n";
        let answer = ask(address, &request.repeat(2));
        assert_eq!(answer.header("connection"), Some("close"));
        assert_eq!(answer.text(), "GET /a\n");
    }

    #[test]
    fn who_stops_in_the_middle_is_hung_up_on() {
        let (address, _http) = serve(echo(), HASTY);
        for beginning in ["", "GET /a HT", "GET /a HTTP/1.1\r\nHost: a\r\n"] {
            let mut stream = connect(address);
            stream.write_all(beginning.as_bytes()).unwrap();
            // Without an answer, and without an end on this side.
            assert!(answer(stream).is_none(), "{beginning}");
        }
    }

    #[test]
    fn bodies_are_bounded_in_size_and_time() {
        let length = async |body: Bytes| body.len().to_string();
        let limits = Limits {
            body_bytes: 8,
            ..HASTY
        };
        let (address, _http) = serve(Router::new().route("/length", post(length)), limits);
        let post = |length: usize, body: &str| {
            ask(
                address,
                &format!("POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}"),
            )
        };
        assert_eq!(post(5, "hello").text(), "5");
        assert_eq!(post(9, "hello you").code, 413);
        // Two bytes never come.
        assert_eq!(post(7, "hello").code, 408);
    }

    /// A body without end that says when it is dropped.
    struct Endless(Sender<()>);

    impl hyper::body::Body for Endless {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
            let data = Bytes::from_static(&[0; 65536]);
            Poll::Ready(Some(Ok(hyper::body::Frame::data(data))))
        }
    }

    impl Drop for Endless {
        fn drop(&mut self) {
            let _ = self.0.try_send(());
        }
    }

    #[test]
    fn who_takes_nothing_is_hung_up_on() {
        let (dropped_tx, dropped) = bounded(1);
        let endless = get(move || async move { Body::new(Endless(dropped_tx)) });
        let (address, _http) = serve(Router::new().route("/endless", endless), HASTY);
        let mut stream = connect(address);
        stream
            .write_all(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        dropped
            .recv_timeout(Duration::from_secs(60))
            .expect("the connection ends");
        drop(stream);
    }
}
