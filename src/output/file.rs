//! Encoded video to a file that can be played after any end, a `kill -9` included.
//!
//! While it is written, `name.mp4` is called `name.partial.mp4`; a clean end gives it its final name, in one rename.
//! A file that was left partial by a kill or a crash plays up to about its last second.
//!
//! Nothing is ever replaced. Beside a file that was left partial the next one is `name.partial-1.mp4`. The name itself
//! belongs to the newest complete recording: a file that has it gets the time of its last change into its name,
//! `name-2026-11-29T22-41-03Z.mp4`, in the moment in which the new one is complete.
//!
//! MP4 is written as fragments of one second (and gets a whole index at a clean end), Matroska as clusters.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;

use crate::encode::elements::{self, internal};
use crate::encode::{AccessUnit, EncodeOptions, Encoder, ReaderKind, Timeline, period_ns};
use crate::output::names::{move_aside, rename_new, suffixed};
use crate::output::{Output, OutputOpener, UnitOutput, Video};
use vision::error::{Error, Result};

/// Units that wait for the disk at most, behind the reader's own queue.
const QUEUED_UNITS: usize = 4;

/// How long the disk may take nothing before it counts as stuck.
const STALL: Duration = Duration::from_secs(30);

/// How long the end of the file may take.
const FINISH: gst::ClockTime = gst::ClockTime::from_seconds(20);

/// How often it is looked whether the file is still there.
const LOOK: Duration = Duration::from_secs(2);

/// A file that is shorter when it fails holds no picture.
const NOTHING: u64 = 1024;

/// Unfinished recordings of one name that are kept beside each other.
const PARTIALS: u32 = 1000;

/// How often a complete recording takes its name from another file, if one appears each time.
const RENAMES: u32 = 10;

/// A recording goes on after notices, and no picture is too late for it.
const READER: ReaderKind = ReaderKind {
    notices: false,
    low_delay: false,
};

/// A file format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    /// Fragmented MP4.
    Mp4,
    /// Matroska.
    Mkv,
}

/// Opens a video file.
#[derive(Debug, Clone)]
pub struct FileOpener {
    path: PathBuf,
    container: Container,
    options: EncodeOptions,
}

impl FileOpener {
    /// An opener for this file.
    pub fn new(path: PathBuf, container: Container, options: EncodeOptions) -> Self {
        Self {
            path,
            container,
            options,
        }
    }
}

impl OutputOpener for FileOpener {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn is_live(&self) -> bool {
        false
    }

    fn open(&self, video: &Video) -> Result<Output> {
        if self.path.is_dir() {
            return Err(
                Error::usage(format!("{}: is a folder", self.path.display())).hint("name a file in it")
            );
        }
        let encoder = video.encoder(&self.options)?;
        let file = VideoFile::open(self, &encoder)?;
        let reader = encoder
            .read(&self.name(), READER)
            .inspect_err(|_| file.remove())?;
        Ok(Output::Units(reader, Box::new(file)))
    }
}

/// Units that the disk hasn't taken yet.
#[derive(Default)]
struct Queue {
    waiting: Mutex<usize>,
    taken: Condvar,
}

struct VideoFile {
    path: PathBuf,
    partial: PathBuf,
    /// The inode of the file that is written.
    inode: u64,
    looked: Instant,
    encoder: &'static str,
    pipeline: gst::Pipeline,
    bus: gst::Bus,
    appsrc: gst_app::AppSrc,
    queue: Arc<Queue>,
    /// The file's own time: from 0 on.
    timeline: Timeline,
    codec: crate::encode::Codec,
    finished: bool,
}

impl VideoFile {
    fn open(opener: &FileOpener, encoder: &Encoder) -> Result<Self> {
        let path = &opener.path;
        let parameters = encoder.parameters();
        let parse = elements::make(parameters.codec.parser(), "gstreamer1.0-plugins-bad")?;
        let mux = match opener.container {
            Container::Mp4 => {
                let mux = elements::make("mp4mux", "gstreamer1.0-plugins-good")?;
                mux.set_property("fragment-duration", 1000u32);
                mux.set_property_from_str("fragment-mode", "first-moov-then-finalise");
                mux
            }
            Container::Mkv => elements::make("matroskamux", "gstreamer1.0-plugins-good")?,
        };
        let sink = elements::make("filesink", "gstreamer1.0")?;
        let appsrc = elements::make_unit_appsrc(&parameters)?;
        let pipeline = gst::Pipeline::new();
        pipeline
            .add_many([appsrc.upcast_ref(), &parse, &mux, &sink])
            .map_err(|e| internal("adding an element", e))?;
        gst::Element::link_many([appsrc.upcast_ref(), &parse, &mux, &sink])
            .map_err(|e| internal("linking the file's elements", e))?;
        let bus = pipeline
            .bus()
            .ok_or_else(|| Error::fatal("GStreamer: a pipeline without a bus"))?;

        let queue = Arc::new(Queue::default());
        let leaving = queue.clone();
        if let Some(pad) = appsrc.static_pad("src") {
            pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
                let mut waiting = leaving.waiting.lock().unwrap_or_else(|e| e.into_inner());
                *waiting = waiting.saturating_sub(1);
                leaving.taken.notify_one();
                gst::PadProbeReturn::Ok
            });
        }

        let (partial, inode) = reserve_partial(path)?;
        sink.set_property("location", partial.as_os_str().to_string_lossy().as_ref());
        // What is written is in the file at once, and a full disk shows at once.
        sink.set_property_from_str("buffer-mode", "unbuffered");
        // An end without units would otherwise wait for one.
        sink.set_property("async", false);
        let file = Self {
            path: path.clone(),
            partial,
            inode,
            looked: Instant::now(),
            encoder: encoder.element(),
            pipeline,
            bus,
            appsrc,
            queue,
            timeline: Timeline::new(period_ns(parameters.frame_rate)),
            codec: parameters.codec,
            finished: false,
        };
        if file.pipeline.set_state(gst::State::Playing).is_err() {
            return Err(file.failure().unwrap_or_else(|| {
                Error::fatal(format!("{}: the pipeline does not start", path.display()))
            }));
        }
        Ok(file)
    }

    /// Takes the file away again that was just begun.
    fn remove(&self) {
        let _ = self.pipeline.set_state(gst::State::Null);
        let _ = fs::remove_file(&self.partial);
    }

    /// The error that the pipeline reported, if it did.
    fn failure(&self) -> Option<Error> {
        let message = self.bus.pop_filtered(&[gst::MessageType::Error])?;
        match message.view() {
            gst::MessageView::Error(e) => Some(self.explain(e)),
            _ => None,
        }
    }

    fn explain(&self, message: &gst::message::Error) -> Error {
        let text = elements::message_text(message);
        let partial = self.partial.display();
        match message.error().kind::<gst::ResourceError>() {
            Some(gst::ResourceError::NoSpaceLeft) => Error::fatal(format!("{partial}: the disk is full"))
                .hint("what was written so far can be played; make room, or write to another disk"),
            Some(gst::ResourceError::Write | gst::ResourceError::OpenWrite | gst::ResourceError::Seek) => {
                Error::fatal(format!("{partial}: can't be written"))
                    .hint("check the disk and its quota; what was written so far can be played")
            }
            _ => Error::fatal(format!("{partial}: the recording failed")),
        }
        .caused_by(text)
    }

    /// Waits until there is room for another unit.
    fn wait_for_room(&self) -> Result<()> {
        let begun = Instant::now();
        let mut waiting = self.queue.waiting.lock().unwrap_or_else(|e| e.into_inner());
        while *waiting >= QUEUED_UNITS {
            waiting = self
                .queue
                .taken
                .wait_timeout(waiting, Duration::from_millis(100))
                .unwrap_or_else(|e| e.into_inner())
                .0;
            if *waiting >= QUEUED_UNITS {
                if let Some(e) = self.failure() {
                    return Err(e);
                }
                if begun.elapsed() > STALL {
                    return Err(Error::fatal(format!(
                        "{}: the disk took nothing for {} s",
                        self.partial.display(),
                        STALL.as_secs()
                    )));
                }
            }
        }
        *waiting += 1;
        Ok(())
    }

    fn complete(&mut self) -> Result<()> {
        self.finished = true;
        if !self.timeline.has_begun() {
            let _ = self.pipeline.set_state(gst::State::Null);
            // Nothing is in it.
            let _ = fs::remove_file(&self.partial);
            tracing::warn!(file = %self.path.display(), "no picture came, so no file was written");
            return Ok(());
        }
        // An error shows on the bus.
        let _ = self.appsrc.end_of_stream();
        let message = self
            .bus
            .timed_pop_filtered(FINISH, &[gst::MessageType::Error, gst::MessageType::Eos]);
        let outcome = match message.as_deref().map(gst::MessageRef::view) {
            Some(gst::MessageView::Eos(_)) => Ok(()),
            Some(gst::MessageView::Error(e)) => Err(self.explain(e)),
            _ => Err(Error::fatal(format!(
                "{}: the end of the file was not written within {} s",
                self.partial.display(),
                FINISH.seconds()
            ))),
        };
        let _ = self.pipeline.set_state(gst::State::Null);
        if outcome.is_err() && fs::metadata(&self.partial).is_ok_and(|m| m.len() < NOTHING) {
            // A full disk would otherwise get one at each attempt.
            let _ = fs::remove_file(&self.partial);
        }
        outcome?;
        let problem = |what: &str, e: std::io::Error| {
            Error::fatal(format!("{}: {what}", self.partial.display())).caused_by(e)
        };
        File::open(&self.partial)
            .and_then(|f| f.sync_all())
            .map_err(|e| problem("can't be flushed to the disk", e))?;
        for _ in 0..RENAMES {
            match rename_new(&self.partial, &self.path) {
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                    let moved = move_aside(&self.path)
                        .map_err(|e| problem("the file that has its name can't be renamed", e))?;
                    tracing::info!(file = %moved.display(), "the recording that had the name is kept as this");
                }
                Err(e) => {
                    return Err(problem(
                        &format!("can't be renamed to {}", self.path.display()),
                        e,
                    ));
                }
                Ok(()) => {
                    tracing::info!(file = %self.path.display(), "the recording is complete");
                    return Ok(());
                }
            }
        }
        Err(Error::fatal(format!(
            "{}: other programs keep making a file of this name",
            self.path.display()
        ))
        .hint(format!(
            "the recording is complete, as {}",
            self.partial.display()
        )))
    }

    /// Looks now and then whether what is written can still be found.
    fn check_is_there(&mut self) -> Result<()> {
        if self.looked.elapsed() < LOOK {
            return Ok(());
        }
        self.looked = Instant::now();
        if fs::metadata(&self.partial).is_ok_and(|found| found.ino() == self.inode) {
            return Ok(());
        }
        Err(
            Error::fatal(format!("{}: is not there any more", self.partial.display()))
                .hint("it was moved or removed while it was written, or its disk is gone"),
        )
    }
}

impl UnitOutput for VideoFile {
    fn describe(&self) -> String {
        format!("{} ({} by {})", self.path.display(), self.codec, self.encoder)
    }

    fn push(&mut self, unit: &AccessUnit) -> Result<()> {
        if let Some(e) = self.failure() {
            return Err(e);
        }
        self.check_is_there()?;
        self.wait_for_room()?;
        let pts = gst::ClockTime::from_nseconds(self.timeline.at(unit.pts_ns));
        let buffer = elements::unit_buffer(unit, pts);
        self.appsrc.push_buffer(buffer).map_err(|e| {
            self.failure().unwrap_or_else(|| {
                Error::fatal(format!(
                    "{}: the recording takes no video",
                    self.partial.display()
                ))
                .caused_by(e)
            })
        })?;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.complete()
    }
}

impl Drop for VideoFile {
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.pipeline.set_state(gst::State::Null);
        }
    }
}

/// Creates the file that is written until the end: `name.partial.mp4`, or the first
/// `name.partial-N.mp4` that isn't taken. Gives its inode as well.
fn reserve_partial(path: &Path) -> Result<(PathBuf, u64)> {
    for n in 0..PARTIALS {
        let number = if n == 0 { String::new() } else { format!("-{n}") };
        let partial = suffixed(path, &format!(".partial{number}"));
        match OpenOptions::new().write(true).create_new(true).open(&partial) {
            Ok(file) => {
                if n > 0 {
                    tracing::warn!(
                        file = %partial.display(),
                        "unfinished recordings of the same name lie beside it; they are kept"
                    );
                }
                let inode = file.metadata().map_or(0, |m| m.ino());
                return Ok((partial, inode));
            }
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => {
                let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
                let folder = folder.unwrap_or(Path::new("."));
                let hint = match e.kind() {
                    std::io::ErrorKind::NotFound => format!("create the folder {}", folder.display()),
                    std::io::ErrorKind::StorageFull => "make room on the disk".to_owned(),
                    _ => format!(
                        "write to a folder that this user may write to; {} is not",
                        folder.display()
                    ),
                };
                return Err(Error::usage(format!("{}: can't be created", partial.display()))
                    .caused_by(e)
                    .hint(hint));
            }
        }
    }
    Err(Error::fatal(format!(
        "{}: there are {PARTIALS} unfinished recordings of this name",
        path.display()
    ))
    .hint("remove those that aren't needed"))
}
