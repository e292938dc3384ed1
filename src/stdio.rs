//! Standard output and standard error, whose other end may be gone: a reader that has seen enough, a terminal that was
//! closed, a disk that is full. None of these may end a run, so nothing here panics as `println!` does.

use std::collections::VecDeque;
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

/// As [`print()`], for a caller that must know.
///
/// # Errors
/// Transient: this line, or one before it, could not be written.
pub fn print_checked(line: Arguments<'_>) -> Result<()> {
    print(line);
    match &*BROKEN.lock().unwrap_or_else(|e| e.into_inner()) {
        None => Ok(()),
        Some(error) => Err(Error::transient("standard output can't be written").caused_by(error.to_string())),
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

/// Bytes of the log that are kept in memory.
const RECENT: usize = 64 * 1024;

/// The newest bytes of the log.
static LOG: Mutex<VecDeque<u8>> = Mutex::new(VecDeque::new());

/// The newest lines of the log, without a terminal's colours; at most 64 KiB.
pub fn recent_log() -> String {
    let bytes: Vec<u8> = LOG
        .lock()
        .unwrap_or_else(|e| e.into_inner())
        .iter()
        .copied()
        .collect();
    let text = String::from_utf8_lossy(&bytes);
    // The first line may have lost its beginning.
    let text = match bytes.len() >= RECENT {
        true => text.split_once('\n').map_or("", |(_, rest)| rest),
        false => &text,
    };
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\x1b[") {
        out.push_str(before);
        rest = after.split_once('m').map_or("", |(_, rest)| rest);
    }
    out + rest
}

fn keep(bytes: &[u8]) {
    let mut log = LOG.lock().unwrap_or_else(|e| e.into_inner());
    let bytes = &bytes[bytes.len().saturating_sub(RECENT)..];
    let excess = (log.len() + bytes.len()).saturating_sub(RECENT);
    log.drain(..excess);
    log.extend(bytes);
}

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        keep(bytes);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_are_kept_without_colours() {
        let before = recent_log();
        keep(b"\x1b[2mfirst\x1b[0m line\n");
        assert_eq!(recent_log(), before + "first line\n");
        let long = format!("{}\n", "y".repeat(99));
        for _ in 0..2 * RECENT / 100 {
            keep(long.as_bytes());
        }
        keep(b"last\n");
        let log = recent_log();
        assert!(log.len() <= RECENT && log.len() > RECENT - 200, "{}", log.len());
        assert!(
            log.lines().all(|line| line.len() == 99 || line == "last"),
            "no line is cut"
        );
        assert!(log.ends_with("y\nlast\n"));
        keep(&vec![b'z'; 3 * RECENT]);
        assert!(recent_log().is_empty(), "one line that is too long");
    }
}
