//! The `segd` program: arguments, logging, run, exit code.

use std::process::ExitCode;

use segd::cli::Cli;
use segd::supervise::outlive_file_limits;
use segd::{heap, stdio};

/// Removes variables that are set to nothing, as compose files and unit files do with values that nobody gave: they count
/// as not set, whoever reads them. To some of the libraries nothing means no plug-ins, or the working directory.
fn forget_empty_variables() {
    for (name, value) in std::env::vars_os() {
        if value.is_empty() {
            // SAFETY: no other thread runs yet that could read the environment meanwhile.
            unsafe { std::env::remove_var(&name) };
        }
    }
}

fn main() -> ExitCode {
    heap::share();
    forget_empty_variables();
    let cli = Cli::read(std::env::args_os()).unwrap_or_else(|e| e.exit());
    segd::cli::init_logging(&cli.log);
    match outlive_file_limits().and_then(|()| segd::cli::dispatch(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            stdio::say(format_args!("segd: {error}"));
            ExitCode::from(error.exit_code())
        }
    }
}
