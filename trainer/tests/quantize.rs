//! The int8 files against ONNX Runtime's semantics, and against what fine-tuning computes.

mod common;

use std::path::Path;

use proptest::prelude::*;
use segd_train::export::model::{self, CONTRACT, NetworkFile};
use segd_train::export::{float, qlinear, score};
use segd_train::forward::{Mode, forward};
use segd_train::graph::{Conv, Graph, Op, Part};
use segd_train::quantize::{
    self, Calibration, Method, Params, Plan, WeightBits, correct_bias, folded, observe, quantize_conv,
    quantized_forward,
};
use segd_train::weights::{Weights, fold};
use tch::{Device, Kind, Tensor};
use vision::infer::qdq::from_qlinear;
use vision::model::Model;
use vision::model::contract::Precision;

const SIDE: usize = 32;

/// The logits that ONNX Runtime computes from `input`, `[1, C, h, w]`; `None` where its library is not to be had.
fn by_onnx_runtime(folder: &Path, bytes: &[u8], classes: usize, input: &Tensor) -> Option<Tensor> {
    let Ok(backend) = score::backend("ort", Precision::Int8) else {
        assert!(
            std::env::var_os("SEGD_REQUIRE_ORT").is_none(),
            "ONNX Runtime's library is not found"
        );
        return None;
    };
    let recipe = common::recipe(1);
    let file = NetworkFile::int8(bytes);
    model::write(folder, file.name, file.bytes).unwrap();
    let mut contract = model::contract(&recipe, &recipe.graph(), &[file], None);
    contract.input.multiple = 1;
    contract.classes.truncate(classes);
    model::write(folder, CONTRACT, contract.to_toml().unwrap().as_bytes()).unwrap();
    let model = Model::open(folder).unwrap();
    Some(common::logits_of(backend.as_ref(), &model, input))
}

/// Whether this processor adds products of eight-bit values in 32 bits. x86 without VNNI adds pairs of them in 16 bits
/// (`vpmaddubsw`), which saturates.
fn sums_eight_bits_exactly() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512vnni") || is_x86_feature_detected!("avxvnni");
    #[cfg(not(target_arch = "x86_64"))]
    true
}

/// A convolution, its activation, and a classifier that shows its stored values as they are.
fn one_conv(conv: &Conv, activation: Option<Op>) -> Graph {
    let mut graph = Graph::new(3);
    let mut x = graph.push(Part::Head, "conv", Op::Conv(conv.clone()), &[0]);
    if let Some(op) = activation {
        x = graph.push(Part::Head, "activation", op, &[x]);
    }
    let show = Conv {
        bias: true,
        batch_norm: None,
        ..Conv::pointwise(conv.outputs, conv.outputs, 0.0)
    };
    graph.push(Part::Head, "show", Op::Conv(show), &[x]);
    graph
}

fn lively(graph: &Graph, channels: i64) -> Weights {
    let mut weights = Weights::random(graph, 3, Device::Cpu);
    let identity = Tensor::eye(channels, (Kind::Float, Device::Cpu)).reshape([channels, channels, 1, 1]);
    weights.set("show.weight", &identity).unwrap();
    weights
        .set(
            "conv.bias",
            &(Tensor::randn([channels], (Kind::Float, Device::Cpu)) * 0.3),
        )
        .unwrap();
    weights
}

/// QLinearConv in loops, as ONNX defines it: sums in i32 of differences from the zero points, then
/// `saturate(round_half_even(sum * x_scale * w_scale / y_scale) + y_zero)`.
fn q_linear_conv(
    conv: &Conv,
    x: &Tensor,
    [from, to]: [Params; 2],
    quantized: &quantize::QuantizedConv,
) -> Vec<f32> {
    let (_, inputs, height, width) = x.size4().unwrap();
    let stored: Vec<u8> = Vec::<f32>::try_from(x.contiguous().view([-1]))
        .unwrap()
        .into_iter()
        .map(|value| from.store(value))
        .collect();
    let (rows, columns) = (conv.output_size(height), conv.output_size(width));
    let per_group = (conv.inputs / conv.groups, conv.outputs / conv.groups);
    let mut out = Vec::new();
    for output in 0..conv.outputs {
        for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
            let mut sum = i64::from(quantized.bias[output as usize]);
            for input in 0..per_group.0 {
                for (ky, kx) in (0..conv.kernel).flat_map(|ky| (0..conv.kernel).map(move |kx| (ky, kx))) {
                    let y = row * conv.stride + ky * conv.dilation - conv.padding[0];
                    let x = column * conv.stride + kx * conv.dilation - conv.padding[0];
                    if y < 0 || x < 0 || y >= height || x >= width {
                        continue;
                    }
                    let channel = output / per_group.1 * per_group.0 + input;
                    let value = stored[((channel * height + y) * width + x) as usize];
                    let weight = quantized.weight
                        [(((output * per_group.0 + input) * conv.kernel + ky) * conv.kernel + kx) as usize];
                    sum += i64::from(weight) * (i64::from(value) - i64::from(from.zero_point));
                }
            }
            let scale = from.scale * quantized.scales[output as usize] / to.scale;
            let stored = (sum as f32 * scale).round_ties_even() + f32::from(to.zero_point);
            out.push(to.real(stored.clamp(0.0, 255.0) as u8));
        }
    }
    assert_eq!(inputs, conv.inputs);
    out
}

#[test]
fn stored_values_are_those_of_onnx_s_definition() {
    tch::set_num_threads(1);
    tch::manual_seed(1);
    let folder = tempfile::tempdir().unwrap();
    let plain = Conv {
        bias: true,
        batch_norm: None,
        ..Conv::pointwise(3, 5, 0.0)
    };
    let dense = Conv {
        kernel: 3,
        padding: [1, 1],
        stride: 2,
        ..plain.clone()
    };
    let depthwise = Conv {
        outputs: 3,
        groups: 3,
        kernel: 3,
        padding: [2, 2],
        dilation: 2,
        ..plain.clone()
    };
    for (conv, activation) in [
        (plain, None),
        (dense.clone(), Some(Op::Relu)),
        (dense, Some(Op::Relu6)),
        (depthwise, None),
    ] {
        let graph = one_conv(&conv, activation.clone());
        let weights = lively(&graph, conv.outputs);
        let convs = fold(&graph, &weights).unwrap();
        let input = Tensor::randn([1, 3, SIDE as i64, SIDE as i64], (Kind::Float, Device::Cpu)) * 2.0 + 0.5;
        for (correct, bits) in [
            (false, WeightBits::Eight),
            (true, WeightBits::Eight),
            (false, WeightBits::Seven),
            (true, WeightBits::Seven),
        ] {
            // ONNX Runtime's sums saturate there: what seven bits are for.
            if bits == WeightBits::Eight && !sums_eight_bits_exactly() {
                eprintln!("NOT TESTED: eight-bit weights on a processor without VNNI or dot products");
                continue;
            }
            let calibration = Calibration {
                correct_bias: correct,
                weight_bits: bits,
                ..observe(&graph, &weights, &[input.shallow_clone()]).calibration(Method::Percentile)
            };
            let bytes = qlinear::write("one", &graph, &convs, &calibration);
            let Some(found) = by_onnx_runtime(folder.path(), &bytes, conv.outputs as usize, &input) else {
                return;
            };
            let params = Plan::new(&graph).params(&calibration);
            let mut quantized = quantize_conv(&conv, &convs["conv"], params[0], bits);
            if correct {
                let moved = correct_bias(&conv, &convs["conv"], &quantized, &calibration.means[0]);
                quantized = quantize_conv(&conv, &moved, params[0], bits);
            }
            let expected = q_linear_conv(&conv, &input, [params[0], params[1]], &quantized);
            let found = Vec::<f32>::try_from(found.view([-1])).unwrap();
            assert_eq!(found.len(), expected.len());
            // The scales are multiplied in another order there: a value in the middle of two steps may go either way.
            let step = params[1].scale;
            let other = found
                .iter()
                .zip(&expected)
                .filter(|(a, b)| (*a - *b).abs() > 0.01 * step)
                .count();
            assert!(
                other * 1000 <= found.len(),
                "{activation:?}: {other} of {}",
                found.len()
            );
            for (found, expected) in found.iter().zip(&expected) {
                assert!(
                    (found - expected).abs() < 1.01 * step,
                    "{activation:?}: {found} is not {expected}"
                );
            }
        }
    }
}

#[test]
fn both_int8_forms_and_fine_tuning_compute_the_same_within_rounding() {
    tch::set_num_threads(1);
    tch::manual_seed(2);
    let folder = tempfile::tempdir().unwrap();
    let mut graph = Graph::new(3);
    let conv3 = |inputs, outputs| Conv {
        kernel: 3,
        padding: [1, 1],
        ..Conv::pointwise(inputs, outputs, 1e-5)
    };
    let a = graph.push(Part::Head, "a", Op::Conv(conv3(3, 8)), &[0]);
    let a = graph.push(Part::Head, "a.relu", Op::Relu, &[a]);
    let b = graph.push(Part::Head, "b", Op::Conv(Conv::depthwise(8, 3, 1, 1, 1e-5)), &[a]);
    let b = graph.push(Part::Head, "b.relu6", Op::Relu6, &[b]);
    let sum = graph.push(Part::Head, "sum", Op::Add, &[a, b]);
    let both = graph.push(Part::Head, "both", Op::Concat, &[sum, b]);
    let show = Conv {
        bias: true,
        batch_norm: None,
        ..Conv::pointwise(16, 4, 0.0)
    };
    graph.push(Part::Head, "show", Op::Conv(show), &[both]);
    let mut weights = Weights::random(&graph, 9, Device::Cpu);
    let show = Tensor::randn([4, 16, 1, 1], (Kind::Float, Device::Cpu));
    weights.set("show.weight", &show).unwrap();
    let convs = fold(&graph, &weights).unwrap();
    let input = Tensor::randn([1, 3, SIDE as i64, SIDE as i64], (Kind::Float, Device::Cpu));
    let real = tch::no_grad(|| forward(&graph, &weights, &input, Mode::Eval, Kind::Float));
    let spread = real.std(true).double_value(&[]);
    let off = |found: &Tensor| (found - &real).abs().mean(Kind::Float).double_value(&[]) / spread;
    for method in [Method::Mse, Method::MinMax] {
        let calibration = Calibration {
            correct_bias: false,
            ..observe(&graph, &weights, &[input.shallow_clone()]).calibration(method)
        };
        let (plain, values) = folded(&graph, &convs).unwrap();
        let simulated =
            tch::no_grad(|| quantized_forward(&plain, &values, &Plan::new(&plain), &calibration, &input));
        assert!(off(&simulated) < 0.03, "{method:?}: {}", off(&simulated));
        let bytes = qlinear::write("two", &graph, &convs, &calibration);
        let Some(found) = by_onnx_runtime(folder.path(), &bytes, 4, &input) else {
            return;
        };
        // What fine-tuning sees is what the file computes, but for values between two steps.
        let apart = (&found - &simulated).abs().mean(Kind::Float).double_value(&[]) / spread;
        assert!(apart < 0.004 && apart < 0.5 * off(&found), "{method:?}: {apart}");
        let bytes = from_qlinear(&bytes).unwrap();
        let pairs = by_onnx_runtime(folder.path(), &bytes, 4, &input).unwrap();
        assert!(
            off(&pairs) > 1e-4 && off(&pairs) < 0.05,
            "{method:?}: {}",
            off(&pairs)
        );
    }
    let plain = by_onnx_runtime(
        folder.path(),
        &float::write_exact("real", &graph, &convs),
        4,
        &input,
    )
    .unwrap();
    assert!(off(&plain) < 1e-5);
}

proptest! {
    #[test]
    fn storing_follows_quantize_linear(low in -8.0f32..0.0, high in 0.01f32..8.0, real in -20.0f32..20.0) {
        // ONNX: saturate(round_half_even(x / scale) + zero point).
        let params = Params::of(quantize::Range { low, high });
        let expected = (f64::from(real) / f64::from(params.scale)).round_ties_even() + f64::from(params.zero_point);
        let stored = f64::from(params.store(real));
        let exact = f64::from(real) / f64::from(params.scale);
        let tie = (exact - exact.floor() - 0.5).abs() < 1e-4;
        prop_assert!(stored == expected.clamp(0.0, 255.0) || tie, "{stored} is not {expected}");
    }
}
