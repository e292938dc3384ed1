//! A map as runs of equal numbers, and what each number takes of the picture. Measured once a frame, for all zones.

use vision::frame::{LabelMap, run_end};
use vision::scene::Rect;

/// Pixels of a row, side by side, with one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// The column after its last.
    pub end: u32,
    /// The pixels' number.
    pub number: u8,
}

/// What a number takes of the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Body {
    left: u32,
    right: u32,
    top: u32,
    bottom: u32,
    pixels: u32,
    /// Sums of the pixels' columns and rows.
    sums: (u64, u64),
}

impl Body {
    const NOTHING: Self = Self {
        left: u32::MAX,
        right: 0,
        top: u32::MAX,
        bottom: 0,
        pixels: 0,
        sums: (0, 0),
    };

    /// Adds the pixels of row `y` from column `from` to before `end`.
    pub fn add(&mut self, y: u32, from: u32, end: u32) {
        let count = end - from;
        self.left = self.left.min(from);
        self.right = self.right.max(end);
        self.top = self.top.min(y);
        self.bottom = self.bottom.max(y + 1);
        self.pixels += count;
        self.sums.0 += u64::from(from + end - 1) * u64::from(count) / 2;
        self.sums.1 += u64::from(y) * u64::from(count);
    }

    /// How many pixels.
    pub fn pixels(&self) -> u32 {
        self.pixels
    }

    /// The smallest rectangle that holds it; of no size for nothing.
    pub fn bbox(&self) -> Rect {
        match self.pixels {
            0 => Rect::default(),
            _ => Rect {
                x: self.left,
                y: self.top,
                width: self.right - self.left,
                height: self.bottom - self.top,
            },
        }
    }

    /// The mean of its pixels' centres, in pixels; `None` for nothing.
    pub fn middle(&self) -> Option<[f64; 2]> {
        let count = f64::from(self.pixels);
        let mean = |sum: u64| sum as f64 / count + 0.5;
        (self.pixels > 0).then(|| [mean(self.sums.0), mean(self.sums.1)])
    }

    /// The first row of its lowest tenth, which has at least one row.
    pub fn footing_row(&self) -> u32 {
        let height = self.bottom.saturating_sub(self.top);
        self.bottom.saturating_sub(height.div_ceil(10))
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::NOTHING
    }
}

/// The runs of a map, row by row. Allocates nothing while maps are no more ragged than before.
#[derive(Debug, Default)]
pub(super) struct Runs {
    /// Where each row begins, and after the last one the end.
    rows: Vec<usize>,
    runs: Vec<Run>,
    bodies: Vec<Body>,
}

impl Runs {
    /// Reads a map.
    pub fn read(&mut self, map: &LabelMap) {
        self.rows.clear();
        self.runs.clear();
        self.bodies.clear();
        self.bodies.resize(256, Body::NOTHING);
        self.rows.push(0);
        for (y, row) in (0..).zip(map.labels.chunks_exact(map.width.max(1))) {
            let mut from = 0;
            while let Some(&number) = row.get(from) {
                let end = run_end(row, from, number);
                self.runs.push(Run {
                    end: end as u32,
                    number,
                });
                self.bodies[usize::from(number)].add(y, from as u32, end as u32);
                from = end;
            }
            self.rows.push(self.runs.len());
        }
    }

    /// The runs of row `y`; none below the picture.
    pub fn row(&self, y: usize) -> &[Run] {
        match self.rows.get(y..y + 2) {
            Some(ends) => &self.runs[ends[0]..ends[1]],
            None => &[],
        }
    }

    /// What a number takes of the picture.
    pub fn body(&self, number: u8) -> &Body {
        &self.bodies[usize::from(number)]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_are_those_of_a_pixel_by_pixel_walk(
            width in 1..50_usize, height in 1..6_usize,
            pieces in prop::collection::vec((0..4_u8, 1..20_usize), 1..80),
        ) {
            let labels = pieces.iter().flat_map(|(number, count)| std::iter::repeat_n(*number, *count));
            let labels: Vec<u8> = labels.cycle().take(width * height).collect();
            let map = LabelMap { width, height, labels };
            let mut runs = Runs::default();
            runs.read(&LabelMap::zeros(3, 3));
            runs.read(&map);
            for (y, row) in map.labels.chunks_exact(width).enumerate() {
                let mut x = 0;
                for run in row.chunk_by(|a, b| a == b) {
                    x += run.len();
                    let found = runs.row(y).iter().find(|r| r.end == x as u32);
                    prop_assert_eq!(found.map(|r| r.number), Some(run[0]));
                }
                prop_assert_eq!(runs.row(y).len(), row.chunk_by(|a, b| a == b).count());
            }
            for number in 0..5_u8 {
                let pixels: Vec<(usize, usize)> = (0..width * height)
                    .filter(|&at| map.labels[at] == number)
                    .map(|at| (at % width, at / width))
                    .collect();
                let body = runs.body(number);
                prop_assert_eq!(body.pixels() as usize, pixels.len());
                let Some(&(_, top)) = pixels.first() else {
                    prop_assert_eq!((body.bbox(), body.middle()), (Rect::default(), None));
                    continue;
                };
                let left = pixels.iter().map(|p| p.0).min().unwrap();
                let right = pixels.iter().map(|p| p.0).max().unwrap();
                let bottom = pixels.iter().map(|p| p.1).max().unwrap();
                let size = (right - left + 1, bottom - top + 1);
                let bbox = body.bbox();
                prop_assert_eq!((bbox.x as usize, bbox.y as usize), (left, top));
                prop_assert_eq!((bbox.width as usize, bbox.height as usize), size);
                let mean = |of: fn(&(usize, usize)) -> usize| {
                    pixels.iter().map(|p| of(p) as f64 + 0.5).sum::<f64>() / pixels.len() as f64
                };
                let [x, y] = body.middle().unwrap();
                prop_assert!((x - mean(|p| p.0)).abs() < 1e-9 && (y - mean(|p| p.1)).abs() < 1e-9);
                prop_assert_eq!(body.footing_row() as usize, bottom + 1 - size.1.div_ceil(10));
            }
        }
    }
}
