//! Lines that tracks cross: each track once, and only when it has really come to the other side.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::geometry::{Line, Point};
use crate::clock::TimeNs;

/// To which side of a line, as seen from its first point to its second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// To the left.
    Left,
    /// To the right.
    Right,
}

impl Direction {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Right => "right",
        }
    }
}

/// Tracks that are remembered; the one that was seen longest ago is forgotten first.
const MOST_TRACKS: usize = 1024;
/// A track that was not seen for so long is forgotten.
const FORGET_NS: u64 = 60_000_000_000;

/// A track, as a line has seen it.
#[derive(Debug, Clone, Copy)]
struct Known {
    seen_ns: TimeNs,
    /// The side on which it was last, with room to spare, and where.
    last: Option<(Direction, Point)>,
    has_crossed: bool,
}

/// Looks at one line.
#[derive(Debug)]
pub struct Gate {
    line: Line,
    /// A track is on a side once it is this far from the line, in picture heights.
    margin: f64,
    known: HashMap<u32, Known>,
}

impl Gate {
    /// A gate that has seen nothing.
    pub fn new(line: Line, margin: f64) -> Self {
        Self {
            line,
            margin,
            known: HashMap::new(),
        }
    }

    /// Where a track stands in the picture of time `at`, whose width over height is `aspect`. Says to which side it has
    /// crossed, the first time that it has.
    pub fn step(&mut self, at: TimeNs, track: u32, point: Point, aspect: f64) -> Option<Direction> {
        let known = self.known.entry(track).or_insert(Known {
            seen_ns: at,
            last: None,
            has_crossed: false,
        });
        known.seen_ns = at;
        let distance = self.line.distance(point, aspect);
        let now = if distance >= self.margin {
            Direction::Right
        } else if distance <= -self.margin {
            Direction::Left
        } else {
            return None;
        };
        let before = known.last.replace((now, point));
        let (side, from) = before.filter(|_| !known.has_crossed)?;
        if side == now || !self.line.is_met(from, point) {
            return None;
        }
        known.has_crossed = true;
        Some(now)
    }

    /// Forgets tracks that are gone. To be called once for each picture.
    pub fn forget(&mut self, at: TimeNs) {
        self.known
            .retain(|_, known| at.saturating_sub(known.seen_ns) <= FORGET_NS);
        while self.known.len() > MOST_TRACKS {
            let oldest = self
                .known
                .iter()
                .min_by_key(|(track, known)| (known.seen_ns, **track));
            let Some((&track, _)) = oldest else {
                return;
            };
            self.known.remove(&track);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A line across the middle half of the picture.
    fn gate() -> Gate {
        Gate::new(Line::new(&[[0.25, 0.5], [0.75, 0.5]]).unwrap(), 0.02)
    }

    fn crossings(gate: &mut Gate, track: u32, way: &[Point]) -> Vec<(usize, Direction)> {
        let steps = way.iter().enumerate();
        steps
            .filter_map(|(n, p)| Some((n, gate.step(n as u64, track, *p, 1.5)?)))
            .collect()
    }

    proptest! {
        #[test]
        fn a_way_with_jitter_counts_once_and_jitter_alone_not_at_all(
            jitter in prop::collection::vec(-0.019..0.019_f64, 1..80),
            x in 0.3..0.7_f64,
            stays in 1..20_usize,
            down in any::<bool>(),
        ) {
            let flip = |y: f64| if down { y } else { 1.0 - y };
            // It comes, trembles on the line, and goes on; then it trembles around the place where it stands.
            let mut way: Vec<Point> = (0..10).map(|n| [x, flip(0.3 + 0.02 * f64::from(n))]).collect();
            way.extend(jitter.iter().map(|j| [x, 0.5 + j]));
            let before = way.len();
            let mut gate = gate();
            prop_assert_eq!(crossings(&mut gate, 1, &way), []);
            way.push([x, flip(0.53)]);
            way.extend(jitter.iter().cycle().take(stays * jitter.len()).map(|j| [x, flip(0.53) + 2.0 * j]));
            let to = if down { Direction::Right } else { Direction::Left };
            let mut fresh = self::gate();
            prop_assert_eq!(crossings(&mut fresh, 1, &way), [(before, to)]);
        }
    }

    #[test]
    fn around_the_end_is_not_across() {
        let mut gate = gate();
        let around = [[0.5, 0.4], [0.9, 0.4], [0.9, 0.6], [0.5, 0.6]];
        assert_eq!(crossings(&mut gate, 1, &around), []);
        // It is below now; the way back up is across.
        assert_eq!(crossings(&mut gate, 1, &[[0.5, 0.4]]), [(0, Direction::Left)]);
        // Again across: the track has counted.
        assert_eq!(crossings(&mut gate, 1, &[[0.5, 0.6], [0.5, 0.4]]), []);
        let leap = [[0.3, 0.1], [0.7, 0.9]];
        assert_eq!(crossings(&mut gate, 2, &leap), [(1, Direction::Right)]);
    }

    #[test]
    fn tracks_that_are_gone_are_forgotten() {
        let mut gate = gate();
        for track in 0..3000 {
            gate.step(u64::from(track), track, [0.5, 0.1], 1.0);
            gate.forget(u64::from(track));
            assert!(gate.known.len() <= MOST_TRACKS);
        }
        assert!(gate.known.contains_key(&2999) && !gate.known.contains_key(&0));
        gate.forget(2000 + FORGET_NS);
        assert_eq!(gate.known.len(), 1000);
    }
}
