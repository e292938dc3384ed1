//! Depthwise convolution: each channel with its own kernel. Plain functions over slices of `f32`.
//!
//! Rows of the input are laid out in a strip first, with zeros around them. For a stride of `s` a strip has `s` by `s`
//! parts, each of every `s`-th sample of every `s`-th row. Then each tap of the kernel reads neighbours, for any
//! stride and dilation, and all rows of a strip are made as one long row; what lies between the rows is thrown away.
//! A strip is small enough to stay in the first cache.

use simd::{Level, by_cpu};

/// Output samples that are made at once.
const LANES: usize = 16;

/// Samples that a strip should hold at most, 24 KiB; one that makes a single output row may be larger.
const STRIP: usize = 6144;

/// Samples from the first tap to the last, and output samples of a row or column, that are reckoned with at most.
const MOST_REACH: usize = 1024;
const MOST_OUTPUT: usize = 16_384;

/// One axis of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Axis {
    /// Input samples.
    pub input: usize,
    /// Output samples.
    pub output: usize,
    /// Taps.
    pub taps: usize,
    /// Input samples from one output sample to the next.
    pub stride: usize,
    /// Input samples from one tap to the next.
    pub dilation: usize,
    /// Zeros before the first input sample. As many as the output needs lie behind the last.
    pub zeros: usize,
}

impl Axis {
    /// `input` samples with `zeros.0` zeros before and `zeros.1` behind them, under `taps` taps. `None` if a number
    /// that must not be 0 is, or the taps reach further than the samples.
    pub fn new(
        input: usize,
        zeros: (usize, usize),
        taps: usize,
        stride: usize,
        dilation: usize,
    ) -> Option<Self> {
        if input == 0 || taps == 0 || stride == 0 || dilation == 0 {
            return None;
        }
        let reach = (taps - 1).checked_mul(dilation)?.checked_add(1)?;
        let samples = zeros.0.checked_add(input)?.checked_add(zeros.1)?;
        let room = samples.checked_sub(reach)?;
        Some(Self {
            input,
            output: room / stride + 1,
            taps,
            stride,
            dilation,
            zeros: zeros.0,
        })
    }

    /// Samples from the first tap to the last, both counted.
    fn reach(&self) -> usize {
        (self.taps - 1) * self.dilation + 1
    }
}

/// The sizes of one channel's convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Rows.
    pub down: Axis,
    /// Columns.
    pub across: Axis,
}

impl Geometry {
    /// Samples of a channel of the input.
    pub fn input(&self) -> usize {
        self.down.input * self.across.input
    }

    /// Samples of a channel of the output.
    pub fn output(&self) -> usize {
        self.down.output * self.across.output
    }

    /// Taps of a channel's kernel.
    pub fn taps(&self) -> usize {
        self.down.taps * self.across.taps
    }

    /// Whether a strip is small enough to be allocated: a damaged file may claim any size.
    pub fn is_practical(&self) -> bool {
        let axes = [self.down, self.across];
        axes.iter()
            .all(|a| a.reach() <= MOST_REACH && a.output <= MOST_OUTPUT && a.stride <= a.input)
    }

    /// Whether a channel's output may replace its input.
    pub fn fits_in_place(&self) -> bool {
        [self.down, self.across]
            .iter()
            .all(|a| a.stride == 1 && a.output == a.input && a.zeros < a.reach())
    }
}

/// How a strip is laid out.
#[derive(Debug, Clone, Copy, Default)]
struct Layout {
    /// Output rows that are made of one strip.
    rows: usize,
    /// Rows of a part that are the first of the next strip's as well.
    overlap: usize,
    /// Samples from row to row of a part.
    pitch: usize,
    /// Samples of a part.
    part: usize,
    /// From sample to sample of a part, down and across.
    stride: [usize; 2],
}

impl Layout {
    fn new(geometry: &Geometry) -> Self {
        let Geometry { down, across } = geometry;
        let pitch = across.output + (across.reach() - 1) / across.stride + 1;
        let overlap = (down.reach() - 1) / down.stride;
        let rows = (STRIP / (pitch * down.stride * across.stride)).saturating_sub(overlap);
        let rows = rows.clamp(1, down.output);
        Self {
            rows,
            overlap,
            pitch,
            part: (rows + overlap) * pitch,
            stride: [down.stride, across.stride],
        }
    }

    /// Samples of a strip, and what the last block of sums reads behind them.
    fn strip(&self) -> usize {
        self.stride[0] * self.stride[1] * self.part + LANES
    }

    /// Where sample (`y`, `x`) lies in a strip, counted from its first row with the zeros before it.
    #[inline(always)]
    fn place(&self, y: usize, x: usize) -> usize {
        let [down, across] = self.stride;
        let part = y % down * across + x % across;
        part * self.part + y / down * self.pitch + x / across
    }
}

/// What is computed: for each channel a kernel and a number to begin with, then limits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Filter<'a> {
    /// `[C, taps down, taps across]`.
    pub taps: &'a [f32],
    /// `[C]`.
    pub bias: &'a [f32],
    /// The least and the largest result. A result that is not a number becomes the least.
    pub limits: Option<[f32; 2]>,
}

/// Buffers that are reused.
#[derive(Debug, Default)]
pub struct Scratch {
    layout: Layout,
    strip: Vec<f32>,
    /// Where each tap lies in the strip.
    offsets: Vec<usize>,
    /// What the strip's output rows are cut from.
    sums: Vec<[f32; LANES]>,
}

impl Scratch {
    fn prepare(&mut self, geometry: &Geometry) {
        let layout = Layout::new(geometry);
        self.layout = layout;
        self.strip.clear();
        self.strip.resize(layout.strip(), 0.0);
        let Geometry { down, across } = geometry;
        let taps = (0..down.taps).flat_map(|y| (0..across.taps).map(move |x| (y, x)));
        self.offsets.clear();
        self.offsets
            .extend(taps.map(|(y, x)| layout.place(y * down.dilation, x * across.dilation)));
        self.sums
            .resize((layout.rows * layout.pitch).div_ceil(LANES), [0.0; LANES]);
    }
}

/// Convolves `[C, H, W]` samples into `output`, `[C, output rows, output columns]`.
///
/// # Panics
/// If a slice's length is not what `geometry` and the channels of `filter` give.
pub fn convolve(
    geometry: &Geometry,
    filter: &Filter<'_>,
    input: &[f32],
    output: &mut [f32],
    scratch: &mut Scratch,
) {
    assert_eq!(
        input.len(),
        filter.bias.len() * geometry.input(),
        "samples of {geometry:?}"
    );
    scratch.prepare(geometry);
    run(Level::best(), geometry, filter, Some(input), output, scratch);
}

/// [`convolve`] whose output replaces its input.
///
/// # Panics
/// As [`convolve`], and if the output does not [fit](Geometry::fits_in_place).
pub fn convolve_in_place(
    geometry: &Geometry,
    filter: &Filter<'_>,
    samples: &mut [f32],
    scratch: &mut Scratch,
) {
    assert!(geometry.fits_in_place(), "{geometry:?} in place");
    scratch.prepare(geometry);
    run(Level::best(), geometry, filter, None, samples, scratch);
}

by_cpu! {
    /// All channels; `None` for an input that lies in `output`.
    fn run(cpu, geometry: &Geometry, filter: &Filter<'_>, input: Option<&[f32]>, output: &mut [f32],
        scratch: &mut Scratch) {
        let taps = geometry.taps();
        assert_eq!(filter.taps.len(), filter.bias.len() * taps, "taps of {geometry:?}");
        assert_eq!(output.len(), filter.bias.len() * geometry.output(), "output of {geometry:?}");
        match (taps, cpu.fused_multiply_add) {
            (9, true) => channels::<9, true>(geometry, filter, input, output, scratch),
            (9, false) => channels::<9, false>(geometry, filter, input, output, scratch),
            (25, true) => channels::<25, true>(geometry, filter, input, output, scratch),
            (25, false) => channels::<25, false>(geometry, filter, input, output, scratch),
            (_, true) => channels::<0, true>(geometry, filter, input, output, scratch),
            (_, false) => channels::<0, false>(geometry, filter, input, output, scratch),
        }
    }
}

/// All channels, with `TAPS` taps each, or any number if it is 0. The strip is all zeros at first, and outside the
/// input's columns it stays so.
#[inline(always)]
fn channels<const TAPS: usize, const FUSED: bool>(
    geometry: &Geometry,
    filter: &Filter<'_>,
    input: Option<&[f32]>,
    output: &mut [f32],
    scratch: &mut Scratch,
) {
    let Scratch {
        layout,
        strip,
        offsets,
        sums,
    } = scratch;
    let layout = *layout;
    let (rows_in, rows_out) = (geometry.down.input, geometry.down.output);
    let (width_in, width_out) = (geometry.across.input, geometry.across.output);
    let [stride, runs] = layout.stride;
    let kernels = filter.taps.chunks_exact(geometry.taps()).zip(filter.bias);
    let planes = output.chunks_exact_mut(geometry.output());
    for (channel, (plane, (taps, &bias))) in planes.zip(kernels).enumerate() {
        // Rows are counted with the zeros before them; those before `loaded` have been laid out.
        let mut loaded = 0;
        let mut first = 0;
        while first < rows_out {
            let end = (first + layout.rows).min(rows_out);
            let from = first * stride;
            let to = from + (end - first + layout.overlap) * stride;
            if first > 0 {
                // The last rows of the strip before are the first of this one: in place they are gone from `plane`.
                for part in strip.chunks_exact_mut(layout.part) {
                    part.copy_within(layout.rows * layout.pitch.., 0);
                }
            }
            for y in loaded..to {
                let into = &mut strip[layout.place(y - from, 0)..];
                match y.checked_sub(geometry.down.zeros).filter(|&y| y < rows_in) {
                    Some(y) => {
                        let at = y * width_in;
                        let samples = match input {
                            Some(input) => &input[channel * geometry.input() + at..][..width_in],
                            None => &plane[at..][..width_in],
                        };
                        load(geometry, layout, samples, into);
                    }
                    // Where one strip holds all rows these are never written.
                    None if layout.rows == rows_out => {}
                    None => {
                        for part in 0..runs {
                            into[part * layout.part..][..layout.pitch].fill(0.0);
                        }
                    }
                }
            }
            loaded = to;
            let count = (end - first - 1) * layout.pitch + width_out;
            let sums = &mut sums[..count.div_ceil(LANES)];
            add_up::<TAPS, FUSED>(strip, offsets, taps, bias, filter.limits, sums);
            let rows = plane[first * width_out..end * width_out].chunks_exact_mut(width_out);
            for (row, sums) in rows.zip(sums.as_flattened().chunks(layout.pitch)) {
                row.copy_from_slice(&sums[..width_out]);
            }
            first = end;
        }
    }
}

/// Lays a row of samples out in a strip, of which `into` is the rest from that row of the first part on.
#[inline(always)]
fn load(geometry: &Geometry, layout: Layout, samples: &[f32], into: &mut [f32]) {
    let (zeros, stride, part) = (geometry.across.zeros, geometry.across.stride, layout.part);
    // Samples behind the last that a tap reads are left out.
    let room = (layout.pitch * stride).saturating_sub(zeros);
    let samples = &samples[..samples.len().min(room)];
    match stride {
        1 => into[zeros..zeros + samples.len()].copy_from_slice(samples),
        2 => {
            let (even, odd) = into.split_at_mut(part);
            let (first, second) = if zeros % 2 == 0 { (even, odd) } else { (odd, even) };
            let (first, second) = (&mut first[zeros / 2..], &mut second[zeros.div_ceil(2)..]);
            let (pairs, last) = samples.as_chunks::<2>();
            for ((first, second), &[a, b]) in first.iter_mut().zip(second.iter_mut()).zip(pairs) {
                *first = a;
                *second = b;
            }
            if let [last] = last {
                first[pairs.len()] = *last;
            }
        }
        _ => {
            for (x, &sample) in samples.iter().enumerate() {
                into[layout.place(0, x + zeros)] = sample;
            }
        }
    }
}

/// All sums of a strip: tap `t` of sample `i` lies at `offsets[t] + i`.
#[inline(always)]
fn add_up<const TAPS: usize, const FUSED: bool>(
    strip: &[f32],
    offsets: &[usize],
    taps: &[f32],
    bias: f32,
    limits: Option<[f32; 2]>,
    out: &mut [[f32; LANES]],
) {
    let blocks = out.len();
    if let (Ok(offsets), Ok(taps)) = (
        <&[usize; TAPS]>::try_from(offsets),
        <&[f32; TAPS]>::try_from(taps),
    ) {
        let mut runs: [&[[f32; LANES]]; TAPS] = [&[]; TAPS];
        for (run, &offset) in runs.iter_mut().zip(offsets) {
            *run = &strip[offset..][..blocks * LANES].as_chunks::<LANES>().0[..blocks];
        }
        for (block, out) in out.iter_mut().enumerate() {
            let mut sums = [bias; LANES];
            for tap in 0..TAPS {
                sums = add::<FUSED>(sums, &runs[tap][block], taps[tap]);
            }
            *out = limit(sums, limits);
        }
    } else {
        out.fill([bias; LANES]);
        for (&offset, &tap) in offsets.iter().zip(taps) {
            for (sums, samples) in out.iter_mut().zip(strip[offset..].as_chunks::<LANES>().0) {
                *sums = add::<FUSED>(*sums, samples, tap);
            }
        }
        for sums in out {
            *sums = limit(*sums, limits);
        }
    }
}

/// One tap more.
#[inline(always)]
fn add<const FUSED: bool>(sums: [f32; LANES], samples: &[f32; LANES], tap: f32) -> [f32; LANES] {
    let mut sums = sums;
    for (sum, &sample) in sums.iter_mut().zip(samples) {
        *sum = if FUSED {
            sample.mul_add(tap, *sum)
        } else {
            sample * tap + *sum
        };
    }
    sums
}

#[inline(always)]
fn limit(mut sums: [f32; LANES], limits: Option<[f32; 2]>) -> [f32; LANES] {
    if let Some([least, largest]) = limits {
        for sum in &mut sums {
            *sum = if *sum > least { *sum } else { least };
            *sum = if *sum < largest { *sum } else { largest };
        }
    }
    sums
}

/// [`convolve`] in its simplest form, for tests.
///
/// # Panics
/// As [`convolve`].
pub fn convolve_reference(geometry: &Geometry, filter: &Filter<'_>, input: &[f32], output: &mut [f32]) {
    let Geometry { down, across } = *geometry;
    // Where tap `tap` of output sample `at` reads, if not a zero.
    let source = |axis: Axis, at: usize, tap: usize| {
        (at * axis.stride + tap * axis.dilation)
            .checked_sub(axis.zeros)
            .filter(|&at| at < axis.input)
    };
    for (at, out) in output.iter_mut().enumerate() {
        let (channel, y, x) = (
            at / geometry.output(),
            at % geometry.output() / across.output,
            at % across.output,
        );
        let mut sum = filter.bias[channel];
        for tap in 0..geometry.taps() {
            let (row, column) = (
                source(down, y, tap / across.taps),
                source(across, x, tap % across.taps),
            );
            if let (Some(row), Some(column)) = (row, column) {
                let sample = input[channel * geometry.input() + row * across.input + column];
                sum += sample * filter.taps[channel * geometry.taps() + tap];
            }
        }
        *out = match filter.limits {
            Some([least, largest]) => sum.max(least).min(largest),
            None => sum,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Numbers from -1 to 1.
    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed | 1;
        (0..count)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                state as f32 / (u32::MAX / 2) as f32 - 1.0
            })
            .collect()
    }

    fn axis() -> impl Strategy<Value = Axis> {
        (1_usize..70, 1_usize..=7, 1_usize..=3, 1_usize..=4).prop_flat_map(
            |(input, taps, stride, dilation)| {
                let reach = (taps - 1) * dilation + 1;
                (0..reach, 0..reach).prop_filter_map("taps beyond the samples", move |zeros| {
                    Axis::new(input, zeros, taps, stride, dilation)
                })
            },
        )
    }

    /// The usual kernels as often as all others.
    fn geometry() -> impl Strategy<Value = Geometry> {
        let square = (
            1_usize..90,
            1_usize..150,
            prop::sample::select(vec![3_usize, 5]),
            1_usize..=2,
            1_usize..=3,
        )
            .prop_filter_map(
                "taps beyond the samples",
                |(height, width, taps, stride, dilation)| {
                    let zeros = (taps - 1) * dilation / 2;
                    let axis = |samples| Axis::new(samples, (zeros, zeros), taps, stride, dilation);
                    Some(Geometry {
                        down: axis(height)?,
                        across: axis(width)?,
                    })
                },
            );
        prop_oneof![
            square,
            (axis(), axis()).prop_map(|(down, across)| Geometry { down, across })
        ]
    }

    fn assert_close(found: &[f32], expected: &[f32]) {
        for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert!(
                (found - expected).abs() < 1e-4,
                "{at}: {found}, expected {expected}"
            );
        }
    }

    proptest! {
        #[test]
        fn every_form_is_the_reference(
            geometry in geometry(), channels in 1_usize..4, seed in any::<u32>(), limited in any::<bool>()
        ) {
            let input = numbers(channels * geometry.input(), seed);
            let (taps, bias) = (numbers(channels * geometry.taps(), seed ^ 77), numbers(channels, seed ^ 99));
            let filter = Filter { taps: &taps, bias: &bias, limits: limited.then_some([0.0, 0.6]) };
            let mut expected = vec![0.0; channels * geometry.output()];
            convolve_reference(&geometry, &filter, &input, &mut expected);
            let mut scratch = Scratch::default();
            let mut found = vec![f32::NAN; expected.len()];
            convolve(&geometry, &filter, &input, &mut found, &mut scratch);
            assert_close(&found, &expected);
            for level in Level::available() {
                scratch.prepare(&geometry);
                found.fill(f32::NAN);
                run(level, &geometry, &filter, Some(&input), &mut found, &mut scratch);
                assert_close(&found, &expected);
            }
            if geometry.fits_in_place() {
                let mut samples = input;
                convolve_in_place(&geometry, &filter, &mut samples, &mut scratch);
                assert_close(&samples, &expected);
            }
        }
    }

    #[test]
    fn outputs_are_as_long_as_strides_and_zeros_make_them() {
        assert_eq!(Axis::new(513, (1, 1), 3, 2, 1).unwrap().output, 257);
        assert_eq!(Axis::new(96, (1, 2), 5, 2, 1).unwrap().output, 48);
        assert_eq!(Axis::new(32, (18, 18), 3, 1, 18).unwrap().output, 32);
        assert_eq!(Axis::new(4, (0, 0), 5, 1, 1), None);
        assert_eq!(Axis::new(4, (0, 0), 3, 0, 1), None);
        assert_eq!(Axis::new(4, (usize::MAX, 1), 3, 1, 1), None);
    }

    #[test]
    fn what_only_a_damaged_file_asks_for_is_not_practical() {
        let usual = Axis::new(32, (36, 36), 3, 1, 36).unwrap();
        let wide = Axis::new(32, (1 << 20, 1 << 20), 3, 1, 1 << 20).unwrap();
        let geometry = |across| Geometry { down: usual, across };
        assert!(geometry(usual).is_practical());
        assert!(!geometry(wide).is_practical());
    }
}
