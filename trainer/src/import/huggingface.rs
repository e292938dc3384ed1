//! Whole networks under the names that Hugging Face's transformers give them.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use tch::Tensor;

use super::file;
use crate::graph::Graph;
use crate::nets::segformer::{CLASSIFIER, ENCODER, FUSE, FUSED_BATCH_NORM, HEAD};
use crate::weights::Weights;

/// What was read of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// Tensors that were read.
    pub tensors: usize,
    /// Why layers keep the weights they had; nothing if all were read.
    pub kept: Option<String>,
}

/// Whether the tensors of `path` have the names that transformers give to SegFormer.
///
/// # Errors
/// The file can't be read.
pub fn is_segformer(path: &Path) -> Result<bool> {
    Ok(file::read(path)?.keys().any(|name| name.starts_with(ENCODER)))
}

/// Reads SegFormer from a `.safetensors`, `.bin` or `.pth` file. The classifier keeps its weights where the file's is for
/// another number of classes, and the head where the file holds an encoder alone.
///
/// # Errors
/// The file can't be read, lacks a layer, or has one of another shape; the message names the file and the tensor.
pub fn load_segformer(path: &Path, graph: &Graph, weights: &mut Weights) -> Result<Read> {
    let tensors = file::read(path)?;
    set(&tensors, graph, weights).with_context(|| path.display().to_string())
}

fn set(tensors: &BTreeMap<String, Tensor>, graph: &Graph, weights: &mut Weights) -> Result<Read> {
    ensure!(
        graph.nodes.iter().any(|node| node.name.starts_with(ENCODER)),
        "holds SegFormer's weights: expected network.arch = \"segformer-b0\""
    );
    let has_head = tensors.keys().any(|name| name.starts_with(HEAD));
    let same_classes = tensors.get(&format!("{CLASSIFIER}.bias")).map(Tensor::size)
        == Some(weights.get(&format!("{CLASSIFIER}.bias")).size());
    let names: Vec<String> = weights.iter().map(|(name, _)| name.to_owned()).collect();
    let mut read = Read::default();
    for name in names {
        if name.starts_with(HEAD) && !has_head || name.starts_with(CLASSIFIER) && !same_classes {
            continue;
        }
        let theirs = published(&name);
        let found = tensors
            .get(&theirs)
            .with_context(|| format!("holds no {theirs}"))?;
        // A linear layer is a convolution of 1x1 here.
        let shape = weights.get(&name).size();
        let fits = match (found.size().as_slice(), shape.as_slice()) {
            (&[a, b], &[c, d, 1, 1]) => (a, b) == (c, d),
            (found, own) => found == own,
        };
        ensure!(fits, "{theirs} is {:?}, expected {shape:?}", found.size());
        weights.set(&name, &found.reshape(&shape))?;
        read.tensors += 1;
    }
    read.kept = if !has_head {
        Some("it holds no head: the head starts from random weights".to_owned())
    } else if !same_classes {
        Some("its classes are others: the classifier starts from random weights".to_owned())
    } else {
        None
    };
    Ok(read)
}

/// The published name of a tensor.
fn published(name: &str) -> String {
    let batch_norm = name.strip_prefix(FUSE).and_then(|rest| rest.strip_prefix(".bn."));
    match batch_norm {
        Some("mean") => format!("{FUSED_BATCH_NORM}.running_mean"),
        Some("var") => format!("{FUSED_BATCH_NORM}.running_var"),
        Some(other) => format!("{FUSED_BATCH_NORM}.{other}"),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nets::segformer::segformer_b0;
    use tch::{Device, Kind};

    /// A file as transformers write it, of a network of small channels.
    fn file(classes: i64) -> BTreeMap<String, Tensor> {
        let graph = segformer_b0(classes, 8);
        let weights = Weights::random(&graph, 5, Device::Cpu);
        let mut tensors: BTreeMap<String, Tensor> = weights
            .iter()
            .map(|(name, tensor)| {
                let is_linear = tensor.dim() == 4
                    && tensor.size()[2..] == [1, 1]
                    && ![FUSE, CLASSIFIER].iter().any(|layer| name.starts_with(layer));
                let random = tensor.rand_like();
                let shape: Vec<i64> = tensor
                    .size()
                    .into_iter()
                    .take(if is_linear { 2 } else { 4 })
                    .collect();
                (published(name), random.reshape(shape))
            })
            .collect();
        let count = Tensor::from(7.0f32);
        tensors.insert(format!("{FUSED_BATCH_NORM}.num_batches_tracked"), count);
        tensors
    }

    fn read(tensors: &BTreeMap<String, Tensor>, classes: i64) -> Result<(Read, Weights)> {
        let graph = segformer_b0(classes, 8);
        let mut weights = Weights::random(&graph, 6, Device::Cpu);
        Ok((set(tensors, &graph, &mut weights)?, weights))
    }

    #[test]
    fn every_weight_comes_from_the_tensor_of_its_name() {
        let tensors = file(4);
        for name in [
            "segformer.encoder.patch_embeddings.0.proj.weight",
            "segformer.encoder.patch_embeddings.3.layer_norm.bias",
            "segformer.encoder.block.0.1.attention.self.sr.weight",
            "segformer.encoder.block.2.0.attention.self.layer_norm.weight",
            "segformer.encoder.block.1.0.attention.output.dense.weight",
            "segformer.encoder.block.3.1.mlp.dwconv.dwconv.bias",
            "segformer.encoder.layer_norm.2.weight",
            "decode_head.linear_c.1.proj.weight",
            "decode_head.batch_norm.running_var",
        ] {
            assert!(tensors.contains_key(name), "{name}");
        }
        let (found, weights) = read(&tensors, 4).unwrap();
        assert_eq!((found.tensors, found.kept), (tensors.len() - 1, None));
        for (name, tensor) in weights.iter() {
            assert_eq!(tensor.view([-1]), tensors[&published(name)].view([-1]), "{name}");
        }
    }

    #[test]
    fn another_number_of_classes_and_an_encoder_alone_leave_what_they_lack() {
        let mut tensors = file(4);
        let (found, weights) = read(&tensors, 3).unwrap();
        assert!(found.kept.unwrap().contains("the classifier"));
        assert_eq!(
            weights.get("decode_head.classifier.bias"),
            &Tensor::zeros([3], (Kind::Float, Device::Cpu))
        );
        tensors.retain(|name, _| name.starts_with(ENCODER));
        let (found, _) = read(&tensors, 3).unwrap();
        assert_eq!(found.tensors, tensors.len());
        assert!(found.kept.unwrap().contains("no head"));
    }

    #[test]
    fn what_is_missing_or_of_another_shape_is_named() {
        let refused = |change: &dyn Fn(&mut BTreeMap<String, Tensor>)| {
            let mut tensors = file(4);
            change(&mut tensors);
            read(&tensors, 4).err().unwrap().to_string()
        };
        let key = "segformer.encoder.block.1.1.attention.self.key.weight";
        let message = refused(&|tensors| {
            tensors.remove(key);
        });
        assert_eq!(message, format!("holds no {key}"));
        let message = refused(&|tensors| {
            let small = Tensor::zeros([2, 2], (Kind::Float, Device::Cpu));
            tensors.insert(key.to_owned(), small);
        });
        assert_eq!(message, format!("{key} is [2, 2], expected [8, 8, 1, 1]"));
        let graph = crate::nets::by_name("unet").unwrap().divided(4, 8);
        let mut weights = Weights::random(&graph, 6, Device::Cpu);
        let message = set(&file(4), &graph, &mut weights).unwrap_err().to_string();
        assert!(message.contains("segformer-b0"), "{message}");
    }
}
