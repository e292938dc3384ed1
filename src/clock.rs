//! Time: nanoseconds since the program's epoch, waits that a stop ends, and a simulated clock for tests.

use std::sync::{Arc, Condvar, LazyLock, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::convert::Infallible;

pub use vision::frame::TimeNs;

/// Held by whoever may stop the program; dropping it stops every holder of its [`Stop`].
#[derive(Debug)]
pub struct StopHandle(#[allow(dead_code)] Sender<Infallible>);

/// A stop that threads wait for. It is disconnected when the [`StopHandle`] is dropped, and never
/// carries a message, so it can be selected on.
#[derive(Debug, Clone)]
pub struct Stop(Receiver<Infallible>);

/// Makes a stop and the handle whose drop triggers it.
pub fn stop_pair() -> (StopHandle, Stop) {
    let (tx, rx) = bounded(0);
    (StopHandle(tx), Stop(rx))
}

impl Stop {
    /// Whether the stop was triggered.
    pub fn is_stopped(&self) -> bool {
        matches!(
            self.0.try_recv(),
            Err(crossbeam_channel::TryRecvError::Disconnected)
        )
    }

    /// The channel that disconnects on stop, for `select_biased!` (list it first).
    pub fn channel(&self) -> &Receiver<Infallible> {
        &self.0
    }

    /// Waits in real time; true when stopped before the time was up.
    pub fn wait(&self, duration: Duration) -> bool {
        matches!(self.0.recv_timeout(duration), Err(RecvTimeoutError::Disconnected))
    }
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// The time was up.
    Elapsed,
    /// The stop came first.
    Stopped,
}

/// A monotonic clock.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Now, in nanoseconds since the clock's epoch.
    fn now_ns(&self) -> TimeNs;

    /// Waits until `deadline_ns` or the stop.
    fn wait_until(&self, deadline_ns: TimeNs, stop: &Stop) -> Waited;

    /// Waits for `duration` or the stop.
    fn wait(&self, duration: Duration, stop: &Stop) -> Waited {
        self.wait_until(self.now_ns().saturating_add(duration.as_nanos() as u64), stop)
    }
}

/// A shared clock.
pub type SharedClock = Arc<dyn Clock>;

/// The program's epoch: its first look at the clock.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The machine's monotonic clock, from the program's epoch: all of them agree.
#[derive(Debug)]
pub struct RealClock;

impl RealClock {
    /// A clock for those who take any.
    pub fn shared() -> SharedClock {
        Self::now();
        Arc::new(Self)
    }

    /// Now, in nanoseconds since the program's epoch.
    pub fn now() -> TimeNs {
        EPOCH.elapsed().as_nanos() as u64
    }
}

impl Clock for RealClock {
    fn now_ns(&self) -> TimeNs {
        Self::now()
    }

    fn wait_until(&self, deadline_ns: TimeNs, stop: &Stop) -> Waited {
        let now = self.now_ns();
        let stopped = if deadline_ns <= now {
            stop.is_stopped()
        } else {
            stop.wait(Duration::from_nanos(deadline_ns - now))
        };
        if stopped { Waited::Stopped } else { Waited::Elapsed }
    }
}

/// A clock that moves only when told, or, in [`SimulatedClock::auto`], jumps to each deadline waited for.
#[derive(Debug)]
pub struct SimulatedClock {
    now_ns: Mutex<TimeNs>,
    moved: Condvar,
    auto: bool,
}

impl SimulatedClock {
    /// A clock at 0 whose waits block until [`advance`](Self::advance) passes their deadline.
    pub fn manual() -> Arc<Self> {
        Arc::new(Self {
            now_ns: Mutex::new(0),
            moved: Condvar::new(),
            auto: false,
        })
    }

    /// A clock at 0 whose waits return at once, having moved the clock to their deadline.
    pub fn auto() -> Arc<Self> {
        Arc::new(Self {
            now_ns: Mutex::new(0),
            moved: Condvar::new(),
            auto: true,
        })
    }

    /// Moves time forward and wakes the waits whose deadline has passed.
    pub fn advance(&self, by: Duration) {
        *self.now_ns.lock().unwrap_or_else(|e| e.into_inner()) += by.as_nanos() as u64;
        self.moved.notify_all();
    }
}

impl Clock for SimulatedClock {
    fn now_ns(&self) -> TimeNs {
        *self.now_ns.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn wait_until(&self, deadline_ns: TimeNs, stop: &Stop) -> Waited {
        let mut now = self.now_ns.lock().unwrap_or_else(|e| e.into_inner());
        loop {
            if stop.is_stopped() {
                return Waited::Stopped;
            }
            if *now >= deadline_ns {
                return Waited::Elapsed;
            }
            if self.auto {
                *now = deadline_ns;
                self.moved.notify_all();
                continue;
            }
            // The stop has no condition variable of its own: look at it every few milliseconds.
            now = self
                .moved
                .wait_timeout(now, Duration::from_millis(2))
                .unwrap_or_else(|e| e.into_inner())
                .0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropping_the_handle_stops() {
        let (handle, stop) = stop_pair();
        assert!(!stop.is_stopped());
        drop(handle);
        assert!(stop.is_stopped());
        assert_eq!(
            RealClock::shared().wait(Duration::from_secs(60), &stop),
            Waited::Stopped
        );
    }

    #[test]
    fn a_manual_clock_waits_for_advance() {
        let clock = SimulatedClock::manual();
        let (_handle, stop) = stop_pair();
        let waiting = clock.clone();
        let thread = std::thread::spawn(move || waiting.wait_until(5_000_000_000, &stop));
        clock.advance(Duration::from_secs(4));
        assert!(!thread.is_finished());
        clock.advance(Duration::from_secs(1));
        assert_eq!(thread.join().unwrap(), Waited::Elapsed);
        assert_eq!(clock.now_ns(), 5_000_000_000);
    }

    #[test]
    fn an_auto_clock_jumps() {
        let clock = SimulatedClock::auto();
        let (_handle, stop) = stop_pair();
        assert_eq!(clock.wait(Duration::from_secs(3600), &stop), Waited::Elapsed);
        assert_eq!(clock.now_ns(), 3600 * 1_000_000_000);
    }

    #[test]
    fn a_stop_ends_a_simulated_wait() {
        let clock = SimulatedClock::manual();
        let (handle, stop) = stop_pair();
        let waiting = clock.clone();
        let thread = std::thread::spawn(move || waiting.wait(Duration::from_secs(5), &stop));
        drop(handle);
        assert_eq!(thread.join().unwrap(), Waited::Stopped);
    }
}
