//! Where the output's cells lie under the pixels of the mask.

use crate::model::contract::Grid;
use crate::tensor::{InputSize, Placement};

/// Consecutive pixels between the same two cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The cell before the pixels.
    pub first: usize,
    /// The cell after them; equal to `first` where all pixels lie on it or outside the outermost cells.
    pub second: usize,
    /// First pixel.
    pub start: usize,
    /// One past the last pixel.
    pub end: usize,
}

/// The pixels of one axis of the mask among the cells of one axis of the output.
#[derive(Debug, Clone, PartialEq)]
pub struct CellAxis {
    /// Pixels in order.
    pub spans: Vec<Span>,
    /// For each pixel the weights of its span's first and second cell; they are >= 0.
    pub weights: Vec<[f64; 2]>,
    /// For each pixel the cell whose centre is nearest; the later one of two.
    pub nearest: Vec<usize>,
}

impl CellAxis {
    /// An axis of no pixel.
    pub fn empty() -> Self {
        Self {
            spans: Vec::new(),
            weights: Vec::new(),
            nearest: Vec::new(),
        }
    }

    /// `pixels` of the mask lie on `length` pixels of the input from `start` on, and `cells` on all `side` of
    /// the input.
    pub fn new(grid: Grid, pixels: usize, start: usize, length: usize, side: usize, cells: usize) -> Self {
        let mut axis = Self::empty();
        axis.set(grid, pixels, start, length, side, cells);
        axis
    }

    /// Becomes what [`new`](Self::new) makes; allocates only for more pixels or cells than ever before.
    pub fn set(&mut self, grid: Grid, pixels: usize, start: usize, length: usize, side: usize, cells: usize) {
        let last = (cells - 1) as f64;
        let axis = self;
        axis.spans.clear();
        axis.weights.clear();
        axis.nearest.clear();
        for pixel in 0..pixels {
            // From the input's edge, in input pixels.
            let at = start as f64 + (pixel as f64 + 0.5) * length as f64 / pixels as f64;
            let at = match grid {
                Grid::HalfPixel => at * cells as f64 / side as f64 - 0.5,
                Grid::AlignCorners if side > 1 => (at - 0.5) * last / (side - 1) as f64,
                Grid::AlignCorners => 0.0,
            };
            let at = at.clamp(0.0, last);
            let (first, after) = (at as usize, at.fract());
            axis.weights.push([1.0 - after, after]);
            axis.nearest.push((at + 0.5) as usize);
            let second = if after > 0.0 { first + 1 } else { first };
            match axis.spans.last_mut() {
                Some(span) if span.first == first => {
                    span.second = span.second.max(second);
                    span.end = pixel + 1;
                }
                _ => axis.spans.push(Span {
                    first,
                    second,
                    start: pixel,
                    end: pixel + 1,
                }),
            }
        }
    }
}

/// Both axes for an output of `width` x `height` cells.
#[derive(Debug, Clone, PartialEq)]
pub struct CellMap {
    /// Cells a row.
    pub width: usize,
    /// Rows of cells.
    pub height: usize,
    /// Across.
    pub columns: CellAxis,
    /// Down.
    pub rows: CellAxis,
}

impl CellMap {
    /// For a mask of `mask` pixels that lies in `placement` of an input of `size`.
    pub fn new(
        grid: Grid,
        size: InputSize,
        placement: Placement,
        mask: (usize, usize),
        width: usize,
        height: usize,
    ) -> Self {
        Self {
            width,
            height,
            columns: CellAxis::new(grid, mask.0, placement.x, placement.width, size.width, width),
            rows: CellAxis::new(grid, mask.1, placement.y, placement.height, size.height, height),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(first: usize, second: usize, start: usize, end: usize) -> Span {
        Span {
            first,
            second,
            start,
            end,
        }
    }

    #[test]
    fn half_pixel_cells_lie_in_the_middle_of_their_pixels() {
        let axis = CellAxis::new(Grid::HalfPixel, 8, 0, 8, 8, 2);
        // Centres at 1.5 and 5.5.
        assert_eq!(axis.spans, [span(0, 1, 0, 6), span(1, 1, 6, 8)]);
        assert_eq!(axis.weights[0], [1.0, 0.0]);
        assert_eq!(axis.weights[2], [0.875, 0.125]);
        assert_eq!(axis.nearest, [0, 0, 0, 0, 1, 1, 1, 1]);
    }

    #[test]
    fn aligned_corners_lie_on_the_outermost_pixels() {
        let axis = CellAxis::new(Grid::AlignCorners, 9, 0, 9, 9, 3);
        assert_eq!(axis.spans, [span(0, 1, 0, 4), span(1, 2, 4, 8), span(2, 2, 8, 9)]);
        assert_eq!(axis.weights[1], [0.75, 0.25]);
        assert_eq!(axis.weights[4], [1.0, 0.0]);
        assert_eq!(axis.weights[8], [1.0, 0.0]);
    }

    #[test]
    fn equal_sizes_are_one_to_one() {
        for grid in [Grid::HalfPixel, Grid::AlignCorners] {
            let axis = CellAxis::new(grid, 5, 0, 5, 5, 5);
            assert_eq!(axis.nearest, [0, 1, 2, 3, 4]);
            assert!(
                axis.spans
                    .iter()
                    .all(|s| s.first == s.second && s.end == s.start + 1)
            );
        }
    }

    #[test]
    fn letterboxed_pixels_lie_in_the_window() {
        // 4 pixels on rows 2 to 6 of 8, cells of 2 rows centred at 1, 3, 5, 7 from the edge.
        let axis = CellAxis::new(Grid::HalfPixel, 4, 2, 4, 8, 4);
        assert_eq!(axis.weights[0], [0.25, 0.75]);
        assert_eq!(axis.spans, [span(0, 1, 0, 1), span(1, 2, 1, 3), span(2, 3, 3, 4)]);
    }

    #[test]
    fn single_cells_and_pixels() {
        for grid in [Grid::HalfPixel, Grid::AlignCorners] {
            assert_eq!(CellAxis::new(grid, 3, 0, 1, 1, 1).spans, [span(0, 0, 0, 3)]);
            assert_eq!(CellAxis::new(grid, 1, 0, 9, 9, 1).spans, [span(0, 0, 0, 1)]);
        }
    }
}
