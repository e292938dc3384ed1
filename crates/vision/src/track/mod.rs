//! Which object is which from picture to picture: numbers that last.
//!
//! The objects of a segmented picture are matched with those of the one before, whose map has been moved to where the
//! picture is now. Two objects are one if their masks overlap; where they don't, because one was covered or moved too
//! fast, if one is where the other was heading. Objects that are surely there are matched first, those that barely count
//! after them, with what is left (as in ByteTrack: Zhang et al. 2022). Each round is an optimal [`Assignment`].
//!
//! - A new object gets its number when it is seen for the second time in a row, and in the first picture at once.
//! - A number is never given twice in a run.
//! - An object that is not found is waited for, 2 s long, where it was heading; not if that leads out of the picture.

mod assign;
#[cfg(test)]
mod tests;

use crate::frame::{LabelMap, TimeNs};
use crate::scene::Segment;

pub use assign::Assignment;

/// For how long an object that is not found is waited for.
const PATIENCE_NS: u64 = 2_000_000_000;
/// Two masks that share less (intersection over union) are not taken for one object.
const LEAST_OVERLAP: f32 = 0.15;
/// As long as an object has this share of its usual area, its place tells how it moves.
const WHOLE: f32 = 0.85;
/// How fast the usual area follows a smaller one: time in which a tenth remains of the difference.
const SHRINKS_NS: f32 = 3e9;
/// An object of more than this many times a track's area is another.
const LARGEST: f32 = 2.5;
/// A class that differs takes this from the gain: networks waver between bus and truck.
const OTHER_CLASS: f32 = 0.3;
/// Masks that share at least this are one object, whatever its class.
const CLASS_MAY_CHANGE: f32 = 0.5;

/// What is in the new picture of an object.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// Its place among the segments.
    number: u8,
    class: u16,
    score: f32,
    area: f32,
    /// Mean column and row of its pixels.
    place: [f32; 2],
}

/// An object that is followed.
#[derive(Debug, Clone, Copy)]
struct Track {
    /// Its number, once it has one.
    id: Option<u32>,
    class: u16,
    /// The area that it has when nothing covers it.
    area: f32,
    place: [f32; 2],
    /// Pixels a nanosecond.
    velocity: [f32; 2],
    /// Whether `velocity` has been seen.
    has_moved: bool,
    seen_ns: TimeNs,
    /// Its segment in the picture before, if it was there.
    number: Option<u8>,
}

impl Track {
    /// Where it should be `at_ns`, if it goes on as it went.
    fn heading(&self, at_ns: TimeNs) -> [f32; 2] {
        let passed = at_ns.saturating_sub(self.seen_ns) as f32;
        [0, 1].map(|axis| self.place[axis] + self.velocity[axis] * passed)
    }
}

/// What the tracker is told of the picture before.
#[derive(Debug, Clone, Copy)]
pub enum Before<'a> {
    /// Its map, moved to where the picture is now.
    Moved(&'a LabelMap),
    /// Nothing; its objects may be about where they were.
    Unknown,
    /// It shows something else: nothing of it is here.
    Cut,
}

/// Gives the objects of a video's segmented pictures numbers that last. Allocates nothing once it has seen as many objects
/// as there ever are.
#[derive(Debug)]
pub struct Tracker {
    /// An object that is new needs this score.
    sure: f32,
    next_id: u32,
    tracks: Vec<Track>,
    seen: Vec<Seen>,
    /// Pixels that segment `i` of the picture before and segment `j` of this one share, at `256 i + j`.
    shared: Vec<u32>,
    areas_before: [u32; 256],
    gains: Vec<f32>,
    assignment: Assignment,
    /// For each track the object that it is.
    matched: Vec<Option<usize>>,
    taken: Vec<bool>,
    rows: Vec<usize>,
    columns: Vec<usize>,
    updates: u64,
}

impl Tracker {
    /// For objects that have at least the score `least`; one that is new needs a tenth more.
    pub fn new(least: f32) -> Self {
        Self {
            sure: Self::sure(least),
            next_id: 1,
            tracks: Vec::new(),
            seen: Vec::new(),
            shared: vec![0; 256 * 256],
            areas_before: [0; 256],
            gains: Vec::new(),
            assignment: Assignment::default(),
            matched: Vec::new(),
            taken: Vec::new(),
            rows: Vec::new(),
            columns: Vec::new(),
            updates: 0,
        }
    }

    /// Writes into the `segments` of a picture taken `at_ns`, whose map is `map`, the numbers of those that are objects.
    /// `before` is of the picture that this was told of last.
    pub fn update(&mut self, map: &LabelMap, segments: &mut [Segment], before: Before<'_>, at_ns: TimeNs) {
        self.look(map, segments);
        match before {
            Before::Moved(moved) if moved.labels.len() == map.labels.len() => {
                self.overlay(&moved.labels, &map.labels)
            }
            Before::Cut => {
                self.tracks.clear();
                self.forget();
            }
            _ => self.forget(),
        }
        self.matched.clear();
        self.matched.resize(self.tracks.len(), None);
        self.taken.clear();
        self.taken.resize(self.seen.len(), false);
        for surely in [true, false] {
            self.assign(surely, at_ns, map);
        }
        self.follow(at_ns, map);
        self.begin(at_ns);
        for segment in segments.iter_mut() {
            segment.track = None;
        }
        for track in &self.tracks {
            if let Some(segment) = track
                .number
                .and_then(|number| segments.get_mut(usize::from(number)))
            {
                segment.track = track.id;
            }
        }
        self.updates += 1;
    }

    /// Forgets all objects, but not which numbers were given: for another model, whose objects have at least the score
    /// `least`.
    pub fn restart(&mut self, least: f32) {
        self.tracks.clear();
        self.forget();
        self.sure = Self::sure(least);
        self.updates = 0;
    }

    /// The score that a new object needs.
    fn sure(least: f32) -> f32 {
        (least + 0.1).min(0.95)
    }

    /// The objects that are followed, those that are covered included.
    pub fn len(&self) -> usize {
        self.tracks.len()
    }

    /// Whether no object is followed.
    pub fn is_empty(&self) -> bool {
        self.tracks.is_empty()
    }

    /// Finds where the objects are.
    fn look(&mut self, map: &LabelMap, segments: &[Segment]) {
        let mut sums = [[0_u64; 3]; 256];
        for (y, row) in map.labels.chunks_exact(map.width.max(1)).enumerate() {
            let mut x = 0;
            for run in row.chunk_by(|a, b| a == b) {
                let length = run.len() as u64;
                let sums = &mut sums[usize::from(run[0])];
                sums[0] += length;
                // The sum of the columns x..x + length.
                sums[1] += length * (2 * x as u64 + length - 1) / 2;
                sums[2] += length * y as u64;
                x += run.len();
            }
        }
        self.seen.clear();
        for ((number, segment), [pixels, columns, rows]) in (0..=u8::MAX).zip(segments).zip(sums) {
            if segment.instance.is_some() && !segment.doubtful && pixels > 0 {
                self.seen.push(Seen {
                    number,
                    class: segment.class,
                    score: segment.score,
                    area: pixels as f32,
                    place: [columns, rows].map(|sum| sum as f32 / pixels as f32),
                });
            }
        }
    }

    fn forget(&mut self) {
        self.shared.fill(0);
        self.areas_before = [0; 256];
    }

    /// Counts the pixels that segments of both maps share.
    fn overlay(&mut self, before: &[u8], now: &[u8]) {
        self.forget();
        let mut at = 0;
        // Both maps are made of long runs.
        for run in before.chunk_by(|a, b| a == b) {
            let shared = &mut self.shared[256 * usize::from(run[0])..][..256];
            self.areas_before[usize::from(run[0])] += run.len() as u32;
            for part in now[at..at + run.len()].chunk_by(|a, b| a == b) {
                shared[usize::from(part[0])] += part.len() as u32;
            }
            at += run.len();
        }
    }

    /// How much speaks for an object being a track's, 0 to about 2; 0 if it can't be.
    fn gain(&self, track: &Track, seen: &Seen, at_ns: TimeNs, map: &LabelMap) -> f32 {
        let same_class = track.class == seen.class;
        let mut gain = 0.0;
        if let Some(number) = track.number {
            let shared = self.shared[256 * usize::from(number) + usize::from(seen.number)] as f32;
            let all = self.areas_before[usize::from(number)] as f32 + seen.area - shared;
            let overlap = if all > 0.0 { shared / all } else { 0.0 };
            // The larger part of an object that appears again, or of one that is being covered.
            let part = shared
                / seen
                    .area
                    .min(self.areas_before[usize::from(number)] as f32)
                    .max(1.0);
            if overlap >= LEAST_OVERLAP || same_class && part > 0.7 && seen.area < LARGEST * track.area {
                gain = 1.0 + overlap;
            }
            if !same_class && overlap < CLASS_MAY_CHANGE {
                return 0.0;
            }
        } else if !same_class {
            return 0.0;
        }
        if gain == 0.0 {
            if seen.area > LARGEST * track.area {
                return 0.0;
            }
            // Twice as far as it is wide, and further the longer it is away; less where its way is known.
            let passed = at_ns.saturating_sub(track.seen_ns) as f32 / PATIENCE_NS as f32;
            let side = track.area.sqrt();
            let reach = side * if track.has_moved { 1.0 + passed } else { 2.0 };
            let reach = reach.min(map.width.max(map.height) as f32 / 2.0);
            gain = 1.0 - self.distance(track, seen, at_ns) / reach.max(1.0);
            // What is seen of something covered is smaller than all of it.
            if gain > 0.0 {
                gain *= 0.7 + 0.3 * (seen.area / track.area).min(1.0);
            }
        }
        match same_class {
            true => gain.max(0.0),
            false => (gain - OTHER_CLASS).max(0.0),
        }
    }

    fn distance(&self, track: &Track, seen: &Seen, at_ns: TimeNs) -> f32 {
        let [x, y] = track.heading(at_ns);
        (seen.place[0] - x).hypot(seen.place[1] - y)
    }

    /// A round: the objects that are sure with all tracks, or the others with the tracks that are left.
    fn assign(&mut self, surely: bool, at_ns: TimeNs, map: &LabelMap) {
        self.rows.clear();
        let free = self
            .matched
            .iter()
            .enumerate()
            .filter(|(_, matched)| matched.is_none());
        self.rows.extend(free.map(|(row, _)| row));
        self.columns.clear();
        let left = self.seen.iter().enumerate();
        let left = left.filter(|(n, seen)| !self.taken[*n] && (seen.score >= self.sure) == surely);
        self.columns.extend(left.map(|(n, _)| n));
        let mut gains = std::mem::take(&mut self.gains);
        gains.clear();
        for &row in &self.rows {
            for &column in &self.columns {
                gains.push(self.gain(&self.tracks[row], &self.seen[column], at_ns, map));
            }
        }
        let columns = self.columns.len();
        let found = self.assignment.solve(self.rows.len(), columns, |row, column| {
            gains[row * columns + column]
        });
        for (&row, column) in self.rows.iter().zip(found) {
            if let Some(column) = column.map(|column| self.columns[column]) {
                self.matched[row] = Some(column);
                self.taken[column] = true;
            }
        }
        self.gains = gains;
    }

    /// Takes tracks on to what they were matched with, and gives up those that are gone.
    fn follow(&mut self, at_ns: TimeNs, map: &LabelMap) {
        let (seen, next_id) = (&self.seen, &mut self.next_id);
        let mut matched = self.matched.iter();
        self.tracks.retain_mut(|track| {
            let found = matched.next().copied().flatten().map(|n| seen[n]);
            let Some(found) = found else {
                track.number = None;
                let [x, y] = track.heading(at_ns);
                let inside = (0.0..map.width as f32).contains(&x) && (0.0..map.height as f32).contains(&y);
                // One without a number was a mistake.
                return track.id.is_some() && inside && at_ns.saturating_sub(track.seen_ns) <= PATIENCE_NS;
            };
            if track.id.is_none() {
                track.id = Some(*next_id);
                *next_id = next_id.saturating_add(1);
            }
            let passed = at_ns.saturating_sub(track.seen_ns) as f32;
            let heading = track.heading(at_ns);
            let is_whole = found.area >= WHOLE * track.area;
            if is_whole && passed > 0.0 {
                let fresh = [0, 1].map(|axis| (found.place[axis] - track.place[axis]) / passed);
                // One that comes back tells its mean velocity, which is as good as any.
                let weight = if track.has_moved { 0.5 } else { 1.0 };
                track.velocity =
                    [0, 1].map(|axis| track.velocity[axis] + weight * (fresh[axis] - track.velocity[axis]));
                track.has_moved = true;
            }
            track.place = match is_whole || !track.has_moved {
                true => found.place,
                // The middle of what can be seen is not its own: half of each.
                false => [0, 1].map(|axis| 0.5 * (heading[axis] + found.place[axis])),
            };
            track.area = match found.area >= track.area {
                true => found.area,
                false => {
                    let keeps = 0.1_f32.powf(passed / SHRINKS_NS);
                    found.area + (track.area - found.area) * keeps
                }
            };
            track.class = found.class;
            track.seen_ns = at_ns;
            track.number = Some(found.number);
            true
        });
    }

    /// Objects that nobody knows become tracks.
    fn begin(&mut self, at_ns: TimeNs) {
        for (seen, _) in self.seen.iter().zip(&self.taken).filter(|(_, taken)| !**taken) {
            if seen.score < self.sure {
                continue;
            }
            let at_once = self.updates == 0;
            let id = at_once.then_some(self.next_id);
            self.next_id = self.next_id.saturating_add(u32::from(at_once));
            self.tracks.push(Track {
                id,
                class: seen.class,
                area: seen.area,
                place: seen.place,
                velocity: [0.0; 2],
                has_moved: false,
                seen_ns: at_ns,
                number: Some(seen.number),
            });
        }
    }
}
