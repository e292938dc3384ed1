//! WebRTC: sends encoded video to browsers over one UDP port, from one task.
//!
//! All viewers of a camera share one place at its encoder. A viewer begins with a keyframe; packets that got lost are sent
//! again from str0m's buffer. One that says nothing is gone after 25 s, one that never connects sooner. The one candidate in
//! an answer is the address at which the offer reached this machine, unless another one is configured.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket as StdUdpSocket};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use str0m::change::SdpOffer;
use str0m::format::Codec;
use str0m::media::{MediaTime, Mid, Pt};
use str0m::net::{Protocol, Receive};
use str0m::rtp::Extension;
use str0m::{Candidate, Event, IceConnectionState, Input, Output, Rtc, RtcConfig};
use tokio::net::UdpSocket;
use tokio::sync::mpsc::{Receiver, Sender, channel, error::TrySendError};
use tokio::sync::{Mutex, oneshot};
use tokio::time::{sleep_until, timeout};
use tracing::debug;

use super::app::Ticket;
use super::feed::{Feed, Take};
use crate::clock::SharedClock;
use crate::encode::{AccessUnit, Encoder, Offered};

/// Units that wait for the task; a camera that brings more loses all up to its next keyframe, counted by the encoder.
const QUEUED: usize = 64;
/// Offers and ends that wait for the task; more wait at the door.
const COMMANDS: usize = 8;
/// How long a viewer may take to connect.
const CONNECT: Duration = Duration::from_secs(15);
/// From one look at what has ended to the next.
const LOOK: Duration = Duration::from_secs(1);
/// Datagrams that are read before anything else is done.
const BATCH: usize = 64;
/// How long a packet may wait for room in the system's queue; then it is lost, and the viewer asks for it again.
const ROOM: Duration = Duration::from_millis(2);
/// The longest datagram.
const DATAGRAM: usize = 2048;
/// Packets that may be asked for again: a second of 8 Mbit/s.
const RESEND: usize = 1000;

/// Why an offer got no answer.
pub(super) enum Refused {
    /// It is none.
    NoOffer(String),
    /// It takes no H.264.
    NoVideo,
    /// It was not its fault.
    Failed(String),
}

/// A new viewer, on the way to the task.
struct Offer {
    offer: SdpOffer,
    camera: usize,
    feed: Arc<Feed>,
    clock: SharedClock,
    address: SocketAddr,
    ticket: Ticket,
    reply: oneshot::Sender<Result<(String, String), Refused>>,
}

enum Command {
    Offer(Box<Offer>),
    End(String, oneshot::Sender<bool>),
}

/// The way to the task.
pub(super) struct Hub {
    commands: Sender<Command>,
    units: Sender<(usize, AccessUnit)>,
    /// The place at each camera's encoder, while somebody watches.
    feeds: Mutex<HashMap<usize, Weak<Feed>>>,
    port: u16,
    advertised: Option<IpAddr>,
}

/// The units of one camera, to the task.
struct ToTask {
    camera: usize,
    units: Sender<(usize, AccessUnit)>,
}

impl Take for ToTask {
    fn take(&self, unit: &AccessUnit) -> Offered {
        match self.units.try_send((self.camera, unit.clone())) {
            Ok(()) => Offered::Taken,
            Err(TrySendError::Full(_)) => Offered::Full,
            Err(TrySendError::Closed(_)) => Offered::Gone,
        }
    }

    fn has_room(&self) -> bool {
        self.units.capacity() > QUEUED / 2
    }
}

impl Hub {
    /// Starts the task on the runtime that this is called in. `advertised` stands in answers in place of the address that
    /// was asked.
    ///
    /// # Errors
    /// If the socket can't be used.
    pub(super) fn start(socket: StdUdpSocket, advertised: Option<IpAddr>) -> std::io::Result<Self> {
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let socket = UdpSocket::from_std(socket)?;
        let (commands, orders) = channel(COMMANDS);
        let (units, arriving) = channel(QUEUED);
        let task = Task {
            socket,
            is_v6: address.is_ipv6(),
            sessions: Vec::new(),
        };
        tokio::spawn(task.run(orders, arriving));
        Ok(Self {
            commands,
            units,
            feeds: Mutex::default(),
            port: address.port(),
            advertised,
        })
    }

    /// A viewer's session; gives its number and the answer. `local` is the address that the offer came to.
    ///
    /// # Errors
    /// Why there is no session.
    pub(super) async fn watch(
        &self,
        (camera, encoder, clock): (usize, Arc<Encoder>, SharedClock),
        offer: String,
        local: IpAddr,
        ticket: Ticket,
    ) -> Result<(String, String), Refused> {
        let offer = SdpOffer::from_sdp_string(&offer).map_err(|e| Refused::NoOffer(e.to_string()))?;
        let feed = self.feed(camera, encoder).await?;
        let address = SocketAddr::new(self.advertised.unwrap_or(local).to_canonical(), self.port);
        let (reply, answer) = oneshot::channel();
        let offer = Offer {
            offer,
            camera,
            feed,
            clock,
            address,
            ticket,
            reply,
        };
        let gone = || Refused::Failed("WebRTC has ended".into());
        self.commands
            .send(Command::Offer(Box::new(offer)))
            .await
            .map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// The place at a camera's encoder.
    async fn feed(&self, camera: usize, encoder: Arc<Encoder>) -> Result<Arc<Feed>, Refused> {
        // Held while one begins: two viewers who come at once are to share it.
        let mut feeds = self.feeds.lock().await;
        let known = feeds.get(&camera).and_then(Weak::upgrade);
        if let Some(feed) = known.filter(|feed| !feed.has_ended()) {
            return Ok(feed);
        }
        let to = ToTask {
            camera,
            units: self.units.clone(),
        };
        let feed = Feed::begin(encoder, "WebRTC", to).await;
        let feed = Arc::new(feed.map_err(|e| Refused::Failed(e.to_string()))?);
        feeds.insert(camera, Arc::downgrade(&feed));
        Ok(feed)
    }

    /// Ends a session; whether there was one.
    pub(super) async fn end(&self, id: String) -> bool {
        let (reply, done) = oneshot::channel();
        self.commands.send(Command::End(id, reply)).await.is_ok() && done.await.unwrap_or(false)
    }
}

/// What a session's video is sent as.
#[derive(Clone, Copy)]
struct Track {
    mid: Mid,
    payload: Pt,
}

/// A viewer.
struct Session {
    id: String,
    camera: usize,
    rtc: Rtc,
    address: SocketAddr,
    feed: Arc<Feed>,
    clock: SharedClock,
    began: Instant,
    is_connected: bool,
    track: Track,
    /// Whether the next unit may be one that others are needed for.
    has_begun: bool,
    /// When str0m wants to be asked again.
    wake: Instant,
    /// The time of the last picture, in ticks of 90 kHz.
    last_ticks: u64,
    _ticket: Ticket,
}

/// Whether a session goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    GoesOn,
    Ends,
}

struct Task {
    socket: UdpSocket,
    /// Whether the socket takes addresses of IPv4 in the form of IPv6.
    is_v6: bool,
    sessions: Vec<Session>,
}

impl Task {
    /// Until the hub is gone.
    async fn run(mut self, mut commands: Receiver<Command>, mut units: Receiver<(usize, AccessUnit)>) {
        let mut looked = Instant::now();
        loop {
            let wake = self.sessions.iter().map(|session| session.wake).min();
            let wake = wake.map_or(looked + LOOK, |wake| wake.min(looked + LOOK));
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Offer(offer)) => self.begin(*offer).await,
                    Some(Command::End(id, reply)) => {
                        // Whoever asked may have gone.
                        let _ = reply.send(self.end(&id).await);
                    }
                    None => return,
                },
                Some((camera, unit)) = units.recv() => self.send(camera, &unit).await,
                ready = self.socket.readable() => match ready {
                    Ok(()) => self.receive().await,
                    Err(e) => {
                        tracing::error!("WebRTC ends: {e}");
                        return;
                    }
                },
                () = sleep_until(wake.into()) => {}
            }
            let now = Instant::now();
            for at in (0..self.sessions.len()).rev() {
                if self.sessions[at].wake <= now {
                    let woken = self.sessions[at].rtc.handle_input(Input::Timeout(now)).is_ok();
                    self.go_on(at, woken).await;
                }
            }
            if looked + LOOK <= now {
                looked = now;
                self.look(now);
            }
        }
    }

    /// Ends the sessions that have no more video, or never connected.
    fn look(&mut self, now: Instant) {
        self.sessions.retain(|session| {
            let is_late = !session.is_connected && now.duration_since(session.began) > CONNECT;
            if is_late || session.feed.has_ended() {
                debug!(id = session.id, is_late, "a WebRTC viewer's session is ended");
                return false;
            }
            true
        });
    }

    async fn begin(&mut self, offer: Offer) {
        let Offer { reply, .. } = offer;
        let now = Instant::now();
        let (rtc, answer, track) = match negotiate(offer.offer, offer.address, now) {
            Ok(agreed) => agreed,
            Err(why) => {
                let _ = reply.send(Err(why));
                return;
            }
        };
        let Some(id) = random_id() else {
            let _ = reply.send(Err(Refused::Failed("the system gives no random numbers".into())));
            return;
        };
        self.sessions.push(Session {
            id: id.clone(),
            camera: offer.camera,
            rtc,
            address: offer.address,
            feed: offer.feed,
            clock: offer.clock,
            began: now,
            is_connected: false,
            track,
            has_begun: false,
            wake: now,
            last_ticks: 0,
            _ticket: offer.ticket,
        });
        let at = self.sessions.len() - 1;
        if self.go_on(at, true).await == Then::Ends {
            let _ = reply.send(Err(Refused::NoOffer("it can't be answered".into())));
        } else {
            // Whoever asked may have gone; then nobody connects.
            let _ = reply.send(Ok((id, answer)));
        }
    }

    async fn end(&mut self, id: &str) -> bool {
        let Some(at) = self.sessions.iter().position(|session| session.id == id) else {
            return false;
        };
        // What is left to say is said.
        let closing = self.sessions[at].rtc.close().is_ok();
        if self.go_on(at, closing).await == Then::GoesOn {
            self.sessions.swap_remove(at);
        }
        true
    }

    /// Sends what a session has to say, until it waits; one that ends is removed.
    async fn go_on(&mut self, at: usize, mut is_well: bool) -> Then {
        let (socket, is_v6) = (&self.socket, self.is_v6);
        let session = &mut self.sessions[at];
        while is_well {
            match session.rtc.poll_output() {
                Ok(Output::Timeout(wake)) => {
                    session.wake = wake;
                    if session.rtc.is_alive() {
                        return Then::GoesOn;
                    }
                    break;
                }
                Ok(Output::Transmit(packet)) => {
                    let to = match (is_v6, packet.destination.ip()) {
                        (true, IpAddr::V4(v4)) => {
                            SocketAddr::new(v4.to_ipv6_mapped().into(), packet.destination.port())
                        }
                        _ => packet.destination,
                    };
                    // One that is lost is asked for again.
                    let _ = timeout(ROOM, socket.send_to(&packet.contents, to)).await;
                }
                Ok(Output::Event(event)) => is_well = session.happens(&event),
                Err(e) => {
                    debug!(id = session.id, "WebRTC: {e}");
                    break;
                }
            }
        }
        debug!(id = self.sessions[at].id, "a WebRTC viewer is gone");
        self.sessions.swap_remove(at);
        Then::Ends
    }

    /// Reads the datagrams that wait.
    async fn receive(&mut self) {
        let mut bytes = [0; DATAGRAM];
        for _ in 0..BATCH {
            let Ok((length, source)) = self.socket.try_recv_from(&mut bytes) else {
                return;
            };
            let Ok(contents) = bytes[..length].try_into() else {
                continue;
            };
            let source = SocketAddr::new(source.ip().to_canonical(), source.port());
            let now = Instant::now();
            let mut receive = Receive {
                proto: Protocol::Udp,
                source,
                destination: source,
                contents,
            };
            let mut found = None;
            for (at, session) in self.sessions.iter().enumerate() {
                receive.destination = session.address;
                let input = Input::Receive(now, receive);
                let accepted = session.rtc.accepts(&input);
                let Input::Receive(_, back) = input else {
                    return;
                };
                receive = back;
                if accepted {
                    found = Some(at);
                    break;
                }
            }
            if let Some(at) = found {
                let is_well = self.sessions[at]
                    .rtc
                    .handle_input(Input::Receive(now, receive))
                    .is_ok();
                self.go_on(at, is_well).await;
            }
        }
    }

    /// Sends a picture to all who watch the camera.
    async fn send(&mut self, camera: usize, unit: &AccessUnit) {
        for at in (0..self.sessions.len()).rev() {
            let session = &mut self.sessions[at];
            if session.camera == camera && session.is_connected {
                let is_well = session.write(unit);
                self.go_on(at, is_well).await;
            }
        }
    }
}

impl Session {
    /// Takes note of an event; whether the session goes on.
    fn happens(&mut self, event: &Event) -> bool {
        match event {
            Event::Connected => {
                self.is_connected = true;
                self.feed.request_keyframe();
            }
            Event::KeyframeRequest(_) => self.feed.request_keyframe(),
            Event::IceConnectionStateChange(IceConnectionState::Disconnected) | Event::Closed => {
                return false;
            }
            _ => {}
        }
        true
    }

    /// Hands a picture over; whether the session goes on.
    fn write(&mut self, unit: &AccessUnit) -> bool {
        if !self.has_begun && !unit.is_keyframe {
            return true;
        }
        self.has_begun = true;
        // The time of capture, which notices have as well as pictures; it always rises.
        let ticks = u128::from(unit.captured_at_ns) * 9 / 100_000;
        let ticks = u64::try_from(ticks).unwrap_or(u64::MAX).max(self.last_ticks + 1);
        self.last_ticks = ticks;
        let now = Instant::now();
        let age = Duration::from_nanos(self.clock.now_ns().saturating_sub(unit.captured_at_ns));
        let captured = now.checked_sub(age).unwrap_or(now);
        let Track { mid, payload } = self.track;
        let Some(writer) = self.rtc.writer(mid) else {
            return true;
        };
        let writer = writer.playout_delay(MediaTime::ZERO, MediaTime::ZERO);
        let written = writer.write(payload, captured, MediaTime::from_90khz(ticks), unit.data.clone());
        written
            .inspect_err(|e| debug!(id = self.id, "WebRTC: {e}"))
            .is_ok()
    }
}

/// A connection at this address that an offer may have, the answer that says so, and what video is sent as.
///
/// # Errors
/// Why there is none.
fn negotiate(offer: SdpOffer, address: SocketAddr, now: Instant) -> Result<(Rtc, String, Track), Refused> {
    let config = RtcConfig::new()
        .set_crypto_provider(Arc::new(str0m::crypto::from_feature_flags()))
        .clear_codecs()
        .enable_h264(true)
        // Pictures are to be shown as they come.
        .set_extension(12, Extension::PlayoutDelay)
        .set_send_buffer_video(RESEND);
    let mut rtc = config.build(now);
    let candidate = Candidate::host(address, "udp").ok();
    if candidate
        .and_then(|candidate| rtc.add_local_candidate(candidate).map(drop))
        .is_none()
    {
        return Err(Refused::Failed(format!(
            "{} is no address for video",
            address.ip()
        )));
    }
    let answer = rtc.sdp_api().accept_offer(offer);
    let answer = answer
        .map_err(|e| Refused::NoOffer(e.to_string()))?
        .to_sdp_string();
    let track = video_mid(&answer).and_then(|mid| track(&mut rtc, mid));
    let track = track.ok_or(Refused::NoVideo)?;
    Ok((rtc, answer, track))
}

/// What is answered to an offer; `None` if it is none, or takes no video.
#[cfg(fuzzing)]
pub fn answer_to(offer: &str) -> Option<String> {
    let offer = SdpOffer::from_sdp_string(offer).ok()?;
    let address = SocketAddr::from(([192, 0, 2, 7], 8189));
    let agreed = negotiate(offer, address, Instant::now());
    agreed.ok().map(|(_, answer, _)| answer)
}

/// The number of the first video that an answer takes.
fn video_mid(answer: &str) -> Option<Mid> {
    let mut is_video = false;
    answer.lines().find_map(|line| {
        if let Some(media) = line.strip_prefix("m=") {
            // Port 0 refuses it.
            is_video = media.starts_with("video ") && !media.starts_with("video 0 ");
        }
        line.strip_prefix("a=mid:").filter(|_| is_video).map(Mid::from)
    })
}

/// What H.264 is sent as, if the other end takes it.
fn track(rtc: &mut Rtc, mid: Mid) -> Option<Track> {
    let writer = rtc.writer(mid)?;
    let h264 = writer
        .payload_params()
        .filter(|params| params.spec().codec == Codec::H264);
    // Whole pictures are cut into packets, which the second of its modes is for.
    let mut h264 = h264.filter(|params| params.spec().format.packetization_mode == Some(1));
    let payload = h264.next()?.pt();
    Some(Track { mid, payload })
}

/// 32 hexadecimal digits that nobody guesses.
fn random_id() -> Option<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    Some(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_video_that_is_not_refused_is_found() {
        let answer = "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\nm=video 0 UDP/TLS/RTP/SAVPF 96\r\na=mid:1\r\n\
                      m=video 9 UDP/TLS/RTP/SAVPF 108\r\na=sendonly\r\na=mid:two\r\n";
        assert_eq!(video_mid(answer), Some(Mid::from("two")));
        assert_eq!(video_mid("v=0\r\na=mid:0\r\nm=audio 9 x 0\r\na=mid:1\r\n"), None);
    }

    #[test]
    fn a_session_s_number_is_no_other_s() {
        let (one, two) = (random_id().unwrap(), random_id().unwrap());
        assert_eq!((one.len(), one == two), (32, false));
    }
}
