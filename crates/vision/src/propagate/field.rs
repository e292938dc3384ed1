//! Motion vectors of blocks.

/// Side of a block in small pixels.
pub const BLOCK: usize = 8;

/// Units of a vector per small pixel.
pub const UNITS: i32 = 16;

/// From a place in the current picture to where it was in the key, in [`UNITS`] of a small pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Vector {
    /// To the right.
    pub dx: i16,
    /// Down.
    pub dy: i16,
}

impl Vector {
    /// Of whole small pixels.
    pub fn whole(dx: i32, dy: i32) -> Self {
        Self {
            dx: (dx * UNITS).clamp(-32_000, 32_000) as i16,
            dy: (dy * UNITS).clamp(-32_000, 32_000) as i16,
        }
    }

    /// The nearest whole small pixels.
    pub fn rounded(self) -> (i32, i32) {
        let round = |v: i16| (i32::from(v) + UNITS / 2).div_euclid(UNITS);
        (round(self.dx), round(self.dy))
    }

    /// Both, added up.
    pub fn plus(self, other: Self) -> Self {
        Self {
            dx: self.dx.saturating_add(other.dx),
            dy: self.dy.saturating_add(other.dy),
        }
    }

    /// The way from `other` to this one.
    pub fn minus(self, other: Self) -> Self {
        Self {
            dx: self.dx.saturating_sub(other.dx),
            dy: self.dy.saturating_sub(other.dy),
        }
    }
}

/// A vector for each block of the current picture, and how well the block fits there.
///
/// Between the centres of four blocks vectors are interpolated; outside the outermost centres the outermost
/// vector counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MotionField {
    /// Blocks a row.
    pub columns: usize,
    /// Rows of blocks.
    pub rows: usize,
    /// Source pixels per small pixel.
    pub scale: usize,
    /// One a block, row by row.
    pub vectors: Vec<Vector>,
    /// Sum of absolute differences of each block's 64 pixels and those it was matched with.
    pub differences: Vec<u16>,
}

impl MotionField {
    /// No motion.
    pub fn still(columns: usize, rows: usize, scale: usize) -> Self {
        Self {
            columns,
            rows,
            scale,
            vectors: vec![Vector::default(); columns * rows],
            differences: vec![0; columns * rows],
        }
    }

    /// Takes another field of the same size over.
    ///
    /// # Panics
    /// If the sizes differ.
    pub fn copy_from(&mut self, other: &Self) {
        assert_eq!(
            (self.columns, self.rows, self.scale),
            (other.columns, other.rows, other.scale),
            "fields of one size"
        );
        self.vectors.copy_from_slice(&other.vectors);
        self.differences.copy_from_slice(&other.differences);
    }

    /// Whether nothing moves.
    pub fn is_still(&self) -> bool {
        self.vectors.iter().all(|&v| v == Vector::default())
    }

    /// The interpolated vector at source pixel (`x`, `y`) in source pixels, and the interpolated difference.
    pub fn at(&self, x: f32, y: f32) -> ([f32; 2], f32) {
        let side = (BLOCK * self.scale) as f32;
        let place = |p: f32, n: usize| {
            let g = ((p + 0.5) / side - 0.5).clamp(0.0, (n - 1) as f32);
            let first = (g as usize).min(n - 1);
            (first, (first + 1).min(n - 1), g - first as f32)
        };
        let (x0, x1, fx) = place(x, self.columns);
        let (y0, y1, fy) = place(y, self.rows);
        let corners = [
            (y0 * self.columns + x0, (1.0 - fx) * (1.0 - fy)),
            (y0 * self.columns + x1, fx * (1.0 - fy)),
            (y1 * self.columns + x0, (1.0 - fx) * fy),
            (y1 * self.columns + x1, fx * fy),
        ];
        let (mut v, mut d) = ([0.0; 2], 0.0);
        let pixels = self.scale as f32 / UNITS as f32;
        for (at, weight) in corners {
            v[0] += weight * f32::from(self.vectors[at].dx) * pixels;
            v[1] += weight * f32::from(self.vectors[at].dy) * pixels;
            d += weight * f32::from(self.differences[at]);
        }
        (v, d)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_round_to_the_nearest_pixel() {
        let v = |dx| Vector { dx, dy: 0 }.rounded().0;
        assert_eq!((v(0), v(7), v(8), v(-8), v(-9), v(24)), (0, 0, 1, 0, -1, 2));
        assert_eq!(Vector::whole(-3, 4).rounded(), (-3, 4));
    }

    #[test]
    fn between_block_centres_vectors_are_interpolated() {
        let mut field = MotionField::still(2, 1, 2);
        field.vectors[1] = Vector::whole(4, -2);
        // Centres at source pixels 7.5 and 23.5.
        assert_eq!(field.at(0.0, 0.0).0, [0.0, 0.0]);
        assert_eq!(field.at(15.5, 3.0).0, [4.0, -2.0]);
        assert_eq!(field.at(31.0, 9.0).0, [8.0, -4.0]);
    }
}
