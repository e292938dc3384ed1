//! The compose thread: paints masks onto frames, and hands them to the outputs.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tracing::info;

use super::{NewestMask, OUTPUT_BUFFERS, PipelineOptions, ToCompose};
use crate::clock::{SharedClock, Stop};
use crate::error::Result;
use crate::frame::{Frame, FrameFormat};
use crate::mailbox::{MailboxReceiver, Received};
use crate::metrics::{Metrics, Stage};
use crate::model::contract::Class;
use crate::overlay::Painter;
use crate::pool::{FramePool, PooledBuffer};
use crate::stream::{FrameSink, SinkOpener};

/// What compose needs for frames of one format.
struct Opened {
    format: FrameFormat,
    output_format: FrameFormat,
    painter: Painter,
    pool: FramePool,
    sinks: Vec<Box<dyn FrameSink>>,
}

/// Paints masks onto frames, and hands them to the outputs.
pub(super) struct ComposeStage {
    pub(super) from: MailboxReceiver<ToCompose>,
    pub(super) sinks: Vec<Box<dyn SinkOpener>>,
    pub(super) classes: Vec<Class>,
    pub(super) newest: Arc<NewestMask>,
    pub(super) clock: SharedClock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) stop: Stop,
    pub(super) options: PipelineOptions,
}

impl ComposeStage {
    pub(super) fn run(self) -> Result<()> {
        let mut opened: Option<Opened> = None;
        let result = self.compose_all(&mut opened);
        // Outputs are completed even after an error: what is written so far is worth having.
        let mut finished = Ok(());
        for sink in opened.into_iter().flat_map(|o| o.sinks) {
            finished = finished.and(sink.finish());
        }
        result.and(finished)
    }

    fn compose_all(&self, opened: &mut Option<Opened>) -> Result<()> {
        let mut composed = 0u64;
        while self.options.max_frames.is_none_or(|max| composed < max) {
            let item = match self.from.recv() {
                Received::Item(item) => item,
                Received::Timeout => continue,
                Received::Closed => return Ok(()),
            };
            if opened.as_ref().is_none_or(|o| o.format != item.frame.format) {
                for sink in opened.take().into_iter().flat_map(|o| o.sinks) {
                    sink.finish()?;
                }
                *opened = Some(self.open(item.frame.format, item.frame_rate)?);
            }
            if let Some(opened) = opened.as_mut()
                && self.compose(opened, &item)?
            {
                composed += 1;
            }
        }
        Ok(())
    }

    fn open(&self, format: FrameFormat, frame_rate: Option<f64>) -> Result<Opened> {
        let painter = Painter::new(format, &self.classes, self.options.overlay.clone());
        let output_format = painter.output_format();
        let mut sinks = Vec::with_capacity(self.sinks.len());
        for opener in &self.sinks {
            let sink = opener.open(output_format, frame_rate)?;
            info!(output = sink.describe(), "stream");
            sinks.push(sink);
        }
        let pool = FramePool::new(OUTPUT_BUFFERS * sinks.len().max(1), output_format.packed_bytes());
        Ok(Opened {
            format,
            output_format,
            painter,
            pool,
            sinks,
        })
    }

    /// Paints one frame and pushes it to every output; false if no buffer was free.
    fn compose(&self, opened: &mut Opened, item: &ToCompose) -> Result<bool> {
        let frame = &item.frame;
        let Opened {
            output_format,
            painter,
            pool,
            sinks,
            ..
        } = opened;
        let Some(mut buffer) = self.output_buffer(pool) else {
            return Ok(false);
        };
        let mask = item.own_mask.clone().or_else(|| self.newest.get());
        // A mask of another size was made before the source changed its format.
        let mask =
            mask.filter(|m| (m.mask.width, m.mask.height) == (frame.format.width, frame.format.height));
        match &mask {
            Some(mask) => self
                .metrics
                .mask_age
                .record(frame.captured_at_ns.saturating_sub(mask.captured_at_ns)),
            None => {
                self.metrics.without_mask.fetch_add(1, Relaxed);
            }
        }
        self.metrics.time(Stage::Overlay, || {
            painter.paint(&frame.image(), mask.as_ref().map(|m| &m.mask), &mut buffer);
        });
        let painted = Frame {
            sequence: frame.sequence,
            captured_at_ns: frame.captured_at_ns,
            pts_ns: frame.pts_ns,
            format: *output_format,
            data: buffer,
        };
        self.metrics
            .time(Stage::Stream, || self.push(painted, pool, sinks))?;
        self.metrics
            .capture_to_stream
            .record(self.clock.now_ns().saturating_sub(frame.captured_at_ns));
        self.metrics.composed.fetch_add(1, Relaxed);
        Ok(true)
    }

    /// The first output gets the painted buffer, each further one a copy.
    fn push(&self, painted: Frame, pool: &FramePool, sinks: &mut [Box<dyn FrameSink>]) -> Result<()> {
        let Some((first, others)) = sinks.split_first_mut() else {
            return Ok(());
        };
        for sink in others {
            let Some(mut copy) = self.output_buffer(pool) else {
                continue;
            };
            copy.copy_from_slice(&painted.data);
            sink.push(Frame {
                data: copy,
                ..header(&painted)
            })?;
        }
        first.push(painted)
    }

    /// A free output buffer. A live pipeline drops the frame (counted) where there is none; otherwise it waits.
    fn output_buffer(&self, pool: &FramePool) -> Option<PooledBuffer> {
        loop {
            if let Some(buffer) = pool.take() {
                return Some(buffer);
            }
            if self.options.live {
                self.metrics.dropped_compose.fetch_add(1, Relaxed);
                return None;
            }
            if self.stop.wait(Duration::from_micros(500)) {
                return None;
            }
        }
    }
}

/// A frame's fields without its pixels.
fn header(frame: &Frame) -> Frame {
    Frame {
        sequence: frame.sequence,
        captured_at_ns: frame.captured_at_ns,
        pts_ns: frame.pts_ns,
        format: frame.format,
        data: PooledBuffer::unpooled(Vec::new()),
    }
}
