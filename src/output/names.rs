//! Names of files that nothing is to be lost under.

use std::fs;
use std::io::{Error, ErrorKind, Result};
#[cfg(feature = "gstreamer")]
use std::os::unix::fs::MetadataExt;
use std::path::Path;
#[cfg(feature = "gstreamer")]
use std::path::PathBuf;

#[cfg(feature = "gstreamer")]
use gstreamer::glib;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

/// Names that are tried beside a name that is taken.
#[cfg(feature = "gstreamer")]
const NAMES: u32 = 10_000;

/// `a/name.mp4` and `-1` to `a/name-1.mp4`.
#[cfg(feature = "gstreamer")]
pub(super) fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{stem}{suffix}.{extension}"))
}

/// Whether something has this name, be it a link to nowhere.
pub(super) fn is_taken(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Gives what is at `path` the time of its last change into its name, which is returned: `a-2026-11-29T22-41-03Z.mkv`,
/// or `a-2026-11-29T22-41-03Z-1.mkv` and on where something has that name.
///
/// # Errors
/// As the system says; [`ErrorKind::AlreadyExists`] if 10,000 names are taken.
#[cfg(feature = "gstreamer")]
pub(super) fn move_aside(path: &Path) -> Result<PathBuf> {
    let changed = fs::symlink_metadata(path)?.mtime();
    let time = glib::DateTime::from_unix_utc(changed)
        .and_then(|time| time.format("%Y-%m-%dT%H-%M-%SZ"))
        // Years that GLib can't count.
        .map_or_else(|_| changed.to_string(), String::from);
    for n in 0..NAMES {
        let number = if n == 0 { String::new() } else { format!("-{n}") };
        let aside = suffixed(path, &format!("-{time}{number}"));
        match rename_new(path, &aside) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            renamed => return renamed.map(|()| aside),
        }
    }
    Err(Error::from(ErrorKind::AlreadyExists))
}

/// Renames a file to a name that nothing has.
///
/// # Errors
/// [`ErrorKind::AlreadyExists`] if something has that name; else as the system says.
pub(super) fn rename_new(from: &Path, to: &Path) -> Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // File systems that can't make sure of it, such as NFS.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            if is_taken(to) {
                return Err(Error::from(ErrorKind::AlreadyExists));
            }
            fs::rename(from, to)
        }
        renamed => Ok(renamed?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rename_replaces_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("new"), "new").unwrap();
        fs::write(path("old"), "old").unwrap();
        std::os::unix::fs::symlink("nowhere", path("link")).unwrap();
        for taken in ["old", "link"] {
            let why = rename_new(&path("new"), &path(taken)).unwrap_err();
            assert_eq!(why.kind(), ErrorKind::AlreadyExists, "{taken}");
        }
        assert_eq!(fs::read_to_string(path("old")).unwrap(), "old");
        rename_new(&path("new"), &path("free")).unwrap();
        assert_eq!(fs::read_to_string(path("free")).unwrap(), "new");
        assert!(!path("new").exists());
    }

    #[cfg(feature = "gstreamer")]
    #[test]
    fn what_is_moved_aside_keeps_folder_ending_and_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.c.mkv");
        let expected = [
            "b.c-2026-11-29T22-41-03Z.mkv",
            "b.c-2026-11-29T22-41-03Z-1.mkv",
            "b.c-2026-11-29T22-41-03Z-2.mkv",
        ];
        for (n, name) in expected.iter().enumerate() {
            fs::write(&path, n.to_string()).unwrap();
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_795_992_063);
            fs::File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_modified(time)
                .unwrap();
            assert_eq!(move_aside(&path).unwrap(), folder.path().join(name));
            assert!(!path.exists());
        }
        for (n, name) in expected.iter().enumerate() {
            let text = fs::read_to_string(folder.path().join(name)).unwrap();
            assert_eq!(text, n.to_string(), "{name}");
        }
        assert_eq!(move_aside(&path).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
