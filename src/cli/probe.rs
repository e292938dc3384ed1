//! `segd probe`: what this machine has, and what segd would use.

use clap::Args;

use crate::cli::args::ModelArgs;
use crate::error::Result;

/// Arguments of `segd probe`.
#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// Model and backend.
    #[command(flatten)]
    pub model: ModelArgs,
}

/// Prints cameras, backends, encoders, and what would be used.
///
/// # Errors
/// None of what is missing is an error; it is printed.
pub fn run(args: ProbeArgs) -> Result<()> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    println!("machine   {} {}, {cpus} CPUs", std::env::consts::OS, std::env::consts::ARCH);
    cameras();
    backends(&args.model);
    encoders();
    Ok(())
}
