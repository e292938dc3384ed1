//! `segd-train pack`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use prost::Message;
use tract_onnx::pb::ModelProto;
use vision::model::Model;
use vision::model::contract::Precision;
use vision::model::load::sha256_hex;
use vision::selftest;

use crate::export::{f16, model, score};

/// Arguments of `pack`.
#[derive(Args)]
pub struct Arguments {
    /// The models' folders
    #[arg(required = true)]
    models: Vec<PathBuf>,
}

/// Stores the weights of the f32 files as f16, and the files' new hashes in the contracts. The self-test must still pass
/// in tract and in ONNX Runtime; else the folder is left as it was.
///
/// # Errors
/// A file can't be read or written, or the packed network fails the self-test.
pub fn run(arguments: &Arguments) -> Result<()> {
    for folder in &arguments.models {
        pack(folder).with_context(|| folder.display().to_string())?;
    }
    Ok(())
}

fn pack(folder: &std::path::Path) -> Result<()> {
    let mut contract = Model::open(folder)?.contract;
    let file = contract
        .files
        .iter_mut()
        .find(|file| file.precision == Precision::Fp32)
        .context("the contract names no f32 file")?;
    let before = std::fs::read(folder.join(&file.path)).with_context(|| format!("reading {}", file.path))?;
    let mut network =
        ModelProto::decode(&before[..]).with_context(|| format!("{} is no ONNX file", file.path))?;
    let graph = network.graph.as_mut().context("it has no graph")?;
    let tensors = f16::store_all(graph);
    let after = network.encode_to_vec();
    file.sha256 = sha256_hex(&after);
    let name = file.path.clone();

    // Tried beside the folder first.
    let trial = tempfile::tempdir()?;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if let Some(name) = path.file_name().filter(|_| path.is_file()) {
            std::fs::copy(&path, trial.path().join(name))?;
        }
    }
    model::write(trial.path(), &name, &after)?;
    model::write(trial.path(), model::CONTRACT, contract.to_toml()?.as_bytes())?;
    let packed = std::sync::Arc::new(Model::open(trial.path())?);
    for backend in ["tract", "ort"] {
        let found = selftest::run(&packed, &score::backend(backend, Precision::Fp32)?)?;
        if let Some(found) = found {
            println!(
                "{name} in {backend}: {:.2} % of the self-test's labels",
                100.0 * found.found
            );
            ensure!(
                found.found >= found.required,
                "{backend}: {} of the labels, expected {}",
                found.found,
                found.required
            );
        }
    }
    model::write(folder, &name, &after)?;
    model::write(folder, model::CONTRACT, contract.to_toml()?.as_bytes())?;
    println!(
        "{}: {tensors} tensors as f16, {:.2} MB before, {:.2} MB now",
        folder.display(),
        before.len() as f64 / 1e6,
        after.len() as f64 / 1e6
    );
    Ok(())
}
