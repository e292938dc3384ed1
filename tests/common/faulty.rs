//! A live pipeline with made stages that fail as told.

#![allow(dead_code, reason = "each test file uses its part")]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use segd::capture::{Capture, FrameSource, SourceOpener};
use segd::clock::{RealClock, SharedClock};
use segd::metrics::Metrics;
use segd::output::{FrameOutput, Output, OutputOpener, Video};
use segd::pipeline::control::{Control, Looks, Privacy};
use segd::pipeline::{LostPicture, MaskPolicy, Parts, PipelineOptions, reconnect, run};
use segd::schedule::ScheduleOptions;
use segd::supervise::{Ended, OnTransient};
use vision::error::{Error, Result};
use vision::frame::{Frame, FrameFormat, PixelFormat};
use vision::model::Model;
use vision::overlay::OverlayOptions;
use vision::pool::FramePool;
use vision::redact::{How, RedactOptions};
use vision::scene::ModelInfo;
use vision::segment::{Engine, Fallback};

use crate::made::{self, Gives, flat};

pub const WIDTH: usize = 64;
pub const HEIGHT: usize = 64;
/// Luma of the captured pictures: what must not go out in clear.
pub const SECRET: u8 = 200;

pub fn format() -> FrameFormat {
    FrameFormat::new(PixelFormat::I420, WIDTH, HEIGHT)
}

pub type Step = Box<dyn FnMut(u64) -> Result<Option<u64>> + Send>;

/// A source whose `next` says for each read the frame's time, that nothing came, or an error.
pub struct Source {
    pub opened: Arc<AtomicUsize>,
    pub next: Arc<Mutex<Step>>,
    /// Whether what is read from now on is damaged.
    pub damaged: Arc<AtomicBool>,
}

pub struct Opened {
    pub next: Arc<Mutex<Step>>,
    pub sequence: u64,
    pub damaged: Arc<AtomicBool>,
}

impl SourceOpener for Source {
    fn name(&self) -> String {
        "made".into()
    }

    fn open(&self) -> Result<Box<dyn FrameSource>> {
        self.opened.fetch_add(1, Relaxed);
        Ok(Box::new(Opened {
            next: self.next.clone(),
            sequence: 0,
            damaged: self.damaged.clone(),
        }))
    }
}

impl FrameSource for Opened {
    fn format(&self) -> FrameFormat {
        format()
    }

    fn frame_rate(&self) -> Option<f64> {
        Some(100.0)
    }

    fn describe(&self) -> String {
        "made".into()
    }

    fn next_frame(&mut self, pool: &FramePool, timeout: Duration) -> Result<Capture> {
        std::thread::sleep(Duration::from_millis(5));
        let Some(at) = (self.next.lock().unwrap())(self.sequence)? else {
            std::thread::sleep(timeout.min(Duration::from_millis(20)));
            return Ok(Capture::Timeout);
        };
        let Some(mut data) = pool.take() else {
            return Ok(Capture::Dropped);
        };
        data[..WIDTH * HEIGHT].fill(SECRET);
        data[WIDTH * HEIGHT..].fill(128);
        self.sequence += 1;
        Ok(Capture::Frame(Frame {
            sequence: self.sequence,
            captured_at_ns: at,
            pts_ns: at,
            format: format(),
            damaged: self.damaged.load(Relaxed),
            data,
        }))
    }
}

/// What the network does when it runs for the n-th time.
pub type Answer = Arc<dyn Fn(u64) -> Result<u8> + Send + Sync>;

/// What reached the output.
#[derive(Clone, Default)]
pub struct Seen {
    pub pictures: Arc<Mutex<Vec<Vec<u8>>>>,
    pub opened: Arc<AtomicUsize>,
    /// Pushes so far, over all openings.
    pub pushed: Arc<AtomicUsize>,
}

/// The error of the n-th call, if it fails.
pub type Fails = Arc<dyn Fn(usize) -> Option<Error> + Send + Sync>;

pub struct Sink {
    pub seen: Seen,
    pub fail: Fails,
    pub fail_open: Fails,
}

impl OutputOpener for Sink {
    fn name(&self) -> String {
        "sink".into()
    }

    fn is_live(&self) -> bool {
        true
    }

    fn open(&self, _video: &Video) -> Result<Output> {
        if let Some(error) = (self.fail_open)(self.seen.opened.fetch_add(1, Relaxed)) {
            return Err(error);
        }
        Ok(Output::Frames(Box::new(Self {
            seen: self.seen.clone(),
            fail: self.fail.clone(),
            fail_open: self.fail_open.clone(),
        })))
    }
}

impl FrameOutput for Sink {
    fn describe(&self) -> String {
        "sink".into()
    }

    fn push(&mut self, frame: Frame) -> Result<()> {
        let n = self.seen.pushed.fetch_add(1, Relaxed);
        if let Some(error) = (self.fail)(n) {
            return Err(error);
        }
        self.seen.pictures.lock().unwrap().push(frame.data[..].to_vec());
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

pub fn model() -> Arc<Model> {
    made::model(WIDTH, HEIGHT, "person", Gives::Labels)
}

pub fn looks(generation: u64, privacy: Option<How>) -> Looks {
    Looks {
        model: ModelInfo::of(&model().contract, generation),
        overlay: OverlayOptions {
            alpha: 0.0,
            legend: false,
            ..OverlayOptions::default()
        },
        colors: Default::default(),
        privacy: privacy.map(|how| Privacy {
            redact: RedactOptions {
                how: vec![None, Some(how)],
                margin: 0.0,
            },
            max_mask_age: Duration::from_millis(300),
        }),
    }
}

pub fn engine(answer: Answer, metrics: &Arc<Metrics>) -> Engine {
    made::engine(&model(), metrics, move |size| {
        let (answer, mut runs) = (answer.clone(), 0);
        Box::new(move |_, output| {
            runs += 1;
            *output = flat(size, answer(runs)?);
            Ok(())
        })
    })
}

/// A live pipeline whose stages fail as told.
pub struct Rig {
    pub clock: SharedClock,
    pub metrics: Arc<Metrics>,
    pub control: Arc<Control>,
    pub seen: Seen,
    pub opened: Arc<AtomicUsize>,
    pub stop: Sender<()>,
    pub thread: std::thread::JoinHandle<Result<Ended>>,
}

pub struct Faults {
    pub next: Step,
    pub answer: Answer,
    pub fail_sink: Fails,
    pub fail_open: Fails,
    /// Outputs before that one.
    pub beside: Vec<Box<dyn OutputOpener>>,
    /// The pictures' format while the source is away.
    pub lost_format: FrameFormat,
    pub privacy: Option<How>,
    pub clock: SharedClock,
    /// What takes over where the network fails.
    pub fallbacks: Vec<Fallback>,
    pub masks: MaskPolicy,
    /// Whether what is read from now on is damaged.
    pub damaged: Arc<AtomicBool>,
    /// What an error of the source leads to.
    pub on_source_error: OnTransient,
}

impl Default for Faults {
    fn default() -> Self {
        let clock = RealClock::shared();
        let now = clock.clone();
        Self {
            next: Box::new(move |_| Ok(Some(now.now_ns()))),
            answer: Arc::new(|_| Ok(0)),
            fail_sink: Arc::new(|_| None),
            fail_open: Arc::new(|_| None),
            beside: Vec::new(),
            lost_format: format(),
            privacy: None,
            clock,
            fallbacks: Vec::new(),
            masks: MaskPolicy::Newest,
            damaged: Arc::default(),
            on_source_error: reconnect(),
        }
    }
}

impl Faults {
    pub fn start(mut self) -> Rig {
        let metrics = Metrics::shared();
        let control = Control::new(looks(0, self.privacy), Duration::ZERO);
        let (seen, opened) = (Seen::default(), Arc::new(AtomicUsize::new(0)));
        self.beside.push(Box::new(Sink {
            seen: seen.clone(),
            fail: self.fail_sink,
            fail_open: self.fail_open,
        }));
        let parts = Parts {
            source: Box::new(Source {
                opened: opened.clone(),
                next: Arc::new(Mutex::new(self.next)),
                damaged: self.damaged,
            }),
            outputs: self.beside,
            engine: engine(self.answer, &metrics).with_fallbacks(self.fallbacks),
            control: control.clone(),
            clock: self.clock.clone(),
            metrics: metrics.clone(),
        };
        let options = PipelineOptions {
            masks: self.masks,
            schedule: ScheduleOptions::hold(),
            stamp: false,
            live: matches!(self.on_source_error, OnTransient::Retry(_)),
            on_source_error: self.on_source_error,
            read_timeout: Duration::from_millis(50),
            stall_timeout: Duration::from_secs(1),
            max_frames: None,
            lost_picture: Some(LostPicture {
                after: Duration::from_millis(400),
                period: Duration::from_millis(100),
                format: self.lost_format,
                frame_rate: Some(30.0),
            }),
        };
        let (stop, asked) = bounded(1);
        let thread = std::thread::spawn(move || run(parts, options, &asked));
        Rig {
            clock: self.clock,
            metrics,
            control,
            seen,
            opened,
            stop,
            thread,
        }
    }
}

impl Rig {
    #[track_caller]
    pub fn wait(&self, what: &str, ready: impl Fn(&Self) -> bool) {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while !ready(self) {
            assert!(std::time::Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn pictures(&self) -> Vec<Vec<u8>> {
        self.seen.pictures.lock().unwrap().clone()
    }

    pub fn stop(self) -> Result<Ended> {
        let _ = self.stop.send(());
        self.thread.join().unwrap()
    }
}

/// Notices may be smaller.
pub fn shows_secret(picture: &[u8]) -> bool {
    picture.len() > WIDTH * HEIGHT && picture[..WIDTH * HEIGHT].contains(&SECRET)
}
