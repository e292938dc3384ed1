//! A picture of one size and colorimetry into another: scaled whole, with black bars. Pure.
//!
//! For sources that come back with another size while the stream keeps the one it began with.

use crate::frame::{Colorimetry, FrameFormat, ImageRef, PixelFormat, Range};

/// From which samples an output sample is made: the first one's index, and the second one's weight in 256ths.
#[derive(Debug, Clone, Copy)]
struct Tap {
    first: usize,
    second: usize,
    weight: u32,
}

/// Taps for `out` samples over `from` samples, middle on middle.
fn taps(from: usize, out: usize) -> Vec<Tap> {
    (0..out)
        .map(|at| {
            let centre = (at as f64 + 0.5) * from as f64 / out as f64 - 0.5;
            let centre = centre.clamp(0.0, (from - 1) as f64);
            let first = centre as usize;
            Tap {
                first,
                second: (first + 1).min(from - 1),
                weight: ((centre - first as f64) * 256.0).round() as u32,
            }
        })
        .collect()
}

/// One plane's window in the output, and how it is filled.
#[derive(Debug)]
struct PlaneFit {
    x: usize,
    y: usize,
    columns: Vec<Tap>,
    rows: Vec<Tap>,
}

/// Conversion between colorimetries: `luma = 16.16 * (Y - black) + U + V parts`, `chroma = U and V parts`.
#[derive(Debug)]
struct Recolor {
    from_black: i32,
    to_black: i32,
    luma: [i32; 3],
    u: [i32; 2],
    v: [i32; 2],
}

/// Fits I420 pictures of one format into I420 pictures of another.
#[derive(Debug)]
pub struct Letterbox {
    from: FrameFormat,
    to: FrameFormat,
    planes: [PlaneFit; 3],
    recolor: Option<Recolor>,
}

impl Letterbox {
    /// From `from` to `to`, both I420.
    ///
    /// # Panics
    /// If one of them is not I420.
    pub fn new(from: FrameFormat, to: FrameFormat) -> Self {
        for format in [from, to] {
            assert_eq!(format.pixel, PixelFormat::I420, "pictures to fit are I420");
        }
        let scale = (to.width as f64 / from.width as f64).min(to.height as f64 / from.height as f64);
        let side = |from: usize, to: usize| ((from as f64 * scale).round() as usize).clamp(1, to);
        let (width, height) = (side(from.width, to.width), side(from.height, to.height));
        // Even, so that chroma samples lie where their pixels do.
        let (x, y) = (((to.width - width) / 2) & !1, ((to.height - height) / 2) & !1);
        let chroma = |n: usize| n.div_ceil(2);
        let luma_fit = PlaneFit {
            x,
            y,
            columns: taps(from.width, width),
            rows: taps(from.height, height),
        };
        let chroma_fit = || PlaneFit {
            x: x / 2,
            y: y / 2,
            columns: taps(chroma(from.width), chroma(width)),
            rows: taps(chroma(from.height), chroma(height)),
        };
        Self {
            from,
            to,
            planes: [luma_fit, chroma_fit(), chroma_fit()],
            recolor: (from.color != to.color).then(|| Recolor::new(from.color, to.color)),
        }
    }

    /// The format of what is fitted.
    pub fn from(&self) -> FrameFormat {
        self.from
    }

    /// Fits `picture` (packed, of [`from`](Self::from)) into the first bytes of `out`.
    ///
    /// # Panics
    /// If one of the slices is too short for its format.
    pub fn run(&self, picture: &[u8], out: &mut [u8]) {
        let image = match ImageRef::packed(self.from, picture) {
            Ok(image) => image,
            Err(why) => panic!("{why}"),
        };
        let black = match self.to.color.range {
            Range::Limited => 16,
            Range::Full => 0,
        };
        let mut rest = &mut out[..self.to.packed_bytes()];
        for (index, fit) in self.planes.iter().enumerate() {
            let size = PixelFormat::I420.plane_size(index, self.to.width, self.to.height);
            let (plane, tail) = rest.split_at_mut(size.row_bytes * size.rows);
            rest = tail;
            // Bars are black in the output's colours; what is recoloured is filled in at the end.
            plane.fill(if index == 0 { black } else { 128 });
            let from = image.plane(index);
            let rows = plane.chunks_exact_mut(size.row_bytes).skip(fit.y);
            for (row, tap) in rows.zip(&fit.rows) {
                let width = PixelFormat::I420
                    .plane_size(index, self.from.width, self.from.height)
                    .row_bytes;
                let (upper, lower) = (from.row(tap.first, width), from.row(tap.second, width));
                for (sample, column) in row[fit.x..].iter_mut().zip(&fit.columns) {
                    let mix = |row: &[u8]| {
                        u32::from(row[column.first]) * (256 - column.weight)
                            + u32::from(row[column.second]) * column.weight
                    };
                    let value = mix(upper) * (256 - tap.weight) + mix(lower) * tap.weight;
                    *sample = ((value + 32_768) >> 16) as u8;
                }
            }
        }
        if let Some(recolor) = &self.recolor {
            self.recolor(recolor, out);
        }
    }

    fn recolor(&self, recolor: &Recolor, out: &mut [u8]) {
        let luma = PixelFormat::I420.plane_size(0, self.to.width, self.to.height);
        let chroma = PixelFormat::I420.plane_size(1, self.to.width, self.to.height);
        let (y_plane, rest) = out.split_at_mut(luma.row_bytes * luma.rows);
        let (u_plane, v_plane) = rest.split_at_mut(chroma.row_bytes * chroma.rows);
        let [y_fit, u_fit, _] = &self.planes;
        for row in 0..u_fit.rows.len() {
            let at = (u_fit.y + row) * chroma.row_bytes + u_fit.x;
            for column in 0..u_fit.columns.len() {
                let (u, v) = (u_plane[at + column], v_plane[at + column]);
                let (cu, cv) = (i32::from(u) - 128, i32::from(v) - 128);
                u_plane[at + column] = byte(128, recolor.u[0] * cu + recolor.u[1] * cv);
                v_plane[at + column] = byte(128, recolor.v[0] * cu + recolor.v[1] * cv);
                let part = recolor.luma[1] * cu + recolor.luma[2] * cv;
                for y in (2 * row..2 * row + 2).filter(|y| *y < y_fit.rows.len()) {
                    for x in (2 * column..2 * column + 2).filter(|x| *x < y_fit.columns.len()) {
                        let sample = &mut y_plane[(y_fit.y + y) * luma.row_bytes + y_fit.x + x];
                        let bright = i32::from(*sample) - recolor.from_black;
                        *sample = byte(recolor.to_black, recolor.luma[0] * bright + part);
                    }
                }
            }
        }
    }
}

/// `base` and a value in 65536ths, rounded, as a byte.
fn byte(base: i32, value: i32) -> u8 {
    (base + ((value + 32_768) >> 16)).clamp(0, 255) as u8
}

impl Recolor {
    fn new(from: Colorimetry, to: Colorimetry) -> Self {
        let (kr, kb) = from.matrix.weights();
        let (tr, tb) = to.matrix.weights();
        let scale = |range: Range| match range {
            Range::Limited => (16, 219.0, 224.0),
            Range::Full => (0, 255.0, 255.0),
        };
        let ((from_black, from_y, from_c), (to_black, to_y, to_c)) = (scale(from.range), scale(to.range));
        // R, G and B less luma, for chroma of 1 (half the way from grey to the purest colour is 0.5).
        let red = [0.0, 2.0 * (1.0 - kr)];
        let blue = [2.0 * (1.0 - kb), 0.0];
        let green = [-kb * blue[0] / (1.0 - kr - kb), -kr * red[1] / (1.0 - kr - kb)];
        let luma: [f64; 2] = std::array::from_fn(|c| tr * red[c] + (1.0 - tr - tb) * green[c] + tb * blue[c]);
        let u: [f64; 2] = std::array::from_fn(|c| (blue[c] - luma[c]) / (2.0 * (1.0 - tb)));
        let v: [f64; 2] = std::array::from_fn(|c| (red[c] - luma[c]) / (2.0 * (1.0 - tr)));
        let fixed = |value: f64| (value * 65_536.0).round() as i32;
        Self {
            from_black,
            to_black,
            luma: [
                fixed(to_y / from_y),
                fixed(luma[0] * to_y / from_c),
                fixed(luma[1] * to_y / from_c),
            ],
            u: u.map(|value| fixed(value * to_c / from_c)),
            v: v.map(|value| fixed(value * to_c / from_c)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Matrix;
    use proptest::prelude::*;

    fn i420(width: usize, height: usize) -> FrameFormat {
        FrameFormat::new(PixelFormat::I420, width, height)
    }

    fn flat(format: FrameFormat, yuv: [u8; 3]) -> Vec<u8> {
        let luma = format.width * format.height;
        let chroma = (format.packed_bytes() - luma) / 2;
        [(yuv[0], luma), (yuv[1], chroma), (yuv[2], chroma)]
            .into_iter()
            .flat_map(|(value, n)| std::iter::repeat_n(value, n))
            .collect()
    }

    proptest! {
        #[test]
        fn a_flat_picture_stays_flat_inside_black_bars(
            from in (1usize..80, 1usize..80), to in (1usize..80, 1usize..80)
        ) {
            let (from, to) = (i420(from.0, from.1), i420(to.0, to.1));
            let mut out = vec![7; to.packed_bytes()];
            Letterbox::new(from, to).run(&flat(from, [200, 90, 160]), &mut out);
            let luma = &out[..to.width * to.height];
            prop_assert!(luma.iter().all(|&y| y == 200 || y == 16));
            prop_assert!(luma.contains(&200));
            prop_assert!(out[luma.len()..].iter().all(|&c| [90, 160, 128].contains(&c)));
        }

        #[test]
        fn the_same_size_is_a_copy(width in 1usize..50, height in 1usize..50) {
            let format = i420(width, height);
            let picture: Vec<u8> = (0..format.packed_bytes()).map(|i| (i * 37) as u8).collect();
            let mut out = vec![0; picture.len()];
            Letterbox::new(format, format).run(&picture, &mut out);
            prop_assert_eq!(out, picture);
        }
    }

    #[test]
    fn bars_are_where_the_sides_differ() {
        let (from, to) = (i420(160, 90), i420(640, 480));
        let mut out = vec![0; to.packed_bytes()];
        Letterbox::new(from, to).run(&flat(from, [200, 128, 128]), &mut out);
        let column: Vec<u8> = (0..480).map(|y| out[y * 640 + 320]).collect();
        assert_eq!(column.iter().filter(|&&y| y == 200).count(), 360);
        assert_eq!(
            (column[59], column[60], column[419], column[420]),
            (16, 200, 200, 16)
        );
    }

    #[test]
    fn colours_are_the_same_colours_in_the_other_colorimetry() {
        // Red in each colorimetry, rounded (ITU-R BT.601, BT.709).
        let red = |matrix, range| match (matrix, range) {
            (Matrix::Bt601, Range::Limited) => [81, 90, 240],
            (Matrix::Bt709, Range::Limited) => [63, 102, 240],
            (Matrix::Bt601, Range::Full) => [76, 85, 255],
            (Matrix::Bt709, Range::Full) => [54, 99, 255],
            (Matrix::Bt2020, Range::Limited) => [74, 97, 240],
            (Matrix::Bt2020, Range::Full) => [67, 92, 255],
        };
        let all = Matrix::ALL
            .into_iter()
            .flat_map(|matrix| [Range::Limited, Range::Full].map(|range| Colorimetry { matrix, range }));
        for a in all.clone() {
            for b in all.clone() {
                let format = |color| FrameFormat { color, ..i420(8, 6) };
                let mut out = vec![0; format(b).packed_bytes()];
                Letterbox::new(format(a), format(b)).run(&flat(format(a), red(a.matrix, a.range)), &mut out);
                let found = [out[0], out[48], out[60]];
                for (found, expected) in found.iter().zip(red(b.matrix, b.range)) {
                    assert!(
                        found.abs_diff(expected) <= 2,
                        "{a:?} to {b:?}: {found} {expected}"
                    );
                }
            }
        }
    }
}
