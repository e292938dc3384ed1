//! Reading files that people name, which may be anything: a pipe that nobody writes into, a device without an end, a folder.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Read, Result};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

/// How long a pipe may give nothing.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often an empty pipe is looked at.
const POLL: Duration = Duration::from_millis(10);

/// Reads a whole file of at most `limit` bytes. A pipe is read to its end.
///
/// # Errors
/// As the system says; [`ErrorKind::FileTooLarge`] for more than `limit` bytes, [`ErrorKind::TimedOut`] for a pipe into
/// which nothing is written for 10 s.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    read_within(path, limit, PATIENCE)
}

/// Reads a file of text. A byte order mark is no part of it.
///
/// # Errors
/// As [`read`]; [`ErrorKind::InvalidData`] if it is not UTF-8.
pub fn read_text(path: &Path, limit: u64) -> Result<String> {
    let bytes = read(path, limit)?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Error::new(
            ErrorKind::InvalidData,
            format!("not UTF-8 text, from byte {at} on"),
        )
    })?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// Refuses what a library would wait for, or read without end: anything but a file.
///
/// # Errors
/// As the system says, or what it is.
pub fn check(path: &Path) -> Result<()> {
    let kind = std::fs::metadata(path)?.file_type();
    let found = if kind.is_file() {
        return Ok(());
    } else if kind.is_dir() {
        "is a folder"
    } else if kind.is_fifo() {
        "is a pipe"
    } else {
        "is a device"
    };
    Err(Error::new(
        ErrorKind::InvalidInput,
        format!("{found}, expected a file"),
    ))
}

/// Opens a file to write at its end, and makes it if it is not there. A pipe must have a reader.
///
/// # Errors
/// As the system says; [`ErrorKind::NotConnected`] for a pipe that nobody reads.
pub fn append(path: &Path) -> Result<File> {
    /// `ENXIO`: what opening a pipe without a reader gives, if that is not to be waited for.
    const NOBODY: i32 = 6;
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(|e| match e.raw_os_error() {
            Some(NOBODY) => Error::new(ErrorKind::NotConnected, "a pipe that no program reads"),
            _ => e,
        })?;
    // A reader that is slow is waited for.
    rustix::fs::fcntl_setfl(&file, OFlags::APPEND)?;
    Ok(file)
}

fn read_within(path: &Path, limit: u64, patience: Duration) -> Result<Vec<u8>> {
    // Opening a pipe waits for its writer otherwise.
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(Error::new(
            ErrorKind::IsADirectory,
            "is a folder, expected a file",
        ));
    }
    let is_pipe = metadata.file_type().is_fifo();
    let capacity = usize::try_from(metadata.len().min(limit)).unwrap_or(0);
    let mut bytes = Vec::with_capacity(capacity);
    let mut since = Instant::now();
    loop {
        let before = bytes.len();
        let ended = read_what_is_there(&mut file, limit, &mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(Error::new(
                ErrorKind::FileTooLarge,
                format!("larger than {limit} bytes"),
            ));
        }
        // A pipe that was opened before its writer ends at once.
        if ended && !(is_pipe && bytes.is_empty()) {
            return Ok(bytes);
        }
        if bytes.len() > before {
            since = Instant::now();
        }
        if since.elapsed() > patience {
            return Err(Error::new(
                ErrorKind::TimedOut,
                format!("nothing was written into it for {} s", patience.as_secs()),
            ));
        }
        std::thread::sleep(POLL);
    }
}

/// Reads until there is nothing more now, but not much beyond `limit`. Whether that was the end.
fn read_what_is_there(file: &mut File, limit: u64, bytes: &mut Vec<u8>) -> Result<bool> {
    let left = (limit + 1).saturating_sub(bytes.len() as u64);
    match file.take(left).read_to_end(bytes) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn pipe(folder: &Path) -> std::path::PathBuf {
        let path = folder.join("pipe");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        path
    }

    #[test]
    fn reading_stops_at_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, [7; 100]).unwrap();
        assert_eq!(read(&path, 100).unwrap().len(), 100);
        assert_eq!(read(&path, 99).unwrap_err().kind(), ErrorKind::FileTooLarge);
        // A device without an end, and one without a beginning.
        let endless = read(Path::new("/dev/zero"), 99).unwrap_err();
        assert_eq!(endless.kind(), ErrorKind::FileTooLarge);
        assert!(read(Path::new("/dev/null"), 99).unwrap().is_empty());
    }

    #[test]
    fn a_folder_and_what_is_not_there_are_said_to_be() {
        let folder = tempfile::tempdir().unwrap();
        let error = read(folder.path(), 99).unwrap_err().to_string();
        assert!(error.contains("is a folder"), "{error}");
        assert!(
            check(folder.path())
                .unwrap_err()
                .to_string()
                .contains("is a folder")
        );
        assert!(
            check(&pipe(folder.path()))
                .unwrap_err()
                .to_string()
                .contains("is a pipe")
        );
        assert!(
            check(Path::new("/dev/zero"))
                .unwrap_err()
                .to_string()
                .contains("is a device")
        );
        let missing = folder.path().join("missing");
        assert_eq!(read(&missing, 99).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(check(&missing).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_pipe_is_read_to_its_end_and_not_waited_for_without_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = pipe(folder.path());
        let error = read_within(&path, 99, Duration::from_millis(30)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        let target = path.clone();
        let writer = std::thread::spawn(move || {
            let mut pipe = OpenOptions::new().write(true).open(target).unwrap();
            for part in ["first = 1\n", "second = 2\n"] {
                pipe.write_all(part.as_bytes()).unwrap();
                std::thread::sleep(Duration::from_millis(30));
            }
        });
        assert_eq!(read_text(&path, 99).unwrap(), "first = 1\nsecond = 2\n");
        writer.join().unwrap();
    }

    #[test]
    fn a_pipe_is_written_to_while_somebody_reads() {
        let folder = tempfile::tempdir().unwrap();
        let path = pipe(folder.path());
        assert_eq!(append(&path).unwrap_err().kind(), ErrorKind::NotConnected);
        let mut options = OpenOptions::new();
        options
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed());
        let mut reader = options.open(&path).unwrap();
        append(&path).unwrap().write_all(b"told").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "told");
        let path = folder.path().join("file");
        for part in ["a", "b"] {
            append(&path).unwrap().write_all(part.as_bytes()).unwrap();
        }
        assert_eq!(read_text(&path, 9).unwrap(), "ab");
    }

    #[test]
    fn text_is_utf_8_with_or_without_a_mark_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        std::fs::write(&path, "\u{feff}a.mp4\r\n").unwrap();
        assert_eq!(read_text(&path, 99).unwrap(), "a.mp4\r\n");
        std::fs::write(&path, b"a\xff\xfe").unwrap();
        let error = read_text(&path, 99).unwrap_err().to_string();
        assert!(error.contains("not UTF-8 text, from byte 1 on"), "{error}");
    }
}
