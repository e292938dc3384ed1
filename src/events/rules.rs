//! Rules: from what is measured in each picture to what has begun and ended. Pure, over capture time.
//!
//! Where nothing is known of a picture, nothing begins, nothing ends, and what was about to begin or end has to show
//! itself anew.

use std::time::Duration;

use crate::clock::TimeNs;

/// How much there is of what a rule looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Enough to begin.
    High,
    /// Too little to begin and too much to end: things stay as they are.
    Between,
    /// So little that it ends.
    Low,
    /// Nothing is known.
    Unknown,
}

impl Level {
    /// Where a value stands between two thresholds, `leave <= enter`.
    pub fn of(value: f64, enter: f64, leave: f64) -> Self {
        if value >= enter {
            Self::High
        } else if value < leave {
            Self::Low
        } else {
            Self::Between
        }
    }

    /// High for what is true, low for what is not.
    pub fn of_bool(is_so: bool) -> Self {
        if is_so { Self::High } else { Self::Low }
    }

    /// High for low, and the other way round.
    #[must_use]
    pub fn inverse(self) -> Self {
        match self {
            Self::High => Self::Low,
            Self::Low => Self::High,
            other => other,
        }
    }
}

/// What a rule says of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It has begun.
    Start,
    /// It lasts for the time that was asked for.
    Dwell,
    /// It has ended.
    End,
}

/// How long it takes until something counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delays {
    /// From the first of the pictures that show it without a break, until it has begun.
    pub start: Duration,
    /// The same for its end.
    pub end: Duration,
    /// From its begin until a [`Change::Dwell`].
    pub dwell: Option<Duration>,
}

/// A state with hysteresis in level and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Latch {
    /// Since when it has been so.
    since: Option<TimeNs>,
    /// Since when every picture has shown the opposite.
    pending: Option<TimeNs>,
    has_dwelt: bool,
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Latch {
    /// Since when it has been so; `None` while it is not.
    pub fn since(&self) -> Option<TimeNs> {
        self.since
    }

    /// What a picture of time `at` changes. [`Change::End`] says since when it was so, which
    /// [`since`](Self::since) has forgotten by then.
    pub fn step(&mut self, at: TimeNs, level: Level, delays: &Delays) -> Option<(Change, TimeNs)> {
        let (toward, delay) = match self.since {
            None => (Level::High, delays.start),
            Some(_) => (Level::Low, delays.end),
        };
        if level == toward {
            // A clock that was set back counts anew.
            let from = self.pending.map_or(at, |from| from.min(at));
            if at - from >= ns(delay) {
                self.pending = None;
                self.has_dwelt = false;
                return Some(match self.since.take() {
                    None => {
                        self.since = Some(from);
                        (Change::Start, from)
                    }
                    Some(since) => (Change::End, since),
                });
            }
            self.pending = Some(from);
            return None;
        }
        self.pending = None;
        let (since, dwell) = (self.since?, delays.dwell?);
        if level != Level::Unknown && !self.has_dwelt && at.saturating_sub(since) >= ns(dwell) {
            self.has_dwelt = true;
            return Some((Change::Dwell, since));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;

    fn delays(start: u64, end: u64, dwell: Option<u64>) -> Delays {
        let ms = Duration::from_millis;
        Delays {
            start: ms(start),
            end: ms(end),
            dwell: dwell.map(ms),
        }
    }

    /// Steps a latch through times in milliseconds.
    fn changes(delays: Delays, steps: &[(u64, Level)]) -> Vec<(u64, Change, u64)> {
        let mut latch = Latch::default();
        let step = |(at, level): &(u64, Level)| {
            let (change, since) = latch.step(at * MS, *level, &delays)?;
            Some((*at, change, since / MS))
        };
        steps.iter().filter_map(step).collect()
    }

    /// The same from the whole past at each picture: a stretch of pictures that all show the opposite, and is long enough,
    /// turns the state; what lies before the last turn does not count.
    fn slowly(delays: Delays, steps: &[(u64, Level)]) -> Vec<(u64, Change, u64)> {
        let mut found = Vec::new();
        let (mut is_on, mut since, mut dwelt, mut turned) = (false, 0, false, 0);
        for now in 0..steps.len() {
            let (at, level) = steps[now];
            let (toward, delay) = match is_on {
                false => (Level::High, delays.start),
                true => (Level::Low, delays.end),
            };
            let stretch = steps[turned..=now]
                .iter()
                .rev()
                .take_while(|(_, level)| *level == toward);
            let first = stretch.last().map(|(at, _)| *at);
            match first {
                Some(first) if Duration::from_millis(at - first) >= delay => {
                    found.push(match is_on {
                        false => (at, Change::Start, first),
                        true => (at, Change::End, since),
                    });
                    since = first;
                    (is_on, dwelt, turned) = (!is_on, false, now + 1);
                }
                Some(_) => {}
                None => {
                    let dwell = delays
                        .dwell
                        .filter(|_| is_on && !dwelt && level != Level::Unknown);
                    if dwell.is_some_and(|dwell| Duration::from_millis(at - since) >= dwell) {
                        found.push((at, Change::Dwell, since));
                        dwelt = true;
                    }
                }
            }
        }
        found
    }

    fn level() -> impl Strategy<Value = Level> {
        prop_oneof![
            4 => Just(Level::High), 4 => Just(Level::Low), 2 => Just(Level::Between), 1 => Just(Level::Unknown)
        ]
    }

    proptest! {
        #[test]
        fn a_latch_says_what_a_look_at_the_whole_past_says(
            steps in prop::collection::vec((1..120_u64, level(), 1..5_usize), 0..60),
            start in 0..300_u64, end in 0..300_u64, dwell in prop::option::of(0..900_u64),
        ) {
            let mut at = 0;
            let mut all = Vec::new();
            for (gap, level, times) in steps {
                for _ in 0..times {
                    at += gap;
                    all.push((at, level));
                }
            }
            let delays = delays(start, end, dwell);
            let found = changes(delays, &all);
            prop_assert_eq!(&found, &slowly(delays, &all));
            // Starts and ends take turns, a dwell lies between them and comes once, and each picture shows the cause.
            let mut last = Change::End;
            for (at, change, since) in &found {
                prop_assert!(since <= at);
                match change {
                    Change::Start => prop_assert_eq!(last, Change::End),
                    Change::Dwell => prop_assert_eq!(last, Change::Start),
                    Change::End => prop_assert_ne!(last, Change::End),
                }
                last = *change;
                let (_, level) = all.iter().find(|(time, _)| time == at).unwrap();
                prop_assert_ne!(*level, Level::Unknown);
            }
        }

        #[test]
        fn values_that_jitter_between_the_thresholds_change_nothing(
            values in prop::collection::vec(0.05..0.0999_f64, 0..50), begins_high in any::<bool>(),
        ) {
            let first = if begins_high { 0.2 } else { 0.0 };
            let levels = std::iter::once(first).chain(values).map(|v| Level::of(v, 0.1, 0.05));
            let steps: Vec<(u64, Level)> = (0..).step_by(40).zip(levels).collect();
            let found = changes(delays(0, 0, None), &steps);
            prop_assert_eq!(found.len(), usize::from(begins_high));
        }
    }

    #[test]
    fn what_is_not_known_ends_nothing_and_counts_for_nothing() {
        use Level::{High, Low, Unknown};
        let steps = [
            (0, High),
            (100, High),
            (200, Unknown),
            (300, High),
            (500, High),
            (600, Low),
            (700, Unknown),
            (9000, Low),
            (9100, Low),
            (9200, Low),
        ];
        let found = changes(delays(200, 200, Some(5000)), &steps);
        assert_eq!(found, [(500, Change::Start, 300), (9200, Change::End, 300)]);
    }

    #[test]
    fn a_clock_that_is_set_back_delays_and_breaks_nothing() {
        use Level::{High, Low};
        let steps = [
            (1000, High),
            (100, High),
            (250, High),
            (50, Low),
            (10, Low),
            (220, Low),
        ];
        let found = changes(delays(100, 200, Some(10_000)), &steps);
        assert_eq!(found, [(250, Change::Start, 100), (220, Change::End, 100)]);
        assert_eq!(Level::of(f64::NAN, 0.1, 0.05), Level::Between);
        assert_eq!(Level::High.inverse(), Low);
    }
}
