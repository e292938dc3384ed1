//! Events as lines of JSON: into a file that is rotated by its size, or to standard output.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::desk::Sink;
use super::event::Told;
use crate::clock::Stop;
use crate::stdio;
use vision::error::{Error, Result};
use vision::file;

/// Where lines go, and how much of them is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileOptions {
    /// The file.
    pub path: PathBuf,
    /// It is begun anew before it would get larger, in bytes.
    pub max_bytes: u64,
    /// Files that are kept beside it: `NAME.1`, the newest of them, to `NAME.N`.
    pub keep: u32,
}

/// Writes lines to a file.
#[derive(Debug)]
pub struct Lines {
    options: FileOptions,
    open: Option<Opened>,
}

/// A file that is open, its size, and whether it is one: a device is never rotated.
type Opened = (File, u64, bool);

impl Lines {
    /// Nothing is opened yet.
    pub fn new(options: FileOptions) -> Self {
        Self { options, open: None }
    }

    /// Writes a line; what could be written of one that does not fit on the disk is taken back.
    ///
    /// # Errors
    /// Transient, with the file's name.
    pub fn write(&mut self, line: &str) -> Result<()> {
        let written = self.try_write(line);
        written.map_err(|e| {
            self.open = None;
            let hint = match e.kind() {
                ErrorKind::StorageFull => "make room on the disk",
                ErrorKind::NotFound => "create the folder",
                ErrorKind::NotConnected => "start the program that is to read it",
                _ => "name a file that this user may write",
            };
            let path = self.options.path.display();
            Error::transient(format!("{path}: can't be written"))
                .caused_by(e)
                .hint(hint)
        })
    }

    fn try_write(&mut self, line: &str) -> std::io::Result<()> {
        let bytes = [line.as_bytes(), b"\n"].concat();
        if self.open.is_some() && !self.is_there() {
            self.open = None;
        }
        if self
            .open
            .as_ref()
            .is_some_and(|(_, size, _)| self.is_full(*size, bytes.len()))
        {
            self.open = None;
            self.rotate()?;
        }
        let (file, size, is_file) = match &mut self.open {
            Some(open) => open,
            None => {
                let mut opened = open(&self.options.path)?;
                if self.is_full(opened.1, bytes.len()) {
                    self.rotate()?;
                    opened = open(&self.options.path)?;
                }
                self.open.insert(opened)
            }
        };
        let written = file.write_all(&bytes);
        match written {
            Ok(()) if *is_file => *size += bytes.len() as u64,
            Ok(()) => {}
            Err(_) => {
                // What is no file keeps what it has taken.
                let _ = file.set_len(*size);
            }
        }
        written
    }

    fn is_full(&self, size: u64, more: usize) -> bool {
        size > 0 && size + more as u64 > self.options.max_bytes
    }

    /// Whether the open file still has its name; others may have moved or removed it.
    fn is_there(&self) -> bool {
        let Some((file, ..)) = &self.open else {
            return false;
        };
        let same = |a: &std::fs::Metadata, b: &std::fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        match (file.metadata(), std::fs::metadata(&self.options.path)) {
            (Ok(own), Ok(named)) => same(&own, &named),
            _ => false,
        }
    }

    /// Moves the file and those beside it on by one number.
    fn rotate(&self) -> std::io::Result<()> {
        let path = &self.options.path;
        let ignore_missing = |outcome: std::io::Result<()>| match outcome {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        };
        if self.options.keep == 0 {
            return ignore_missing(std::fs::remove_file(path));
        }
        for number in (1..self.options.keep).rev() {
            ignore_missing(std::fs::rename(
                numbered(path, number),
                numbered(path, number + 1),
            ))?;
        }
        ignore_missing(std::fs::rename(path, numbered(path, 1)))
    }
}

fn open(path: &Path) -> std::io::Result<Opened> {
    let file = file::append(path)?;
    let found = file.metadata()?;
    Ok((file, found.len(), found.is_file()))
}

/// The name of an earlier file, the newer the lower its number: `events.jsonl.1`.
pub fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

impl Sink for Lines {
    fn tell(&mut self, told: &Told, _stop: &Stop) -> Result<()> {
        self.write(&told.json)
    }
}

/// Writes lines to standard output.
#[derive(Debug)]
pub struct Stdout;

impl Sink for Stdout {
    fn tell(&mut self, told: &Told, _stop: &Stop) -> Result<()> {
        stdio::print_checked(format_args!("{}", told.json))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(folder: &Path, max_bytes: u64, keep: u32) -> FileOptions {
        FileOptions {
            path: folder.join("events.jsonl"),
            max_bytes,
            keep,
        }
    }

    fn texts(folder: &Path) -> Vec<(String, String)> {
        let mut all: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                (name, std::fs::read_to_string(entry.path()).unwrap())
            })
            .collect();
        all.sort();
        all
    }

    #[test]
    fn a_file_is_rotated_by_its_size_and_goes_on_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        for round in 0..2 {
            let mut lines = Lines::new(options(folder.path(), 12, 2));
            for n in 0..4 {
                lines.write(&format!("{round}{n}--")).unwrap();
            }
        }
        let expected = [
            ("events.jsonl", "12--\n13--\n"),
            ("events.jsonl.1", "10--\n11--\n"),
            ("events.jsonl.2", "02--\n03--\n"),
        ];
        assert_eq!(
            texts(folder.path()),
            expected.map(|(n, t)| (n.to_owned(), t.to_owned()))
        );
    }

    #[test]
    fn a_line_longer_than_a_file_is_written_whole() {
        let folder = tempfile::tempdir().unwrap();
        let mut lines = Lines::new(options(folder.path(), 3, 0));
        lines.write("long line").unwrap();
        lines.write("another").unwrap();
        assert_eq!(
            texts(folder.path()),
            [("events.jsonl".to_owned(), "another\n".to_owned())]
        );
    }

    #[test]
    fn a_file_that_was_moved_is_left_to_who_moved_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut lines = Lines::new(options(folder.path(), 1000, 1));
        lines.write("one").unwrap();
        std::fs::rename(folder.path().join("events.jsonl"), folder.path().join("old")).unwrap();
        lines.write("two").unwrap();
        let expected = [("events.jsonl", "two\n"), ("old", "one\n")];
        assert_eq!(
            texts(folder.path()),
            expected.map(|(n, t)| (n.to_owned(), t.to_owned()))
        );
    }

    #[test]
    fn a_full_disk_is_said_and_a_missing_folder_too() {
        let mut lines = Lines::new(FileOptions {
            path: "/dev/full".into(),
            max_bytes: 1000,
            keep: 0,
        });
        let why = lines.write("x").unwrap_err();
        assert!(
            why.is_transient() && why.to_string().contains("/dev/full"),
            "{why}"
        );
        let folder = tempfile::tempdir().unwrap();
        let mut lines = Lines::new(options(&folder.path().join("none"), 1000, 0));
        let why = lines.write("x").unwrap_err().to_string();
        assert!(why.contains("create the folder"), "{why}");
        std::fs::create_dir(folder.path().join("none")).unwrap();
        lines.write("x").unwrap();
    }
}
