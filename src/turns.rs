//! Fair turns: a fixed number may work at a time, in the order in which they asked. Cameras that share a machine's cores
//! take turns for their inferences, so that a fast camera with a small network does not starve a slow one.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use crate::clock::Stop;

/// How often a wait looks at the stop.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Debug)]
struct State {
    free: usize,
    next: u64,
    waiting: VecDeque<u64>,
}

/// Places, and who waits for one.
#[derive(Debug)]
pub struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

/// A place; given back when dropped.
#[derive(Debug)]
pub struct Turn(Arc<Turns>);

impl Turns {
    /// `places` (at least 1) may work at a time.
    pub fn new(places: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                free: places.max(1),
                next: 0,
                waiting: VecDeque::new(),
            }),
            changed: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Waits for a place behind all who asked before; `None` on stop.
    pub fn take(self: &Arc<Self>, stop: &Stop) -> Option<Turn> {
        let mut state = self.lock();
        let mine = state.next;
        state.next += 1;
        state.waiting.push_back(mine);
        loop {
            if stop.is_stopped() {
                state.waiting.retain(|ticket| *ticket != mine);
                self.changed.notify_all();
                return None;
            }
            if state.free > 0 && state.waiting.front() == Some(&mine) {
                state.waiting.pop_front();
                state.free -= 1;
                self.changed.notify_all();
                return Some(Turn(self.clone()));
            }
            let woken = self.changed.wait_timeout(state, LOOK);
            state = woken.unwrap_or_else(|e| e.into_inner()).0;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.lock().free += 1;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::stop_pair;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

    #[test]
    fn one_that_asks_often_gets_no_more_than_one_that_asks_seldom() {
        let turns = Turns::new(1);
        let (_handle, stop) = stop_pair();
        let counts: Arc<[AtomicUsize; 2]> = Arc::default();
        let over = Arc::new(AtomicBool::new(false));
        let threads: Vec<_> = (0..2)
            .map(|who| {
                let (turns, stop, counts, over) = (turns.clone(), stop.clone(), counts.clone(), over.clone());
                std::thread::spawn(move || {
                    while !over.load(Relaxed) {
                        let _turn = turns.take(&stop);
                        counts[who].fetch_add(1, Relaxed);
                        std::thread::sleep(Duration::from_millis(1 + 2 * who as u64));
                    }
                })
            })
            .collect();
        while counts[1].load(Relaxed) < 30 {
            std::thread::sleep(Duration::from_millis(1));
        }
        over.store(true, Relaxed);
        threads.into_iter().for_each(|t| t.join().unwrap());
        let (a, b) = (counts[0].load(Relaxed), counts[1].load(Relaxed));
        assert!(a.abs_diff(b) <= 5, "{a} {b}");
    }

    #[test]
    fn never_more_than_the_places_and_a_stop_ends_the_wait() {
        let turns = Turns::new(2);
        let (handle, stop) = stop_pair();
        let first = turns.take(&stop);
        let _second = turns.take(&stop);
        let waiting = turns.clone();
        let waits = std::thread::spawn(move || waiting.take(&stop).is_some());
        std::thread::sleep(Duration::from_millis(20));
        assert!(!waits.is_finished());
        drop(handle);
        assert!(!waits.join().unwrap());
        drop(first);
        let (_handle, stop) = stop_pair();
        assert!(
            turns.take(&stop).is_some(),
            "who left the queue does not block it"
        );
    }
}
