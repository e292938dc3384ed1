//! The `segd` program: arguments, logging, run, exit code.

use std::process::ExitCode;

use segd::cli::Cli;
use segd::stdio;

/// Heaps that threads share.
///
/// glibc makes up to eight a core, and a heap keeps what its threads have freed: memory would grow with each RTSP client
/// that comes and goes, to a third more than is ever in use
/// (<https://man7.org/linux/man-pages/man3/mallopt.3.html>, `M_ARENA_MAX`).
#[cfg(target_env = "gnu")]
fn share_heaps() {
    const HEAPS: libc::c_int = 2;
    // SAFETY: mallopt takes two numbers, and no other thread runs yet. If it refuses, nothing has changed.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
    }
}

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
    #[cfg(target_env = "gnu")]
    share_heaps();
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
