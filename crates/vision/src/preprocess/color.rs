//! YUV to RGB in fixed point.

use crate::frame::{Colorimetry, Range};

/// Fraction bits of the samples that [`YuvToRgb`] takes.
pub const SAMPLE_BITS: u32 = 6;
const COEF_BITS: u32 = 13;
const SHIFT: u32 = SAMPLE_BITS + COEF_BITS;
const HALF: i32 = 1 << (SHIFT - 1);

/// The matrix of one colorimetry, 13 fraction bits
/// (<https://www.itu.int/rec/R-REC-BT.601>, <https://www.itu.int/rec/R-REC-BT.709>).
#[derive(Debug, Clone, Copy)]
pub struct YuvToRgb {
    black: i16,
    y: i16,
    r_v: i16,
    g_u: i16,
    g_v: i16,
    b_u: i16,
}

impl YuvToRgb {
    /// The matrix of `color`.
    pub fn new(color: Colorimetry) -> Self {
        let (kr, kb) = color.matrix.weights();
        let kg = 1.0 - kr - kb;
        let (black, luma, chroma) = match color.range {
            Range::Limited => (16, 255.0 / 219.0, 255.0 / 224.0),
            Range::Full => (0, 1.0, 1.0),
        };
        let fixed = |x: f64| (x * f64::from(1 << COEF_BITS)).round() as i16;
        Self {
            black: black << SAMPLE_BITS,
            y: fixed(luma),
            r_v: fixed(2.0 * (1.0 - kr) * chroma),
            g_u: fixed(2.0 * (1.0 - kb) * kb / kg * chroma),
            g_v: fixed(2.0 * (1.0 - kr) * kr / kg * chroma),
            b_u: fixed(2.0 * (1.0 - kb) * chroma),
        }
    }

    /// One pixel: samples with [`SAMPLE_BITS`] fraction bits to R, G, B.
    #[inline(always)]
    pub fn pixel(&self, y: i16, u: i16, v: i16) -> [u8; 3] {
        // Products of 16-bit factors and 16-bit limits: 8 at a time on every target.
        let mul = |a: i16, b: i16| i32::from(a) * i32::from(b);
        let (u, v) = (u - (128 << SAMPLE_BITS), v - (128 << SAMPLE_BITS));
        let luma = mul(y - self.black, self.y) + HALF;
        let r = luma + mul(v, self.r_v);
        let g = luma - mul(u, self.g_u) - mul(v, self.g_v);
        let b = luma + mul(u, self.b_u);
        [r, g, b].map(|c| ((c >> SHIFT) as i16).clamp(0, 255) as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Matrix;

    fn rgb(matrix: Matrix, range: Range, y: i16, u: i16, v: i16) -> [u8; 3] {
        let s = |x: i16| x << SAMPLE_BITS;
        YuvToRgb::new(Colorimetry { matrix, range }).pixel(s(y), s(u), s(v))
    }

    #[test]
    fn primaries() {
        // 8-bit codes of BT.601 and BT.709 colour bars at 100 %.
        assert_eq!(rgb(Matrix::Bt601, Range::Limited, 81, 90, 240), [254, 0, 0]);
        assert_eq!(rgb(Matrix::Bt601, Range::Limited, 145, 54, 34), [0, 255, 1]);
        assert_eq!(rgb(Matrix::Bt601, Range::Limited, 41, 240, 110), [0, 0, 255]);
        assert_eq!(rgb(Matrix::Bt709, Range::Limited, 63, 102, 240), [255, 1, 0]);
        assert_eq!(rgb(Matrix::Bt601, Range::Full, 76, 85, 255), [254, 0, 0]);
        assert_eq!(rgb(Matrix::Bt709, Range::Full, 54, 99, 255), [254, 0, 0]);
        for matrix in Matrix::ALL {
            assert_eq!(rgb(matrix, Range::Limited, 16, 128, 128), [0, 0, 0]);
            assert_eq!(rgb(matrix, Range::Limited, 235, 128, 128), [255, 255, 255]);
            assert_eq!(rgb(matrix, Range::Full, 0, 128, 128), [0, 0, 0]);
            assert_eq!(rgb(matrix, Range::Full, 255, 128, 128), [255, 255, 255]);
        }
    }

    #[test]
    fn within_one_of_the_real_matrix() {
        for matrix in Matrix::ALL {
            let (kr, kb) = match matrix {
                Matrix::Bt601 => (0.299, 0.114),
                Matrix::Bt709 => (0.2126, 0.0722),
                Matrix::Bt2020 => (0.2627, 0.0593),
            };
            let kg = 1.0 - kr - kb;
            for y in (0..256).step_by(5) {
                for u in (0..256).step_by(5) {
                    for v in (0..256).step_by(5) {
                        let got = rgb(matrix, Range::Full, y, u, v);
                        let (y, cb, cr) = (f64::from(y), f64::from(u) - 128.0, f64::from(v) - 128.0);
                        let r = y + 2.0 * (1.0 - kr) * cr;
                        let b = y + 2.0 * (1.0 - kb) * cb;
                        let g = (y - kr * r - kb * b) / kg;
                        for (got, real) in got.into_iter().zip([r, g, b]) {
                            assert!((f64::from(got) - real.clamp(0.0, 255.0)).abs() < 0.55);
                        }
                    }
                }
            }
        }
    }
}
