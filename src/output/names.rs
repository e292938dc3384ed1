//! Names of files that nothing is to be lost under.

use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::path::Path;
#[cfg(feature = "gstreamer")]
use std::path::PathBuf;

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

/// `path` and its variants with `suffix`, of which the later ones count: `a.mkv`, `a-NOON.mkv`, `a-NOON-1.mkv` and on.
#[cfg(feature = "gstreamer")]
pub(super) fn variants(path: &Path, suffix: &str) -> impl Iterator<Item = PathBuf> {
    let counted = move |n| match n {
        0 => path.to_owned(),
        1 => suffixed(path, &format!("-{suffix}")),
        n => suffixed(path, &format!("-{suffix}-{}", n - 1)),
    };
    (0..NAMES).map(counted)
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
    fn names_beside_a_taken_one_keep_folder_and_ending() {
        let names: Vec<PathBuf> = variants(Path::new("a/b.c.mkv"), "noon").take(3).collect();
        let expected = ["a/b.c.mkv", "a/b.c-noon.mkv", "a/b.c-noon-1.mkv"];
        assert_eq!(names, expected.map(PathBuf::from));
    }
}
