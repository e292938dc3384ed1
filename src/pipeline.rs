//! The map: which threads there are, what they pass to each other, and what happens when a queue is full.
//!
//! ```text
//!                      Newest                                       Lockstep
//!
//!   [capture] --infer: 1, drop oldest--> [infer]         [capture] --infer: 2, block--> [infer]
//!       |                                   |                                              |
//!       |                              newest mask                          frame and its own mask
//!       |                                   v                                              v
//!       +---compose: 2, drop oldest--> [compose]                          compose: 2, block--> [compose]
//!                                           |                                              |
//!                                           v                                              v
//!                                        outputs                                        outputs
//! ```
//!
//! To follow one frame: `CaptureStage` reads it into a pooled buffer; `InferStage` gives it to the
//! [`Engine`]; `ComposeStage` paints a mask onto it into a second pool's buffer and pushes that to the
//! outputs. This file wires; what is done to pixels is in the stages.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::Receiver;
use tracing::{info, warn};

use crate::capture::{Capture, SourceOpener};
use crate::clock::{SharedClock, Stop, TimeNs};
use crate::error::{Error, Result};
use crate::frame::{Frame, FrameFormat, Mask, SharedFrame};
use crate::mailbox::{MailboxReceiver, MailboxSender, Received, Sent, WhenFull, mailbox};
use crate::metrics::{Metrics, Stage};
use crate::model::contract::Class;
use crate::overlay::{OverlayOptions, Painter};
use crate::pool::FramePool;
use crate::segment::Engine;
use crate::stream::{FrameSink, SinkOpener};
use crate::supervise::{Backoff, Ended, OnEnd, OnTransient, Supervisor, open_with_retry};

/// Which mask a frame goes out with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaskPolicy {
    /// The newest that exists: the video keeps the source's rate whatever the network's speed.
    Newest,
    /// Its own: every frame waits for the network, and none is dropped. For files and tests.
    Lockstep,
}

/// How a pipeline runs.
#[derive(Debug, Clone)]
pub struct PipelineOptions {
    /// Which mask a frame goes out with.
    pub masks: MaskPolicy,
    /// Whether frames may be dropped when a stage is slow. `false` for files that are taken as fast as possible.
    pub live: bool,
    /// What a transient error of the source leads to.
    pub on_source_error: OnTransient,
    /// Longest wait for one frame before the source is asked again whether it is still there.
    pub read_timeout: Duration,
    /// A live source that gives no frame for this long is opened again.
    pub stall_timeout: Duration,
    /// At least this long between the starts of two inferences; zero for as many as there is CPU for.
    pub infer_interval: Duration,
    /// Ends after this many composed frames.
    pub max_frames: Option<u64>,
    /// How masks are drawn.
    pub overlay: OverlayOptions,
}

/// What a pipeline is made of.
pub struct Parts {
    /// Opens the source.
    pub source: Box<dyn SourceOpener>,
    /// Open the outputs, once the frames' format is known.
    pub sinks: Vec<Box<dyn SinkOpener>>,
    /// Segments; moves to the inference thread.
    pub engine: Engine,
    /// The model's classes.
    pub classes: Vec<Class>,
    /// Time.
    pub clock: SharedClock,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// Capture buffers: one being filled, 2 waiting for compose, 1 being composed, 2 waiting for or in
/// inference, and one spare for a frame whose last holder is just letting go.
const CAPTURE_BUFFERS: usize = 8;
/// Output buffers: one being painted, those that a live output keeps queued for its encoder, and those that the
/// encoder still reads.
const OUTPUT_BUFFERS: usize = 12;
/// Masks: the newest, one being drawn, one being made, and what lockstep has queued.
const MASKS: usize = 6;
/// Frames that wait for compose.
const COMPOSE_QUEUE: usize = 2;

/// A mask and the frame it was made from.
#[derive(Debug)]
struct TimedMask {
    captured_at_ns: TimeNs,
    mask: Mask,
}

/// A frame on its way to compose; with its own mask in lockstep.
struct ToCompose {
    frame: SharedFrame,
    own_mask: Option<Arc<TimedMask>>,
    frame_rate: Option<f64>,
}

/// A frame on its way to inference.
struct ToInfer {
    frame: SharedFrame,
    frame_rate: Option<f64>,
}

/// The newest mask. Held only to clone or replace the `Arc`.
#[derive(Debug, Default)]
struct NewestMask(Mutex<Option<Arc<TimedMask>>>);

impl NewestMask {
    fn get(&self) -> Option<Arc<TimedMask>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    fn set(&self, mask: Arc<TimedMask>) {
        *self.0.lock().unwrap_or_else(|e| e.into_inner()) = Some(mask);
    }
}

/// Runs until the source ends, `options.max_frames` are out, a thread fails, or `asked_to_stop` fires.
///
/// # Errors
/// The first error that retrying could not mend.
pub fn run(parts: Parts, options: PipelineOptions, asked_to_stop: &Receiver<()>) -> Result<Ended> {
    let Parts {
        source,
        sinks,
        engine,
        classes,
        clock,
        metrics,
    } = parts;
    let mut supervisor = Supervisor::new();
    let stop = supervisor.stop().clone();
    let when_full = |live| {
        if live {
            WhenFull::DropOldest
        } else {
            WhenFull::Block
        }
    };
    let lockstep = options.masks == MaskPolicy::Lockstep;

    let (infer_tx, infer_rx) = if lockstep {
        mailbox(2, when_full(options.live), &stop)
    } else {
        // Skipping frames is what keeps masks fresh, however fast the source is read.
        mailbox(1, WhenFull::DropOldest, &stop)
    };
    let (compose_tx, compose_rx) = mailbox(COMPOSE_QUEUE, when_full(options.live), &stop);
    if lockstep {
        metrics.add_mailbox("infer", infer_tx.stats());
    }
    metrics.add_mailbox("compose", compose_tx.stats());
    let newest = Arc::new(NewestMask::default());

    let (capture_compose, infer_compose) = if lockstep {
        (None, Some(compose_tx))
    } else {
        (Some(compose_tx), None)
    };
    {
        let (clock, metrics, stop, options) = (clock.clone(), metrics.clone(), stop.clone(), options.clone());
        supervisor.spawn("capture", OnEnd::GoOn, move || {
            CaptureStage {
                source,
                to_infer: infer_tx,
                to_compose: capture_compose,
                clock,
                metrics,
                stop,
                options,
            }
            .run()
        })?;
    }
    {
        let (clock, metrics, stop) = (clock.clone(), metrics.clone(), stop.clone());
        let (newest, interval) = (newest.clone(), options.infer_interval);
        supervisor.spawn("infer", OnEnd::GoOn, move || {
            InferStage {
                engine,
                from: infer_rx,
                to_compose: infer_compose,
                newest,
                interval,
                clock,
                metrics,
                stop,
            }
            .run()
        })?;
    }
    supervisor.spawn("compose", OnEnd::Finish, move || {
        ComposeStage {
            from: compose_rx,
            sinks,
            classes,
            newest,
            clock,
            metrics,
            stop,
            options,
        }
        .run()
    })?;
    supervisor.run(asked_to_stop)
}

/// Opens the source, again and again if so told, and shares every frame.
struct CaptureStage {
    source: Box<dyn SourceOpener>,
    to_infer: MailboxSender<ToInfer>,
    to_compose: Option<MailboxSender<ToCompose>>,
    clock: SharedClock,
    metrics: Arc<Metrics>,
    stop: Stop,
    options: PipelineOptions,
}

impl CaptureStage {
    fn run(self) -> Result<()> {
        let name = self.source.name();
        let mut opened_before = false;
        let mut pool: Option<FramePool> = None;
        loop {
            let open = || self.source.open();
            let Some(mut source) = open_with_retry(
                &name,
                self.options.on_source_error,
                &*self.clock,
                &self.stop,
                open,
            )?
            else {
                return Ok(());
            };
            if opened_before {
                self.metrics.reconnects.fetch_add(1, Relaxed);
            }
            opened_before = true;
            info!(source = source.describe(), format = ?source.format(), "capture");
            // A source that comes back in the same format keeps its buffers.
            let bytes = source.format().packed_bytes();
            let pool = match &pool {
                Some(pool) if pool.buffer_bytes() == bytes => pool.clone(),
                _ => pool.insert(FramePool::new(CAPTURE_BUFFERS, bytes)).clone(),
            };
            match self.read(&mut *source, &pool) {
                Ok(()) => return Ok(()),
                Err(error) => match self.options.on_source_error {
                    OnTransient::Retry(backoff) if error.is_transient() => {
                        warn!("{name}: {error}; opening it again");
                        drop(source);
                        // Otherwise a source that opens and fails at once is opened without pause.
                        self.clock.wait(backoff.first, &self.stop);
                    }
                    _ => return Err(error),
                },
            }
        }
    }

    /// Reads until the end, a stop, or an error.
    fn read(&self, source: &mut dyn crate::capture::FrameSource, pool: &FramePool) -> Result<()> {
        let frame_rate = source.frame_rate();
        let mut last_frame_ns = self.clock.now_ns();
        let mut frames = 0u64;
        while !self.stop.is_stopped() {
            // Where nothing may be lost, wait for a free buffer instead of losing a frame to an empty pool.
            if !self.options.live && pool.available() == 0 {
                self.stop.wait(Duration::from_micros(500));
                continue;
            }
            let timeout = self.options.read_timeout;
            match self
                .metrics
                .time(Stage::Capture, || source.next_frame(pool, timeout))?
            {
                Capture::Frame(frame) => {
                    last_frame_ns = self.clock.now_ns();
                    frames += 1;
                    self.metrics.captured.fetch_add(1, Relaxed);
                    if !self.share(Arc::new(frame), frame_rate) {
                        return Ok(());
                    }
                }
                Capture::Dropped => {
                    last_frame_ns = self.clock.now_ns();
                    self.metrics.dropped_capture.fetch_add(1, Relaxed);
                }
                Capture::Timeout => {
                    let silent_ns = self.clock.now_ns().saturating_sub(last_frame_ns);
                    if silent_ns > self.options.stall_timeout.as_nanos() as u64 {
                        return Err(Error::transient(format!(
                            "{}: no frame for {:.1} s",
                            source.describe(),
                            silent_ns as f64 / 1e9
                        )));
                    }
                }
                Capture::End => {
                    info!(frames, "the source has ended");
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Passes a frame on; false when nobody listens any more.
    fn share(&self, frame: SharedFrame, frame_rate: Option<f64>) -> bool {
        if let Some(to_compose) = &self.to_compose {
            let sent = to_compose.send(ToCompose {
                frame: frame.clone(),
                own_mask: None,
                frame_rate,
            });
            if sent == Sent::Closed {
                return false;
            }
        }
        self.to_infer.send(ToInfer { frame, frame_rate }) != Sent::Closed
    }
}

/// Segments the frames that it gets, and publishes the masks.
struct InferStage {
    engine: Engine,
    from: MailboxReceiver<ToInfer>,
    to_compose: Option<MailboxSender<ToCompose>>,
    newest: Arc<NewestMask>,
    interval: Duration,
    clock: SharedClock,
    metrics: Arc<Metrics>,
    stop: Stop,
}

impl InferStage {
    fn run(mut self) -> Result<()> {
        let mut masks: Vec<Arc<TimedMask>> = (0..MASKS)
            .map(|_| {
                Arc::new(TimedMask {
                    captured_at_ns: 0,
                    mask: Mask::zeros(0, 0),
                })
            })
            .collect();
        let mut prepared: Option<FrameFormat> = None;
        let mut next_ns = 0;
        loop {
            if self.clock.now_ns() < next_ns {
                self.clock.wait_until(next_ns, &self.stop);
            }
            let ToInfer { frame, frame_rate } = match self.from.recv() {
                Received::Item(item) => item,
                Received::Timeout => continue,
                Received::Closed => return Ok(()),
            };
            if prepared != Some(frame.format) {
                let on = self.engine.prepare(frame.format)?;
                let size = self
                    .engine
                    .input_size()
                    .map(|s| format!("{}x{}", s.width, s.height));
                let size = size.unwrap_or_default();
                info!(
                    backend = on.backend,
                    version = on.version,
                    provider = on.provider,
                    precision = on.precision,
                    size,
                    "infer"
                );
                self.metrics.set_runs_on(format!(
                    "{} {} {} {} {size}",
                    on.backend, on.version, on.provider, on.precision
                ));
                prepared = Some(frame.format);
            }
            next_ns = self.clock.now_ns() + self.interval.as_nanos() as u64;
            let Some(slot) = self.free_mask(&mut masks) else {
                return Ok(());
            };
            self.segment(frame, frame_rate, slot, &mut masks)?;
        }
    }

    /// A mask that nobody else holds; waits for one where compose still has them all. `None` on stop.
    fn free_mask(&self, masks: &mut Vec<Arc<TimedMask>>) -> Option<Arc<TimedMask>> {
        loop {
            if let Some(slot) = take_free(masks) {
                return Some(slot);
            }
            if self.stop.wait(Duration::from_micros(500)) {
                return None;
            }
        }
    }

    fn segment(
        &mut self,
        frame: SharedFrame,
        frame_rate: Option<f64>,
        mut slot: Arc<TimedMask>,
        masks: &mut Vec<Arc<TimedMask>>,
    ) -> Result<()> {
        if let Some(timed) = Arc::get_mut(&mut slot) {
            self.engine.segment(&frame.image(), &mut timed.mask)?;
            timed.captured_at_ns = frame.captured_at_ns;
        }
        self.metrics.inferences.fetch_add(1, Relaxed);
        masks.push(slot.clone());
        match &self.to_compose {
            Some(to_compose) => {
                to_compose.send(ToCompose {
                    frame,
                    own_mask: Some(slot),
                    frame_rate,
                });
            }
            None => self.newest.set(slot),
        }
        Ok(())
    }
}

/// Takes a mask that nobody else holds out of the list.
fn take_free(masks: &mut Vec<Arc<TimedMask>>) -> Option<Arc<TimedMask>> {
    let free = masks.iter_mut().position(|m| Arc::get_mut(m).is_some())?;
    Some(masks.swap_remove(free))
}

/// What compose needs for frames of one format.
struct Opened {
    format: FrameFormat,
    output_format: FrameFormat,
    painter: Painter,
    pool: FramePool,
    sinks: Vec<Box<dyn FrameSink>>,
}

/// Paints masks onto frames, and hands them to the outputs.
struct ComposeStage {
    from: MailboxReceiver<ToCompose>,
    sinks: Vec<Box<dyn SinkOpener>>,
    classes: Vec<Class>,
    newest: Arc<NewestMask>,
    clock: SharedClock,
    metrics: Arc<Metrics>,
    stop: Stop,
    options: PipelineOptions,
}

impl ComposeStage {
    fn run(self) -> Result<()> {
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
    fn output_buffer(&self, pool: &FramePool) -> Option<crate::pool::PooledBuffer> {
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
        data: crate::pool::PooledBuffer::unpooled(Vec::new()),
    }
}

/// The source policy for cameras and network streams.
pub fn reconnect() -> OnTransient {
    OnTransient::Retry(Backoff::default())
}
