//! The `segd` program: arguments, logging, run, exit code.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = segd::cli::Cli::parse();
    segd::cli::init_logging(&cli.log);
    match segd::cli::dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("segd: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
