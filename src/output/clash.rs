//! Outputs that would destroy a source, or each other: found before anything is opened.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::OutputSpec;
use vision::error::{Error, Result};

/// A file by what it is, whatever it is called.
#[derive(Debug, PartialEq, Eq)]
enum Identity {
    /// It exists: device and inode.
    Is(u64, u64),
    /// It will be made in this folder, under this name.
    Will(u64, u64, OsString),
}

/// What a path leads to, over links; `None` where nothing can be made.
fn identity(path: &Path) -> Option<Identity> {
    if let Ok(found) = fs::metadata(path) {
        return Some(Identity::Is(found.dev(), found.ino()));
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    let folder = fs::metadata(folder.unwrap_or(Path::new("."))).ok()?;
    Some(Identity::Will(
        folder.dev(),
        folder.ino(),
        path.file_name()?.to_owned(),
    ))
}

/// Refuses outputs that are one of the source files, and two outputs that are the same file, folder or address, under
/// whatever names. `events` are the keys of files that events are written to, and the files.
///
/// # Errors
/// Usage, naming both.
pub fn check_files<'a>(
    sources: impl IntoIterator<Item = &'a Path>,
    outputs: impl IntoIterator<Item = &'a OutputSpec>,
    events: impl IntoIterator<Item = (&'static str, &'a Path)>,
) -> Result<()> {
    let sources: Vec<_> = sources
        .into_iter()
        .filter_map(|path| Some((path, identity(path)?)))
        .collect();
    let mut seen = Seen::default();
    for output in outputs {
        let path = match output {
            OutputSpec::Mp4(path)
            | OutputSpec::Mkv(path)
            | OutputSpec::Record(path)
            | OutputSpec::Clips(path)
            | OutputSpec::Camera(path)
            | OutputSpec::Images(path) => path.as_path(),
            OutputSpec::Scenes { path, .. } => path.as_path(),
            OutputSpec::Rtsp(_) | OutputSpec::Push(_) => {
                seen.address(output)?;
                continue;
            }
            OutputSpec::Null => continue,
        };
        seen.file(&sources, "output", path)?;
    }
    events
        .into_iter()
        .try_for_each(|(key, path)| seen.file(&sources, key, path))
}

/// What is written to.
#[derive(Default)]
struct Seen<'a> {
    files: Vec<(&'a Path, Identity)>,
    addresses: Vec<&'a OutputSpec>,
}

impl<'a> Seen<'a> {
    fn address(&mut self, output: &'a OutputSpec) -> Result<()> {
        let port = |output: &OutputSpec| match output {
            OutputSpec::Rtsp(address) => Some(address.port),
            _ => None,
        };
        // Any port that is free is another one each time.
        if port(output) != Some(0) && self.addresses.contains(&output) {
            return Err(Error::usage(format!("output {output} is named twice")).hint("leave one of them out"));
        }
        self.addresses.push(output);
        Ok(())
    }

    fn file(&mut self, sources: &[(&Path, Identity)], what: &str, path: &'a Path) -> Result<()> {
        let Some(identity) = identity(path) else {
            return Ok(());
        };
        if let Some((source, _)) = sources.iter().find(|(_, source)| *source == identity) {
            let (path, source) = (path.display(), source.display());
            return Err(
                Error::usage(format!("{what} {path} and source {source} are the same"))
                    .hint("name another one: the source would be lost"),
            );
        }
        if let Some((other, _)) = self.files.iter().find(|(_, other)| *other == identity) {
            let (path, other) = (path.display(), other.display());
            let kind = if what == "output" {
                "outputs".to_owned()
            } else {
                format!("{what} and an output,")
            };
            return Err(Error::usage(format!("{kind} {other} and {path} are the same"))
                .hint("give each a name of its own; in outputs {name} stands for the camera's name"));
        }
        self.files.push((path, identity));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::parse_output;

    fn check(sources: &[&Path], outputs: &[&Path]) -> Result<()> {
        let outputs: Vec<OutputSpec> = outputs
            .iter()
            .map(|path| parse_output(path.to_str().unwrap()).unwrap())
            .collect();
        check_files(sources.iter().copied(), &outputs, [])
    }

    #[test]
    fn the_source_is_no_output_under_any_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("clip.mkv"), "video").unwrap();
        fs::hard_link(path("clip.mkv"), path("hard.mkv")).unwrap();
        std::os::unix::fs::symlink(path("clip.mkv"), path("soft.mkv")).unwrap();
        fs::create_dir(path("photos")).unwrap();
        std::os::unix::fs::symlink(path("photos"), path("album")).unwrap();
        fs::write(path("other.mkv"), "video").unwrap();
        for (source, output) in [
            ("clip.mkv", "clip.mkv"),
            ("clip.mkv", "photos/../clip.mkv"),
            ("clip.mkv", "hard.mkv"),
            ("clip.mkv", "soft.mkv"),
            ("soft.mkv", "hard.mkv"),
            ("photos", "photos"),
            ("photos", "album"),
        ] {
            let (source, output) = (path(source), path(output));
            let why = check(&[&path("other.mkv"), &source], &[&path("new.mkv"), &output]).unwrap_err();
            assert!(why.to_string().contains("are the same"), "{why}");
            assert!(why.to_string().contains(output.to_str().unwrap()), "{why}");
            assert_eq!(why.exit_code(), 2);
        }
        check(&[&path("clip.mkv")], &[&path("other.mkv"), &path("photos")]).unwrap();
        check(&[&path("gone.mkv")], &[&path("new.mkv")]).unwrap();
    }

    #[test]
    fn two_outputs_are_not_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("a")).unwrap();
        std::os::unix::fs::symlink(path("a"), path("b")).unwrap();
        for (one, other) in [
            ("a/new.mkv", "b/new.mkv"),
            ("a/new.mkv", "a/../b/new.mkv"),
            ("a", "b"),
        ] {
            let why = check(&[], &[&path(one), &path("c.mkv"), &path(other)]).unwrap_err();
            assert!(why.to_string().contains("are the same"), "{one} {other}: {why}");
        }
        check(&[], &[&path("a/new.mkv"), &path("a/new.mp4"), &path("new.mkv")]).unwrap();
    }

    #[test]
    fn files_of_events_are_neither_source_nor_output() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("clip.mkv"), "video").unwrap();
        std::os::unix::fs::symlink(path("clip.mkv"), path("events.jsonl")).unwrap();
        let clip = path("clip.mkv");
        let scenes = [parse_output(&format!("scenes:{}", path("new.jsonl").display())).unwrap()];
        let check = |key, file: &Path| check_files([clip.as_path()], &scenes, [(key, file)]);
        let why = check("events.file", &path("events.jsonl"))
            .unwrap_err()
            .to_string();
        assert!(
            why.contains("events.file") && why.contains("would be lost"),
            "{why}"
        );
        let why = check("events.history", &path("new.jsonl"))
            .unwrap_err()
            .to_string();
        assert!(
            why.contains("events.history") && why.contains("are the same"),
            "{why}"
        );
        check("events.history", &path("new.db")).unwrap();
    }

    #[test]
    fn an_address_is_served_or_sent_to_once() {
        let parse = |text: &str| parse_output(text).unwrap();
        for text in ["rtsp://127.0.0.1:8554/a", "rtmp://host/live/s3cret"] {
            let why = check_files([], &[parse(text), parse(text)], [])
                .unwrap_err()
                .to_string();
            assert!(why.contains("named twice") && !why.contains("s3cret"), "{why}");
        }
        let others = [
            "rtsp://127.0.0.1:8554/a",
            "rtsp://127.0.0.1:8554/b",
            "rtmp://host/live/a",
            "rtmp://host/live/b",
        ];
        check_files([], &others.map(parse), []).unwrap();
        check_files([], &["rtsp://127.0.0.1:0/a"; 2].map(parse), []).unwrap();
    }
}
