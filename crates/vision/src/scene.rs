//! What is in one picture: a number for each pixel, and what the numbers stand for.

use std::sync::{Arc, OnceLock};

use crate::frame::{LabelMap, TimeNs};
use crate::model::contract::{Class, Contract};

/// What the segments of a model's scenes are called.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// The model's name.
    pub name: String,
    /// Counts the models that have run, so that two of one name are told apart.
    pub generation: u64,
    /// The model's classes, which [`Segment::class`] counts.
    pub classes: Vec<Class>,
}

impl ModelInfo {
    /// What the scenes of a contract's model hold; `generation` counts the models that have run.
    pub fn of(contract: &Contract, generation: u64) -> Arc<Self> {
        Arc::new(Self {
            name: contract.name.clone(),
            generation,
            classes: contract.classes.clone(),
        })
    }
}

/// One part of a picture: all of a class, or one object.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Segment {
    /// Index into [`ModelInfo::classes`].
    pub class: u16,
    /// Which object of its class in this picture, for networks that tell objects apart.
    pub instance: Option<u32>,
    /// The object's number from picture to picture.
    pub track: Option<u32>,
    /// How sure the network is, 0 to 1; 1 if it does not say.
    pub score: f32,
    /// Too unsure to be shown, counted or followed; there so that its class can be hidden.
    pub doubtful: bool,
}

impl Segment {
    /// All pixels of a class.
    pub fn of_class(class: u16) -> Self {
        Self {
            class,
            instance: None,
            track: None,
            score: 1.0,
            doubtful: false,
        }
    }
}

/// A rectangle in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rect {
    /// First column.
    pub x: u32,
    /// First row.
    pub y: u32,
    /// Columns; 0 for nothing.
    pub width: u32,
    /// Rows; 0 for nothing.
    pub height: u32,
}

/// Where a segment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extent {
    /// The smallest rectangle that holds it.
    pub bbox: Rect,
    /// Its pixels.
    pub area: u32,
}

/// What is in one picture. Shared, and never changed once it is.
#[derive(Debug)]
pub struct Scene {
    /// When the picture was taken.
    pub captured_at_ns: TimeNs,
    /// The picture's number, as its source counts.
    pub sequence: u64,
    /// When the picture was taken that the network saw: the same, or an earlier one whose map was moved along.
    pub inferred_at_ns: TimeNs,
    /// What the segments are called.
    pub model: Arc<ModelInfo>,
    /// For each pixel an index into `segments`.
    pub map: Arc<LabelMap>,
    /// At most 256; segments that take no pixel are among them.
    pub segments: Vec<Segment>,
    extents: OnceLock<Vec<Extent>>,
}

impl Scene {
    /// A scene of a picture taken at `captured_at_ns`, whose map was inferred from one of `inferred_at_ns`.
    pub fn new(
        (captured_at_ns, sequence): (TimeNs, u64),
        inferred_at_ns: TimeNs,
        model: Arc<ModelInfo>,
        map: Arc<LabelMap>,
        segments: Vec<Segment>,
    ) -> Self {
        Self {
            captured_at_ns,
            sequence,
            inferred_at_ns,
            model,
            map,
            segments,
            extents: OnceLock::new(),
        }
    }

    /// Where each segment is, in their order; of no area for those that take no pixel. Computed when first asked for.
    pub fn extents(&self) -> &[Extent] {
        self.extents
            .get_or_init(|| extents(&self.map, self.segments.len()))
    }

    /// Age of the map when the picture was taken, in nanoseconds.
    pub fn map_age_ns(&self) -> u64 {
        self.captured_at_ns.saturating_sub(self.inferred_at_ns)
    }
}

/// Area and bounding box of each of `segments` numbers.
fn extents(map: &LabelMap, segments: usize) -> Vec<Extent> {
    let mut all = Vec::new();
    measure(map, segments, &mut all);
    all
}

/// Finds where each of `segments` numbers of a map is: `extents` gets as many, of no area for those that take no pixel.
pub fn measure(map: &LabelMap, segments: usize, extents: &mut Vec<Extent>) {
    /// First and last column, first and last row, pixels.
    #[derive(Clone, Copy)]
    struct Found {
        columns: (usize, usize),
        rows: (usize, usize),
        pixels: usize,
    }
    let mut found = [Found {
        columns: (usize::MAX, 0),
        rows: (usize::MAX, 0),
        pixels: 0,
    }; 256];
    for (y, row) in map.labels.chunks_exact(map.width.max(1)).enumerate() {
        let mut x = 0;
        for run in row.chunk_by(|a, b| a == b) {
            let found = &mut found[usize::from(run[0])];
            found.columns.0 = found.columns.0.min(x);
            x += run.len();
            found.columns.1 = found.columns.1.max(x);
            found.rows.0 = found.rows.0.min(y);
            found.rows.1 = y + 1;
            found.pixels += run.len();
        }
    }
    let whole = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    extents.clear();
    extents.extend(found.iter().take(segments).map(|found| match found.pixels {
        0 => Extent::default(),
        pixels => Extent {
            bbox: Rect {
                x: whole(found.columns.0),
                y: whole(found.rows.0),
                width: whole(found.columns.1 - found.columns.0),
                height: whole(found.rows.1 - found.rows.0),
            },
            area: whole(pixels),
        },
    }));
}

/// Whether segment `i` is class `i`, as in every semantic scene: tables by class serve as they are.
pub fn is_by_class(segments: &[Segment]) -> bool {
    segments
        .iter()
        .enumerate()
        .all(|(index, s)| usize::from(s.class) == index && s.instance.is_none() && !s.doubtful)
}

impl ModelInfo {
    /// Whether its scenes may hold objects that are worth following.
    pub fn has_things(&self) -> bool {
        self.classes.iter().any(|class| class.thing)
    }
}

/// Makes a map of segments one of classes: each pixel gets its segment's class, and 0 if it has none.
pub fn classes_of(map: &mut LabelMap, segments: &[Segment]) {
    let mut classes = [0; 256];
    for (class, segment) in classes.iter_mut().zip(segments) {
        *class = u8::try_from(segment.class).unwrap_or(0);
    }
    map.labels
        .iter_mut()
        .for_each(|label| *label = classes[usize::from(*label)]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn extents_are_those_of_a_pixel_by_pixel_count(
            (width, height) in (1..12_usize, 1..12_usize),
            labels in prop::collection::vec(0..4_u8, 144),
        ) {
            let map = LabelMap { width, height, labels: labels[..width * height].to_vec() };
            let found = extents(&map, 5);
            prop_assert_eq!(found.len(), 5);
            for (number, extent) in (0_u8..).zip(&found) {
                let pixels: Vec<(usize, usize)> = (0..width * height)
                    .filter(|&at| map.labels[at] == number)
                    .map(|at| (at % width, at / width))
                    .collect();
                prop_assert_eq!(extent.area as usize, pixels.len());
                let Some(left) = pixels.iter().map(|p| p.0).min() else {
                    prop_assert_eq!(*extent, Extent::default());
                    continue;
                };
                let right = pixels.iter().map(|p| p.0).max().unwrap();
                let (top, bottom) = (pixels[0].1, pixels[pixels.len() - 1].1);
                let expected = Rect {
                    x: left as u32,
                    y: top as u32,
                    width: (right - left + 1) as u32,
                    height: (bottom - top + 1) as u32,
                };
                prop_assert_eq!(extent.bbox, expected);
            }
        }
    }

    #[test]
    fn a_semantic_scene_is_by_class() {
        let mut segments: Vec<Segment> = (0..3).map(Segment::of_class).collect();
        assert!(is_by_class(&segments));
        segments[2].instance = Some(1);
        assert!(!is_by_class(&segments));
        segments[2] = Segment::of_class(1);
        assert!(!is_by_class(&segments));
        let mut map = LabelMap {
            width: 4,
            height: 1,
            labels: vec![0, 1, 2, 9],
        };
        classes_of(&mut map, &segments);
        assert_eq!(map.labels, [0, 1, 1, 0]);
    }
}
