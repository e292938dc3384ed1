//! How often a keyframe is made because somebody asked for one.

use std::time::{Duration, Instant};

/// A keyframe is several times as large as what it replaces, and those who ask for it come from outside: this many may
/// be asked for at once.
const BURST: u32 = 3;
/// And one more after each such time.
const REFILL: Duration = Duration::from_millis(500);

/// Requests for keyframes, and how many may be granted. A request that comes too early is granted later.
#[derive(Debug)]
pub(super) struct Keyframes {
    left: u32,
    refilled: Instant,
    wanted: bool,
    /// When the one was asked of the encoder that hasn't come out yet.
    on_its_way: Option<Instant>,
}

impl Keyframes {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            left: BURST,
            refilled: now,
            wanted: false,
            on_its_way: None,
        }
    }

    /// Somebody needs one.
    pub(super) fn ask(&mut self) {
        self.wanted = true;
    }

    /// A keyframe goes out: nobody needs another.
    pub(super) fn made(&mut self) {
        self.wanted = false;
        self.on_its_way = None;
    }

    /// Whether one is to be made now; then the request is taken as granted.
    pub(super) fn grant(&mut self, now: Instant) -> bool {
        let periods = now.saturating_duration_since(self.refilled).as_nanos() / REFILL.as_nanos();
        if periods > 0 {
            let periods = u32::try_from(periods).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(periods).min(BURST);
            self.refilled += REFILL.saturating_mul(periods);
        }
        let comes = |since| now.saturating_duration_since(since) < REFILL;
        if !self.wanted || self.left == 0 || self.on_its_way.is_some_and(comes) {
            return false;
        }
        self.left -= 1;
        self.wanted = false;
        self.on_its_way = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_granted_at_once_up_to_the_burst_and_later_beyond_it() {
        let begun = Instant::now();
        let mut keyframes = Keyframes::new(begun);
        assert!(!keyframes.grant(begun), "nobody asked");
        for _ in 0..BURST {
            keyframes.ask();
            keyframes.ask();
            assert!(keyframes.grant(begun));
            assert!(!keyframes.grant(begun), "one keyframe answers all requests");
            keyframes.ask();
            assert!(!keyframes.grant(begun), "it is on its way");
            keyframes.made();
        }
        keyframes.ask();
        assert!(!keyframes.grant(begun + REFILL / 2), "too many at once");
        assert!(keyframes.grant(begun + REFILL), "the request was kept");
        keyframes.ask();
        assert!(!keyframes.grant(begun + REFILL + REFILL / 2));
        keyframes.made();
        assert!(
            !keyframes.grant(begun + 10 * REFILL),
            "a keyframe came by itself meanwhile"
        );
    }

    #[test]
    fn a_keyframe_that_never_came_is_asked_for_again() {
        let begun = Instant::now();
        let mut keyframes = Keyframes::new(begun);
        keyframes.ask();
        assert!(keyframes.grant(begun));
        keyframes.ask();
        assert!(!keyframes.grant(begun + REFILL / 2));
        assert!(keyframes.grant(begun + REFILL));
    }

    #[test]
    fn rest_brings_back_the_burst_and_no_more() {
        let begun = Instant::now();
        let mut keyframes = Keyframes::new(begun);
        let later = begun + 100 * REFILL;
        let mut granted = 0;
        for _ in 0..10 {
            keyframes.ask();
            granted += u32::from(keyframes.grant(later));
            keyframes.made();
        }
        assert_eq!(granted, BURST);
    }
}
