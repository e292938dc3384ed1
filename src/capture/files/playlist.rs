//! Several recordings, one after the other.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use vision::error::Result;

use crate::capture::source::{FrameSource, SourceOpener};
use crate::clock::Stop;

/// Opens the recordings of a list in their order, each when the one before has ended.
pub struct PlaylistOpener {
    items: Vec<Box<dyn SourceOpener>>,
    looped: bool,
    current: AtomicUsize,
}

impl PlaylistOpener {
    /// A list of at least one source; `looped`: from the first again after the last.
    pub fn new(items: Vec<Box<dyn SourceOpener>>, looped: bool) -> Self {
        Self {
            items,
            looped,
            current: AtomicUsize::new(0),
        }
    }
}

impl SourceOpener for PlaylistOpener {
    /// That of the recording that is next to be opened.
    fn name(&self) -> String {
        self.items[self.current.load(Relaxed)].name()
    }

    fn open(&self) -> Result<Box<dyn FrameSource>> {
        self.items[self.current.load(Relaxed)].open()
    }

    fn open_until(&self, stop: &Stop) -> Result<Box<dyn FrameSource>> {
        self.items[self.current.load(Relaxed)].open_until(stop)
    }

    fn advance(&self) -> bool {
        let next = self.current.load(Relaxed) + 1;
        if next == self.items.len() && !self.looped {
            return false;
        }
        self.current.store(next % self.items.len(), Relaxed);
        true
    }
}
