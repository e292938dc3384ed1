//! `segd models`: the models that are found.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use serde_json::json;

use crate::choose::{BackendName, ChoiceOptions};
use vision::error::Result;
use vision::infer;
use vision::model::contract::{Contract, Precision, Resize};
use vision::model::{Found, Model, Registry};
use vision::selftest;

/// Arguments of `segd models`.
#[derive(Debug, Args)]
pub struct ModelsArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Measure the CPU time of one inference on this machine, on each backend
    #[arg(long)]
    pub time: bool,
    /// Make the self-test of the model in DIR: its fp32 file labels the picture IMAGE (scaled down and saved beside
    /// the contract), and backends must find these labels again before they are used
    #[arg(long, num_args = 2, value_names = ["IMAGE", "DIR"], conflicts_with_all = ["json", "time"])]
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
        let all: Vec<_> = found.iter().map(|entry| to_json(entry, args.time)).collect();
        return super::print_report(true, &all, |_| ());
    }
    if found.is_empty() {
        println!("no models; a model is a folder with a contract.toml in a folder of $SEGD_MODELS");
    }
    for entry in &found {
        match &entry.model {
            Ok(model) => {
                print(entry, model);
                if args.time {
                    times(model)
                        .iter()
                        .for_each(|time| println!("  time      {time}"));
                }
            }
            Err(error) => println!(
                "{}\n  broken    {error}\n  found     {}",
                entry.name, entry.origin
            ),
        }
    }
    Ok(())
}

fn print(entry: &Found, model: &Model) {
    let contract = &model.contract;
    println!("{}", entry.name);
    if !contract.description.is_empty() {
        println!("  about     {}", contract.description);
    }
    let names: Vec<&str> = contract.classes.iter().map(|c| c.name.as_str()).collect();
    println!("  classes   {}: {}", names.len(), names.join(", "));
    println!("  input     {}", input(contract));
    for file in &contract.files {
        let size = model.file(&file.path).map_or_else(
            |_| "can't be read".into(),
            |bytes| format!("{:.1} MB", bytes.len() as f64 / 1e6),
        );
        println!(
            "  file      {} ({}, {size}; {})",
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

/// What one inference costs here.
#[derive(Debug, Serialize)]
struct Time {
    backend: &'static str,
    precision: String,
    /// The network's input, in pixels, for a picture of 640x480.
    width: usize,
    height: usize,
    /// CPU time of all threads, the least of several runs.
    cpu_ms: f64,
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (backend, precision) = (self.backend, &self.precision);
        write!(
            f,
            "{:.1} ms of CPU for {}x{} ({backend} {precision})",
            self.cpu_ms, self.width, self.height
        )
    }
}

/// The times of each of the model's files on each backend that runs it here.
fn times(model: &Model) -> Vec<Time> {
    let files = model.contract.files.iter();
    let ways = files.flat_map(|file| {
        file.backends
            .iter()
            .map(|backend| (backend.as_str(), file.precision))
    });
    let known = ways.filter_map(|(backend, precision)| match backend {
        "tract" => Some((BackendName::Tract, precision)),
        "ort" => Some((BackendName::Ort, precision)),
        _ => None,
    });
    known
        .filter_map(|(backend, precision)| time(model, backend, precision).ok())
        .collect()
}

fn time(model: &Model, backend: BackendName, precision: Precision) -> Result<Time> {
    /// Runs that count.
    const RUNS: usize = 10;
    let options = ChoiceOptions {
        backend,
        precision: Some(precision),
        selftest: false,
        ..ChoiceOptions::default()
    };
    let chosen = options.choose_for(model.clone())?;
    let size = model.contract.input.size_for(640, 480, None);
    let cost = infer::time(model, &*chosen.backend, size, RUNS)?;
    Ok(Time {
        backend: chosen.backend.name(),
        precision: precision.as_str().to_owned(),
        width: size.width,
        height: size.height,
        cpu_ms: cost.cpu_ns as f64 / 1e6,
    })
}

fn to_json(entry: &Found, timed: bool) -> serde_json::Value {
    let found = entry.origin.to_string();
    match &entry.model {
        Ok(model) => {
            let mut value = json!({ "name": entry.name, "found": found, "contract": model.contract });
            if timed {
                value["times"] = json!(times(model));
            }
            value
        }
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
