//! Finds the range in which each value is stored, from pictures.

use tch::{Kind, Tensor};

use super::WeightBits;
use crate::forward::{Mode, forward_each};
use crate::graph::Graph;
use crate::weights::Weights;

/// Histogram bins.
const BINS: usize = 2048;
/// Stored values.
const LEVELS: f64 = 255.0;

/// An interval of real values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// Lower end.
    pub low: f32,
    /// Upper end.
    pub high: f32,
}

impl Range {
    /// The smallest range that holds both.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self {
            low: self.low.min(other.low),
            high: self.high.max(other.high),
        }
    }
}

/// How a range is chosen from what was seen of a value.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// The smallest mean squared error of storing the values
    #[default]
    Mse,
    /// From the smallest value to the largest
    MinMax,
    /// All but 0.01 % of the values at each end
    Percentile,
    /// The least information lost (Kullback-Leibler divergence), as TensorRT calibrates
    Entropy,
}

/// The ranges that values are stored in.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// The range of each node's value.
    pub ranges: Vec<Range>,
    /// Mean of each channel of each node's value.
    pub means: Vec<Vec<f32>>,
    /// Biases are moved by what rounding the weights adds on average.
    pub correct_bias: bool,
    /// Of weights, in the file for ONNX Runtime's CPU; others have all eight.
    pub weight_bits: WeightBits,
}

/// What was seen of each node's value.
pub struct Observations {
    extremes: Vec<Range>,
    histograms: Vec<Vec<f64>>,
    means: Vec<Vec<f32>>,
}

impl Observations {
    /// The ranges that `method` chooses.
    #[must_use]
    pub fn calibration(&self, method: Method) -> Calibration {
        let ranges = self
            .extremes
            .iter()
            .zip(&self.histograms)
            .map(|(&range, histogram)| match method {
                Method::Mse => best_range(range, histogram),
                Method::MinMax => range,
                Method::Percentile => percentile_range(range, histogram),
                Method::Entropy => entropy_range(range, histogram),
            })
            .collect();
        Calibration {
            ranges,
            means: self.means.clone(),
            correct_bias: true,
            weight_bits: WeightBits::default(),
        }
    }
}

/// As [`observe`], with the ranges of the smallest mean squared error.
#[must_use]
pub fn calibrate(graph: &Graph, weights: &Weights, inputs: &[Tensor]) -> Calibration {
    observe(graph, weights, inputs).calibration(Method::Mse)
}

/// Runs the network on `inputs` twice, first for the extremes and then for histograms.
///
/// # Panics
/// There are no inputs, or a value is not a number.
#[must_use]
pub fn observe(graph: &Graph, weights: &Weights, inputs: &[Tensor]) -> Observations {
    assert!(!inputs.is_empty(), "calibration needs pictures");
    let _guard = tch::no_grad_guard();
    let count = graph.nodes.len();
    let mut extremes = vec![Range { low: 0.0, high: 0.0 }; count];
    let mut sums: Vec<Option<Tensor>> = (0..count).map(|_| None).collect();
    for input in inputs {
        let _ = forward_each(graph, weights, input, Mode::Eval, Kind::Float, |id, value| {
            let range = Range {
                low: value.min().double_value(&[]) as f32,
                high: value.max().double_value(&[]) as f32,
            };
            assert!(
                range.low.is_finite() && range.high.is_finite(),
                "{} is not finite",
                graph.nodes[id].name
            );
            extremes[id] = extremes[id].union(range);
            let mean = value.mean_dim([0i64, 2, 3].as_slice(), false, None);
            sums[id] = Some(match sums[id].take() {
                Some(sum) => sum + mean,
                None => mean,
            });
        });
    }
    let mut histograms = vec![vec![0f64; BINS]; count];
    for input in inputs {
        let _ = forward_each(graph, weights, input, Mode::Eval, Kind::Float, |id, value| {
            let Range { low, high } = extremes[id];
            if high > low {
                // `histc` counts values outside its limits nowhere, and both ends inside.
                let counts = value
                    .contiguous()
                    .view([-1])
                    .histc_limited(f64::from(low), f64::from(high));
                for (total, count) in histograms[id].iter_mut().zip(counts) {
                    *total += f64::from(count);
                }
            }
        });
    }
    let means = sums
        .into_iter()
        .map(|sum| {
            let mean = sum.expect("every node was seen") / inputs.len() as f64;
            Vec::try_from(mean.to_device(tch::Device::Cpu)).expect("a mean a channel")
        })
        .collect();
    Observations {
        extremes,
        histograms,
        means,
    }
}

trait Histogram {
    fn histc_limited(&self, low: f64, high: f64) -> Vec<f32>;
}

impl Histogram for Tensor {
    fn histc_limited(&self, low: f64, high: f64) -> Vec<f32> {
        let scaled = ((self - low) * (BINS as f64 / (high - low)))
            .clamp(0.0, BINS as f64 - 1.0)
            .to_kind(Kind::Int64);
        let counts = scaled.bincount::<Tensor>(None, BINS as i64).to_kind(Kind::Float);
        Vec::try_from(counts.to_device(tch::Device::Cpu)).expect("a count a bin")
    }
}

/// The part of `range`, containing zero, that stores the histogram's values with the smallest squared error.
fn best_range(range: Range, histogram: &[f64]) -> Range {
    let mut best = (range, squared_error(range, range, histogram));
    for low_part in 0..=12 {
        for high_part in 0..=12 {
            let cut = |end: f32, part: i32| end * 0.92f32.powi(part);
            let candidate = Range {
                low: cut(range.low, low_part),
                high: cut(range.high, high_part),
            };
            let error = squared_error(candidate, range, histogram);
            if error < best.1 {
                best = (candidate, error);
            }
        }
    }
    best.0
}

/// The share of values that a percentile leaves out at each end.
const TAIL: f64 = 1e-4;

/// The part of `range` without [`TAIL`] of the values at each end.
fn percentile_range(range: Range, histogram: &[f64]) -> Range {
    let total: f64 = histogram.iter().sum();
    let width = f64::from(range.high - range.low) / histogram.len() as f64;
    let skipped = |counts: &mut dyn Iterator<Item = &f64>| {
        let mut sum = 0.0;
        counts
            .take_while(|count| {
                sum += **count;
                sum <= total * TAIL
            })
            .count() as f64
    };
    Range {
        low: range.low + (skipped(&mut histogram.iter()) * width) as f32,
        high: range.high - (skipped(&mut histogram.iter().rev()) * width) as f32,
    }
}

/// Levels of a magnitude in TensorRT's calibration.
const MAGNITUDES: usize = 128;

/// The part of `range` below the magnitude at which storing loses the least information.
///
/// Migacz 2017, "8-bit inference with TensorRT": the distribution of magnitudes, cut at a candidate with the rest added to
/// its last bin, against the same in 128 levels. Values of exactly zero, which activations make, are left out.
fn entropy_range(range: Range, histogram: &[f64]) -> Range {
    let largest = f64::from(range.high.max(-range.low));
    if largest <= 0.0 {
        return range;
    }
    let width = f64::from(range.high - range.low) / histogram.len() as f64;
    let bins = histogram.len();
    let mut magnitudes = vec![0.0; bins];
    for (bin, count) in histogram.iter().enumerate() {
        let value = f64::from(range.low) + (bin as f64 + 0.5) * width;
        if value.abs() > width {
            let at = (value.abs() / largest * bins as f64) as usize;
            magnitudes[at.min(bins - 1)] += count;
        }
    }
    let step = bins / MAGNITUDES;
    let best = (1..=MAGNITUDES)
        .map(|part| part * step)
        .filter(|&cut| magnitudes[..cut].iter().any(|&count| count > 0.0))
        .map(|cut| (divergence(&magnitudes, cut), cut))
        .min_by(|a, b| a.0.total_cmp(&b.0));
    let Some((_, cut)) = best else {
        return range;
    };
    let limit = (largest * cut as f64 / bins as f64) as f32;
    Range {
        low: range.low.max(-limit),
        high: range.high.min(limit),
    }
}

/// The divergence of the first `cut` magnitudes, the rest added to the last of them, from the same in 128 levels.
fn divergence(magnitudes: &[f64], cut: usize) -> f64 {
    let mut kept = magnitudes[..cut].to_vec();
    let beyond: f64 = magnitudes[cut..].iter().sum();
    let mut stored = vec![0.0; cut];
    for level in 0..MAGNITUDES {
        let (start, end) = (level * cut / MAGNITUDES, (level + 1) * cut / MAGNITUDES);
        let filled = kept[start..end].iter().filter(|&&count| count > 0.0).count();
        let sum: f64 = kept[start..end].iter().sum();
        for (out, &count) in stored[start..end].iter_mut().zip(&kept[start..end]) {
            if count > 0.0 {
                *out = sum / filled as f64;
            }
        }
    }
    kept[cut - 1] += beyond;
    let (all, all_stored) = (kept.iter().sum::<f64>(), stored.iter().sum::<f64>());
    kept.iter()
        .zip(&stored)
        .filter(|(kept, _)| **kept > 0.0)
        .map(|(&kept, &stored)| {
            let (p, q) = (kept / all, (stored / all_stored).max(1e-9));
            p * (p / q).ln()
        })
        .sum()
}

fn squared_error(stored: Range, seen: Range, histogram: &[f64]) -> f64 {
    let (low, high) = (f64::from(stored.low.min(0.0)), f64::from(stored.high.max(0.0)));
    let step = (high - low) / LEVELS;
    let width = f64::from(seen.high - seen.low) / histogram.len() as f64;
    let rounding = step * step / 12.0;
    histogram
        .iter()
        .enumerate()
        .map(|(bin, count)| {
            let value = f64::from(seen.low) + (bin as f64 + 0.5) * width;
            let beyond = (low - value).max(value - high).max(0.0);
            // Exact zeros, which activations make in numbers, cost nothing.
            let inside = if value.abs() <= width { 0.0 } else { rounding };
            count * if beyond > 0.0 { beyond * beyond } else { inside }
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evenly_spread_values_keep_their_range() {
        let range = Range { low: -1.0, high: 3.0 };
        assert_eq!(best_range(range, &[10.0; BINS]), range);
    }

    /// A peak at zero, a long tail to 8, and one value far off.
    fn long_tailed() -> Vec<f64> {
        let mut histogram: Vec<f64> = (0..BINS).map(|bin| 1e6 * (-(bin as f64) / 80.0).exp()).collect();
        histogram[BINS - 1] += 10.0;
        histogram
    }

    #[test]
    fn a_percentile_leaves_out_its_tail() {
        let range = Range { low: 0.0, high: 8.0 };
        let mut histogram = vec![100.0; BINS];
        histogram[BINS - 1] = 10.0;
        histogram[BINS - 2] = 0.0;
        // 204,710 values: 20.47 at each end. The last bin's 10 go, and the empty one; the next has more.
        let found = percentile_range(range, &histogram);
        let width = 8.0 / BINS as f32;
        assert_eq!(found.low, 0.0);
        assert!((found.high - (8.0 - 2.0 * width)).abs() < 1e-5, "{found:?}");
    }

    #[test]
    fn entropy_cuts_a_long_tail_and_keeps_an_even_spread() {
        let range = Range { low: 0.0, high: 8.0 };
        let cut = entropy_range(range, &long_tailed());
        assert!(cut.high < 4.0 && cut.high > 0.5, "{cut:?}");
        let kept = entropy_range(range, &[50.0; BINS]);
        assert!(kept.high > 7.5, "{kept:?}");
        // Both signs are cut at one magnitude, and a side that is shorter stays.
        let wide = Range { low: -1.0, high: 7.0 };
        let mut histogram: Vec<f64> = long_tailed();
        histogram.rotate_right(BINS / 8);
        let both = entropy_range(wide, &histogram);
        assert!(both.high < 7.0 && both.low >= -1.0, "{both:?}");
        assert_eq!(
            entropy_range(Range { low: 0.0, high: 0.0 }, &[0.0; BINS]).high,
            0.0
        );
    }

    #[test]
    fn a_lone_outlier_is_cut_off() {
        let mut histogram = vec![0.0; BINS];
        for (bin, count) in histogram.iter_mut().enumerate().take(BINS / 4) {
            *count = 1e6 / (1.0 + bin as f64);
        }
        histogram[BINS - 1] = 1.0;
        let best = best_range(Range { low: 0.0, high: 8.0 }, &histogram);
        assert!(best.high < 6.0 && best.high > 1.0, "{best:?}");
        assert_eq!(best.low, 0.0);
    }
}
