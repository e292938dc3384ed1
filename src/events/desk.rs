//! Where events go: each sink has a bounded queue and a thread of its own, and its state is known to all.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::broadcast;
use tracing::{info, warn};

use super::event::{Event, Told};
use super::filling::{Filling, Fillings};
use super::snapshots;
use super::watch::Watch;
use crate::clock::{Stop, TimeNs, stop_pair};
use crate::mailbox::{MailboxReceiver, MailboxSender, MailboxStats, Received, WhenFull, mailbox};
use crate::supervise::Background;
use vision::error::Result;

/// Events that wait for a sink; when it is full the oldest is dropped, and counted.
pub const QUEUE: usize = 1024;
/// Events that wait for someone who reads them over HTTP; who is slower misses the oldest, and is told how many.
const LIVE_QUEUE: usize = 256;

/// Events that wait for a sink.
pub type Queue = MailboxReceiver<Arc<Told>>;

/// Takes events.
pub trait Sink: Send {
    /// Takes an event; may wait, until the stop at most.
    ///
    /// # Errors
    /// Why it is lost.
    fn tell(&mut self, told: &Told, stop: &Stop) -> Result<()>;
}

/// How a sink does.
#[derive(Debug)]
pub struct SinkState {
    /// What it is: `file`, `mqtt`.
    pub kind: &'static str,
    /// Where to, without secrets.
    pub to: String,
    /// Events that arrived.
    pub delivered: AtomicU64,
    /// Events that could not be delivered, those that its queue had no room for not among them.
    pub failed: AtomicU64,
    queue: Arc<MailboxStats>,
    trouble: Mutex<Option<String>>,
}

impl SinkState {
    /// What is wrong with it now.
    pub fn trouble(&self) -> Option<String> {
        self.locked().clone()
    }

    /// Events that are lost.
    pub fn lost(&self) -> u64 {
        self.failed.load(Relaxed) + self.queue.dropped()
    }

    /// Says that it works, or what is wrong; the log says when that changes.
    pub fn set(&self, outcome: &Result<()>) {
        let now = outcome.as_ref().err().map(ToString::to_string);
        let before = std::mem::replace(&mut *self.locked(), now.clone());
        match (before, now) {
            (None, Some(why)) => warn!("events: {} {}: {why}", self.kind, self.to),
            (Some(_), None) => info!("events: {} {} works again", self.kind, self.to),
            _ => {}
        }
    }

    fn locked(&self) -> MutexGuard<'_, Option<String>> {
        self.trouble.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// A sink that hears of nothing any more. Dropped, it has half a second for what waits.
pub struct Taken(#[expect(dead_code, reason = "ends when dropped")] Vec<Open>);

/// A sink's end of its queue, and its thread.
struct Open {
    state: Arc<SinkState>,
    to: MailboxSender<Arc<Told>>,
    _thread: Background,
}

/// What is known of a class in a zone.
#[derive(Debug, Clone, PartialEq)]
pub struct ZoneState {
    /// The zone's name.
    pub zone: Arc<str>,
    /// The class's name.
    pub class: Arc<str>,
    /// Whether it is there; `None` while that is not known.
    pub occupied: Option<bool>,
    /// Its share of the zone, 0 to 1.
    pub area: f64,
    /// Its connected regions.
    pub regions: u32,
    /// Its tracks that are inside.
    pub tracks: u32,
}

impl ZoneState {
    /// Nothing is known.
    pub fn new(zone: &str, class: &str) -> Self {
        Self {
            zone: zone.into(),
            class: class.into(),
            occupied: None,
            area: 0.0,
            regions: 0,
            tracks: 0,
        }
    }
}

/// What is known of a camera's zones, and whether they are watched.
#[derive(Debug)]
pub struct CameraState {
    /// The camera's name.
    pub name: String,
    enabled: AtomicBool,
    /// When the last picture was taken whose zones are known.
    seen_ns: AtomicU64,
    zones: Mutex<Vec<ZoneState>>,
    fillings: Mutex<Fillings>,
    watch: ArcSwap<Watch>,
}

impl CameraState {
    /// A camera of which nothing is known.
    pub fn new(name: &str) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            enabled: AtomicBool::new(true),
            seen_ns: AtomicU64::new(0),
            zones: Mutex::default(),
            fillings: Mutex::default(),
            watch: ArcSwap::default(),
        })
    }

    /// Whether its zones and lines are watched.
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Relaxed)
    }

    /// Watches its zones and lines, or not.
    pub fn set_enabled(&self, enabled: bool) {
        self.enabled.store(enabled, Relaxed);
    }

    /// The zones and lines that are watched.
    pub fn watch(&self) -> Arc<Watch> {
        self.watch.load_full()
    }

    /// Says which zones and lines are watched.
    pub fn set_watch(&self, watch: Arc<Watch>) {
        self.watch.store(watch);
    }

    /// What is known of its zones at a time of its clock. Of a camera that has shown nothing for `patience`, nothing is.
    pub fn zones(&self, now_ns: TimeNs, patience: Duration) -> Vec<ZoneState> {
        let mut zones = self.locked().clone();
        let silent = now_ns.saturating_sub(self.seen_ns.load(Relaxed));
        if u128::from(silent) > patience.as_nanos() {
            zones.iter_mut().for_each(|zone| zone.occupied = None);
        }
        zones
    }

    /// Changes what is known.
    pub fn update(&self, at: TimeNs, change: impl FnOnce(&mut Vec<ZoneState>)) {
        self.seen_ns.store(at, Relaxed);
        let mut zones = self.locked();
        change(&mut zones);
        self.fillings().add(at, &zones);
    }

    /// How full its zones were since the last call.
    pub fn take_fillings(&self) -> Vec<Filling> {
        self.fillings().take()
    }

    fn fillings(&self) -> MutexGuard<'_, Fillings> {
        self.fillings.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn locked(&self) -> MutexGuard<'_, Vec<ZoneState>> {
        self.zones.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// What is counted of events: camera, zone or line, rule, type.
pub type Counted = (String, String, &'static str, &'static str);

/// Takes the events of all cameras, and hands them to the sinks.
pub struct EventDesk {
    sinks: Mutex<Vec<Open>>,
    live: broadcast::Sender<Arc<Told>>,
    counts: Mutex<BTreeMap<Counted, u64>>,
    cameras: Vec<Arc<CameraState>>,
    /// The file that keeps what was told, for those who ask later.
    history: ArcSwapOption<PathBuf>,
    /// The folder of pictures.
    snapshots: ArcSwapOption<PathBuf>,
    /// The folder of clips of each camera that has one.
    clips: ArcSwap<BTreeMap<String, PathBuf>>,
}

/// How long a sink's thread waits for an event before it looks at its stop.
const LOOK: Duration = Duration::from_millis(200);

impl EventDesk {
    /// A desk without sinks, for the cameras of these names.
    pub fn new<'a>(cameras: impl IntoIterator<Item = &'a str>) -> Arc<Self> {
        Arc::new(Self {
            sinks: Mutex::default(),
            live: broadcast::Sender::new(LIVE_QUEUE),
            counts: Mutex::default(),
            cameras: cameras.into_iter().map(CameraState::new).collect(),
            history: ArcSwapOption::empty(),
            snapshots: ArcSwapOption::empty(),
            clips: ArcSwap::default(),
        })
    }

    /// The cameras.
    pub fn cameras(&self) -> &[Arc<CameraState>] {
        &self.cameras
    }

    /// Says in which file a sink keeps what is told, if one does.
    pub fn set_history(&self, path: Option<PathBuf>) {
        self.history.store(path.map(Arc::new));
    }

    /// The file that keeps what was told.
    pub fn history(&self) -> Option<Arc<PathBuf>> {
        self.history.load_full()
    }

    /// Says in which folder a sink keeps pictures, if one does: events name theirs from then on.
    pub fn set_snapshots(&self, folder: Option<PathBuf>) {
        self.snapshots.store(folder.map(Arc::new));
    }

    /// The folder of pictures.
    pub fn snapshots(&self) -> Option<Arc<PathBuf>> {
        self.snapshots.load_full()
    }

    /// Says which cameras keep clips, and in which folders: events name theirs from then on.
    pub fn set_clips(&self, folders: BTreeMap<String, PathBuf>) {
        self.clips.store(Arc::new(folders));
    }

    /// The folder in which a camera keeps clips.
    pub fn clips(&self, camera: &str) -> Option<PathBuf> {
        self.clips.load().get(camera).cloned()
    }

    /// Starts a sink on a thread of its own.
    ///
    /// # Errors
    /// Fatal if the system can't start another thread.
    pub fn add(&self, kind: &'static str, to: String, mut sink: Box<dyn Sink>) -> Result<()> {
        self.attach(kind, to, move |state, from, stop| {
            deliver(sink.as_mut(), state, from, stop);
        })
    }

    /// Starts a sink that reads its queue by itself, on a thread of its own, until its stop.
    ///
    /// # Errors
    /// Fatal if the system can't start another thread.
    pub fn attach(
        &self,
        kind: &'static str,
        to: String,
        run: impl FnOnce(&SinkState, &Queue, &Stop) + Send + 'static,
    ) -> Result<()> {
        let (handle, stop) = stop_pair();
        let (sender, receiver) = mailbox(QUEUE, WhenFull::DropOldest, &stop);
        let state = Arc::new(SinkState {
            kind,
            to,
            delivered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            queue: sender.stats(),
            trouble: Mutex::default(),
        });
        let of_thread = state.clone();
        let thread = Background::spawn(kind, move |stop| {
            // The queue ends with its reader.
            let _handle = handle;
            run(&of_thread, &receiver, stop);
        })?;
        self.open().push(Open {
            state,
            to: sender,
            _thread: thread,
        });
        Ok(())
    }

    /// Takes the sinks of a kind away: they hear of no further event.
    pub fn take(&self, kind: &str) -> Taken {
        let mut open = self.open();
        let (gone, kept) = std::mem::take(&mut *open)
            .into_iter()
            .partition(|sink| sink.state.kind == kind);
        *open = kept;
        Taken(gone)
    }

    /// Tells an event to all that want to know.
    pub fn publish(&self, mut event: Event) {
        if self.snapshots.load().is_some() {
            event.snapshot = snapshots::name_of(&event);
        }
        if self.clips.load().contains_key(&event.camera) {
            event.clip = Some(format!("{}/{}.mp4", event.camera, event.id));
        }
        let place = event.zone.as_ref().or(event.line.as_ref()).cloned();
        let counted = (
            event.camera.clone(),
            place.unwrap_or_default(),
            event.rule.as_str(),
            event.kind.as_str(),
        );
        *self.counted().entry(counted).or_default() += 1;
        let told = Arc::new(Told::new(event));
        for sink in self.open().iter() {
            sink.to.send(told.clone());
        }
        // Nobody may be there.
        let _ = self.live.send(told);
    }

    /// Ends the sinks; each has half a second for what waits.
    pub fn close(&self) {
        let sinks = std::mem::take(&mut *self.open());
        drop(sinks);
    }

    /// The events from now on.
    pub fn listen(&self) -> broadcast::Receiver<Arc<Told>> {
        self.live.subscribe()
    }

    /// How the sinks do.
    pub fn sinks(&self) -> Vec<Arc<SinkState>> {
        self.open().iter().map(|sink| sink.state.clone()).collect()
    }

    /// How many events there were.
    pub fn counts(&self) -> BTreeMap<Counted, u64> {
        self.counted().clone()
    }

    /// What is wrong, in a line for each sink.
    pub fn troubles(&self) -> Vec<String> {
        let sinks = self.sinks();
        let one =
            |sink: &Arc<SinkState>| Some(format!("events: {} {}: {}", sink.kind, sink.to, sink.trouble()?));
        sinks.iter().filter_map(one).collect()
    }

    fn open(&self) -> MutexGuard<'_, Vec<Open>> {
        self.sinks.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn counted(&self) -> MutexGuard<'_, BTreeMap<Counted, u64>> {
        self.counts.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Hands a queue's events to a sink, until told to stop; then those that wait already, as long as each arrives.
fn deliver(sink: &mut dyn Sink, state: &SinkState, from: &Queue, stop: &Stop) {
    loop {
        let ends = stop.is_stopped();
        let wait = if ends { Duration::ZERO } else { LOOK };
        let outcome = match from.recv_timeout(wait) {
            Received::Item(told) => {
                let outcome = sink.tell(&told, stop);
                let count = if outcome.is_ok() {
                    &state.delivered
                } else {
                    &state.failed
                };
                count.fetch_add(1, Relaxed);
                outcome
            }
            Received::Timeout if ends => return,
            Received::Timeout => continue,
            Received::Closed => return,
        };
        state.set(&outcome);
        if ends && outcome.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;
    use crate::events::event::Kind;
    use crate::events::event::tests::event;
    use vision::error::Error;

    /// Fails as long as it is told to.
    struct Moody {
        got: Sender<String>,
        works: Receiver<bool>,
    }

    impl Sink for Moody {
        fn tell(&mut self, told: &Told, _stop: &Stop) -> Result<()> {
            let works = self.works.recv().unwrap();
            self.got.send(told.event.kind.as_str().to_owned()).unwrap();
            works.then_some(()).ok_or_else(|| Error::transient("no room"))
        }
    }

    fn wait_for(mut ready: impl FnMut() -> bool) {
        let limit = std::time::Instant::now() + Duration::from_secs(30);
        while !ready() {
            assert!(std::time::Instant::now() < limit);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn a_sink_that_fails_is_named_and_costs_itself_alone() {
        let desk = EventDesk::new(["door"]);
        let (got, seen) = channel();
        let (say, works) = channel();
        desk.add("moody", "nowhere".into(), Box::new(Moody { got, works }))
            .unwrap();
        let mut live = desk.listen();
        desk.publish(event(Kind::Start));
        say.send(false).unwrap();
        assert_eq!(seen.recv().unwrap(), "start");
        wait_for(|| !desk.troubles().is_empty());
        assert_eq!(desk.troubles(), ["events: moody nowhere: no room"]);
        desk.publish(event(Kind::End));
        say.send(true).unwrap();
        assert_eq!(seen.recv().unwrap(), "end");
        wait_for(|| desk.troubles().is_empty());
        let state = &desk.sinks()[0];
        assert_eq!((state.delivered.load(Relaxed), state.lost()), (1, 1));
        assert_eq!(live.try_recv().unwrap().event.kind, Kind::Start);
        assert_eq!(live.try_recv().unwrap().event.kind, Kind::End);
        let key = |kind| ("door".to_owned(), "drive".to_owned(), "presence", kind);
        assert_eq!(desk.counts()[&key("start")], 1);
        assert_eq!(desk.counts().len(), 2);
    }

    #[test]
    fn a_sink_that_is_stuck_loses_the_oldest_and_they_are_counted() {
        let desk = EventDesk::new(["door"]);
        let (got, seen) = channel();
        let (say, works) = channel();
        desk.add("moody", "nowhere".into(), Box::new(Moody { got, works }))
            .unwrap();
        for _ in 0..QUEUE + 40 {
            desk.publish(event(Kind::Update));
        }
        desk.publish(event(Kind::End));
        let lost = desk.sinks()[0].lost() as usize;
        // One may be in the sink's hands.
        assert!((40..=41).contains(&lost), "{lost}");
        for _ in 0..QUEUE + 41 - lost {
            say.send(true).unwrap();
        }
        let mut last = String::new();
        for _ in 0..QUEUE + 41 - lost {
            last = seen.recv().unwrap();
        }
        assert_eq!(last, "end", "the newest is kept");
    }

    #[test]
    fn a_camera_that_is_silent_says_nothing_of_its_zones() {
        let camera = CameraState::new("door");
        camera.update(1_000_000_000, |zones| {
            zones.push(ZoneState {
                occupied: Some(true),
                ..ZoneState::new("drive", "car")
            });
        });
        let occupied = |now_ns| camera.zones(now_ns, Duration::from_secs(5))[0].occupied;
        assert_eq!(occupied(6_000_000_000), Some(true));
        assert_eq!(occupied(6_000_000_001), None);
    }
}
