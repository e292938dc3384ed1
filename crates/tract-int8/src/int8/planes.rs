//! How samples lie: in planes of four channels.
//!
//! A pixel of a plane is a [`Quad`], which is what the processor's dot products of bytes take. A plane has as many pixels as
//! the picture, row by row, and some behind them whose content means nothing, so that vectors may reach over its end.
//! Channels that fill up the last plane mean nothing either; their weights are 0.

use std::ops::Range;

use super::lanes::{ALIGN, Lanes, Quad};

/// Planes of four channels that hold `channels`.
pub fn planes(channels: usize) -> usize {
    channels.div_ceil(4)
}

/// Quads of a plane for a picture of this many pixels.
pub fn plane_len(pixels: usize) -> usize {
    // Rows are made one after the other, each up to a multiple of ALIGN: the last one reaches up to here.
    pixels.next_multiple_of(ALIGN) + ALIGN
}

/// Vectors of quads.
///
/// # Safety
/// The processor has the instructions of `L`.
#[inline(always)]
pub(super) unsafe fn load<L: Lanes, const V: usize>(from: &[Quad]) -> [L::Bytes; V] {
    let from = &from[..V * L::PIXELS];
    // SAFETY: as this function's.
    unsafe {
        let mut bytes = [L::load(from); V];
        for v in 1..V {
            bytes[v] = L::load(&from[v * L::PIXELS..]);
        }
        bytes
    }
}

/// The sums of four channels, scaled and rounded.
///
/// # Safety
/// The processor has the instructions of `L`.
#[inline(always)]
pub(super) unsafe fn store<L: Lanes, const V: usize>(
    sums: &[[L::Sums; V]; 4],
    scales: [f32; 4],
    zero: u8,
    to: &mut [Quad],
) {
    let to = &mut to[..V * L::PIXELS];
    for v in 0..V {
        // SAFETY: as this function's.
        unsafe {
            let sums = [sums[0][v], sums[1][v], sums[2][v], sums[3][v]];
            L::store(&mut to[v * L::PIXELS..], L::requantize(sums, scales, zero));
        }
    }
}

/// Which of `count` quads, every `stride`-th one from `offset` on in the row with `zeros` more before it, lie in a row of `len` quads.
#[inline(always)]
pub(super) fn span(len: usize, count: usize, zeros: usize, offset: usize, stride: usize) -> Range<usize> {
    let ceil = |n: usize| div_ceil(n, stride);
    let start = ceil(zeros.saturating_sub(offset)).min(count);
    start..ceil((len + zeros).saturating_sub(offset)).clamp(start, count)
}

/// `n.div_ceil(stride)`, without a division for the usual strides.
#[inline(always)]
fn div_ceil(n: usize, stride: usize) -> usize {
    match stride {
        1 => n,
        2 => n.div_ceil(2),
        _ => n.div_ceil(stride),
    }
}

/// `(n % stride, n / stride)`, in the same way.
#[inline(always)]
pub(super) fn phase(n: usize, stride: usize) -> (usize, usize) {
    match stride {
        1 => (0, n),
        2 => (n % 2, n / 2),
        _ => (n % stride, n / stride),
    }
}

/// Every `stride`-th quad of a row into `to`, from column `at` on of the row with `zeros` more before it.
#[inline(always)]
pub(super) fn copy_every(from: &[Quad], to: &mut [Quad], at: usize, zeros: usize, stride: usize) {
    if to.is_empty() {
        return;
    }
    let from = &from[at - zeros..];
    match stride {
        1 => to.copy_from_slice(&from[..to.len()]),
        2 => {
            // In pairs, which the compiler makes vectors of; the last may stand alone.
            let (pairs, alone) = from.as_chunks::<2>();
            for (to, pair) in to.iter_mut().zip(pairs) {
                *to = pair[0];
            }
            if let (Some(to), Some(alone)) = (to.get_mut(pairs.len()), alone.first()) {
                *to = *alone;
            }
        }
        _ => {
            for (to, from) in to.iter_mut().zip(from.iter().step_by(stride)) {
                *to = *from;
            }
        }
    }
}
