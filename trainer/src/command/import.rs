//! `segd-train import`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use tch::{Device, Tensor};

use crate::graph::Part;
use crate::import::trunk;
use crate::nets;
use crate::weights::Weights;

/// Arguments of `import`.
#[derive(Args)]
pub struct Arguments {
    /// The network whose trunk the weights are for; `segd-train archs` lists them.
    #[arg(long)]
    arch: String,
    /// The published weights: a .pth, .safetensors or .onnx file.
    #[arg(long)]
    weights: PathBuf,
    /// The .safetensors file to write, for `train --trunk`.
    #[arg(long)]
    out: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// The network has no trunk, a file can't be read or written, or a tensor is missing or has another shape.
pub fn run(arguments: &Arguments) -> Result<()> {
    let architecture = nets::by_name(&arguments.arch).context("--arch")?;
    let kind = architecture.trunk.with_context(|| {
        format!(
            "--arch: {} has no trunk, it is trained from random weights",
            architecture.name
        )
    })?;
    let graph = architecture.graph(2);
    let mut weights = Weights::random(&graph, 0, Device::Cpu);
    trunk::load(&arguments.weights, kind, &graph, &mut weights)?;
    let names: Vec<&str> = graph
        .convs()
        .filter(|(node, _)| node.part != Part::Head)
        .map(|(node, _)| node.name.as_str())
        .collect();
    let tensors: Vec<(&str, &Tensor)> = weights
        .iter()
        .filter(|(name, _)| {
            names.iter().any(|node| {
                name.strip_prefix(node)
                    .is_some_and(|rest| [".weight", ".bias"].contains(&rest) || rest.starts_with(".bn."))
            })
        })
        .collect();
    Tensor::write_safetensors(&tensors, &arguments.out)
        .with_context(|| format!("writing {}", arguments.out.display()))?;
    println!(
        "{}: {} tensors of {} layers of {}",
        arguments.out.display(),
        tensors.len(),
        names.len(),
        kind.name()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_s_trunk_comes_out_and_goes_in_again() {
        let folder = tempfile::tempdir().unwrap();
        let architecture = nets::by_name("deeplabv3-light-mobilenetv2-0.5").unwrap();
        let graph = architecture.graph(5);
        let weights = Weights::random(&graph, 3, Device::Cpu);
        let checkpoint = folder.path().join("best.safetensors");
        let tensors: Vec<(String, Tensor)> = weights
            .iter()
            .map(|(name, tensor)| (format!("ema/{name}"), tensor.shallow_clone()))
            .collect();
        Tensor::write_safetensors(&tensors, &checkpoint).unwrap();
        let out = folder.path().join("trunk.safetensors");
        let mut arguments = Arguments {
            arch: architecture.name.into(),
            weights: checkpoint,
            out: out.clone(),
        };
        run(&arguments).unwrap();
        let written = Tensor::read_safetensors(&out).unwrap();
        assert!(written.iter().all(|(name, _)| name.starts_with("features.")));
        for (name, tensor) in &written {
            assert_eq!(tensor, weights.get(name), "{name}");
        }
        let mut again = Weights::random(&graph, 4, Device::Cpu);
        trunk::load(&out, architecture.trunk.unwrap(), &graph, &mut again).unwrap();
        assert_eq!(
            again.get("features.17.conv.2.bn.var"),
            weights.get("features.17.conv.2.bn.var")
        );

        arguments.arch = "unet".into();
        let message = format!("{:#}", run(&arguments).unwrap_err());
        assert!(message.contains("unet has no trunk"), "{message}");
    }
}
