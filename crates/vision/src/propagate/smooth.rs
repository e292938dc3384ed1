//! Less flicker: mixes a key's logits with those of the previous key, moved to where the picture has moved.

use super::field::MotionField;
use crate::model::contract::Grid;
use crate::tensor::{InputSize, Placement};

/// Up to this difference of a block (of 64 pixels) the key before counts in full ...
const SAME: f32 = 3.0 * 64.0;
/// ... and from this on it does not count: what is seen there is something else.
const OTHER: f32 = 9.0 * 64.0;

/// Where the cells of an output lie in the frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CellGrid {
    /// Frame pixel of the first cell's centre, and frame pixels from cell to cell, across.
    across: (f32, f32),
    /// The same down.
    down: (f32, f32),
    width: usize,
    height: usize,
}

impl CellGrid {
    /// `width` x `height` cells that lie as in `grid` on an input of `size`, of which the picture of `frame` (width,
    /// height) fills `placement`.
    pub fn new(
        grid: Grid,
        size: InputSize,
        placement: Placement,
        frame: (usize, usize),
        (width, height): (usize, usize),
    ) -> Self {
        let axis = |cells: usize, side: usize, start: usize, length: usize, pixels: usize| {
            let step = match grid {
                Grid::HalfPixel => side as f32 / cells as f32,
                Grid::AlignCorners => (side.max(2) - 1) as f32 / (cells.max(2) - 1) as f32,
            };
            let first = match grid {
                Grid::HalfPixel => step / 2.0,
                Grid::AlignCorners => 0.5,
            };
            // From the input's edge, in input pixels, to frame pixels.
            let scale = pixels as f32 / length as f32;
            ((first - start as f32) * scale - 0.5, step * scale)
        };
        Self {
            across: axis(width, size.width, placement.x, placement.width, frame.0),
            down: axis(height, size.height, placement.y, placement.height, frame.1),
            width,
            height,
        }
    }
}

/// One cell's share of the key before: which cells it comes from, and their weights.
#[derive(Debug, Clone, Copy, Default)]
struct Tap {
    at: [u32; 4],
    weights: [f32; 4],
    /// Which of the four is nearest.
    nearest: usize,
    /// 1 where the key before shows the same thing, 0 where it shows another.
    share: f32,
}

/// How much the key before counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Smoothing {
    /// Weight of its logits, 0 to below 1.
    pub strength: f32,
    /// What its label has ahead of the others, in logits: at 1 another must be e times as likely to replace it.
    pub hold: f32,
}

impl Smoothing {
    /// None.
    pub const OFF: Self = Self {
        strength: 0.0,
        hold: 0.0,
    };

    /// Whether it changes anything.
    pub fn is_on(&self) -> bool {
        self.strength > 0.0 || self.hold > 0.0
    }
}

impl Default for Smoothing {
    fn default() -> Self {
        Self {
            strength: 0.5,
            hold: 0.0,
        }
    }
}

/// Mixes each key's logits with the last key's.
#[derive(Debug, Default)]
pub struct LogitSmoother {
    last: Vec<f32>,
    /// The last key's label in each cell.
    labels: Vec<u8>,
    best: Vec<f32>,
    taps: Vec<Tap>,
}

impl LogitSmoother {
    /// Forgets the last key.
    pub fn reset(&mut self) {
        self.last.clear();
    }

    /// Mixes `logits` (`[C, H, W]`) with the last key's, as far as they belong to the same thing, and keeps the result
    /// as the last key's. `field` leads from this key to the last one; without it, or where the shape is new, `logits`
    /// stay as they are. Allocates only when the shape changes.
    ///
    /// # Panics
    /// If `logits` has no whole number of classes for the grid.
    pub fn mix(
        &mut self,
        logits: &mut [f32],
        grid: &CellGrid,
        field: Option<&MotionField>,
        smoothing: Smoothing,
    ) {
        let cells = grid.width * grid.height;
        if cells == 0 {
            return;
        }
        assert_eq!(logits.len() % cells, 0, "logits of {cells} cells");
        match field {
            Some(field) if self.last.len() == logits.len() => {
                self.find_taps(grid, field);
                let planes = logits.chunks_exact_mut(cells).zip(self.last.chunks_exact(cells));
                for (new, last) in planes {
                    mix_plane(new, last, &self.taps, smoothing.strength);
                }
                self.last.copy_from_slice(logits);
                for (cell, tap) in self.taps.iter().enumerate() {
                    let label = usize::from(self.labels[tap.at[tap.nearest] as usize]);
                    logits[label * cells + cell] += smoothing.hold * tap.share;
                }
            }
            _ => {
                self.last.clear();
                self.last.extend_from_slice(logits);
            }
        }
        self.find_labels(logits, cells);
    }

    /// The label with the largest logit in each cell.
    fn find_labels(&mut self, logits: &[f32], cells: usize) {
        self.labels.clear();
        self.labels.resize(cells, 0);
        self.best.clear();
        self.best.resize(cells, f32::NEG_INFINITY);
        for (class, plane) in logits.chunks_exact(cells).enumerate().take(256) {
            for ((label, best), &logit) in self.labels.iter_mut().zip(&mut self.best).zip(plane) {
                let wins = logit > *best;
                *best = if wins { logit } else { *best };
                *label = if wins { class as u8 } else { *label };
            }
        }
    }

    fn find_taps(&mut self, grid: &CellGrid, field: &MotionField) {
        self.taps.clear();
        let (width, height) = (grid.width, grid.height);
        for row in 0..height {
            let y = grid.down.0 + row as f32 * grid.down.1;
            for column in 0..width {
                let x = grid.across.0 + column as f32 * grid.across.1;
                let ([dx, dy], difference) = field.at(x, y);
                let share = ((OTHER - difference) / (OTHER - SAME)).clamp(0.0, 1.0);
                let (from_x, from_y) = (column as f32 + dx / grid.across.1, row as f32 + dy / grid.down.1);
                let is_outside = from_x < -0.5
                    || from_y < -0.5
                    || from_x > width as f32 - 0.5
                    || from_y > height as f32 - 0.5;
                let share = if is_outside { 0.0 } else { share };
                let (x, y) = (
                    from_x.clamp(0.0, (width - 1) as f32),
                    from_y.clamp(0.0, (height - 1) as f32),
                );
                let (x0, y0) = (x as usize, y as usize);
                let (x1, y1) = ((x0 + 1).min(width - 1), (y0 + 1).min(height - 1));
                let (fx, fy) = (x - x0 as f32, y - y0 as f32);
                self.taps.push(Tap {
                    at: [y0 * width + x0, y0 * width + x1, y1 * width + x0, y1 * width + x1]
                        .map(|i| i as u32),
                    weights: [(1.0 - fx) * (1.0 - fy), fx * (1.0 - fy), (1.0 - fx) * fy, fx * fy],
                    nearest: usize::from(fx >= 0.5) + 2 * usize::from(fy >= 0.5),
                    share,
                });
            }
        }
    }
}

/// Mixes one class's logits: `strength` of what the taps take from `last`, as far as it is the same thing.
fn mix_plane(new: &mut [f32], last: &[f32], taps: &[Tap], strength: f32) {
    for (new, tap) in new.iter_mut().zip(taps) {
        let [a, b, c, d] = tap.weights;
        let [at_a, at_b, at_c, at_d] = tap.at.map(|at| last[at as usize]);
        let moved = at_a * a + at_b * b + at_c * c + at_d * d;
        let share = tap.share * strength;
        // A logit that is not finite would spread.
        if share > 0.0 && moved.is_finite() {
            *new = *new * (1.0 - share) + moved * share;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::field::Vector;
    use super::*;

    const HALF: Smoothing = Smoothing {
        strength: 0.5,
        hold: 0.0,
    };

    /// 8x6 cells of 10 pixels on a frame of 80x60; the field's blocks are of 8 pixels.
    fn grid() -> CellGrid {
        let size = InputSize {
            width: 80,
            height: 60,
        };
        let placement = Placement {
            x: 0,
            y: 0,
            width: 80,
            height: 60,
        };
        CellGrid::new(Grid::HalfPixel, size, placement, (80, 60), (8, 6))
    }

    /// One class, hot in one cell.
    fn hot(cell: usize) -> Vec<f32> {
        let mut logits = vec![0.0; 48];
        logits[cell] = 8.0;
        logits
    }

    #[test]
    fn cells_lie_in_the_middle_of_their_pixels() {
        assert_eq!(grid().across, (4.5, 10.0));
        assert_eq!(grid().down, (4.5, 10.0));
    }

    #[test]
    fn the_last_key_comes_from_where_the_picture_was() {
        let mut smoother = LogitSmoother::default();
        smoother.mix(&mut hot(2 * 8 + 3), &grid(), None, HALF);
        // Everything has moved 10 pixels, one cell, to the right: it was 10 pixels to the left.
        let mut field = MotionField::still(10, 8, 1);
        field.vectors.fill(Vector::whole(-10, 0));
        let mut logits = hot(2 * 8 + 4);
        smoother.mix(&mut logits, &grid(), Some(&field), HALF);
        assert_eq!(logits, hot(2 * 8 + 4), "both agree after the motion");
        let mut logits = vec![0.0; 48];
        smoother.mix(&mut logits, &grid(), Some(&field), HALF);
        assert_eq!(logits[2 * 8 + 5], 4.0, "half of the last key, moved on");
    }

    #[test]
    fn what_has_changed_is_not_mixed() {
        let mut smoother = LogitSmoother::default();
        smoother.mix(&mut hot(20), &grid(), None, HALF);
        let mut field = MotionField::still(10, 8, 1);
        field.differences.fill(20 * 64);
        let mut logits = hot(9);
        smoother.mix(&mut logits, &grid(), Some(&field), HALF);
        assert_eq!(logits, hot(9));
    }

    #[test]
    fn without_a_field_or_after_a_reset_nothing_is_mixed() {
        let mut smoother = LogitSmoother::default();
        smoother.mix(&mut hot(20), &grid(), None, HALF);
        let mut logits = hot(9);
        smoother.mix(&mut logits, &grid(), None, HALF);
        assert_eq!(logits, hot(9));
        smoother.reset();
        smoother.mix(&mut logits, &grid(), Some(&MotionField::still(10, 8, 1)), HALF);
        assert_eq!(logits, hot(9));
    }

    #[test]
    fn infinite_logits_do_not_spread() {
        let mut smoother = LogitSmoother::default();
        smoother.mix(&mut [f32::INFINITY; 48], &grid(), None, HALF);
        let mut logits = hot(9);
        smoother.mix(&mut logits, &grid(), Some(&MotionField::still(10, 8, 1)), HALF);
        assert_eq!(logits, hot(9));
    }

    #[test]
    fn the_last_label_stays_unless_another_is_clearly_likelier() {
        let smoothing = Smoothing {
            strength: 0.0,
            hold: 1.0,
        };
        let two = |a: f32, b: f32| [vec![a; 48], vec![b; 48]].concat();
        let first = |logits: &[f32]| logits[0] > logits[48];
        let field = MotionField::still(10, 8, 1);
        let mut smoother = LogitSmoother::default();
        smoother.mix(&mut two(1.0, 0.0), &grid(), None, smoothing);
        let mut a_little = two(0.0, 0.8);
        smoother.mix(&mut a_little, &grid(), Some(&field), smoothing);
        assert!(first(&a_little));
        let mut clearly = two(0.0, 1.2);
        smoother.mix(&mut clearly, &grid(), Some(&field), smoothing);
        assert!(!first(&clearly));
        let mut back = two(0.8, 0.0);
        smoother.mix(&mut back, &grid(), Some(&field), smoothing);
        assert!(!first(&back), "now the second label is the one that stays");
    }
}
