//! The `segd` program: arguments, logging, run, exit code.

use std::process::ExitCode;

use clap::Parser;

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

fn main() -> ExitCode {
    #[cfg(target_env = "gnu")]
    share_heaps();
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
