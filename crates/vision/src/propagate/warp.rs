//! Moves a mask along a motion field.
//!
//! # What it computes
//! The label at pixel (x, y) is the key's label at (x + dx, y + dy), clamped into the picture, where (dx, dy) is the
//! interpolated vector, rounded to whole pixels. With blocks of B source pixels, weights are whole numbers of
//! 2 B-ths, so the interpolation is exact in integers.
//!
//! # Why most pixels need no gather, and the result is still exact
//! Interpolation is a convex combination and rounding keeps the order: between four block centres every pixel's
//! source lies in the rectangle spanned by the four vectors. Where the key has one label in that rectangle,
//! all pixels between the centres get it. Where the four vectors are equal, rows are copied.

use super::field::{BLOCK, MotionField, UNITS, Vector};
use crate::frame::LabelMap;

/// Side of a tile in pixels.
const TILE: usize = 8;
/// A tile of several labels.
const MIXED: u16 = 256;
/// Longest component of a vector that is followed; keeps the interpolation within 32 bits.
const LONGEST: i32 = 16_383;

/// Which squares of 8x8 pixels of a mask have one label only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tiles {
    columns: usize,
    labels: Vec<u16>,
}

impl Tiles {
    /// Looks at a mask; allocates only when masks get larger.
    pub fn read(&mut self, mask: &LabelMap) {
        let (width, height) = (mask.width, mask.height);
        self.columns = width.div_ceil(TILE);
        self.labels.resize(self.columns * height.div_ceil(TILE), 0);
        if self.labels.is_empty() {
            return;
        }
        for (band, tiles) in self.labels.chunks_exact_mut(self.columns).enumerate() {
            let rows = &mask.labels[band * TILE * width..((band + 1) * TILE).min(height) * width];
            for (column, tile) in tiles.iter_mut().enumerate() {
                let (start, end) = (column * TILE, ((column + 1) * TILE).min(width));
                let first = rows[start];
                let is_uniform = rows.chunks_exact(width).all(|row| {
                    row[start..end]
                        .iter()
                        .fold(true, |all, &label| all & (label == first))
                });
                *tile = if is_uniform { u16::from(first) } else { MIXED };
            }
        }
    }

    /// The one label in columns `x.0..=x.1` and rows `y.0..=y.1`, as far as whole tiles tell.
    fn only_label(&self, x: (usize, usize), y: (usize, usize)) -> Option<u8> {
        let first = self.labels[y.0 / TILE * self.columns + x.0 / TILE];
        let label = u8::try_from(first).ok()?;
        for row in y.0 / TILE..=y.1 / TILE {
            let tiles = &self.labels[row * self.columns + x.0 / TILE..=row * self.columns + x.1 / TILE];
            if tiles.iter().any(|&tile| tile != first) {
                return None;
            }
        }
        Some(label)
    }
}

/// One axis of the cell between four block centres.
#[derive(Debug, Clone, Copy)]
struct Span {
    /// Blocks on both sides.
    first: usize,
    second: usize,
    /// Pixels `start..end`.
    start: usize,
    end: usize,
    /// Weight of the second block at the first pixel, in 2 B-ths; it grows by 2 a pixel.
    weight: i32,
}

/// The pixels between block centre `index - 1` and `index`, for `index` from 0 to `blocks`.
fn span(index: usize, blocks: usize, block: usize, pixels: usize) -> Span {
    let start = (index * block).saturating_sub(block / 2).min(pixels);
    let end = if index == blocks {
        pixels
    } else {
        (index * block + block / 2).min(pixels)
    };
    let first = index.saturating_sub(1);
    let second = index.min(blocks - 1);
    let weight = if first == second {
        0
    } else {
        (2 * start + 1) as i32 - block as i32 - (2 * first * block) as i32
    };
    Span {
        first,
        second,
        start,
        end,
        weight,
    }
}

/// A component of the vectors at the four centres, and how it becomes whole pixels.
#[derive(Debug, Clone, Copy)]
struct Corners {
    above: [i32; 2],
    below: [i32; 2],
}

impl Corners {
    fn of(vectors: [[Vector; 2]; 2], component: impl Fn(Vector) -> i16) -> Self {
        let value = |v: Vector| i32::from(component(v)).clamp(-LONGEST, LONGEST);
        Self {
            above: vectors[0].map(value),
            below: vectors[1].map(value),
        }
    }

    fn least(&self) -> i32 {
        self.above[0]
            .min(self.above[1])
            .min(self.below[0])
            .min(self.below[1])
    }

    fn greatest(&self) -> i32 {
        self.above[0]
            .max(self.above[1])
            .max(self.below[0])
            .max(self.below[1])
    }

    /// Left and right values at a row whose weight of the blocks below is `weight` of `whole`.
    fn at_row(&self, weight: i32, whole: i32) -> [i32; 2] {
        [0, 1].map(|side| self.above[side] * (whole - weight) + self.below[side] * weight)
    }
}

/// Moves `mask` along `field` into `out`, which gets the mask's size. `tiles` are those of `mask`. Allocates only when
/// masks get larger.
///
/// # Panics
/// If the field is not one for masks of this size, or `tiles` are another mask's.
pub fn warp_labels(mask: &LabelMap, tiles: &Tiles, field: &MotionField, out: &mut LabelMap) {
    let (width, height) = (mask.width, mask.height);
    (out.width, out.height) = (width, height);
    out.labels.resize(width * height, 0);
    if mask.labels.is_empty() {
        return;
    }
    let block = BLOCK * field.scale;
    // Weights are 2 B-ths on both axes: 4 B^2 UNITS / scale of them are one pixel.
    let whole = 2 * block as i32;
    let unit = UNITS * 4 * (BLOCK * BLOCK * field.scale) as i32;
    let pixels = |value: i32| (value * whole * whole + unit / 2).div_euclid(unit);
    for row in 0..=field.rows {
        let down = span(row, field.rows, block, height);
        for column in 0..=field.columns {
            let across = span(column, field.columns, block, width);
            if down.start >= down.end || across.start >= across.end {
                continue;
            }
            let vector = |row: usize, column: usize| field.vectors[row * field.columns + column];
            let vectors =
                [down.first, down.second].map(|row| [vector(row, across.first), vector(row, across.second)]);
            let (dx, dy) = (Corners::of(vectors, |v| v.dx), Corners::of(vectors, |v| v.dy));
            let (x_low, x_high) = (pixels(dx.least()), pixels(dx.greatest()));
            let (y_low, y_high) = (pixels(dy.least()), pixels(dy.greatest()));
            let clamp = |at: usize, by: i32, side: usize| (at as i32 + by).clamp(0, side as i32 - 1) as usize;
            let from_x = (
                clamp(across.start, x_low, width),
                clamp(across.end - 1, x_high, width),
            );
            let from_y = (
                clamp(down.start, y_low, height),
                clamp(down.end - 1, y_high, height),
            );
            if let Some(label) = tiles.only_label(from_x, from_y) {
                for y in down.start..down.end {
                    out.labels[y * width + across.start..y * width + across.end].fill(label);
                }
                continue;
            }
            let shifted = (across.end - 1) as i32 + x_high;
            let is_inside = across.start as i32 + x_low >= 0 && shifted < width as i32;
            if x_low == x_high && y_low == y_high && is_inside {
                for y in down.start..down.end {
                    let from = clamp(y, y_low, height) * width + from_x.0;
                    out.labels[y * width + across.start..y * width + across.end]
                        .copy_from_slice(&mask.labels[from..from + across.end - across.start]);
                }
                continue;
            }
            let cell = Cell {
                across,
                down,
                dx,
                dy,
                whole,
            };
            if unit.count_ones() == 1 {
                let shift = unit.trailing_zeros();
                cell.gather(mask, out, |value| (value + unit / 2) >> shift);
            } else {
                cell.gather(mask, out, |value| (value + unit / 2).div_euclid(unit));
            }
        }
    }
}

/// The pixels between four block centres.
struct Cell {
    across: Span,
    down: Span,
    dx: Corners,
    dy: Corners,
    /// The weights' sum on one axis.
    whole: i32,
}

impl Cell {
    /// Each pixel by itself.
    #[inline(always)]
    fn gather(&self, mask: &LabelMap, out: &mut LabelMap, pixels: impl Fn(i32) -> i32) {
        let (width, height, whole) = (mask.width, mask.height, self.whole);
        let (right, bottom) = (width as i32 - 1, height as i32 - 1);
        for y in self.down.start..self.down.end {
            let weight = match self.down.first == self.down.second {
                true => 0,
                false => self.down.weight + 2 * (y - self.down.start) as i32,
            };
            let ([x_left, x_right], [y_left, y_right]) =
                (self.dx.at_row(weight, whole), self.dy.at_row(weight, whole));
            let (x_step, y_step) = (2 * (x_right - x_left), 2 * (y_right - y_left));
            let mut x_sum = x_left * whole + (x_right - x_left) * self.across.weight;
            let mut y_sum = y_left * whole + (y_right - y_left) * self.across.weight;
            let row = &mut out.labels[y * width + self.across.start..y * width + self.across.end];
            for (label, x) in row.iter_mut().zip(self.across.start as i32..) {
                let from_x = (x + pixels(x_sum)).clamp(0, right) as usize;
                let from_y = (y as i32 + pixels(y_sum)).clamp(0, bottom) as usize;
                *label = mask.labels[from_y * width + from_x];
                x_sum += x_step;
                y_sum += y_step;
            }
        }
    }
}

/// [`warp_labels`] in its plainest form: each pixel's vector, then its label.
///
/// # Panics
/// As [`warp_labels`].
pub fn warp_labels_reference(mask: &LabelMap, field: &MotionField, out: &mut LabelMap) {
    (out.width, out.height) = (mask.width, mask.height);
    out.labels.resize(mask.width * mask.height, 0);
    let block = (BLOCK * field.scale) as i64;
    let whole = 2 * block;
    // The blocks on both sides of a pixel, and the second's weight in 2 B-ths.
    let place = |pixel: usize, blocks: usize| {
        let from_first = 2 * pixel as i64 + 1 - block;
        let first = from_first.div_euclid(whole).clamp(0, blocks as i64 - 1);
        let second = (from_first.div_euclid(whole) + 1).clamp(0, blocks as i64 - 1);
        (first as usize, second as usize, from_first.rem_euclid(whole))
    };
    for y in 0..mask.height {
        let (above, below, down) = place(y, field.rows);
        for x in 0..mask.width {
            let (left, right, across) = place(x, field.columns);
            let interpolate = |component: &dyn Fn(Vector) -> i16| {
                let v = |row: usize, column: usize| {
                    let vector = field.vectors[row * field.columns + column];
                    i64::from(component(vector)).clamp(-i64::from(LONGEST), i64::from(LONGEST))
                };
                let upper = v(above, left) * (whole - across) + v(above, right) * across;
                let lower = v(below, left) * (whole - across) + v(below, right) * across;
                let sum = upper * (whole - down) + lower * down;
                let unit = whole * whole * i64::from(UNITS) / field.scale as i64;
                (sum + unit / 2).div_euclid(unit)
            };
            let from_x = (x as i64 + interpolate(&|v| v.dx)).clamp(0, mask.width as i64 - 1) as usize;
            let from_y = (y as i64 + interpolate(&|v| v.dy)).clamp(0, mask.height as i64 - 1) as usize;
            out.labels[y * mask.width + x] = mask.labels[from_y * mask.width + from_x];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::luma::Luma;
    use super::*;
    use proptest::prelude::*;

    /// Patches of labels.
    fn mask(width: usize, height: usize, patch: usize, seed: u32) -> LabelMap {
        let mut mask = LabelMap::zeros(width, height);
        for y in 0..height {
            for x in 0..width {
                let cell = (x / patch) as u32 * 7 + (y / patch) as u32 * 13 + seed;
                mask.labels[y * width + x] = (cell.wrapping_mul(2_654_435_761) >> 29) as u8;
            }
        }
        mask
    }

    fn field_for(width: usize, height: usize) -> MotionField {
        let luma = Luma::new(width, height);
        MotionField::still(luma.columns(), luma.rows(), luma.scale())
    }

    proptest! {
        #[test]
        fn the_fast_form_is_the_reference(
            width in 1_usize..900, height in 1_usize..90, patch in 1_usize..120, seed in any::<u32>(),
            moved in prop::collection::vec((-2000_i16..2000, -900_i16..900), 1..40),
            spread in prop::sample::select(vec![1_usize, 7, 1000])
        ) {
            let mask = mask(width, height, patch, seed);
            let mut field = field_for(width, height);
            for (at, vector) in field.vectors.iter_mut().enumerate() {
                let (dx, dy) = moved[at / spread % moved.len()];
                *vector = Vector { dx, dy };
            }
            let (mut fast, mut reference) = (LabelMap::zeros(0, 0), LabelMap::zeros(0, 0));
            let mut tiles = Tiles::default();
            tiles.read(&mask);
            warp_labels(&mask, &tiles, &field, &mut fast);
            warp_labels_reference(&mask, &field, &mut reference);
            prop_assert!(fast == reference);
        }
    }

    #[test]
    fn extreme_vectors_stay_inside() {
        let mask = mask(5000, 40, 9, 3);
        let mut field = field_for(5000, 40);
        for (at, vector) in field.vectors.iter_mut().enumerate() {
            *vector = match at % 3 {
                0 => Vector {
                    dx: i16::MAX,
                    dy: i16::MIN,
                },
                1 => Vector {
                    dx: i16::MIN,
                    dy: i16::MAX,
                },
                _ => Vector { dx: 0, dy: 5 },
            };
        }
        let mut tiles = Tiles::default();
        tiles.read(&mask);
        let (mut fast, mut reference) = (LabelMap::zeros(0, 0), LabelMap::zeros(0, 0));
        warp_labels(&mask, &tiles, &field, &mut fast);
        warp_labels_reference(&mask, &field, &mut reference);
        assert!(fast == reference);
    }

    #[test]
    fn no_motion_changes_nothing_and_a_shift_shifts() {
        let mask = mask(640, 96, 20, 1);
        let mut field = field_for(640, 96);
        let mut tiles = Tiles::default();
        tiles.read(&mask);
        let mut out = LabelMap::zeros(0, 0);
        warp_labels(&mask, &tiles, &field, &mut out);
        assert_eq!(out, mask);
        // 3 small pixels are 6 pixels.
        field.vectors.fill(Vector::whole(3, 0));
        warp_labels(&mask, &tiles, &field, &mut out);
        assert_eq!(
            out.labels[10 * 640..10 * 640 + 600],
            mask.labels[10 * 640 + 6..10 * 640 + 606]
        );
    }
}
