//! `segd-train average`.
//!
//! The mean of the weights of runs that began from one another often scores higher than each of them, at no cost when it
//! runs: <https://arxiv.org/abs/2203.05482>.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use tch::{Device, Tensor};

use crate::run::Folder;
use crate::weights::Weights;

/// Arguments of `average`.
#[derive(Args)]
pub struct Arguments {
    /// The runs' folders, two or more of the same network, each begun from another of them or all from the same weights;
    /// of each, the weights with the best score are taken
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// The folder to write: a run's, with the first run's recipe
    #[arg(long)]
    out: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// There are fewer than two runs, they are not of one network with the same classes, a file can't be read or written, or
/// the folder to write holds a run already.
pub fn run(arguments: &Arguments) -> Result<()> {
    ensure!(
        arguments.runs.len() > 1,
        "found one run, {}: expected two or more to average",
        arguments.runs[0].display()
    );
    ensure!(
        Folder::open(&arguments.out).is_err(),
        "{} holds a run already; name another folder by --out",
        arguments.out.display()
    );
    let first = Folder::open(&arguments.runs[0])?;
    let recipe = first.recipe()?;
    let graph = recipe.graph();
    let mut mean: Option<Weights> = None;
    for (index, path) in arguments.runs.iter().enumerate() {
        let folder = Folder::open(path)?;
        let other = folder.recipe()?;
        ensure!(
            other.network == recipe.network && other.classes() == recipe.classes(),
            "{} has another network or other classes than {}: expected runs of one network",
            path.display(),
            first.path().display()
        );
        let mut weights = Weights::random(&graph, 0, Device::Cpu);
        weights.load(&folder.best(), "ema/")?;
        match &mean {
            None => mean = Some(weights),
            Some(mean) => add(mean, &weights, index),
        }
    }
    let mean = mean.context("there are no runs")?;
    let out = Folder::create(&arguments.out)?;
    out.start(&recipe, &first.origin()?)?;
    write(&mean, &out.best())?;
    println!(
        "{}: the mean of {} runs; segd-train eval, report and quantize take it as they take a run",
        arguments.out.display(),
        arguments.runs.len()
    );
    Ok(())
}

/// Makes the mean of `count` networks that of one more.
fn add(mean: &Weights, weights: &Weights, count: usize) {
    tch::no_grad(|| {
        for (name, value) in weights.iter() {
            let _ = mean
                .get(name)
                .shallow_clone()
                .lerp_(value, 1.0 / (count + 1) as f64);
        }
    });
}

fn write(weights: &Weights, path: &Path) -> Result<()> {
    let tensors: Vec<(String, Tensor)> = weights
        .iter()
        .map(|(name, tensor)| (format!("ema/{name}"), tensor.shallow_clone()))
        .collect();
    Tensor::write_safetensors(&tensors, path).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tempfile::TempDir;
    use vision::dataset::Format;

    use super::*;
    use crate::recipe;
    use crate::run::Origin;

    /// A run of a network with random weights.
    fn write_run(dir: &TempDir, name: &str, arch: &str, seed: i64) -> PathBuf {
        let path = dir.path().join(name);
        let recipe = recipe::for_arch(arch, Format::Camvid).unwrap();
        let origin = Origin {
            format: Format::Camvid,
            data: dir.path().join("data"),
            trunk: None,
            init: None,
        };
        let folder = Folder::create(&path).unwrap();
        folder.start(&recipe, &origin).unwrap();
        let weights = Weights::random(&recipe.graph(), seed, Device::Cpu);
        write(&weights, &folder.best()).unwrap();
        path
    }

    fn tensors(run: &Path) -> BTreeMap<String, Vec<f32>> {
        let tensors = Tensor::read_safetensors(run.join("best.safetensors")).unwrap();
        let values = |tensor: Tensor| Vec::try_from(tensor.view([-1])).unwrap();
        tensors
            .into_iter()
            .map(|(name, tensor)| (name, values(tensor)))
            .collect()
    }

    #[test]
    fn each_weight_is_the_mean_of_the_runs() {
        let dir = tempfile::tempdir().unwrap();
        let arch = "deeplabv3-light-mobilenetv2-0.5";
        let runs = [("a", 1), ("b", 2), ("c", 3)].map(|(name, seed)| write_run(&dir, name, arch, seed));
        let out = dir.path().join("mean");
        run(&Arguments {
            runs: runs.to_vec(),
            out: out.clone(),
        })
        .unwrap();
        let (mean, runs) = (tensors(&out), runs.map(|run| tensors(&run)));
        assert_eq!(mean.len(), runs[0].len());
        let mut differ = 0;
        for (name, values) in &mean {
            for (index, found) in values.iter().enumerate() {
                let of = [0, 1, 2].map(|run| runs[run][name][index]);
                let expected = of.iter().sum::<f32>() / 3.0;
                assert!(
                    (found - expected).abs() <= 1e-5 * (1.0 + expected.abs()),
                    "{name}[{index}]: {found}, expected {expected}, of {of:?}"
                );
                differ += usize::from(of[0] != of[1]);
            }
        }
        assert!(differ > 100_000, "the runs hardly differ: {differ}");

        // What comes out is a run as others are.
        let folder = Folder::open(&out).unwrap();
        let recipe = folder.recipe().unwrap();
        assert_eq!(folder.origin().unwrap().format, Format::Camvid);
        Weights::random(&recipe.graph(), 0, Device::Cpu)
            .load(&folder.best(), "ema/")
            .unwrap();
    }

    #[test]
    fn what_has_no_mean_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (
            write_run(&dir, "one", "deeplabv3-light-mobilenetv2-0.5", 1),
            write_run(&dir, "other", "deeplabv3-light-mobilenetv2", 1),
        );
        let refused = |runs: &[&PathBuf], out: &Path| {
            let runs = runs.iter().map(|&run| run.clone()).collect();
            let out = out.to_owned();
            format!("{:#}", run(&Arguments { runs, out }).unwrap_err())
        };
        let out = dir.path().join("mean");
        let message = refused(&[&one], &out);
        assert!(message.contains("two or more"), "{message}");
        let message = refused(&[&one, &other], &out);
        assert!(
            message.contains("other has another network") && message.contains("one:"),
            "{message}"
        );
        let message = refused(&[&one, &dir.path().join("none")], &out);
        assert!(message.contains("none is not a run's folder"), "{message}");
        let message = refused(&[&one, &one], &other);
        assert!(message.contains("holds a run already"), "{message}");
        assert!(!out.exists());
    }
}
