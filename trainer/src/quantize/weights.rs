//! Quantizes a convolution's weights and biases.

use std::fmt;

use super::Params;
use crate::graph::Conv;
use crate::weights::FoldedConv;

/// How much of an s8 a weight uses.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum,
)]
pub enum WeightBits {
    /// -63 to 63, the default: the same labels on every processor
    ///
    /// x86 processors without VNNI add two products of u8 and s8 in 16 bits (`vpmaddubsw`), which saturates with
    /// larger weights: 255 * 63 * 2 just fits.
    #[default]
    #[serde(rename = "7")]
    #[value(name = "7")]
    Seven,
    /// -127 to 127: finer, for VNNI, NEON's dot products and GPUs
    #[serde(rename = "8")]
    #[value(name = "8")]
    Eight,
}

impl WeightBits {
    /// The largest weight.
    #[must_use]
    pub fn largest(self) -> i8 {
        match self {
            Self::Seven => 63,
            Self::Eight => 127,
        }
    }
}

impl fmt::Display for WeightBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Seven => "7",
            Self::Eight => "8",
        })
    }
}

/// A convolution in integers.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedConv {
    /// `[outputs, inputs / groups, kernel, kernel]`, within `-WeightBits::largest()..=WeightBits::largest()`.
    pub weight: Vec<i8>,
    /// Step of each output channel's weights.
    pub scales: Vec<f32>,
    /// Biases in steps of `input scale * weight scale`.
    pub bias: Vec<i32>,
}

/// Quantizes a convolution whose input is stored with `input`.
#[must_use]
pub fn quantize_conv(conv: &Conv, folded: &FoldedConv, input: Params, bits: WeightBits) -> QuantizedConv {
    let end = f32::from(bits.largest());
    let taps = folded.weight.len() / conv.outputs as usize;
    let mut out = QuantizedConv {
        weight: Vec::with_capacity(folded.weight.len()),
        scales: vec![],
        bias: vec![],
    };
    for (weights, &bias) in folded.weight.chunks_exact(taps).zip(&folded.bias) {
        let largest = weights
            .iter()
            .fold(0f32, |largest, weight| largest.max(weight.abs()));
        // A bias must fit 32 bits, also where a channel's weights are all but zero.
        let smallest = (bias.abs() / (input.scale * 1e9)).max(1e-12);
        let scale = (largest / end).max(smallest);
        out.weight.extend(
            weights
                .iter()
                .map(|weight| (weight / scale).round().clamp(-end, end) as i8),
        );
        out.scales.push(scale);
        out.bias
            .push((f64::from(bias) / (f64::from(input.scale) * f64::from(scale))).round() as i32);
    }
    out
}

/// Moves the biases by what rounding the weights adds to each output channel on average.
///
/// `means` is the mean of each input channel, as calibration saw it (Nagel et al. 2019, section 4.2).
#[must_use]
pub fn correct_bias(
    conv: &Conv,
    folded: &FoldedConv,
    quantized: &QuantizedConv,
    means: &[f32],
) -> FoldedConv {
    let area = (conv.kernel * conv.kernel) as usize;
    let inputs = (conv.inputs / conv.groups) as usize;
    let outputs = (conv.outputs / conv.groups) as usize;
    let mut corrected = folded.clone();
    for (output, bias) in corrected.bias.iter_mut().enumerate() {
        let group = output / outputs;
        let mut added = 0f64;
        for input in 0..inputs {
            let mean = f64::from(means[group * inputs + input]);
            for tap in 0..area {
                let at = (output * inputs + input) * area + tap;
                let stored = f64::from(quantized.weight[at]) * f64::from(quantized.scales[output]);
                added += (stored - f64::from(folded.weight[at])) * mean;
            }
        }
        *bias -= added as f32;
    }
    corrected
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn conv(outputs: i64, inputs: i64) -> Conv {
        Conv::pointwise(inputs, outputs, 1e-5)
    }

    #[test]
    fn a_case_worked_by_hand() {
        let folded = FoldedConv {
            weight: vec![1.27, -0.635, 0.0, 0.5],
            bias: vec![0.5, -2.0],
        };
        let input = Params {
            scale: 0.1,
            zero_point: 3,
        };
        let quantized = quantize_conv(&conv(2, 2), &folded, input, WeightBits::Eight);
        assert_eq!(quantized.weight, [127, -64, 0, 127]);
        assert!((quantized.scales[0] - 0.01).abs() < 1e-7);
        assert_eq!(quantized.bias[0], 500);
        assert_eq!(quantized.bias[1], (-2.0f64 / (0.1 * 0.5 / 127.0)).round() as i32);
    }

    #[test]
    fn a_channel_without_weights_keeps_its_bias() {
        let folded = FoldedConv {
            weight: vec![0.0, 0.0],
            bias: vec![7.5],
        };
        let input = Params {
            scale: 1e-6,
            zero_point: 0,
        };
        let quantized = quantize_conv(&conv(1, 2), &folded, input, WeightBits::Eight);
        let bias = f64::from(quantized.bias[0]) * f64::from(quantized.scales[0]) * f64::from(input.scale);
        assert!((bias - 7.5).abs() < 1e-4, "{bias}");
    }

    #[test]
    fn corrected_biases_cancel_the_mean_error() {
        let folded = FoldedConv {
            weight: vec![1.0, 0.303, -0.7001, 0.051],
            bias: vec![0.25, 0.0],
        };
        let input = Params {
            scale: 0.02,
            zero_point: 0,
        };
        let means = [1.5, 3.25];
        let quantized = quantize_conv(&conv(2, 2), &folded, input, WeightBits::Eight);
        let corrected = correct_bias(&conv(2, 2), &folded, &quantized, &means);
        for output in 0..2 {
            let sum = |weight: &dyn Fn(usize) -> f64| {
                (0..2)
                    .map(|i| weight(2 * output + i) * f64::from(means[i]))
                    .sum::<f64>()
            };
            let exact = sum(&|at| f64::from(folded.weight[at])) + f64::from(folded.bias[output]);
            let stored = sum(&|at| f64::from(quantized.weight[at]) * f64::from(quantized.scales[output]))
                + f64::from(corrected.bias[output]);
            assert!((exact - stored).abs() < 1e-6, "{exact} {stored}");
        }
    }

    proptest! {
        #[test]
        fn weights_are_off_by_half_a_step_at_most(weight in prop::collection::vec(-4.0f32..4.0, 6), bias in -3.0f32..3.0, seven: bool) {
            let bits = if seven { WeightBits::Seven } else { WeightBits::Eight };
            let folded = FoldedConv { weight, bias: vec![bias, -bias] };
            let quantized = quantize_conv(&conv(2, 3), &folded, Params { scale: 0.05, zero_point: 0 }, bits);
            prop_assert!(quantized.weight.iter().all(|weight| weight.abs() <= bits.largest()));
            for (at, &weight) in folded.weight.iter().enumerate() {
                let scale = quantized.scales[at / 3];
                let error = (f32::from(quantized.weight[at]) * scale - weight).abs();
                prop_assert!(error <= 0.5001 * scale, "{weight}: {error} of {scale}");
            }
        }
    }
}
