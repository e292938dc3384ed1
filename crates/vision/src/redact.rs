//! Hides classes in a painted picture: pure, in place, in cells.
//!
//! The picture is divided into square cells. A cell that holds one pixel of a class to be hidden is hidden
//! whole, and so are the cells within the margin around it: what is left of a hidden thing is at most one mean
//! colour a cell (`pixelate`, `blur`) or nothing (`fill`).

use serde::Deserialize;

use crate::frame::{FrameFormat, LabelMap, PixelFormat};
use crate::scene::{Segment, is_by_class};

/// How a class is hidden. If two meet in a cell, the later one in this list wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// One colour a cell, running smoothly from cell to cell.
    Blur,
    /// One colour a cell.
    Pixelate,
    /// Flat grey.
    Fill,
}

/// What is hidden, and how far around it.
#[derive(Debug, Clone, PartialEq)]
pub struct RedactOptions {
    /// For each label how it is hidden, `None` for what may be seen.
    pub how: Vec<Option<How>>,
    /// Pixels around a hidden class, as a share of the picture's height; rounded up to whole cells.
    pub margin: f32,
}

/// Samples of hidden areas that are filled.
const GREY: [u8; 3] = [96, 128, 128];

/// A cell's side in pixels, even: a 24th of the picture's height, at least 16.
pub fn cell_side(height: usize) -> usize {
    (height / 24).max(16).next_multiple_of(2)
}

/// One plane of a picture that is changed in place.
struct PlaneMut<'a> {
    data: &'a mut [u8],
    stride: usize,
    /// First column of the picture in the plane.
    left: usize,
    width: usize,
    height: usize,
    /// A cell's side in this plane's samples.
    side: usize,
}

/// Hides classes in pictures of one size. Allocates nothing after it is made.
#[derive(Debug)]
pub struct Redactor {
    width: usize,
    height: usize,
    side: usize,
    columns: usize,
    rows: usize,
    /// Cells of margin.
    margin: usize,
    /// 0 for what may be seen, else 1 + [`How`].
    level: [u8; 256],
    marks: Vec<u8>,
    scratch: Vec<u8>,
    means: Vec<u8>,
}

impl Redactor {
    /// For pictures and masks of `width` x `height` pixels. Labels beyond the options' list are not hidden.
    pub fn new(width: usize, height: usize, options: &RedactOptions) -> Self {
        let side = cell_side(height);
        let (columns, rows) = (width.div_ceil(side), height.div_ceil(side));
        let mut level = [0; 256];
        for (level, how) in level.iter_mut().zip(&options.how) {
            *level = how.map_or(0, |how| how as u8 + 1);
        }
        let pixels = (f64::from(options.margin.clamp(0.0, 1.0)) * height as f64).ceil() as usize;
        Self {
            width,
            height,
            side,
            columns,
            rows,
            margin: pixels.div_ceil(side),
            level,
            marks: vec![0; columns * rows],
            scratch: vec![0; columns * rows],
            means: vec![0; columns * rows],
        }
    }

    /// Finds the cells to hide. False if there is none.
    ///
    /// # Panics
    /// If the mask has another size.
    pub fn look_at(&mut self, mask: &LabelMap) -> bool {
        self.look_at_segments(mask, &[])
    }

    /// As [`look_at`](Self::look_at) for a map whose numbers stand for `segments`; for classes, if there are none. A
    /// number without a segment is hidden as the strictest class is.
    ///
    /// # Panics
    /// If the mask has another size.
    pub fn look_at_segments(&mut self, mask: &LabelMap, segments: &[Segment]) -> bool {
        let mut levels = self.level;
        if !is_by_class(segments) {
            let strictest = self.level.iter().copied().max().unwrap_or(0);
            for (number, level) in levels.iter_mut().enumerate() {
                *level = segments
                    .get(number)
                    .map_or(strictest, |s| self.level[usize::from(s.class).min(255)]);
            }
        }
        assert_eq!(
            (mask.width, mask.height),
            (self.width, self.height),
            "a mask of another size"
        );
        self.marks.fill(0);
        for (y, row) in mask.labels.chunks_exact(self.width).enumerate() {
            let marks = &mut self.marks[y / self.side * self.columns..][..self.columns];
            for (mark, labels) in marks.iter_mut().zip(row.chunks(self.side)) {
                *mark = labels
                    .iter()
                    .fold(*mark, |most, &label| most.max(levels[usize::from(label)]));
            }
        }
        self.spread();
        self.marks.iter().any(|&m| m > 0)
    }

    /// Widens the marks by the margin, along rows and then along columns.
    fn spread(&mut self) {
        if self.margin == 0 {
            return;
        }
        let (columns, rows, margin) = (self.columns, self.rows, self.margin);
        for y in 0..rows {
            let row = &self.marks[y * columns..(y + 1) * columns];
            for x in 0..columns {
                let near = &row[x.saturating_sub(margin)..(x + margin + 1).min(columns)];
                self.scratch[y * columns + x] = near.iter().copied().max().unwrap_or(0);
            }
        }
        for y in 0..rows {
            for x in 0..columns {
                let near = y.saturating_sub(margin)..(y + margin + 1).min(rows);
                self.marks[y * columns + x] = near.map(|y| self.scratch[y * columns + x]).max().unwrap_or(0);
            }
        }
    }

    /// Hides the cells found last in the picture that stands at column `left` (even) of `out`, an I420 picture
    /// of `format` without padding.
    ///
    /// # Panics
    /// If `format` is not I420, lower than the mask, or `out` is too short.
    pub fn hide(&mut self, format: FrameFormat, left: usize, out: &mut [u8]) {
        assert_eq!(format.pixel, PixelFormat::I420, "painted pictures are I420");
        let mut at = 0;
        for (plane, grey) in GREY.into_iter().enumerate() {
            let size = PixelFormat::I420.plane_size(plane, format.width, format.height);
            let half = if plane == 0 { 1 } else { 2 };
            let data = &mut out[at..at + size.row_bytes * size.rows];
            at += size.row_bytes * size.rows;
            let mut view = PlaneMut {
                data,
                stride: size.row_bytes,
                left: left / half,
                width: self.width.div_ceil(half),
                height: self.height.div_ceil(half),
                side: self.side / half,
            };
            self.hide_plane(&mut view, grey);
        }
    }

    fn hide_plane(&mut self, plane: &mut PlaneMut<'_>, grey: u8) {
        for y in 0..self.rows {
            for x in 0..self.columns {
                let cell = y * self.columns + x;
                self.means[cell] = match self.marks[cell] {
                    0 => 0,
                    3 => grey,
                    _ => plane.mean(x, y),
                };
            }
        }
        for y in 0..self.rows {
            for x in 0..self.columns {
                match self.marks[y * self.columns + x] {
                    0 => {}
                    1 => self.smooth(plane, x, y),
                    _ => {
                        let mean = self.means[y * self.columns + x];
                        plane.cell_rows(x, y).for_each(|(_, row)| row.fill(mean));
                    }
                }
            }
        }
    }

    /// Fills cell `x`, `y` with the means around it, interpolated. Cells that aren't hidden lend no colour.
    fn smooth(&self, plane: &mut PlaneMut<'_>, x: usize, y: usize) {
        let own = i32::from(self.means[y * self.columns + x]);
        let mean = |dx: isize, dy: isize| -> i32 {
            let (cx, cy) = (x.checked_add_signed(dx), y.checked_add_signed(dy));
            match (cx, cy) {
                (Some(cx), Some(cy)) if cx < self.columns && cy < self.rows => {
                    let cell = cy * self.columns + cx;
                    if self.marks[cell] == 0 {
                        own
                    } else {
                        i32::from(self.means[cell])
                    }
                }
                _ => own,
            }
        };
        let near: [[i32; 3]; 3] =
            std::array::from_fn(|dy| std::array::from_fn(|dx| mean(dx as isize - 1, dy as isize - 1)));
        let side = plane.side as i32;
        // Twice the distance from the cell's middle, so that it stays whole; the neighbour lies at 2 * side.
        let weigh = |at: i32| {
            let from_middle = 2 * at + 1 - side;
            let neighbour = if from_middle < 0 { 0 } else { 2 };
            (neighbour, from_middle.abs())
        };
        for (dy, row) in plane.cell_rows(x, y) {
            let (ny, wy) = weigh(dy as i32);
            for (dx, sample) in row.iter_mut().enumerate() {
                let (nx, wx) = weigh(dx as i32);
                let full = 2 * side;
                let upper = near[1][1] * (full - wx) + near[1][nx] * wx;
                let lower = near[ny][1] * (full - wx) + near[ny][nx] * wx;
                let value = (upper * (full - wy) + lower * wy + full * full / 2) / (full * full);
                *sample = value.clamp(0, 255) as u8;
            }
        }
    }
}

impl PlaneMut<'_> {
    /// The rows of a cell, numbered from its first.
    fn cell_rows(&mut self, x: usize, y: usize) -> impl Iterator<Item = (usize, &mut [u8])> {
        let columns = self.left + x * self.side..self.left + self.width.min((x + 1) * self.side);
        let count = self.height.min((y + 1) * self.side) - y * self.side;
        self.data
            .chunks_exact_mut(self.stride)
            .skip(y * self.side)
            .take(count)
            .map(move |row| &mut row[columns.clone()])
            .enumerate()
    }

    fn mean(&mut self, x: usize, y: usize) -> u8 {
        let (mut sum, mut count) = (0u64, 0u64);
        for (_, row) in self.cell_rows(x, y) {
            sum += row.iter().map(|&v| u64::from(v)).sum::<u64>();
            count += row.len() as u64;
        }
        // A mean of bytes is a byte.
        ((sum + count / 2) / count.max(1)) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn i420(width: usize, height: usize) -> FrameFormat {
        FrameFormat::new(PixelFormat::I420, width, height)
    }

    fn options(how: How, margin: f32) -> RedactOptions {
        RedactOptions {
            how: vec![None, Some(how)],
            margin,
        }
    }

    /// A picture in which every sample differs from its neighbours.
    fn noise(format: FrameFormat) -> Vec<u8> {
        (0..format.packed_bytes() as u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect()
    }

    proptest! {
        /// What is hidden does not depend on the hidden pixels but through the cells' means, and what is far
        /// from any hidden pixel stays as it is.
        #[test]
        fn hidden_pixels_are_gone_and_the_others_stay(
            width in 1usize..90, height in 1usize..90,
            spots in prop::collection::vec((0usize..90, 0usize..90), 0..4),
            how in prop_oneof![Just(How::Fill), Just(How::Pixelate), Just(How::Blur)],
            margin in 0.0f32..0.4,
        ) {
            let mut mask = LabelMap::zeros(width, height);
            for (x, y) in &spots {
                mask.labels[y % height * width + x % width] = 1;
            }
            let format = i420(width, height);
            let before = noise(format);
            let mut after = before.clone();
            let mut redactor = Redactor::new(width, height, &options(how, margin));
            let any = redactor.look_at(&mask);
            prop_assert_eq!(any, !spots.is_empty());
            redactor.hide(format, 0, &mut after);
            let side = cell_side(height);
            let reach = (margin * height as f32).ceil() as usize;
            for y in 0..height {
                for x in 0..width {
                    let near = |limit: usize| spots.iter().any(|(sx, sy)| {
                        (sx % width).abs_diff(x) <= limit && (sy % height).abs_diff(y) <= limit
                    });
                    let at = y * width + x;
                    if near(reach) && how == How::Fill {
                        prop_assert_eq!(after[at], GREY[0]);
                    }
                    if !near(reach + 2 * side) {
                        prop_assert_eq!(after[at], before[at]);
                    }
                }
            }
        }
    }

    #[test]
    fn pixels_of_a_cell_become_one_and_a_blur_has_no_more_detail() {
        let (width, height) = (64, 64);
        let format = i420(width, height);
        let mut mask = LabelMap::zeros(width, height);
        mask.labels.fill(1);
        for how in [How::Pixelate, How::Blur] {
            let mut redactor = Redactor::new(width, height, &options(how, 0.0));
            assert!(redactor.look_at(&mask));
            let mut a = noise(format);
            redactor.hide(format, 0, &mut a);
            // Swapping samples inside cells keeps the means: the result must be the same.
            let mut b = noise(format);
            for y in (0..height).step_by(16) {
                for x in (0..width).step_by(16) {
                    b.swap(y * width + x, (y + 15) * width + x + 15);
                }
            }
            redactor.hide(format, 0, &mut b);
            assert_eq!(a, b);
            if how == How::Pixelate {
                assert!(a[..16].iter().all(|&v| v == a[0]));
            }
        }
    }

    #[test]
    fn the_right_half_of_a_doubled_picture_is_hidden_too() {
        let (width, height) = (40, 40);
        let format = i420(80, height);
        let mut mask = LabelMap::zeros(width, height);
        mask.labels[0] = 1;
        let mut redactor = Redactor::new(width, height, &options(How::Fill, 0.0));
        redactor.look_at(&mask);
        let before = noise(format);
        let mut out = before.clone();
        redactor.hide(format, 40, &mut out);
        assert_eq!(out[40..56], [GREY[0]; 16]);
        assert_eq!(out[..40], before[..40]);
    }
}
