//! Each form of each kernel beside the definition of its operator.

use proptest::prelude::*;

use super::super::depthwise::{Axis, Geometry};
use super::conv::convolve;
use super::filter::{Filter, Stored};
use super::lanes::{Level, Quad};
use super::pixels::{self, Sum};
use super::planes::{plane_len, planes};

/// A convolution as ONNX's
/// [QLinearConv](https://onnx.ai/onnx/operators/onnx__QLinearConv.html) has it.
#[derive(Debug, Clone)]
struct Case {
    inputs: usize,
    outputs: usize,
    is_depthwise: bool,
    geometry: Geometry,
    zeros: [u8; 2],
    seed: u64,
}

/// Numbers that look random.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

impl Case {
    fn strategy() -> impl Strategy<Value = Self> {
        let axis = |longest: usize| {
            (
                1..longest,
                (0_usize..4, 0_usize..4),
                1_usize..10,
                1_usize..4,
                1_usize..4,
            )
                .prop_filter_map(
                    "taps reach further than the samples",
                    |(input, zeros, taps, stride, dilation)| Axis::new(input, zeros, taps, stride, dilation),
                )
        };
        let point = (1_usize..60).prop_filter_map("", |input| Axis::new(input, (0, 0), 1, 1, 1));
        let axes = prop_oneof![(axis(12), axis(60)), (point.clone(), point)];
        (
            axes,
            1_usize..10,
            1_usize..21,
            any::<bool>(),
            any::<[u8; 2]>(),
            any::<u64>(),
        )
            .prop_map(
                |((down, across), inputs, outputs, is_depthwise, zeros, seed)| Self {
                    inputs: if is_depthwise { outputs } else { inputs },
                    outputs,
                    is_depthwise,
                    geometry: Geometry { down, across },
                    zeros,
                    seed,
                },
            )
    }

    /// Samples, weights, bias and scales; the largest weights and samples among them.
    fn numbers(&self) -> (Vec<u8>, Vec<i8>, Vec<i32>, Vec<f32>) {
        let mut numbers = Numbers(self.seed);
        let seen = if self.is_depthwise { 1 } else { self.inputs };
        let samples = match self.seed % 3 {
            0 => vec![255; self.inputs * self.geometry.input()],
            _ => numbers.bytes(self.inputs * self.geometry.input()),
        };
        let weights: Vec<i8> = match self.seed % 5 {
            0 => vec![-128; self.outputs * seen * self.geometry.taps()],
            // The largest of 7 bits, and others of 7 bits.
            1 => vec![
                if self.seed.is_multiple_of(2) { -64 } else { 64 };
                self.outputs * seen * self.geometry.taps()
            ],
            2 => numbers
                .bytes(self.outputs * seen * self.geometry.taps())
                .into_iter()
                .map(|w| w as i8 / 2)
                .collect(),
            _ => numbers
                .bytes(self.outputs * seen * self.geometry.taps())
                .into_iter()
                .map(|w| w as i8)
                .collect(),
        };
        let bias = (0..self.outputs)
            .map(|_| numbers.next() as i32 % 20_000 - 10_000)
            .collect();
        let scales = (0..self.outputs)
            .map(|_| (numbers.next() % 1000) as f32 * 1e-5)
            .collect();
        (samples, weights, bias, scales)
    }

    /// By the definition, `[outputs, H, W]`.
    fn expected(&self) -> Vec<u8> {
        let (samples, weights, bias, scales) = self.numbers();
        let Geometry { down, across } = self.geometry;
        let seen = if self.is_depthwise { 1 } else { self.inputs };
        let mut results = Vec::new();
        for output in 0..self.outputs {
            for y in 0..down.output {
                for x in 0..across.output {
                    let mut sum = bias[output];
                    for at in 0..seen * self.geometry.taps() {
                        let (input, tap) = (at / self.geometry.taps(), at % self.geometry.taps());
                        let input = if self.is_depthwise { output } else { input };
                        let row =
                            (y * down.stride + tap / across.taps * down.dilation).wrapping_sub(down.zeros);
                        let column = (x * across.stride + tap % across.taps * across.dilation)
                            .wrapping_sub(across.zeros);
                        if row < down.input && column < across.input {
                            let sample = samples[(input * down.input + row) * across.input + column];
                            let weight = weights[output * seen * self.geometry.taps() + at];
                            sum += (i32::from(sample) - i32::from(self.zeros[0])) * i32::from(weight);
                        }
                    }
                    let scaled = (sum as f32 * scales[output]).round_ties_even() + f32::from(self.zeros[1]);
                    results.push(scaled.clamp(0.0, 255.0) as u8);
                }
            }
        }
        results
    }

    fn found(&self, level: Level) -> Vec<u8> {
        let (samples, weights, bias, scales) = self.numbers();
        let filter = Filter::new(&Stored {
            outputs: self.outputs,
            inputs: self.inputs,
            is_depthwise: self.is_depthwise,
            taps: [self.geometry.down.taps, self.geometry.across.taps],
            weights: &weights,
            bias: &bias,
            scales: &scales,
            input_zero: self.zeros[0],
            output_zero: self.zeros[1],
        })
        .unwrap();
        let input = packed(self.inputs, self.geometry.input(), &samples);
        // What lies behind a picture may be anything.
        let mut output = vec![[0x55; 4]; planes(self.outputs) * plane_len(self.geometry.output())];
        // Some in one piece, some in parts as several threads do it.
        let whole = plane_len(self.geometry.output());
        let at_once = [planes(self.outputs), 1, 2][usize::from(self.zeros[0]) % 3];
        for (part, output) in output.chunks_mut(at_once * whole).enumerate() {
            let mut scratch = vec![[0x77; 4]; 3];
            convolve(
                level,
                &self.geometry,
                &filter,
                part * at_once,
                &input,
                output,
                &mut scratch,
            );
        }
        plain(self.outputs, self.geometry.output(), &output)
    }
}

fn packed(channels: usize, pixels: usize, bytes: &[u8]) -> Vec<Quad> {
    let mut quads = vec![[0xaa; 4]; planes(channels) * plane_len(pixels)];
    pixels::pack(pixels::level(), channels, pixels, bytes, &mut quads);
    quads
}

fn plain(channels: usize, pixels: usize, quads: &[Quad]) -> Vec<u8> {
    let mut bytes = vec![0; channels * pixels];
    pixels::unpack(pixels::level(), channels, pixels, quads, &mut bytes);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 256 }))]

    #[test]
    fn every_form_of_a_convolution_is_its_definition_to_the_bit(case in Case::strategy()) {
        let expected = case.expected();
        for level in Level::available() {
            prop_assert_eq!(&case.found(level), &expected, "{}", level.as_str());
        }
    }

    #[test]
    fn bytes_come_out_of_planes_as_they_went_in(channels in 1_usize..9, pixels in 1_usize..70, seed in any::<u64>()) {
        let bytes = Numbers(seed).bytes(channels * pixels);
        let quads = packed(channels, pixels, &bytes);
        prop_assert_eq!(plain(channels, pixels, &quads), bytes.clone());
        for (at, byte) in bytes.iter().enumerate() {
            let (channel, pixel) = (at / pixels, at % pixels);
            prop_assert_eq!(quads[channel / 4 * plane_len(pixels) + pixel][channel % 4], *byte);
        }
    }

    #[test]
    fn sums_are_within_a_step_of_the_sum_of_what_bytes_stand_for(
        channels in 1_usize..9,
        pixels in 1_usize..70,
        spread in any::<bool>(),
        scales in prop::array::uniform3(0.01_f32..0.1),
        zeros in any::<[u8; 3]>(),
        seed in any::<u64>(),
    ) {
        let mut numbers = Numbers(seed);
        let others = if spread { 1 } else { pixels };
        let (a, b) = (numbers.bytes(channels * pixels), numbers.bytes(channels * others));
        let sum = Sum::new(std::array::from_fn(|i| (scales[i], zeros[i])));
        let mut to = vec![[0; 4]; planes(channels) * plane_len(pixels)];
        let (a_in, b_in) = (packed(channels, pixels, &a), packed(channels, others, &b));
        pixels::add(pixels::level(), pixels, spread, sum, &a_in, &b_in, &mut to);
        for (at, found) in plain(channels, pixels, &to).into_iter().enumerate() {
            let b = if spread { b[at / pixels] } else { b[at] };
            let value = |byte: u8, i: usize| f64::from(scales[i]) * (f64::from(byte) - f64::from(zeros[i]));
            let exact = ((value(a[at], 0) + value(b, 1)) / f64::from(scales[2]) + f64::from(zeros[2])).clamp(0.0, 255.0);
            prop_assert!((f64::from(found) - exact).abs() <= 0.501, "{} {}", found, exact);
        }
    }
}

/// What `write` makes of rooms of `planes` planes that held other bytes before: the same in all pixels.
fn overwrites(planes: usize, pixels: usize, write: impl Fn(&mut [Quad])) {
    let [first, second] = [0, 0xff].map(|before| {
        let mut to = vec![[before; 4]; planes * plane_len(pixels)];
        write(&mut to);
        let planes = to.chunks_exact(plane_len(pixels));
        planes
            .flat_map(|plane| plane[..pixels].to_vec())
            .collect::<Vec<Quad>>()
    });
    assert_eq!(first, second);
}

/// Rooms are not cleared before.
#[test]
fn steps_write_all_pixels_of_their_planes() {
    let (level, channels, pixels) = (pixels::level(), 16, 6);
    let from = packed(channels, pixels, &Numbers(3).bytes(channels * pixels));
    let one = packed(channels, 1, &Numbers(4).bytes(channels));
    let sum = Sum::new([(0.1, 3), (0.2, 5), (0.3, 7)]);
    overwrites(4, pixels, |to| {
        pixels::add(level, pixels, false, sum, &from, &from, to)
    });
    overwrites(4, pixels, |to| {
        pixels::add(level, pixels, true, sum, &from, &one, to)
    });
    overwrites(4, 1, |to| pixels::average(level, pixels, 1.0, [1, 2], &from, to));
    overwrites(1, 4 * pixels, |to| {
        pixels::depth_to_space(channels, 2, 3, &from, to)
    });
    let [first, second] = [0, 0xff].map(|before| {
        let mut to = vec![before; channels * pixels];
        pixels::unpack(level, channels, pixels, &from, &mut to);
        to
    });
    assert_eq!(first, second);
    let [first, second] = [0.0, 1e9].map(|before| {
        let mut to = vec![before; channels * pixels];
        pixels::dequantize(level, channels, pixels, 0.1, 7, &from, &mut to);
        to
    });
    assert_eq!(first, second);
}

#[test]
fn values_become_the_nearest_bytes_and_bytes_their_values() {
    let values = [-1.0_f32, 0.0, 0.24, 0.26, 0.75, 1.25, 63.4, 64.1, f32::MAX];
    let mut quads = vec![[9; 4]; plane_len(values.len())];
    pixels::quantize(pixels::level(), 1, values.len(), 2.0, 128, &values, &mut quads);
    let bytes: Vec<u8> = quads[..values.len()].iter().map(|quad| quad[0]).collect();
    // 0.75 and 1.25 lie in the middle: to 2 of 1 and 2, and to 2 of 2 and 3.
    assert_eq!(bytes, [126, 128, 128, 129, 130, 130, 255, 255, 255]);
    let mut back = vec![0.0; 3];
    pixels::dequantize(
        pixels::level(),
        1,
        3,
        0.5,
        128,
        &[[126; 4], [128; 4], [129; 4], [0; 4]],
        &mut back,
    );
    assert_eq!(back, [-1.0, 0.0, 0.5]);
}

#[test]
fn a_mean_is_rounded_once() {
    let bytes: Vec<u8> = (0..5).flat_map(|c| [10 * c, 10 * c + 1, 10 * c + 3]).collect();
    let mut to = vec![[0; 4]; planes(5) * plane_len(1)];
    pixels::average(pixels::level(), 3, 2.0, [1, 5], &packed(5, 3, &bytes), &mut to);
    // Means 1.33, 11.33, ...; less 1, doubled, and 5 added.
    assert_eq!(plain(5, 1, &to), [6, 26, 46, 66, 86]);
}

#[test]
fn depth_to_space_takes_channels_as_onnx_says() {
    // [16, 1, 2] to [4, 2, 4]: output channel c at (i, 2 x + j) is input channel 4 (2 i + j) + c at x.
    let bytes: Vec<u8> = (0..32).collect();
    let mut to = vec![[0; 4]; planes(4) * plane_len(8)];
    pixels::depth_to_space(16, 1, 2, &packed(16, 2, &bytes), &mut to);
    let found = plain(4, 8, &to);
    for c in 0..4 {
        for y in 0..2 {
            for x in 0..4 {
                let from = (4 * (2 * y + x % 2) + c) * 2 + x / 2;
                assert_eq!(usize::from(found[(c * 2 + y) * 4 + x]), from, "{c} {y} {x}");
            }
        }
    }
}

#[test]
fn a_filter_is_refused_where_its_numbers_do_not_fit_or_sums_could_overflow() {
    let stored = Stored {
        outputs: 2,
        inputs: 2,
        is_depthwise: false,
        taps: [1, 1],
        weights: &[1, 2, 3, 4],
        bias: &[0, 0],
        scales: &[1.0, 1.0],
        input_zero: 0,
        output_zero: 0,
    };
    assert!(Filter::new(&stored).is_some());
    assert!(
        Filter::new(&Stored {
            taps: [2, 1],
            ..stored
        })
        .is_none()
    );
    assert!(Filter::new(&Stored { bias: &[0], ..stored }).is_none());
    assert!(
        Filter::new(&Stored {
            bias: &[i32::MAX, 0],
            ..stored
        })
        .is_none()
    );
    assert!(
        Filter::new(&Stored {
            taps: [0, 1],
            weights: &[],
            ..stored
        })
        .is_none()
    );
    assert!(
        Filter::new(&Stored {
            taps: [usize::MAX, 2],
            ..stored
        })
        .is_none()
    );
}
