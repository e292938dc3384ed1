//! `rtsp+push://`: video to an RTSP server, which hands it on to its own viewers.
//!
//! The server is called, told of the stream (ANNOUNCE, SETUP, RECORD), and sent its packets over the same TCP connection. A
//! connection that ends, takes nothing, or answers nothing to a question now and then, is a failure of the output, which is
//! then opened again.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::encode::rtp::{self, Packets};
use crate::encode::{AccessUnit, EncodeOptions, Encoder, ReaderKind, Timeline, period_ns};
use crate::output::push_address::PushAddress;
use crate::output::record::taken;
use crate::output::rtsp_client::Client;
use crate::output::{Output, UnitOutput, Video};
use vision::error::{Error, Result};

/// How long a server may take to be reached.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a server may take nothing before it counts as gone.
const STALL: Duration = Duration::from_secs(10);

/// How long a read for an answer waits at a time.
const READ: Duration = Duration::from_millis(500);

/// How long the first picture may take: the encoder is asked for a keyframe.
const FIRST: Duration = Duration::from_secs(10);

/// How often the server is told when pictures were taken.
const REPORT: Duration = Duration::from_secs(5);

/// How often the server is asked something, so that it keeps the session, and so that it is seen to be there.
const QUESTION: Duration = Duration::from_secs(10);

/// A server that has said nothing for so long, asked twice meanwhile, is gone.
const SILENCE: Duration = Duration::from_secs(25);

/// The end of the stream's address.
const CONTROL: &str = "streamid=0";

/// The channel of packets; reports have the next one.
const CHANNEL: u8 = 0;

/// A connection, over TLS or in clear.
enum Wire {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Wire {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => &stream.sock,
        }
    }
}

impl Read for Wire {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(out),
            Self::Tls(stream) => stream.read(out),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

/// Trusts who an authority of the system's has signed.
fn trust() -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err("the system has no certificates that sign others".into());
    }
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn connect(address: &PushAddress) -> Result<Wire, String> {
    let (host, port) = address.server();
    let places = (host, port)
        .to_socket_addrs()
        .map_err(|e| format!("its name is not known: {e}"))?;
    let mut why = "its name has no address".to_owned();
    for place in places {
        let socket = match TcpStream::connect_timeout(&place, CONNECT) {
            Ok(socket) => socket,
            Err(e) => {
                why = format!("no server answers: {e}");
                continue;
            }
        };
        let prepared = socket
            .set_read_timeout(Some(READ))
            .and_then(|()| socket.set_write_timeout(Some(STALL)))
            .and_then(|()| socket.set_nodelay(true));
        prepared.map_err(|e| format!("the connection can't be prepared: {e}"))?;
        if !address.is_over_tls() {
            return Ok(Wire::Plain(socket));
        }
        let name = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
        let mut session = ClientConnection::new(trust()?, name).map_err(|e| e.to_string())?;
        shake_hands(&mut session, &socket)?;
        return Ok(Wire::Tls(Box::new(StreamOwned::new(session, socket))));
    }
    Err(why)
}

/// Both ends know each other after this, or it is an error.
fn shake_hands(session: &mut ClientConnection, mut socket: &TcpStream) -> Result<(), String> {
    let begun = Instant::now();
    while session.is_handshaking() {
        match session.complete_io(&mut socket) {
            Ok(_) => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(e) => return Err(format!("no TLS with it: {e}")),
        }
        if begun.elapsed() > CONNECT {
            return Err("it did not answer to TLS".into());
        }
    }
    Ok(())
}

/// Bytes that nobody can foresee.
fn random<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| format!("there are no random numbers: {e}"))?;
    Ok(bytes)
}

/// The channels for packets and reports that an answer to SETUP names.
fn channels(transport: &str) -> Option<(u8, u8)> {
    let pair = transport
        .split(';')
        .find_map(|part| part.trim().strip_prefix("interleaved="))?;
    let (packets, reports) = pair.split_once('-')?;
    Some((packets.trim().parse().ok()?, reports.trim().parse().ok()?))
}

/// Opens a push.
///
/// # Errors
/// Transient: the server is not there, or refuses the stream; no picture comes.
pub(super) fn open(
    address: &PushAddress,
    encoding: &EncodeOptions,
    video: &Video,
    kind: ReaderKind,
) -> Result<Output> {
    let gone = |why: String| gone(address, &why);
    let encoder = video.encoder(encoding)?;
    let wire = connect(address).map_err(gone)?;
    // The first unit tells what the server is to be told.
    let reader = encoder.read(&address.to_string(), kind)?;
    let first = reader.recv_timeout(FIRST).ok_or_else(|| {
        gone(format!(
            "there was no picture to begin with within {} s",
            FIRST.as_secs()
        ))
    })?;
    let push = Push::begin(address, encoder, wire, first).map_err(gone)?;
    Ok(Output::Units(reader, Box::new(push)))
}

fn gone(address: &PushAddress, why: &str) -> Error {
    let (host, port) = address.server();
    Error::transient(format!("{address}: {}", address.mask(why)))
        .hint(format!("check the server at {host}, port {port}"))
}

struct Push {
    address: PushAddress,
    encoder: Arc<Encoder>,
    client: Client<Wire>,
    packets: Packets,
    /// Where packets and reports go.
    channels: (u8, u8),
    timeline: Timeline,
    /// RTP's time of the first picture.
    begins_at: u32,
    /// What was read to tell the server of the stream, and is its beginning.
    first: Option<AccessUnit>,
    /// The packets of one unit.
    out: Vec<u8>,
    reported: Option<Instant>,
    asked: Instant,
}

impl Push {
    fn begin(
        address: &PushAddress,
        encoder: Arc<Encoder>,
        wire: Wire,
        first: AccessUnit,
    ) -> Result<Self, String> {
        let mut client = Client::new(
            wire,
            address.credentials().cloned(),
            format!("{:016x}", u64::from_be_bytes(random()?)),
        );
        let url = address.url();
        let text = rtp::description(&first, CONTROL).ok_or("the encoder gave no parameter sets")?;
        client.ask("ANNOUNCE", url, "Content-Type: application/sdp\r\n", &text)?;
        let wanted = format!(
            "Transport: RTP/AVP/TCP;unicast;interleaved={CHANNEL}-{};mode=record\r\n",
            CHANNEL + 1
        );
        let answer = client.ask("SETUP", &format!("{url}/{CONTROL}"), &wanted, "")?;
        let channels = match answer.header("transport") {
            None => (CHANNEL, CHANNEL + 1),
            Some(transport) => channels(transport)
                .ok_or("it does not take packets over the connection (RTP/AVP/TCP, interleaved)")?,
        };
        client.ask("RECORD", url, "Range: npt=0.000-\r\n", "")?;
        // From here on nothing is waited for.
        Ok(Self {
            address: address.clone(),
            timeline: Timeline::new(period_ns(first.parameters.frame_rate)),
            encoder,
            client,
            packets: Packets::new(u32::from_be_bytes(random()?), u16::from_be_bytes(random()?)),
            channels,
            begins_at: u32::from_be_bytes(random()?),
            first: Some(first),
            out: Vec::new(),
            reported: None,
            asked: Instant::now(),
        })
    }

    fn send(&mut self, unit: &AccessUnit) -> Result<(), String> {
        // Notices have a time of capture as well, so time goes on across them.
        let at = self.timeline.at(unit.captured_at_ns);
        let time = rtp::rtp_time(at).wrapping_add(self.begins_at);
        self.out.clear();
        let (out, channel) = (&mut self.out, self.channels.0);
        self.packets.of(unit, time, |packet| frame(out, channel, packet));
        if self.reported.is_none_or(|at| at.elapsed() >= REPORT) {
            self.reported = Some(Instant::now());
            let since = taken(unit)
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default();
            let unix_ns = u64::try_from(since.as_nanos()).unwrap_or(0);
            frame(
                &mut self.out,
                self.channels.1,
                &self.packets.report(time, unix_ns),
            );
        }
        let sent = self.client.write(&self.out);
        sent.map_err(|e| match e.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                format!("it took nothing for {} s", STALL.as_secs())
            }
            _ => format!("the connection has ended: {e}"),
        })
    }

    /// Takes what the server says, and sees whether it is there.
    fn listen(&mut self) -> Result<(), String> {
        let unready = |e: std::io::Error| format!("the connection has ended: {e}");
        self.client
            .stream()
            .socket()
            .set_nonblocking(true)
            .map_err(unready)?;
        let heard = self.client.listen();
        self.client
            .stream()
            .socket()
            .set_nonblocking(false)
            .map_err(unready)?;
        heard?;
        if self.asked.elapsed() >= QUESTION {
            self.asked = Instant::now();
            let asked = self.client.send("OPTIONS", self.address.url(), "", "");
            asked.map_err(unready)?;
        }
        if self.client.silent_for() > SILENCE {
            return Err(format!("it has said nothing for {} s", SILENCE.as_secs()));
        }
        Ok(())
    }
}

/// Appends a packet as it goes between requests (RFC 2326, section 10.12).
fn frame(out: &mut Vec<u8>, channel: u8, packet: &[u8]) {
    // Packets are far shorter than 64 KiB.
    let length = u16::try_from(packet.len()).unwrap_or(u16::MAX);
    out.extend([b'$', channel]);
    out.extend(length.to_be_bytes());
    out.extend_from_slice(packet);
}

impl UnitOutput for Push {
    fn describe(&self) -> String {
        self.encoder.describe(&self.address)
    }

    fn push(&mut self, unit: &AccessUnit) -> Result<()> {
        let first = self.first.take();
        let mut units = first.iter().chain([unit]);
        units
            .try_for_each(|unit| self.send(unit))
            .and_then(|()| self.listen())
            .map_err(|why| gone(&self.address, &why))
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        // The server sees the end of the connection in any case.
        let _ = self.client.stream().socket().set_write_timeout(Some(READ));
        let _ = self.client.send("TEARDOWN", self.address.url(), "", "");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_chooses_the_channels() {
        let answer = "RTP/AVP/TCP;unicast;interleaved=4-5;mode=\"RECORD\";ssrc=1";
        assert_eq!(channels(answer), Some((4, 5)));
        for other in [
            "RTP/AVP;unicast;server_port=5000-5001",
            "interleaved=4",
            "interleaved=x-y",
            "",
        ] {
            assert_eq!(channels(other), None, "{other}");
        }
    }
}
