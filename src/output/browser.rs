//! Encoded video for browsers: holds an H.264 encoder ready, which [`web`](crate::web) reads while somebody watches.
//!
//! RTSP and recordings with the same settings share the encoder. Where none works, browsers are left with JPEGs, and the
//! pipeline goes on.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::encode::{Codec, EncodeOptions, Encoder};
use crate::output::{Output, OutputOpener, ServedOutput, StreamOptions, Video};
use vision::error::Result;

/// Where the encoder for browsers is found, while there is one.
#[derive(Default)]
pub struct EncoderDesk(ArcSwapOption<Encoder>);

impl EncoderDesk {
    /// The encoder, if one works.
    pub fn encoder(&self) -> Option<Arc<Encoder>> {
        self.0.load_full()
    }
}

/// Opens the output.
pub struct BrowserOpener {
    desk: Arc<EncoderDesk>,
    encoding: EncodeOptions,
}

impl BrowserOpener {
    /// Puts encoders onto this desk. They make H.264, which all browsers take, whatever the other outputs have.
    pub fn new(desk: Arc<EncoderDesk>, options: &StreamOptions) -> Self {
        let mut encoding = options.encoding();
        if encoding.codec != Codec::H264 {
            encoding.codec = Codec::H264;
            // It was chosen for the other codec.
            encoding.encoder = None;
        }
        Self { desk, encoding }
    }
}

impl OutputOpener for BrowserOpener {
    fn name(&self) -> String {
        "browsers".into()
    }

    fn is_live(&self) -> bool {
        true
    }

    fn open(&self, video: &Video) -> Result<Output> {
        let encoder = video.encoder(&self.encoding);
        let encoder = encoder
            .inspect_err(|e| tracing::warn!("browsers get JPEGs alone, no video: {e}"))
            .ok();
        self.desk.0.store(encoder.clone());
        Ok(Output::Served(Box::new(BrowserOutput {
            desk: self.desk.clone(),
            encoder,
        })))
    }
}

struct BrowserOutput {
    desk: Arc<EncoderDesk>,
    encoder: Option<Arc<Encoder>>,
}

impl ServedOutput for BrowserOutput {
    fn describe(&self) -> String {
        match &self.encoder {
            Some(encoder) => encoder.describe("browsers"),
            None => "browsers (JPEGs)".into(),
        }
    }

    fn check(&self) -> Result<()> {
        match self.encoder.as_ref().and_then(|encoder| encoder.failure()) {
            Some(why) => Err(why),
            None => Ok(()),
        }
    }

    /// Nobody reads the output itself: viewers count what they lose.
    fn dropped(&self) -> u64 {
        0
    }

    fn clients(&self) -> usize {
        0
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

impl Drop for BrowserOutput {
    fn drop(&mut self) {
        let ours = self.encoder.as_ref();
        self.desk.0.rcu(|now| match (now, ours) {
            (Some(now), Some(ours)) if !Arc::ptr_eq(now, ours) => Some(now.clone()),
            _ => None,
        });
    }
}
