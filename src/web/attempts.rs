//! How often one address may try passwords: hashes for RTSP's digest are quick to compute, so guessing is slowed down here.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Wrong passwords that one address may try at once.
const BURST: u32 = 5;
/// And one more after each such time.
const REFILL: Duration = Duration::from_secs(6);
/// Addresses that are remembered. Beyond, all that are new count as one, so that a crowd of guessers waits for each other.
const MOST: usize = 1024;
/// Stands for those that are not remembered.
const CROWD: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// Wrong passwords of one address.
#[derive(Debug, Clone, Copy)]
struct Wrong {
    count: u32,
    /// When one was last taken off.
    refilled: Instant,
}

impl Wrong {
    fn refill(&mut self, now: Instant) {
        let periods = now.saturating_duration_since(self.refilled).as_nanos() / REFILL.as_nanos();
        let periods = u32::try_from(periods).unwrap_or(u32::MAX);
        self.count = self.count.saturating_sub(periods);
        self.refilled += REFILL.saturating_mul(periods);
    }
}

/// Wrong passwords of all addresses.
#[derive(Debug, Default)]
pub(super) struct Attempts(Mutex<HashMap<IpAddr, Wrong>>);

impl Attempts {
    fn all(&self) -> MutexGuard<'_, HashMap<IpAddr, Wrong>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Whether the address may try a password now; otherwise after how long it may.
    pub(super) fn may_try(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let mut all = self.all();
        let key = match neighbours(address) {
            key if all.contains_key(&key) => key,
            _ => CROWD,
        };
        let Some(wrong) = all.get_mut(&key) else {
            return Ok(());
        };
        wrong.refill(now);
        if wrong.count < BURST {
            return Ok(());
        }
        Err(REFILL.saturating_sub(now.saturating_duration_since(wrong.refilled)))
    }

    /// The address tried a wrong password.
    pub(super) fn failed(&self, address: IpAddr, now: Instant) {
        let mut all = self.all();
        if all.len() >= MOST {
            all.retain(|_, wrong| {
                wrong.refill(now);
                wrong.count > 0
            });
        }
        let key = match neighbours(address) {
            key if all.contains_key(&key) || all.len() < MOST => key,
            _ => CROWD,
        };
        let wrong = all.entry(key).or_insert(Wrong {
            count: 0,
            refilled: now,
        });
        wrong.refill(now);
        if wrong.count == 0 {
            wrong.refilled = now;
        }
        wrong.count = wrong.count.saturating_add(1).min(BURST);
    }
}

/// An address, or of IPv6, where one owner has as many as they want, the network of 64 bits.
fn neighbours(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_are_few_and_come_back_with_time() {
        let (attempts, begun) = (Attempts::default(), Instant::now());
        let (ann, eve) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        for _ in 0..BURST {
            assert_eq!(attempts.may_try(eve, begun), Ok(()));
            attempts.failed(eve, begun);
        }
        assert_eq!(attempts.may_try(eve, begun), Err(REFILL));
        assert_eq!(
            attempts.may_try(eve, begun + REFILL / 3),
            Err(REFILL - REFILL / 3)
        );
        assert_eq!(attempts.may_try(ann, begun), Ok(()), "another address");
        let mut now = begun + REFILL;
        assert_eq!(attempts.may_try(eve, now), Ok(()));
        attempts.failed(eve, now);
        assert!(attempts.may_try(eve, now).is_err());
        // Rest brings back the burst and no more.
        now += 1000 * REFILL;
        for _ in 0..BURST {
            assert_eq!(attempts.may_try(eve, now), Ok(()));
            attempts.failed(eve, now);
        }
        assert!(attempts.may_try(eve, now).is_err());
    }

    #[test]
    fn one_network_is_one_guesser_and_memory_is_bounded() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        for n in 0..BURST {
            attempts.failed(format!("2001:db8::{n}").parse().unwrap(), now);
        }
        assert!(attempts.may_try("2001:db8::ffff".parse().unwrap(), now).is_err());
        assert!(attempts.may_try("2001:db8:0:1::1".parse().unwrap(), now).is_ok());
        for n in 0..3 * MOST as u32 {
            attempts.failed(IpAddr::from(n.to_be_bytes()), now);
        }
        assert!(attempts.all().len() <= MOST + 1);
        assert!(
            attempts.may_try("203.0.113.9".parse().unwrap(), now).is_err(),
            "one of the crowd"
        );
        assert!(
            attempts
                .may_try("203.0.113.9".parse().unwrap(), now + REFILL)
                .is_ok()
        );
    }
}
