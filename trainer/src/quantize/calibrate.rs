//! Finds the range in which each value is stored, from pictures.

use tch::{Kind, Tensor};

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

/// What calibration saw of each node's value.
pub struct Calibration {
    /// The range to store it in.
    pub ranges: Vec<Range>,
    /// Mean of each channel.
    pub means: Vec<Vec<f32>>,
}

/// Runs the network on `inputs` twice, first for the extremes and then for histograms, and chooses for each value the
/// range with the smallest mean squared error of storing it in 8 bits.
///
/// # Panics
/// There are no inputs, or a value is not a number.
#[must_use]
pub fn calibrate(graph: &Graph, weights: &Weights, inputs: &[Tensor]) -> Calibration {
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
    let ranges = extremes
        .iter()
        .zip(&histograms)
        .map(|(&range, histogram)| best_range(range, histogram))
        .collect();
    let means = sums
        .into_iter()
        .map(|sum| {
            let mean = sum.expect("every node was seen") / inputs.len() as f64;
            Vec::try_from(mean.to_device(tch::Device::Cpu)).expect("a mean a channel")
        })
        .collect();
    Calibration { ranges, means }
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
