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
//! outputs. This file wires; each thread has a file in `pipeline/`, and what is done to pixels is in the stages.

mod capture;
mod compose;
pub mod control;
mod infer;
mod lost;
mod outputs;
mod painting;

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::Receiver;

use crate::capture::SourceOpener;
use crate::clock::{SharedClock, TimeNs};
use crate::error::Result;
use crate::frame::{Mask, SharedFrame};
use crate::mailbox::{WhenFull, mailbox};
use crate::metrics::Metrics;
use crate::segment::Engine;
use crate::stream::SinkOpener;
use crate::supervise::{Backoff, Ended, OnEnd, OnTransient, Supervisor};

use capture::CaptureStage;
use compose::ComposeStage;
use control::{Control, Looks};
use infer::InferStage;

pub use lost::LostPicture;

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
    /// Ends after this many composed frames.
    pub max_frames: Option<u64>,
    /// What goes out while a live source is away; `None` for nothing.
    pub lost_picture: Option<LostPicture>,
}

/// What a pipeline is made of.
pub struct Parts {
    /// Opens the source.
    pub source: Box<dyn SourceOpener>,
    /// Open the outputs, once the frames' format is known.
    pub sinks: Vec<Box<dyn SinkOpener>>,
    /// Segments; moves to the inference thread.
    pub engine: Engine,
    /// How masks are shown, and what else may change while it runs.
    pub control: Arc<Control>,
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
    /// How masks of its model were shown when it was made.
    looks: Arc<Looks>,
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
        control,
        clock,
        metrics,
    } = parts;
    let retries = matches!(options.on_source_error, OnTransient::Retry(_));
    metrics.vitals.source_is_live.store(retries, Relaxed);
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
        let (newest, control) = (newest.clone(), control.clone());
        supervisor.spawn("infer", OnEnd::GoOn, move || {
            InferStage {
                engine,
                from: infer_rx,
                to_compose: infer_compose,
                newest,
                looks: control.looks(),
                control,
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
            control,
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

/// The source policy for cameras and network streams.
pub fn reconnect() -> OnTransient {
    OnTransient::Retry(Backoff::default())
}
