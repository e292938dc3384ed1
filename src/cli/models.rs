//! `segd models`: the models that are found.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use crate::choose::{BackendName, ChoiceOptions};
use crate::error::Result;
use crate::model::contract::{Contract, Precision, Resize};
use crate::model::{Found, Model, Registry};
use crate::selftest;

/// Arguments of `segd models`.
#[derive(Debug, Args)]
pub struct ModelsArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Make the self-test of the model in DIR: its fp32 file labels the picture IMAGE (scaled down and saved beside
    /// the contract), and backends must find these labels again before they are used
    #[arg(long, num_args = 2, value_names = ["IMAGE", "DIR"], conflicts_with = "json")]
    pub write_selftest: Option<Vec<PathBuf>>,
}

/// Lists the models, or writes a self-test.
///
/// # Errors
/// As [`selftest::write`]. A model that can't be read is listed with what is wrong.
pub fn run(args: ModelsArgs) -> Result<()> {
    if let Some([image, folder]) = args.write_selftest.as_deref() {
        return write_selftest(image, folder);
    }
    let found = Registry::from_environment().list();
    if args.json {
        let all: Vec<_> = found.iter().map(to_json).collect();
        return super::print_report(true, &all, |_| ());
    }
    if found.is_empty() {
        println!(
            "no models; a model is a folder with a contract.toml, in ./models or in a folder of $SEGD_MODELS"
        );
    }
    for entry in &found {
        match &entry.model {
            Ok(model) => print(entry, &model.contract),
            Err(error) => println!(
                "{}\n  broken    {error}\n  found     {}",
                entry.name, entry.origin
            ),
        }
    }
    Ok(())
}

fn print(entry: &Found, contract: &Contract) {
    println!("{}", entry.name);
    if !contract.description.is_empty() {
        println!("  about     {}", contract.description);
    }
    let names: Vec<&str> = contract.classes.iter().map(|c| c.name.as_str()).collect();
    println!("  classes   {}: {}", names.len(), names.join(", "));
    println!("  input     {}", input(contract));
    for file in &contract.files {
        println!(
            "  file      {} ({}; {})",
            file.path,
            file.precision.as_str(),
            file.backends.join(", ")
        );
    }
    for score in &contract.scores {
        println!(
            "  score     {} {:.2} ({}; {} {}, {} images)",
            score.metric,
            score.value,
            score.precision.as_str(),
            score.dataset,
            score.split,
            score.images
        );
    }
    if !contract.license.is_empty() {
        println!("  license   {}", contract.license);
    }
    println!("  found     {}", entry.origin);
}

/// For example `384 pixels on the longer side, 1.23 GMAC`.
fn input(contract: &Contract) -> String {
    let input = &contract.input;
    let size = match input.resize {
        Resize::Fit => format!(
            "{} pixels on the longer side, aspect kept",
            input.width.max(input.height)
        ),
        Resize::Stretch => format!("{}x{}, stretched", input.width, input.height),
        Resize::Letterbox => format!("{}x{}, letterboxed", input.width, input.height),
    };
    match contract.multiply_accumulates {
        Some(macs) => format!("{size}, {:.2} GMAC", macs as f64 / 1e9),
        None => size,
    }
}

fn to_json(entry: &Found) -> serde_json::Value {
    let found = entry.origin.to_string();
    match &entry.model {
        Ok(model) => json!({ "name": entry.name, "found": found, "contract": model.contract }),
        Err(error) => json!({ "name": entry.name, "found": found, "error": error.to_string() }),
    }
}

fn write_selftest(image: &std::path::Path, folder: &std::path::Path) -> Result<()> {
    let model = Arc::new(Model::open(folder)?);
    let mut options = ChoiceOptions {
        precision: Some(Precision::Fp32),
        selftest: false,
        backend: BackendName::Tract,
        ..ChoiceOptions::default()
    };
    if model.contract.file_for("tract", options.precision).is_none() {
        options.backend = BackendName::Ort;
    }
    let chosen = options.choose_for(Model::clone(&model))?;
    selftest::write(&model, &chosen.backend, image)?;
    println!(
        "{}: self-test written with {}",
        folder.display(),
        chosen.backend.name()
    );
    Ok(())
}
