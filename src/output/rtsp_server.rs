//! The RTSP server of one address and port, and its connections. Several streams share it, each under its own path.
//!
//! A connection that asks for nothing is closed after `IDLE`, and when there are too many the oldest such one
//! makes room; so half-open connections neither add up nor lock anybody out.
//!
//! One thread runs everything that touches a connection. GStreamer's own way, a second thread for clients, has one of
//! the two close what the other is reading: reading then fails without an error, for ever, with a line in the log each
//! time. Whoever else wants a connection to end shuts its socket down, and GStreamer sees that its client has gone.

use std::collections::HashMap;
use std::net::{IpAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use gstreamer as gst;
use gstreamer::glib;
use gstreamer::glib::translate::from_glib_none;
use gstreamer_rtsp_server as gst_rtsp_server;
use gstreamer_rtsp_server::prelude::*;
use gstreamer_rtsp_server::{gio, gst_rtsp};

use crate::output::RtspAddress;
use crate::output::access::RtspAccess;
use crate::output::rtsp_auth::{Access, ROLE, make_auth, renew_certificate};
use crate::supervise::Ticker;
use vision::error::{Error, Result};

/// Seconds without a sign of life after which a client's session is closed.
const SESSION_TIMEOUT_S: u32 = 30;

/// A connection without a session is closed after this time.
const IDLE: Duration = Duration::from_secs(10);

/// A client that takes no data for this many milliseconds is disconnected.
const STUCK_MS: i32 = 15_000;

/// Connections for each client that may watch: one that watches, one that only asks.
const CONNECTIONS_PER_CLIENT: usize = 2;

/// Connections above those.
const SPARE_CONNECTIONS: usize = 16;

/// Bytes of a request's body at most; no request that is answered has a longer one.
const MAX_BODY: u32 = 16 * 1024;

/// Bytes that the kernel holds of what a connection has sent. Requests are short. GStreamer reads header by header for as
/// long as there is more, so what lies here when a connection is shut down is all that it can still keep busy with.
const RECEIVE_BUFFER: i32 = 32 * 1024;

/// Connections that the kernel completes ahead of us. GStreamer's default of 5 is full after a burst, and the next
/// client then waits a second or more for its SYN's retransmission.
const BACKLOG: i32 = 128;

/// How long a client that has gone is kept.
const LINGER: Duration = Duration::from_secs(5);

/// How long clients' pipelines may take to stop.
const MEDIA_STOP: Duration = Duration::from_millis(1200);

/// How long the server's thread may take to end.
const JOIN: Duration = Duration::from_millis(1800);

/// What a stream is told by its server.
pub(super) trait Mount: Send + Sync {
    /// A client has begun to watch.
    fn play(&self);
    /// Whether the stream's pipeline still runs.
    fn is_running(&self) -> bool;
    /// Clients that watch.
    fn clients(&self) -> &AtomicUsize;
}

/// A connection.
struct Connection {
    since: Instant,
    /// Its socket once more, to shut it down by.
    socket: Option<TcpStream>,
    watches: Option<Arc<dyn Mount>>,
    path: Option<String>,
    has_session: bool,
}

impl Connection {
    /// Ends it; its client's end comes soon after.
    fn hang_up(&self) {
        if let Some(socket) = &self.socket {
            // It may have gone by itself.
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// Shared with the signal handlers.
#[derive(Default)]
struct State {
    mounts: Mutex<HashMap<String, Arc<dyn Mount>>>,
    /// By the client object's address.
    connections: Mutex<HashMap<usize, Connection>>,
    max_connections: AtomicUsize,
    stopping: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// A running server.
pub(super) struct Server {
    host: String,
    port: u16,
    tls: bool,
    server: gst_rtsp_server::RTSPServer,
    context: glib::MainContext,
    state: Arc<State>,
    access: Arc<Mutex<Access>>,
    thread: Mutex<Option<(JoinHandle<()>, Receiver<()>)>>,
    _idle: Ticker,
}

/// The servers of this process.
static SERVERS: Mutex<Vec<Weak<Server>>> = Mutex::new(Vec::new());

/// Puts new rules in force for all servers: users and certificates for clients that come from now on, limits at
/// once.
///
/// # Errors
/// Usage or fatal, naming the file or key; then nothing has changed.
pub fn set_access(rules: &RtspAccess) -> Result<()> {
    rules.validate()?;
    let servers: Vec<Arc<Server>> = lock(&SERVERS).iter().filter_map(Weak::upgrade).collect();
    let auths = servers
        .iter()
        .map(|server| {
            rules.allows(&server.address("/"))?;
            make_auth(rules, server.tls)
        })
        .collect::<Result<Vec<_>>>()?;
    for (server, auth) in servers.iter().zip(auths) {
        server.server.set_auth(auth.as_ref());
        server.set_limits(rules);
        *lock(&server.access) = Access::new(rules.clone());
    }
    Ok(())
}

impl Server {
    /// The server of this address, port and security: the one that runs, or a new one.
    ///
    /// # Errors
    /// Usage, if the address isn't one of this machine or may not be served like this; fatal, if the port is in
    /// use.
    pub(super) fn get(address: &RtspAddress, rules: &RtspAccess) -> Result<Arc<Self>> {
        rules.validate()?;
        rules.allows(address)?;
        let mut servers = lock(&SERVERS);
        servers.retain(|s| s.strong_count() > 0);
        let found = servers
            .iter()
            .filter_map(Weak::upgrade)
            .find(|s| (s.host.as_str(), s.port, s.tls) == (address.host.as_str(), address.port, address.tls));
        if let Some(server) = found {
            return Ok(server);
        }
        let server = Arc::new(Self::start(address, rules)?);
        servers.push(Arc::downgrade(&server));
        Ok(server)
    }

    fn start(address: &RtspAddress, rules: &RtspAccess) -> Result<Self> {
        let context = glib::MainContext::new();
        let state = Arc::new(State::default());
        let server = gst_rtsp_server::RTSPServer::new();
        server.set_address(&address.host);
        server.set_service(&address.port.to_string());
        server.set_content_length_limit(MAX_BODY);
        server.set_backlog(BACKLOG);
        let threads = gst_rtsp_server::RTSPThreadPool::new();
        threads.set_max_threads(0);
        server.set_thread_pool(Some(&threads));
        let auth = make_auth(rules, address.tls)?;
        server.set_auth(auth.as_ref());
        let sessions = server
            .session_pool()
            .ok_or_else(|| Error::fatal("GStreamer: an RTSP server without sessions"))?;
        watch_clients(&server, &sessions, &state, &context);
        let access = Arc::new(Mutex::new(Access::new(rules.clone())));

        let socket = server
            .create_socket(gio::Cancellable::NONE)
            .map_err(|e| bind_error(address, e))?;
        // Connections inherit it. The kernel ends those whose peer takes nothing for so long, a window of zero
        // included (<https://man7.org/linux/man-pages/man7/tcp.7.html>); GStreamer would drop data for them for ever.
        socket
            .set_option(libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, STUCK_MS)
            .map_err(|e| Error::fatal("the RTSP socket takes no timeout").caused_by(e))?;
        socket
            .set_option(libc::SOL_SOCKET, libc::SO_RCVBUF, RECEIVE_BUFFER)
            .map_err(|e| Error::fatal("the RTSP socket takes no size of its buffer").caused_by(e))?;
        let accepting = server.downgrade();
        let source = SocketExtManual::create_source(
            &socket,
            glib::IOCondition::IN,
            gio::Cancellable::NONE,
            None,
            glib::Priority::DEFAULT,
            move |socket, condition| match accepting.upgrade() {
                Some(server) => {
                    // A client that is gone before it was accepted.
                    if let Err(e) = gst_rtsp_server::RTSPServer::io_func(socket, condition, &server) {
                        tracing::debug!("RTSP: {e}");
                    }
                    glib::ControlFlow::Continue
                }
                None => glib::ControlFlow::Break,
            },
        );
        source.attach(Some(&context));
        // Port 0 asks for any free one.
        let port = socket
            .local_address()
            .ok()
            .and_then(|a| a.downcast::<gio::InetSocketAddress>().ok())
            .map_or(address.port, |a| a.port());
        let cleaner = {
            let (server, sessions, access) = (server.downgrade(), sessions.clone(), access.clone());
            let tls = address.tls;
            glib::timeout_source_new_seconds(1, None, glib::Priority::DEFAULT, move || {
                sessions.cleanup();
                if let (Some(server), true) = (server.upgrade(), tls) {
                    renew_certificate(&server, &mut lock(&access));
                }
                glib::ControlFlow::Continue
            })
        };
        cleaner.attach(Some(&context));
        // Not by the server's thread, which a connection may keep busy.
        let idle = {
            let state = state.clone();
            Ticker::start("rtsp-idle", Duration::from_secs(1), move || close_idle(&state))?
        };

        let (ended_tx, ended) = bounded::<()>(0);
        let (thread_state, thread_context, thread_server) = (state.clone(), context.clone(), server.clone());
        let thread = std::thread::Builder::new()
            .name("rtsp".into())
            .spawn(move || {
                // Dropped when the thread ends: the receiver sees that.
                let _ended = ended_tx;
                serve(&thread_context, &thread_server, &thread_state, &[source, cleaner]);
            })
            .map_err(|e| Error::transient("the thread rtsp can't be started").caused_by(e))?;
        let this = Self {
            host: address.host.clone(),
            port,
            tls: address.tls,
            server,
            context,
            state,
            access,
            thread: Mutex::new(Some((thread, ended))),
            _idle: idle,
        };
        this.set_limits(rules);
        if !address.is_loopback() && rules.users.is_empty() {
            tracing::warn!(
                url = %this.address(&address.path),
                "the video can be watched by everyone who reaches this address: there is no password"
            );
        }
        Ok(this)
    }

    /// The address of one of its paths, with the port that was really bound.
    pub(super) fn address(&self, path: &str) -> RtspAddress {
        RtspAddress {
            host: self.host.clone(),
            port: self.port,
            path: path.to_owned(),
            tls: self.tls,
        }
    }

    fn set_limits(&self, rules: &RtspAccess) {
        if let Some(sessions) = self.server.session_pool() {
            sessions.set_max_sessions(rules.max_clients);
        }
        let connections = CONNECTIONS_PER_CLIENT * rules.max_clients as usize + SPARE_CONNECTIONS;
        self.state.max_connections.store(connections, Ordering::Relaxed);
    }

    /// Serves a stream.
    ///
    /// # Errors
    /// Usage, if the path is taken.
    pub(super) fn mount(
        &self,
        path: &str,
        factory: impl IsA<gst_rtsp_server::RTSPMediaFactory>,
        mount: Arc<dyn Mount>,
    ) -> Result<()> {
        let points = self
            .server
            .mount_points()
            .ok_or_else(|| Error::fatal("GStreamer: an RTSP server without mount points"))?;
        let mut mounts = lock(&self.state.mounts);
        if mounts.contains_key(path) {
            return Err(Error::usage(format!(
                "{}: another stream has this path",
                self.address(path)
            )));
        }
        factory.add_role_from_structure(
            &gst::Structure::builder(ROLE)
                .field("media.factory.access", true)
                .field("media.factory.construct", true)
                .build(),
        );
        points.add_factory(path, factory);
        mounts.insert(path.to_owned(), mount);
        Ok(())
    }

    /// Ends a stream and disconnects those who watch it.
    pub(super) fn unmount(&self, path: &str) {
        let mount = lock(&self.state.mounts).remove(path);
        if let Some(points) = self.server.mount_points() {
            points.remove_factory(path);
        }
        lock(&self.state.connections)
            .values()
            .filter(|c| c.path.as_deref() == Some(path))
            .for_each(Connection::hang_up);
        let deadline = Instant::now() + MEDIA_STOP;
        while mount.as_ref().is_some_and(|m| m.is_running()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn shutdown(&self) -> Result<()> {
        let Some((thread, ended)) = lock(&self.thread).take() else {
            return Ok(());
        };
        self.state.stopping.store(true, Ordering::Release);
        self.context.wakeup();
        match ended.recv_timeout(JOIN) {
            Err(RecvTimeoutError::Timeout) => Err(Error::fatal(format!(
                "the thread rtsp did not end within {} ms",
                JOIN.as_millis()
            ))),
            _ => thread
                .join()
                .map_err(|_| Error::fatal("the thread rtsp ended with a panic")),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(e) = self.shutdown() {
            tracing::error!("{e}");
        }
    }
}

/// The server thread: serves until told to stop, then sends the clients away and waits for their pipelines.
fn serve(
    context: &glib::MainContext,
    server: &gst_rtsp_server::RTSPServer,
    state: &State,
    sources: &[glib::Source],
) {
    let run = context.with_thread_default(|| {
        while !state.stopping.load(Ordering::Acquire) {
            context.iteration(true);
        }
        for source in sources {
            source.destroy();
        }
        server.client_filter(Some(&mut |_, _| gst_rtsp_server::RTSPFilterResult::Remove));
        if let Some(sessions) = server.session_pool() {
            sessions.filter(Some(&mut |_, _| gst_rtsp_server::RTSPFilterResult::Remove));
        }
        let deadline = Instant::now() + MEDIA_STOP;
        let running = || lock(&state.mounts).values().any(|m| m.is_running());
        while (running() || context.pending()) && Instant::now() < deadline {
            if !context.iteration(false) {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    });
    if let Err(e) = run {
        tracing::error!("the RTSP server's main context is not ours: {e}");
    }
}

/// Closes connections that ask for nothing.
fn close_idle(state: &State) {
    let now = Instant::now();
    let connections = lock(&state.connections);
    let idle = connections
        .values()
        .filter(|c| !c.has_session && now.duration_since(c.since) > IDLE);
    for connection in idle {
        tracing::debug!("RTSP: an idle connection is closed");
        connection.hang_up();
    }
}

/// The socket of a client's connection once more; `None` if it is closed already. For the thread that runs the
/// connection.
fn socket_of(client: &gst_rtsp_server::RTSPClient) -> Option<TcpStream> {
    // SAFETY: the connection is the client's, which lives for this call, and gives its socket away without a
    // reference, which is taken before anyone can close it: only this thread runs connections.
    let socket: Option<gio::Socket> = unsafe {
        let connection = gst_rtsp_server::ffi::gst_rtsp_client_get_connection(client.as_ptr());
        if connection.is_null() {
            return None;
        }
        from_glib_none(gst_rtsp::ffi::gst_rtsp_connection_get_read_socket(connection))
    };
    let own = socket?.as_fd().try_clone_to_owned().ok()?;
    Some(own.into())
}

/// Knows who is connected and who watches what, gives each a keyframe, and closes the sessions of those that went
/// away.
fn watch_clients(
    server: &gst_rtsp_server::RTSPServer,
    sessions: &gst_rtsp_server::RTSPSessionPool,
    state: &Arc<State>,
    context: &glib::MainContext,
) {
    let (state, sessions, context) = (state.clone(), sessions.clone(), context.clone());
    server.connect_client_connected(move |_, client| {
        let id = client.as_ptr() as usize;
        client.set_post_session_timeout(5);
        admit(&state, id, socket_of(client));

        let on_play = state.clone();
        client.connect_play_request(move |_, request| {
            let path = request.uri().map(path_of).unwrap_or_default();
            begin(&on_play, id, &path);
        });
        let (on_pause, on_teardown, on_close) = (state.clone(), state.clone(), state.clone());
        client.connect_pause_request(move |_, _| end(&on_pause, id));
        client.connect_teardown_request(move |_, _| end(&on_teardown, id));

        let own_sessions = Arc::new(Mutex::new(
            Vec::<glib::WeakRef<gst_rtsp_server::RTSPSession>>::new(),
        ));
        let (opened, on_session) = (own_sessions.clone(), state.clone());
        client.connect_new_session(move |_, session| {
            session.set_timeout(SESSION_TIMEOUT_S);
            lock(&opened).push(session.downgrade());
            if let Some(connection) = lock(&on_session.connections).get_mut(&id) {
                connection.has_session = true;
            }
        });
        let (sessions, context) = (sessions.clone(), context.clone());
        client.connect_closed(move |client| {
            end(&on_close, id);
            let had_session = lock(&on_close.connections)
                .remove(&id)
                .is_some_and(|connection| connection.has_session);
            // A UDP client that was killed: without this its video would go on until the session's timeout.
            // Removed afterwards, not inside the client's own signal.
            let left = std::mem::take(&mut *lock(&own_sessions));
            let (sessions, its_context, client) = (sessions.clone(), context.clone(), client.clone());
            let remove = move || {
                for session in left.iter().filter_map(glib::WeakRef::upgrade) {
                    // It may be gone already.
                    let _ = sessions.remove(&session);
                }
                if had_session {
                    linger(&client, &its_context);
                }
                glib::ControlFlow::Break
            };
            glib::idle_source_new(None, glib::Priority::DEFAULT, remove).attach(Some(&context));
        });
    });
}

/// Keeps a client that has gone for a while, without its socket. A send to it that fails has GStreamer close it later on,
/// from this context, by an address that no reference stands behind: by then the client may be freed, or be freed by that
/// closing, under a lock of its own, which ends the process (`do_send_data` and `gst_rtsp_client_close` in
/// <https://gitlab.freedesktop.org/gstreamer/gstreamer/-/blob/1.22/subprojects/gst-rtsp-server/gst/rtsp-server/rtsp-client.c>).
fn linger(client: &gst_rtsp_server::RTSPClient, context: &glib::MainContext) {
    client.close();
    let client = client.clone();
    let over = move || {
        // Dropped with this closure.
        let _ = &client;
        glib::ControlFlow::Break
    };
    glib::timeout_source_new(LINGER, None, glib::Priority::LOW, over).attach(Some(context));
}

/// Takes a connection into the list; where there are too many, the oldest without a session goes.
fn admit(state: &State, id: usize, socket: Option<TcpStream>) {
    let new = Connection {
        since: Instant::now(),
        socket,
        watches: None,
        path: None,
        has_session: false,
    };
    let mut connections = lock(&state.connections);
    if connections.len() >= state.max_connections.load(Ordering::Relaxed) {
        let oldest = connections
            .iter()
            .filter(|(_, c)| !c.has_session)
            .min_by_key(|(_, c)| c.since)
            .map(|(id, _)| *id);
        match oldest.and_then(|id| connections.remove(&id)) {
            Some(oldest) => oldest.hang_up(),
            // Where all watch, there is no room.
            None => return new.hang_up(),
        }
    }
    connections.insert(id, new);
}

/// The path of a request's address.
fn path_of(uri: &gst_rtsp::RTSPUrl) -> String {
    let uri = uri.request_uri();
    let rest = uri.split_once("://").map_or(uri.as_str(), |(_, rest)| rest);
    let path = rest.find('/').map_or("", |at| &rest[at..]);
    path.split(['?', '#']).next().unwrap_or_default().to_owned()
}

fn begin(state: &State, id: usize, path: &str) {
    // The path of a stream, or of one of its tracks.
    let found = lock(&state.mounts)
        .iter()
        .filter(|(mount, _)| {
            path.strip_prefix(mount.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
        .max_by_key(|(mount, _)| mount.len())
        .map(|(path, mount)| (path.clone(), mount.clone()));
    let Some((path, mount)) = found else {
        return;
    };
    if let Some(connection) = lock(&state.connections).get_mut(&id)
        && connection.watches.is_none()
    {
        mount.clients().fetch_add(1, Ordering::Relaxed);
        connection.watches = Some(mount.clone());
        connection.path = Some(path);
    }
    mount.play();
}

fn end(state: &State, id: usize) {
    let watched = lock(&state.connections)
        .get_mut(&id)
        .and_then(|connection| connection.watches.take());
    if let Some(mount) = watched {
        mount.clients().fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why the address can't be bound, and what to do.
fn bind_error(address: &RtspAddress, e: glib::Error) -> Error {
    use gio::IOErrorEnum;
    let (host, port) = (&address.host, address.port);
    let error = if e.matches(IOErrorEnum::AddressInUse) {
        Error::fatal(format!(
            "{address}: port {port} of {host} is in use by another program"
        ))
        .hint("stop that program (`ss -ltnp` names it) or choose another port")
    } else if e.matches(IOErrorEnum::PermissionDenied) {
        Error::fatal(format!("{address}: port {port} may not be opened"))
            .hint("choose a port above 1023, or give the program CAP_NET_BIND_SERVICE")
    } else if host.parse::<IpAddr>().is_ok() {
        Error::usage(format!("{address}: {host} is not an address of this machine"))
            .hint("use one that `ip address` lists, 127.0.0.1 for this machine alone, or 0.0.0.0 for all")
    } else {
        Error::usage(format!("{address}: {host} can't be listened on"))
            .hint("use an IP address, such as 127.0.0.1 for this machine alone, or 0.0.0.0 for all")
    };
    error.caused_by(e)
}
