//! Resampling of one picture: rows of a plane to one blended row, its samples to the output's.
//!
//! Sums of weighted samples are exact; each output sample is rounded once.

use super::axis::{Axis, Tap};
use crate::frame::Plane;

/// Elements past the end of a band, so that the last box has a next one (of weight 0) in any format.
const MARGIN: usize = 4;

/// One blended row of a plane, scaled by 256 times the rows of a box.
#[derive(Debug)]
pub enum Band {
    /// Boxes of one row.
    Narrow(Vec<u16>),
    /// Larger boxes.
    Wide(Vec<u32>),
}

/// The vertical half of the resampling of one plane.
#[derive(Debug)]
pub struct PlanePass {
    rows: Axis,
    row_bytes: usize,
    band: Band,
    /// The two newest sums of a box of rows, and which boxes they are.
    sums: [(Option<u32>, Vec<u16>); 2],
}

impl PlanePass {
    /// For a plane with rows of `row_bytes`.
    pub fn new(rows: Axis, row_bytes: usize) -> Self {
        let (band, sums) = if rows.boxed == 1 {
            (Band::Narrow(vec![0; row_bytes + MARGIN]), 0)
        } else {
            (Band::Wide(vec![0; row_bytes + MARGIN]), row_bytes)
        };
        Self {
            rows,
            row_bytes,
            band,
            sums: [(None, vec![0; sums]), (None, vec![0; sums])],
        }
    }

    /// Rows in a box.
    pub fn boxed(&self) -> usize {
        self.rows.boxed
    }

    /// The row that was blended last.
    pub fn band(&self) -> &Band {
        &self.band
    }

    /// Drops what is remembered of the last picture.
    pub fn forget(&mut self) {
        for (which, _) in &mut self.sums {
            *which = None;
        }
    }

    /// Blends the rows that make output row `row` into the band.
    #[inline(always)]
    pub fn blend(&mut self, plane: Plane<'_>, row: usize) {
        let Tap { first, weight } = self.rows.taps[row];
        let second = (first + 1).min(self.rows.boxes() as u32 - 1);
        match &mut self.band {
            Band::Narrow(band) => {
                let first = plane.row(first as usize, self.row_bytes);
                let second = plane.row(second as usize, self.row_bytes);
                let weight = weight as u16;
                for ((o, &a), &b) in band.iter_mut().zip(first).zip(second) {
                    *o = u16::from(a) * (256 - weight) + u16::from(b) * weight;
                }
            }
            Band::Wide(band) => {
                if self.sums[1].0 == Some(first) {
                    self.sums.swap(0, 1);
                }
                for (slot, which) in [first, second].into_iter().enumerate() {
                    let (held, sum) = &mut self.sums[slot];
                    if *held != Some(which) {
                        *held = Some(which);
                        sum_rows(plane, &self.rows, which as usize, sum);
                    }
                }
                let [(_, first), (_, second)] = &self.sums;
                for ((o, &a), &b) in band.iter_mut().zip(first).zip(second) {
                    *o = u32::from(a) * (256 - weight) + u32::from(b) * weight;
                }
            }
        }
    }
}

/// The sum of box `index` of rows; at most 64 * 255 each.
#[inline(always)]
fn sum_rows(plane: Plane<'_>, rows: &Axis, index: usize, sum: &mut [u16]) {
    sum.fill(0);
    for y in index * rows.boxed..(index + 1) * rows.boxed {
        let row = plane.row(y.min(rows.samples - 1), sum.len());
        for (s, &v) in sum.iter_mut().zip(row) {
            *s += u16::from(v);
        }
    }
}

/// The horizontal half of the resampling of one channel.
#[derive(Debug)]
pub struct Channel {
    axis: Axis,
    /// In a row of the plane: from sample to sample, and before the first.
    step: usize,
    offset: usize,
    /// Sums of boxes of samples of a row.
    boxes: Vec<u32>,
    /// Bits between the sum for boxes of one sample and the result.
    shift: u32,
    /// What sums are divided by, and its reciprocal in 2^-64.
    divisor: u64,
    reciprocal: u64,
}

impl Channel {
    /// For samples that lie `step` elements apart from `offset` on, in bands of boxes of `boxed_rows`. The results
    /// have `fraction` fraction bits.
    pub fn new(axis: Axis, step: usize, offset: usize, boxed_rows: usize, fraction: u32) -> Self {
        let shift = 16 - fraction;
        let divisor = (boxed_rows * axis.boxed) as u64 * (1 << shift);
        Self {
            step,
            offset,
            boxes: vec![0; axis.boxes() + 1],
            axis,
            shift,
            divisor,
            // Exact: sums stay below 2^36, divisors below 2^29, so sum * (reciprocal * divisor - 2^64) < 2^64.
            reciprocal: u64::MAX / divisor + 1,
        }
    }

    /// Whether boxes are single samples.
    pub fn is_unboxed(&self) -> bool {
        self.axis.boxed == 1
    }

    /// From a band of boxes of any size.
    #[inline(always)]
    pub fn resample(&mut self, band: &Band, out: &mut [i16]) {
        match band {
            Band::Narrow(row) if self.is_unboxed() => match self.step {
                1 => self.resample_samples::<1>(row, out),
                2 => self.resample_samples::<2>(row, out),
                3 => self.resample_samples::<3>(row, out),
                _ => self.resample_samples::<4>(row, out),
            },
            Band::Narrow(row) => self.resample_boxes(row, out),
            Band::Wide(row) => self.resample_boxes(row, out),
        }
    }

    /// Where boxes are single samples of single rows; `STEP` is `self.step`.
    #[inline(always)]
    fn resample_samples<const STEP: usize>(&self, row: &[u16], out: &mut [i16]) {
        let row = &row[self.offset..];
        let (shift, half) = (self.shift, 1 << (self.shift - 1));
        for (o, tap) in out.iter_mut().zip(&self.axis.taps) {
            let at = tap.first as usize * STEP;
            let pair = &row[at..at + STEP + 1];
            let (a, b) = (u32::from(pair[0]), u32::from(pair[STEP]));
            *o = ((a * 256 + half).wrapping_add(b.wrapping_sub(a).wrapping_mul(tap.weight)) >> shift) as i16;
        }
    }

    /// Both channels of interleaved pairs, first the low and then the high half of each `u64`, where boxes are
    /// single samples of single rows. `pairs` has one element more than the axis has samples.
    #[inline(always)]
    pub fn resample_pairs(&self, pairs: &[u64], low: &mut [i16], high: &mut [i16]) {
        let (shift, half) = (self.shift, (1 << (self.shift - 1)) * 0x1_0000_0001);
        for ((low, high), tap) in low.iter_mut().zip(high).zip(&self.axis.taps) {
            let at = tap.first as usize;
            let &[a, b] = &pairs[at..at + 2] else {
                unreachable!()
            };
            // Each half's sum is below 2^24; borrows between the halves cancel out.
            let sum = (a * 256 + half).wrapping_add(b.wrapping_sub(a).wrapping_mul(u64::from(tap.weight)));
            *low = (sum as u32 >> shift) as i16;
            *high = (sum >> (32 + shift)) as i16;
        }
    }

    #[inline(always)]
    fn resample_boxes<T: Copy + Into<u32>>(&mut self, row: &[T], out: &mut [i16]) {
        let Axis { samples, boxed, .. } = self.axis;
        let boxes = self.axis.boxes();
        for (j, sum) in self.boxes[..boxes].iter_mut().enumerate() {
            let first = j * boxed;
            let last = (first + boxed).min(samples);
            let from = first * self.step + self.offset;
            let to = (last - 1) * self.step + self.offset;
            *sum = row[from..=to].iter().step_by(self.step).map(|&v| v.into()).sum();
            // The last sample is repeated past the end.
            *sum += (first + boxed - last) as u32 * row[to].into();
        }
        let (half, reciprocal) = (self.divisor / 2, u128::from(self.reciprocal));
        for (o, tap) in out.iter_mut().zip(&self.axis.taps) {
            let at = tap.first as usize;
            let (a, b) = (u64::from(self.boxes[at]), u64::from(self.boxes[at + 1]));
            let sum = a * u64::from(256 - tap.weight) + b * u64::from(tap.weight);
            *o = ((u128::from(sum + half) * reciprocal) >> 64) as i16;
        }
    }
}
