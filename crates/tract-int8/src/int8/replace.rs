//! Replaces tract's operators in a network by ours.

use std::sync::Arc;

use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::array::TypedConcat;
use tract_onnx::tract_core::ops::cnn::{Conv, KernelFormat};
use tract_onnx::tract_core::ops::element_wise::ElementWiseOp;
use tract_onnx::tract_core::ops::nn::DataFormat;
use tract_onnx::tract_core::ops::quant::{DequantizeLinearF32, QuantizeLinearU8};

use super::super::depthwise::{Axis, Geometry};
use super::filter::{Filter, Stored};
use super::ops::{Operator, Size, Step, unpack, wire};

/// Replaces the convolutions of bytes of a model that was just read, and all between them.
///
/// # Errors
/// tract's, if the model is inconsistent.
pub fn replace(model: &mut TypedModel) -> TractResult<()> {
    Rewriter::<()>::default()
        .with_rule_for("8-bit convolution", |(), model, node, name, conv| {
            convolution(model, node, name, conv)
        })
        .with_rule_for("quantize", |(), model, node, name, op| {
            quantize(model, node, name, op)
        })
        .rewrite(&(), model)?;
    Rewriter::<()>::default()
        .with_rule_for("8-bit concat", |(), model, node, name, op| {
            concatenate(model, node, name, op)
        })
        .rewrite(&(), model)?;
    Rewriter::<()>::default()
        .with_rule_for("there and back", |(), model, node, _, op| {
            there_and_back(model, node, op)
        })
        .rewrite(&(), model)?;
    Rewriter::<()>::default()
        .with_rule_for("dequantize", |(), model, node, name, op| {
            dequantize(model, node, name, op)
        })
        .rewrite(&(), model)
}

type Patch = TractResult<Option<TypedModelPatch>>;

/// The numbers of a constant: as many as are asked for, or one for all.
fn numbers<T: Datum + Copy>(
    model: &TypedModel,
    outlet: OutletId,
    count: usize,
) -> TractResult<Option<Vec<T>>> {
    let Some(constant) = &model.outlet_fact(outlet)?.konst else {
        return Ok(None);
    };
    let constant = constant.cast_to::<T>()?;
    let values = constant.try_as_plain_ram()?.as_slice::<T>()?;
    Ok(match values.len() {
        1 => Some(vec![values[0]; count]),
        n if n == count => Some(values.to_vec()),
        _ => None,
    })
}

fn convolution(model: &TypedModel, node: &TypedNode, name: &str, conv: &Conv) -> Patch {
    // Input, weights, bias; zero point and scale of input, weights and output.
    let [x, w, bias, x_zero, x_scale, w_zero, w_scale, y_zero, y_scale] = node.inputs[..] else {
        return Ok(None);
    };
    let input = model.outlet_fact(x)?;
    let bytes = u8::datum_type();
    let Some(from) = Size::of(input).filter(|_| input.datum_type == bytes && conv.q_params == Some(bytes))
    else {
        return Ok(None);
    };
    let Some((geometry, is_depthwise)) = geometry(conv, from) else {
        return Ok(None);
    };
    let Some(weights) = &model.outlet_fact(w)?.konst else {
        return Ok(None);
    };
    if weights.datum_type() != i8::datum_type() {
        return Ok(None);
    }
    let outputs = conv.pool_spec.output_channels;
    let scale = |outlet| numbers::<f32>(model, outlet, 1);
    let zero = |outlet| -> TractResult<_> {
        let zero = numbers::<i32>(model, outlet, 1)?;
        Ok(zero.and_then(|zero| u8::try_from(zero[0]).ok()))
    };
    let (Some(bias), Some(w_zeros), Some(w_scales), Some(x_scale), Some(y_scale), Some(x_zero), Some(y_zero)) = (
        numbers::<i32>(model, bias, outputs)?,
        numbers::<i32>(model, w_zero, outputs)?,
        numbers::<f32>(model, w_scale, outputs)?,
        scale(x_scale)?,
        scale(y_scale)?,
        zero(x_zero)?,
        zero(y_zero)?,
    ) else {
        return Ok(None);
    };
    if w_zeros.iter().any(|&zero| zero != 0) {
        return Ok(None);
    }
    let scales: Vec<f32> = w_scales.iter().map(|w| x_scale[0] * w / y_scale[0]).collect();
    let filter = Filter::new(&Stored {
        outputs,
        inputs: from.channels,
        is_depthwise,
        taps: [geometry.down.taps, geometry.across.taps],
        weights: weights.try_as_plain_ram()?.as_slice::<i8>()?,
        bias: &bias,
        scales: &scales,
        input_zero: x_zero,
        output_zero: y_zero,
    });
    let Some(filter) = filter.filter(|_| scales.iter().all(|scale| scale.is_finite())) else {
        return Ok(None);
    };
    let to = Size {
        channels: outputs,
        height: geometry.down.output,
        width: geometry.across.output,
    };
    let mut patch = TypedModelPatch::new("8-bit convolution");
    let x = patch.tap_model(model, x)?;
    let step = Step::Convolve {
        geometry,
        filter: Arc::new(filter),
    };
    let output = wire(&mut patch.model, name, step, &[(x, from)], to)?;
    patch.shunt_outside(model, node.id.into(), output)?;
    Ok(Some(patch))
}

/// The sizes of a convolution of one picture, and whether it is depthwise; `None` if it is another.
fn geometry(conv: &Conv, from: Size) -> Option<(Geometry, bool)> {
    let spec = &conv.pool_spec;
    let is_depthwise = conv.group > 1;
    let groups_fit = conv.group == 1 || (conv.group == from.channels && conv.group == spec.output_channels);
    if !groups_fit
        || spec.data_format != DataFormat::NCHW
        || conv.kernel_fmt != KernelFormat::OIHW
        || spec.rank() != 2
    {
        return None;
    }
    let size = [from.height, from.width];
    let zeros = spec.computed_padding(&size);
    let axis = |at: usize| {
        let zeros = &zeros[at];
        let axis = Axis::new(
            size[at],
            (zeros.pad_before, zeros.pad_after),
            spec.kernel_shape[at],
            spec.stride(at),
            spec.dilation(at),
        )?;
        (axis.output == zeros.convoluted).then_some(axis)
    };
    let geometry = Geometry {
        down: axis(0)?,
        across: axis(1)?,
    };
    geometry.is_practical().then_some((geometry, is_depthwise))
}

fn quantize(model: &TypedModel, node: &TypedNode, name: &str, op: &ElementWiseOp) -> Patch {
    let Some(op) = op.0.downcast_ref::<QuantizeLinearU8>() else {
        return Ok(None);
    };
    let input = model.outlet_fact(node.inputs[0])?;
    let Some(size) = Size::of(input).filter(|_| input.datum_type == f32::datum_type()) else {
        return Ok(None);
    };
    let mut patch = TypedModelPatch::new("quantize");
    let input = patch.tap_model(model, node.inputs[0])?;
    let operator = Operator {
        // tract keeps the reciprocal of the scale.
        step: Step::Quantize {
            factor: op.scale,
            zero: op.zero_point,
        },
        input: size,
        output: size,
    };
    let planes = patch.wire_node(name, operator, &[input])?;
    let output = unpack(&mut patch.model, name, planes[0], size)?;
    patch.shunt_outside(model, node.id.into(), output)?;
    Ok(Some(patch))
}

/// The operator that makes an outlet, if it is one of ours.
fn made_by(model: &TypedModel, outlet: OutletId) -> Option<&Operator> {
    model.node(outlet.node).op_as::<Operator>()
}

/// The planes of bytes that an outlet is unpacked from.
fn planes_of(model: &TypedModel, outlet: OutletId) -> Option<(OutletId, Size)> {
    let operator = made_by(model, outlet).filter(|operator| operator.step == Step::Unpack)?;
    Some((model.node(outlet.node).inputs[0], operator.output))
}

fn concatenate(model: &TypedModel, node: &TypedNode, name: &str, op: &TypedConcat) -> Patch {
    let inputs: Option<Vec<(OutletId, Size)>> =
        node.inputs.iter().map(|&input| planes_of(model, input)).collect();
    let Some(inputs) = inputs.filter(|inputs| op.axis == 1 && !inputs.is_empty()) else {
        return Ok(None);
    };
    if inputs[..inputs.len() - 1]
        .iter()
        .any(|(_, size)| size.channels % 4 != 0)
    {
        return Ok(None);
    }
    let size = inputs[0].1;
    let to = Size {
        channels: inputs.iter().map(|(_, size)| size.channels).sum(),
        ..size
    };
    let mut patch = TypedModelPatch::new("8-bit concat");
    let mut taps = tvec!();
    for (planes, _) in inputs {
        taps.push(patch.tap_model(model, planes)?);
    }
    let operator = Operator {
        step: Step::Concatenate,
        input: size,
        output: to,
    };
    let planes = patch.wire_node(name, operator, &taps)?;
    let output = unpack(&mut patch.model, name, planes[0], to)?;
    patch.shunt_outside(model, node.id.into(), output)?;
    Ok(Some(patch))
}

/// Removes a way into planes that directly follows a way out of them.
fn there_and_back(model: &TypedModel, node: &TypedNode, op: &Operator) -> Patch {
    if op.step != Step::Pack {
        return Ok(None);
    }
    let Some((planes, _)) = planes_of(model, node.inputs[0]) else {
        return Ok(None);
    };
    let mut patch = TypedModelPatch::new("there and back");
    let planes = patch.tap_model(model, planes)?;
    patch.shunt_outside(model, node.id.into(), planes)?;
    Ok(Some(patch))
}

fn dequantize(model: &TypedModel, node: &TypedNode, name: &str, op: &DequantizeLinearF32) -> Patch {
    let Some((planes, size)) = planes_of(model, node.inputs[0]) else {
        return Ok(None);
    };
    let Ok(zero) = u8::try_from(op.zero_point) else {
        return Ok(None);
    };
    let mut patch = TypedModelPatch::new("dequantize");
    let planes = patch.tap_model(model, planes)?;
    let operator = Operator {
        step: Step::Dequantize {
            scale: op.scale,
            zero,
        },
        input: size,
        output: size,
    };
    let output = patch.wire_node(name, operator, &[planes])?;
    patch.shunt_outside(model, node.id.into(), output[0])?;
    Ok(Some(patch))
}
