//! What is done to planes of [`Quad`]s besides convolving them, and the ways from and to channels of their own. Plain
//! functions over slices.

use super::lanes::Quad;
use super::planes::{plane_len, planes};
use simd::{Level, by_cpu};

/// Adding this to a number from 0 to 255 rounds it to the nearest integer, halves to the even one, and leaves that in the lowest byte.
const ROUNDS: f32 = 8_388_608.0;

#[inline(always)]
fn to_byte(value: f32) -> u8 {
    (value.clamp(0.0, 255.0) + ROUNDS).to_bits() as u8
}

by_cpu! {
    /// Planes of four channels out of `[channels, pixels]` bytes. Channels that fill up the last plane stay as they are.
    pub fn pack(_cpu, channels: usize, pixels: usize, from: &[u8], to: &mut [Quad]) {
        for channel in 0..channels {
            let to = &mut to[channel / 4 * plane_len(pixels)..][..pixels];
            for (to, from) in to.iter_mut().zip(&from[channel * pixels..][..pixels]) {
                to[channel % 4] = *from;
            }
        }
    }
}

by_cpu! {
    /// The other way.
    pub fn unpack(_cpu, channels: usize, pixels: usize, from: &[Quad], to: &mut [u8]) {
        for channel in 0..channels {
            let from = &from[channel / 4 * plane_len(pixels)..][..pixels];
            for (to, from) in to[channel * pixels..][..pixels].iter_mut().zip(from) {
                *to = from[channel % 4];
            }
        }
    }
}

by_cpu! {
    /// `clamp(round(value * factor) + zero, 0, 255)` of `[channels, pixels]` values, packed.
    pub fn quantize(_cpu, channels: usize, pixels: usize, factor: f32, zero: u8, from: &[f32], to: &mut [Quad]) {
        let zero = f32::from(zero);
        for channel in 0..channels {
            let to = &mut to[channel / 4 * plane_len(pixels)..][..pixels];
            for (to, from) in to.iter_mut().zip(&from[channel * pixels..][..pixels]) {
                to[channel % 4] = to_byte((from * factor).clamp(-zero, 255.0 - zero) + zero);
            }
        }
    }
}

by_cpu! {
    /// `(byte - zero) * scale` of packed planes, as `[channels, pixels]` values.
    pub fn dequantize(_cpu, channels: usize, pixels: usize, scale: f32, zero: u8, from: &[Quad], to: &mut [f32]) {
        let zero = i32::from(zero);
        for channel in 0..channels {
            let from = &from[channel / 4 * plane_len(pixels)..][..pixels];
            for (to, from) in to[channel * pixels..][..pixels].iter_mut().zip(from) {
                *to = (i32::from(from[channel % 4]) - zero) as f32 * scale;
            }
        }
    }
}

/// How two bytes are added: `round(a * factors[0] + b * factors[1] + offset)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sum {
    /// Each input's scale through the output's.
    pub factors: [f32; 2],
    /// The output's zero point, less the inputs' times their factors.
    pub offset: f32,
}

impl Sum {
    /// From each tensor's scale and zero point.
    pub fn new([a, b, output]: [(f32, u8); 3]) -> Self {
        let factors = [a.0 / output.0, b.0 / output.0];
        Self {
            factors,
            offset: f32::from(output.1) - (factors[0] * f32::from(a.1) + factors[1] * f32::from(b.1)),
        }
    }
}

by_cpu! {
    /// Adds packed planes of `pixels` pixels; `b` has one pixel, which is added to all of `a`, if it is to be `spread`.
    pub fn add(cpu, pixels: usize, spread: bool, sum: Sum, a: &[Quad], b: &[Quad], to: &mut [Quad]) {
        let [first, second] = sum.factors;
        let add = |x: f32, factor: f32, y: f32| match cpu.fused_multiply_add {
            true => x.mul_add(factor, y),
            false => x * factor + y,
        };
        let (len, one) = (plane_len(pixels), plane_len(1));
        for (plane, (a, to)) in a.chunks_exact(len).zip(to.chunks_exact_mut(len)).enumerate() {
            if spread {
                let b = b[plane * one].map(|b| add(f32::from(b), second, sum.offset));
                for (to, a) in to[..pixels].iter_mut().zip(a) {
                    *to = std::array::from_fn(|c| to_byte(add(f32::from(a[c]), first, b[c])));
                }
            } else {
                let b = b[plane * len..][..pixels].as_flattened();
                let (a, to) = (a[..pixels].as_flattened(), to[..pixels].as_flattened_mut());
                for ((to, a), b) in to.iter_mut().zip(a).zip(b) {
                    *to = to_byte(add(f32::from(*a), first, add(f32::from(*b), second, sum.offset)));
                }
            }
        }
    }
}

by_cpu! {
    /// The mean of each channel of packed planes, `clamp(round((mean - zeros[0]) * factor) + zeros[1], 0, 255)`, as planes of
    /// one pixel.
    pub fn average(_cpu, pixels: usize, factor: f32, zeros: [u8; 2], from: &[Quad], to: &mut [Quad]) {
        let (len, one) = (plane_len(pixels), plane_len(1));
        let factor = factor / pixels as f32;
        let zero = f32::from(zeros[1]);
        for (from, to) in from.chunks_exact(len).zip(to.chunks_exact_mut(one)) {
            let mut sums = [0_u64; 4];
            for quad in &from[..pixels] {
                for c in 0..4 {
                    sums[c] += u64::from(quad[c]);
                }
            }
            let none = u64::from(zeros[0]) * pixels as u64;
            to[0] = sums.map(|sum| {
                let sum = sum as f32 - none as f32;
                to_byte((sum * factor).clamp(-zero, 255.0 - zero) + zero)
            });
        }
    }
}

/// `[4 C, H, W]` to `[C, 2 H, 2 W]` in packed planes, `C` a multiple of 4, ONNX's order
/// [DCR](https://onnx.ai/onnx/operators/onnx__DepthToSpace.html).
pub fn depth_to_space(channels: usize, height: usize, width: usize, from: &[Quad], to: &mut [Quad]) {
    let (len_in, len_out) = (plane_len(height * width), plane_len(4 * height * width));
    let outputs = planes(channels / 4);
    for plane in 0..outputs {
        let to = &mut to[plane * len_out..][..4 * height * width];
        for i in 0..2 {
            let from = |j: usize| &from[((i * 2 + j) * outputs + plane) * len_in..][..height * width];
            let (left, right) = (from(0), from(1));
            for y in 0..height {
                let to = &mut to[(2 * y + i) * 2 * width..][..2 * width];
                let columns = y * width..(y + 1) * width;
                let pairs = to.as_chunks_mut::<2>().0.iter_mut();
                for ((to, left), right) in pairs.zip(&left[columns.clone()]).zip(&right[columns]) {
                    *to = [*left, *right];
                }
            }
        }
    }
}

/// The best that this CPU has for these functions.
pub fn level() -> Level {
    Level::best()
}
