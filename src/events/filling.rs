//! How full zones are, summed up over a while: for how long something was there, and how much of the zone it filled.

use std::sync::Arc;

use super::desk::ZoneState;
use crate::clock::TimeNs;

/// A picture tells of the time since the one before it, but of no more than this: what was in between is not known.
const LONGEST_NS: u64 = 5_000_000_000;

/// How full zones were in a while: a class in a zone, or several of them together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Filled {
    /// Seconds of which it is known, of each class in each zone.
    pub known_s: f64,
    /// Of these, seconds in which it was there.
    pub occupied_s: f64,
    /// Shares of zones, 0 to 1, times the seconds for which they were filled so.
    pub area_s: f64,
    /// The largest share of a zone.
    pub area_most: f64,
    /// Connected regions of a class in a zone, at most.
    pub regions_most: u32,
    /// Tracks of a class that were inside a zone, at most.
    pub tracks_most: u32,
}

impl Filled {
    /// What a state says that lasted so long; nothing if it is not known.
    fn of(state: &ZoneState, seconds: f64) -> Self {
        let Some(occupied) = state.occupied else {
            return Self::default();
        };
        Self {
            known_s: seconds,
            occupied_s: if occupied { seconds } else { 0.0 },
            area_s: state.area * seconds,
            area_most: state.area,
            regions_most: state.regions,
            tracks_most: state.tracks,
        }
    }

    /// The mean share, 0 to 1; 0 if nothing is known.
    pub fn area(&self) -> f64 {
        if self.known_s > 0.0 {
            self.area_s / self.known_s
        } else {
            0.0
        }
    }

    /// Adds another while, or other classes and zones.
    pub fn add(&mut self, other: &Self) {
        self.known_s += other.known_s;
        self.occupied_s += other.occupied_s;
        self.area_s += other.area_s;
        self.area_most = self.area_most.max(other.area_most);
        self.regions_most = self.regions_most.max(other.regions_most);
        self.tracks_most = self.tracks_most.max(other.tracks_most);
    }
}

/// A class in a zone, over a while.
#[derive(Debug, Clone, PartialEq)]
pub struct Filling {
    /// The zone's name.
    pub zone: Arc<str>,
    /// The class's name.
    pub class: Arc<str>,
    /// How full the zone was of it.
    pub filled: Filled,
}

impl Filling {
    fn is_of(&self, state: &ZoneState) -> bool {
        self.zone == state.zone && self.class == state.class
    }
}

/// The sums of one camera.
#[derive(Debug, Default)]
pub struct Fillings {
    last: Option<TimeNs>,
    sums: Vec<Filling>,
}

impl Fillings {
    /// Adds what a picture that was taken `at` says.
    pub fn add(&mut self, at: TimeNs, states: &[ZoneState]) {
        let since = self.last.replace(at).map_or(0, |last| at.saturating_sub(last));
        if since == 0 || since > LONGEST_NS {
            return;
        }
        let seconds = since as f64 / 1e9;
        for (place, state) in states.iter().enumerate() {
            // States keep their order from picture to picture.
            let known = match self.sums.get(place) {
                Some(sum) if sum.is_of(state) => Some(place),
                _ => self.sums.iter().position(|sum| sum.is_of(state)),
            };
            let filled = Filled::of(state, seconds);
            match known {
                Some(place) => self.sums[place].filled.add(&filled),
                None => self.sums.push(Filling {
                    zone: state.zone.clone(),
                    class: state.class.clone(),
                    filled,
                }),
            }
        }
    }

    /// Gives the sums since the last call; of what nothing is known there is none.
    pub fn take(&mut self) -> Vec<Filling> {
        let mut sums = std::mem::take(&mut self.sums);
        sums.retain(|sum| sum.filled.known_s > 0.0);
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn state(zone: &str, occupied: Option<bool>, area: f64) -> ZoneState {
        ZoneState {
            occupied,
            area,
            regions: u32::from(area > 0.0),
            ..ZoneState::new(zone, "car")
        }
    }

    #[test]
    fn shares_are_weighed_by_their_time_and_the_unknown_counts_for_nothing() {
        let mut fillings = Fillings::default();
        let pictures = [
            // The first one tells of no time.
            (0, state("drive", Some(true), 0.9)),
            (1, state("drive", Some(true), 0.5)),
            (3, state("drive", Some(false), 0.1)),
            (4, state("drive", None, 0.7)),
            // Too long: the camera was away.
            (40, state("drive", Some(true), 1.0)),
            // A clock that stands still, or goes back.
            (40, state("drive", Some(true), 1.0)),
            (39, state("drive", Some(true), 1.0)),
            (40, state("drive", Some(true), 0.2)),
        ];
        for (second, state) in pictures {
            fillings.add(second * SECOND, &[state]);
        }
        let [sum] = &fillings.take()[..] else {
            panic!("one class in one zone");
        };
        let sum = sum.filled;
        assert_eq!((sum.known_s, sum.occupied_s), (4.0, 2.0));
        assert!((sum.area_s - (0.5 + 2.0 * 0.1 + 0.2)).abs() < 1e-9, "{sum:?}");
        assert_eq!((sum.area_most, sum.regions_most), (0.5, 1));
        assert!(fillings.take().is_empty());
    }

    #[test]
    fn zones_that_come_and_go_are_told_apart() {
        let mut fillings = Fillings::default();
        let (a, b) = (state("a", Some(true), 0.5), state("b", Some(false), 0.0));
        fillings.add(0, &[]);
        fillings.add(SECOND, &[a.clone(), b.clone()]);
        fillings.add(2 * SECOND, std::slice::from_ref(&b));
        fillings.add(3 * SECOND, &[b, a]);
        let sums = fillings.take();
        let known: Vec<(&str, f64, f64)> = sums
            .iter()
            .map(|sum| (&*sum.zone, sum.filled.known_s, sum.filled.occupied_s))
            .collect();
        assert_eq!(known, [("a", 2.0, 2.0), ("b", 3.0, 0.0)]);
    }
}
