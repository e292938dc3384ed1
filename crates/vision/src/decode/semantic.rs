//! Network output to mask: the class of every pixel of the frame, straight from low-resolution logits.
//!
//! # What it computes
//! The class whose bilinearly interpolated logit is largest at the pixel's centre; of equal ones the lowest
//! index. Outside the outermost cell centres the outermost value counts. NaN and -inf count as the lowest finite
//! `f32`, +inf as the highest.
//! A logit at weights `wx`, `wy` of its four cells is `(a * wy0 + c * wy1) * wx0 + (b * wy0 + d * wy1) * wx1`
//! in `f64`. Outputs that are labels already give the label of the nearest cell.
//!
//! # Why most pixels need no interpolation, and the result is still exact
//! Let class `k` be the winner in all four cells. Then it wins at every pixel between them:
//! - Against a later class `j`: `a_k >= a_j` in every cell. Multiplying by a weight >= 0, adding and rounding
//!   keep the order, so `v_k >= v_j`, and of equals the earlier wins.
//! - Against an earlier class `j`: `a_k > a_j` in every cell, or `j` had won there. Different `f32` differ by
//!   at least `2^-24` of the larger magnitude, so the exact interpolated values differ by at least `2^-24 * m`,
//!   with `m` the interpolated larger magnitudes. The four roundings of `f64` move each value by less than
//!   `2^-50 * m`. So `v_k > v_j` holds after rounding as well.
//!
//! The same argument drops classes from the remaining cells: a class whose largest of four logits is below some
//! class's smallest can't win.

pub(in crate::decode) mod cells;
#[cfg(test)]
mod tests;

use crate::answer::Answer;
use crate::frame::LabelMap;
use crate::model::contract::Grid;
use crate::tensor::{InputSize, Placement};

use cells::{CellMap, Span};

/// Turns answers into masks; all tables and rows are made for the first output.
#[derive(Debug)]
pub struct SemanticDecoder {
    grid: Grid,
    size: InputSize,
    placement: Placement,
    width: usize,
    height: usize,
    map: Option<CellMap>,
    winners: Vec<u8>,
    scratch: Scratch,
}

/// Rows that are reused.
#[derive(Debug, Default)]
struct Scratch {
    /// Largest logit so far of each cell of a row, and its class.
    best_cells: Vec<f32>,
    best_classes: Vec<u32>,
    /// The classes that may win between four cells.
    candidates: Vec<Candidate>,
    /// Largest value so far of each pixel of a span, and its class.
    best: Vec<f64>,
    labels: Vec<u64>,
}

/// A class's logits in the cells left above, right above, left below, right below.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    class: u8,
    corners: [f32; 4],
}

impl SemanticDecoder {
    /// For outputs whose cells lie as in `grid` on an input of `size`, of which the picture fills `placement`,
    /// and masks of `width` x `height` pixels.
    ///
    /// # Panics
    /// If a side is 0 or `placement` exceeds `size`.
    pub fn new(grid: Grid, size: InputSize, placement: Placement, width: usize, height: usize) -> Self {
        assert!(width > 0 && height > 0, "a mask of {width}x{height} pixels");
        assert!(
            placement.x + placement.width <= size.width
                && placement.y + placement.height <= size.height
                && placement.width > 0
                && placement.height > 0,
            "{placement:?} in {size:?}"
        );
        Self {
            grid,
            size,
            placement,
            width,
            height,
            map: None,
            winners: Vec::new(),
            scratch: Scratch::default(),
        }
    }

    /// Writes the class of every pixel into `mask`, which gets the size given to [`new`](Self::new). Allocates
    /// only for the first output, and when its size changes.
    ///
    /// # Panics
    /// If the number of values in `answer` is not what its sides give, or it has no cell, or not 1 to 256 classes. Its
    /// [reader](crate::answer::Reader) checks that. If it is one of objects, which have decoders of their own.
    pub fn run(&mut self, answer: &Answer, mask: &mut LabelMap) {
        (mask.width, mask.height) = (self.width, self.height);
        mask.labels.resize(self.width * self.height, 0);
        match answer {
            Answer::Labels {
                height,
                width,
                labels,
            } => {
                assert_eq!(labels.len(), width * height, "labels of {width}x{height} cells");
                let map = self.map_for(*width, *height);
                nearest(map, labels, mask);
            }
            Answer::Logits {
                classes,
                height,
                width,
                values,
            } => self.run_logits(*classes, (*width, *height), values, mask),
            Answer::Objects(_) => panic!("objects for a decoder of classes"),
        }
    }

    /// As [`run`](Self::run) for logits of `classes` in `width` x `height` cells.
    ///
    /// # Panics
    /// As [`run`](Self::run).
    pub fn run_logits(
        &mut self,
        classes: usize,
        (width, height): (usize, usize),
        values: &[f32],
        mask: &mut LabelMap,
    ) {
        (mask.width, mask.height) = (self.width, self.height);
        mask.labels.resize(self.width * self.height, 0);
        assert!((1..=256).contains(&classes), "{classes} classes");
        assert_eq!(
            values.len(),
            classes * width * height,
            "logits of {classes} classes in {width}x{height} cells"
        );
        self.map_for(width, height);
        win(
            values,
            classes,
            width,
            height,
            &mut self.winners,
            &mut self.scratch,
        );
        if let Some(map) = &self.map {
            interpolate(map, values, classes, &self.winners, mask, &mut self.scratch);
        }
    }

    fn map_for(&mut self, width: usize, height: usize) -> &CellMap {
        assert!(width > 0 && height > 0, "an output of {width}x{height} cells");
        let stale = |m: &mut CellMap| (m.width, m.height) != (width, height);
        if self.map.as_mut().is_some_and(stale) {
            self.map = None;
        }
        let (grid, size, placement) = (self.grid, self.size, self.placement);
        let mask = (self.width, self.height);
        self.map
            .get_or_insert_with(|| CellMap::new(grid, size, placement, mask, width, height))
    }
}

/// Finite logits: NaN and -inf become the lowest.
#[inline(always)]
#[expect(clippy::manual_clamp, reason = "clamp keeps NaN")]
fn finite(logit: f32) -> f32 {
    logit.max(f32::MIN).min(f32::MAX)
}

/// The winner of every cell.
fn win(
    values: &[f32],
    classes: usize,
    width: usize,
    height: usize,
    winners: &mut Vec<u8>,
    scratch: &mut Scratch,
) {
    winners.resize(width * height, 0);
    scratch.best_cells.resize(width, 0.0);
    scratch.best_classes.resize(width, 0);
    let (best, class_of) = (
        &mut scratch.best_cells[..width],
        &mut scratch.best_classes[..width],
    );
    for (y, winners) in winners.chunks_exact_mut(width).enumerate() {
        class_of.fill(0);
        for class in 0..classes {
            let at = (class * height + y) * width;
            let row = &values[at..at + width];
            if class == 0 {
                for (best, &v) in best.iter_mut().zip(row) {
                    *best = finite(v);
                }
                continue;
            }
            for ((best, class_of), &v) in best.iter_mut().zip(class_of.iter_mut()).zip(row) {
                let v = finite(v);
                let wins = v > *best;
                *best = if wins { v } else { *best };
                *class_of = if wins { class as u32 } else { *class_of };
            }
        }
        for (winner, &class) in winners.iter_mut().zip(class_of.iter()) {
            *winner = class as u8;
        }
    }
}

/// Fills what lies between cells of one winner, interpolates the rest.
fn interpolate(
    map: &CellMap,
    values: &[f32],
    classes: usize,
    winners: &[u8],
    mask: &mut LabelMap,
    scratch: &mut Scratch,
) {
    let width = mask.width;
    for rows in &map.rows.spans {
        let above = &winners[rows.first * map.width..][..map.width];
        let below = &winners[rows.second * map.width..][..map.width];
        let band = &mut mask.labels[rows.start * width..rows.end * width];
        let agree = |columns: &Span| {
            let winner = above[columns.first];
            winner == above[columns.second]
                && winner == below[columns.first]
                && winner == below[columns.second]
        };
        // The whole band as if every span agreed; the others are overwritten.
        let (top, rest) = band.split_at_mut(width);
        for columns in &map.columns.spans {
            top[columns.start..columns.end].fill(above[columns.first]);
        }
        for row in rest.chunks_exact_mut(width) {
            row.copy_from_slice(top);
        }
        for columns in map.columns.spans.iter().filter(|c| !agree(c)) {
            find_candidates(map, values, classes, rows, columns, &mut scratch.candidates);
            interpolate_span(map, rows, columns, band, scratch);
        }
    }
}

/// The classes that may win between the four cells of `rows` and `columns`, in ascending order.
fn find_candidates(
    map: &CellMap,
    values: &[f32],
    classes: usize,
    rows: &Span,
    columns: &Span,
    candidates: &mut Vec<Candidate>,
) {
    let at = [
        rows.first * map.width + columns.first,
        rows.first * map.width + columns.second,
        rows.second * map.width + columns.first,
        rows.second * map.width + columns.second,
    ];
    candidates.clear();
    let mut floor = f32::MIN;
    for (class, plane) in values
        .chunks_exact(map.width * map.height)
        .take(classes)
        .enumerate()
    {
        let corners = at.map(|at| finite(plane[at]));
        let [a, b, c, d] = corners;
        floor = floor.max(a.min(b).min(c.min(d)));
        if a.max(b).max(c.max(d)) >= floor {
            candidates.push(Candidate {
                class: class as u8,
                corners,
            });
        }
    }
    candidates.retain(|k| {
        let [a, b, c, d] = k.corners;
        a.max(b).max(c.max(d)) >= floor
    });
}

/// Interpolates the candidates at the pixels of `rows` and `columns`; `band` starts with the first of `rows`.
fn interpolate_span(map: &CellMap, rows: &Span, columns: &Span, band: &mut [u8], scratch: &mut Scratch) {
    let pixels = columns.end - columns.start;
    scratch.best.resize(pixels.max(scratch.best.len()), 0.0);
    scratch.labels.resize(pixels.max(scratch.labels.len()), 0);
    let (best, labels) = (&mut scratch.best[..pixels], &mut scratch.labels[..pixels]);
    let across = &map.columns.weights[columns.start..columns.end];
    let width = map.columns.weights.len();
    for (row, &[upper, lower]) in band
        .chunks_exact_mut(width)
        .zip(&map.rows.weights[rows.start..rows.end])
    {
        best.fill(f64::NEG_INFINITY);
        for candidate in &scratch.candidates {
            let [a, b, c, d] = candidate.corners.map(f64::from);
            let (left, right) = (a * upper + c * lower, b * upper + d * lower);
            let class = u64::from(candidate.class);
            for ((best, label), &[wl, wr]) in best.iter_mut().zip(labels.iter_mut()).zip(across) {
                let v = left * wl + right * wr;
                let wins = v > *best;
                *best = if wins { v } else { *best };
                *label = if wins { class } else { *label };
            }
        }
        for (out, &label) in row[columns.start..columns.end].iter_mut().zip(labels.iter()) {
            *out = label as u8;
        }
    }
}

/// The nearest cell's label for every pixel.
fn nearest(map: &CellMap, labels: &[u8], mask: &mut LabelMap) {
    let mut done: Option<usize> = None;
    let width = mask.width;
    for (y, &cell_row) in map.rows.nearest.iter().enumerate() {
        let (before, row) = mask.labels.split_at_mut(y * width);
        let row = &mut row[..width];
        if done == Some(cell_row) {
            row.copy_from_slice(&before[(y - 1) * width..]);
        } else {
            let from = &labels[cell_row * map.width..][..map.width];
            for (out, &cell) in row.iter_mut().zip(&map.columns.nearest) {
                *out = from[cell];
            }
            done = Some(cell_row);
        }
    }
}
