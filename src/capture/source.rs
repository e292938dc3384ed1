//! What every source is to the pipeline: opened by a [`SourceOpener`], read as a [`FrameSource`]. Opening is apart from
//! reading: a source just fails, and whoever reads it opens it again.

use std::time::Duration;

use crate::clock::Stop;
use vision::error::{Error, Result};
use vision::frame::{Frame, FrameFormat};
use vision::pool::{FramePool, PooledBuffer};

/// What a source lost or changed on the way, since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SourceCounters {
    /// Frames that came broken: dropped, as JPEGs cut short and images that don't decode, or passed on as
    /// [damaged](Frame::damaged).
    pub corrupt: u64,
    /// Frames the device or the network took and we never saw, as far as sequence numbers tell.
    pub lost: u64,
    /// Nanoseconds by which a recording's timeline slipped because its frames came late.
    pub slipped_ns: u64,
    /// Times a looped recording began again.
    pub loops: u64,
}

/// What a read gave.
#[derive(Debug)]
pub enum Capture {
    /// A frame, its pixels copied once into a pooled buffer.
    Frame(Frame),
    /// The pool was empty: a frame of the source was read and dropped (to be counted).
    Dropped,
    /// Frames have another format from here on ([`FrameSource::format`]); the first of them is read next.
    NewFormat,
    /// Nothing came within the timeout; the source may still be well.
    Timeout,
    /// The source has ended; there is nothing more.
    End,
}

/// An opened source. Used from one thread.
pub trait FrameSource {
    /// The format of all frames until [`Capture::NewFormat`], or until the source is opened again.
    fn format(&self) -> FrameFormat;

    /// Nominal frames per second, if known.
    fn frame_rate(&self) -> Option<f64>;

    /// Frames in all, if known (files); an estimate from duration and rate for videos.
    fn frame_count(&self) -> Option<u64> {
        None
    }

    /// What was opened, for logs: device, mode, decoder.
    fn describe(&self) -> String;

    /// Whether the source has its own time and never ends by itself: when it fails, it is worth waiting for.
    fn is_live(&self) -> bool {
        false
    }

    /// What was lost or changed on the way so far.
    fn counters(&self) -> SourceCounters {
        SourceCounters::default()
    }

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

    /// As [`open`](Self::open), for sources whose opening takes its time: it ends soon after `stop`.
    ///
    /// # Errors
    /// As [`open`](Self::open); transient after a stop.
    fn open_until(&self, _stop: &Stop) -> Result<Box<dyn FrameSource>> {
        self.open()
    }

    /// Called when what was opened has ended: moves on to what follows it, to be opened next; false if nothing does.
    fn advance(&self) -> bool {
        false
    }
}

/// A buffer for a frame of `format`; `None` if the pool is empty.
///
/// # Errors
/// Transient, if the pool's buffers are too small: the source's format has changed since the pool was made.
pub(crate) fn take_buffer(pool: &FramePool, format: &FrameFormat) -> Result<Option<PooledBuffer>> {
    if pool.buffer_bytes() < format.packed_bytes() {
        return Err(Error::transient(format!(
            "frames of {:?} {}x{} need {} bytes, the buffers made for them have {}",
            format.pixel,
            format.width,
            format.height,
            format.packed_bytes(),
            pool.buffer_bytes()
        ))
        .hint("the source's format has changed; it is opened again"));
    }
    Ok(pool.take())
}
