//! `segd check-config`: reads a configuration and says what it would run, without running it.

use std::path::PathBuf;

use clap::Args;

use crate::cli::args::{ModelArgs, VisualizeArgs};
use crate::cli::run::{OutputArgs, RunArgs, SourceArgs, pipeline_options, source_from};
use crate::config::FileConfig;
use crate::error::Result;
use crate::stream::{DEFAULT_OUTPUT, parse_output};

/// Arguments of `segd check-config`.
#[derive(Debug, Args)]
pub struct CheckConfigArgs {
    /// The configuration file
    pub file: PathBuf,
}

/// Checks the file.
///
/// # Errors
/// Usage, naming the key, what was found and what was expected.
pub fn run(args: CheckConfigArgs) -> Result<()> {
    let file = FileConfig::read(&args.file)?;
    let run = RunArgs {
        source: SourceArgs::default(),
        output: OutputArgs::default(),
        model: ModelArgs::default(),
        visualize: VisualizeArgs::default(),
        config: None,
        frames: None,
        max_inferences_per_second: None,
    };
    let (spec, _) = source_from(&run.source, &file.capture)?;
    pipeline_options(&run, &file, &spec)?;
    let outputs = file
        .stream
        .outputs
        .clone()
        .unwrap_or_else(|| vec![DEFAULT_OUTPUT.to_owned()]);
    for output in &outputs {
        parse_output(output)?;
    }
    let model = run.model.over(&file.model)?.find()?;
    run.visualize.over(&file.overlay)?.options(&model.contract)?;
    println!("{}: ok", args.file.display());
    println!("  source  {}", spec.name());
    println!("  model   {}", model.contract.name);
    println!("  outputs {}", outputs.join(", "));
    Ok(())
}
