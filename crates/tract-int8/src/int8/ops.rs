//! The operators, as tract runs them.

use std::cell::RefCell;
use std::sync::{Arc, Mutex};

use tract_linalg::multithread::{Executor, current_tract_executor};
use tract_onnx::tract_core::internal::*;

use super::super::depthwise::Geometry;
use super::conv::{AT_A_TIME, convolve};
use super::filter::Filter;
use super::lanes::{self, Quad};
use super::pixels::{self, Sum};
use super::planes::{plane_len, planes};

/// Sizes of a picture of bytes, `[1, channels, height, width]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
}

impl Size {
    /// Of a fact that is known to be one picture.
    pub fn of(fact: &TypedFact) -> Option<Self> {
        match *fact.shape.as_concrete()? {
            [1, channels, height, width] if channels * height * width > 0 => Some(Self {
                channels,
                height,
                width,
            }),
            _ => None,
        }
    }

    pub fn pixels(self) -> usize {
        self.height * self.width
    }

    fn plain(self) -> [usize; 4] {
        [1, self.channels, self.height, self.width]
    }

    /// `[planes, quads of a plane, 4]`.
    fn packed(self) -> [usize; 3] {
        [planes(self.channels), plane_len(self.pixels()), 4]
    }
}

/// What an operator does. Inputs and outputs are packed unless stated otherwise.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Plain bytes to packed ones.
    Pack,
    /// Packed bytes to plain ones.
    Unpack,
    /// Plain values to packed bytes.
    Quantize { factor: f32, zero: u8 },
    /// Packed bytes to plain values.
    Dequantize { scale: f32, zero: u8 },
    /// A convolution.
    Convolve { geometry: Geometry, filter: Arc<Filter> },
    /// A sum of two; the second has one pixel, for all of the first, if it is to be `spread`.
    Add { sum: Sum, spread: bool },
    /// The mean of each channel.
    Average { factor: f32, zeros: [u8; 2] },
    /// One after the other; the channels of all but the last are a multiple of 4.
    Concatenate,
    /// A quarter of the channels, four times the pixels.
    DepthToSpace,
}

/// A step on a picture of a size that is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Operator {
    pub step: Step,
    /// Of the first input.
    pub input: Size,
    pub output: Size,
}

/// Scales are numbers: they come from files that were checked.
impl Eq for Operator {}

impl Op for Operator {
    fn name(&self) -> StaticName {
        match self.step {
            Step::Pack => "SegdPack",
            Step::Unpack => "SegdUnpack",
            Step::Quantize { .. } => "SegdQuantize",
            Step::Dequantize { .. } => "SegdDequantize",
            Step::Convolve { .. } => "SegdConvolveInt8",
            Step::Add { .. } => "SegdAddInt8",
            Step::Average { .. } => "SegdAverageInt8",
            Step::Concatenate => "SegdConcatenateInt8",
            Step::DepthToSpace => "SegdDepthToSpaceInt8",
        }
        .into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        Ok(vec![format!("{:?} to {:?}", self.input, self.output)])
    }

    fn validation(&self) -> Validation {
        Validation::Rounding
    }

    op_as_typed_op!();
}

thread_local! {
    /// Room for convolutions, kept from one to the next.
    static SCRATCH: RefCell<Vec<Quad>> = const { RefCell::new(Vec::new()) };
}

/// Below this many multiplications, about 20 microseconds, a convolution is not worth waking threads for.
const SHARED_WORK: usize = 1 << 22;

/// A convolution by this thread and those of the current [`Executor`]: each takes planes of the output until none is
/// left.
fn convolve_shared(geometry: &Geometry, filter: &Filter, input: &[Quad], output: &mut [Quad]) {
    let part = |first: usize, output: &mut [Quad]| {
        SCRATCH.with_borrow_mut(|scratch| {
            convolve(
                lanes::Level::best(),
                geometry,
                filter,
                first,
                input,
                output,
                scratch,
            );
        });
    };
    let work = filter.planes() * filter.work() * geometry.output();
    let Executor::MultiThread(helpers) = current_tract_executor() else {
        return part(0, output);
    };
    if work < SHARED_WORK {
        return part(0, output);
    }
    let threads = helpers.current_num_threads() + 1;
    // Twice as many parts as threads: one that is held up leaves the rest to the others.
    let planes = filter.planes().div_ceil(2 * threads).next_multiple_of(AT_A_TIME);
    let parts = output.chunks_mut(planes * plane_len(geometry.output()));
    let parts = Mutex::new(parts.enumerate());
    let take = || parts.lock().unwrap_or_else(|e| e.into_inner()).next();
    let work = || {
        while let Some((at, output)) = take() {
            part(at * planes, output);
        }
    };
    helpers.in_place_scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|_| work());
        }
        work();
    });
}

fn quads(tensor: &Tensor) -> TractResult<&[Quad]> {
    Ok(tensor.try_as_plain_ram()?.as_slice::<u8>()?.as_chunks::<4>().0)
}

impl Operator {
    /// A tensor for the output. Clearing it took 3 % of an inference: only what the step may leave as it is gets a value.
    fn room(&self) -> TractResult<Tensor> {
        let (plain, packed) = (self.output.plain(), self.output.packed());
        match self.step {
            // Bytes that fill up the last plane are left as they are.
            Step::Pack | Step::Quantize { .. } => Tensor::zero::<u8>(&packed),
            // SAFETY: any bits are a u8, and `unpack` writes every byte of `[channels, pixels]`.
            Step::Unpack => unsafe { Tensor::uninitialized::<u8>(&plain) },
            // SAFETY: any bits are an f32, and `dequantize` writes every value of `[channels, pixels]`.
            Step::Dequantize { .. } => unsafe { Tensor::uninitialized::<f32>(&plain) },
            Step::Convolve { .. }
            | Step::Add { .. }
            | Step::Average { .. }
            | Step::Concatenate
            | Step::DepthToSpace => {
                // SAFETY: any bits are a u8. These steps write all quads of each plane's pixels, as the tests see that
                // begin with other bytes; what lies behind the pixels is written here.
                let mut tensor = unsafe { Tensor::uninitialized::<u8>(&packed)? };
                let mut view = tensor.view_mut();
                let planes = view.as_slice_mut::<u8>()?.as_chunks_mut::<4>().0;
                for plane in planes.chunks_exact_mut(packed[1]) {
                    plane[self.output.pixels()..].fill([0; 4]);
                }
                Ok(tensor)
            }
        }
    }
}

impl EvalOp for Operator {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let Size { channels, .. } = self.input;
        let pixels = self.input.pixels();
        let level = pixels::level();
        let first = &inputs[0];
        let mut output = self.room()?;
        if let Step::Dequantize { scale, zero } = self.step {
            let mut view = output.view_mut();
            pixels::dequantize(
                level,
                channels,
                pixels,
                scale,
                zero,
                quads(first)?,
                view.as_slice_mut::<f32>()?,
            );
            return Ok(tvec!(output.into_tvalue()));
        }
        let mut view = output.view_mut();
        let bytes = view.as_slice_mut::<u8>()?;
        if self.step == Step::Unpack {
            pixels::unpack(level, channels, pixels, quads(first)?, bytes);
            return Ok(tvec!(output.into_tvalue()));
        }
        let to = bytes.as_chunks_mut::<4>().0;
        match &self.step {
            Step::Pack => pixels::pack(level, channels, pixels, first.view().as_slice::<u8>()?, to),
            Step::Quantize { factor, zero } => {
                let from = first.view();
                pixels::quantize(
                    level,
                    channels,
                    pixels,
                    *factor,
                    *zero,
                    from.as_slice::<f32>()?,
                    to,
                );
            }
            Step::Convolve { geometry, filter } => convolve_shared(geometry, filter, quads(first)?, to),
            Step::Add { sum, spread } => {
                pixels::add(
                    level,
                    pixels,
                    *spread,
                    *sum,
                    quads(first)?,
                    quads(&inputs[1])?,
                    to,
                );
            }
            Step::Average { factor, zeros } => {
                pixels::average(level, pixels, *factor, *zeros, quads(first)?, to);
            }
            Step::Concatenate => {
                let mut rest = to;
                for input in &inputs {
                    let from = quads(input)?;
                    let (here, behind) = rest.split_at_mut(from.len());
                    here.copy_from_slice(from);
                    rest = behind;
                }
            }
            Step::DepthToSpace => {
                let Size { height, width, .. } = self.input;
                pixels::depth_to_space(channels, height, width, quads(first)?, to);
            }
            Step::Unpack | Step::Dequantize { .. } => {}
        }
        Ok(tvec!(output.into_tvalue()))
    }
}

impl TypedOp for Operator {
    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(match self.step {
            Step::Unpack => u8::fact(self.output.plain()),
            Step::Dequantize { .. } => f32::fact(self.output.plain()),
            _ => u8::fact(self.output.packed()),
        }))
    }

    as_op!();
}

/// Adds a step between a way into planes and a way out of them. Two such ways that follow each other are taken out later.
pub fn wire(
    model: &mut TypedModel,
    name: &str,
    step: Step,
    inputs: &[(OutletId, Size)],
    output: Size,
) -> TractResult<OutletId> {
    let mut packed: TVec<OutletId> = tvec!();
    for (at, &(outlet, size)) in inputs.iter().enumerate() {
        let pack = Operator {
            step: Step::Pack,
            input: size,
            output: size,
        };
        packed.push(model.wire_node(format!("{name}.pack{at}"), pack, &[outlet])?[0]);
    }
    let operator = Operator {
        step,
        input: inputs[0].1,
        output,
    };
    let planes = model.wire_node(name, operator, &packed)?;
    unpack(model, name, planes[0], output)
}

/// Adds a way out of planes.
pub fn unpack(model: &mut TypedModel, name: &str, planes: OutletId, size: Size) -> TractResult<OutletId> {
    let unpack = Operator {
        step: Step::Unpack,
        input: size,
        output: size,
    };
    Ok(model.wire_node(format!("{name}.unpack"), unpack, &[planes])?[0])
}
