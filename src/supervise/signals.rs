//! What the process is asked to do from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crossbeam_channel::{Receiver, bounded};
use tracing::info;

use vision::error::{Error, Result};

/// What signals ask for.
#[derive(Debug)]
pub struct Signals {
    /// Fires on SIGINT and SIGTERM. A second one of these ends the process at once (exit code 130).
    pub stop: Receiver<()>,
    /// Fires on SIGHUP; several that come while one is dealt with count as one.
    pub reload: Receiver<()>,
}

/// Hangups that came before there was anything to reload. Otherwise one ends the process.
#[derive(Debug, Clone, Default)]
pub struct Hangups(Arc<AtomicBool>);

impl Hangups {
    /// Takes hangups from now on.
    ///
    /// # Errors
    /// Fatal if the handler can't be installed.
    pub fn take() -> Result<Self> {
        let came = Self::default();
        signal_hook::flag::register(signal_hook::consts::SIGHUP, came.0.clone()).map_err(not_installed)?;
        Ok(came)
    }
}

/// Lets a file that may not grow any more (`ulimit -f`, `LimitFSIZE=`) be an error of its writer, and not the end of the
/// process.
///
/// # Errors
/// Fatal if the handler can't be installed.
pub fn outlive_file_limits() -> Result<()> {
    let ignored = Arc::default();
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, ignored)
        .map(drop)
        .map_err(not_installed)
}

fn not_installed(error: std::io::Error) -> Error {
    Error::fatal("signal handlers can't be installed").caused_by(error)
}

/// Installs the signal handlers; `on_stop` is called when a stop is asked for, before anything else happens. A hangup
/// that came before asks for a reload at once.
///
/// # Errors
/// Fatal if the handlers can't be installed.
pub fn signals(came: &Hangups, on_stop: impl Fn() + Send + 'static) -> Result<Signals> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let (stop_tx, stop) = bounded(1);
    let (reload_tx, reload) = bounded(1);
    let fail = not_installed;
    let seen = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // Order matters: the first signal finds `seen` false, sets it, and is delivered below; the second exits.
        signal_hook::flag::register_conditional_shutdown(signal, 130, seen.clone()).map_err(fail)?;
        signal_hook::flag::register(signal, seen.clone()).map_err(fail)?;
    }
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(fail)?;
    if came.0.load(Relaxed) {
        let _ = reload_tx.try_send(());
    }
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                if signal == SIGHUP {
                    let _ = reload_tx.try_send(());
                    continue;
                }
                info!(signal, "signal received; a second one exits at once");
                on_stop();
                let _ = stop_tx.send(());
                break;
            }
        })
        .map_err(fail)?;
    Ok(Signals { stop, reload })
}

/// A channel that fires on SIGINT and SIGTERM. A second signal ends the process at once (exit code 130).
///
/// # Errors
/// Fatal if the handlers can't be installed.
pub fn stop_on_signals() -> Result<Receiver<()>> {
    Ok(signals(&Hangups::default(), || {})?.stop)
}
