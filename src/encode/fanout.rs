//! Units to their readers: each has a bounded queue of its own, and what happens when it is full is the queue's kind.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, SendTimeoutError, Sender, TrySendError, bounded, select_biased};

use super::AccessUnit;
use crate::clock::Stop;
use crate::mailbox::Received;

/// Units that wait for a reader of a live encoder at most: about 8 s of video.
pub(super) const QUEUED_UNITS: usize = 256;
/// And their bytes: 3 s of 20 Mbit/s.
const QUEUED_BYTES: usize = 8 * 1024 * 1024;
/// Units that wait for a reader that loses none.
const QUEUED_LOSSLESS: usize = 16;
/// How soon a wait for a reader sees that the reader is to go.
const LOOK: Duration = Duration::from_millis(50);

/// What became of a unit that was offered to a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// It is in the queue.
    Taken,
    /// There was no room: the reader has lost it, and goes on with a keyframe.
    Full,
    /// Nobody misses it yet: the reader begins later, with a keyframe.
    NotYet,
    /// There is no reader any more.
    Gone,
}

/// A reader's bounded queue.
pub trait Queue: Send + Sync {
    /// Offers the next unit. Waits for nobody in a live pipeline.
    fn offer(&self, unit: &AccessUnit) -> Offered;

    /// Whether a keyframe that comes now would be taken: one is not asked for in vain.
    fn has_room(&self) -> bool;

    /// No unit is offered after this; an offer that waits ends.
    fn close(&self) {}
}

/// What a reader reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReaderKind {
    /// Whether it shows notices ("camera lost"). Otherwise it goes on with the first picture after them.
    pub notices: bool,
    /// Whether a late picture is worth nothing to it: then few pictures wait for the encoder.
    pub low_delay: bool,
}

/// Where a reader stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It has all units so far.
    Follows,
    /// It needs a keyframe to begin with.
    Begins,
    /// So many units are lost since its queue was full; it needs a keyframe to go on with.
    Behind(u64),
    /// What was skipped was not for it; the keyframe after that comes by itself.
    Skips,
}

/// A reader, as the encoder sees it.
pub(super) struct Slot {
    id: u64,
    name: String,
    kind: ReaderKind,
    queue: Box<dyn Queue>,
    place: Mutex<Place>,
    dropped: Arc<AtomicU64>,
}

/// What a unit's delivery leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Nothing,
    NeedsKeyframe,
    Remove,
}

impl Slot {
    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn deliver(&self, unit: &AccessUnit) -> Then {
        let mut place = self.place();
        if unit.is_notice && !self.kind.notices {
            if *place == Place::Follows {
                *place = Place::Skips;
            }
            return Then::Nothing;
        }
        if *place != Place::Follows && !unit.is_keyframe {
            if let Place::Behind(lost) = &mut *place {
                *lost += 1;
                self.dropped.fetch_add(1, Relaxed);
            }
            return if self.queue.has_room() {
                Then::NeedsKeyframe
            } else {
                Then::Nothing
            };
        }
        match self.queue.offer(unit) {
            Offered::Taken => {
                if let Place::Behind(lost) = *place {
                    tracing::warn!(
                        output = self.name,
                        lost,
                        "the output was too slow; it goes on now"
                    );
                }
                *place = Place::Follows;
            }
            Offered::Full => {
                self.dropped.fetch_add(1, Relaxed);
                *place = match *place {
                    Place::Behind(lost) => Place::Behind(lost + 1),
                    _ => Place::Behind(1),
                };
            }
            Offered::NotYet => {
                if !matches!(*place, Place::Behind(_)) {
                    *place = Place::Begins;
                }
            }
            Offered::Gone => return Then::Remove,
        }
        Then::Nothing
    }
}

/// The readers of one encoder.
#[derive(Default)]
pub(super) struct Fanout {
    slots: ArcSwap<Vec<Arc<Slot>>>,
    next_id: AtomicU64,
    /// Why there are no more units.
    failure: Mutex<Option<String>>,
}

impl Fanout {
    /// Adds a reader; gives its number and the counter of what it loses.
    pub(super) fn add(&self, name: &str, kind: ReaderKind, queue: Box<dyn Queue>) -> (u64, Arc<AtomicU64>) {
        let id = self.next_id.fetch_add(1, Relaxed);
        let dropped = Arc::new(AtomicU64::new(0));
        let slot = Arc::new(Slot {
            id,
            name: name.to_owned(),
            kind,
            queue,
            place: Mutex::new(Place::Begins),
            dropped: dropped.clone(),
        });
        self.slots.rcu(|slots| {
            let mut slots = Vec::clone(slots);
            slots.push(slot.clone());
            slots
        });
        (id, dropped)
    }

    /// Removes a reader; units that wait for it stay in its queue.
    pub(super) fn remove(&self, id: u64) {
        for slot in self.slots.load().iter().filter(|slot| slot.id == id) {
            slot.queue.close();
        }
        self.slots
            .rcu(|slots| Vec::from_iter(slots.iter().filter(|slot| slot.id != id).cloned()));
    }

    /// Removes all readers: after the last unit.
    pub(super) fn close(&self) {
        for slot in self.slots.swap(Arc::default()).iter() {
            slot.queue.close();
        }
    }

    /// Removes all readers, and says why.
    pub(super) fn fail(&self, why: String) {
        self.failure().get_or_insert(why);
        self.close();
    }

    pub(super) fn failure(&self) -> MutexGuard<'_, Option<String>> {
        self.failure.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Whether anyone reads; `notice`: whether anyone reads notices.
    pub(super) fn has_readers(&self, notice: bool) -> bool {
        self.slots.load().iter().any(|slot| !notice || slot.kind.notices)
    }

    /// Whether someone reads for whom a late picture is worth nothing.
    pub(super) fn is_low_delay(&self) -> bool {
        self.slots.load().iter().any(|slot| slot.kind.low_delay)
    }

    /// Gives a unit to all readers. Whether one of them needs a keyframe.
    pub(super) fn deliver(&self, unit: &AccessUnit) -> bool {
        let mut needs_keyframe = false;
        for slot in self.slots.load_full().iter() {
            match slot.deliver(unit) {
                Then::Nothing => {}
                Then::NeedsKeyframe => needs_keyframe = true,
                Then::Remove => self.remove(slot.id),
            }
        }
        needs_keyframe
    }
}

/// What the two ends of a reader's channel share.
#[derive(Default)]
struct ChannelState {
    bytes: AtomicUsize,
    closing: AtomicBool,
}

/// The encoder's end of a reader's channel.
struct Channel {
    units: Sender<AccessUnit>,
    state: Arc<ChannelState>,
    /// A full channel holds the encoder up, so that nothing is lost.
    blocks: bool,
}

impl Queue for Channel {
    fn offer(&self, unit: &AccessUnit) -> Offered {
        let state = &self.state;
        let bytes = unit.data.len();
        if self.blocks {
            let mut unit = unit.clone();
            loop {
                match self.units.send_timeout(unit, LOOK) {
                    Ok(()) => {
                        state.bytes.fetch_add(bytes, Relaxed);
                        return Offered::Taken;
                    }
                    Err(SendTimeoutError::Timeout(back)) if !state.closing.load(Relaxed) => unit = back,
                    Err(_) => return Offered::Gone,
                }
            }
        }
        if state.bytes.load(Relaxed).saturating_add(bytes) > QUEUED_BYTES && !self.units.is_empty() {
            return Offered::Full;
        }
        state.bytes.fetch_add(bytes, Relaxed);
        match self.units.try_send(unit.clone()) {
            Ok(()) => Offered::Taken,
            Err(refused) => {
                state.bytes.fetch_sub(bytes, Relaxed);
                match refused {
                    TrySendError::Full(_) => Offered::Full,
                    TrySendError::Disconnected(_) => Offered::Gone,
                }
            }
        }
    }

    fn has_room(&self) -> bool {
        self.units.len() < QUEUED_UNITS / 2 && self.state.bytes.load(Relaxed) < QUEUED_BYTES / 2
    }

    fn close(&self) {
        self.state.closing.store(true, Relaxed);
    }
}

/// The reader's end of its channel.
pub(super) struct Units {
    units: Receiver<AccessUnit>,
    state: Arc<ChannelState>,
}

impl Units {
    /// The next unit, waited for until the stop; units that wait come before it.
    pub(super) fn recv(&self, stop: &Stop) -> Received<AccessUnit> {
        let received = select_biased! {
            recv(self.units) -> unit => unit.ok(),
            recv(stop.channel()) -> _ => self.units.try_recv().ok(),
        };
        match received {
            Some(unit) => Received::Item(self.taken(unit)),
            None => Received::Closed,
        }
    }

    /// The next unit, waited for so long at most.
    pub(super) fn recv_timeout(&self, timeout: Duration) -> Option<AccessUnit> {
        let unit = self.units.recv_timeout(timeout).ok()?;
        Some(self.taken(unit))
    }

    fn taken(&self, unit: AccessUnit) -> AccessUnit {
        self.state.bytes.fetch_sub(unit.data.len(), Relaxed);
        unit
    }
}

/// A channel to a reader with a thread of its own. Where it is full, a live one drops units up to the next keyframe and
/// a lossless one makes the encoder wait.
pub(super) fn channel(lossless: bool) -> (Box<dyn Queue>, Units) {
    let (tx, rx) = bounded(if lossless { QUEUED_LOSSLESS } else { QUEUED_UNITS });
    let state = Arc::new(ChannelState::default());
    let queue = Channel {
        units: tx,
        state: state.clone(),
        blocks: lossless,
    };
    (Box::new(queue), Units { units: rx, state })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::stop_pair;
    use crate::encode::made_unit as unit;

    const RECORDING: ReaderKind = ReaderKind {
        notices: false,
        low_delay: false,
    };

    /// The numbers of what waits.
    fn waiting(units: &Units) -> Vec<u64> {
        let (handle, stop) = stop_pair();
        drop(handle);
        std::iter::from_fn(|| match units.recv(&stop) {
            Received::Item(unit) => Some(unit.pts_ns),
            _ => None,
        })
        .collect()
    }

    #[test]
    fn a_reader_begins_with_a_keyframe_and_one_is_asked_for() {
        let fanout = Fanout::default();
        let (queue, units) = channel(false);
        let (_, dropped) = fanout.add("a", RECORDING, queue);
        assert!(fanout.deliver(&unit(0, false, 1)), "it needs a keyframe");
        assert!(!fanout.deliver(&unit(1, true, 1)));
        assert!(!fanout.deliver(&unit(2, false, 1)));
        assert_eq!(waiting(&units), [1, 2]);
        assert_eq!(dropped.load(Relaxed), 0, "what came before it began is no loss");
    }

    #[test]
    fn a_full_queue_loses_whole_runs_up_to_a_keyframe_and_counts_them() {
        let fanout = Fanout::default();
        let (queue, slow) = channel(false);
        let (_, lost) = fanout.add("slow", RECORDING, queue);
        let (queue, quick) = channel(false);
        let (_, none) = fanout.add("quick", RECORDING, queue);
        let mut seen = Vec::new();
        for number in 0..QUEUED_UNITS as u64 + 10 {
            assert!(
                !fanout.deliver(&unit(number, number % 200 == 0, 1)),
                "a keyframe would find no room"
            );
            seen.extend(waiting(&quick));
        }
        assert_eq!(seen.len(), QUEUED_UNITS + 10, "the other reader has them all");
        assert_eq!((lost.load(Relaxed), none.load(Relaxed)), (10, 0));
        let first: Vec<u64> = (0..QUEUED_UNITS as u64).collect();
        assert_eq!(waiting(&slow), first);
        // There is room again.
        assert!(fanout.deliver(&unit(1000, false, 1)), "it needs a keyframe");
        assert!(!fanout.deliver(&unit(1001, true, 1)));
        assert!(!fanout.deliver(&unit(1002, false, 1)));
        assert_eq!(waiting(&slow), [1001, 1002]);
        assert_eq!(lost.load(Relaxed), 11);
    }

    #[test]
    fn a_queue_is_bounded_in_bytes_as_well() {
        let fanout = Fanout::default();
        let (queue, units) = channel(false);
        let (_, dropped) = fanout.add("a", RECORDING, queue);
        for number in 0..4 {
            fanout.deliver(&unit(number, true, QUEUED_BYTES / 2));
        }
        assert_eq!(dropped.load(Relaxed), 2);
        assert_eq!(waiting(&units), [0, 1]);
        // One that is larger than all of it goes alone.
        fanout.deliver(&unit(4, true, 2 * QUEUED_BYTES));
        assert_eq!(waiting(&units), [4]);
    }

    #[test]
    fn a_reader_without_notices_goes_on_with_the_keyframe_after_them() {
        let fanout = Fanout::default();
        let (queue, recording) = channel(false);
        fanout.add("recording", RECORDING, queue);
        let (queue, shown) = channel(false);
        let live = ReaderKind {
            notices: true,
            low_delay: true,
        };
        fanout.add("live", live, queue);
        let notice = |number, is_keyframe| AccessUnit {
            is_notice: true,
            ..unit(number, is_keyframe, 1)
        };
        fanout.deliver(&unit(0, true, 1));
        fanout.deliver(&notice(1, false));
        fanout.deliver(&notice(2, true));
        fanout.deliver(&unit(3, true, 1));
        fanout.deliver(&unit(4, false, 1));
        assert_eq!(waiting(&recording), [0, 3, 4]);
        assert_eq!(waiting(&shown), [0, 1, 2, 3, 4]);
        assert!(fanout.has_readers(true));
    }

    #[test]
    fn a_lossless_queue_holds_the_encoder_up_and_loses_nothing() {
        let fanout = Arc::new(Fanout::default());
        let (queue, units) = channel(true);
        let (_, dropped) = fanout.add("file", RECORDING, queue);
        let encoder = fanout.clone();
        let thread = std::thread::spawn(move || {
            for number in 0..200 {
                encoder.deliver(&unit(number, number == 0, 1));
            }
            encoder.close();
        });
        let (_handle, stop) = stop_pair();
        let mut seen = Vec::new();
        while let Received::Item(unit) = units.recv(&stop) {
            seen.push(unit.pts_ns);
        }
        thread.join().unwrap();
        assert_eq!(seen, (0..200).collect::<Vec<_>>());
        assert_eq!(dropped.load(Relaxed), 0);
    }

    #[test]
    fn a_lossless_reader_that_is_removed_or_goes_lets_the_encoder_go_on() {
        let fanout = Arc::new(Fanout::default());
        let (queue, units) = channel(true);
        let (id, _) = fanout.add("file", RECORDING, queue);
        let encoder = fanout.clone();
        let thread = std::thread::spawn(move || {
            for number in 0..10 * QUEUED_LOSSLESS as u64 {
                encoder.deliver(&unit(number, number == 0, 1));
            }
        });
        fanout.remove(id);
        thread.join().unwrap();
        drop(units);

        let (queue, units) = channel(true);
        fanout.add("file", RECORDING, queue);
        drop(units);
        fanout.deliver(&unit(0, true, 1));
        assert!(!fanout.has_readers(false), "a reader that has gone is removed");
    }

    #[test]
    fn a_failure_closes_all_queues_and_is_kept() {
        let fanout = Fanout::default();
        let (queue, units) = channel(false);
        fanout.add("a", RECORDING, queue);
        fanout.deliver(&unit(0, true, 1));
        fanout.fail("no device".into());
        fanout.fail("later".into());
        assert_eq!(fanout.failure().as_deref(), Some("no device"));
        let (_handle, stop) = stop_pair();
        assert!(
            matches!(units.recv(&stop), Received::Item(_)),
            "what was made is still read"
        );
        assert!(matches!(units.recv(&stop), Received::Closed));
    }
}
