//! The pixel loops: rows of samples and labels to painted rows.
//!
//! Masks are made of long runs of one class, so a run is found first, eight labels at a time, and then painted
//! with one ink.

use super::ink::Ink;

/// An ink for every label.
pub type Inks = [Ink; 256];

/// One past the last label from `start` on that equals the one at `start` in `a`, and in `b` as well; `start`
/// itself if the two differ there.
fn run_end(a: &[u8], b: &[u8], start: usize) -> usize {
    let label = a[start];
    let pattern = u64::from_ne_bytes([label; 8]);
    let mut at = start;
    let words = a[start..]
        .as_chunks::<8>()
        .0
        .iter()
        .zip(b[start..].as_chunks::<8>().0);
    for (&x, &y) in words {
        if u64::from_ne_bytes(x) != pattern || u64::from_ne_bytes(y) != pattern {
            break;
        }
        at += 8;
    }
    let rest = a[at..].iter().zip(&b[at..]);
    at + rest.take_while(|&(&x, &y)| x == label && y == label).count()
}

/// Adds the number of pixels of each label.
pub fn count(labels: &[u8], counts: &mut [u32; 256]) {
    let mut at = 0;
    while at < labels.len() {
        let end = run_end(labels, labels, at);
        counts[usize::from(labels[at])] += (end - at) as u32;
        at = end;
    }
}

/// Paints one row of luma.
pub fn luma(from: &[u8], labels: &[u8], inks: &Inks, out: &mut [u8]) {
    let mut at = 0;
    while at < labels.len() {
        let end = run_end(labels, labels, at);
        let ink = inks[usize::from(labels[at])];
        if ink == Ink::COPY {
            out[at..end].copy_from_slice(&from[at..end]);
        } else {
            for (o, &v) in out[at..end].iter_mut().zip(&from[at..end]) {
                *o = ink.on(v, 0);
            }
        }
        at = end;
    }
}

/// Paints one row of R, G, B.
pub fn rgb(from: &[u8], labels: &[u8], inks: &Inks, out: &mut [u8]) {
    let mut at = 0;
    while at < labels.len() {
        let end = run_end(labels, labels, at);
        let ink = inks[usize::from(labels[at])];
        let (from, out) = (&from[3 * at..3 * end], &mut out[3 * at..3 * end]);
        if ink == Ink::COPY {
            out.copy_from_slice(from);
        } else {
            for (o, v) in out.as_chunks_mut::<3>().0.iter_mut().zip(from.as_chunks::<3>().0) {
                *o = [ink.on(v[0], 0), ink.on(v[1], 1), ink.on(v[2], 2)];
            }
        }
        at = end;
    }
}

/// The chroma of two rows of pixels: the samples of the upper and the lower one, which are the same in 4:2:0.
#[derive(Debug, Clone, Copy)]
pub struct ChromaRows<'a> {
    /// U of the upper and the lower row.
    pub u: [&'a [u8]; 2],
    /// V of the upper and the lower row.
    pub v: [&'a [u8]; 2],
}

/// Paints one row of chroma of a 4:2:0 picture. `upper` and `lower` are the labels of its two rows of pixels;
/// the same row twice at the bottom of an odd height.
///
/// Each sample is the rounded mean over its four pixels, each with its own row's chroma and its own ink. Past
/// an odd width the last column counts twice.
pub fn chroma(
    from: ChromaRows<'_>,
    upper: &[u8],
    lower: &[u8],
    inks: &Inks,
    out_u: &mut [u8],
    out_v: &mut [u8],
) {
    let width = upper.len();
    let blocks = width.div_ceil(2);
    let mut at = 0;
    while at < blocks {
        let pixel = run_end(upper, lower, 2 * at);
        let end = if pixel == width { blocks } else { pixel / 2 };
        let ink = inks[usize::from(upper[2 * at])];
        if end > at {
            let run = at..end;
            uniform(from.u.map(|r| &r[run.clone()]), ink, 1, &mut out_u[run.clone()]);
            uniform(from.v.map(|r| &r[run.clone()]), ink, 2, &mut out_v[run.clone()]);
            at = end;
        } else {
            let right = (2 * at + 1).min(width - 1);
            let four = [upper[2 * at], upper[right], lower[2 * at], lower[right]];
            let four = four.map(|l| &inks[usize::from(l)]);
            out_u[at] = mean(from.u.map(|r| r[at]), four, 1);
            out_v[at] = mean(from.v.map(|r| r[at]), four, 2);
            at += 1;
        }
    }
}

/// The mean of four pixels, the first two with the upper sample.
fn mean(samples: [u8; 2], inks: [&Ink; 4], channel: usize) -> u8 {
    let one = |sample: u8, ink: &Ink| u32::from(sample) * u32::from(ink.keep) + u32::from(ink.add[channel]);
    let sum = one(samples[0], inks[0])
        + one(samples[0], inks[1])
        + one(samples[1], inks[2])
        + one(samples[1], inks[3]);
    ((sum + 512) >> 10) as u8
}

/// [`mean`] where all four inks are the same.
fn uniform(from: [&[u8]; 2], ink: Ink, channel: usize, out: &mut [u8]) {
    if std::ptr::eq(from[0], from[1]) {
        if ink == Ink::COPY {
            out.copy_from_slice(from[0]);
        } else {
            for (o, &v) in out.iter_mut().zip(from[0]) {
                *o = ink.on(v, channel);
            }
        }
        return;
    }
    let (keep, add) = (u32::from(ink.keep), u32::from(ink.add[channel]));
    for ((o, &a), &b) in out.iter_mut().zip(from[0]).zip(from[1]) {
        *o = (((u32::from(a) + u32::from(b)) * keep + 2 * add + 256) >> 9) as u8;
    }
}

/// Takes the bytes `offset`, `offset + STEP`, ... of a row of interleaved samples.
pub fn take<const STEP: usize>(row: &[u8], offset: usize, out: &mut [u8]) {
    for (o, group) in out.iter_mut().zip(row.as_chunks::<STEP>().0) {
        *o = group[offset];
    }
}
