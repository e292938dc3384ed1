//! The map: which threads there are, what they pass to each other, and what happens when a queue is full.
//!
//! ```text
//!                      Newest                                       Lockstep
//!
//!   [capture]                       [infer]                [capture] --infer: 2, block--> [infer]
//!       |                            |   ^                                                   |
//!       |                         masks   keys                                 frame and its own mask
//!       |                            v   |                                                   v
//!       +--compose: 2, drop oldest--> [compose]                         compose: 2, block--> [compose]
//!                                        |                                                   |
//!                                        v                                                   v
//!                  [encoder] by 2, drop oldest                            [encoder] by 4, block
//!                    |       |                                                     |
//!                  RTSP   [recording] by 256 units,                        [file] by 16 units, block
//!                           drop to next keyframe
//! ```
//!
//! To follow one frame: `CaptureStage` reads it into a pooled buffer. `ComposeStage` gets it and lets `Masks` find
//! its mask: the newest one, moved along the motion of the picture; where the schedule says so the frame becomes a
//! key, `InferStage` gives it to the [`Engine`], and the mask comes back when it is ready. Then the mask is painted onto
//! the frame into a second pool's buffer, which goes to the encoder that the outputs share. In lockstep every frame goes through
//! `InferStage` and waits for its own mask. This file wires; each thread has a file in `pipeline/`, and what is
//! done to pixels is in the stages.

mod apart;
mod capture;
mod compose;
pub mod control;
mod infer;
mod lost;
mod masks;
mod outputs;
mod painting;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crossbeam_channel::Receiver;

use crate::capture::SourceOpener;
use crate::clock::{SharedClock, TimeNs};
use crate::mailbox::{WhenFull, mailbox};
use crate::metrics::Metrics;
use crate::output::OutputOpener;
use crate::schedule::ScheduleOptions;
use crate::supervise::{Backoff, Ended, OnEnd, OnTransient, Supervisor};
use vision::error::Result;
use vision::frame::{LabelMap, SharedFrame};
use vision::propagate::{MotionField, Smoothing, Tiles};
use vision::scene::Segment;
use vision::segment::Engine;

use capture::{CaptureStage, CaptureTo};
use compose::ComposeStage;
use control::{Control, Looks};
use infer::{InferStage, InferTo};
use masks::Masks;

pub use lost::LostPicture;

/// Which mask a frame goes out with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaskPolicy {
    /// The newest that exists, moved with the picture, made as often as [`PipelineOptions::schedule`] says. A live
    /// video keeps the source's rate whatever the network's speed; otherwise every key waits for its own mask.
    Newest,
    /// Its own: every frame waits for the network, and none is dropped. For files and tests.
    Lockstep,
}

/// How a pipeline runs.
#[derive(Debug, Clone)]
pub struct PipelineOptions {
    /// Which mask a frame goes out with.
    pub masks: MaskPolicy,
    /// Which frames are segmented, and what is done between. Not for lockstep.
    pub schedule: ScheduleOptions,
    /// Whether frames may be dropped when a stage is slow. `false` for files that are taken as fast as possible.
    pub live: bool,
    /// What a transient error of the source leads to.
    pub on_source_error: OnTransient,
    /// Longest wait for one frame before the source is asked again whether it is still there.
    pub read_timeout: Duration,
    /// A live source that gives no frame for this long is opened again.
    pub stall_timeout: Duration,
    /// Write each frame's capture time onto its outgoing picture ([`crate::stamp`]), for measuring.
    pub stamp: bool,
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
    pub outputs: Vec<Box<dyn OutputOpener>>,
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
/// Buffers for an output that takes frames: one being painted, and those that it still reads.
const OUTPUT_BUFFERS: usize = 12;
/// Buffers for an encoder: one being painted, up to 8 that wait for it, and those that it still reads.
const ENCODER_BUFFERS: usize = 18;
/// Masks: the newest, one being drawn, one being made, and what lockstep has queued.
const MASKS: usize = 6;
/// Frames that wait for compose.
const COMPOSE_QUEUE: usize = 2;
/// Frames that wait for inference.
const INFER_QUEUE: usize = 2;

/// A mask and the frame it was made from.
#[derive(Debug)]
struct TimedMask {
    captured_at_ns: TimeNs,
    /// Shared with the scenes that are made of it.
    mask: Arc<LabelMap>,
    /// What its numbers stand for.
    segments: Vec<Segment>,
    /// Which parts of it have one label; read where masks are moved.
    tiles: Tiles,
    /// How masks of its model were shown when it was made.
    looks: Arc<Looks>,
}

impl TimedMask {
    /// A mask of no pixels, to be filled.
    fn empty(looks: Arc<Looks>) -> Self {
        Self {
            captured_at_ns: 0,
            mask: Arc::new(LabelMap::zeros(0, 0)),
            segments: Vec::new(),
            tiles: Tiles::default(),
            looks,
        }
    }

    /// The mask to write into. One that a scene still holds is left to it, and replaced.
    fn mask_mut(&mut self) -> &mut LabelMap {
        if Arc::get_mut(&mut self.mask).is_none() {
            self.mask = Arc::new(LabelMap::zeros(self.mask.width, self.mask.height));
        }
        match Arc::get_mut(&mut self.mask) {
            Some(mask) => mask,
            None => unreachable!("a mask that was made just now is nobody else's"),
        }
    }
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
    /// What compose wants to know; `None` in lockstep.
    key: Option<AskedMask>,
}

/// A mask that compose asks for.
struct AskedMask {
    /// Its number; later ones have larger ones.
    id: u64,
    /// The key before, and where this frame's blocks lie in it.
    along: Option<(u64, MotionField)>,
    /// How much that key counts.
    smooth: Smoothing,
    /// Whether a scene cut lies between that key and this frame.
    cut: bool,
}

/// A mask that was asked for.
struct Done {
    id: u64,
    /// `None` if the frame could not be segmented.
    mask: Option<Arc<TimedMask>>,
    /// The field that came with the request, to be used again.
    field: Option<MotionField>,
    at_ns: TimeNs,
    cpu_ns: u64,
}

/// Runs until the source ends, `options.max_frames` are out, a thread fails, or `asked_to_stop` fires.
///
/// # Errors
/// The first error that retrying could not mend.
pub fn run(parts: Parts, options: PipelineOptions, asked_to_stop: &Receiver<()>) -> Result<Ended> {
    let Parts {
        source,
        outputs,
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

    let (compose_tx, compose_rx) = mailbox(COMPOSE_QUEUE, when_full(options.live), &stop);
    metrics.add_mailbox("compose", compose_tx.stats());
    let shared = (clock.clone(), metrics.clone(), control.clone());
    let (to, from, to_compose, masks) = if lockstep {
        let (tx, rx) = mailbox(INFER_QUEUE, when_full(options.live), &stop);
        metrics.add_mailbox("infer", tx.stats());
        (CaptureTo::Infer(tx), rx, InferTo::Frames(compose_tx), None)
    } else {
        // Compose asks for no more than there is room for, so neither side ever waits to send.
        let (tx, rx) = mailbox(INFER_QUEUE, WhenFull::Block, &stop);
        let (done_tx, done_rx) = mailbox(INFER_QUEUE + 1, WhenFull::Block, &stop);
        let masks = Masks::new(options.schedule, tx, done_rx, options.live, shared);
        (
            CaptureTo::Compose(compose_tx),
            rx,
            InferTo::Masks(done_tx),
            Some(masks),
        )
    };
    {
        let (clock, metrics, stop, options) = (clock.clone(), metrics.clone(), stop.clone(), options.clone());
        supervisor.spawn("capture", OnEnd::GoOn, move || {
            CaptureStage {
                source,
                to,
                clock,
                metrics,
                stop,
                options,
            }
            .run()
        })?;
    }
    {
        let (clock, metrics, stop, control) = (clock.clone(), metrics.clone(), stop.clone(), control.clone());
        supervisor.spawn("infer", OnEnd::GoOn, move || {
            InferStage {
                engine,
                from,
                to: to_compose,
                looks: control.looks(),
                control,
                clock,
                metrics,
                stop,
                failing_since_ns: None,
                failures: 0,
            }
            .run()
        })?;
    }
    let openers = outputs.into_iter().map(Arc::from).collect();
    supervisor.spawn("compose", OnEnd::Finish, move || {
        ComposeStage {
            from: compose_rx,
            openers,
            control,
            masks,
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
