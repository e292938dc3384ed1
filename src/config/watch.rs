//! Whether the configuration file has changed, for those who can send no signal.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What tells one state of a file from another: device, inode, size, and times of change in nanoseconds. A link that leads
/// elsewhere leads to another inode.
type Stat = (u64, u64, u64, i64, i64);

/// Looks at a file again and again (docs/design/0081-the-configuration-file-is-looked-at.md).
#[derive(Debug)]
pub struct FileLook {
    path: PathBuf,
    /// The state that was last dealt with.
    known: Option<Stat>,
    /// Another one, when it was seen first.
    fresh: Option<Stat>,
    text: Option<Vec<u8>>,
}

impl FileLook {
    /// The file as it is now counts as known.
    pub fn new(path: PathBuf) -> Self {
        Self {
            known: stat(&path),
            fresh: None,
            text: fs::read(&path).ok(),
            path,
        }
    }

    /// Whether the file has another text than at the last call that said so. A state counts once two calls have seen it,
    /// so that one that is just being written is left to its writer; a file that is missing is waited for.
    pub fn has_changed(&mut self) -> bool {
        let now = stat(&self.path);
        if now.is_none() || now == self.known {
            self.fresh = None;
            return false;
        }
        if now != self.fresh {
            self.fresh = now;
            return false;
        }
        let text = fs::read(&self.path).ok();
        // Changed while it was read: at the next call.
        if text.is_none() || stat(&self.path) != now {
            self.fresh = None;
            return false;
        }
        (self.known, self.fresh) = (now, None);
        let differs = text != self.text;
        self.text = text;
        differs
    }
}

fn stat(path: &Path) -> Option<Stat> {
    let of = fs::metadata(path).ok()?;
    let ns = |s: i64, ns: i64| s.saturating_mul(1_000_000_000).saturating_add(ns);
    Some((
        of.dev(),
        of.ino(),
        of.size(),
        ns(of.mtime(), of.mtime_nsec()),
        ns(of.ctime(), of.ctime_nsec()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// What three looks say.
    fn looks(look: &mut FileLook) -> [bool; 3] {
        [look.has_changed(), look.has_changed(), look.has_changed()]
    }

    #[test]
    fn a_file_has_changed_once_its_writer_is_done() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("segd.toml");
        fs::write(&path, "a").unwrap();
        let mut look = FileLook::new(path.clone());
        assert_eq!(looks(&mut look), [false; 3]);
        fs::write(&path, "a longer text").unwrap();
        assert_eq!(looks(&mut look), [false, true, false]);
        // Between two looks it goes on being written.
        fs::write(&path, "begun").unwrap();
        assert!(!look.has_changed());
        fs::write(&path, "begun, and finished").unwrap();
        assert_eq!(looks(&mut look), [false, true, false]);
        // Another file in its place.
        fs::write(folder.path().join("new"), "another").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert_eq!(looks(&mut look), [false, true, false]);
        // The same text.
        fs::write(folder.path().join("new"), "another").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert_eq!(looks(&mut look), [false; 3]);
        fs::remove_file(&path).unwrap();
        assert_eq!(looks(&mut look), [false; 3]);
        fs::write(&path, "back").unwrap();
        assert_eq!(looks(&mut look), [false, true, false]);
    }

    /// As a kubelet does it: the file is a link through `..data`, which is replaced by a rename.
    #[test]
    fn a_config_map_that_is_swapped_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let version = |name: &str, text: &str| {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("segd.toml"), text).unwrap();
            symlink(name, at("..data_tmp")).unwrap();
            fs::rename(at("..data_tmp"), at("..data")).unwrap();
        };
        version("..1", "one");
        symlink("..data/segd.toml", at("segd.toml")).unwrap();
        let mut look = FileLook::new(at("segd.toml"));
        version("..2", "two");
        fs::remove_dir_all(at("..1")).unwrap();
        assert_eq!(looks(&mut look), [false, true, false]);
        // Another key of the map has changed.
        version("..3", "two");
        assert_eq!(looks(&mut look), [false; 3]);
    }
}
