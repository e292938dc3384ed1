//! A recording on a thread of its own: a disk that is slow or stuck costs its frames, and holds nobody else up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use tracing::{info, warn};

use crate::clock::{StopHandle, stop_pair};
use crate::mailbox::{MailboxReceiver, MailboxSender, Received, WhenFull, mailbox};
use crate::stream::{FrameSink, SinkOpener};
use crate::supervise::Background;
use vision::error::{Error, Result};
use vision::frame::{Frame, FrameFormat};

/// Frames that wait for a recording. A further one is dropped, so that what is lost is one gap.
pub(super) const QUEUED_FRAMES: usize = 8;

/// An output that is opened, fed and completed by its own thread.
pub(super) struct Apart {
    name: String,
    frames: MailboxSender<Frame>,
    shared: Arc<Shared>,
    ended: Receiver<Result<()>>,
    thread: Background,
    _stop: StopHandle,
}

#[derive(Default)]
struct Shared {
    is_open: AtomicBool,
    /// What the output itself has dropped.
    dropped: AtomicU64,
}

/// What the thread works with.
struct Work {
    opener: Arc<dyn SinkOpener>,
    format: FrameFormat,
    frame_rate: Option<f64>,
    frames: MailboxReceiver<Frame>,
    shared: Arc<Shared>,
    ended: Sender<Result<()>>,
}

impl Apart {
    /// Starts the thread, which opens the output unless it is open already.
    ///
    /// # Errors
    /// Fatal, if the system can't start another thread.
    pub(super) fn start(
        opener: &Arc<dyn SinkOpener>,
        format: FrameFormat,
        frame_rate: Option<f64>,
        open: Option<Box<dyn FrameSink>>,
    ) -> Result<Self> {
        let (handle, stop) = stop_pair();
        let (frames_tx, frames) = mailbox(QUEUED_FRAMES, WhenFull::DropNewest, &stop);
        let (ended_tx, ended) = bounded(1);
        let shared = Arc::new(Shared::default());
        shared.is_open.store(open.is_some(), Relaxed);
        let work = Work {
            opener: opener.clone(),
            format,
            frame_rate,
            frames,
            shared: shared.clone(),
            ended: ended_tx,
        };
        let thread = Background::spawn("recording", move |_| work.run(open))?;
        Ok(Self {
            name: opener.name(),
            frames: frames_tx,
            shared,
            ended,
            thread,
            _stop: handle,
        })
    }

    /// Leaves the frame to the thread; drops it, counted, if too many wait.
    ///
    /// # Errors
    /// Why the output has ended.
    pub(super) fn push(&self, frame: Frame) -> Result<()> {
        if let Ok(Err(why)) = self.ended.try_recv() {
            return Err(why);
        }
        self.frames.send(frame);
        Ok(())
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
    fn run(self, open: Option<Box<dyn FrameSink>>) {
        let ended = self.ended.clone();
        // Room for one; a second result follows only an error, and nobody asks for it.
        let _ = ended.try_send(self.record(open));
    }

    fn record(self, open: Option<Box<dyn FrameSink>>) -> Result<()> {
        let mut sink = match open {
            Some(sink) => sink,
            None => {
                let sink = self.opener.open(self.format, self.frame_rate)?;
                info!(output = sink.describe(), "stream: open again");
                self.shared.is_open.store(true, Relaxed);
                sink
            }
        };
        while let Received::Item(frame) = self.frames.recv() {
            let pushed = sink.push(frame);
            self.shared.dropped.store(sink.dropped(), Relaxed);
            if let Err(why) = pushed {
                self.shared.is_open.store(false, Relaxed);
                // Said before the end of the file is written, which may take long as well.
                let _ = self.ended.try_send(Err(why));
                if let Err(why) = sink.finish() {
                    warn!("output {} was not completed: {why}", self.opener.name());
                }
                return Ok(());
            }
        }
        sink.finish()
    }
}
