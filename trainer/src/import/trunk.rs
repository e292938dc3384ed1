//! Published weights of a trunk, brought into a network that is built on it.
//!
//! Names are those of the published files: torchvision's for MobileNetV2, VGG16 and ResNet-18, those of
//! `efficientnet_lite_pytorch` for EfficientNet-Lite0. segd-train's own checkpoints are taken too, and ONNX files with
//! those names, also where batch normalisation is folded into the convolutions.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use tch::Tensor;

use super::file;
use crate::graph::{Conv, Graph, Node, Part};
use crate::nets::TrunkKind;
use crate::nets::efficientnet_lite;
use crate::weights::Weights;

/// What files may put before every name: nothing, a checkpoint's averaged weights, the wrappers of common trainers.
const PREFIXES: [&str; 6] = ["", "ema/", "module.", "model.", "backbone.", "encoder."];

/// Reads the weights of the trunk's layers from a file; the head's stay as they are.
///
/// # Errors
/// The file can't be read, or lacks a layer of the trunk, or has one of another shape; the message names the tensor.
pub fn load(path: &Path, kind: TrunkKind, graph: &Graph, weights: &mut Weights) -> Result<()> {
    let tensors = file::read(path)?;
    set(&tensors, kind, graph, weights).with_context(|| path.display().to_string())
}

/// The trunk's convolutions.
fn trunk(graph: &Graph) -> impl Iterator<Item = (&Node, &Conv)> {
    graph.convs().filter(|(node, _)| node.part != Part::Head)
}

fn set(
    tensors: &BTreeMap<String, Tensor>,
    kind: TrunkKind,
    graph: &Graph,
    weights: &mut Weights,
) -> Result<()> {
    let Some((first, _)) = trunk(graph).next() else {
        bail!("the network has no trunk that starts from published weights")
    };
    let first = format!("{}.weight", first.name);
    let Some(prefix) = PREFIXES
        .iter()
        .find(|prefix| tensors.contains_key(&format!("{prefix}{first}")))
    else {
        let some: Vec<&str> = tensors.keys().take(3).map(String::as_str).collect();
        bail!(
            "holds no {first}, the first layer of {}; it holds {} tensors, such as {}",
            kind.name(),
            tensors.len(),
            some.join(", ")
        )
    };
    let get = |name: &str| tensors.get(&format!("{prefix}{name}"));
    for (node, conv) in trunk(graph) {
        let found = layer(node, conv, kind, get)?;
        for (suffix, value) in found {
            weights.set(&format!("{}.{suffix}", node.name), &value)?;
        }
    }
    Ok(())
}

/// The tensors of a layer under the names that [`Weights`] gives them.
fn layer<'a>(
    node: &Node,
    conv: &Conv,
    kind: TrunkKind,
    get: impl Fn(&str) -> Option<&'a Tensor>,
) -> Result<Vec<(&'static str, Tensor)>> {
    let need = |name: String| get(&name).with_context(|| format!("holds no {name}"));
    let name = &node.name;
    let weight = need(format!("{name}.weight"))?;
    let mut found = vec![("weight", as_conv(weight, conv, name)?)];
    let bias = get(&format!("{name}.bias"));
    let Some(eps) = conv.batch_norm else {
        if conv.bias {
            found.push(("bias", need(format!("{name}.bias"))?.shallow_clone()));
        }
        return Ok(found);
    };
    let own = format!("{name}.bn");
    if get(&format!("{own}.weight")).is_some() {
        for suffix in ["bn.weight", "bn.bias", "bn.mean", "bn.var"] {
            found.push((suffix, need(format!("{name}.{suffix}"))?.shallow_clone()));
        }
        return Ok(found);
    }
    let published = batch_norm_name(kind, name);
    if let (None, Some(bias)) = (get(&format!("{published}.weight")), bias) {
        // Folded into the convolution: a normalisation that does nothing but add the bias.
        found.push(("bn.weight", bias.ones_like()));
        found.push(("bn.bias", bias.shallow_clone()));
        found.push(("bn.mean", bias.zeros_like()));
        found.push(("bn.var", bias.ones_like() - eps));
        return Ok(found);
    }
    for (theirs, own) in [
        ("weight", "bn.weight"),
        ("bias", "bn.bias"),
        ("running_mean", "bn.mean"),
        ("running_var", "bn.var"),
    ] {
        let mut value = need(format!("{published}.{theirs}"))?.copy();
        if let (Some(bias), "bn.mean") = (bias, own) {
            // A bias before the normalisation moves its mean.
            ensure!(
                bias.size() == value.size(),
                "{name}.bias is {:?}, expected {:?}",
                bias.size(),
                value.size()
            );
            value -= bias;
        }
        found.push((own, value));
    }
    Ok(found)
}

/// The weights of a convolution; those of a dense layer that became one are brought into its shape.
fn as_conv(weight: &Tensor, conv: &Conv, name: &str) -> Result<Tensor> {
    let expected = conv.weight_shape();
    let dense = [expected[0], expected[1] * expected[2] * expected[3]];
    if weight.size() == dense {
        return Ok(weight.reshape(expected));
    }
    ensure!(
        weight.size() == expected,
        "{name}.weight is {:?}, the network's is {expected:?}",
        weight.size()
    );
    Ok(weight.shallow_clone())
}

/// The name that published weights give to the batch normalisation after a convolution.
fn batch_norm_name(kind: TrunkKind, conv: &str) -> String {
    match kind {
        TrunkKind::EfficientnetLite0 | TrunkKind::EfficientnetLite1 | TrunkKind::EfficientnetLite2 => {
            efficientnet_lite::published_batch_norm(conv)
        }
        // `conv1` has `bn1` beside it.
        TrunkKind::Resnet18 if !conv.ends_with("downsample.0") => conv.replace("conv", "bn"),
        // Layers are counted: the next number.
        _ => match conv.rsplit_once('.') {
            Some((before, number)) => match number.parse::<u32>() {
                Ok(number) => format!("{before}.{}", number + 1),
                Err(_) => format!("{conv}.bn"),
            },
            None => format!("{conv}.bn"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::float;
    use crate::graph::Op;
    use crate::nets::by_name;
    use crate::weights::fold;
    use tch::{Device, Kind};

    /// A file's tensors, under their published names, with random values; convolutions have biases where `biases` is set.
    fn published(kind: TrunkKind, graph: &Graph, biases: bool) -> BTreeMap<String, Tensor> {
        let random = |shape: &[i64]| Tensor::rand(shape, (Kind::Float, Device::Cpu)) + 0.5;
        let mut tensors = BTreeMap::new();
        for (node, conv) in trunk(graph) {
            tensors.insert(format!("{}.weight", node.name), random(&conv.weight_shape()));
            if conv.bias || biases {
                tensors.insert(format!("{}.bias", node.name), random(&[conv.outputs]));
            }
            if conv.batch_norm.is_some() {
                let name = batch_norm_name(kind, &node.name);
                for suffix in ["weight", "bias", "running_mean", "running_var"] {
                    tensors.insert(format!("{name}.{suffix}"), random(&[conv.outputs]));
                }
            }
        }
        tensors
    }

    fn graph(name: &str, divide: i64) -> Graph {
        by_name(name).unwrap().divided(3, divide)
    }

    #[test]
    fn names_are_those_of_torchvision() {
        for (kind, conv, expected) in [
            (TrunkKind::Resnet18, "conv1", "bn1"),
            (TrunkKind::Resnet18, "layer2.0.conv2", "layer2.0.bn2"),
            (
                TrunkKind::Resnet18,
                "layer2.0.downsample.0",
                "layer2.0.downsample.1",
            ),
            (TrunkKind::MobilenetV2, "features.0.0", "features.0.1"),
            (TrunkKind::MobilenetV2, "features.1.conv.1", "features.1.conv.2"),
            (
                TrunkKind::MobilenetV2,
                "features.2.conv.0.0",
                "features.2.conv.0.1",
            ),
            (TrunkKind::Vgg16Bn, "features.40", "features.41"),
            (TrunkKind::EfficientnetLite0, "_conv_stem", "_bn0"),
            (
                TrunkKind::EfficientnetLite0,
                "_blocks.3._project_conv",
                "_blocks.3._bn2",
            ),
        ] {
            assert_eq!(batch_norm_name(kind, conv), expected);
        }
        // The last layers of the published networks.
        let names = |name: &str| -> Vec<String> {
            let graph = graph(name, 1);
            trunk(&graph).map(|(node, _)| node.name.clone()).collect()
        };
        assert_eq!(names("segnet").last().unwrap(), "features.40");
        assert_eq!(names("fcn-8s").last().unwrap(), "classifier.3");
        assert_eq!(names("pspnet").last().unwrap(), "layer4.1.conv2");
        assert_eq!(
            names("deeplabv3-mobilenetv2").last().unwrap(),
            "features.17.conv.2"
        );
    }

    #[test]
    fn every_layer_of_the_trunk_is_set() {
        for (name, kind, divide, biases) in [
            ("segnet", TrunkKind::Vgg16Bn, 16, true),
            ("fcn-16s", TrunkKind::Vgg16, 16, false),
            ("pspnet", TrunkKind::Resnet18, 16, false),
            ("deeplabv3-mobilenetv2", TrunkKind::MobilenetV2, 8, false),
            ("segnet-separable", TrunkKind::EfficientnetLite0, 1, false),
        ] {
            let graph = graph(name, divide);
            let tensors = published(kind, &graph, biases);
            let mut weights = Weights::random(&graph, 1, Device::Cpu);
            let before = weights.deep_copy();
            set(&tensors, kind, &graph, &mut weights).unwrap();
            for ((name, new), (_, old)) in weights.iter().zip(before.iter()) {
                let is_trunk = trunk(&graph).any(|(node, _)| {
                    name.strip_prefix(&node.name)
                        .is_some_and(|suffix| suffix.starts_with('.') && suffix.matches('.').count() <= 2)
                });
                assert_eq!(new != old, is_trunk, "{name}");
            }
        }
    }

    #[test]
    fn a_bias_before_normalisation_is_kept_in_its_mean() {
        let graph = graph("segnet", 16);
        let tensors = published(TrunkKind::Vgg16Bn, &graph, true);
        let mut weights = Weights::random(&graph, 1, Device::Cpu);
        set(&tensors, TrunkKind::Vgg16Bn, &graph, &mut weights).unwrap();
        let expected = &tensors["features.1.running_mean"] - &tensors["features.0.bias"];
        assert_eq!(*weights.get("features.0.bn.mean"), expected);
    }

    #[test]
    fn what_is_missing_or_of_another_shape_is_named() {
        let graph = graph("pspnet", 16);
        let whole = published(TrunkKind::Resnet18, &graph, false);
        let refused = |tensors: &BTreeMap<String, Tensor>| {
            let mut weights = Weights::random(&graph, 1, Device::Cpu);
            let error = set(tensors, TrunkKind::Resnet18, &graph, &mut weights).unwrap_err();
            format!("{error:#}")
        };
        let copy = || -> BTreeMap<String, Tensor> {
            whole
                .iter()
                .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()))
                .collect()
        };
        let mut tensors = copy();
        tensors.remove("layer3.0.bn2.running_var");
        assert_eq!(refused(&tensors), "holds no layer3.0.bn2.running_var");
        let mut tensors = copy();
        let small = Tensor::zeros([2, 2, 3, 3], (Kind::Float, Device::Cpu));
        tensors.insert("layer4.1.conv1.weight".into(), small);
        let message = refused(&tensors);
        assert!(
            message.contains("layer4.1.conv1.weight is [2, 2, 3, 3]") && message.contains("[32, 32, 3, 3]"),
            "{message}"
        );
        let message = refused(&published(
            TrunkKind::Vgg16Bn,
            &by_name("segnet").unwrap().divided(3, 16),
            false,
        ));
        assert!(
            message.contains("holds no conv1.weight") && message.contains("features.0.weight"),
            "{message}"
        );
    }

    /// A trunk comes out of a checkpoint and out of an exported file as it went in.
    #[test]
    fn checkpoints_and_onnx_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let graph = graph("deeplabv3-mobilenetv2", 8);
        let kind = TrunkKind::MobilenetV2;
        let mut weights = Weights::random(&graph, 1, Device::Cpu);
        set(&published(kind, &graph, false), kind, &graph, &mut weights).unwrap();

        let checkpoint = folder.path().join("best.safetensors");
        let tensors: Vec<(String, Tensor)> = weights
            .iter()
            .map(|(name, tensor)| (format!("ema/{name}"), tensor.shallow_clone()))
            .collect();
        Tensor::write_safetensors(&tensors, &checkpoint).unwrap();
        let onnx = folder.path().join("fp32.onnx");
        let convs = fold(&graph, &weights).unwrap();
        std::fs::write(&onnx, float::write("made", &graph, &convs)).unwrap();

        // The ONNX file holds weights of eleven bits.
        for (path, limit) in [(checkpoint, 1e-5), (onnx, 1e-3)] {
            let mut read = Weights::random(&graph, 2, Device::Cpu);
            load(&path, kind, &graph, &mut read).unwrap();
            let again = fold(&graph, &read).unwrap();
            for (node, _) in trunk(&graph) {
                let (a, b) = (&convs[&node.name], &again[&node.name]);
                for (a, b) in a.weight.iter().chain(&a.bias).zip(b.weight.iter().chain(&b.bias)) {
                    assert!(
                        (a - b).abs() <= limit * a.abs().max(1.0),
                        "{}: {a} {b}",
                        node.name
                    );
                }
            }
            // The head is not touched.
            assert_ne!(again["aspp.0"], convs["aspp.0"]);
        }
        assert!(graph.nodes.iter().any(|node| node.op == Op::Relu6));
    }
}
