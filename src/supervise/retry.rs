//! How something that fails for a while is tried again.

use std::time::Duration;

use tracing::{debug, warn};

use crate::clock::{Clock, Stop, Waited};
use vision::error::Result;

/// Capped exponential backoff.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Wait after the first failure.
    pub first: Duration,
    /// Longest wait.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(250),
            max: Duration::from_secs(10),
        }
    }
}

impl Backoff {
    /// The wait after `failures` failures in a row (1, 2, ...): doubling from `first` to `max`.
    pub fn delay(&self, failures: u32) -> Duration {
        let factor = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.max)
    }
}

/// Failures in a row that are each logged; after those, every [`LOUD_EVERY`]th.
const LOUD_FAILURES: u32 = 5;
const LOUD_EVERY: u32 = 60;

/// What a transient error leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnTransient {
    /// Open again, waiting longer each time. For cameras and network streams.
    Retry(Backoff),
    /// End with the error. For files.
    GiveUp,
}

/// Opens something until it works, a stop comes (`None`), or an error says that trying again is useless.
///
/// # Errors
/// The error that ended the attempts.
pub fn open_with_retry<T>(
    what: &str,
    policy: OnTransient,
    clock: &dyn Clock,
    stop: &Stop,
    mut open: impl FnMut() -> Result<T>,
) -> Result<Option<T>> {
    let mut failures = 0u32;
    loop {
        if stop.is_stopped() {
            return Ok(None);
        }
        let error = match open() {
            Ok(opened) => return Ok(Some(opened)),
            Err(error) => error,
        };
        let OnTransient::Retry(backoff) = policy else {
            return Err(error);
        };
        if !error.is_transient() {
            return Err(error);
        }
        failures = failures.saturating_add(1);
        let delay = backoff.delay(failures);
        // A camera that is away for months must not fill the disk with its absence.
        if failures <= LOUD_FAILURES || failures.is_multiple_of(LOUD_EVERY) {
            warn!(
                failures,
                retry_in_ms = delay.as_millis() as u64,
                "{what}: {error}"
            );
        } else {
            debug!(failures, "{what}: {error}");
        }
        if clock.wait(delay, stop) == Waited::Stopped {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{SimulatedClock, stop_pair};
    use vision::error::Error;

    #[test]
    fn backoff_doubles_to_its_cap() {
        let backoff = Backoff {
            first: Duration::from_millis(250),
            max: Duration::from_secs(10),
        };
        let ms: Vec<u128> = (1..=8).map(|n| backoff.delay(n).as_millis()).collect();
        assert_eq!(ms, [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
        assert_eq!(backoff.delay(u32::MAX), Duration::from_secs(10));
    }

    #[test]
    fn transient_errors_are_retried_at_the_backoffs_times() {
        let clock = SimulatedClock::auto();
        let (_handle, stop) = stop_pair();
        let mut times_ms = Vec::new();
        let opened = open_with_retry(
            "camera",
            OnTransient::Retry(Backoff::default()),
            &*clock,
            &stop,
            || {
                times_ms.push(clock.now_ns() / 1_000_000);
                if times_ms.len() < 5 {
                    Err(Error::transient("busy"))
                } else {
                    Ok(7)
                }
            },
        );
        assert_eq!(opened.unwrap(), Some(7));
        assert_eq!(times_ms, [0, 250, 750, 1750, 3750]);
    }

    #[test]
    fn fatal_errors_and_give_up_are_not_retried() {
        let clock = SimulatedClock::auto();
        let (handle, stop) = stop_pair();
        for (policy, error) in [
            (OnTransient::Retry(Backoff::default()), Error::fatal("x")),
            (OnTransient::GiveUp, Error::transient("x")),
        ] {
            let mut error = Some(error);
            let result: Result<Option<()>> = open_with_retry("file", policy, &*clock, &stop, || {
                Err(error.take().expect("opened once"))
            });
            assert!(result.is_err());
        }
        drop(handle);
        let none: Result<Option<()>> = open_with_retry("file", OnTransient::GiveUp, &*clock, &stop, || {
            panic!("opened after stop")
        });
        assert!(none.unwrap().is_none());
    }
}
