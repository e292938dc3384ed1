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
#[cfg(test)]
mod tests;

use crate::frame::{FrameFormat, ImageRef, PixelFormat};
use crate::infer::{InputSize, Placement, TensorData};
use crate::model::contract::{ColorOrder, Input, InputType, Layout, Resize};

use axis::{Axis, Tap};
use color::{SAMPLE_BITS, YuvToRgb};

/// Turns pictures of one format into the network's input; all tables and rows are made once.
#[derive(Debug)]
pub struct Preprocessor {
    input: Input,
    format: FrameFormat,
    size: InputSize,
    placement: Placement,
    planes: Vec<PlanePass>,
    channels: Vec<Channel>,
    /// `None` for RGB pictures.
    yuv: Option<YuvToRgb>,
    /// Y, U, V of one output row with [`SAMPLE_BITS`] fraction bits, or R, G, B without.
    samples: [Vec<i16>; 3],
    /// R, G, B of one output row.
    rgb: [Vec<u8>; 3],
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
        let luma = Axis::new(w, 1, out_w);
        let chroma = Axis::new(w, 2, out_w);
        // Plane, axis, and in a row the elements from sample to sample and before the first.
        let (planes, channels) = match format.pixel {
            PixelFormat::I420 => (
                vec![plane(0, rows(1)), plane(1, rows(2)), plane(2, rows(2))],
                [(0, &luma, 1, 0), (1, &chroma, 1, 0), (2, &chroma, 1, 0)],
            ),
            PixelFormat::Nv12 => (
                vec![plane(0, rows(1)), plane(1, rows(2))],
                [(0, &luma, 1, 0), (1, &chroma, 2, 0), (1, &chroma, 2, 1)],
            ),
            PixelFormat::Yuyv => (
                vec![plane(0, rows(1))],
                [(0, &luma, 2, 0), (0, &chroma, 4, 1), (0, &chroma, 4, 3)],
            ),
            PixelFormat::Rgb24 => (
                vec![plane(0, rows(1))],
                [(0, &luma, 3, 0), (0, &luma, 3, 1), (0, &luma, 3, 2)],
            ),
        };
        let yuv = (format.pixel != PixelFormat::Rgb24).then(|| YuvToRgb::new(format.color));
        let fraction = if yuv.is_some() { SAMPLE_BITS } else { 0 };
        let channels = channels
            .into_iter()
            .map(|(plane, axis, step, offset)| {
                Channel::new(plane, axis, step, offset, planes[plane].rows.boxed, fraction)
            })
            .collect();
        Self {
            input: input.clone(),
            format,
            size,
            placement,
            planes,
            channels,
            yuv,
            samples: std::array::from_fn(|_| vec![0; out_w]),
            rgb: std::array::from_fn(|_| vec![0; out_w]),
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
            self.make_row(image, row);
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
    fn make_row(&mut self, image: &ImageRef<'_>, row: usize) {
        for (index, plane) in self.planes.iter_mut().enumerate() {
            plane.blend(image.plane(index), row);
        }
        for (channel, samples) in self.channels.iter_mut().zip(&mut self.samples) {
            match &self.planes[channel.plane].band {
                Band::Narrow(row) => channel.resample_narrow(row, samples),
                Band::Wide(row) => channel.resample_boxes(row, samples),
            }
        }
        let [a, b, c] = &self.samples;
        let [red, green, blue] = &mut self.rgb;
        if let Some(yuv) = &self.yuv {
            let out = red.iter_mut().zip(green).zip(blue);
            for ((((r, g), b_out), (&y, &u)), &v) in out.zip(a.iter().zip(b)).zip(c) {
                let rgb = yuv.pixel(y, u, v);
                *r = rgb[0] as u8;
                *g = rgb[1] as u8;
                *b_out = rgb[2] as u8;
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

/// One blended row of a plane, scaled by 256 times the rows of a box.
#[derive(Debug)]
enum Band {
    /// Boxes of one row.
    Narrow(Vec<u16>),
    /// Larger boxes.
    Wide(Vec<u32>),
}

/// The vertical half of the resampling of one plane.
#[derive(Debug)]
struct PlanePass {
    rows: Axis,
    row_bytes: usize,
    band: Band,
    /// The two newest sums of a box of rows, and which boxes they are.
    sums: [(Option<u32>, Vec<u16>); 2],
}

impl PlanePass {
    fn new(rows: Axis, row_bytes: usize) -> Self {
        let (band, sums) = if rows.boxed == 1 {
            (Band::Narrow(vec![0; row_bytes]), 0)
        } else {
            (Band::Wide(vec![0; row_bytes]), row_bytes)
        };
        Self {
            rows,
            row_bytes,
            band,
            sums: [(None, vec![0; sums]), (None, vec![0; sums])],
        }
    }

    /// Drops what is remembered of the last picture.
    fn forget(&mut self) {
        for (which, _) in &mut self.sums {
            *which = None;
        }
    }

    /// Blends the rows that make output row `row` into `self.band`.
    fn blend(&mut self, plane: crate::frame::Plane<'_>, row: usize) {
        let tap = self.rows.taps[row];
        match &mut self.band {
            Band::Narrow(band) => {
                let first = plane.row(tap.first as usize, self.row_bytes);
                let second = plane.row(tap.second as usize, self.row_bytes);
                let weight = tap.weight as u16;
                for ((o, &a), &b) in band.iter_mut().zip(first).zip(second) {
                    *o = u16::from(a) * (256 - weight) + u16::from(b) * weight;
                }
            }
            Band::Wide(band) => {
                for (slot, other, which) in [(0, 1, tap.first), (1, 0, tap.second)] {
                    if self.sums[slot].0 == Some(which) {
                        continue;
                    }
                    if self.sums[other].0 == Some(which) && slot == 0 {
                        self.sums.swap(0, 1);
                        continue;
                    }
                    let (held, sum) = &mut self.sums[slot];
                    *held = Some(which);
                    sum_rows(plane, &self.rows, which as usize, sum);
                }
                let [(_, first), (_, second)] = &self.sums;
                for ((o, &a), &b) in band.iter_mut().zip(first).zip(second) {
                    *o = u32::from(a) * (256 - tap.weight) + u32::from(b) * tap.weight;
                }
            }
        }
    }
}

/// The sum of box `index` of rows; at most 64 * 255 each.
fn sum_rows(plane: crate::frame::Plane<'_>, rows: &Axis, index: usize, sum: &mut [u16]) {
    sum.fill(0);
    for y in index * rows.boxed..(index + 1) * rows.boxed {
        let row = plane.row(y.min(rows.samples - 1), sum.len());
        for (s, &v) in sum.iter_mut().zip(row) {
            *s += u16::from(v);
        }
    }
}

/// The horizontal half of the resampling of one channel.
#[derive(Debug)]
struct Channel {
    plane: usize,
    /// Indices into the band, or into `boxes` if that isn't empty.
    taps: Vec<Tap>,
    axis_boxed: usize,
    samples: usize,
    step: usize,
    offset: usize,
    /// Sums of boxes of samples of a row; empty where a box is one sample.
    boxes: Vec<u32>,
    /// Right shift that leaves the wanted fraction, for boxes of one sample.
    shift: u32,
    /// What sums are divided by, and its reciprocal in 2^-64.
    divisor: u64,
    reciprocal: u64,
}

impl Channel {
    fn new(plane: usize, axis: &Axis, step: usize, offset: usize, boxed_rows: usize, fraction: u32) -> Self {
        let boxes = if axis.boxed == 1 { 0 } else { axis.boxes() };
        let taps = if boxes == 0 {
            axis.taps_in_row(step, offset)
        } else {
            axis.taps.clone()
        };
        let shift = 16 - fraction;
        let divisor = (boxed_rows * axis.boxed) as u64 * (1 << shift);
        Self {
            plane,
            taps,
            axis_boxed: axis.boxed,
            samples: axis.samples,
            step,
            offset,
            boxes: vec![0; boxes],
            shift,
            divisor,
            // Exact: sums stay below 2^36, divisors below 2^29, so sum * (reciprocal * divisor - 2^64) < 2^64.
            reciprocal: u64::MAX / divisor + 1,
        }
    }

    /// From a row of boxes of one row.
    fn resample_narrow(&mut self, row: &[u16], out: &mut [i16]) {
        if !self.boxes.is_empty() {
            return self.resample_boxes(row, out);
        }
        let (shift, half) = (self.shift, 1 << (self.shift - 1));
        for (o, tap) in out.iter_mut().zip(&self.taps) {
            let first = u32::from(row[tap.first as usize]);
            let second = u32::from(row[tap.second as usize]);
            *o = ((first * (256 - tap.weight) + second * tap.weight + half) >> shift) as i16;
        }
    }

    /// From a row of boxes of any size.
    fn resample_boxes<T: Copy + Into<u32>>(&mut self, row: &[T], out: &mut [i16]) {
        let (half, reciprocal) = (self.divisor / 2, u128::from(self.reciprocal));
        let divide = |sum: u64| (u128::from(sum + half) * reciprocal >> 64) as i16;
        let blend = |first: u32, second: u32, weight: u32| {
            u64::from(first) * u64::from(256 - weight) + u64::from(second) * u64::from(weight)
        };
        if self.boxes.is_empty() {
            for (o, tap) in out.iter_mut().zip(&self.taps) {
                let (first, second) = (row[tap.first as usize].into(), row[tap.second as usize].into());
                *o = divide(blend(first, second, tap.weight));
            }
            return;
        }
        for (j, sum) in self.boxes.iter_mut().enumerate() {
            let first = j * self.axis_boxed;
            let last = (first + self.axis_boxed).min(self.samples);
            let from = first * self.step + self.offset;
            let to = (last - 1) * self.step + self.offset;
            *sum = row[from..=to].iter().step_by(self.step).map(|&v| v.into()).sum();
            let missing = (first + self.axis_boxed - last) as u32;
            *sum += missing * row[to].into();
        }
        for (o, tap) in out.iter_mut().zip(&self.taps) {
            let (first, second) = (self.boxes[tap.first as usize], self.boxes[tap.second as usize]);
            *o = divide(blend(first, second, tap.weight));
        }
    }
}
