//! Which pixels lie on the border of their class.

/// Rows that are reused.
#[derive(Debug, Default)]
pub struct Contour {
    /// Lowest and highest label of each column of the square, the outermost columns repeated past the ends.
    low: Vec<u8>,
    high: Vec<u8>,
    /// Highest label of each square.
    highest: Vec<u8>,
}

/// Pixels that a line takes on each side of a border in a picture of `height` rows: 1 below 360, then 2, from
/// 680 on 3, one more for each further 320, at most 8.
pub fn radius(height: usize) -> usize {
    ((height + 280) / 320).clamp(1, 8)
}

impl Contour {
    /// Writes the labels of row `y` into `out`, and `hidden` in place of those that lie on no border: where the
    /// square of `2 * radius + 1` pixels around, as far as it lies in the mask, holds only one label.
    ///
    /// `labels` has rows of `out.len()` pixels.
    pub fn row(&mut self, labels: &[u8], y: usize, radius: usize, hidden: u8, out: &mut [u8]) {
        let width = out.len();
        let height = labels.len() / width;
        let centre = &labels[y * width..][..width];
        self.low.resize(width + 2 * radius, 0);
        self.high.resize(width + 2 * radius, 0);
        self.highest.resize(width, 0);

        let low = &mut self.low[radius..radius + width];
        let high = &mut self.high[radius..radius + width];
        low.copy_from_slice(centre);
        high.copy_from_slice(centre);
        for other in y.saturating_sub(radius)..(y + radius + 1).min(height) {
            let row = &labels[other * width..][..width];
            for ((low, high), &label) in low.iter_mut().zip(high.iter_mut()).zip(row) {
                *low = label.min(*low);
                *high = label.max(*high);
            }
        }
        for columns in [&mut self.low, &mut self.high] {
            let (first, last) = (columns[radius], columns[radius + width - 1]);
            columns[..radius].fill(first);
            columns[radius + width..].fill(last);
        }

        // `out` holds the lowest until it holds the result.
        out.copy_from_slice(&self.low[..width]);
        self.highest.copy_from_slice(&self.high[..width]);
        for shift in 1..=2 * radius {
            let columns = self.low[shift..].iter().zip(&self.high[shift..]);
            for ((lowest, highest), (&low, &high)) in out.iter_mut().zip(&mut self.highest).zip(columns) {
                *lowest = low.min(*lowest);
                *highest = high.max(*highest);
            }
        }
        for ((out, &highest), &label) in out.iter_mut().zip(&self.highest).zip(centre) {
            *out = if *out == highest { hidden } else { label };
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn equals_looking_around(
            (width, height) in (1..30_usize, 1..30_usize),
            radius in 1..4_usize,
            seed in prop::collection::vec(0..3_u8, 900),
            blocky in any::<bool>(),
        ) {
            let label = |x: usize, y: usize| {
                if blocky { seed[y / 7 * 30 + x / 7] } else { seed[y * 30 + x].min(1) * seed[x] }
            };
            let labels: Vec<u8> = (0..width * height).map(|i| label(i % width, i / width)).collect();
            let mut contour = Contour::default();
            let mut out = vec![0; width];
            for y in 0..height {
                contour.row(&labels, y, radius, 99, &mut out);
                for (x, &got) in out.iter().enumerate() {
                    let mut alone = true;
                    for ny in y.saturating_sub(radius)..=(y + radius).min(height - 1) {
                        for nx in x.saturating_sub(radius)..=(x + radius).min(width - 1) {
                            alone &= label(nx, ny) == label(x, y);
                        }
                    }
                    prop_assert_eq!(got, if alone { 99 } else { label(x, y) });
                }
            }
        }
    }

    #[test]
    fn lines_grow_with_the_picture() {
        assert_eq!(
            [1, 359, 360, 679, 680, 1080, 100_000].map(radius),
            [1, 1, 2, 2, 3, 4, 8]
        );
    }
}
