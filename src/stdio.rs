//! Standard output and standard error, whose other end may be gone: a reader that has seen enough, a terminal that was
//! closed, a disk that is full. None of these may end a run, so nothing here panics as `println!` does.

use std::fmt::Arguments;
use std::io::{self, Write};
use std::sync::Mutex;

use tracing_subscriber::fmt::MakeWriter;

use vision::error::{Error, Result};

/// The first error of standard output; nothing is written after it.
static BROKEN: Mutex<Option<io::Error>> = Mutex::new(None);

/// Writes a line to standard output. An error is kept for [`finish`].
pub fn print(line: Arguments<'_>) {
    let mut broken = BROKEN.lock().unwrap_or_else(|e| e.into_inner());
    if broken.is_none()
        && let Err(error) = writeln!(io::stdout().lock(), "{line}")
    {
        *broken = Some(error);
    }
}

/// Writes a line to standard error, if it can be written.
pub fn say(line: Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Whether all that was printed has arrived, or the reader has gone, who wants no more.
///
/// # Errors
/// Fatal if standard output could not be written for another reason.
pub fn finish() -> Result<()> {
    let mut broken = BROKEN.lock().unwrap_or_else(|e| e.into_inner());
    let outcome = match broken.take() {
        Some(error) => Err(error),
        None => io::stdout().flush(),
    };
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::fatal("standard output can't be written").caused_by(error))
        }
        _ => Ok(()),
    }
}

/// Standard error for the log: what can't be written is dropped.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The log's own complaint about an error would go to the same place.
        let _ = io::stderr().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for LogWriter {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}
