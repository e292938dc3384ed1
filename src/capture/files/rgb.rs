//! RGB to I420, as the video stages want it.

use vision::frame::{Colorimetry, Matrix, Range};

/// What [`rgb_to_i420`] makes: BT.601, limited range.
pub const RGB_TO_I420_COLOR: Colorimetry = Colorimetry {
    matrix: Matrix::Bt601,
    range: Range::Limited,
};

// ITU-R BT.601-7 with 219 (luma) and 224 (chroma) steps for 0..255, times 2^16. Each luma row adds up
// to 219/255, each chroma row to exactly 0, so grey has no tint.
const Y: [i32; 3] = [16829, 33039, 6416];
const U: [i32; 3] = [-9714, -19070, 28784];
const V: [i32; 3] = [28784, -24103, -4681];

#[inline]
fn dot(weights: [i32; 3], rgb: [i32; 3]) -> i32 {
    weights[0] * rgb[0] + weights[1] * rgb[1] + weights[2] * rgb[2]
}

/// Converts `width` x `height` pixels of R G B, row by row without padding, to I420 in BT.601 limited
/// range. Chroma is the mean of the two by two pixels that share it (of those that exist at an odd edge).
///
/// # Panics
/// If `rgb` has fewer than `3 * width * height` bytes, or `out` fewer than an I420 picture of that size.
pub fn rgb_to_i420(width: usize, height: usize, rgb: &[u8], out: &mut [u8]) {
    let (half_w, half_h) = (width.div_ceil(2), height.div_ceil(2));
    let (luma, chroma) = out.split_at_mut(width * height);
    let (us, vs) = chroma.split_at_mut(half_w * half_h);
    let rgb = &rgb[..3 * width * height];
    for (value, pixel) in luma.iter_mut().zip(rgb.chunks_exact(3)) {
        let pixel = [pixel[0], pixel[1], pixel[2]].map(i32::from);
        *value = (((dot(Y, pixel) + (1 << 15)) >> 16) + 16) as u8;
    }
    for cy in 0..half_h {
        let top = &rgb[2 * cy * 3 * width..][..3 * width];
        // An odd last row counts twice, which leaves the mean as it is; so does an odd last column.
        let below = (2 * cy + 1).min(height - 1);
        let bottom = &rgb[below * 3 * width..][..3 * width];
        for cx in 0..half_w {
            let left = 2 * cx;
            let right = (left + 1).min(width - 1);
            let mut sum = [0i32; 3];
            for row in [top, bottom] {
                for x in [left, right] {
                    for (total, &value) in sum.iter_mut().zip(&row[3 * x..3 * x + 3]) {
                        *total += i32::from(value);
                    }
                }
            }
            // The sum of four pixels: two more bits to shift out.
            us[cy * half_w + cx] = (((dot(U, sum) + (1 << 17)) >> 18) + 128) as u8;
            vs[cy * half_w + cx] = (((dot(V, sum) + (1 << 17)) >> 18) + 128) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vision::frame::PixelFormat;

    /// The standard's definition, in floating point.
    fn reference(width: usize, height: usize, rgb: &[u8]) -> Vec<f64> {
        let (kr, kb) = (0.299, 0.114);
        let ycc = |p: [f64; 3]| {
            let [r, g, b] = p.map(|v| v / 255.0);
            let y = kr * r + (1.0 - kr - kb) * g + kb * b;
            [
                16.0 + 219.0 * y,
                128.0 + 224.0 * (b - y) / (2.0 * (1.0 - kb)),
                128.0 + 224.0 * (r - y) / (2.0 * (1.0 - kr)),
            ]
        };
        let at = |x: usize, y: usize| -> [f64; 3] {
            std::array::from_fn(|c| f64::from(rgb[3 * (y * width + x) + c]))
        };
        let mut out = Vec::new();
        for y in 0..height {
            for x in 0..width {
                out.push(ycc(at(x, y))[0]);
            }
        }
        for plane in 1..3 {
            for cy in 0..height.div_ceil(2) {
                for cx in 0..width.div_ceil(2) {
                    let mut mean = [0.0; 3];
                    let mut count = 0.0;
                    for y in 2 * cy..(2 * cy + 2).min(height) {
                        for x in 2 * cx..(2 * cx + 2).min(width) {
                            count += 1.0;
                            for (m, v) in mean.iter_mut().zip(at(x, y)) {
                                *m += v;
                            }
                        }
                    }
                    out.push(ycc(mean.map(|m| m / count))[plane]);
                }
            }
        }
        out
    }

    proptest! {
        #[test]
        fn agrees_with_the_standard(
            (width, height, rgb) in (1usize..9, 1usize..9).prop_flat_map(|(w, h)| {
                (Just(w), Just(h), prop::collection::vec(any::<u8>(), 3 * w * h))
            })
        ) {
            let mut out = vec![0; PixelFormat::I420.packed_bytes(width, height)];
            rgb_to_i420(width, height, &rgb, &mut out);
            for (i, (got, want)) in out.iter().zip(reference(width, height, &rgb)).enumerate() {
                prop_assert!((f64::from(*got) - want).abs() < 0.51, "sample {i}: {got}, {want}");
            }
        }
    }

    #[test]
    fn known_colours() {
        for (rgb, yuv) in [
            ([0, 0, 0], [16, 128, 128]),
            ([255, 255, 255], [235, 128, 128]),
            ([255, 0, 0], [81, 90, 240]),
            ([0, 255, 0], [145, 54, 34]),
            ([0, 0, 255], [41, 240, 110]),
            ([77, 77, 77], [82, 128, 128]),
        ] {
            let mut out = [0; 6];
            rgb_to_i420(2, 2, &rgb.repeat(4), &mut out);
            assert_eq!(out, [yuv[0], yuv[0], yuv[0], yuv[0], yuv[1], yuv[2]], "{rgb:?}");
        }
    }

    #[test]
    fn weights_are_those_of_the_standard() {
        let scale = f64::from(1 << 16) / 255.0;
        for (weights, exact) in [
            (Y, [0.299 * 219.0, 0.587 * 219.0, 0.114 * 219.0]),
            (U, [-0.299 / 1.772 * 224.0, -0.587 / 1.772 * 224.0, 0.5 * 224.0]),
            (V, [0.5 * 224.0, -0.587 / 1.402 * 224.0, -0.114 / 1.402 * 224.0]),
        ] {
            for (w, e) in weights.iter().zip(exact) {
                assert!((f64::from(*w) - e * scale).abs() <= 1.0, "{w} {}", e * scale);
            }
        }
        assert_eq!((U.iter().sum::<i32>(), V.iter().sum::<i32>()), (0, 0));
    }
}
