//! The `segd` program: arguments, logging, run, exit code.

use std::process::ExitCode;

use segd::cli::Cli;
use segd::{heap, stdio};

/// Removes segd's variables that are set to nothing, as compose files and unit files do with values that nobody gave: they
/// count as not set, whoever reads them.
fn forget_empty_variables() {
    let is_ours = |name: &str| name.starts_with("SEGD_") || name == "ORT_DYLIB_PATH";
    for (name, value) in std::env::vars_os() {
        if value.is_empty() && name.to_str().is_some_and(is_ours) {
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
    match segd::cli::dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            stdio::say(format_args!("segd: {error}"));
            ExitCode::from(error.exit_code())
        }
    }
}
