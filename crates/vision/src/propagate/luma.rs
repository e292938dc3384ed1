//! The brightness of a picture at low resolution, with a margin, for block matching.

use super::field::BLOCK;
use crate::frame::{FrameFormat, ImageRef, PixelFormat};

/// Columns that the small picture has about; a power of two in size is not needed.
const WANTED_WIDTH: usize = 320;
/// Largest factor: sums of 16 x 16 pixels fit the fixed-point mean.
const MAX_SCALE: usize = 16;

/// Rows and columns around the picture that repeat its edge: blocks may match this far outside.
pub const PAD: usize = 32;

/// A picture's luma, averaged over squares of [`scale`](Self::scale) pixels.
///
/// The size is rounded up to whole blocks, and [`PAD`] further pixels lie on each side; both repeat the edge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Luma {
    width: usize,
    height: usize,
    scale: usize,
    columns: usize,
    rows: usize,
    stride: usize,
    data: Vec<u8>,
    /// Sums of `scale` pixels down, one per column of the source.
    sums: Vec<u16>,
    line: Vec<u8>,
}

impl Luma {
    /// Room for pictures of `width` x `height` pixels, both at least 1.
    pub fn new(width: usize, height: usize) -> Self {
        let scale = ((width + WANTED_WIDTH / 2) / WANTED_WIDTH)
            .clamp(1, MAX_SCALE)
            .min(width)
            .min(height)
            .max(1);
        let (small_width, small_height) = ((width / scale).max(1), (height / scale).max(1));
        let (columns, rows) = (small_width.div_ceil(BLOCK), small_height.div_ceil(BLOCK));
        let stride = columns * BLOCK + 2 * PAD;
        Self {
            width: small_width,
            height: small_height,
            scale,
            columns,
            rows,
            stride,
            data: vec![0; stride * (rows * BLOCK + 2 * PAD)],
            sums: vec![0; width],
            line: vec![0; width],
        }
    }

    /// Source pixels per pixel, in both directions.
    pub fn scale(&self) -> usize {
        self.scale
    }

    /// Pixels a row, without margin.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows, without margin.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Blocks a row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Rows of blocks.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes from row to row of [`data`](Self::data).
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// All rows, margin included; pixel (0, 0) lies at `PAD * stride + PAD`.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Row `y`'s pixels, without margin.
    pub fn row(&self, y: usize) -> &[u8] {
        let at = (y + PAD) * self.stride + PAD;
        &self.data[at..at + self.width]
    }

    /// Takes another picture's luma over.
    ///
    /// # Panics
    /// If the sizes differ.
    pub fn copy_from(&mut self, other: &Self) {
        assert_eq!(
            (self.width, self.height, self.scale),
            (other.width, other.height, other.scale),
            "luma of one size"
        );
        self.data.copy_from_slice(&other.data);
    }

    /// Reads a picture. Allocates nothing. A value is the mean of its pixels, rounded half up; RGB counts as
    /// `(R + 2 G + B) / 4`.
    ///
    /// # Panics
    /// If the picture has another size than given to [`new`](Self::new).
    pub fn read(&mut self, image: &ImageRef<'_>) {
        let FrameFormat { width, height, .. } = image.format;
        assert_eq!(width, self.line.len(), "luma of pictures of one width");
        assert_eq!(
            (height / self.scale).max(1),
            self.height,
            "luma of pictures of one height"
        );
        for y in 0..self.height {
            let at = (y + PAD) * self.stride + PAD;
            if self.scale == 2 && matches!(image.format.pixel, PixelFormat::I420 | PixelFormat::Nv12) {
                // The usual case in one pass.
                let (upper, lower) = (
                    image.plane(0).row(2 * y, width),
                    image.plane(0).row(2 * y + 1, width),
                );
                halve(upper, lower, &mut self.data[at..at + self.width]);
                continue;
            }
            self.sums.fill(0);
            for row in 0..self.scale {
                let line = line_of(image, y * self.scale + row, &mut self.line);
                for (sum, &value) in self.sums.iter_mut().zip(line) {
                    *sum += u16::from(value);
                }
            }
            mean(&self.sums, self.scale, &mut self.data[at..at + self.width]);
        }
        self.fill_margin();
    }

    fn fill_margin(&mut self) {
        let stride = self.stride;
        for y in PAD..PAD + self.height {
            let row = &mut self.data[y * stride..(y + 1) * stride];
            let (first, last) = (row[PAD], row[PAD + self.width - 1]);
            row[..PAD].fill(first);
            row[PAD + self.width..].fill(last);
        }
        let (above, rest) = self.data.split_at_mut(PAD * stride);
        for row in above.chunks_exact_mut(stride) {
            row.copy_from_slice(&rest[..stride]);
        }
        let (inside, below) = rest.split_at_mut(self.height * stride);
        let last = &inside[(self.height - 1) * stride..];
        for row in below.chunks_exact_mut(stride) {
            row.copy_from_slice(last);
        }
    }
}

/// The luma of row `y`, borrowed where the picture has it as it is.
fn line_of<'a>(image: &ImageRef<'a>, y: usize, line: &'a mut [u8]) -> &'a [u8] {
    let width = image.width();
    match image.format.pixel {
        PixelFormat::I420 | PixelFormat::Nv12 => image.plane(0).row(y, width),
        PixelFormat::Yuyv => {
            let row = image.plane(0).row(y, 4 * width.div_ceil(2));
            for (out, pair) in line.iter_mut().zip(row.chunks_exact(2)) {
                *out = pair[0];
            }
            line
        }
        PixelFormat::Rgb24 => {
            let row = image.plane(0).row(y, 3 * width);
            for (out, rgb) in line.iter_mut().zip(row.chunks_exact(3)) {
                let sum = u16::from(rgb[0]) + 2 * u16::from(rgb[1]) + u16::from(rgb[2]);
                *out = (sum / 4) as u8;
            }
            line
        }
    }
}

/// Means of 2 x 2 pixels, rounded half up.
fn halve(upper: &[u8], lower: &[u8], out: &mut [u8]) {
    let pairs = upper.chunks_exact(2).zip(lower.chunks_exact(2));
    for (out, (a, b)) in out.iter_mut().zip(pairs) {
        let sum = u16::from(a[0]) + u16::from(a[1]) + u16::from(b[0]) + u16::from(b[1]);
        *out = ((sum + 2) >> 2) as u8;
    }
}

/// Means of `scale` sums of `scale` values each, rounded half up.
///
/// The division is a multiplication by `2^24 / n` rounded up, which is exact for sums below 256 n with n <= 256.
fn mean(sums: &[u16], scale: usize, out: &mut [u8]) {
    let n = (scale * scale) as u32;
    let reciprocal = (1_u32 << 24).div_ceil(n);
    if scale == 1 {
        for (out, &sum) in out.iter_mut().zip(sums) {
            *out = sum as u8;
        }
        return;
    }
    for (out, sums) in out.iter_mut().zip(sums.chunks_exact(scale)) {
        let sum: u32 = sums.iter().map(|&s| u32::from(s)).sum();
        *out = (((sum + n / 2) * reciprocal) >> 24) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn format(pixel: PixelFormat, width: usize, height: usize) -> FrameFormat {
        FrameFormat::new(pixel, width, height)
    }

    /// The mean over the square of pixels, in the plainest form.
    fn reference(image: &ImageRef<'_>, luma: &Luma, x: usize, y: usize) -> u8 {
        let s = luma.scale();
        let mut sum = 0u32;
        for yy in y * s..(y + 1) * s {
            for xx in x * s..(x + 1) * s {
                let data = image.plane(0).data;
                let stride = image.plane(0).stride;
                sum += match image.format.pixel {
                    PixelFormat::I420 | PixelFormat::Nv12 => u32::from(data[yy * stride + xx]),
                    PixelFormat::Yuyv => u32::from(data[yy * stride + 2 * xx]),
                    PixelFormat::Rgb24 => {
                        let at = yy * stride + 3 * xx;
                        (u32::from(data[at]) + 2 * u32::from(data[at + 1]) + u32::from(data[at + 2])) / 4
                    }
                };
            }
        }
        let n = (s * s) as u32;
        ((sum + n / 2) / n) as u8
    }

    proptest! {
        #[test]
        fn means_are_exact_for_every_format_and_scale(
            width in 1_usize..1400, height in 1_usize..40, seed in any::<u32>(),
            pixel in prop::sample::select(vec![
                PixelFormat::I420, PixelFormat::Nv12, PixelFormat::Yuyv, PixelFormat::Rgb24])
        ) {
            let format = format(pixel, width, height);
            let mut state = seed | 1;
            let data: Vec<u8> = (0..format.packed_bytes()).map(|_| {
                state ^= state << 13; state ^= state >> 17; state ^= state << 5;
                (state >> 24) as u8
            }).collect();
            let image = ImageRef::packed(format, &data).unwrap();
            let mut luma = Luma::new(width, height);
            luma.read(&image);
            for y in 0..luma.height() {
                for x in 0..luma.width() {
                    prop_assert_eq!(luma.row(y)[x], reference(&image, &luma, x, y), "{} {}", x, y);
                }
            }
        }
    }

    #[test]
    fn the_fixed_point_mean_is_exact_for_every_sum() {
        for scale in 1..=MAX_SCALE as u32 {
            let n = scale * scale;
            let reciprocal = (1_u32 << 24).div_ceil(n);
            for sum in 0..=255 * n {
                if scale > 1 {
                    assert_eq!(
                        ((sum + n / 2) * reciprocal) >> 24,
                        (sum + n / 2) / n,
                        "{sum} / {n}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_margin_repeats_the_edge() {
        let format = format(PixelFormat::I420, 20, 12);
        let data: Vec<u8> = (0..format.packed_bytes()).map(|i| i as u8).collect();
        let mut luma = Luma::new(20, 12);
        luma.read(&ImageRef::packed(format, &data).unwrap());
        assert_eq!((luma.scale(), luma.columns(), luma.rows()), (1, 3, 2));
        let at = |x: isize, y: isize| {
            luma.data()[(y + PAD as isize) as usize * luma.stride() + (x + PAD as isize) as usize]
        };
        assert_eq!(at(-5, -3), at(0, 0));
        assert_eq!(at(30, 20), at(19, 11));
        assert_eq!(at(7, 40), at(7, 11));
        assert_eq!(at(7, 5), data[5 * 20 + 7]);
    }
}
