//! A whole network out of its exported f32 ONNX file, so that training goes on from it.
//!
//! Export folds batch normalisation into the convolutions. Training needs it again: the head normalises by each batch,
//! and AdamW's steps suit weights of the usual size. [`load`] gives every channel weights of He's norm, and the
//! normalisation undoes the factor; [`measure`] then sets the head's statistics to those of real batches. Neither changes what the
//! network computes.

use std::path::Path;

use anyhow::{Context, Result};
use tch::{Kind, Tensor};

use super::file;
use crate::data::Batch;
use crate::forward::{Mode, forward_each};
use crate::graph::{Graph, Node, Op, Part};
use crate::nets::panoptic_deeplab_light::PREFIX;
use crate::recipe::Recipe;
use crate::validate;
use crate::weights::Weights;

/// Reads every layer of `graph` from an exported file. The branch that tells objects apart keeps the weights it has where
/// the file is of the network of the classes alone; the names of its layers are returned.
///
/// # Errors
/// The file can't be read, or lacks a layer, or has one of another shape; the message names the tensor.
pub fn load(path: &Path, graph: &Graph, weights: &mut Weights) -> Result<Vec<String>> {
    let tensors = file::read(path)?;
    let lacks_branch = !tensors.keys().any(|name| name.starts_with(PREFIX));
    let is_new = |node: &Node| lacks_branch && node.name.starts_with(PREFIX);
    let need = |name: String| {
        tensors
            .get(&name)
            .with_context(|| format!("{}: holds no {name}", path.display()))
    };
    for (node, conv) in graph.convs().filter(|(node, _)| !is_new(node)) {
        let name = &node.name;
        let weight = need(format!("{name}.weight"))?;
        let Some(eps) = conv.batch_norm else {
            weights.set(&format!("{name}.weight"), &(weight / conv.scale))?;
            if conv.bias {
                let bias = need(format!("{name}.bias"))?;
                weights.set(&format!("{name}.bias"), &(bias / conv.scale))?;
            }
            continue;
        };
        let bias = need(format!("{name}.bias"))?;
        let norm = weight
            .square()
            .sum_dim_intlist([1i64, 2, 3].as_slice(), false, None);
        let factor = std::f64::consts::SQRT_2 * conv.gain / norm.sqrt().clamp_min(1e-6);
        weights.set(
            &format!("{name}.weight"),
            &(weight * factor.reshape([-1, 1, 1, 1])),
        )?;
        weights.set(&format!("{name}.bn.weight"), &factor.reciprocal())?;
        weights.set(&format!("{name}.bn.bias"), bias)?;
        weights.set(&format!("{name}.bn.mean"), &bias.zeros_like())?;
        weights.set(&format!("{name}.bn.var"), &(bias.ones_like() - eps))?;
    }
    for (node, conv) in graph.transposed() {
        let name = &node.name;
        weights.set(&format!("{name}.weight"), need(format!("{name}.weight"))?)?;
        if conv.bias {
            weights.set(&format!("{name}.bias"), need(format!("{name}.bias"))?)?;
        }
    }
    for (node, channels) in graph.layer_norms() {
        for suffix in ["weight", "bias"] {
            let name = format!("{}.{suffix}", node.name);
            // The file has them as `[channels, 1, 1]`.
            let found = need(name.clone())?;
            let fits = found.numel() as i64 == channels;
            weights.set(
                &name,
                &if fits {
                    found.view([-1])
                } else {
                    found.shallow_clone()
                },
            )?;
        }
    }
    let new = graph.nodes.iter().filter(|node| is_new(node));
    Ok(new.map(|node| node.name.clone()).collect())
}

/// Sets the head's normalisation statistics to those of `batches`; scale and bias change with them, so that the network
/// computes what it did. Layers called as `new` are left out.
///
/// # Errors
/// The weights are those of another network.
pub fn measure(
    graph: &Graph,
    weights: &mut Weights,
    recipe: &Recipe,
    batches: &[Batch],
    new: &[String],
) -> Result<()> {
    let _guard = tch::no_grad_guard();
    // Sum and sum of squares of each channel, as the convolution gives it, and how many values they are of.
    let mut sums: Vec<Option<(Tensor, Tensor, i64)>> = graph.nodes.iter().map(|_| None).collect();
    let heads: Vec<(usize, &str, f64)> = graph
        .nodes
        .iter()
        .enumerate()
        .filter(|(_, node)| node.part == Part::Head && !new.contains(&node.name))
        .filter_map(|(id, node)| match &node.op {
            Op::Conv(conv) => Some((id, node.name.as_str(), conv.batch_norm?)),
            _ => None,
        })
        .collect();
    for batch in batches {
        for part in batch.parts(recipe, weights.device()) {
            let input = validate::normalise(&part.rgb, recipe.normalisation());
            let _ = forward_each(graph, weights, &input, Mode::Eval, Kind::Float, |id, value| {
                if !heads.iter().any(|&(head, _, _)| head == id) {
                    return;
                }
                let channels = value.transpose(0, 1).flatten(1, -1).to_kind(Kind::Double);
                let count = channels.size()[1];
                let each = [1i64];
                let sum = channels.sum_dim_intlist(each.as_slice(), false, None);
                let squares = channels.square().sum_dim_intlist(each.as_slice(), false, None);
                sums[id] = Some(match sums[id].take() {
                    Some((a, b, n)) => (a + sum, b + squares, n + count),
                    None => (sum, squares, count),
                });
            });
        }
    }
    for (id, name, eps) in heads {
        let Some((sum, squares, count)) = sums[id].take() else {
            continue;
        };
        let mean = sum / count as f64;
        let variance = (squares / count as f64 - mean.square()).clamp_min(1e-8);
        // The normalisation so far is `y = scale * x + bias`.
        let (scale, bias) = crate::weights::batch_norm_affine(weights, name, eps);
        let (scale, bias) = (scale.to_kind(Kind::Double), bias.to_kind(Kind::Double));
        let variance = variance / scale.square();
        let mut set = |suffix: &str, value: Tensor| {
            weights.set(&format!("{name}.bn.{suffix}"), &value.to_kind(Kind::Float))
        };
        set("weight", (&variance + eps).sqrt() * &scale)?;
        set("bias", mean.shallow_clone())?;
        set("mean", (mean - bias) / scale)?;
        set("var", variance)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::float;
    use crate::forward::forward;
    use crate::recipe;
    use crate::weights::fold;
    use tch::Device;

    #[test]
    fn an_exported_network_comes_back_and_computes_the_same() {
        let mut recipe = recipe::named("voc21").unwrap();
        (recipe.network.pyramid, recipe.train.batch) = (Some(8), 2);
        recipe.augment.crop = crate::augment::Size {
            width: 64,
            height: 64,
        };
        let graph = recipe.graph();
        let weights = Weights::random(&graph, 1, Device::Cpu);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fp32.onnx");
        let file = float::write("made", &graph, &fold(&graph, &weights).unwrap());
        std::fs::write(&path, file).unwrap();

        let mut read = Weights::random(&graph, 2, Device::Cpu);
        load(&path, &graph, &mut read).unwrap();
        let batch = Batch {
            rgb: (0..2 * 64 * 64 * 3).map(|i: u32| (i * i % 251) as u8).collect(),
            labels: vec![0; 2 * 32 * 32],
            targets: vec![],
            objects: vec![],
        };
        let rgb = batch.parts(&recipe, Device::Cpu).next().unwrap().rgb;
        let input = validate::normalise(&rgb, recipe.normalisation());
        let run = |weights: &Weights, mode: Mode| {
            tch::no_grad(|| forward(&graph, weights, &input, mode, Kind::Float))
        };
        let expected = run(&weights, Mode::Eval);
        let close = |found: &Tensor, limit: f64| {
            let error = (found - &expected).abs().max().double_value(&[]);
            let size = expected.abs().max().double_value(&[]);
            assert!(error < limit * size, "{error} of {size}");
        };
        // The file holds weights of eleven bits.
        close(&run(&read, Mode::Eval), 1e-2);
        measure(&graph, &mut read, &recipe, std::slice::from_ref(&batch), &[]).unwrap();
        close(&run(&read, Mode::Eval), 1e-2);
        // Normalised by the batch that was measured, the head computes the same.
        close(&run(&read, Mode::Train { momentum: 0.0 }), 2e-2);

        std::fs::write(&path, b"").unwrap();
        assert!(load(&path, &graph, &mut read).is_err());
    }
}
