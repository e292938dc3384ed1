//! What an RTSP server asks of its clients: users by digest, a certificate and its renewal.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant, SystemTime};

use gstreamer::glib;
use gstreamer_rtsp_server as gst_rtsp_server;
use gstreamer_rtsp_server::prelude::*;
use gstreamer_rtsp_server::{gio, gst_rtsp};

use crate::output::access::{RtspAccess, TlsFiles};
use vision::error::{Error, Result};
use vision::file;

/// The role that may watch; everyone has it where there are no users.
pub(super) const ROLE: &str = "viewer";

/// The access rules in force, and what the TLS files were when they were read, and when they were last looked at.
pub(super) struct Access {
    rules: RtspAccess,
    read: Option<FileTimes>,
    seen: Option<(FileTimes, Instant)>,
}

impl Access {
    /// Rules whose files were read just now.
    pub(super) fn new(rules: RtspAccess) -> Self {
        Self {
            read: file_times(rules.tls.as_ref()),
            seen: None,
            rules,
        }
    }
}

/// When certificate and key were changed last.
type FileTimes = (SystemTime, SystemTime);

/// Certificate and key are read again once both have stood still for so long: they are not written at once.
const FILES_SETTLE: Duration = Duration::from_secs(3);

/// How long the two ends of a handshake with ourselves wait for each other.
const HANDSHAKE_TIMEOUT_S: u32 = 5;

/// What clients must show; `None` where nothing is asked of them.
pub(super) fn make_auth(rules: &RtspAccess, tls: bool) -> Result<Option<gst_rtsp_server::RTSPAuth>> {
    if rules.users.is_empty() && !tls {
        return Ok(None);
    }
    let auth = gst_rtsp_server::RTSPAuth::new();
    let mut token = gst_rtsp_server::RTSPToken::builder()
        .field("media.factory.role", ROLE)
        .build();
    match rules.users.first() {
        None => auth.set_default_token(Some(&mut token)),
        Some(first) => {
            auth.set_supported_methods(gst_rtsp::RTSPAuthMethod::Digest);
            auth.set_realm(Some(first.realm()));
            read_users(&auth, rules, &token)?;
        }
    }
    if let Some(files) = rules.tls.as_ref().filter(|_| tls) {
        auth.set_tls_certificate(Some(&certificate(files)?));
    }
    Ok(Some(auth))
}

/// Hands the users over in the only form that holds no password: a file of htdigest lines, in memory.
fn read_users(
    auth: &gst_rtsp_server::RTSPAuth,
    rules: &RtspAccess,
    token: &gst_rtsp_server::RTSPToken,
) -> Result<()> {
    let fail =
        |e: std::io::Error| Error::fatal("the list of users can't be handed to GStreamer").caused_by(e);
    let memory =
        rustix::fs::memfd_create("users", rustix::fs::MemfdFlags::CLOEXEC).map_err(|e| fail(e.into()))?;
    let mut file = std::fs::File::from(memory);
    for user in &rules.users {
        writeln!(file, "{}", user.entry()).map_err(fail)?;
    }
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    if !auth.parse_htdigest(&path, token) {
        return Err(Error::fatal(
            "GStreamer does not take the list of users (access.users)",
        ));
    }
    Ok(())
}

fn certificate(files: &TlsFiles) -> Result<gio::TlsCertificate> {
    for path in [&files.certificate, &files.key] {
        file::check(path)
            .and_then(|()| std::fs::File::open(path))
            .map_err(|e| Error::usage(format!("{}: can't be read", path.display())).caused_by(e))?;
    }
    let wrong = |what: &str, e: glib::Error| {
        let (certificate, key) = (files.certificate.display(), files.key.display());
        Error::usage(format!("{certificate} and {key}: {what}")).caused_by(e)
    };
    let certificate = gio::TlsCertificate::from_files(&files.certificate, &files.key).map_err(|e| {
        wrong("not a certificate and its key", e).hint("both in PEM; TLS needs the package glib-networking")
    })?;
    shake_hands(&certificate).map_err(|e| {
        wrong("no TLS client can connect with these", e)
            .hint("the key must be the one that the certificate was made for")
    })?;
    Ok(certificate)
}

/// One handshake of a server that shows the certificate with a client that trusts everyone: GIO reads a certificate
/// beside another one's key without complaint, and every client would then be refused.
fn shake_hands(certificate: &gio::TlsCertificate) -> Result<(), glib::Error> {
    let failed = |e: std::io::Error| glib::Error::new(gio::IOErrorEnum::Failed, &e.to_string());
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(failed)?;
    let stream = |end: std::os::unix::net::UnixStream| {
        let socket = gio::Socket::from_fd(end.into())?;
        socket.set_timeout(HANDSHAKE_TIMEOUT_S);
        Ok::<_, glib::Error>(socket.connection_factory_create_connection())
    };
    let server = gio::TlsServerConnection::new(&stream(ours)?, Some(certificate))?;
    let client = gio::TlsClientConnection::new(&stream(theirs)?, gio::SocketConnectable::NONE)?;
    client.connect_accept_certificate(|_, _, _| true);
    let context = glib::MainContext::new();
    let shaken = context.with_thread_default(|| {
        let client_side =
            context.spawn_local(async move { client.handshake_future(glib::Priority::DEFAULT).await });
        context.block_on(async {
            let server_side = server.handshake_future(glib::Priority::DEFAULT).await;
            match client_side.await {
                // The client's reason is the first: the server only hears that it went.
                Ok(client_side) => client_side.and(server_side),
                Err(_) => server_side,
            }
        })
    });
    shaken.unwrap_or_else(|e| Err(glib::Error::new(gio::IOErrorEnum::Failed, &e.to_string())))
}

/// Checks that certificate and key can be read, and that a client can connect with them.
///
/// # Errors
/// Usage, naming the files.
pub fn check_tls(files: &TlsFiles) -> Result<()> {
    crate::encode::elements::init()?;
    certificate(files).map(|_| ())
}

/// When certificate and key were changed last.
fn file_times(files: Option<&TlsFiles>) -> Option<FileTimes> {
    let changed = |path| std::fs::metadata(path).and_then(|m| m.modified()).ok();
    let files = files?;
    Some((changed(&files.certificate)?, changed(&files.key)?))
}

/// Reads certificate and key again if they have changed and stand still. If they can't be read, the old ones serve.
pub(super) fn renew_certificate(server: &gst_rtsp_server::RTSPServer, access: &mut Access) {
    let Some(now) = file_times(access.rules.tls.as_ref()) else {
        return;
    };
    if access.read == Some(now) {
        return;
    }
    match access.seen {
        Some((seen, since)) if seen == now => {
            if since.elapsed() < FILES_SETTLE {
                return;
            }
        }
        _ => {
            access.seen = Some((now, Instant::now()));
            return;
        }
    }
    access.read = Some(now);
    match make_auth(&access.rules, true) {
        Ok(auth) => {
            server.set_auth(auth.as_ref());
            tracing::info!("RTSP: certificate and key have changed and are in use");
        }
        Err(e) => tracing::warn!("RTSP: the certificate has changed, the old one stays in use: {e}"),
    }
}
