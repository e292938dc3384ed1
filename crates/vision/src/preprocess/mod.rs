//! Picture to network input: YUV to RGB, resize, normalise and layout in one pass over the output's rows.
//!
//! What it computes, exactly:
//! - Positions: half-pixel centres, the edge clamped, weights in 256ths of a sample. Chroma samples lie in the
//!   middle of the pixels that they cover.
//! - Where an axis shrinks by `s >= 2`, boxes of `floor(s)` samples (at most 64) are averaged first, so that
//!   no sample is left out; the boxes are then interpolated linearly like samples.
//! - Y, U and V are resampled each on its own grid, rounded once to 1/64, and the few results converted to
//!   8-bit RGB; R, G and B of RGB pictures are resampled and rounded once to 8 bits.
//! - A float input is `value * scale + shift` in `f32`, with `scale = 1 / std` and `shift = -mean / std`.
//!
//! All of it up to the 8-bit value is integer arithmetic: the same on every machine.

mod axis;
mod color;
mod resample;
#[cfg(test)]
mod tests;

use crate::frame::{FrameFormat, ImageRef, PixelFormat};
use crate::model::contract::{ColorOrder, Input, InputType, Layout, Resize};
use crate::tensor::{InputSize, Placement, TensorData};
use simd::{Level, by_cpu};

use axis::Axis;
use color::{SAMPLE_BITS, YuvToRgb};
use resample::{Band, Channel, PlanePass};

/// Turns pictures of one format into the network's input; all tables and rows are made once.
#[derive(Debug)]
pub struct Preprocessor {
    input: Input,
    format: FrameFormat,
    size: InputSize,
    placement: Placement,
    planes: Vec<PlanePass>,
    /// Y, U, V or R, G, B: the plane of each, and how its samples are resampled.
    channels: [(usize, Channel); 3],
    /// U and V of the samples of one row, in the halves of each element.
    chroma: Vec<u64>,
    /// `None` for RGB pictures.
    yuv: Option<YuvToRgb>,
    /// Y, U, V of one output row with [`SAMPLE_BITS`] fraction bits, or R, G, B without.
    samples: [Vec<i16>; 3],
    /// R, G, B of one output row.
    rgb: [Vec<u8>; 3],
    level: Level,
}

impl Preprocessor {
    /// For pictures of `format` and a network with the contract's `input` prepared for `size`.
    pub fn new(input: &Input, format: FrameFormat, size: InputSize) -> Self {
        let placement = place(input.resize, format, size);
        let (w, h) = (format.width, format.height);
        let (out_w, out_h) = (placement.width, placement.height);
        let rows = |step: usize| Axis::new(h, step, out_h);
        let plane =
            |index: usize, rows: Axis| PlanePass::new(rows, format.pixel.plane_size(index, w, h).row_bytes);
        // Across: pixels a sample. In a row: elements from sample to sample, and before the first.
        let (planes, channels) = match format.pixel {
            PixelFormat::I420 => (
                vec![plane(0, rows(1)), plane(1, rows(2)), plane(2, rows(2))],
                [(0, 1, 1, 0), (1, 2, 1, 0), (2, 2, 1, 0)],
            ),
            PixelFormat::Nv12 => (
                vec![plane(0, rows(1)), plane(1, rows(2))],
                [(0, 1, 1, 0), (1, 2, 2, 0), (1, 2, 2, 1)],
            ),
            PixelFormat::Yuyv => (
                vec![plane(0, rows(1))],
                [(0, 1, 2, 0), (0, 2, 4, 1), (0, 2, 4, 3)],
            ),
            PixelFormat::Rgb24 => (
                vec![plane(0, rows(1))],
                [(0, 1, 3, 0), (0, 1, 3, 1), (0, 1, 3, 2)],
            ),
        };
        let yuv = (format.pixel != PixelFormat::Rgb24).then(|| YuvToRgb::new(format.color));
        let fraction = if yuv.is_some() { SAMPLE_BITS } else { 0 };
        let channels = channels.map(|(index, across, step, offset)| {
            let axis = Axis::new(w, across, out_w);
            (
                index,
                Channel::new(axis, step, offset, planes[index].boxed(), fraction),
            )
        });
        Self {
            input: input.clone(),
            format,
            size,
            placement,
            planes,
            channels,
            chroma: vec![0; w.div_ceil(2) + 1],
            yuv,
            samples: std::array::from_fn(|_| vec![0; out_w]),
            rgb: std::array::from_fn(|_| vec![0; out_w]),
            level: Level::best(),
        }
    }

    /// The format of the pictures.
    pub fn format(&self) -> FrameFormat {
        self.format
    }

    /// Where the picture lies in the network's input: the window of a letterbox, or all of it.
    pub fn placement(&self) -> Placement {
        self.placement
    }

    /// Writes `image` into `out` as `[1, 3, H, W]` or `[1, H, W, 3]` of the contract's type.
    ///
    /// `out` is replaced if its type or length is another; it is not allocated anew otherwise. A picture of
    /// another format than the last rebuilds the tables, and the placement may move.
    pub fn run(&mut self, image: &ImageRef<'_>, out: &mut TensorData) {
        if image.format != self.format {
            *self = Self::new(&self.input, image.format, self.size);
        }
        let count = 3 * self.size.width * self.size.height;
        match self.input.dtype {
            InputType::F32 => {
                if !matches!(out, TensorData::F32(v) if v.len() == count) {
                    *out = TensorData::F32(vec![0.0; count]);
                }
                let (mean, std) = (self.input.mean.map(f64::from), self.input.std.map(f64::from));
                let scale = std.map(|s| (1.0 / s) as f32);
                let shift: [f32; 3] = std::array::from_fn(|c| (-mean[c] / std[c]) as f32);
                if let TensorData::F32(values) = out {
                    self.write(image, values, |c, v| f32::from(v) * scale[c] + shift[c]);
                }
            }
            InputType::U8 => {
                if !matches!(out, TensorData::U8(v) if v.len() == count) {
                    *out = TensorData::U8(vec![0; count]);
                }
                if let TensorData::U8(values) = out {
                    self.write(image, values, |_, v| v);
                }
            }
        }
    }

    /// `value(c, v)` is element `c` (in the contract's colour order) of a pixel whose 8-bit value is `v`.
    fn write<T: Copy>(&mut self, image: &ImageRef<'_>, out: &mut [T], value: impl Fn(usize, u8) -> T + Copy) {
        let InputSize { width, height } = self.size;
        let window = self.placement;
        let nchw = self.input.layout == Layout::Nchw;
        if (window.width, window.height) != (width, height) {
            let pad: [T; 3] = std::array::from_fn(|c| value(c, self.input.pad));
            if nchw {
                for (plane, pad) in out.chunks_exact_mut(width * height).zip(pad) {
                    pad_around(plane, width, window, 1, |rest| rest.fill(pad));
                }
            } else {
                pad_around(out, width, window, 3, |rest| {
                    for pixel in rest.chunks_exact_mut(3) {
                        pixel.copy_from_slice(&pad);
                    }
                });
            }
        }
        for plane in &mut self.planes {
            plane.forget();
        }
        for row in 0..window.height {
            make_row(self.level, self, image, row);
            let [r, g, b] = &self.rgb;
            let ordered = match self.input.color {
                ColorOrder::Rgb => [r, g, b],
                ColorOrder::Bgr => [b, g, r],
            };
            let start = (window.y + row) * width + window.x;
            if nchw {
                for (c, (plane, from)) in out.chunks_exact_mut(width * height).zip(ordered).enumerate() {
                    for (o, &v) in plane[start..start + window.width].iter_mut().zip(from) {
                        *o = value(c, v);
                    }
                }
            } else {
                let pixels = out[3 * start..3 * (start + window.width)].chunks_exact_mut(3);
                for (((o, &a), &b), &c) in pixels.zip(ordered[0]).zip(ordered[1]).zip(ordered[2]) {
                    o.copy_from_slice(&[value(0, a), value(1, b), value(2, c)]);
                }
            }
        }
    }

    /// Makes `self.rgb` for one row of the window.
    #[inline(always)]
    fn row(&mut self, image: &ImageRef<'_>, row: usize) {
        for (index, plane) in self.planes.iter_mut().enumerate() {
            plane.blend(image.plane(index), row);
        }
        let [luma, u, v] = &mut self.samples;
        let [
            (luma_plane, luma_channel),
            (u_plane, u_channel),
            (v_plane, v_channel),
        ] = &mut self.channels;
        luma_channel.resample(self.planes[*luma_plane].band(), luma);
        match (self.planes[*u_plane].band(), self.planes[*v_plane].band()) {
            (Band::Narrow(from_u), Band::Narrow(from_v)) if self.yuv.is_some() && u_channel.is_unboxed() => {
                pair_chroma(self.format.pixel, from_u, from_v, &mut self.chroma);
                u_channel.resample_pairs(&self.chroma, u, v);
            }
            (from_u, from_v) => {
                u_channel.resample(from_u, u);
                v_channel.resample(from_v, v);
            }
        }
        let [a, b, c] = &self.samples;
        let [red, green, blue] = &mut self.rgb;
        if let Some(yuv) = &self.yuv {
            let out = red.iter_mut().zip(green).zip(blue);
            for ((((r, g), b_out), (&y, &u)), &v) in out.zip(a.iter().zip(b)).zip(c) {
                [*r, *g, *b_out] = yuv.pixel(y, u, v);
            }
        } else {
            for (out, from) in [red, green, blue].into_iter().zip([a, b, c]) {
                for (o, &v) in out.iter_mut().zip(from) {
                    *o = v as u8;
                }
            }
        }
    }
}

by_cpu! {
    fn make_row(_cpu, preprocessor: &mut Preprocessor, image: &ImageRef<'_>, row: usize) {
        preprocessor.row(image, row);
    }
}

/// The part of an input of `size` that pictures of `format` fill.
fn place(resize: Resize, format: FrameFormat, size: InputSize) -> Placement {
    let InputSize { width, height } = size;
    let (w, h) = (format.width, format.height);
    let (fit_w, fit_h) = match resize {
        Resize::Fit | Resize::Stretch => (width, height),
        // Rounded to the nearest pixel.
        Resize::Letterbox if width * h <= height * w => (width, ((2 * width * h + w) / (2 * w)).max(1)),
        Resize::Letterbox => (((2 * height * w + h) / (2 * h)).max(1), height),
    };
    Placement {
        x: (width - fit_w) / 2,
        y: (height - fit_h) / 2,
        width: fit_w,
        height: fit_h,
    }
}

/// Calls `fill` on every run of elements outside `window`, in rows of `width` pixels of `elements` elements.
fn pad_around<T>(
    out: &mut [T],
    width: usize,
    window: Placement,
    elements: usize,
    mut fill: impl FnMut(&mut [T]),
) {
    let left = elements * window.x;
    let right = elements * (window.x + window.width);
    for (y, row) in out.chunks_exact_mut(width * elements).enumerate() {
        if (window.y..window.y + window.height).contains(&y) {
            fill(&mut row[..left]);
            fill(&mut row[right..]);
        } else {
            fill(row);
        }
    }
}

/// U and V side by side. `from_u` and `from_v` are the bands of their planes, the same one where they share it;
/// the last element of `pairs` is left as it is.
#[inline(always)]
fn pair_chroma(pixel: PixelFormat, from_u: &[u16], from_v: &[u16], pairs: &mut [u64]) {
    let pair = |u: u16, v: u16| u64::from(u) | u64::from(v) << 32;
    let samples = pairs.len() - 1;
    let pairs = pairs[..samples].iter_mut();
    match pixel {
        PixelFormat::Nv12 => {
            for (o, &[u, v]) in pairs.zip(from_u.as_chunks::<2>().0) {
                *o = pair(u, v);
            }
        }
        PixelFormat::Yuyv => {
            for (o, &[_, u, _, v]) in pairs.zip(from_u.as_chunks::<4>().0) {
                *o = pair(u, v);
            }
        }
        // RGB has no chroma and does not come here.
        PixelFormat::I420 | PixelFormat::Rgb24 => {
            for ((o, &u), &v) in pairs.zip(from_u).zip(from_v) {
                *o = pair(u, v);
            }
        }
    }
}
