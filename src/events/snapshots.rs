//! The outgoing picture when something begins, as a JPEG in a folder that is kept small.
//!
//! It is the picture that goes out next, so what `[privacy]` hides is hidden in it.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::oneshot::error::TryRecvError;
use ulid::Ulid;

use super::desk::{Queue, SinkState};
use super::event::{self, Event, Kind, Rule, Told};
use crate::clock::Stop;
use crate::mailbox::Received;
use crate::pipeline::control::Control;
use crate::snapshot::{Picture, jpeg};
use vision::error::{Error, Result};

/// Where pictures go, and how much of them is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotOptions {
    /// The folder; each camera has one within it.
    pub folder: PathBuf,
    /// Pictures that are older are removed.
    pub keep: Duration,
    /// The oldest pictures are removed before all of them take more, in bytes.
    pub max_bytes: u64,
}

/// How long the thread waits for an event before it looks at its stop.
const LOOK: Duration = Duration::from_millis(200);
/// Events that share pictures, at most: those that wait at the same time.
const BATCH: usize = 64;
/// How long a picture is waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often it is looked whether a picture has come.
const GLANCE: Duration = Duration::from_millis(5);
/// How often old pictures are looked for.
const TIDY: Duration = Duration::from_secs(60);

/// The name of an event's picture within the folder, if it gets one: `CAMERA/ID.jpg`.
pub fn name_of(event: &Event) -> Option<String> {
    let is_worth = event.kind == Kind::Start && matches!(event.rule, Rule::Presence | Rule::Crossing);
    is_worth.then(|| format!("{}/{}.jpg", event.camera, event.id))
}

/// The event that a picture's name speaks of; `None` for files of others.
fn event_of(name: &str) -> Option<Ulid> {
    event::of_file(name, ".jpg")
}

/// The file of a camera's picture, if the name is one that a picture can have.
pub fn file(folder: &Path, camera: &str, name: &str) -> Option<PathBuf> {
    event_of(name)?;
    Some(folder.join(camera).join(name))
}

/// Keeps pictures until its stop. `cameras` are pipelines by the names that events have.
pub fn run(
    options: &SnapshotOptions,
    cameras: &BTreeMap<String, Arc<Control>>,
    state: &SinkState,
    from: &Queue,
    stop: &Stop,
) {
    let mut album = None;
    let mut tidied: Option<Instant> = None;
    while !stop.is_stopped() {
        let mut waiting = Vec::new();
        match from.recv_timeout(LOOK) {
            Received::Item(told) => waiting.push(told),
            Received::Timeout => {}
            Received::Closed => return,
        }
        while waiting.len() < BATCH
            && let Received::Item(told) = from.try_recv()
        {
            waiting.push(told);
        }
        waiting.retain(|told| told.event.snapshot.is_some());
        let is_due = tidied.is_none_or(|at| at.elapsed() >= TIDY);
        if waiting.is_empty() && !is_due {
            continue;
        }
        let count = waiting.len() as u64;
        let outcome = Album::open(&mut album, options).and_then(|album| {
            keep_all(album, cameras, &waiting, stop)?;
            if is_due {
                album.remove_old(SystemTime::now());
                tidied = Some(Instant::now());
            }
            Ok(())
        });
        let counter = if outcome.is_ok() {
            &state.delivered
        } else {
            &state.failed
        };
        counter.fetch_add(count, Relaxed);
        state.set(&outcome);
        if outcome.is_err() {
            album = None;
            stop.wait(LOOK);
        }
    }
}

/// Keeps a picture for each event: one of a camera for all of its events that wait.
fn keep_all(
    album: &mut Album,
    cameras: &BTreeMap<String, Arc<Control>>,
    waiting: &[Arc<Told>],
    stop: &Stop,
) -> Result<()> {
    let mut by_camera: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
    for told in waiting {
        by_camera.entry(&told.event.camera).or_default().push(&told.event);
    }
    let coming: Vec<_> = by_camera
        .into_iter()
        .filter_map(|(name, events)| Some((name, events, cameras.get(name)?.snapshots.next())))
        .collect();
    let deadline = Instant::now() + PATIENCE;
    for (name, events, mut coming) in coming {
        let picture: Arc<Picture> = loop {
            match coming.try_recv() {
                Ok(picture) => break picture,
                Err(TryRecvError::Empty) if Instant::now() < deadline && !stop.wait(GLANCE) => {}
                Err(_) => {
                    return Err(Error::transient(format!(
                        "{name}: no picture went out within {PATIENCE:?}"
                    )));
                }
            }
        };
        let bytes = jpeg(&picture)?;
        for event in events {
            album.keep(event, &bytes)?;
        }
    }
    Ok(())
}

/// The pictures in the folder, the oldest first.
#[derive(Debug)]
struct Album {
    options: SnapshotOptions,
    kept: VecDeque<(Ulid, u64, PathBuf)>,
    bytes: u64,
}

impl Album {
    /// The one that is open, or the one that is found in the folder.
    fn open<'a>(open: &'a mut Option<Self>, options: &SnapshotOptions) -> Result<&'a mut Self> {
        if open.is_none() {
            *open = Some(Self::find(options)?);
        }
        open.as_mut()
            .ok_or_else(|| Error::fatal("the pictures are not open"))
    }

    fn find(options: &SnapshotOptions) -> Result<Self> {
        let fail = |e| failed(&options.folder, e);
        let mut kept = Vec::new();
        for camera in std::fs::read_dir(&options.folder).map_err(fail)? {
            let camera = camera.map_err(fail)?.path();
            // A file, or a folder that somebody else keeps for themselves.
            let Ok(files) = std::fs::read_dir(&camera) else {
                continue;
            };
            for file in files.filter_map(std::result::Result::ok) {
                let id = file.file_name().to_str().and_then(event_of);
                let size = file
                    .metadata()
                    .ok()
                    .filter(std::fs::Metadata::is_file)
                    .map(|m| m.len());
                if let (Some(id), Some(size)) = (id, size) {
                    kept.push((id, size, file.path()));
                }
            }
        }
        kept.sort_unstable();
        let bytes = kept.iter().map(|(_, size, _)| size).sum();
        Ok(Self {
            options: options.clone(),
            kept: kept.into(),
            bytes,
        })
    }

    /// Writes a picture, whole or not at all, and makes room for it.
    fn keep(&mut self, event: &Event, bytes: &[u8]) -> Result<()> {
        let Ok(id) = Ulid::from_string(&event.id) else {
            return Err(Error::fatal(format!("{:?} is no event's id", event.id)));
        };
        let Some(name) = &event.snapshot else {
            return Ok(());
        };
        let size = bytes.len() as u64;
        while self.bytes + size > self.options.max_bytes && self.remove_oldest() {}
        let path = self.options.folder.join(name);
        let part = path.with_extension("part");
        let write = || {
            if let Some(folder) = path.parent() {
                match std::fs::create_dir(folder) {
                    Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(e),
                    _ => {}
                }
            }
            std::fs::write(&part, bytes)?;
            std::fs::rename(&part, &path)
        };
        write().map_err(|e| {
            let _ = std::fs::remove_file(&part);
            failed(&path, e)
        })?;
        self.kept.push_back((id, size, path));
        self.bytes += size;
        Ok(())
    }

    /// Whether there was one. One that is gone already counts.
    fn remove_oldest(&mut self) -> bool {
        let Some((_, size, path)) = self.kept.pop_front() else {
            return false;
        };
        self.bytes = self.bytes.saturating_sub(size);
        let _ = std::fs::remove_file(path);
        true
    }

    fn remove_old(&mut self, now: SystemTime) {
        let is_old = |id: &Ulid| {
            now.duration_since(id.datetime())
                .is_ok_and(|age| age > self.options.keep)
        };
        let count = self.kept.iter().take_while(|(id, ..)| is_old(id)).count();
        for _ in 0..count {
            self.remove_oldest();
        }
    }
}

fn failed(path: &Path, error: std::io::Error) -> Error {
    let hint = match error.kind() {
        std::io::ErrorKind::StorageFull => "make room on the disk",
        std::io::ErrorKind::NotFound => "create the folder",
        _ => "name a folder that this user may write",
    };
    Error::transient(format!("{}: pictures can't be kept", path.display()))
        .caused_by(error)
        .hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::event::new_id;
    use crate::events::event::tests::event;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn begun(seconds: u64) -> Event {
        let mut event = Event {
            id: new_id(at(seconds)),
            ..event(Kind::Start)
        };
        event.snapshot = name_of(&event);
        event
    }

    fn options(folder: &Path) -> SnapshotOptions {
        SnapshotOptions {
            folder: folder.to_owned(),
            keep: Duration::from_secs(100),
            max_bytes: 1000,
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        let files = std::fs::read_dir(folder.join("door")).unwrap();
        let mut names: Vec<String> = files
            .map(|f| f.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_begins_has_a_name_and_nothing_else() {
        assert!(begun(5).snapshot.unwrap().starts_with("door/"));
        assert_eq!(name_of(&event(Kind::Update)), None);
        assert_eq!(name_of(&event(Kind::End)), None);
        let absence = Event {
            rule: Rule::Absence,
            ..event(Kind::Start)
        };
        assert_eq!(name_of(&absence), None);
    }

    #[test]
    fn only_names_of_pictures_lead_to_files() {
        let folder = Path::new("/pictures");
        let name = format!("{}.jpg", new_id(at(5)));
        assert_eq!(file(folder, "door", &name), Some(folder.join("door").join(&name)));
        for wrong in [
            "../../etc/passwd",
            "a.jpg",
            ".jpg",
            "",
            &name.to_lowercase(),
            &name.replace("jpg", "png"),
        ] {
            assert_eq!(file(folder, "door", wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_oldest_go_by_size_and_by_age_and_files_of_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let mut open = None;
        let events: Vec<Event> = (0..5).map(|n| begun(10 * n)).collect();
        let album = Album::open(&mut open, &options(folder.path())).unwrap();
        album.keep(&events[0], &[0; 300]).unwrap();
        std::fs::write(folder.path().join("door/theirs.jpg"), [0; 5000]).unwrap();
        for event in &events[1..4] {
            album.keep(event, &[0; 300]).unwrap();
        }
        let of = |numbers: &[usize]| -> Vec<String> {
            let names = numbers.iter().map(|n| format!("{}.jpg", events[*n].id));
            names.chain(["theirs.jpg".to_owned()]).collect()
        };
        assert_eq!(names(folder.path()), of(&[1, 2, 3]));
        // A restart finds what is there.
        open = None;
        let album = Album::open(&mut open, &options(folder.path())).unwrap();
        assert_eq!(album.bytes, 900);
        album.keep(&events[4], &[0; 401]).unwrap();
        assert_eq!(names(folder.path()), of(&[3, 4]));
        album.remove_old(at(130));
        assert_eq!(names(folder.path()), of(&[3, 4]));
        album.remove_old(at(131));
        assert_eq!(names(folder.path()), of(&[4]));
    }

    #[test]
    fn a_missing_folder_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let why = Album::find(&options(&folder.path().join("none"))).unwrap_err();
        assert!(
            why.is_transient() && why.to_string().contains("create the folder"),
            "{why}"
        );
    }
}
