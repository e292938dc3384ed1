//! What is in each zone of one picture: of each class its share of the area and its regions, and of each track whether it
//! is inside.
//!
//! The map is read once, as runs. Each zone is then the overlap of its spans with the runs, so that the cost is that of
//! the borders in the picture and not of its pixels.

use serde::{Deserialize, Serialize};

use super::geometry::{Point, Polygon, Raster};
use super::runs::{Body, Runs};
use vision::frame::LabelMap;
use vision::scene::{Rect, Segment};

/// What of a track must be in a zone for the track to be inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Inside {
    /// The lowest tenth of its mask: where a person stands, where a car's wheels are.
    #[default]
    Footing,
    /// The middle of its mask.
    Centroid,
    /// The mask as a whole.
    Overlap,
}

impl Inside {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Footing => "footing",
            Self::Centroid => "centroid",
            Self::Overlap => "overlap",
        }
    }
}

/// What of a zone is measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Where it is.
    pub polygon: Polygon,
    /// The classes that are looked for, by their index in the model.
    pub classes: Vec<u16>,
    /// A region has at least this many pixels, as a share of the picture.
    pub min_region: f64,
    /// When a track is inside.
    pub inside: Inside,
}

/// What of a class is in a zone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassCount {
    /// Index of the class.
    pub class: u16,
    /// Its share of the zone, 0 to 1.
    pub area: f64,
    /// Its connected regions of the least size; where the network tells objects apart, no region holds two.
    pub regions: u32,
    /// Of what of it is in the zone, in pixels.
    pub bbox: Rect,
    /// The highest score of its segments that are in the zone; 0 without any.
    pub score: f32,
}

/// What of a track is in a zone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrackCount {
    /// The track's number.
    pub track: u32,
    /// Index of its class.
    pub class: u16,
    /// How much of what [`Inside`] asks for is in the zone, 0 to 1.
    pub inside: f64,
    /// Its share of the zone, 0 to 1.
    pub area: f64,
    /// Of the whole track, in pixels.
    pub bbox: Rect,
    /// How sure the network is.
    pub score: f32,
}

/// What is in a zone.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ZoneCount {
    /// For each class that is looked for, in that order.
    pub classes: Vec<ClassCount>,
    /// The tracks of these classes that have pixels in the picture.
    pub tracks: Vec<TrackCount>,
}

/// A track in the picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrackSeen {
    /// The track's number.
    pub track: u32,
    /// Index of its class.
    pub class: u16,
    /// The middle of the lowest tenth of its mask.
    pub footing: Point,
    /// Its share of the picture, 0 to 1.
    pub area: f64,
    /// In pixels.
    pub bbox: Rect,
    /// How sure the network is.
    pub score: f32,
}

/// Measures maps of one size. Allocates nothing while maps are no more ragged than before.
#[derive(Debug)]
pub struct Meter {
    width: usize,
    height: usize,
    zones: Vec<Zone>,
    runs: Runs,
    /// Of each number: its footing and the first row of it, which lies below the picture for what is no track.
    footings: Vec<(u32, Body)>,
    tracks: Vec<TrackSeen>,
    counts: Vec<ZoneCount>,
    scratch: Scratch,
}

/// A zone in pictures of one size.
#[derive(Debug)]
struct Zone {
    raster: Raster,
    classes: Vec<u16>,
    least_pixels: u32,
    inside: Inside,
}

/// Class that is not looked for.
const NO_SLOT: u16 = u16::MAX;

/// What is kept of one zone while it is measured.
#[derive(Debug, Default)]
struct Scratch {
    /// Which of the zone's classes a number belongs to.
    slots: Vec<u16>,
    /// Pixels with the same key that touch are one region.
    keys: Vec<u16>,
    /// Of each number: pixels in the zone, and of them those of the footing.
    pixels: Vec<(u32, u32)>,
    bodies: Vec<Body>,
    before: Vec<Piece>,
    now: Vec<Piece>,
    regions: Vec<Region>,
}

/// Pixels of a row, side by side, that belong to one region.
#[derive(Debug, Clone, Copy)]
struct Piece {
    from: u32,
    end: u32,
    key: u16,
    slot: u16,
    region: usize,
}

/// A part of a region: what is joined has one root, which is its own parent.
#[derive(Debug, Clone, Copy)]
struct Region {
    parent: usize,
    pixels: u32,
    slot: u16,
}

impl Meter {
    /// For maps of this size.
    pub fn new(zones: &[Measured], width: usize, height: usize) -> Self {
        let zone = |zone: &Measured| Zone {
            raster: zone.polygon.raster(width, height),
            classes: zone.classes.clone(),
            least_pixels: (zone.min_region * (width * height) as f64).ceil().max(1.0) as u32,
            inside: zone.inside,
        };
        Self {
            width,
            height,
            zones: zones.iter().map(zone).collect(),
            runs: Runs::default(),
            footings: Vec::new(),
            tracks: Vec::new(),
            counts: vec![ZoneCount::default(); zones.len()],
            scratch: Scratch::default(),
        }
    }

    /// Whether this is made for maps of that size.
    pub fn is_for(&self, map: &LabelMap) -> bool {
        (self.width, self.height) == (map.width, map.height)
    }

    /// Measures a map whose numbers stand for `segments`; numbers past them stand for nothing, and what is doubtful is not
    /// counted.
    ///
    /// # Panics
    /// If the map has another size.
    pub fn measure(&mut self, map: &LabelMap, segments: &[Segment]) {
        assert!(self.is_for(map), "a map of another size");
        self.runs.read(map);
        self.find_tracks(segments);
        let Self {
            zones,
            runs,
            footings,
            counts,
            scratch,
            ..
        } = self;
        for (zone, count) in zones.iter().zip(counts) {
            scratch.measure(zone, runs, footings, segments);
            scratch.count(zone, runs, footings, segments, count);
        }
    }

    /// What was found in each zone, in their order.
    pub fn zones(&self) -> &[ZoneCount] {
        &self.counts
    }

    /// The tracks in the picture.
    pub fn tracks(&self) -> &[TrackSeen] {
        &self.tracks
    }

    fn find_tracks(&mut self, segments: &[Segment]) {
        self.tracks.clear();
        self.footings.clear();
        self.footings.resize(256, (u32::MAX, Body::default()));
        let tracked = || {
            (0..=u8::MAX)
                .zip(segments)
                .filter(|(_, s)| s.track.is_some() && !s.doubtful)
        };
        let (mut first, mut any) = (u32::MAX, false);
        for (number, _) in tracked() {
            let body = self.runs.body(number);
            if body.pixels() > 0 {
                self.footings[usize::from(number)].0 = body.footing_row();
                first = first.min(body.footing_row());
                any = true;
            }
        }
        if !any {
            return;
        }
        for y in first..self.height as u32 {
            let mut from = 0;
            for run in self.runs.row(y as usize) {
                let (top, footing) = &mut self.footings[usize::from(run.number)];
                if y >= *top {
                    footing.add(y, from, run.end);
                }
                from = run.end;
            }
        }
        for (number, segment) in tracked() {
            let body = self.runs.body(number);
            let (_, footing) = &self.footings[usize::from(number)];
            if let (Some(track), Some([x, y])) = (segment.track, footing.middle()) {
                self.tracks.push(TrackSeen {
                    track,
                    class: segment.class,
                    footing: [x / self.width as f64, y / self.height as f64],
                    area: f64::from(body.pixels()) / (self.width * self.height) as f64,
                    bbox: body.bbox(),
                    score: segment.score,
                });
            }
        }
    }
}

impl Scratch {
    /// Overlaps a zone's spans with the runs.
    fn measure(&mut self, zone: &Zone, runs: &Runs, footings: &[(u32, Body)], segments: &[Segment]) {
        self.slots.clear();
        self.slots.resize(256, NO_SLOT);
        self.keys.clear();
        self.keys.resize(256, 0);
        for (number, segment) in segments.iter().enumerate().take(256) {
            let classes = &mut zone.classes.iter().filter(|_| !segment.doubtful);
            let slot = classes.position(|class| *class == segment.class);
            self.slots[number] = slot.map_or(NO_SLOT, |slot| slot as u16);
            self.keys[number] = match segment.instance {
                Some(_) => number as u16,
                None => 256 + self.slots[number].min(256),
            };
        }
        self.pixels.clear();
        self.pixels.resize(256, (0, 0));
        self.bodies.clear();
        self.bodies.resize(zone.classes.len(), Body::default());
        self.regions.clear();
        self.before.clear();
        for (y, spans) in zone.raster.rows() {
            self.now.clear();
            let mut row = runs.row(y).iter().peekable();
            let mut run_from = 0;
            for &(from, end) in spans {
                while let Some(run) = row.peek() {
                    let (left, right) = (run_from.max(from), run.end.min(end));
                    if left < right {
                        let number = usize::from(run.number);
                        let pixels = &mut self.pixels[number];
                        pixels.0 += right - left;
                        if y as u32 >= footings[number].0 {
                            pixels.1 += right - left;
                        }
                        let slot = self.slots[number];
                        if slot != NO_SLOT {
                            self.bodies[usize::from(slot)].add(y as u32, left, right);
                            self.add_piece(left, right, self.keys[number], slot);
                        }
                    }
                    // The next span may begin in the same run.
                    if run.end > end {
                        break;
                    }
                    run_from = run.end;
                    row.next();
                }
            }
            self.join_rows();
            std::mem::swap(&mut self.before, &mut self.now);
        }
    }

    fn add_piece(&mut self, from: u32, end: u32, key: u16, slot: u16) {
        if let Some(last) = self.now.last_mut()
            && (last.end, last.key) == (from, key)
        {
            last.end = end;
            return;
        }
        self.now.push(Piece {
            from,
            end,
            key,
            slot,
            region: usize::MAX,
        });
    }

    /// Gives the pieces of a row their regions: those of the row before that they touch, corners included.
    fn join_rows(&mut self) {
        let mut first = 0;
        for piece in &mut self.now {
            while self.before.get(first).is_some_and(|above| above.end < piece.from) {
                first += 1;
            }
            let above = self.before[first..].iter();
            let touching = above.take_while(|above| above.from <= piece.end);
            for above in touching.filter(|above| above.key == piece.key) {
                let root = root(&mut self.regions, above.region);
                match piece.region {
                    usize::MAX => piece.region = root,
                    own => {
                        let own = self::root(&mut self.regions, own);
                        self.regions[root.max(own)].parent = root.min(own);
                    }
                }
            }
            if piece.region == usize::MAX {
                piece.region = self.regions.len();
                self.regions.push(Region {
                    parent: piece.region,
                    pixels: 0,
                    slot: piece.slot,
                });
            }
            self.regions[piece.region].pixels += piece.end - piece.from;
        }
    }

    /// Sums up what was measured.
    fn count(
        &mut self,
        zone: &Zone,
        runs: &Runs,
        footings: &[(u32, Body)],
        segments: &[Segment],
        count: &mut ZoneCount,
    ) {
        let share = |pixels: u32| match zone.raster.pixels() {
            0 => 0.0,
            all => f64::from(pixels) / f64::from(all),
        };
        count.classes.clear();
        let classes = zone.classes.iter().zip(&self.bodies);
        count.classes.extend(classes.map(|(class, body)| ClassCount {
            class: *class,
            area: share(body.pixels()),
            regions: 0,
            bbox: body.bbox(),
            score: 0.0,
        }));
        // A root comes before all that were joined to it.
        for index in (0..self.regions.len()).rev() {
            let Region { parent, pixels, slot } = self.regions[index];
            if parent != index {
                self.regions[parent].pixels += pixels;
            } else if pixels >= zone.least_pixels {
                count.classes[usize::from(slot)].regions += 1;
            }
        }
        count.tracks.clear();
        for (number, segment) in (0..=u8::MAX).zip(segments) {
            let slot = self.slots[usize::from(number)];
            let (pixels, of_footing) = self.pixels[usize::from(number)];
            if slot == NO_SLOT {
                continue;
            }
            if pixels > 0 {
                let score = &mut count.classes[usize::from(slot)].score;
                *score = score.max(segment.score);
            }
            let body = runs.body(number);
            let (Some(track), Some([x, y])) = (segment.track, body.middle()) else {
                continue;
            };
            let footing = footings[usize::from(number)].1.pixels();
            count.tracks.push(TrackCount {
                track,
                class: segment.class,
                inside: match zone.inside {
                    Inside::Footing => f64::from(of_footing) / f64::from(footing.max(1)),
                    Inside::Centroid => f64::from(u8::from(zone.raster.contains(x as u32, y as u32))),
                    Inside::Overlap => f64::from(pixels) / f64::from(body.pixels()),
                },
                area: share(pixels),
                bbox: body.bbox(),
                score: segment.score,
            });
        }
    }
}

/// The root of a region; the way to it gets shorter.
fn root(regions: &mut [Region], mut at: usize) -> usize {
    while regions[at].parent != at {
        let above = regions[regions[at].parent].parent;
        regions[at].parent = above;
        at = above;
    }
    at
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::events::geometry::tests::star;

    /// One segment in the slow way: whether a pixel is of it, in the zone, in its footing.
    struct Slow<'a> {
        map: &'a LabelMap,
        zone: &'a Measured,
    }

    impl Slow<'_> {
        fn pixels(&self) -> impl Iterator<Item = (usize, usize)> {
            let width = self.map.width;
            (0..width * self.map.height).map(move |at| (at % width, at / width))
        }

        fn is_inside(&self, (x, y): (usize, usize)) -> bool {
            let centre = |index: usize, length: usize| (index as f64 + 0.5) / length as f64;
            self.zone
                .polygon
                .contains([centre(x, self.map.width), centre(y, self.map.height)])
        }

        fn number(&self, (x, y): (usize, usize)) -> usize {
            usize::from(self.map.labels[y * self.map.width + x])
        }

        /// Sizes of the connected regions of pixels with the same key, flooded one by one.
        fn regions(&self, key: impl Fn((usize, usize)) -> Option<usize>) -> Vec<usize> {
            let mut seen = vec![false; self.map.labels.len()];
            let mut sizes = Vec::new();
            for start in self.pixels() {
                let Some(own) = key(start).filter(|_| !seen[start.1 * self.map.width + start.0]) else {
                    continue;
                };
                seen[start.1 * self.map.width + start.0] = true;
                let mut open = vec![start];
                let mut size = 0;
                while let Some((x, y)) = open.pop() {
                    size += 1;
                    for ny in y.saturating_sub(1)..(y + 2).min(self.map.height) {
                        for nx in x.saturating_sub(1)..(x + 2).min(self.map.width) {
                            let seen = &mut seen[ny * self.map.width + nx];
                            if !*seen && key((nx, ny)) == Some(own) {
                                *seen = true;
                                open.push((nx, ny));
                            }
                        }
                    }
                }
                sizes.push(size);
            }
            sizes
        }
    }

    fn segments(kind: &[u8]) -> Vec<Segment> {
        let one = |(number, kind): (usize, &u8)| Segment {
            instance: (kind / 3 > 0).then_some(number as u32),
            track: (kind / 3 > 1).then_some(100 + number as u32),
            score: f32::from(*kind) / 10.0,
            doubtful: *kind == 8,
            ..Segment::of_class(u16::from(kind % 3))
        };
        kind.iter().enumerate().map(one).collect()
    }

    proptest! {
        #[test]
        fn a_zone_has_what_a_pixel_by_pixel_count_finds(
            (width, height) in (1..24_usize, 1..24_usize),
            spots in prop::collection::vec((0..6_u8, 0..24_usize, 0..24_usize, 1..12_usize, 1..12_usize), 0..14),
            kinds in prop::collection::vec(0..9_u8, 5),
            polygon in star(),
            inside in prop_oneof![Just(Inside::Footing), Just(Inside::Centroid), Just(Inside::Overlap)],
            least in 1..5_u32,
        ) {
            let mut map = LabelMap::zeros(width, height);
            for (number, x, y, w, h) in &spots {
                for y in *y..(y + h).min(height) {
                    for x in *x..(x + w).min(width) {
                        map.labels[y * width + x] = *number;
                    }
                }
            }
            let segments = segments(&kinds);
            let zone = Measured {
                polygon,
                classes: vec![2, 0],
                min_region: (f64::from(least) - 0.5) / (width * height) as f64,
                inside,
            };
            let mut meter = Meter::new(std::slice::from_ref(&zone), width, height);
            // What was measured before leaves nothing behind.
            meter.measure(&LabelMap { width, height, labels: vec![1; width * height] }, &segments);
            meter.measure(&map, &segments);
            let slow = Slow { map: &map, zone: &zone };
            let all = slow.pixels().filter(|p| slow.is_inside(*p)).count();
            let share = |count: usize| if all == 0 { 0.0 } else { count as f64 / all as f64 };
            let found = &meter.zones()[0];
            prop_assert_eq!(found.classes.len(), 2);
            for (count, class) in found.classes.iter().zip([2_u16, 0]) {
                let is_class = |p| segments.get(slow.number(p)).is_some_and(|s| s.class == class && !s.doubtful);
                let here: Vec<_> = slow.pixels().filter(|p| slow.is_inside(*p) && is_class(*p)).collect();
                prop_assert_eq!(count.class, class);
                prop_assert_eq!(count.area, share(here.len()));
                let key = |p| {
                    let number = slow.number(p);
                    let segment = segments.get(number).filter(|_| slow.is_inside(p) && is_class(p))?;
                    Some(if segment.instance.is_some() { number } else { 99 })
                };
                let sizes = slow.regions(key);
                prop_assert_eq!(count.regions as usize, sizes.iter().filter(|s| **s >= least as usize).count());
                let score = here.iter().map(|p| segments[slow.number(*p)].score).fold(0.0, f32::max);
                prop_assert_eq!(count.score, score);
                let left = here.iter().map(|p| p.0).min().unwrap_or(0);
                prop_assert_eq!(count.bbox.x as usize, left);
                let right = here.iter().map(|p| p.0 + 1).max().unwrap_or(0);
                prop_assert_eq!(count.bbox.width as usize, right - left);
            }
            let is_seen = |n: usize| slow.pixels().any(|p| slow.number(p) == n);
            let tracked: Vec<usize> = (0..segments.len())
                .filter(|&n| segments[n].track.is_some() && !segments[n].doubtful && is_seen(n))
                .collect();
            prop_assert_eq!(meter.tracks().len(), tracked.len());
            for (&number, seen) in tracked.iter().zip(meter.tracks()) {
                let body: Vec<_> = slow.pixels().filter(|p| slow.number(*p) == number).collect();
                let (top, bottom) = (body[0].1, body[body.len() - 1].1);
                let rows = (bottom - top + 1).div_ceil(10);
                let footing: Vec<_> = body.iter().copied().filter(|p| p.1 + rows > bottom).collect();
                let mean = |pixels: &[(usize, usize)], of: fn(&(usize, usize)) -> usize| {
                    pixels.iter().map(|p| of(p) as f64 + 0.5).sum::<f64>() / pixels.len() as f64
                };
                prop_assert!((seen.footing[0] * width as f64 - mean(&footing, |p| p.0)).abs() < 1e-6);
                prop_assert!((seen.footing[1] * height as f64 - mean(&footing, |p| p.1)).abs() < 1e-6);
                let in_zone = found.tracks.iter().find(|t| Some(t.track) == segments[number].track);
                let looked_for = zone.classes.contains(&segments[number].class);
                prop_assert_eq!(in_zone.is_some(), looked_for);
                if let Some(track) = in_zone {
                    let share_of = |pixels: &[(usize, usize)]| {
                        pixels.iter().filter(|p| slow.is_inside(**p)).count() as f64 / pixels.len() as f64
                    };
                    let expected = match inside {
                        Inside::Footing => share_of(&footing),
                        Inside::Overlap => share_of(&body),
                        Inside::Centroid => {
                            let middle = (mean(&body, |p| p.0) as usize, mean(&body, |p| p.1) as usize);
                            f64::from(u8::from(slow.is_inside(middle)))
                        }
                    };
                    prop_assert_eq!(track.inside, expected);
                    let here = body.iter().filter(|p| slow.is_inside(**p)).count();
                    prop_assert_eq!(track.area, share(here));
                }
            }
        }
    }

    #[test]
    fn feet_count_and_not_the_box() {
        // A person of 2x20 pixels above a lawn that is the lower quarter of the picture; then one step further down.
        let lawn = Measured {
            polygon: Polygon::new(vec![[0.0, 0.75], [1.0, 0.75], [1.0, 1.0], [0.0, 1.0]]).unwrap(),
            classes: vec![1],
            min_region: 0.0,
            inside: Inside::Footing,
        };
        let person = Segment {
            instance: Some(0),
            track: Some(7),
            ..Segment::of_class(1)
        };
        let segments = [Segment::of_class(0), person];
        let inside = |top: usize| {
            let mut map = LabelMap::zeros(40, 40);
            for y in top..top + 20 {
                map.labels[y * 40 + 10..][..2].fill(1);
            }
            let mut meter = Meter::new(std::slice::from_ref(&lawn), 40, 40);
            meter.measure(&map, &segments);
            meter.zones()[0].tracks[0].inside
        };
        assert_eq!([inside(10), inside(11), inside(12)], [0.0, 0.5, 1.0]);
    }
}
