//! Weights of a convolution of bytes, laid out for [`conv`](super::conv).

use super::lanes::are_small;
use super::planes::planes;
use super::taps::Taps;

/// Weights of a convolution, laid out as they are read, with what follows the sums.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    /// For each plane of the output: for each tap, then for each plane of the input: the weights of four channels of the output
    /// by four of the input. If depthwise, for each row of taps, then for each of its [`Taps`]: the weights of four channels
    /// by four taps, or by the four channels of one.
    weights: Vec<[[i8; 4]; 4]>,
    /// For each plane of the output, less what the input's zero point adds to each sum.
    bias: Vec<[i32; 4]>,
    /// For each plane of the output: the sum of each channel's weights.
    totals: Vec<[i32; 4]>,
    /// Input scale by weight scale through output scale.
    scales: Vec<[f32; 4]>,
    /// The output's zero point.
    zero: u8,
    /// The input's zero point, which fills what lies around a picture.
    fill: u8,
    /// Entries of `weights` for a plane of the output.
    depth: usize,
    is_depthwise: bool,
    /// Whether [`are_small`] holds for all weights.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        allow(dead_code, reason = "a form of x86-64 asks")
    )]
    is_small: bool,
}

/// A convolution as a file has it.
#[derive(Debug, Clone, Copy)]
pub struct Stored<'a> {
    /// Channels of the output.
    pub outputs: usize,
    /// Channels of the input; as many as of the output if each has its own kernel.
    pub inputs: usize,
    /// Each output channel sees one input channel.
    pub is_depthwise: bool,
    /// Rows and columns of a kernel.
    pub taps: [usize; 2],
    /// `[outputs, inputs, rows, columns]`; `[outputs, 1, rows, columns]` if depthwise.
    pub weights: &'a [i8],
    /// `[outputs]`, in units of input scale by weight scale.
    pub bias: &'a [i32],
    /// `[outputs]`: input scale by weight scale through output scale.
    pub scales: &'a [f32],
    /// The input's zero point.
    pub input_zero: u8,
    /// The output's zero point.
    pub output_zero: u8,
}

impl Filter {
    /// Lays weights out. `None` if the slices' lengths are not what the numbers of channels say, or a sum or what
    /// it is scaled to could leave 32 bits.
    pub fn new(stored: &Stored) -> Option<Self> {
        let Stored {
            outputs,
            inputs,
            taps: [rows, columns],
            is_depthwise,
            ..
        } = *stored;
        let taps = rows.checked_mul(columns)?;
        let seen = if is_depthwise { 1 } else { inputs };
        let kernel = seen.checked_mul(taps)?;
        let fits = kernel > 0
            && outputs > 0
            && stored.weights.len() == outputs.checked_mul(kernel)?
            && stored.bias.len() == outputs
            && stored.scales.len() == outputs
            && (!is_depthwise || inputs == outputs);
        if !fits {
            return None;
        }
        let row = Taps::of(columns);
        let depth = match is_depthwise {
            true => rows * row.entries(),
            false => taps * planes(inputs),
        };
        let mut filter = Self {
            weights: vec![[[0; 4]; 4]; planes(outputs) * depth],
            bias: vec![[0; 4]; planes(outputs)],
            totals: vec![[0; 4]; planes(outputs)],
            scales: vec![[0.0; 4]; planes(outputs)],
            zero: stored.output_zero,
            fill: stored.input_zero,
            depth,
            is_depthwise,
            is_small: false,
        };
        for output in 0..outputs {
            let (plane, lane) = (output / 4, output % 4);
            let kernel = &stored.weights[output * kernel..][..kernel];
            let entries = &mut filter.weights[plane * depth..][..depth];
            for (at, &weight) in kernel.iter().enumerate() {
                let (input, tap) = (at / taps, at % taps);
                if is_depthwise {
                    let (entry, byte) = row.place(tap % columns, lane);
                    entries[tap / columns * row.entries() + entry][lane][byte] = weight;
                } else {
                    entries[tap * planes(inputs) + input / 4][lane][input % 4] = weight;
                }
            }
            let total: i64 = kernel.iter().map(|&w| i64::from(w)).sum();
            let magnitude: i64 = kernel.iter().map(|&w| i64::from(w).abs()).sum();
            let bias = i64::from(stored.bias[output]) - i64::from(stored.input_zero) * total;
            // As much again for the offset of some forms.
            let most = bias.abs() + 2 * 255 * magnitude;
            let most_scaled = most as f64 * f64::from(stored.scales[output].abs());
            if most > i64::from(i32::MAX) || most_scaled.is_nan() || most_scaled > f64::from(1 << 30) {
                return None;
            }
            filter.bias[plane][lane] = i32::try_from(bias).ok()?;
            filter.totals[plane][lane] = i32::try_from(total).ok()?;
            filter.scales[plane][lane] = stored.scales[output];
        }
        filter.is_small = filter.weights.iter().flatten().all(|&weights| are_small(weights));
        Some(filter)
    }

    /// Whether [`are_small`] holds for all weights.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn is_small(&self) -> bool {
        self.is_small
    }

    /// Planes of the output.
    pub fn planes(&self) -> usize {
        self.bias.len()
    }

    /// Multiplications for a pixel of a plane of the output.
    pub fn work(&self) -> usize {
        16 * self.depth
    }

    /// That for `count` planes of the output from `first` on.
    pub(super) fn part(&self, first: usize, count: usize) -> Part<'_> {
        let planes = first..first + count;
        Part {
            weights: &self.weights[first * self.depth..][..count * self.depth],
            bias: &self.bias[planes.clone()],
            totals: &self.totals[planes.clone()],
            scales: &self.scales[planes],
            first,
            zero: self.zero,
            fill: self.fill,
            depth: self.depth,
            is_depthwise: self.is_depthwise,
        }
    }
}

/// The [`Filter`] for some planes of the output.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) weights: &'a [[[i8; 4]; 4]],
    pub(super) bias: &'a [[i32; 4]],
    pub(super) totals: &'a [[i32; 4]],
    pub(super) scales: &'a [[f32; 4]],
    /// The first of the planes.
    pub(super) first: usize,
    pub(super) zero: u8,
    pub(super) fill: u8,
    pub(super) depth: usize,
    pub(super) is_depthwise: bool,
}

impl Part<'_> {
    pub(super) fn planes(&self) -> usize {
        self.bias.len()
    }

    /// What a channel's sum begins with, if each byte is less by `offset`.
    #[inline(always)]
    pub(super) fn begin(&self, plane: usize, channel: usize, offset: i32) -> i32 {
        self.bias[plane][channel] + offset * self.totals[plane][channel]
    }
}
