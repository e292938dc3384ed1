//! What is seen, for whoever wants to know: each composed frame's scene, behind a mailbox for each reader.
//!
//! A slow reader loses the oldest scenes, counted, and slows nobody else down. While nobody reads, no scene is made.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::oneshot;

use crate::clock::{Stop, StopHandle, TimeNs, stop_pair};
use crate::mailbox::{MailboxReceiver, MailboxSender, MailboxStats, Received, Sent, WhenFull, mailbox};
use crate::supervise::Background;
use vision::error::Result;
use vision::scene::Scene;

/// Scenes that wait for a reader; when it is full the oldest is dropped.
pub const QUEUE: usize = 2;

/// What is known of one outgoing picture.
#[derive(Debug, Clone)]
pub enum Seen {
    /// What is in it.
    Scene(Arc<Scene>),
    /// Nothing: there is no mask, or none that is young enough.
    Unknown {
        /// When the picture was taken.
        captured_at_ns: TimeNs,
        /// Its number, as its source counts.
        sequence: u64,
    },
}

impl Seen {
    /// When the picture was taken.
    pub fn captured_at_ns(&self) -> TimeNs {
        match self {
            Self::Scene(scene) => scene.captured_at_ns,
            Self::Unknown { captured_at_ns, .. } => *captured_at_ns,
        }
    }

    /// The picture's number, as its source counts.
    pub fn sequence(&self) -> u64 {
        match self {
            Self::Scene(scene) => scene.sequence,
            Self::Unknown { sequence, .. } => *sequence,
        }
    }
}

/// Wants to know what is seen; called on a thread of its own.
pub trait Observer: Send {
    /// For the log and the metrics.
    fn name(&self) -> &'static str;

    /// A picture went out. Pictures that came while this worked may be missing.
    fn seen(&mut self, seen: &Seen);
}

/// Where a reader's scenes go.
#[derive(Debug)]
struct Reader {
    name: &'static str,
    to: MailboxSender<Seen>,
}

/// Hands scenes to the readers of one pipeline.
#[derive(Debug, Default)]
pub struct SceneDesk {
    readers: ArcSwap<Vec<Arc<Reader>>>,
    /// Scenes offered to readers that are gone and dropped by them, by name; held while the list is replaced.
    gone: Mutex<BTreeMap<&'static str, (u64, u64)>>,
    /// Whether anybody waits for one scene.
    one_wanted: AtomicBool,
    waiting: Mutex<Vec<oneshot::Sender<Seen>>>,
}

/// Scenes as they come, until dropped.
#[derive(Debug)]
pub struct SceneReader {
    from: MailboxReceiver<Seen>,
    _stop: StopHandle,
}

impl SceneReader {
    /// The next scene, waited for at most `timeout`.
    pub fn next(&self, timeout: Duration) -> Received<Seen> {
        self.from.recv_timeout(timeout)
    }

    /// Counters of its mailbox.
    pub fn stats(&self) -> Arc<MailboxStats> {
        self.from.stats()
    }
}

/// How often a thread that waits for scenes looks at its stop.
const LOOK_AT_STOP: Duration = Duration::from_millis(100);

impl SceneDesk {
    /// Scenes from the next picture on.
    pub fn subscribe(&self, name: &'static str) -> SceneReader {
        self.subscribe_as(name, WhenFull::DropOldest)
    }

    /// Scenes from the next picture on, and what happens when as many wait as may: to wait is for conversions alone.
    pub fn subscribe_as(&self, name: &'static str, when_full: WhenFull) -> SceneReader {
        let (handle, stop) = stop_pair();
        let (to, from) = mailbox(QUEUE, when_full, &stop);
        self.change(|readers| readers.push(Arc::new(Reader { name, to })));
        SceneReader { from, _stop: handle }
    }

    /// No further scene for the reader with these counters; it still gets those that wait, and is then told that there are
    /// no more.
    pub fn end(&self, stats: &Arc<MailboxStats>) {
        self.change(|readers| readers.retain(|reader| !Arc::ptr_eq(&reader.to.stats(), stats)));
    }

    /// Calls `observer` on a thread of its own, until what is returned is dropped.
    ///
    /// # Errors
    /// Fatal if the system can't start another thread.
    pub fn observe(&self, mut observer: Box<dyn Observer>) -> Result<Background> {
        let name = observer.name();
        let reader = self.subscribe(name);
        Background::spawn(name, move |stop: &Stop| {
            while !stop.is_stopped() {
                match reader.next(LOOK_AT_STOP) {
                    Received::Item(seen) => observer.seen(&seen),
                    Received::Timeout => {}
                    Received::Closed => return,
                }
            }
        })
    }

    /// The scene of the next picture, without a place among the readers; wait for it as long as you like.
    pub fn next(&self) -> oneshot::Receiver<Seen> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.waiting();
        // While no picture goes out, those who have given up don't pile up.
        waiting.retain(|one| !one.is_closed());
        waiting.push(sender);
        self.one_wanted.store(true, Ordering::Release);
        receiver
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<oneshot::Sender<Seen>>> {
        self.waiting.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Whether somebody reads, or waits for one scene.
    pub fn is_wanted(&self) -> bool {
        self.one_wanted.load(Ordering::Acquire) || !self.readers.load().is_empty()
    }

    /// Hands a scene to every reader, and to those who wait for one. Never waits.
    pub fn offer(&self, seen: &Seen) {
        if self.one_wanted.load(Ordering::Acquire) {
            let waiting = {
                let mut waiting = self.waiting();
                self.one_wanted.store(false, Ordering::Release);
                std::mem::take(&mut *waiting)
            };
            for one in waiting {
                // It may have gone.
                let _ = one.send(seen.clone());
            }
        }
        let readers = self.readers.load();
        let mut gone = false;
        for reader in readers.iter() {
            gone |= reader.to.send(seen.clone()) == Sent::Closed;
        }
        if gone {
            self.change(|readers| readers.retain(|reader| !reader.to.is_closed()));
        }
    }

    /// Name, scenes offered and scenes dropped, of all readers of a name together, those that are gone included.
    pub fn counts(&self) -> Vec<(&'static str, u64, u64)> {
        let gone = self.gone.lock().unwrap_or_else(|e| e.into_inner());
        let mut counts = gone.clone();
        for reader in self.readers.load().iter() {
            let stats = reader.to.stats();
            let counted = counts.entry(reader.name).or_default();
            counted.0 += stats.sent();
            counted.1 += stats.dropped();
        }
        drop(gone);
        counts
            .into_iter()
            .map(|(name, (sent, dropped))| (name, sent, dropped))
            .collect()
    }

    fn change(&self, with: impl FnOnce(&mut Vec<Arc<Reader>>)) {
        let mut gone = self.gone.lock().unwrap_or_else(|e| e.into_inner());
        let before = self.readers.load_full();
        let mut readers = (*before).clone();
        with(&mut readers);
        for reader in before.iter() {
            if !readers.iter().any(|kept| Arc::ptr_eq(kept, reader)) {
                let stats = reader.to.stats();
                let counted = gone.entry(reader.name).or_default();
                counted.0 += stats.sent();
                counted.1 += stats.dropped();
            }
        }
        self.readers.store(Arc::new(readers));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    fn unknown(sequence: u64) -> Seen {
        Seen::Unknown {
            captured_at_ns: sequence * 10,
            sequence,
        }
    }

    fn number(received: Received<Seen>) -> Option<u64> {
        match received {
            Received::Item(seen) => Some(seen.captured_at_ns() / 10),
            _ => None,
        }
    }

    #[test]
    fn a_slow_reader_loses_the_oldest_and_costs_itself_alone() {
        let desk = SceneDesk::default();
        assert!(!desk.is_wanted());
        let (slow, quick) = (desk.subscribe("slow"), desk.subscribe("quick"));
        assert!(desk.is_wanted());
        for n in 0..5 {
            desk.offer(&unknown(n));
            assert_eq!(number(quick.next(Duration::ZERO)), Some(n));
        }
        assert_eq!(number(slow.next(Duration::ZERO)), Some(3));
        assert_eq!(number(slow.next(Duration::ZERO)), Some(4));
        assert_eq!(number(slow.next(Duration::ZERO)), None);
        assert_eq!(desk.counts(), [("quick", 5, 0), ("slow", 5, 3)]);
        drop(slow);
        desk.offer(&unknown(5));
        let counts = desk.counts();
        assert_eq!(counts[0], ("quick", 6, 0));
        assert_eq!((counts[1].0, counts[1].2), ("slow", 3), "what was counted stays");
        drop(quick);
        desk.offer(&unknown(6));
        assert!(!desk.is_wanted());
    }

    #[test]
    fn who_waits_for_one_scene_gets_the_next_and_no_further() {
        let desk = SceneDesk::default();
        desk.offer(&unknown(1));
        for _ in 0..100 {
            drop(desk.next());
        }
        assert_eq!(desk.waiting().len(), 1, "those who gave up don't pile up");
        let (mut one, two) = (desk.next(), desk.next());
        assert!(desk.is_wanted());
        assert!(one.try_recv().is_err(), "what went out before");
        desk.offer(&unknown(2));
        assert!(!desk.is_wanted());
        desk.offer(&unknown(3));
        assert_eq!(one.try_recv().unwrap().captured_at_ns(), 20);
        assert_eq!(two.blocking_recv().unwrap().captured_at_ns(), 20);
    }

    #[test]
    fn a_reader_of_all_is_waited_for_and_gets_what_waits_at_its_end() {
        let desk = Arc::new(SceneDesk::default());
        let reader = desk.subscribe_as("all", WhenFull::Block);
        let stats = reader.stats();
        let offering = desk.clone();
        let thread = std::thread::spawn(move || {
            (0..50).for_each(|n| offering.offer(&unknown(n)));
            offering.end(&stats);
        });
        let mut seen = Vec::new();
        while let Some(n) = number(reader.next(Duration::from_secs(30))) {
            seen.push(n);
        }
        assert_eq!(seen, (0..50).collect::<Vec<_>>());
        thread.join().unwrap();
        assert!(!desk.is_wanted());
        assert_eq!(desk.counts(), [("all", 50, 0)]);
    }

    struct Slow {
        began: Sender<u64>,
        go_on: Receiver<()>,
    }

    impl Observer for Slow {
        fn name(&self) -> &'static str {
            "slow"
        }

        fn seen(&mut self, seen: &Seen) {
            self.began.send(seen.captured_at_ns() / 10).unwrap();
            self.go_on.recv().unwrap();
        }
    }

    #[test]
    fn an_observer_that_is_busy_gets_the_newest_next() {
        let desk = SceneDesk::default();
        let (began, seen) = channel();
        let (let_go, go_on) = channel();
        let thread = desk.observe(Box::new(Slow { began, go_on })).unwrap();
        desk.offer(&unknown(0));
        assert_eq!(seen.recv().unwrap(), 0);
        for n in 1..=4 {
            desk.offer(&unknown(n));
        }
        for _ in 0..3 {
            let_go.send(()).unwrap();
        }
        assert_eq!((seen.recv().unwrap(), seen.recv().unwrap()), (3, 4));
        assert_eq!(desk.counts(), [("slow", 5, 2)]);
        drop(thread);
        desk.offer(&unknown(5));
        assert!(!desk.is_wanted());
    }
}
