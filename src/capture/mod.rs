//! Sources of frames. Opening is apart from reading: a source just fails, and the supervisor opens it again.

use std::time::Duration;

use crate::error::Result;
use crate::frame::{Frame, FrameFormat};
use crate::pool::FramePool;

pub mod test_pattern;

/// What a read gave.
#[derive(Debug)]
pub enum Capture {
    /// A frame, its pixels copied once into a pooled buffer.
    Frame(Frame),
    /// The pool was empty: a frame of the source was read and dropped (to be counted).
    Dropped,
    /// Nothing came within the timeout; the source may still be well.
    Timeout,
    /// The source has ended; there is nothing more.
    End,
}

/// An opened source. Used from one thread.
pub trait FrameSource {
    /// The format of all frames until the source is opened again.
    fn format(&self) -> FrameFormat;

    /// Nominal frames per second, if known.
    fn frame_rate(&self) -> Option<f64>;

    /// Frames in all, if known (files).
    fn frame_count(&self) -> Option<u64> {
        None
    }

    /// What was opened, for logs: device, mode, decoder.
    fn describe(&self) -> String;

    /// The next frame, waited for at most `timeout`. Frames whose pool is empty are read and dropped,
    /// so that a slow reader gets fresh pictures.
    ///
    /// # Errors
    /// Transient where opening again may help; the source is not used after an error.
    fn next_frame(&mut self, pool: &FramePool, timeout: Duration) -> Result<Capture>;
}

/// Knows how to open a source, again and again.
pub trait SourceOpener: Send {
    /// What will be opened, for logs and errors.
    fn name(&self) -> String;

    /// Opens the source.
    ///
    /// # Errors
    /// Transient where trying again may help (a camera that is busy or gone), fatal or usage where not.
    fn open(&self) -> Result<Box<dyn FrameSource>>;
}

/// How the source's frames are timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// At the times the recording says, as a camera would deliver them.
    Recorded,
    /// As fast as the pipeline takes them, each exactly once.
    AsFastAsPossible,
}
