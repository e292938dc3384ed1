//! A picture: its format, where its planes lie, when it was captured.
//!
//! Pixel formats are those that cameras deliver and encoders take
//! (<https://docs.kernel.org/userspace-api/media/v4l/pixfmt-yuv-planar.html>), and RGB for single images.

use std::sync::Arc;

use crate::pool::PooledBuffer;

/// Nanoseconds since the program's epoch.
pub type TimeNs = u64;

/// How pixels lie in memory. Chroma planes of a picture with an odd side are rounded up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PixelFormat {
    /// Planes Y, U, V; chroma at half width and half height.
    I420,
    /// Planes Y and interleaved UV; chroma at half width and half height.
    Nv12,
    /// One plane Y0 U Y1 V; chroma at half width. A row of odd width still has whole 4-byte groups.
    Yuyv,
    /// One plane R G B.
    Rgb24,
}

/// One plane's bytes per row without padding, and its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlaneSize {
    /// Bytes of a row's pixels.
    pub row_bytes: usize,
    /// Rows.
    pub rows: usize,
}

impl PixelFormat {
    /// Number of planes (1 to 3).
    pub fn planes(self) -> usize {
        match self {
            Self::I420 => 3,
            Self::Nv12 => 2,
            Self::Yuyv | Self::Rgb24 => 1,
        }
    }

    /// The size of plane `index` of a `width` x `height` picture; zero for planes that don't exist.
    pub fn plane_size(self, index: usize, width: usize, height: usize) -> PlaneSize {
        let (half_w, half_h) = (width.div_ceil(2), height.div_ceil(2));
        let (row_bytes, rows) = match (self, index) {
            (Self::I420 | Self::Nv12, 0) => (width, height),
            (Self::I420, 1 | 2) => (half_w, half_h),
            (Self::Nv12, 1) => (2 * half_w, half_h),
            (Self::Yuyv, 0) => (4 * half_w, height),
            (Self::Rgb24, 0) => (3 * width, height),
            _ => (0, 0),
        };
        PlaneSize { row_bytes, rows }
    }

    /// Bytes of a picture without row padding.
    pub fn packed_bytes(self, width: usize, height: usize) -> usize {
        (0..self.planes())
            .map(|p| {
                let size = self.plane_size(p, width, height);
                size.row_bytes * size.rows
            })
            .sum()
    }
}

/// The YUV matrix (ITU-R BT.601, BT.709, BT.2020).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Matrix {
    /// Standard definition and JPEG.
    #[default]
    Bt601,
    /// High definition.
    Bt709,
    /// Ultra-high definition, with constant coefficients ("non-constant luminance").
    Bt2020,
}

impl Matrix {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Bt601, Self::Bt709, Self::Bt2020];

    /// The weights of red and of blue in luma; green has what they leave of 1.
    pub fn weights(self) -> (f64, f64) {
        match self {
            Self::Bt601 => (0.299, 0.114),
            Self::Bt709 => (0.2126, 0.0722),
            Self::Bt2020 => (0.2627, 0.0593),
        }
    }
}

/// The range of the samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Range {
    /// Y 16..235, U and V 16..240: video.
    #[default]
    Limited,
    /// 0..255: JPEG.
    Full,
}

/// How YUV samples relate to RGB. RGB pictures ignore it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Colorimetry {
    /// The matrix.
    pub matrix: Matrix,
    /// The range.
    pub range: Range,
}

/// What all frames of a stream have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameFormat {
    /// Pixel layout.
    pub pixel: PixelFormat,
    /// Pixels a row, at least 1.
    pub width: usize,
    /// Rows, at least 1.
    pub height: usize,
    /// Relation to RGB.
    pub color: Colorimetry,
}

impl FrameFormat {
    /// A format whose source does not say which conversion to YUV it used ([`Colorimetry::default`]).
    pub fn new(pixel: PixelFormat, width: usize, height: usize) -> Self {
        Self {
            pixel,
            width,
            height,
            color: Colorimetry::default(),
        }
    }

    /// Bytes of a frame without row padding: the size of pooled buffers.
    pub fn packed_bytes(&self) -> usize {
        self.pixel.packed_bytes(self.width, self.height)
    }
}

/// One plane of a borrowed picture: its bytes from the first pixel on, and the bytes from row to row.
/// The last row may end with its last pixel.
#[derive(Debug, Clone, Copy)]
pub struct Plane<'a> {
    /// The bytes.
    pub data: &'a [u8],
    /// Bytes from one row's start to the next.
    pub stride: usize,
}

impl<'a> Plane<'a> {
    /// Row `y`'s pixels, `row_bytes` long.
    #[inline]
    pub fn row(&self, y: usize, row_bytes: usize) -> &'a [u8] {
        &self.data[y * self.stride..y * self.stride + row_bytes]
    }
}

/// A borrowed picture: what the pixel functions take.
#[derive(Debug, Clone, Copy)]
pub struct ImageRef<'a> {
    /// Format, width, height, colorimetry.
    pub format: FrameFormat,
    planes: [Plane<'a>; 3],
}

impl<'a> ImageRef<'a> {
    /// Checks that every plane holds its rows.
    ///
    /// # Errors
    /// A text that says which plane is short of what.
    pub fn new(format: FrameFormat, planes: &[Plane<'a>]) -> Result<Self, String> {
        if format.width == 0 || format.height == 0 {
            return Err(format!("a picture of {}x{} pixels", format.width, format.height));
        }
        if planes.len() != format.pixel.planes() {
            return Err(format!(
                "{} planes, {:?} has {}",
                planes.len(),
                format.pixel,
                format.pixel.planes()
            ));
        }
        for (index, plane) in planes.iter().enumerate() {
            let size = format.pixel.plane_size(index, format.width, format.height);
            let needed = plane
                .stride
                .checked_mul(size.rows - 1)
                .and_then(|n| n.checked_add(size.row_bytes));
            if plane.stride < size.row_bytes || needed.is_none_or(|n| plane.data.len() < n) {
                return Err(format!(
                    "plane {index} of {:?} {}x{} has {} bytes at stride {}; it needs rows of {} bytes, {} rows",
                    format.pixel,
                    format.width,
                    format.height,
                    plane.data.len(),
                    plane.stride,
                    size.row_bytes,
                    size.rows
                ));
            }
        }
        let mut all = [Plane { data: &[], stride: 0 }; 3];
        all[..planes.len()].copy_from_slice(planes);
        Ok(Self { format, planes: all })
    }

    /// A picture whose planes follow each other without padding.
    ///
    /// # Errors
    /// If `data` is shorter than [`FrameFormat::packed_bytes`].
    pub fn packed(format: FrameFormat, data: &'a [u8]) -> Result<Self, String> {
        let mut planes = [Plane { data: &[], stride: 0 }; 3];
        let mut rest = data;
        for (index, plane) in planes.iter_mut().enumerate().take(format.pixel.planes()) {
            let size = format.pixel.plane_size(index, format.width, format.height);
            let bytes = size.row_bytes * size.rows;
            if rest.len() < bytes {
                return Err(format!(
                    "{} bytes for a {:?} picture of {}x{}, which has {}",
                    data.len(),
                    format.pixel,
                    format.width,
                    format.height,
                    format.packed_bytes()
                ));
            }
            let (head, tail) = rest.split_at(bytes);
            *plane = Plane {
                data: head,
                stride: size.row_bytes,
            };
            rest = tail;
        }
        Self::new(format, &planes[..format.pixel.planes()])
    }

    /// Plane `index`; empty for planes that the format doesn't have.
    #[inline]
    pub fn plane(&self, index: usize) -> Plane<'a> {
        self.planes[index]
    }

    /// Width in pixels.
    #[inline]
    pub fn width(&self) -> usize {
        self.format.width
    }

    /// Height in pixels.
    #[inline]
    pub fn height(&self) -> usize {
        self.format.height
    }

    /// Copies the picture into `out` without row padding.
    ///
    /// # Panics
    /// If `out` is shorter than [`FrameFormat::packed_bytes`].
    pub fn copy_packed(&self, out: &mut [u8]) {
        let mut at = 0;
        for index in 0..self.format.pixel.planes() {
            let size = self.format.pixel.plane_size(index, self.width(), self.height());
            let plane = self.plane(index);
            if plane.stride == size.row_bytes {
                let bytes = size.row_bytes * size.rows;
                out[at..at + bytes].copy_from_slice(&plane.data[..bytes]);
                at += bytes;
            } else {
                for y in 0..size.rows {
                    out[at..at + size.row_bytes].copy_from_slice(plane.row(y, size.row_bytes));
                    at += size.row_bytes;
                }
            }
        }
    }
}

/// A captured or composed picture, without row padding, never changed once it is shared.
#[derive(Debug)]
pub struct Frame {
    /// Counts the frames that the source delivered, from 0; a gap is a frame that was lost before us.
    pub sequence: u64,
    /// When the picture was taken, on the pipeline's clock.
    pub captured_at_ns: TimeNs,
    /// The source's own time: from the start of the file or stream. Equal to `captured_at_ns` for cameras.
    pub pts_ns: u64,
    /// Pixel layout, size, colorimetry.
    pub format: FrameFormat,
    /// Whether parts of the picture are missing or wrong: packets were lost, or the decoder says so.
    pub damaged: bool,
    /// The planes, one after the other, without padding.
    pub data: PooledBuffer,
}

/// A frame that stages share.
pub type SharedFrame = Arc<Frame>;

impl Frame {
    /// The pixels.
    ///
    /// # Panics
    /// If `data` is too short for `format`, which no constructor of frames in segd does.
    pub fn image(&self) -> ImageRef<'_> {
        match ImageRef::packed(self.format, &self.data) {
            Ok(image) => image,
            Err(why) => unreachable!("a frame holds its format's bytes: {why}"),
        }
    }
}

/// One number a pixel: a class, or in a scene an index into its segments. Row by row, without padding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelMap {
    /// Pixels a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `width * height` numbers.
    pub labels: Vec<u8>,
}

impl LabelMap {
    /// A map of zeros.
    pub fn zeros(width: usize, height: usize) -> Self {
        Self {
            width,
            height,
            labels: vec![0; width * height],
        }
    }
}

/// The column after the last of the run of `number` that begins at column `from` of a row.
pub fn run_end(row: &[u8], from: usize, number: u8) -> usize {
    let same = u64::from_le_bytes([number; 8]);
    let (words, _) = row[from..].as_chunks::<8>();
    let mut at = from;
    for word in words {
        let differs = u64::from_le_bytes(*word) ^ same;
        if differs != 0 {
            return at + differs.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    row[at..]
        .iter()
        .position(|n| *n != number)
        .map_or(row.len(), |n| at + n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_sizes_round_chroma_up() {
        assert_eq!(PixelFormat::I420.packed_bytes(5, 3), 15 + 2 * 6);
        assert_eq!(PixelFormat::Nv12.packed_bytes(5, 3), 15 + 12);
        assert_eq!(PixelFormat::Yuyv.packed_bytes(5, 3), 36);
        assert_eq!(PixelFormat::Rgb24.packed_bytes(5, 3), 45);
    }

    #[test]
    fn short_planes_are_refused() {
        let f = FrameFormat::new(PixelFormat::Rgb24, 4, 2);
        let data = [0u8; 24];
        assert!(
            ImageRef::new(
                f,
                &[Plane {
                    data: &data,
                    stride: 12
                }]
            )
            .is_ok()
        );
        assert!(
            ImageRef::new(
                f,
                &[Plane {
                    data: &data[..23],
                    stride: 12
                }]
            )
            .is_err()
        );
        assert!(
            ImageRef::new(
                f,
                &[Plane {
                    data: &data,
                    stride: 11
                }]
            )
            .is_err()
        );
        assert!(ImageRef::new(f, &[]).is_err());
        assert!(ImageRef::packed(f, &data[..20]).is_err());
        assert!(ImageRef::packed(FrameFormat::new(PixelFormat::I420, 0, 2), &data).is_err());
    }

    #[test]
    fn copy_removes_row_padding() {
        let f = FrameFormat::new(PixelFormat::I420, 3, 3);
        let y = [1, 2, 3, 99, 4, 5, 6, 99, 7, 8, 9];
        let u = [10, 11, 99, 12, 13];
        let v = [20, 21, 22, 23];
        let image = ImageRef::new(
            f,
            &[
                Plane { data: &y, stride: 4 },
                Plane { data: &u, stride: 3 },
                Plane { data: &v, stride: 2 },
            ],
        )
        .unwrap();
        let mut out = vec![0; f.packed_bytes()];
        image.copy_packed(&mut out);
        assert_eq!(out, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 20, 21, 22, 23]);
    }
}
