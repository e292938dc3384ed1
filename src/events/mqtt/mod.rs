//! Events and states over MQTT, and Home Assistant's discovery of them.
//!
//! One thread runs the connection. What it loses with a connection is sent again by the next one: states are all
//! published at each connect, and events wait in the sink's queue until the broker has acknowledged them.

pub mod discovery;
pub mod topics;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event as Happened, EventLoop, LastWill,
    MqttOptions as Connect, Outgoing, Packet, PublishOptions, QoS, TlsConfiguration, Transport,
};
use serde_json::json;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::desk::{CameraState, Queue, SinkState};
use super::event::{Event, Kind, Rule, Told};
use super::secret::Secret;
use crate::clock::{SharedClock, Stop};
use crate::mailbox::Received;
use crate::metrics::Metrics;
use crate::pipeline::control::{Control, Looks};
use crate::snapshot::{Picture, jpeg};
use vision::error::{Error, Result};
use vision::file;

/// Largest file of certificates in bytes.
const MAX_CA_BYTES: u64 = 16 << 20;

use discovery::{Components, Shown, components, message};
use topics::{Asked, Topics};

/// A broker, and what it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MqttOptions {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Over TLS.
    pub tls: bool,
    /// PEM file of the certificates that may sign the broker's; the system's if not given.
    pub ca: Option<PathBuf>,
    /// Who segd is to the broker.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
    /// What all topics begin with.
    pub prefix: String,
    /// What Home Assistant's discovery topics begin with; no discovery if not given.
    pub discovery: Option<String>,
    /// Publish the outgoing picture when a presence begins.
    pub snapshots: bool,
}

/// A camera, as MQTT sees and changes it.
#[derive(Clone)]
pub struct Camera {
    /// What is known of its zones.
    pub state: Arc<CameraState>,
    /// Its pipeline.
    pub control: Arc<Control>,
    /// Its counters.
    pub metrics: Arc<Metrics>,
    /// The clock of its pictures.
    pub clock: SharedClock,
    /// What is wrong with it.
    pub troubles: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
}

/// How often states are looked at, and the stop.
const TICK: Duration = Duration::from_millis(100);
/// How often a value that moves all the time, such as an area, is published at most.
const STATE_PERIOD: Duration = Duration::from_secs(1);
/// A camera that shows nothing for so long says nothing of its zones.
const PATIENCE: Duration = Duration::from_secs(5);
/// Events that the broker has not acknowledged yet.
const IN_FLIGHT: usize = 32;
/// Messages that wait to be written. More are only made in the next tick.
const REQUESTS: usize = 512;
/// Between two tries to connect, doubling.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How long the end may take.
const LAST_WORDS: Duration = Duration::from_millis(400);
/// A picture is published at most so often.
const SNAPSHOT_PERIOD: Duration = Duration::from_secs(2);

/// Runs until its stop.
pub fn run(options: &MqttOptions, cameras: Vec<Camera>, state: &SinkState, from: &Queue, stop: &Stop) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(Session::new(options, cameras, state).run(from, stop)),
        Err(e) => state.set(&Err(Error::fatal("MQTT's runtime can't be started").caused_by(e))),
    }
}

/// What outlasts a connection.
struct Session<'a> {
    options: &'a MqttOptions,
    topics: Topics,
    cameras: Vec<Camera>,
    state: &'a SinkState,
    /// Events that were taken from the queue and not acknowledged.
    waiting: VecDeque<Arc<Told>>,
    /// What Home Assistant was told of.
    announced: Components,
}

/// What is known while connected.
struct Line {
    client: AsyncClient,
    connected: bool,
    /// The first of [`Session::waiting`] that are sent, with their packets' numbers once they have one.
    sent: VecDeque<Option<u16>>,
    /// What was published last on each topic.
    published: BTreeMap<String, Said>,
    pictures: Vec<Pictures>,
    frames: Vec<Frames>,
}

/// What was published on a topic.
struct Said {
    text: String,
    /// What of it is said at once when it changes; the rest waits for [`STATE_PERIOD`].
    urgent: String,
    at: Instant,
}

/// Frames that a camera had composed at some time, and how many a second before that.
#[derive(Default)]
struct Frames {
    seen: Option<(Instant, u64)>,
    a_second: f64,
}

impl Frames {
    /// How many go out a second, over the last few seconds.
    fn a_second(&mut self, composed: u64) -> f64 {
        const PERIOD: Duration = Duration::from_secs(5);
        let now = Instant::now();
        match self.seen {
            None => self.seen = Some((now, composed)),
            Some((at, before)) if now.duration_since(at) >= PERIOD => {
                let seconds = now.duration_since(at).as_secs_f64();
                self.a_second = (composed.saturating_sub(before) as f64 / seconds * 10.0).round() / 10.0;
                self.seen = Some((now, composed));
            }
            Some(_) => {}
        }
        self.a_second
    }
}

/// A camera's snapshots.
#[derive(Default)]
struct Pictures {
    wanted: bool,
    coming: Option<oneshot::Receiver<Arc<Picture>>>,
    last: Option<Instant>,
}

/// Why a connection is over.
enum Over {
    Stopped,
    Lost(Error),
}

impl<'a> Session<'a> {
    fn new(options: &'a MqttOptions, cameras: Vec<Camera>, state: &'a SinkState) -> Self {
        Self {
            topics: Topics::new(&options.prefix),
            options,
            cameras,
            state,
            waiting: VecDeque::new(),
            announced: Components::new(),
        }
    }

    async fn run(mut self, from: &Queue, stop: &Stop) {
        let mut pause = PAUSES.0;
        loop {
            let (lost, was_connected) = match self.connect_options() {
                Ok(connect) => match self.converse(connect, from, stop).await {
                    (Over::Stopped, _) => return,
                    (Over::Lost(e), was_connected) => (e, was_connected),
                },
                Err(e) => (e, false),
            };
            self.state.set(&Err(lost));
            pause = if was_connected {
                PAUSES.0
            } else {
                (pause * 2).min(PAUSES.1)
            };
            let until = Instant::now() + pause;
            while Instant::now() < until {
                if stop.is_stopped() {
                    return;
                }
                tokio::time::sleep(TICK).await;
            }
        }
    }

    fn connect_options(&self) -> Result<Connect> {
        let options = self.options;
        let mut connect = Connect::new(self.topics.device_id(), (options.host.clone(), options.port));
        connect.set_keep_alive(15);
        connect.set_clean_session(true);
        connect.set_max_packet_size(256 * 1024, 4 * 1024 * 1024);
        let offline = LastWill::new(self.topics.availability(), "offline", QoS::AtLeastOnce, true);
        connect.set_last_will(offline);
        match (&options.user, &options.password) {
            (Some(user), Some(password)) => {
                connect.set_credentials(user.clone(), password.0.clone());
            }
            (Some(user), None) => {
                connect.set_username(user.clone());
            }
            (None, _) => {}
        }
        if options.tls {
            connect.set_transport(match &options.ca {
                Some(path) => Transport::tls_with_config(TlsConfiguration::Simple {
                    ca: file::read(path, MAX_CA_BYTES).map_err(|e| {
                        Error::transient(format!("mqtt.ca {}: can't be read", path.display())).caused_by(e)
                    })?,
                    alpn: None,
                    client_auth: None,
                }),
                None => Transport::try_tls_with_default_config()
                    .map_err(|e| Error::transient("the system's certificates can't be read").caused_by(e))?,
            });
        }
        Ok(connect)
    }

    /// One connection, and whether it ever stood.
    async fn converse(&mut self, connect: Connect, from: &Queue, stop: &Stop) -> (Over, bool) {
        let built = AsyncClient::builder(connect).capacity(REQUESTS).try_build();
        let (client, mut events) = match built {
            Ok(built) => built,
            Err(e) => {
                return (
                    Over::Lost(Error::fatal("MQTT's options are refused").caused_by(e)),
                    false,
                );
            }
        };
        let mut line = Line {
            client,
            connected: false,
            sent: VecDeque::new(),
            published: BTreeMap::new(),
            pictures: self.cameras.iter().map(|_| Pictures::default()).collect(),
            frames: self.cameras.iter().map(|_| Frames::default()).collect(),
        };
        let mut was_connected = false;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let polled = {
                // Never dropped half-way, or a connection that takes longer than a tick would never stand.
                let mut polling = pin!(events.poll());
                loop {
                    tokio::select! {
                        polled = &mut polling => break Some(polled),
                        _ = tick.tick() => {
                            if stop.is_stopped() {
                                break None;
                            }
                            if line.connected {
                                self.send_events(&mut line, from);
                                self.send_states(&mut line);
                                self.send_pictures(&mut line);
                            }
                        }
                    }
                }
            };
            match polled {
                Some(Ok(happened)) => {
                    self.happened(&mut line, happened);
                    was_connected |= line.connected;
                }
                Some(Err(e)) => return (Over::Lost(explain(&e)), was_connected),
                None => {
                    if line.connected {
                        self.say_goodbye(&mut line, &mut events, from).await;
                    }
                    return (Over::Stopped, was_connected);
                }
            }
        }
    }

    fn happened(&mut self, line: &mut Line, happened: Happened) {
        match happened {
            Happened::Incoming(Packet::ConnAck(_)) => {
                line.connected = true;
                self.state.set(&Ok(()));
                self.begin(line);
            }
            Happened::Incoming(Packet::Publish(publish)) => {
                let topic = String::from_utf8_lossy(&publish.topic).into_owned();
                self.asked(line, &topic, &publish.payload);
            }
            Happened::Incoming(Packet::PubAck(ack)) => {
                if let Some(at) = line.sent.iter().position(|number| *number == Some(ack.pkid)) {
                    line.sent.remove(at);
                    self.waiting.remove(at);
                    self.state.delivered.fetch_add(1, Relaxed);
                }
            }
            Happened::Outgoing(Outgoing::Publish(number)) if number > 0 => {
                if let Some(first) = line.sent.iter_mut().find(|number| number.is_none()) {
                    *first = Some(number);
                }
            }
            _ => {}
        }
    }

    /// What is said first on a connection.
    fn begin(&mut self, line: &mut Line) {
        publish(&line.client, self.topics.availability(), b"online".to_vec(), true);
        let mut wanted = Vec::new();
        for camera in &self.cameras {
            let name = &camera.state.name;
            wanted.push(self.topics.set(&self.topics.enabled(name)));
            wanted.push(self.topics.set(&self.topics.classes(name)));
        }
        wanted.extend(
            self.options
                .discovery
                .iter()
                .map(|prefix| format!("{prefix}/status")),
        );
        for topic in wanted {
            if let Err(e) = line.client.try_subscribe(topic.as_str(), QoS::AtLeastOnce) {
                warn!("mqtt: {topic} can't be subscribed to: {e}");
            }
        }
        self.announce(line, true);
        self.send_states(line);
    }

    /// Tells Home Assistant what there is, if that has changed.
    fn announce(&mut self, line: &mut Line, always: bool) {
        let Some(prefix) = &self.options.discovery else {
            return;
        };
        let shown = self.cameras.iter().map(|camera| {
            let zones = camera.state.zones(camera.clock.now_ns(), PATIENCE);
            Shown::of(&camera.state.name, &zones)
        });
        let now = components(&self.topics, &shown.collect::<Vec<_>>());
        if now == self.announced && !always {
            return;
        }
        let text = message(&self.topics, &now, &self.announced).to_string();
        let topic = format!("{prefix}/device/{}/config", self.topics.device_id());
        publish(&line.client, topic, text.into_bytes(), true);
        self.announced = now;
    }

    fn asked(&mut self, line: &mut Line, topic: &str, payload: &[u8]) {
        if self
            .options
            .discovery
            .as_ref()
            .is_some_and(|prefix| *topic == format!("{prefix}/status"))
        {
            if payload == b"online" {
                self.announce(line, true);
                line.published.clear();
            }
            return;
        }
        let names = self.cameras.iter().map(|camera| camera.state.name.as_str());
        match self.topics.read(names, topic, payload) {
            Ok((name, asked)) => {
                let camera = self.cameras.iter().find(|camera| camera.state.name == name);
                if let (Some(camera), Err(why)) = (camera, camera.map_or(Ok(()), |c| obey(c, asked))) {
                    warn!("mqtt: {topic}: {}: {why}", camera.state.name);
                }
            }
            Err(why) => warn!("mqtt: {topic}: {why}"),
        }
    }

    fn send_events(&mut self, line: &mut Line, from: &Queue) {
        while self.waiting.len() < IN_FLIGHT {
            let Received::Item(told) = from.try_recv() else {
                break;
            };
            self.waiting.push_back(told);
        }
        while let Some(told) = self.waiting.get(line.sent.len()) {
            let topic = self.topics.event(&told.event.camera);
            let options = PublishOptions::new(QoS::AtLeastOnce);
            if line
                .client
                .try_publish(topic.as_str(), told.json.clone().into_bytes(), options)
                .is_err()
            {
                break;
            }
            line.sent.push_back(None);
            if self.options.snapshots && begins(&told.event) {
                let at = self
                    .cameras
                    .iter()
                    .position(|c| c.state.name == told.event.camera);
                if let Some(at) = at {
                    line.pictures[at].wanted = true;
                }
            }
        }
    }

    fn send_states(&mut self, line: &mut Line) {
        let mut all = Vec::new();
        for (at, camera) in self.cameras.iter().enumerate() {
            let name = &camera.state.name;
            for zone in camera.state.zones(camera.clock.now_ns(), PATIENCE) {
                let text = json!({
                    "occupied": zone.occupied,
                    "area": (zone.area * 1e4).round() / 1e4,
                    "regions": zone.regions,
                    "tracks": zone.tracks,
                });
                let topic = self.topics.zone(name, &zone.zone, &zone.class);
                all.push((topic, text.to_string(), format!("{:?}", zone.occupied)));
            }
            let fps = line.frames[at].a_second(camera.metrics.composed.load(Relaxed));
            let troubles = (camera.troubles)();
            let text = json!({ "fps": fps, "troubles": troubles }).to_string();
            all.push((self.topics.state(name), text, troubles.len().to_string()));
            let enabled = if camera.state.is_enabled() { "ON" } else { "OFF" };
            all.push((self.topics.enabled(name), enabled.into(), enabled.into()));
            let drawn = drawn(&camera.control.looks());
            all.push((self.topics.classes(name), drawn.clone(), drawn));
        }
        let gone: Vec<String> = line
            .published
            .keys()
            .filter(|topic| all.iter().all(|(now, ..)| now != *topic))
            .cloned()
            .collect();
        let changed = !gone.is_empty() || all.iter().any(|(topic, ..)| !line.published.contains_key(topic));
        for topic in gone {
            // A retained message without content is none.
            if publish(&line.client, topic.clone(), Vec::new(), true) {
                line.published.remove(&topic);
            }
        }
        for (topic, text, urgent) in all {
            let now = Instant::now();
            let is_due = line.published.get(&topic).is_none_or(|before| {
                let rested = now.duration_since(before.at) >= STATE_PERIOD;
                before.text != text && (before.urgent != urgent || rested)
            });
            if is_due && publish(&line.client, topic.clone(), text.clone().into_bytes(), true) {
                line.published.insert(
                    topic,
                    Said {
                        text,
                        urgent,
                        at: now,
                    },
                );
            }
        }
        if changed {
            self.announce(line, false);
        }
    }

    fn send_pictures(&mut self, line: &mut Line) {
        for (at, camera) in self.cameras.iter().enumerate() {
            let pictures = &mut line.pictures[at];
            if let Some(coming) = &mut pictures.coming {
                match coming.try_recv() {
                    Ok(picture) => {
                        pictures.coming = None;
                        match jpeg(&picture) {
                            Ok(bytes) => {
                                publish(
                                    &line.client,
                                    self.topics.snapshot(&camera.state.name),
                                    bytes,
                                    true,
                                );
                            }
                            Err(e) => warn!("mqtt: {e}"),
                        }
                    }
                    Err(oneshot::error::TryRecvError::Empty) => {}
                    Err(oneshot::error::TryRecvError::Closed) => pictures.coming = None,
                }
                continue;
            }
            let rested = pictures.last.is_none_or(|last| last.elapsed() >= SNAPSHOT_PERIOD);
            if pictures.wanted && rested {
                pictures.wanted = false;
                pictures.last = Some(Instant::now());
                pictures.coming = Some(camera.control.snapshots.next());
            }
        }
    }

    /// Sends what is there, says that it goes, and goes.
    async fn say_goodbye(&mut self, line: &mut Line, events: &mut EventLoop, from: &Queue) {
        self.send_events(line, from);
        publish(
            &line.client,
            self.topics.availability(),
            b"offline".to_vec(),
            true,
        );
        let _ = line.client.try_disconnect();
        let all = async {
            while let Ok(happened) = events.poll().await {
                let is_last = matches!(happened, Happened::Outgoing(Outgoing::Disconnect));
                self.happened(line, happened);
                if is_last {
                    return;
                }
            }
        };
        if tokio::time::timeout(LAST_WORDS, all).await.is_err() {
            info!("mqtt: the broker did not take all within {LAST_WORDS:?}");
        }
    }
}

/// Whether it is one that a picture is worth.
fn begins(event: &Event) -> bool {
    (event.kind, event.rule) == (Kind::Start, Rule::Presence)
}

/// Does what a camera is asked for.
fn obey(camera: &Camera, asked: Asked) -> std::result::Result<(), String> {
    match asked {
        Asked::Enabled(enabled) => camera.state.set_enabled(enabled),
        Asked::Classes(names) => {
            let mut looks = (*camera.control.looks()).clone();
            let label = |name: &String| {
                let at = looks.model.classes.iter().position(|class| class.name == *name);
                at.and_then(|at| u8::try_from(at).ok())
                    .ok_or_else(|| format!("the model has no class {name:?}"))
            };
            let shown = names
                .iter()
                .map(label)
                .collect::<std::result::Result<Vec<_>, _>>()?;
            looks.overlay.shown = (!shown.is_empty()).then_some(shown);
            camera.control.set_looks(looks);
        }
    }
    Ok(())
}

/// The names of the classes that are drawn, with commas between them.
fn drawn(looks: &Looks) -> String {
    let classes = looks.model.classes.iter().enumerate();
    let is_drawn = |at: usize, background: bool| match &looks.overlay.shown {
        Some(shown) => shown.iter().any(|label| usize::from(*label) == at),
        None => !background,
    };
    let names = classes.filter(|(at, class)| is_drawn(*at, class.background));
    names
        .map(|(_, class)| class.name.as_str())
        .collect::<Vec<_>>()
        .join(",")
}

/// What ended a connection, and what to do about it.
fn explain(error: &ConnectionError) -> Error {
    let said = Error::transient(error.to_string());
    match error {
        ConnectionError::ConnectionRefused(
            ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized,
        ) => said.hint("mqtt.user and mqtt.password must be the broker's"),
        ConnectionError::Tls(_) => said.hint("mqtt.ca must name the certificates that sign the broker's"),
        _ => said,
    }
}

/// Publishes without waiting for an answer; false if there is no room. What is lost with the connection is said again by
/// the next one.
fn publish(client: &AsyncClient, topic: String, payload: Vec<u8>, retained: bool) -> bool {
    let options = PublishOptions::new(QoS::AtMostOnce).retain(retained);
    client.try_publish(topic.as_str(), payload, options).is_ok()
}
