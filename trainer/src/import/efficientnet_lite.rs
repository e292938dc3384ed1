//! Published EfficientNet-Lite weights, brought into a network whose trunk is
//! [`lite0`](crate::nets::efficientnet_lite::lite0).

use std::path::Path;

use anyhow::{Context, Result};
use tch::Tensor;

use super::pth;
use crate::graph::{Graph, Part};
use crate::nets::efficientnet_lite::published_batch_norm;
use crate::weights::Weights;

/// Reads the trunk's weights (everything but the head) from a PyTorch file.
///
/// # Errors
/// The file can't be read, or lacks a layer of the trunk.
pub fn load_trunk(path: &Path, graph: &Graph, weights: &mut Weights) -> Result<()> {
    let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let tensors = pth::read(&bytes).with_context(|| format!("reading {}", path.display()))?;
    for (node, _) in graph.convs().filter(|(node, _)| node.part != Part::Head) {
        let batch_norm = published_batch_norm(&node.name);
        let names = [
            (format!("{}.weight", node.name), "weight"),
            (format!("{batch_norm}.weight"), "bn.weight"),
            (format!("{batch_norm}.bias"), "bn.bias"),
            (format!("{batch_norm}.running_mean"), "bn.mean"),
            (format!("{batch_norm}.running_var"), "bn.var"),
        ];
        for (published, own) in names {
            let tensor = tensors
                .get(&published)
                .with_context(|| format!("{}: holds no {published}", path.display()))?;
            let value = Tensor::from_slice(&tensor.data).reshape(&tensor.shape);
            weights
                .set(&format!("{}.{own}", node.name), &value)
                .with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}
