//! A folder whose oldest files go: by age, by bytes, and so that some of the disk stays free. The newest one stays in any
//! case.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::Keep;
use vision::error::{Error, Result};

/// One file of the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    path: PathBuf,
    bytes: u64,
    /// When it was last written to.
    changed: SystemTime,
}

/// Where a file's name stands among the others, from the oldest to the newest; `None` for a file that isn't ours, which is
/// never touched.
pub(super) type Order = fn(&str) -> Option<(String, u32)>;

/// A folder, and what is kept of it.
pub(super) struct Shelf {
    folder: PathBuf,
    keep: Keep,
    order: Order,
}

/// How many of the oldest of `files` are to go; they stand in order, the oldest first, and the last one is the newest.
fn surplus(files: &[Kept], keep: &Keep, now: SystemTime, free: u64) -> usize {
    let Some((_, older)) = files.split_last() else {
        return 0;
    };
    let mut bytes: u64 = files.iter().map(|file| file.bytes).sum();
    let mut free = free;
    for (n, file) in older.iter().enumerate() {
        let age = now.duration_since(file.changed).unwrap_or_default();
        if age <= keep.age && bytes <= keep.bytes && free >= keep.free {
            return n;
        }
        bytes -= file.bytes;
        free = free.saturating_add(file.bytes);
    }
    older.len()
}

/// What keeps a file from being written.
fn hint(e: &io::Error) -> &'static str {
    match e.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "the disk is full, and nothing that may go is left in the folder; make room"
        }
        ErrorKind::NotFound => "the folder is gone; create it",
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "name a folder that this user may write to"
        }
        _ => "check the disk; what was written so far can be played",
    }
}

impl Shelf {
    /// A folder, which is made if it is not there.
    ///
    /// # Errors
    /// Usage, if it can't be made or is a file.
    pub(super) fn open(folder: &Path, keep: Keep, order: Order) -> Result<Self> {
        let made = match fs::create_dir(folder) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
            made => made,
        };
        made.map_err(|e| {
            let hint = match e.kind() {
                ErrorKind::NotFound => "create the folder that it is to be in",
                ErrorKind::AlreadyExists => "a file has that name: name a folder",
                _ => "name a folder that this user may write to",
            };
            Error::usage(format!("{}: the folder can't be made", folder.display()))
                .caused_by(e)
                .hint(hint)
        })?;
        Ok(Self {
            folder: folder.to_owned(),
            keep,
            order,
        })
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Our files, the oldest first.
    fn files(&self) -> io::Result<Vec<Kept>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(order) = name.to_str().and_then(self.order) else {
                continue;
            };
            // It may be gone since.
            let Ok(found) = entry.metadata() else {
                continue;
            };
            if found.is_file() {
                files.push((
                    order,
                    Kept {
                        path: entry.path(),
                        bytes: found.len(),
                        changed: found.modified()?,
                    },
                ));
            }
        }
        files.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(files.into_iter().map(|(_, file)| file).collect())
    }

    /// Bytes of the disk that are free to this user.
    fn free(&self) -> io::Result<u64> {
        let found = rustix::fs::statvfs(&self.folder)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    /// Whether the disk has less free than it should.
    pub(super) fn is_low(&self) -> bool {
        self.free().is_ok_and(|free| free < self.keep.free)
    }

    /// Removes what is too old or too much: never the newest file, nor one that is being `written`.
    pub(super) fn tidy(&self, written: &[&Path]) {
        let removed = self.files().and_then(|mut files| {
            let free = self.free()?;
            let surplus = surplus(&files, &self.keep, SystemTime::now(), free);
            files.truncate(surplus);
            files.retain(|file| !written.contains(&file.path.as_path()));
            files.iter().try_for_each(|file| fs::remove_file(&file.path))?;
            Ok(files.len())
        });
        match removed {
            Ok(0) => {}
            Ok(files) => tracing::debug!(folder = %self.folder.display(), files, "the oldest were removed"),
            Err(e) => tracing::warn!("{}: old files can't be removed: {e}", self.folder.display()),
        }
    }

    /// Removes the oldest file, unless it is the newest or is being `written`. Whether there was one.
    fn remove_oldest(&self, written: &[&Path]) -> io::Result<bool> {
        let files = self.files()?;
        let Some((_, older)) = files.split_last() else {
            return Ok(false);
        };
        let Some(oldest) = older.iter().find(|file| !written.contains(&file.path.as_path())) else {
            return Ok(false);
        };
        fs::remove_file(&oldest.path)?;
        tracing::warn!(removed = %oldest.path.display(), "the disk is full: the oldest file went");
        Ok(true)
    }

    /// Does what may need room on the disk; where there is none, the oldest files go until there is.
    ///
    /// # Errors
    /// Fatal, naming `path`, if it fails for another reason, or nothing that may go is left.
    pub(super) fn make_room<T>(
        &self,
        path: &Path,
        written: &[&Path],
        mut act: impl FnMut() -> io::Result<T>,
    ) -> Result<T> {
        loop {
            let why = match act() {
                Ok(done) => return Ok(done),
                Err(why) => why,
            };
            let is_full = matches!(why.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
            if is_full && self.remove_oldest(written).unwrap_or(false) {
                continue;
            }
            return Err(Error::fatal(format!("{}: can't be written", path.display()))
                .hint(hint(&why))
                .caused_by(why));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn numbered(name: &str) -> Option<(String, u32)> {
        let number = name.strip_suffix(".mp4")?.parse().ok()?;
        Some((String::new(), number))
    }

    fn shelf(keep: Keep) -> (tempfile::TempDir, Shelf) {
        let parent = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(&parent.path().join("made"), keep, numbered).unwrap();
        (parent, shelf)
    }

    fn write(shelf: &Shelf, name: &str, bytes: usize, age: Duration) {
        let path = shelf.folder().join(name);
        fs::write(&path, vec![0; bytes]).unwrap();
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    }

    fn names(shelf: &Shelf) -> Vec<String> {
        let entries = fs::read_dir(shelf.folder()).unwrap();
        let mut names: Vec<_> = entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    const ALL: Keep = Keep {
        age: Duration::MAX,
        bytes: u64::MAX,
        free: 0,
    };
    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn the_oldest_go_by_age_and_by_bytes_and_nothing_else_is_touched() {
        let (_parent, shelf) = shelf(Keep {
            age: 10 * HOUR,
            bytes: 1000,
            free: 0,
        });
        for (name, bytes, hours) in [
            ("1.mp4", 10, 12),
            ("2.mp4", 10, 11),
            ("3.mp4", 400, 9),
            ("10.mp4", 400, 8),
            ("11.mp4", 400, 7),
            ("holiday.mp4", 5000, 99),
            ("1.txt", 5000, 99),
        ] {
            write(&shelf, name, bytes, hours * HOUR);
        }
        fs::create_dir(shelf.folder().join("0.mp4")).unwrap();
        shelf.tidy(&[]);
        assert_eq!(
            names(&shelf),
            ["0.mp4", "1.txt", "10.mp4", "11.mp4", "holiday.mp4"]
        );
    }

    #[test]
    fn the_newest_and_what_is_written_stay_whatever_is_asked_for() {
        let (_parent, shelf) = shelf(Keep {
            age: Duration::ZERO,
            bytes: 0,
            free: u64::MAX,
        });
        for n in 1..=4 {
            write(&shelf, &format!("{n}.mp4"), 100, HOUR);
        }
        assert!(shelf.is_low());
        let written = shelf.folder().join("2.mp4");
        shelf.tidy(&[&written]);
        assert_eq!(names(&shelf), ["2.mp4", "4.mp4"]);
        shelf.tidy(&[]);
        assert_eq!(names(&shelf), ["4.mp4"]);
        shelf.tidy(&[]);
        assert_eq!(names(&shelf), ["4.mp4"]);
    }

    #[test]
    fn on_a_full_disk_the_oldest_make_room_one_by_one_and_the_newest_never_does() {
        let (_parent, shelf) = shelf(ALL);
        for n in 1..=4 {
            write(&shelf, &format!("{n}.mp4"), 100, HOUR);
        }
        let path = shelf.folder().join("4.mp4");
        let full = || io::Error::from(ErrorKind::StorageFull);
        let mut left = 2;
        let done = shelf.make_room(&path, &[&path], || match left {
            0 => Ok("written"),
            _ => {
                left -= 1;
                Err(full())
            }
        });
        assert_eq!(done.unwrap(), "written");
        assert_eq!(names(&shelf), ["3.mp4", "4.mp4"]);
        let why = shelf
            .make_room::<()>(&path, &[], || Err(full()))
            .unwrap_err()
            .to_string();
        assert_eq!(names(&shelf), ["4.mp4"], "the newest stays");
        assert!(
            why.contains("4.mp4: can't be written") && why.contains("make room"),
            "{why}"
        );
        // Other failures cost no file.
        write(&shelf, "3.mp4", 100, HOUR);
        let gone = || Err(io::Error::from(ErrorKind::NotFound));
        let why = shelf.make_room::<()>(&path, &[], gone).unwrap_err();
        assert!(why.to_string().contains("the folder is gone"), "{why}");
        assert_eq!(names(&shelf), ["3.mp4", "4.mp4"]);
    }

    #[test]
    fn a_folder_that_can_not_be_is_named() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        for (folder, part) in [(file.clone(), "a file has that name"), (file.join("in"), "made")] {
            let why = Shelf::open(&folder, ALL, numbered).err().unwrap();
            assert_eq!(why.exit_code(), 2);
            assert!(why.to_string().contains(part), "{why}");
        }
    }

    proptest! {
        /// The fewest go after which all holds, or all but the newest do.
        #[test]
        fn as_few_go_as_can(
            files in prop::collection::vec((0..100u64, 0..50u64), 0..12),
            age in 0..50u64,
            bytes in 0..600u64,
            (least_free, free) in (0..400u64, 0..400u64),
        ) {
            let now = SystemTime::UNIX_EPOCH + 1000 * HOUR;
            let files: Vec<Kept> = files
                .iter()
                .map(|(bytes, hours)| Kept {
                    path: PathBuf::new(),
                    bytes: *bytes,
                    changed: now - Duration::from_secs(3600 * hours),
                })
                .collect();
            let keep = Keep { age: Duration::from_secs(3600 * age), bytes, free: least_free };
            let holds = |gone: usize| {
                let sum = |files: &[Kept]| files.iter().map(|f| f.bytes).sum::<u64>();
                let (gone, left) = files.split_at(gone);
                sum(left) <= keep.bytes
                    && free + sum(gone) >= keep.free
                    && left.first().is_none_or(|f| now.duration_since(f.changed).unwrap() <= keep.age)
            };
            let most = files.len().saturating_sub(1);
            let expected = (0..=most).find(|n| holds(*n)).unwrap_or(most);
            prop_assert_eq!(surplus(&files, &keep, now, free), expected);
        }
    }
}
