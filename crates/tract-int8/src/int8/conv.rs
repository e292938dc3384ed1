//! Convolutions of bytes: u8 samples, s8 weights, 32-bit sums, u8 results. Plain functions over slices.
//!
//! Samples lie in [`planes`](super::planes) of four channels.

use super::super::depthwise::Geometry;
use super::depthwise::depthwise;
use super::filter::{Filter, Part};
#[cfg(target_arch = "aarch64")]
use super::lanes::Dotprod;
#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx2, Avx2Small, Avx512, Vnni};
use super::lanes::{Lanes, Level, Portable, Quad};
use super::planes::{copy_every, load, plane_len, span, store};

/// Planes of the output that are made at a time where it takes the fewest loads: those that are shared out should be a
/// multiple.
pub const AT_A_TIME: usize = 2;

/// Convolves planes with [`plane_len`] quads each: the planes of the output from `first` on that `output` has room for.
///
/// `scratch` is room that is kept from call to call.
///
/// # Panics
/// If a slice is shorter than `geometry` and `filter` say, or the output has fewer planes.
pub fn convolve(
    level: Level,
    geometry: &Geometry,
    filter: &Filter,
    first: usize,
    input: &[Quad],
    output: &mut [Quad],
    scratch: &mut Vec<Quad>,
) {
    #[cfg(target_arch = "x86_64")]
    let is_small = filter.is_small();
    let filter = &filter.part(first, output.len() / plane_len(geometry.output()));
    match level {
        // SAFETY: plain Rust needs no instructions.
        Level::Portable => unsafe { form::<Portable, 1, 1, 1>(geometry, filter, input, output, scratch) },
        // SAFETY: a level exists only where the CPU has its instructions.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 if is_small => unsafe { avx2_small(geometry, filter, input, output, scratch) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2(geometry, filter, input, output, scratch) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::AvxVnni => unsafe { avx_vnni(geometry, filter, input, output, scratch) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Vnni => unsafe { avx512_vnni(geometry, filter, input, output, scratch) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Level::Dotprod => unsafe { dotprod(geometry, filter, input, output, scratch) },
    }
}

/// A form, compiled for its instructions.
macro_rules! compiled {
    ($name:ident: $lanes:ty, $q:literal, $v:literal, $d:literal; $arch:literal, $features:literal) => {
        #[cfg(target_arch = $arch)]
        #[target_feature(enable = $features)]
        fn $name(
            geometry: &Geometry,
            filter: &Part,
            input: &[Quad],
            output: &mut [Quad],
            scratch: &mut Vec<Quad>,
        ) {
            // SAFETY: compiled for the form's instructions.
            unsafe { form::<$lanes, $q, $v, $d>(geometry, filter, input, output, scratch) }
        }
    };
}

compiled!(dotprod: Dotprod, 2, 3, 4; "aarch64", "neon,dotprod");
compiled!(avx2: Avx2, 1, 2, 2; "x86_64", "avx2,fma");
compiled!(avx2_small: Avx2Small, 1, 2, 2; "x86_64", "avx2,fma");
compiled!(avx_vnni: Vnni, 1, 3, 2; "x86_64", "avx2,fma,avxvnni");
compiled!(avx512_vnni: Avx512, 2, 3, 4; "x86_64", "avx2,fma,avx512f,avx512bw,avx512vl,avx512vnni");

/// With `Q` planes of the output and `V` vectors of pixels at a time, or `D` vectors of one plane if depthwise, which the
/// registers hold the sums of.
///
/// # Safety
/// Called from a function that is compiled for the instructions of `L`.
#[inline(always)]
unsafe fn form<L: Lanes, const Q: usize, const V: usize, const D: usize>(
    geometry: &Geometry,
    filter: &Part,
    input: &[Quad],
    output: &mut [Quad],
    scratch: &mut Vec<Quad>,
) {
    let (from, to) = (plane_len(geometry.input()), plane_len(geometry.output()));
    let axes = [geometry.down, geometry.across];
    let is_pointwise = axes
        .iter()
        .all(|a| a.taps == 1 && a.stride == 1 && a.input == a.output && a.zeros == 0);
    // SAFETY: as this function's.
    unsafe {
        if filter.is_depthwise {
            depthwise::<L, D>(geometry, filter, input, output, scratch);
        } else if is_pointwise {
            pixels::<L, Q, V>(filter, input, from, geometry.input(), output, to);
        } else {
            rows::<L, Q, V>(geometry, filter, input, output, scratch);
        }
    }
}

/// All planes of `count` pixels of the output, which see the pixel at the same place of `filter.depth` planes of the input.
#[inline(always)]
unsafe fn pixels<L: Lanes, const Q: usize, const V: usize>(
    filter: &Part,
    input: &[Quad],
    from: usize,
    count: usize,
    output: &mut [Quad],
    to: usize,
) {
    let mut at = 0;
    while at < count {
        // SAFETY: as this function's.
        unsafe {
            if count - at > (V - 1) * L::PIXELS {
                columns::<L, Q, V>(filter, &input[at..], from, output, at, to);
                at += V * L::PIXELS;
            } else {
                columns::<L, Q, 1>(filter, &input[at..], from, output, at, to);
                at += L::PIXELS;
            }
        }
    }
}

#[inline(always)]
unsafe fn columns<L: Lanes, const Q: usize, const V: usize>(
    filter: &Part,
    input: &[Quad],
    from: usize,
    output: &mut [Quad],
    at: usize,
    to: usize,
) {
    let planes = filter.planes();
    let mut plane = 0;
    // SAFETY: as this function's.
    unsafe {
        while plane + Q <= planes {
            tile::<L, Q, V>(filter, plane, input, from, output, at, to);
            plane += Q;
        }
        while plane < planes {
            tile::<L, 1, V>(filter, plane, input, from, output, at, to);
            plane += 1;
        }
    }
}

/// `Q` planes of `V` vectors of pixels of the output.
#[inline(always)]
unsafe fn tile<L: Lanes, const Q: usize, const V: usize>(
    filter: &Part,
    plane: usize,
    input: &[Quad],
    from: usize,
    output: &mut [Quad],
    at: usize,
    to: usize,
) {
    let depth = filter.depth;
    let mut weights = [&filter.weights[plane * depth..][..depth]; Q];
    for (q, weights) in weights.iter_mut().enumerate().skip(1) {
        *weights = &filter.weights[(plane + q) * depth..][..depth];
    }
    // SAFETY: as this function's.
    unsafe {
        let mut sums = [[[L::splat(0); V]; 4]; Q];
        for (q, sums) in sums.iter_mut().enumerate() {
            for (c, sums) in sums.iter_mut().enumerate() {
                *sums = [L::splat(filter.begin(plane + q, c, L::OFFSET)); V];
            }
        }
        for k in 0..depth {
            let bytes = load::<L, V>(&input[k * from..]);
            for q in 0..Q {
                let weights = weights[q][k];
                for c in 0..4 {
                    for v in 0..V {
                        sums[q][c][v] = L::dot(sums[q][c][v], bytes[v], weights[c]);
                    }
                }
            }
        }
        for q in 0..Q {
            let output = &mut output[(plane + q) * to + at..];
            store::<L, V>(&sums[q], filter.scales[plane + q], filter.zero, output);
        }
    }
}

/// Kernels of several taps, or strides: each row of the output sees its taps laid out as planes of their own.
#[inline(always)]
unsafe fn rows<L: Lanes, const Q: usize, const V: usize>(
    geometry: &Geometry,
    filter: &Part,
    input: &[Quad],
    output: &mut [Quad],
    scratch: &mut Vec<Quad>,
) {
    let Geometry { down, across } = geometry;
    let (from, to) = (plane_len(geometry.input()), plane_len(geometry.output()));
    let taps = geometry.taps();
    let inputs = filter.depth / taps;
    // Vectors of several are only taken where they end before the row's end, rounded up.
    let pitch = across.output.next_multiple_of(V * L::PIXELS);
    let fill = [filter.fill; 4];
    scratch.clear();
    scratch.resize(filter.depth * pitch, fill);
    for y in 0..down.output {
        for tap in 0..taps {
            let (i, j) = (tap / across.taps, tap % across.taps);
            let row = (y * down.stride + i * down.dilation)
                .checked_sub(down.zeros)
                .filter(|&row| row < down.input);
            for plane in 0..inputs {
                let to = &mut scratch[(tap * inputs + plane) * pitch..][..across.output];
                let Some(row) = row else {
                    to.fill(fill);
                    continue;
                };
                let from = &input[plane * from + row * across.input..][..across.input];
                take_row(from, to, across.zeros, j * across.dilation, across.stride, fill);
            }
        }
        let mut at = 0;
        while at < across.output {
            let here = y * across.output + at;
            // SAFETY: as this function's.
            unsafe {
                if across.output - at >= V * L::PIXELS {
                    columns::<L, Q, V>(filter, &scratch[at..], pitch, output, here, to);
                    at += V * L::PIXELS;
                } else {
                    columns::<L, Q, 1>(filter, &scratch[at..], pitch, output, here, to);
                    at += L::PIXELS;
                }
            }
        }
    }
}

/// Every `stride`-th quad of a row, from `offset` on in the row with `zeros` more before it; `fill` around it.
#[inline(always)]
fn take_row(from: &[Quad], to: &mut [Quad], zeros: usize, offset: usize, stride: usize, fill: Quad) {
    let inside = span(from.len(), to.len(), zeros, offset, stride);
    to[..inside.start].fill(fill);
    to[inside.end..].fill(fill);
    copy_every(
        from,
        &mut to[inside.clone()],
        inside.start * stride + offset,
        zeros,
        stride,
    );
}
