//! An output on a thread of its own: a disk that is slow or stuck costs its own pictures, and holds nobody else up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use tracing::{info, warn};

#[cfg(feature = "gstreamer")]
use crate::clock::Stop;
use crate::clock::{StopHandle, stop_pair};
#[cfg(feature = "gstreamer")]
use crate::encode::Reader;
use crate::mailbox::{MailboxReceiver, MailboxSender, Received, WhenFull, mailbox};
#[cfg(feature = "gstreamer")]
use crate::output::UnitOutput;
use crate::output::{FrameOutput, Output, OutputOpener, Video};
use crate::supervise::Background;
use vision::error::{Error, Result};
use vision::frame::Frame;

/// Frames that wait for an output that takes them as they are. A further one is dropped, so that what is lost is one gap.
pub(super) const QUEUED_FRAMES: usize = 8;

/// An output that is opened, fed and completed by its own thread.
pub(super) struct Apart {
    name: String,
    frames: MailboxSender<Frame>,
    shared: Arc<Shared>,
    ended: Receiver<Result<()>>,
    thread: Background,
    /// Dropped when a reader of units has read enough.
    #[cfg(feature = "gstreamer")]
    enough: StopHandle,
    _stop: StopHandle,
}

#[derive(Default)]
struct Shared {
    is_open: AtomicBool,
    /// Whether it takes frames as they are. Others read an encoder.
    takes_frames: AtomicBool,
    /// What the output itself has dropped.
    dropped: AtomicU64,
}

impl Shared {
    fn opened(&self, output: &Output) {
        self.takes_frames
            .store(matches!(output, Output::Frames(_)), Relaxed);
        self.is_open.store(true, Relaxed);
    }
}

/// What the thread works with.
struct Work {
    opener: Arc<dyn OutputOpener>,
    video: Video,
    frames: MailboxReceiver<Frame>,
    #[cfg(feature = "gstreamer")]
    enough: Stop,
    shared: Arc<Shared>,
    ended: Sender<Result<()>>,
}

/// What the thread begins with.
pub(super) enum Begin {
    /// The output is open already.
    Open(Output),
    /// It opens the output.
    First,
    /// It opens the output, which has failed before.
    Again,
}

impl Apart {
    /// Starts the thread.
    ///
    /// # Errors
    /// Fatal, if the system can't start another thread.
    pub(super) fn start(opener: &Arc<dyn OutputOpener>, video: &Video, begin: Begin) -> Result<Self> {
        let (handle, stop) = stop_pair();
        #[cfg(feature = "gstreamer")]
        let (enough_handle, enough) = stop_pair();
        let (frames_tx, frames) = mailbox(QUEUED_FRAMES, WhenFull::DropNewest, &stop);
        let (ended_tx, ended) = bounded(1);
        let shared = Arc::new(Shared::default());
        if let Begin::Open(output) = &begin {
            shared.opened(output);
        }
        let work = Work {
            opener: opener.clone(),
            video: video.clone(),
            frames,
            #[cfg(feature = "gstreamer")]
            enough,
            shared: shared.clone(),
            ended: ended_tx,
        };
        let thread = Background::spawn("output", move |_| work.run(begin))?;
        Ok(Self {
            name: opener.name(),
            frames: frames_tx,
            shared,
            ended,
            thread,
            #[cfg(feature = "gstreamer")]
            enough: enough_handle,
            _stop: handle,
        })
    }

    /// Whether it is to be given frames; others read an encoder by themselves.
    pub(super) fn takes_frames(&self) -> bool {
        self.shared.takes_frames.load(Relaxed)
    }

    /// Looks whether it still works.
    ///
    /// # Errors
    /// Why the output has ended.
    pub(super) fn check(&self) -> Result<()> {
        match self.ended.try_recv() {
            Ok(Err(why)) => Err(why),
            _ => Ok(()),
        }
    }

    /// Leaves the frame to the thread; drops it, counted, if too many wait.
    pub(super) fn push(&self, frame: Frame) {
        self.frames.send(frame);
    }

    /// Frames dropped so far, before the output and by it.
    pub(super) fn dropped(&self) -> u64 {
        self.frames.stats().dropped() + self.shared.dropped.load(Relaxed)
    }

    /// Whether the output is open.
    pub(super) fn is_open(&self) -> bool {
        self.shared.is_open.load(Relaxed)
    }

    /// Lets the thread take what waits and complete the output.
    pub(super) fn end(self) -> Ending {
        drop(self.frames);
        #[cfg(feature = "gstreamer")]
        drop(self.enough);
        Ending {
            name: self.name,
            ended: self.ended,
            thread: self.thread,
            _stop: self._stop,
        }
    }
}

/// An output that is being completed.
pub(super) struct Ending {
    name: String,
    ended: Receiver<Result<()>>,
    thread: Background,
    _stop: StopHandle,
}

impl Ending {
    /// Whether its thread still runs.
    pub(super) fn is_busy(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Waits until the output is complete.
    ///
    /// # Errors
    /// If it could not be completed, or not before `deadline`.
    pub(super) fn wait(self, deadline: Instant) -> Result<()> {
        match self.ended.recv_deadline(deadline) {
            Ok(result) => result,
            Err(_) => Err(
                Error::fatal(format!("{}: could not be completed in time", self.name))
                    .hint("check its disk; what was written so far can be played"),
            ),
        }
    }
}

impl Work {
    fn run(self, begin: Begin) {
        let ended = self.ended.clone();
        // Room for one; a second result follows only an error, and nobody asks for it.
        let _ = ended.try_send(self.work(begin));
    }

    fn work(self, begin: Begin) -> Result<()> {
        let output = match begin {
            Begin::Open(output) => output,
            Begin::First => {
                let output = self.opener.open(&self.video)?;
                info!(output = output.describe(), "the output is open");
                self.shared.opened(&output);
                output
            }
            Begin::Again => {
                let output = self.opener.open(&self.video)?;
                info!(output = output.describe(), "the output is open again");
                self.shared.opened(&output);
                output
            }
        };
        match output {
            Output::Frames(output) => self.frames(output),
            #[cfg(feature = "gstreamer")]
            Output::Units(reader, output) => self.units(reader, output),
            Output::Served(_) => Err(Error::fatal(format!(
                "{}: says that it is kept, and is served to clients",
                self.opener.name()
            ))),
        }
    }

    fn frames(self, mut output: Box<dyn FrameOutput>) -> Result<()> {
        while let Received::Item(frame) = self.frames.recv() {
            let pushed = output.push(frame);
            self.shared.dropped.store(output.dropped(), Relaxed);
            if let Err(why) = pushed {
                self.fail(why, || output.finish());
                return Ok(());
            }
        }
        output.finish()
    }

    #[cfg(feature = "gstreamer")]
    fn units(self, reader: Reader, mut output: Box<dyn UnitOutput>) -> Result<()> {
        let mut failure = None;
        while let (None, Received::Item(unit)) = (&failure, reader.recv(&self.enough)) {
            failure = output.push(&unit).err();
            self.shared.dropped.store(reader.dropped(), Relaxed);
        }
        let failure = failure.or_else(|| reader.failure());
        // The encoder need not wait for the end of the file.
        drop(reader);
        match failure {
            Some(why) => {
                self.fail(why, || output.finish());
                Ok(())
            }
            None => output.finish(),
        }
    }

    /// Tells of a failure, and completes what there is.
    fn fail(&self, why: Error, finish: impl FnOnce() -> Result<()>) {
        self.shared.is_open.store(false, Relaxed);
        // Said before the end of the file is written, which may take long as well.
        let _ = self.ended.try_send(Err(why));
        if let Err(why) = finish() {
            warn!("output {} was not completed: {why}", self.opener.name());
        }
    }
}
