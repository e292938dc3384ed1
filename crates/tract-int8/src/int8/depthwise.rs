//! Convolutions of bytes in which each channel has its own kernel.
//!
//! The processor's dot products add four products of neighbouring bytes: here those of four taps of one channel. So each row of
//! a plane is laid out anew, once for each of its channels: for each pixel of the output a [`Quad`] of what the first four taps of
//! a row of the kernel see there. Further groups of taps find theirs some pixels on. Only the rows under the kernel are kept.

use super::super::depthwise::{Axis, Geometry};
use super::filter::Part;
use super::lanes::{Lanes, Quad};
use super::planes::{copy_every, load, phase, plane_len, span, store};
use super::taps::{GROUP, Taps};

/// How a row of a plane is laid out: each channel's groups, then the row itself.
#[derive(Clone, Copy)]
struct Row {
    taps: Taps,
    /// Groups that are laid out, 1 if the others find their quads in the first one's.
    kept: usize,
    /// Quads from one group's to the next one's, where one is kept.
    step: usize,
    /// Quads of a channel and group.
    width: usize,
    /// Quads of every `stride`-th column of the row with what lies around it.
    line: usize,
    /// Where the single tap finds its quads.
    single: usize,
    /// Quads of all that.
    len: usize,
}

impl Row {
    fn new(across: &Axis, pixels: usize) -> Self {
        let taps = Taps::of(across.taps);
        let reach = GROUP * across.dilation;
        let (kept, step) = match reach % across.stride {
            0 => (taps.groups.min(1), reach / across.stride),
            _ => (taps.groups, 0),
        };
        // Whole vectors: the rest of a loop over them would take as long again.
        let whole = |quads: usize| quads.next_multiple_of(pixels.max(LINE));
        let width = whole(across.output + taps.groups.saturating_sub(1) * step);
        let line = whole(width + (kept + 1) * reach / across.stride + 1);
        let (of, at) = phase((across.taps - 1) * across.dilation, across.stride);
        Self {
            taps,
            kept,
            step,
            width,
            line,
            single: 4 * kept * width + of * line + at,
            len: 4 * kept * width + across.stride * line,
        }
    }
}

/// See [`convolve`](super::conv::convolve): the planes of `filter`, `D` vectors of pixels at a time.
///
/// # Safety
/// Called from a function that is compiled for the instructions of `L`.
#[inline(always)]
pub(super) unsafe fn depthwise<L: Lanes, const D: usize>(
    geometry: &Geometry,
    filter: &Part,
    input: &[Quad],
    output: &mut [Quad],
    scratch: &mut Vec<Quad>,
) {
    let Geometry { down, across } = geometry;
    let (from, to) = (plane_len(geometry.input()), plane_len(geometry.output()));
    let row = Row::new(across, L::PIXELS);
    let window = (down.taps - 1) * down.dilation + 1;
    let fill = [filter.fill; 4];
    scratch.clear();
    scratch.resize(window * row.len + LINE, fill);
    // Each dot product has a load of its own: those that reach over two lines of the cache would take twice as long.
    let aligned = scratch.as_ptr().align_offset(LINE * size_of::<Quad>()).min(LINE);
    let rows = &mut scratch[aligned..][..window * row.len];
    for plane in 0..filter.planes() {
        let input = &input[(filter.first + plane) * from..][..geometry.input()];
        let output = &mut output[plane * to..][..to];
        // The first row under the kernel, and the next that is not laid out, with their places.
        let (mut first, mut laid) = ((0, 0), (0, 0));
        for y in 0..down.output {
            while first.0 < y * down.stride {
                first = after(first, window);
            }
            if laid.0 < first.0 {
                laid = first;
            }
            while laid.0 < first.0 + window {
                let slot = &mut rows[laid.1 * row.len..][..row.len];
                match laid.0.checked_sub(down.zeros).filter(|&row| row < down.input) {
                    Some(at) => {
                        let from = &input[at * across.input..][..across.input];
                        lay(across, &row, from, slot);
                    }
                    None => slot.fill(fill),
                }
                laid = after(laid, window);
            }
            let mut at = 0;
            while at < across.output {
                let output = &mut output[y * across.output + at..];
                let left = across.output - at;
                // SAFETY: as this function's.
                at += unsafe {
                    if left >= D * L::PIXELS {
                        tile::<L, D>(down, &row, filter, plane, rows, first.1, at, output)
                    } else if left > L::PIXELS && D > 1 {
                        tile::<L, 2>(down, &row, filter, plane, rows, first.1, at, output)
                    } else {
                        tile::<L, 1>(down, &row, filter, plane, rows, first.1, at, output)
                    }
                };
            }
        }
    }
}

/// Quads of a line of the cache.
const LINE: usize = 16;

/// The row after one, and its place among `window`.
#[inline(always)]
fn after((row, place): (usize, usize), window: usize) -> (usize, usize) {
    (row + 1, if place + 1 == window { 0 } else { place + 1 })
}

/// Lays a row of a plane out. What lies around it is there from the beginning.
#[inline(always)]
fn lay(across: &Axis, row: &Row, from: &[Quad], to: &mut [Quad]) {
    let (groups, lines) = to.split_at_mut(4 * row.kept * row.width);
    let &Axis {
        zeros,
        stride,
        dilation,
        ..
    } = across;
    for (offset, line) in lines.chunks_exact_mut(row.line).enumerate() {
        let inside = span(from.len(), line.len(), zeros, offset, stride);
        let at = inside.start * stride + offset;
        copy_every(from, &mut line[inside], at, zeros, stride);
    }
    for (group, to) in groups.chunks_exact_mut(4 * row.width).enumerate() {
        let seen = |tap: usize| {
            let (line, at) = phase((GROUP * group + tap) * dilation, stride);
            &lines[line * row.line + at..][..row.width]
        };
        transpose([seen(0), seen(1), seen(2), seen(3)], to);
    }
}

/// For each channel the quads of its bytes in the four rows.
#[inline(always)]
fn transpose(rows: [&[Quad]; 4], to: &mut [Quad]) {
    const EVEN: u32 = 0x00ff_00ff;
    const LOW: u32 = 0x0000_ffff;
    let width = to.len() / 4;
    let [a, b, c, d] = rows.map(|row| &row[..width]);
    let (first, rest) = to.split_at_mut(width);
    let (second, rest) = rest.split_at_mut(width);
    let (third, fourth) = rest.split_at_mut(width);
    let fourth = &mut fourth[..width];
    for x in 0..width {
        let [a, b, c, d] = [a[x], b[x], c[x], d[x]].map(u32::from_le_bytes);
        // Channels 0 and 2, and 1 and 3, of two rows.
        let (even_ab, odd_ab) = (a & EVEN | (b & EVEN) << 8, a >> 8 & EVEN | b & !EVEN);
        let (even_cd, odd_cd) = (c & EVEN | (d & EVEN) << 8, c >> 8 & EVEN | d & !EVEN);
        first[x] = (even_ab & LOW | even_cd << 16).to_le_bytes();
        second[x] = (odd_ab & LOW | odd_cd << 16).to_le_bytes();
        third[x] = (even_ab >> 16 | even_cd & !LOW).to_le_bytes();
        fourth[x] = (odd_ab >> 16 | odd_cd & !LOW).to_le_bytes();
    }
}

/// `V` vectors of pixels of a plane of the output, from column `at` on, under a kernel whose first row lies in `rows` at
/// `first`; gives the number of pixels.
///
/// # Safety
/// As [`depthwise`].
#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "a struct of them is not kept in registers"
)]
unsafe fn tile<L: Lanes, const V: usize>(
    down: &Axis,
    row: &Row,
    filter: &Part,
    plane: usize,
    rows: &[Quad],
    first: usize,
    at: usize,
    output: &mut [Quad],
) -> usize {
    let weights = &filter.weights[plane * filter.depth..][..filter.depth];
    // SAFETY: as this function's.
    unsafe {
        let mut sums = [[L::splat(0); V]; 4];
        for (c, sums) in sums.iter_mut().enumerate() {
            *sums = [L::splat(filter.begin(plane, c, L::OFFSET)); V];
        }
        let mut slot = first * row.len;
        for weights in weights.chunks_exact(row.taps.entries()) {
            let quads = &rows[slot..][..row.len];
            slot += down.dilation * row.len;
            if slot >= rows.len() {
                slot -= rows.len();
            }
            let (groups, single) = weights.split_at(row.taps.groups);
            for (group, weights) in groups.iter().enumerate() {
                let here = match row.kept {
                    1 => group * row.step + at,
                    _ => 4 * group * row.width + at,
                };
                for c in 0..4 {
                    let bytes = load::<L, V>(&quads[here + c * row.width..]);
                    for v in 0..V {
                        sums[c][v] = L::dot(sums[c][v], bytes[v], weights[c]);
                    }
                }
            }
            if let [weights] = single {
                let bytes = load::<L, V>(&quads[row.single + at..]);
                for c in 0..4 {
                    for v in 0..V {
                        sums[c][v] = L::dot(sums[c][v], bytes[v], weights[c]);
                    }
                }
            }
        }
        store::<L, V>(&sums, filter.scales[plane], filter.zero, output);
    }
    V * L::PIXELS
}
