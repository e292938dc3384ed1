//! Reads operators of 8-bit files that tract's reader lacks: ONNX Runtime's
//! [QLinearAdd and QLinearGlobalAveragePool](https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md),
//! and DepthToSpace of bytes.

use tract_onnx::model::{Onnx, ParsingContext};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::ops::{Size, Step, wire};
use super::pixels::Sum;

/// Teaches tract's reader the operators.
pub fn register(onnx: &mut Onnx) {
    onnx.op_register
        .insert("QLinearAdd", |_, _| Ok((expand(Add), vec![])));
    onnx.op_register.insert("QLinearGlobalAveragePool", average);
    onnx.op_register.insert("DepthToSpace", depth_to_space);
}

type Built = TractResult<(Box<dyn InferenceOp>, Vec<String>)>;

/// A constant scale and zero point of bytes.
fn scale_and_zero(model: &TypedModel, inputs: &[OutletId], at: usize) -> TractResult<(f32, u8)> {
    let number = |at: usize| {
        let fact = model.outlet_fact(*inputs.get(at).context("a scale or zero point is missing")?)?;
        let number = fact
            .konst
            .clone()
            .context("a scale or zero point is not constant")?;
        ensure!(
            number.len() == 1,
            "a scale or zero point of a tensor has {} numbers, expected 1",
            number.len()
        );
        Ok(number)
    };
    let scale = number(at)?.cast_to_scalar::<f32>()?;
    let zero = number(at + 1)?;
    ensure!(
        scale.is_finite() && scale > 0.0,
        "a scale is {scale}, expected a number above 0"
    );
    ensure!(
        zero.datum_type() == u8::datum_type(),
        "a zero point holds {:?}, expected u8",
        zero.datum_type()
    );
    Ok((scale, zero.cast_to_scalar::<u8>()?))
}

fn size(model: &TypedModel, outlet: OutletId) -> TractResult<Size> {
    let fact = model.outlet_fact(outlet)?;
    ensure!(
        fact.datum_type == u8::datum_type(),
        "an input holds {:?}, expected u8",
        fact.datum_type
    );
    Size::of(fact).with_context(|| {
        format!(
            "an input has shape {:?}, expected one picture of known size",
            fact.shape
        )
    })
}

#[derive(Debug, Clone)]
struct Add;

impl Expansion for Add {
    fn name(&self) -> StaticName {
        "QLinearAdd".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 8)?;
        check_output_arity(outputs, 1)?;
        s.equals(&inputs[0].datum_type, &outputs[0].datum_type)?;
        s.given_2(&inputs[0].shape, &inputs[3].shape, move |s, a, b| {
            let shape = tract_onnx::tract_core::broadcast::multi_broadcast(&[a, b])?;
            s.equals(&outputs[0].shape, shape)
        })
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let sizes = [size(model, inputs[0])?, size(model, inputs[3])?];
        let scales = [
            scale_and_zero(model, inputs, 1)?,
            scale_and_zero(model, inputs, 4)?,
            scale_and_zero(model, inputs, 6)?,
        ];
        // The one that may be of one pixel comes second.
        let swap = sizes[0].pixels() < sizes[1].pixels();
        let [a, b] = if swap { [1, 0] } else { [0, 1] };
        ensure!(
            sizes[a].channels == sizes[b].channels && (sizes[b].pixels() == 1 || sizes[a] == sizes[b]),
            "the inputs have sizes {sizes:?}, expected the same, or one pixel for one"
        );
        let step = Step::Add {
            sum: Sum::new([scales[a], scales[b], scales[2]]),
            spread: sizes[a] != sizes[b],
        };
        let outlets = [inputs[0], inputs[3]];
        let inputs = [(outlets[a], sizes[a]), (outlets[b], sizes[b])];
        Ok(tvec!(wire(model, prefix, step, &inputs, sizes[a])?))
    }
}

fn average(_context: &ParsingContext, node: &NodeProto) -> Built {
    let last: i64 = node.get_attr_opt("channels_last")?.unwrap_or(0);
    ensure!(
        last == 0,
        "QLinearGlobalAveragePool with channels_last = {last}, expected 0"
    );
    Ok((expand(Average), vec![]))
}

#[derive(Debug, Clone)]
struct Average;

impl Expansion for Average {
    fn name(&self) -> StaticName {
        "QLinearGlobalAveragePool".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 5)?;
        check_output_arity(outputs, 1)?;
        s.equals(&inputs[0].datum_type, &outputs[0].datum_type)?;
        s.given(&inputs[0].shape, move |s, shape| {
            let mut shape = shape;
            shape.iter_mut().skip(2).for_each(|side| *side = 1.into());
            s.equals(&outputs[0].shape, shape)
        })
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let from = size(model, inputs[0])?;
        let [input, output] = [
            scale_and_zero(model, inputs, 1)?,
            scale_and_zero(model, inputs, 3)?,
        ];
        let step = Step::Average {
            factor: input.0 / output.0,
            zeros: [input.1, output.1],
        };
        let to = Size {
            height: 1,
            width: 1,
            ..from
        };
        Ok(tvec!(wire(model, prefix, step, &[(inputs[0], from)], to)?))
    }
}

fn depth_to_space(context: &ParsingContext, node: &NodeProto) -> Built {
    let block: usize = node.get_attr_opt("blocksize")?.unwrap_or(0);
    let mode: Option<&str> = node.get_attr_opt("mode")?;
    if block != 2 || mode.is_some_and(|mode| mode != "DCR") {
        let own = tract_onnx::onnx();
        let build = own
            .op_register
            .0
            .get("DepthToSpace")
            .context("tract has no DepthToSpace")?;
        return build(context, node);
    }
    Ok((expand(DepthToSpace), vec![]))
}

#[derive(Debug, Clone)]
struct DepthToSpace;

impl Expansion for DepthToSpace {
    fn name(&self) -> StaticName {
        "DepthToSpace".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 1)?;
        check_output_arity(outputs, 1)?;
        s.equals(&inputs[0].rank, 4)?;
        s.equals(&inputs[0].datum_type, &outputs[0].datum_type)?;
        s.given(&inputs[0].shape, move |s, shape| {
            let [n, c, h, w] = [0, 1, 2, 3].map(|axis| shape[axis].clone());
            let shape: TVec<TDim> = tvec!(n, c / 4, h * 2, w * 2);
            s.equals(&outputs[0].shape, shape)
        })
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let fact = model.outlet_fact(inputs[0])?.clone();
        if let Some(from) = Size::of(&fact)
            && fact.datum_type == u8::datum_type()
            && from.channels % 16 == 0
        {
            let to = Size {
                channels: from.channels / 4,
                height: 2 * from.height,
                width: 2 * from.width,
            };
            return Ok(tvec!(wire(
                model,
                prefix,
                Step::DepthToSpace,
                &[(inputs[0], from)],
                to
            )?));
        }
        let shape = fact.shape.to_tvec();
        let two = || TDim::from(2);
        let [channels, height, width] = [1, 2, 3].map(|axis| shape[axis].clone());
        ensure!(
            channels.clone() % 4 == 0.to_dim(),
            "DepthToSpace of {channels} channels, expected a multiple of 4"
        );
        let split = AxisOp::Reshape(1, tvec!(channels.clone()), tvec!(two(), two(), channels / 4));
        let join = AxisOp::Reshape(
            2,
            tvec!(height.clone(), two(), width.clone(), two()),
            tvec!(height * 2, width * 2),
        );
        let mut outlet = tvec!(inputs[0]);
        for (at, op) in [split, AxisOp::Move(2, 5), AxisOp::Move(1, 3), join]
            .into_iter()
            .enumerate()
        {
            outlet = model.wire_node(format!("{prefix}.{at}"), op, &outlet)?;
        }
        Ok(outlet)
    }
}
