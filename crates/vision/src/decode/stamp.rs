//! Where a mask lies in the picture: pixels at which its interpolated values exceed a limit.
//!
//! # What it computes
//! The value at a pixel's centre is interpolated bilinearly between the four cells around it, in `f64`, as
//! [`semantic`](super::semantic) has it.
//!
//! # Why most pixels need no interpolation, and the result is still exact
//! Let all four cells exceed the limit. Different `f32` differ by at least `2^-24` of the larger magnitude, weights are
//! not negative and sum up to 1 within `2^-53`, and the roundings of `f64` move the value by less than `2^-50` of the
//! magnitudes: so it exceeds the limit at each pixel between them. The same holds for four cells below it.

use super::semantic::cells::{CellAxis, CellMap, Span};

/// Pixels: columns `left..right` of rows `top..bottom`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Area {
    pub left: usize,
    pub top: usize,
    pub right: usize,
    pub bottom: usize,
}

impl Area {
    pub fn is_empty(&self) -> bool {
        self.left >= self.right || self.top >= self.bottom
    }
}

/// Cells of a mask: `columns` a row, the first of them at `first_column`, `first_row` of the grid.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cells<'a> {
    pub values: &'a [f32],
    pub first_column: usize,
    pub first_row: usize,
    pub columns: usize,
}

impl Cells<'_> {
    fn at(&self, row: usize, column: usize) -> f32 {
        self.values[(row - self.first_row) * self.columns + column - self.first_column]
    }
}

/// The spans that hold pixels `start..end`.
fn spans(axis: &CellAxis, start: usize, end: usize) -> &[Span] {
    let first = axis.spans.partition_point(|span| span.end <= start);
    let last = axis.spans.partition_point(|span| span.start < end);
    &axis.spans[first.min(last)..last]
}

/// First and last cell around pixels `start..end` of an axis; `None` for no pixel.
pub(super) fn cells_around(axis: &CellAxis, start: usize, end: usize) -> Option<(usize, usize)> {
    let spans = spans(axis, start, end);
    Some((spans.first()?.first, spans.last()?.second))
}

/// The pixels that lie between cells `first..=last` of an axis and their neighbours.
pub(super) fn pixels_around(axis: &CellAxis, first: usize, last: usize) -> (usize, usize) {
    let begin = axis.spans.partition_point(|span| span.second < first);
    let end = axis.spans.partition_point(|span| span.first <= last);
    match (axis.spans.get(begin), axis.spans[..end].last()) {
        (Some(first), Some(last)) if begin < end => (first.start, last.end),
        _ => (0, 0),
    }
}

/// Tells `run` of the pixels of `area` whose value exceeds `limit`: row, first column, and one past the last.
///
/// # Panics
/// If `cells` lacks one that lies around a pixel of `area`.
pub(super) fn scan(
    columns: &CellAxis,
    rows: &CellAxis,
    cells: Cells<'_>,
    area: Area,
    limit: f32,
    mut run: impl FnMut(usize, usize, usize),
) {
    if area.is_empty() {
        return;
    }
    let across = spans(columns, area.left, area.right);
    for down in spans(rows, area.top, area.bottom) {
        let (top, bottom) = (down.start.max(area.top), down.end.min(area.bottom));
        // Neighbouring spans that lie inside are one run.
        let mut full: Option<(usize, usize)> = None;
        let flush = |full: &mut Option<(usize, usize)>, run: &mut dyn FnMut(usize, usize, usize)| {
            if let Some((left, right)) = full.take() {
                (top..bottom).for_each(|y| run(y, left, right));
            }
        };
        for span in across {
            let (left, right) = (span.start.max(area.left), span.end.min(area.right));
            let corners = [
                cells.at(down.first, span.first),
                cells.at(down.first, span.second),
                cells.at(down.second, span.first),
                cells.at(down.second, span.second),
            ];
            if corners.iter().all(|&corner| corner > limit) {
                full = Some((full.map_or(left, |(start, _)| start), right));
                continue;
            }
            flush(&mut full, &mut run);
            if corners.iter().all(|&corner| corner < limit) {
                continue;
            }
            let [a, b, c, d] = corners.map(f64::from);
            let limit = f64::from(limit);
            for y in top..bottom {
                let [upper, lower] = rows.weights[y];
                let (at_left, at_right) = (a * upper + c * lower, b * upper + d * lower);
                let mut begun = None;
                for (x, &[wl, wr]) in (left..right).zip(&columns.weights[left..right]) {
                    let is_inside = at_left * wl + at_right * wr > limit;
                    match (is_inside, begun) {
                        (true, None) => begun = Some(x),
                        (false, Some(start)) => {
                            run(y, start, x);
                            begun = None;
                        }
                        _ => {}
                    }
                }
                if let Some(start) = begun {
                    run(y, start, right);
                }
            }
        }
        flush(&mut full, &mut run);
    }
}

/// The pixels around all cells of a mask that exceed `limit`.
pub(super) fn around(map: &CellMap, values: &[f32], limit: f32) -> Area {
    let (mut left, mut right, mut top, mut bottom) = (usize::MAX, 0, usize::MAX, 0);
    for (y, row) in values.chunks_exact(map.width).enumerate() {
        let Some(first) = row.iter().position(|&value| value > limit) else {
            continue;
        };
        let last = row.iter().rposition(|&value| value > limit).unwrap_or(first);
        (left, right) = (left.min(first), right.max(last));
        (top, bottom) = (top.min(y), y);
    }
    if top == usize::MAX {
        return Area {
            left: 0,
            top: 0,
            right: 0,
            bottom: 0,
        };
    }
    let (left, right) = pixels_around(&map.columns, left, right);
    let (top, bottom) = pixels_around(&map.rows, top, bottom);
    Area {
        left,
        top,
        right,
        bottom,
    }
}

/// All cells of a mask.
pub(super) fn whole<'a>(map: &CellMap, values: &'a [f32]) -> Cells<'a> {
    Cells {
        values,
        first_column: 0,
        first_row: 0,
        columns: map.width,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::contract::Grid;
    use crate::tensor::{InputSize, Placement};

    proptest! {
        #[test]
        fn equals_interpolation_at_each_pixel(
            (width, height) in (1..30_usize, 1..30_usize),
            (columns, rows) in (1..9_usize, 1..9_usize),
            side in 8..40_usize,
            window in (0..8_usize, 0..8_usize),
            values in prop::collection::vec(prop_oneof![Just(0.0_f32), Just(1.0), Just(-1.0), -2.0..2.0_f32], 81),
            limit in prop_oneof![Just(0.0_f32), Just(1.0), -1.0..1.0_f32],
            corners in (0..30_usize, 0..30_usize, 0..30_usize, 0..30_usize),
            aligned in any::<bool>(),
        ) {
            let size = InputSize { width: side, height: side };
            let placement = Placement { x: window.0, y: window.1, width: side - window.0, height: side - window.1 };
            let grid = if aligned { Grid::AlignCorners } else { Grid::HalfPixel };
            let map = CellMap::new(grid, size, placement, (width, height), columns, rows);
            let values = &values[..columns * rows];
            let area = Area {
                left: corners.0.min(width), top: corners.1.min(height),
                right: corners.2.min(width), bottom: corners.3.min(height),
            };
            let mut found = vec![0; width * height];
            scan(&map.columns, &map.rows, whole(&map, values), area, limit, |y, from, to| {
                found[y * width + from..y * width + to].iter_mut().for_each(|n| *n += 1);
            });
            let span_of = |axis: &CellAxis, p: usize| *axis.spans.iter().find(|s| (s.start..s.end).contains(&p)).unwrap();
            for y in 0..height {
                for x in 0..width {
                    let (across, down) = (span_of(&map.columns, x), span_of(&map.rows, y));
                    let at = |row: usize, column: usize| f64::from(values[row * columns + column]);
                    let [upper, lower] = map.rows.weights[y];
                    let [left, right] = map.columns.weights[x];
                    let value = (at(down.first, across.first) * upper + at(down.second, across.first) * lower) * left
                        + (at(down.first, across.second) * upper + at(down.second, across.second) * lower) * right;
                    let inside = (area.left..area.right).contains(&x) && (area.top..area.bottom).contains(&y);
                    prop_assert_eq!(found[y * width + x], i32::from(inside && value > f64::from(limit)));
                }
            }
            // Nothing that exceeds the limit lies outside what is around its cells.
            let all = Area { left: 0, top: 0, right: width, bottom: height };
            let near = around(&map, values, limit);
            scan(&map.columns, &map.rows, whole(&map, values), all, limit, |y, from, to| {
                assert!((near.top..near.bottom).contains(&y) && near.left <= from && to <= near.right);
            });
        }
    }
}
