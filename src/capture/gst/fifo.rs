//! Pipes as sources: another program writes the video.

use std::fs::File;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_setfl};
use tracing::info;

use crate::clock::Stop;
use vision::error::{Error, Result};

/// How often an empty pipe is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Whether `path` is a pipe, or leads to one.
pub(super) fn is_pipe(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_fifo())
}

/// Opens a pipe, and waits until something was written into it, or for `stop`.
///
/// # Errors
/// Usage, if it can't be opened; transient after a stop.
pub(super) fn wait_for_data(path: &Path, stop: &Stop) -> Result<File> {
    let failed =
        |e: std::io::Error| Error::usage(format!("{}: the pipe can't be read", path.display())).caused_by(e);
    // Opening waits for a writer otherwise, deaf to a stop.
    let pipe = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open(path)
        .map_err(failed)?;
    let mut said = false;
    while rustix::io::ioctl_fionread(&pipe).map_err(|e| failed(e.into()))? == 0 {
        if !said {
            said = true;
            info!(
                "{}: a pipe; waiting for a program that writes into it",
                path.display()
            );
        }
        if stop.wait(POLL) {
            return Err(Error::transient(format!(
                "{}: stopped before anything was written",
                path.display()
            )));
        }
    }
    fcntl_setfl(&pipe, OFlags::empty()).map_err(|e| failed(e.into()))?;
    Ok(pipe)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;
    use crate::clock::stop_pair;

    fn pipe(folder: &Path) -> std::path::PathBuf {
        let path = folder.join("video.ts");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        path
    }

    #[test]
    fn a_pipe_is_read_once_it_has_data() {
        let folder = tempfile::tempdir().unwrap();
        let path = pipe(folder.path());
        assert!(is_pipe(&path) && !is_pipe(folder.path()));
        let target = path.clone();
        let writer = std::thread::spawn(move || {
            let mut pipe = std::fs::OpenOptions::new().write(true).open(target).unwrap();
            pipe.write_all(b"pictures").unwrap();
        });
        let (_handle, stop) = stop_pair();
        let mut read = wait_for_data(&path, &stop).unwrap();
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text, "pictures");
        writer.join().unwrap();
    }

    #[test]
    fn a_stop_ends_the_wait_for_a_writer() {
        let folder = tempfile::tempdir().unwrap();
        let path = pipe(folder.path());
        let (handle, stop) = stop_pair();
        let waits = std::thread::spawn(move || wait_for_data(&path, &stop).map(drop));
        drop(handle);
        let error = waits.join().unwrap().unwrap_err();
        assert!(
            error.is_transient() && error.to_string().contains("video.ts"),
            "{error}"
        );
    }
}
