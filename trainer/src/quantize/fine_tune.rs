//! Quantization-aware fine-tuning: a few steps in which weights and values are rounded as the 8-bit file rounds them.
//!
//! Batch normalisation is folded, ranges stay as calibrated, and rounding passes gradients on as they are, but none from
//! values that saturate (Jacob et al. 2018).

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use indicatif::ProgressBar;
use tch::{Device, Kind, Tensor};

use super::{Calibration, Plan, folded};
use crate::data::{self, Donors, Part};
use crate::forward::{Mode, forward_mapped};
use crate::graph::{Graph, NodeId};
use crate::optimizer::{Method, Optimizer, Schedule};
use crate::picture::Picture;
use crate::recipe::Recipe;
use crate::validate;
use crate::weights::{FoldedConv, Weights, fold};

/// A share of the recipe's rate for the trunk: the weights are good already.
const RATE: f64 = 0.03;

/// How many steps, with what.
pub struct FineTune<'a> {
    /// The recipe the network was trained by: its loss, crops and rates.
    pub recipe: &'a Recipe,
    /// The pictures.
    pub pictures: &'a [Picture],
    /// Steps.
    pub steps: u64,
    /// Where it runs.
    pub device: Device,
}

/// Fine-tunes the folded convolutions of `graph` for the ranges of `calibration`.
///
/// # Errors
/// The loss is no longer a number.
pub fn fine_tune(
    graph: &Graph,
    convs: &BTreeMap<String, FoldedConv>,
    calibration: &Calibration,
    task: &FineTune,
) -> Result<BTreeMap<String, FoldedConv>> {
    let (graph, weights) = folded(graph, convs)?;
    let weights = weights.to_device(task.device);
    let names = Weights::all_trainable(&graph);
    let mut optimizer = Optimizer::new(&weights, names, Method::Adamw, 0.0, 0.0);
    let plan = Plan::new(&graph);
    let order: Vec<u32> = (0..task.pictures.len() as u32).collect();
    let loss = data::loss(task.pictures, &order, task.recipe, task.device);
    let progress = ProgressBar::new(task.steps);
    for step in 0..task.steps {
        let batch = data::batch(task.pictures, &order, &Donors::default(), task.recipe, step);
        for Part { rgb, labels, .. } in batch.parts(task.recipe, task.device) {
            let input = validate::normalise(&rgb, task.recipe.normalisation());
            let logits = quantized_forward(&graph, &weights, &plan, calibration, &input);
            let size = labels.size();
            let logits = logits.upsample_bilinear2d([size[1], size[2]], false, None, None);
            let value = loss.value(&logits, &labels) / task.recipe.train.accumulate as f64;
            value.backward();
            let value = value.double_value(&[]);
            ensure!(
                value.is_finite(),
                "the loss is {value} at step {step} of fine-tuning"
            );
            progress.set_message(format!("loss {value:.4}"));
        }
        let rate = RATE * task.recipe.train.trunk_rate * Schedule::Cosine.factor(step, 0, task.steps);
        optimizer.step(rate, rate);
        progress.inc(1);
    }
    progress.finish_and_clear();
    fold(&graph, &weights.deep_copy())
}

/// The logits of `input` with weights and values rounded as the 8-bit file rounds them.
pub fn quantized_forward(
    graph: &Graph,
    weights: &Weights,
    plan: &Plan,
    calibration: &Calibration,
    input: &Tensor,
) -> Tensor {
    let params = plan.params(calibration);
    let ends = graph.ends();
    let rounded = weights.mapped(|name, weight| {
        let is_conv = graph.convs().any(|(node, _)| {
            name == format!("{}.weight", node.name) && !graph.node(&node.name).is_some_and(|id| ends[id])
        });
        if is_conv {
            round_weight(weight, calibration.weight_bits.largest())
        } else {
            weight.shallow_clone()
        }
    });
    let round = |id: NodeId, value: Tensor| {
        // What an activation absorbs is stored once, after it; the output stays as it is.
        if ends[id] || plan.absorbs(graph, id) {
            return value;
        }
        let params = params[id];
        value.fake_quantize_per_tensor_affine(f64::from(params.scale), i64::from(params.zero_point), 0, 255)
    };
    forward_mapped(graph, &rounded, input, Mode::Eval, Kind::Float, round)
}

/// A convolution's weights in `end` steps to either side, a step's size by output channel.
fn round_weight(weight: &Tensor, end: i8) -> Tensor {
    let channels = weight.size()[0];
    let scales = tch::no_grad(|| {
        let largest = weight.abs().view([channels, -1]).amax([1i64].as_slice(), false);
        (largest / f64::from(end)).clamp_min(1e-12)
    });
    let zeros = Tensor::zeros([channels], (Kind::Int, weight.device()));
    weight.fake_quantize_per_channel_affine(&scales, &zeros, 0, i64::from(-end), i64::from(end))
}
