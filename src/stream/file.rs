//! Frames to a video file that can be played after any end, a `kill -9` included.
//!
//! While it is written, `name.mp4` is called `name.partial.mp4`; a clean end gives it its final name, in one
//! rename, replacing what was there. A file that was left partial by a kill or a crash plays up to about its
//! last second, and is never overwritten: the next recording takes `name.partial-1.mp4`. Where one run completes
//! the output more than once (it failed, and was opened again), the later files are `name-1.mp4` and on. MP4 is
//! written as fragments of one second (and gets a whole index at a clean end), Matroska as clusters.
//!
//! The encoder's settings are those of the live stream: no frame waits inside it, so none is lost.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;

use crate::stream::elements::{self, VideoLayout, internal};
use crate::stream::encoder::EncoderPlan;
use crate::stream::{FrameSink, SinkOpener, StreamOptions};
use vision::error::{Error, Result};
use vision::frame::{Frame, FrameFormat};

/// Frames that wait for the encoder at most.
const QUEUED_FRAMES: usize = 4;

/// How long the encoder may take no frame before it counts as stuck.
const STALL: Duration = Duration::from_secs(30);

/// How long the end of the file may take.
const FINISH: gst::ClockTime = gst::ClockTime::from_seconds(20);

/// Unfinished recordings of one name that are kept beside each other.
const PARTIALS: u32 = 1000;

/// A file format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    /// Fragmented MP4.
    Mp4,
    /// Matroska.
    Mkv,
}

/// Opens a file sink.
#[derive(Debug, Clone)]
pub struct FileOpener {
    path: PathBuf,
    container: Container,
    options: StreamOptions,
    /// Files that were completed in this run.
    completed: Arc<AtomicU32>,
}

impl FileOpener {
    /// An opener for this file.
    pub fn new(path: PathBuf, container: Container, options: StreamOptions) -> Self {
        Self {
            path,
            container,
            options,
            completed: Arc::default(),
        }
    }
}

impl SinkOpener for FileOpener {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn is_live(&self) -> bool {
        false
    }

    fn open(&self, format: FrameFormat, frame_rate: Option<f64>) -> Result<Box<dyn FrameSink>> {
        Ok(Box::new(FileSink::open(self, format, frame_rate)?))
    }
}

/// Frames that the encoder hasn't taken yet.
#[derive(Default)]
struct Queue {
    waiting: Mutex<usize>,
    taken: Condvar,
}

struct FileSink {
    path: PathBuf,
    partial: PathBuf,
    completed: Arc<AtomicU32>,
    plan: EncoderPlan,
    layout: VideoLayout,
    pipeline: gst::Pipeline,
    bus: gst::Bus,
    appsrc: gst_app::AppSrc,
    queue: Arc<Queue>,
    /// Nanoseconds from a frame to the next, where the source doesn't say better.
    period_ns: u64,
    /// What is subtracted from frames' times: the file begins at 0.
    offset_ns: i128,
    last_pts_ns: Option<u64>,
    finished: bool,
}

impl FileSink {
    fn open(opener: &FileOpener, format: FrameFormat, frame_rate: Option<f64>) -> Result<Self> {
        let path = &opener.path;
        let layout = VideoLayout::new(format, frame_rate)?;
        let plan = elements::working_encoder(&layout, frame_rate, &opener.options)?;
        let parse = elements::make(plan.codec.parser(), "gstreamer1.0-plugins-bad")?;
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
        let appsrc = elements::make_appsrc(&layout)?;
        let pipeline = gst::Pipeline::new();
        pipeline
            .add_many([appsrc.upcast_ref(), &parse, &mux, &sink])
            .map_err(|e| internal("adding an element", e))?;
        let last = elements::append_encoder(pipeline.upcast_ref(), appsrc.upcast_ref(), &plan)?;
        gst::Element::link_many([&last, &parse, &mux, &sink])
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

        let partial = reserve_partial(path)?;
        sink.set_property("location", partial.as_os_str().to_string_lossy().as_ref());
        // What is written is in the file at once, and a full disk shows at once.
        sink.set_property_from_str("buffer-mode", "unbuffered");
        // An end without frames would otherwise wait for one.
        sink.set_property("async", false);
        let sink = Self {
            path: path.clone(),
            partial,
            completed: opener.completed.clone(),
            plan,
            layout,
            pipeline,
            bus,
            appsrc,
            queue,
            period_ns: frame_rate
                .filter(|r| r.is_finite() && *r > 0.0)
                .map_or(33_333_333, |r| (1e9 / r) as u64)
                .max(1),
            offset_ns: 0,
            last_pts_ns: None,
            finished: false,
        };
        if sink.pipeline.set_state(gst::State::Playing).is_err() {
            return Err(sink.failure().unwrap_or_else(|| {
                Error::fatal(format!("{}: the pipeline does not start", path.display()))
            }));
        }
        Ok(sink)
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

    /// The file's own time for a frame: from 0 on, always rising. Where the source's time jumps back (a
    /// stream that was opened again), the file goes on one frame's time later.
    fn pts_ns(&mut self, source_ns: u64) -> u64 {
        let source = i128::from(source_ns);
        let pts = match self.last_pts_ns {
            None => {
                self.offset_ns = source;
                0
            }
            Some(last) => {
                let wanted = source - self.offset_ns;
                if wanted > i128::from(last) {
                    u64::try_from(wanted).unwrap_or(u64::MAX)
                } else {
                    let next = last.saturating_add(self.period_ns);
                    tracing::debug!(
                        source_ns,
                        "the source's time did not rise; the file goes on one frame later"
                    );
                    self.offset_ns = source - i128::from(next);
                    next
                }
            }
        };
        self.last_pts_ns = Some(pts);
        pts
    }

    /// Waits until the encoder has room for another frame.
    fn wait_for_room(&self) -> Result<()> {
        let begun = Instant::now();
        let mut waiting = self.queue.waiting.lock().unwrap_or_else(|e| e.into_inner());
        while *waiting >= QUEUED_FRAMES {
            waiting = self
                .queue
                .taken
                .wait_timeout(waiting, Duration::from_millis(100))
                .unwrap_or_else(|e| e.into_inner())
                .0;
            if *waiting >= QUEUED_FRAMES {
                if let Some(e) = self.failure() {
                    return Err(e);
                }
                if begun.elapsed() > STALL {
                    return Err(Error::fatal(format!(
                        "{}: the encoder {} took no frame for {} s",
                        self.partial.display(),
                        self.plan.encoder,
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
        if self.last_pts_ns.is_none() {
            let _ = self.pipeline.set_state(gst::State::Null);
            // Nothing is in it.
            let _ = fs::remove_file(&self.partial);
            tracing::warn!(file = %self.path.display(), "no frame came, so no file was written");
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
        outcome?;
        let problem = |what: &str, e: std::io::Error| {
            Error::fatal(format!("{}: {what}", self.partial.display())).caused_by(e)
        };
        File::open(&self.partial)
            .and_then(|f| f.sync_all())
            .map_err(|e| problem("can't be brought to the disk", e))?;
        let path = match self.completed.fetch_add(1, Ordering::Relaxed) {
            0 => self.path.clone(),
            n => numbered(&self.path, &format!("-{n}")),
        };
        fs::rename(&self.partial, &path)
            .map_err(|e| problem(&format!("can't be renamed to {}", path.display()), e))
    }
}

impl FrameSink for FileSink {
    fn describe(&self) -> String {
        format!(
            "{} ({} by {})",
            self.path.display(),
            self.plan.codec,
            self.plan.encoder
        )
    }

    fn push(&mut self, frame: Frame) -> Result<()> {
        if frame.format != self.layout.format() {
            return Err(Error::fatal(format!(
                "{}: a frame of {:?} came; the file was begun with {:?}",
                self.path.display(),
                frame.format,
                self.layout.format()
            )));
        }
        if let Some(e) = self.failure() {
            return Err(e);
        }
        self.wait_for_room()?;
        let pts = self.pts_ns(frame.pts_ns);
        let mut buffer = self
            .layout
            .buffer(frame.data, gst::ClockTime::from_nseconds(pts))?;
        if let Some(buffer) = buffer.get_mut() {
            buffer.set_duration(gst::ClockTime::from_nseconds(self.period_ns));
        }
        self.appsrc.push_buffer(buffer).map_err(|e| {
            self.failure().unwrap_or_else(|| {
                Error::fatal(format!(
                    "{}: the recording takes no frames",
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

impl Drop for FileSink {
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.pipeline.set_state(gst::State::Null);
        }
    }
}

/// `a/name.mp4` and `-1` to `a/name-1.mp4`.
fn numbered(path: &Path, suffix: &str) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{stem}{suffix}.{extension}"))
}

/// Creates the file that is written until the end: `name.partial.mp4`, or the first
/// `name.partial-N.mp4` that isn't taken.
fn reserve_partial(path: &Path) -> Result<PathBuf> {
    for n in 0..PARTIALS {
        let number = if n == 0 { String::new() } else { format!("-{n}") };
        let partial = numbered(path, &format!(".partial{number}"));
        match OpenOptions::new().write(true).create_new(true).open(&partial) {
            Ok(_) => {
                if n > 0 {
                    tracing::warn!(
                        file = %partial.display(),
                        "unfinished recordings of the same name stand beside it; they are kept"
                    );
                }
                return Ok(partial);
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
