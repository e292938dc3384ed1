//! The encoders of a pipeline.

use std::sync::{Arc, Mutex, MutexGuard, Weak};

#[cfg(feature = "gstreamer")]
use super::EncodeOptions;
#[cfg(feature = "gstreamer")]
use super::elements::{self, VideoLayout};
#[cfg(feature = "gstreamer")]
use super::encoder::{Counters, Encoder, Key};
use vision::frame::Frame;
#[cfg(feature = "gstreamer")]
use vision::{error::Result, frame::FrameFormat};

#[cfg(not(feature = "gstreamer"))]
use without::{Counters, Encoder};

/// All encoders of one pipeline: those who want the same get the same one.
pub struct Encoders {
    #[cfg_attr(
        not(feature = "gstreamer"),
        expect(dead_code, reason = "only a made encoder asks")
    )]
    live: bool,
    /// Held for a moment only: compose looks in for every picture.
    list: Mutex<Vec<Weak<Encoder>>>,
    counters: Arc<Counters>,
}

impl Encoders {
    /// None yet. `live` ones drop pictures where they are late; the others wait for their readers and lose nothing.
    pub fn new(live: bool) -> Arc<Self> {
        Arc::new(Self {
            live,
            list: Mutex::default(),
            counters: Arc::default(),
        })
    }

    fn list(&self) -> MutexGuard<'_, Vec<Weak<Encoder>>> {
        self.list.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The encoder for frames of `format` with these options: the one that exists, or a new one, which has been tried.
    ///
    /// # Errors
    /// Usage or fatal, if the format can't be encoded, or no encoder is installed or works.
    #[cfg(feature = "gstreamer")]
    pub fn get(
        &self,
        format: FrameFormat,
        frame_rate: Option<f64>,
        options: &EncodeOptions,
    ) -> Result<Arc<Encoder>> {
        let layout = VideoLayout::new(format, frame_rate)?;
        let key = Key {
            format,
            frame_rate,
            settings: elements::settings(&layout, frame_rate, options),
            wanted: options.encoder.clone(),
        };
        if let Some(found) = self.find(&key) {
            return Ok(found);
        }
        let plan = elements::working_encoder(&layout, &key.settings, key.wanted.as_deref())?;
        let made = Encoder::new(key.clone(), plan, layout, !self.live, self.counters.clone());
        let made = Arc::new(made);
        let mut list = self.list();
        list.retain(|encoder| encoder.strong_count() > 0);
        // Two may have asked at the same time.
        if let Some(found) = list.iter().filter_map(Weak::upgrade).find(|e| e.is(&key)) {
            return Ok(found);
        }
        list.push(Arc::downgrade(&made));
        Ok(made)
    }

    #[cfg(feature = "gstreamer")]
    fn find(&self, key: &Key) -> Option<Arc<Encoder>> {
        self.list()
            .iter()
            .filter_map(Weak::upgrade)
            .find(|encoder| encoder.is(key))
    }

    fn all(&self) -> Vec<Arc<Encoder>> {
        self.list().iter().filter_map(Weak::upgrade).collect()
    }

    /// Those that a picture is for; of a notice, those with a reader that shows it.
    pub fn reading(&self, is_notice: bool) -> Vec<Arc<Encoder>> {
        let mut all = self.all();
        all.retain(|encoder| encoder.has_readers(is_notice));
        all
    }

    /// Encodes a picture for one who has no other use for it; for tests and tools.
    pub fn push(&self, frame: Frame) {
        let mut reading = self.reading(false);
        let Some(last) = reading.pop() else {
            return;
        };
        for encoder in reading {
            encoder.push(
                Frame {
                    data: vision::pool::PooledBuffer::unpooled(frame.data.to_vec()),
                    ..frame
                },
                false,
            );
        }
        last.push(frame, false);
    }

    /// Those that exist, whether they encode or not.
    pub fn count(&self) -> usize {
        self.all().len()
    }

    /// Those that encode now.
    pub fn running(&self) -> usize {
        self.all().iter().filter(|encoder| encoder.is_running()).count()
    }

    /// Pictures that live encoders had no time for.
    pub fn dropped(&self) -> u64 {
        self.counters.dropped.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Pictures that were encoded.
    pub fn encoded(&self) -> u64 {
        self.counters.encoded.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Encodes what waits; then the readers' queues end. A live encoder gets 2 s for it, another 20 s.
    pub fn finish(&self) {
        self.all().iter().for_each(|encoder| encoder.finish());
    }
}

/// A build without GStreamer has no encoder.
#[cfg(not(feature = "gstreamer"))]
mod without {
    use std::sync::atomic::AtomicU64;
    use vision::frame::Frame;

    #[derive(Default)]
    pub(super) struct Counters {
        pub(super) dropped: AtomicU64,
        pub(super) encoded: AtomicU64,
    }

    /// None is ever made.
    pub enum Encoder {}

    impl Encoder {
        pub(super) fn has_readers(&self, _is_notice: bool) -> bool {
            match *self {}
        }

        pub(super) fn is_running(&self) -> bool {
            match *self {}
        }

        pub fn push(&self, _frame: Frame, _is_notice: bool) {
            match *self {}
        }

        pub(super) fn finish(&self) {
            match *self {}
        }
    }
}
