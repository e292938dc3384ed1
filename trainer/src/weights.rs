//! A network's weights by name.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use tch::{Device, Kind, Tensor};

use crate::graph::{ConvTranspose, Graph, Part};

/// Tensors by name, f32: `<node>.weight`, `<node>.bias`, `<node>.bn.{weight,bias,mean,var}`.
#[derive(Debug, Default)]
pub struct Weights {
    map: BTreeMap<String, Tensor>,
}

impl Weights {
    /// Random weights (He, fan-in; the classifier near zero) for every convolution of `graph`.
    #[must_use]
    pub fn random(graph: &Graph, seed: i64, device: Device) -> Self {
        tch::manual_seed(seed);
        let options = (Kind::Float, Device::Cpu);
        let mut map = BTreeMap::new();
        let ends = graph.ends();
        for (node, conv) in graph.convs() {
            let shape = conv.weight_shape();
            let fan_in = (conv.inputs / conv.groups * conv.kernel * conv.kernel) as f64;
            let is_output = graph.node(&node.name).is_some_and(|id| ends[id]);
            let deviation = if is_output {
                0.01
            } else {
                conv.gain * (2.0 / fan_in).sqrt()
            };
            let mut insert = |suffix: &str, tensor: Tensor| {
                map.insert(format!("{}.{suffix}", node.name), tensor.to_device(device));
            };
            insert("weight", Tensor::randn(shape, options) * deviation);
            let channels = [conv.outputs];
            if conv.bias {
                insert("bias", Tensor::full(channels, conv.first_bias, options));
            }
            if conv.batch_norm.is_some() {
                insert("bn.weight", Tensor::ones(channels, options));
                insert("bn.bias", Tensor::zeros(channels, options));
                insert("bn.mean", Tensor::zeros(channels, options));
                insert("bn.var", Tensor::ones(channels, options));
            }
        }
        for (node, conv) in graph.transposed() {
            let weight = if conv.bilinear {
                bilinear_weight(conv)
            } else {
                // Each output cell is reached by `inputs * (kernel / stride)^2` weights.
                let reach = (conv.kernel / conv.stride).max(1);
                let deviation = (2.0 / (conv.inputs * reach * reach) as f64).sqrt();
                Tensor::randn(conv.weight_shape(), options) * deviation
            };
            map.insert(format!("{}.weight", node.name), weight.to_device(device));
            if conv.bias {
                let bias = Tensor::zeros([conv.outputs], options);
                map.insert(format!("{}.bias", node.name), bias.to_device(device));
            }
        }
        for (node, channels) in graph.layer_norms() {
            for (suffix, value) in [("weight", 1.0), ("bias", 0.0)] {
                let tensor = Tensor::full([channels], value, options).to_device(device);
                map.insert(format!("{}.{suffix}", node.name), tensor);
            }
        }
        Self { map }
    }

    /// The tensor called `name`.
    ///
    /// # Panics
    /// There is none: the weights belong to another graph.
    pub fn get(&self, name: &str) -> &Tensor {
        self.map
            .get(name)
            .unwrap_or_else(|| panic!("the weights hold no {name}"))
    }

    /// Where the tensors are.
    #[must_use]
    pub fn device(&self) -> Device {
        self.map.values().next().map_or(Device::Cpu, Tensor::device)
    }

    /// Names and tensors, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.map.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Overwrites the tensor called `name`.
    ///
    /// # Errors
    /// There is none of that name, or its shape differs.
    pub fn set(&mut self, name: &str, value: &Tensor) -> Result<()> {
        let Some(tensor) = self.map.get_mut(name) else {
            bail!("the network has no weight called {name}")
        };
        if tensor.size() != value.size() {
            bail!("{name} is {:?}, found {:?}", tensor.size(), value.size());
        }
        tch::no_grad(|| tensor.copy_(value));
        Ok(())
    }

    /// A copy that shares nothing.
    #[must_use]
    pub fn deep_copy(&self) -> Self {
        tch::no_grad(|| Self {
            map: self
                .map
                .iter()
                .map(|(name, t)| (name.clone(), t.detach().copy()))
                .collect(),
        })
    }

    /// The weights on another device.
    #[must_use]
    pub fn to_device(&self, device: Device) -> Self {
        tch::no_grad(|| self.mapped(|_, tensor| tensor.detach().to_device(device)))
    }

    /// The tensors that `map` makes of these, by name.
    #[must_use]
    pub fn mapped(&self, mut map: impl FnMut(&str, &Tensor) -> Tensor) -> Self {
        let map = self
            .map
            .iter()
            .map(|(name, tensor)| (name.clone(), map(name, tensor)))
            .collect();
        Self { map }
    }

    /// Every tensor of a graph without batch normalisation, as [`Weights::trainable`] names them.
    #[must_use]
    pub fn all_trainable(graph: &Graph) -> Vec<(String, Part)> {
        Self::trainable(&graph.clone().from_scratch())
    }

    /// Names of the tensors that training changes by gradient, with the part each belongs to.
    ///
    /// A trunk's 5x5 depthwise convolutions keep their pretrained weights. They are 3 % of the trunk's weights, but
    /// oneDNN has no fast kernel for their gradient: it took two thirds of a step.
    #[must_use]
    pub fn trainable(graph: &Graph) -> Vec<(String, Part)> {
        let mut names = Vec::new();
        for (node, conv) in graph.convs() {
            let frozen_depthwise = node.part == Part::Trunk && conv.groups > 1 && conv.kernel == 5;
            if node.part == Part::Stem || frozen_depthwise {
                continue;
            }
            names.push((format!("{}.weight", node.name), node.part));
            if conv.bias {
                names.push((format!("{}.bias", node.name), node.part));
            }
            if conv.batch_norm.is_some() {
                names.push((format!("{}.bn.weight", node.name), node.part));
                names.push((format!("{}.bn.bias", node.name), node.part));
            }
        }
        for (node, conv) in graph.transposed().filter(|(node, _)| node.part != Part::Stem) {
            names.push((format!("{}.weight", node.name), node.part));
            if conv.bias {
                names.push((format!("{}.bias", node.name), node.part));
            }
        }
        for (node, _) in graph.layer_norms().filter(|(node, _)| node.part != Part::Stem) {
            for suffix in ["weight", "bias"] {
                names.push((format!("{}.{suffix}", node.name), node.part));
            }
        }
        names
    }

    /// Reads every tensor that this network has from a checkpoint, by name and shape, but those whose names begin with
    /// `branch` where the checkpoint has none of these.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_but(&mut self, path: &Path, prefix: &str, branch: &str) -> Result<()> {
        self.load_from(path, prefix, Some(branch))
    }

    /// Reads every tensor that this network has from a checkpoint, by name and shape.
    ///
    /// # Errors
    /// The file can't be read, or lacks a tensor of the network.
    pub fn load(&mut self, path: &Path, prefix: &str) -> Result<()> {
        self.load_from(path, prefix, None)
    }

    fn load_from(&mut self, path: &Path, prefix: &str, branch: Option<&str>) -> Result<()> {
        let tensors =
            Tensor::read_safetensors(path).with_context(|| format!("reading {}", path.display()))?;
        let mut found: BTreeMap<String, Tensor> = tensors
            .into_iter()
            .filter_map(|(name, t)| Some((name.strip_prefix(prefix)?.to_owned(), t)))
            .collect();
        let branch = branch.filter(|branch| !found.keys().any(|name| name.starts_with(branch)));
        let is_new = |name: &String| branch.is_some_and(|branch| name.starts_with(branch));
        for name in self
            .map
            .keys()
            .filter(|name| !is_new(name))
            .cloned()
            .collect::<Vec<_>>()
        {
            let value = found
                .remove(&name)
                .with_context(|| format!("{}: holds no {prefix}{name}", path.display()))?;
            self.set(&name, &value)
                .with_context(|| path.display().to_string())?;
        }
        Ok(())
    }
}

/// Weights of a transposed convolution that interpolates each channel bilinearly (Long et al. 2015, section 3.3).
fn bilinear_weight(conv: &ConvTranspose) -> Tensor {
    let side = conv.kernel;
    // The distance from a kernel's tap to its middle, in input cells.
    let share = |tap: i64| {
        let distance = (tap as f32 + 0.5 - side as f32 / 2.0).abs() / conv.stride as f32;
        (1.0 - distance).max(0.0)
    };
    let mut values = vec![0f32; conv.weight_shape().iter().product::<i64>() as usize];
    for channel in 0..conv.inputs.min(conv.outputs) {
        for (y, x) in (0..side).flat_map(|y| (0..side).map(move |x| (y, x))) {
            let at = ((channel * conv.outputs + channel) * side + y) * side + x;
            values[at as usize] = share(y) * share(x);
        }
    }
    Tensor::from_slice(&values).reshape(conv.weight_shape())
}

/// A convolution's weights with its batch normalisation folded in, as the exporters and the quantizer want them; or those of a
/// normalisation over channels.
#[derive(Clone, Debug, PartialEq)]
pub struct FoldedConv {
    /// `[outputs, inputs / groups, kernel, kernel]`, row-major; of a transposed one `[inputs, outputs, kernel, kernel]`; of a
    /// normalisation `[channels]`.
    pub weight: Vec<f32>,
    /// `[outputs]`
    pub bias: Vec<f32>,
}

/// Scale and bias of a batch normalisation with its running statistics: `y = scale * x + bias`.
pub fn batch_norm_affine(weights: &Weights, node: &str, eps: f64) -> (Tensor, Tensor) {
    let scale =
        weights.get(&format!("{node}.bn.weight")) / (weights.get(&format!("{node}.bn.var")) + eps).sqrt();
    let bias = weights.get(&format!("{node}.bn.bias")) - weights.get(&format!("{node}.bn.mean")) * &scale;
    (scale, bias)
}

/// Every convolution of `graph` with its batch normalisation folded in, and every normalisation over channels, by node name.
///
/// # Errors
/// A tensor can't be read out.
pub fn fold(graph: &Graph, weights: &Weights) -> Result<BTreeMap<String, FoldedConv>> {
    let _guard = tch::no_grad_guard();
    let values = |tensor: &Tensor| -> Result<Vec<f32>> {
        Ok(Vec::try_from(
            tensor.to_device(Device::Cpu).contiguous().view([-1]),
        )?)
    };
    let transposed = graph.transposed().map(|(node, conv)| {
        let name = &node.name;
        let bias = if conv.bias {
            values(weights.get(&format!("{name}.bias")))?
        } else {
            vec![0.0; conv.outputs as usize]
        };
        let weight = values(weights.get(&format!("{name}.weight")))?;
        Ok((name.clone(), FoldedConv { weight, bias }))
    });
    let norms = graph.layer_norms().map(|(node, _)| {
        let [weight, bias] = ["weight", "bias"].map(|suffix| format!("{}.{suffix}", node.name));
        let (weight, bias) = (values(weights.get(&weight))?, values(weights.get(&bias))?);
        Ok((node.name.clone(), FoldedConv { weight, bias }))
    });
    graph
        .convs()
        .map(|(node, conv)| {
            let name = &node.name;
            let weight = weights.get(&format!("{name}.weight"));
            let folded = if let Some(eps) = conv.batch_norm {
                let (scale, bias) = batch_norm_affine(weights, name, eps);
                FoldedConv {
                    weight: values(&(weight * scale.reshape([-1, 1, 1, 1])))?,
                    bias: values(&bias)?,
                }
            } else if conv.bias {
                FoldedConv {
                    weight: values(&(weight * conv.scale))?,
                    bias: values(&(weights.get(&format!("{name}.bias")) * conv.scale))?,
                }
            } else {
                FoldedConv {
                    weight: values(weight)?,
                    bias: vec![0.0; conv.outputs as usize],
                }
            };
            Ok((name.clone(), folded))
        })
        .chain(transposed)
        .chain(norms)
        .collect()
}
