//! A [depthwise convolution](super::depthwise) as an operator of tract, in place of tract's own.

use std::ops::Range;
use std::sync::Arc;

use tract_linalg::multithread::par_chunks_mut;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::cnn::{Conv, KernelFormat};
use tract_onnx::tract_core::ops::math::{Max, Min};
use tract_onnx::tract_core::ops::nn::DataFormat;

use super::depthwise::{Axis, Filter, Geometry, Scratch, convolve, convolve_in_place};

/// The convolution of `[C, H, W]` or `[1, C, H, W]` samples, and the limits of an activation after it.
#[derive(Debug, Clone, PartialEq)]
struct DepthwiseConv {
    geometry: Geometry,
    /// `[C, 1, taps down, taps across]`.
    taps: Arc<Tensor>,
    /// `[C]`.
    bias: Arc<Tensor>,
    /// The least and the largest result.
    limits: Option<[f32; 2]>,
    /// Whether nothing else reads the input, and the output may replace it.
    in_place: bool,
}

/// Limits are compared, and are numbers: see [`limit`].
impl Eq for DepthwiseConv {}

impl Op for DepthwiseConv {
    fn name(&self) -> StaticName {
        "SegdDepthwiseConv".into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        Ok(vec![format!(
            "{:?} limits:{:?} in place:{}",
            self.geometry, self.limits, self.in_place
        )])
    }

    fn validation(&self) -> Validation {
        Validation::Rounding
    }

    op_as_typed_op!();
}

impl EvalOp for DepthwiseConv {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        let geometry = &self.geometry;
        if self.in_place {
            let mut samples = input.into_tensor();
            let mut view = samples.view_mut();
            let samples_mut = view.as_slice_mut::<f32>()?;
            let all = samples_mut.len();
            par_chunks_mut(samples_mut, geometry.input(), all, |first, samples| {
                let channels = first..first + samples.len() / geometry.input();
                convolve_in_place(
                    geometry,
                    &self.filter(channels)?,
                    samples,
                    &mut Scratch::default(),
                );
                Ok(())
            })?;
            return Ok(tvec!(samples.into_tvalue()));
        }
        let mut output = Tensor::zero::<f32>(&self.output_shape(input.shape()))?;
        let from = input.view();
        let from = from.as_slice::<f32>()?;
        let mut view = output.view_mut();
        let output_mut = view.as_slice_mut::<f32>()?;
        let all = output_mut.len();
        par_chunks_mut(output_mut, geometry.output(), all, |first, output| {
            let channels = first..first + output.len() / geometry.output();
            let from = &from[channels.start * geometry.input()..channels.end * geometry.input()];
            convolve(
                geometry,
                &self.filter(channels)?,
                from,
                output,
                &mut Scratch::default(),
            );
            Ok(())
        })?;
        Ok(tvec!(output.into_tvalue()))
    }
}

impl DepthwiseConv {
    /// Kernels of some channels.
    fn filter(&self, channels: Range<usize>) -> TractResult<Filter<'_>> {
        let taps = self.geometry.taps();
        Ok(Filter {
            taps: &self.taps.try_as_plain_ram()?.as_slice::<f32>()?
                [channels.start * taps..channels.end * taps],
            bias: &self.bias.try_as_plain_ram()?.as_slice::<f32>()?[channels],
            limits: self.limits,
        })
    }

    fn output_shape<D: Clone + From<usize>>(&self, input: &[D]) -> TVec<D> {
        let mut shape: TVec<D> = input.into();
        let rank = shape.len();
        shape[rank - 2] = self.geometry.down.output.into();
        shape[rank - 1] = self.geometry.across.output.into();
        shape
    }
}

impl TypedOp for DepthwiseConv {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let shape = self.output_shape(&inputs[0].shape);
        Ok(tvec!(f32::fact(shape)))
    }

    fn cost(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<(Cost, TDim)>> {
        let products = self.taps.len() * self.geometry.output();
        Ok(tvec!((Cost::FMA(f32::datum_type()), products.to_dim())))
    }

    as_op!();
}

/// Replaces the depthwise convolutions of a decluttered model, each with the limits that follow it.
///
/// # Errors
/// tract's, if the model is inconsistent.
pub fn replace_depthwise(model: &mut TypedModel) -> TractResult<()> {
    Rewriter::<()>::default()
        .with_rule_for("depthwise", |(), model, node, name, conv| {
            replace(model, node, name, conv)
        })
        .rewrite(&(), model)
}

fn replace(
    model: &TypedModel,
    node: &TypedNode,
    name: &str,
    conv: &Conv,
) -> TractResult<Option<TypedModelPatch>> {
    let [input, taps, bias] = node.inputs[..] else {
        return Ok(None);
    };
    let constant = |outlet: OutletId| model.outlet_fact(outlet).map(|fact| fact.konst.clone());
    let (Some(taps), Some(bias)) = (constant(taps)?, constant(bias)?) else {
        return Ok(None);
    };
    let Some(geometry) = geometry(conv, model.outlet_fact(input)?) else {
        return Ok(None);
    };
    let channels = conv.group;
    if taps.len() != channels * geometry.taps() || taps.datum_type() != f32::datum_type() {
        return Ok(None);
    }
    let bias = match bias.len() {
        1 => bias.broadcast_scalar_to_shape(&[channels])?.into_arc_tensor(),
        n if n == channels => bias,
        _ => return Ok(None),
    };
    let (last, limits) = limits_after(model, node)?;
    let is_output = model.output_outlets()?.contains(&input);
    let in_place = geometry.fits_in_place() && !is_output && model.outlet_successors(input).len() == 1;
    let op = DepthwiseConv {
        geometry,
        taps,
        bias,
        limits,
        in_place,
    };
    let mut patch = TypedModelPatch::new("depthwise convolution");
    let input = patch.tap_model(model, input)?;
    let output = patch.wire_node(name, op, &[input])?;
    patch.shunt_outside(model, last, output[0])?;
    Ok(Some(patch))
}

/// The sizes of a depthwise convolution of single pictures of known size; `None` if it is another.
fn geometry(conv: &Conv, input: &TypedFact) -> Option<Geometry> {
    let spec = &conv.pool_spec;
    let is_depthwise =
        conv.group > 1 && conv.group == spec.input_channels && conv.group == spec.output_channels;
    let shape = input.shape.as_concrete()?;
    let size = match (spec.data_format, shape) {
        (DataFormat::NCHW, [1, _, height, width]) | (DataFormat::CHW, [_, height, width]) => {
            [*height, *width]
        }
        _ => return None,
    };
    if !is_depthwise
        || conv.q_params.is_some()
        || conv.kernel_fmt != KernelFormat::OIHW
        || input.datum_type != f32::datum_type()
        || spec.rank() != 2
    {
        return None;
    }
    let zeros = spec.computed_padding(&size);
    let axis = |at: usize| {
        let axis = Axis::new(
            size[at],
            (zeros[at].pad_before, zeros[at].pad_after),
            spec.kernel_shape[at],
            spec.stride(at),
            spec.dilation(at),
        )?;
        (axis.output == zeros[at].convoluted).then_some(axis)
    };
    let geometry = Geometry {
        down: axis(0)?,
        across: axis(1)?,
    };
    geometry.is_practical().then_some(geometry)
}

/// Follows `Max` and `Min` with a constant after a node: the outlet behind them, and what they limit to.
fn limits_after(model: &TypedModel, node: &TypedNode) -> TractResult<(OutletId, Option<[f32; 2]>)> {
    let mut last = OutletId::new(node.id, 0);
    let mut limits: Option<[f32; 2]> = None;
    let outputs = model.output_outlets()?;
    while let [successor] = model.outlet_successors(last)
        && !outputs.contains(&last)
    {
        let next = model.node(successor.node);
        let Some(to) = limit(model, next, last)? else {
            break;
        };
        // Applied in their order: what follows limits the limits as well.
        let before = limits.unwrap_or([f32::NEG_INFINITY, f32::INFINITY]);
        limits = Some(match to {
            Limit::Least(least) => before.map(|v| v.max(least)),
            Limit::Largest(largest) => before.map(|v| v.min(largest)),
        });
        last = OutletId::new(next.id, 0);
    }
    Ok((last, limits))
}

enum Limit {
    Least(f32),
    Largest(f32),
}

/// What `node` limits `outlet` to, if that is all that it does: the number is one.
fn limit(model: &TypedModel, node: &TypedNode, outlet: OutletId) -> TractResult<Option<Limit>> {
    let (Some(op), [a, b]) = (node.op_as::<TypedBinOp>(), &node.inputs[..]) else {
        return Ok(None);
    };
    let other = if *a == outlet { *b } else { *a };
    let Some(constant) = &model.outlet_fact(other)?.konst else {
        return Ok(None);
    };
    let same_shape = model.outlet_fact(outlet)?.shape == node.outputs[0].fact.shape;
    if constant.len() != 1 || constant.datum_type() != f32::datum_type() || !same_shape {
        return Ok(None);
    }
    let number = constant.view().as_slice::<f32>()?[0];
    Ok(if number.is_nan() {
        None
    } else if op.0.is::<Max>() {
        Some(Limit::Least(number))
    } else if op.0.is::<Min>() {
        Some(Limit::Largest(number))
    } else {
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tract_onnx::tract_core::ops::cnn::{PaddingSpec, PoolSpec};
    use tract_onnx::tract_core::ops::math::{max, min};

    /// A depthwise convolution as files have it.
    #[derive(Debug, Clone)]
    struct Case {
        channels: usize,
        size: [usize; 2],
        taps: [usize; 2],
        stride: usize,
        dilation: usize,
        zeros: [(usize, usize); 2],
        /// Followed by `Max` and `Min`.
        limited: bool,
        /// Read by something else as well, and so not to be overwritten.
        shared: bool,
    }

    impl Case {
        fn model(&self) -> TractResult<TypedModel> {
            let Self { channels, taps, .. } = *self;
            let numbers = |count: usize, step: f32| -> Vec<f32> {
                (0..count).map(|i| (i as f32 * step).sin()).collect()
            };
            let mut model = TypedModel::default();
            let [height, width] = self.size;
            let input = model.add_source("input", f32::fact([1, channels, height, width]))?;
            // Something before it, as a plan's own input is never overwritten.
            let two = model.add_const("two", Tensor::from_shape(&[1, 1, 1, 1], &[2.0_f32])?)?;
            let input = model.wire_node("before", max(), &[input, two])?[0];
            let kernel = numbers(channels * taps[0] * taps[1], 0.7);
            let kernel = Tensor::from_shape(&[channels, 1, taps[0], taps[1]], &kernel)?;
            let kernel = model.add_const("kernel", kernel)?;
            let bias = model.add_const("bias", Tensor::from_shape(&[channels], &numbers(channels, 0.3))?)?;
            let conv = Conv {
                pool_spec: PoolSpec {
                    data_format: DataFormat::NCHW,
                    kernel_shape: taps[..].into(),
                    padding: PaddingSpec::Explicit(
                        self.zeros.map(|z| z.0)[..].into(),
                        self.zeros.map(|z| z.1)[..].into(),
                    ),
                    dilations: Some(tvec!(self.dilation; 2)),
                    strides: Some(tvec!(self.stride; 2)),
                    input_channels: channels,
                    output_channels: channels,
                },
                kernel_fmt: KernelFormat::OIHW,
                group: channels,
                q_params: None,
            };
            let mut output = model.wire_node("conv", conv, &[input, kernel, bias])?;
            if self.limited {
                for (name, op, number) in [("relu", max(), 0.0_f32), ("relu6", min(), 1.5)] {
                    let number = Tensor::from_shape(&[1, 1, 1, 1], &[number])?;
                    let number = model.add_const(format!("{name}.limit"), number)?;
                    output = model.wire_node(name, op, &[output[0], number])?;
                }
            }
            if self.shared {
                output.push(input);
            }
            model.select_output_outlets(&output)?;
            model.into_decluttered()
        }

        /// The outputs of `model` for the same samples.
        fn run(&self, model: TypedModel) -> TractResult<Vec<Vec<f32>>> {
            let [height, width] = self.size;
            let samples: Vec<f32> = (0..self.channels * height * width)
                .map(|i| 4.0 * (i as f32 * 0.37).cos())
                .collect();
            let input = Tensor::from_shape(&[1, self.channels, height, width], &samples)?;
            let outputs = model.into_runnable()?.run(tvec!(input.into_tvalue()))?;
            let read = |output: &TValue| Ok(output.view().as_slice::<f32>()?.to_vec());
            outputs.iter().map(read).collect()
        }
    }

    fn case() -> impl Strategy<Value = Case> {
        let sides = (1_usize..5, 9_usize..40, 9_usize..70);
        let kernel = (
            prop::sample::select(vec![1_usize, 3, 5]),
            prop::sample::select(vec![3_usize, 5]),
        );
        (
            sides,
            kernel,
            1_usize..=2,
            1_usize..=2,
            prop::array::uniform4(0_usize..3),
            any::<[bool; 2]>(),
        )
            .prop_map(
                |((channels, height, width), taps, stride, dilation, zeros, [limited, shared])| Case {
                    channels: channels + 1,
                    size: [height, width],
                    taps: [taps.0, taps.1],
                    stride,
                    dilation,
                    zeros: [(zeros[0], zeros[1]), (zeros[2], zeros[3])],
                    limited,
                    shared,
                },
            )
    }

    fn has_own(model: &TypedModel) -> bool {
        model.nodes().iter().any(|node| node.op_is::<DepthwiseConv>())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_computes_what_tracts_operator_does(case in case()) {
            let model = case.model().unwrap();
            let mut replaced = model.clone();
            replace_depthwise(&mut replaced).unwrap();
            prop_assert!(has_own(&replaced) && !replaced.nodes().iter().any(|node| node.op_is::<Conv>()));
            if case.limited {
                let mins = replaced.nodes().iter().filter(|n| n.op_as::<TypedBinOp>().is_some_and(|o| o.0.is::<Min>()));
                prop_assert_eq!(mins.count(), 0, "the limits are part of the operator");
            }
            let expected = case.run(model.into_optimized().unwrap()).unwrap();
            replaced.optimize().unwrap();
            let found = case.run(replaced).unwrap();
            prop_assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
                prop_assert!((found - expected).abs() < 1e-4, "{} {}", found, expected);
            }
        }
    }
}
