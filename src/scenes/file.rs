//! `--output scenes:FILE.jsonl`: a line for each picture, on a thread of its own.
//!
//! Of a camera the oldest scenes are lost when the disk is too slow, and counted. A conversion waits, so that its file has a
//! line for each picture.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Known, unix_ms};
use crate::clock::SharedClock;
use crate::mailbox::{MailboxStats, Received, WhenFull};
use crate::observe::SceneReader;
use crate::output::{Output, OutputOpener, ServedOutput, Video};
use crate::pipeline::control::Control;
use vision::error::{Error, Result};
use vision::file;

/// How long a scene is waited for at a time: the end of scenes ends the wait.
const LOOK: Duration = Duration::from_secs(1);
/// How long the disk of a live pipeline may take for the last lines.
const COMPLETE: Duration = Duration::from_secs(5);
/// The name of the reader among those of the scenes.
const READER: &str = "scenes-file";

/// Opens the output.
pub struct ScenesOpener {
    /// The file.
    pub path: PathBuf,
    /// Whether each segment has its mask.
    pub rle: bool,
    /// The camera's name.
    pub camera: String,
    /// The pipeline whose scenes are written.
    pub control: Arc<Control>,
    /// The clock of its pictures.
    pub clock: SharedClock,
}

impl ScenesOpener {
    fn create(&self) -> Result<File> {
        // A line that was begun before a crash stays what it is; what follows begins anew.
        file::append(&self.path).map_err(|e| failed(&self.path, e))
    }
}

fn failed(path: &Path, error: std::io::Error) -> Error {
    let hint = match error.kind() {
        std::io::ErrorKind::StorageFull => "make room on the disk",
        std::io::ErrorKind::NotFound => "create the folder",
        std::io::ErrorKind::NotConnected => "start the program that is to read it",
        _ => "name a file that this user may write",
    };
    Error::transient(format!("{}: scenes can't be written", path.display()))
        .caused_by(error)
        .hint(hint)
}

impl OutputOpener for ScenesOpener {
    fn name(&self) -> String {
        format!("scenes:{}", self.path.display())
    }

    /// It is fed by its own reader and waits for itself alone.
    fn is_live(&self) -> bool {
        true
    }

    fn open(&self, video: &Video) -> Result<Output> {
        let file = self.create()?;
        let when_full = match video.live {
            true => WhenFull::DropOldest,
            false => WhenFull::Block,
        };
        let reader = self.control.scenes.subscribe_as(READER, when_full);
        let stats = reader.stats();
        let failure = Arc::new(Mutex::new(None));
        let mut lines = Lines {
            reader,
            writer: BufWriter::new(file),
            camera: self.camera.clone(),
            control: self.control.clone(),
            clock: self.clock.clone(),
            rle: self.rle,
            live: video.live,
        };
        let (told, path) = (failure.clone(), self.path.clone());
        let thread = std::thread::Builder::new().name(READER.into()).spawn(move || {
            if let Err(e) = lines.write_all() {
                *told.lock().unwrap_or_else(|e| e.into_inner()) = Some(failed(&path, e));
            }
        });
        let thread =
            thread.map_err(|e| Error::fatal(format!("thread {READER} can't be started")).caused_by(e))?;
        Ok(Output::Served(Box::new(ScenesOutput {
            path: self.path.clone(),
            control: self.control.clone(),
            live: video.live,
            stats,
            failure,
            thread: Some(thread),
        })))
    }
}

/// What the thread works with.
struct Lines {
    reader: SceneReader,
    writer: BufWriter<File>,
    camera: String,
    control: Arc<Control>,
    clock: SharedClock,
    rle: bool,
    live: bool,
}

impl Lines {
    /// Writes a line for each scene until there are no more.
    fn write_all(&mut self) -> std::io::Result<()> {
        let stats = self.reader.stats();
        loop {
            match self.reader.next(LOOK) {
                Received::Item(seen) => {
                    let known = Known::of(seen, self.control.looks());
                    let at = unix_ms(&self.clock, known.captured_at_ns);
                    let mut line = known.to_json(&self.camera, at, self.rle);
                    line["lost"] = stats.dropped().into();
                    writeln!(self.writer, "{line}")?;
                    if self.live {
                        self.writer.flush()?;
                    }
                }
                Received::Timeout => {}
                Received::Closed => return self.writer.flush(),
            }
        }
    }
}

struct ScenesOutput {
    path: PathBuf,
    control: Arc<Control>,
    live: bool,
    /// Of its reader, which they stand for.
    stats: Arc<MailboxStats>,
    failure: Arc<Mutex<Option<Error>>>,
    thread: Option<JoinHandle<()>>,
}

impl ScenesOutput {
    fn failure(&self) -> Result<()> {
        let mut failure = self.failure.lock().unwrap_or_else(|e| e.into_inner());
        failure.take().map_or(Ok(()), Err)
    }
}

impl ServedOutput for ScenesOutput {
    fn describe(&self) -> String {
        format!("scenes:{}", self.path.display())
    }

    fn check(&self) -> Result<()> {
        self.failure()
    }

    fn dropped(&self) -> u64 {
        self.stats.dropped()
    }

    fn clients(&self) -> usize {
        0
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.control.scenes.end(&self.stats);
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        let deadline = Instant::now() + COMPLETE;
        while self.live && !thread.is_finished() {
            if Instant::now() > deadline {
                return Err(Error::transient(format!(
                    "{}: the disk did not take the last scenes within {COMPLETE:?}",
                    self.path.display()
                )));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        if thread.join().is_err() {
            return Err(Error::fatal(format!(
                "thread {READER} panicked; please report this"
            )));
        }
        self.failure()
    }
}

/// What was not finished: its thread ends by itself.
impl Drop for ScenesOutput {
    fn drop(&mut self) {
        self.control.scenes.end(&self.stats);
    }
}
