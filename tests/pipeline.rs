//! The pipeline with made sources, networks and outputs: what goes out, what is dropped, how it ends.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use segd::capture::{Capture, FrameSource, SourceOpener};
use segd::clock::{RealClock, SimulatedClock};
use segd::metrics::Metrics;
use segd::output::{FrameOutput, Output, OutputOpener, Video};
use segd::pipeline::control::{Control, Looks};
use segd::pipeline::{MaskPolicy, Parts, PipelineOptions, run};
use segd::schedule::{Reason, ScheduleOptions};
use segd::supervise::{Backoff, Ended, OnTransient};
use vision::error::{Error, Result};
use vision::frame::{Frame, FrameFormat, PixelFormat};
use vision::infer::{InputSize, TensorData};
use vision::overlay::{OverlayOptions, Visualize};
use vision::pool::FramePool;
use vision::scene::ModelInfo;

#[path = "common/made.rs"]
mod made;

use made::{Gives, Run, flat};

const WIDTH: usize = 64;
const HEIGHT: usize = 32;

fn format() -> FrameFormat {
    FrameFormat::new(PixelFormat::I420, WIDTH, HEIGHT)
}

/// What a made source does at each step.
#[derive(Clone)]
enum Step {
    /// A grey frame of this luma.
    Frame(u8),
    /// The source fails.
    Fail(bool),
    /// Opening fails (first step of an opening).
    OpenFail(bool),
}

/// Each opening takes the next list of steps; after the last the source ends.
struct MadeSource {
    openings: Mutex<std::vec::IntoIter<Vec<Step>>>,
    interval: Duration,
    sequence: Arc<AtomicUsize>,
}

impl MadeSource {
    fn new(openings: Vec<Vec<Step>>, interval: Duration) -> Box<Self> {
        Box::new(Self {
            openings: Mutex::new(openings.into_iter()),
            interval,
            sequence: Arc::new(AtomicUsize::new(0)),
        })
    }
}

fn error(transient: bool) -> Error {
    if transient {
        Error::transient("made failure")
    } else {
        Error::fatal("made failure")
    }
}

impl SourceOpener for MadeSource {
    fn name(&self) -> String {
        "made".into()
    }

    fn open(&self) -> Result<Box<dyn FrameSource>> {
        let mut steps = self
            .openings
            .lock()
            .unwrap()
            .next()
            .unwrap_or_default()
            .into_iter()
            .peekable();
        if let Some(Step::OpenFail(transient)) = steps.peek() {
            return Err(error(*transient));
        }
        Ok(Box::new(Opened {
            steps: steps.collect::<Vec<_>>().into_iter(),
            interval: self.interval,
            sequence: self.sequence.clone(),
        }))
    }
}

struct Opened {
    steps: std::vec::IntoIter<Step>,
    interval: Duration,
    sequence: Arc<AtomicUsize>,
}

impl FrameSource for Opened {
    fn format(&self) -> FrameFormat {
        format()
    }

    fn frame_rate(&self) -> Option<f64> {
        Some(30.0)
    }

    fn describe(&self) -> String {
        "made source".into()
    }

    fn next_frame(&mut self, pool: &FramePool, _timeout: Duration) -> Result<Capture> {
        std::thread::sleep(self.interval);
        match self.steps.next() {
            Some(Step::Frame(luma)) => {
                let Some(mut data) = pool.take() else {
                    return Ok(Capture::Dropped);
                };
                data[..WIDTH * HEIGHT].fill(luma);
                data[WIDTH * HEIGHT..].fill(128);
                let sequence = self.sequence.fetch_add(1, Ordering::Relaxed) as u64;
                Ok(Capture::Frame(Frame {
                    sequence,
                    captured_at_ns: sequence * 33_000_000,
                    pts_ns: sequence * 33_000_000,
                    format: format(),
                    damaged: false,
                    data,
                }))
            }
            Some(Step::Fail(transient) | Step::OpenFail(transient)) => Err(error(transient)),
            None => Ok(Capture::End),
        }
    }
}

/// Labels bright pictures 1 and dark ones 0, after waiting for a permit if there is a gate.
fn brightness(size: InputSize, gate: Option<Receiver<()>>) -> Run {
    Box::new(move |input, output| {
        if let Some(gate) = &gate {
            let _ = gate.recv();
        }
        let TensorData::F32(values) = input else {
            panic!("the contract says f32")
        };
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        *output = flat(size, u8::from(mean > 100.0));
        Ok(())
    })
}

/// (sequence, luma of the first pixel) of every frame; whether it was finished.
#[derive(Default, Clone)]
struct Recorded {
    frames: Arc<Mutex<Vec<(u64, u8)>>>,
    opened: Arc<AtomicUsize>,
    finished: Arc<AtomicUsize>,
}

struct Recorder {
    recorded: Recorded,
    keep: Option<Arc<Mutex<Vec<Frame>>>>,
    fail_at: Option<usize>,
}

impl OutputOpener for Recorder {
    fn name(&self) -> String {
        "recorder".into()
    }

    fn is_live(&self) -> bool {
        true
    }

    fn open(&self, video: &Video) -> Result<Output> {
        assert_eq!(video.format.pixel, PixelFormat::I420);
        self.recorded.opened.fetch_add(1, Ordering::Relaxed);
        Ok(Output::Frames(Box::new(Recorder {
            recorded: self.recorded.clone(),
            keep: self.keep.clone(),
            fail_at: self.fail_at,
        })))
    }
}

impl FrameOutput for Recorder {
    fn describe(&self) -> String {
        "recorder".into()
    }

    fn push(&mut self, frame: Frame) -> Result<()> {
        let mut frames = self.recorded.frames.lock().unwrap();
        if self.fail_at == Some(frames.len()) {
            return Err(Error::fatal("disk full"));
        }
        frames.push((frame.sequence, frame.data[0]));
        if let Some(keep) = &self.keep {
            keep.lock().unwrap().push(frame);
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.recorded.finished.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Sequence number and first luma of each frame that reached an output.
type Pushed = Vec<(u64, u8)>;

struct Rig {
    recorded: Recorded,
    metrics: Arc<Metrics>,
    parts: Parts,
    options: PipelineOptions,
    stop_tx: Sender<()>,
    stop_rx: Receiver<()>,
}

/// A pipeline in lockstep that shows labels as luma.
fn rig(source: Box<MadeSource>, gate: Option<Receiver<()>>) -> Rig {
    let recorded = Recorded::default();
    let metrics = Metrics::shared();
    let model = made::model(WIDTH, HEIGHT, "bright", Gives::Labels);
    let engine = made::engine(&model, &metrics, move |size| brightness(size, gate.clone()));
    let parts = Parts {
        source,
        outputs: vec![Box::new(Recorder {
            recorded: recorded.clone(),
            keep: None,
            fail_at: None,
        })],
        engine,
        control: Control::new(
            Looks {
                model: ModelInfo::of(&model.contract, 0),
                overlay: OverlayOptions {
                    mode: Visualize::Labels,
                    ..OverlayOptions::default()
                },
                colors: Default::default(),
                privacy: None,
            },
            Duration::ZERO,
        ),
        clock: RealClock::shared(),
        metrics: metrics.clone(),
    };
    let options = PipelineOptions {
        masks: MaskPolicy::Lockstep,
        schedule: ScheduleOptions::hold(),
        live: false,
        on_source_error: OnTransient::GiveUp,
        read_timeout: Duration::from_millis(100),
        stall_timeout: Duration::from_secs(5),
        stamp: false,
        max_frames: None,
        lost_picture: None,
    };
    let (stop_tx, stop_rx) = bounded(1);
    Rig {
        recorded,
        metrics,
        parts,
        options,
        stop_tx,
        stop_rx,
    }
}

impl Rig {
    fn run(self) -> (Result<Ended>, Pushed, Arc<Metrics>, Recorded) {
        let result = run(self.parts, self.options, &self.stop_rx);
        let frames = self.recorded.frames.lock().unwrap().clone();
        (result, frames, self.metrics, self.recorded)
    }
}

/// Alternating dark and bright frames.
fn alternating(n: usize) -> Vec<Step> {
    (0..n)
        .map(|i| Step::Frame(if i % 2 == 0 { 30 } else { 220 }))
        .collect()
}

#[test]
fn lockstep_gives_every_frame_once_with_its_own_mask() {
    let (result, frames, metrics, recorded) =
        rig(MadeSource::new(vec![alternating(200)], Duration::ZERO), None).run();
    assert_eq!(result.unwrap(), Ended::Finished);
    let expected: Vec<(u64, u8)> = (0..200).map(|i| (i, (i % 2) as u8)).collect();
    assert_eq!(
        frames, expected,
        "labels are drawn as luma: 0 for dark frames, 1 for bright ones"
    );
    let snapshot = metrics.snapshot();
    assert_eq!(
        (snapshot.captured, snapshot.inferences, snapshot.composed),
        (200, 200, 200)
    );
    assert_eq!(snapshot.dropped_capture + snapshot.dropped_compose, 0);
    assert_eq!(recorded.finished.load(Ordering::Relaxed), 1);
}

#[test]
fn a_network_that_stands_still_costs_no_frame() {
    // The network answers the first picture, then never again while the source runs.
    let (permit, gate) = unbounded();
    permit.send(()).unwrap();
    let mut rig = rig(
        MadeSource::new(vec![alternating(60)], Duration::from_millis(5)),
        Some(gate),
    );
    rig.options.masks = MaskPolicy::Newest;
    rig.options.live = true;
    // The network is let go only when all frames are out.
    let recorded = rig.recorded.clone();
    let release = std::thread::spawn(move || {
        let deadline = Instant::now() + Duration::from_secs(20);
        while recorded.frames.lock().unwrap().len() < 60 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        let out = recorded.frames.lock().unwrap().len();
        drop(permit);
        out
    });
    let (result, _, metrics, _) = rig.run();
    result.unwrap();
    assert_eq!(
        release.join().unwrap(),
        60,
        "every frame went out while the network stood still"
    );
    assert!(metrics.snapshot().inferences < 5);
}

#[test]
fn a_source_that_fails_is_opened_again_and_outputs_stay_open() {
    let openings = vec![
        vec![Step::OpenFail(true)],
        vec![Step::Frame(30), Step::Fail(true)],
        vec![Step::OpenFail(true)],
        vec![Step::OpenFail(true)],
        vec![Step::Frame(220)],
    ];
    let mut rig = rig(MadeSource::new(openings, Duration::ZERO), None);
    rig.options.on_source_error = OnTransient::Retry(Backoff {
        first: Duration::from_millis(500),
        max: Duration::from_secs(10),
    });
    let clock = SimulatedClock::auto();
    rig.parts.clock = clock.clone();
    let (result, frames, metrics, recorded) = rig.run();
    assert_eq!(result.unwrap(), Ended::Finished);
    assert_eq!(frames, [(0, 0), (1, 1)]);
    assert_eq!(metrics.snapshot().reconnects, 1);
    assert_eq!(recorded.opened.load(Ordering::Relaxed), 1);
    use segd::clock::Clock;
    // 0.5 s before the second opening; 0.5 s after the failed read, then 0.5 s and 1 s of backoff.
    assert_eq!(clock.now_ns(), 2_500_000_000);
}

#[test]
fn a_fatal_error_of_the_source_ends_the_run_and_completes_the_outputs() {
    let source = MadeSource::new(
        vec![vec![Step::Frame(30), Step::Fail(false)]],
        Duration::from_millis(20),
    );
    let mut rig = rig(source, None);
    rig.options.on_source_error = OnTransient::Retry(Backoff::default());
    let (result, _, _, recorded) = rig.run();
    assert!(result.unwrap_err().to_string().contains("made failure"));
    assert_eq!(
        recorded.opened.load(Ordering::Relaxed),
        recorded.finished.load(Ordering::Relaxed),
        "what was opened was finished"
    );
}

#[test]
fn an_output_that_fails_ends_the_run_with_its_error() {
    let mut rig = rig(MadeSource::new(vec![alternating(50)], Duration::ZERO), None);
    rig.parts.outputs = vec![Box::new(Recorder {
        recorded: rig.recorded.clone(),
        keep: None,
        fail_at: Some(3),
    })];
    let (result, frames, _, _) = rig.run();
    assert!(result.unwrap_err().to_string().contains("disk full"));
    assert_eq!(frames.len(), 3);
}

#[test]
fn an_output_that_keeps_its_frames_makes_a_live_pipeline_drop_and_count() {
    let mut rig = rig(
        MadeSource::new(vec![alternating(100)], Duration::from_millis(1)),
        None,
    );
    rig.options.masks = MaskPolicy::Newest;
    rig.options.live = true;
    let keep = Arc::new(Mutex::new(Vec::new()));
    rig.parts.outputs = vec![Box::new(Recorder {
        recorded: rig.recorded.clone(),
        keep: Some(keep.clone()),
        fail_at: None,
    })];
    let (result, frames, metrics, _) = rig.run();
    assert_eq!(result.unwrap(), Ended::Finished);
    let snapshot = metrics.snapshot();
    assert_eq!(frames.len(), keep.lock().unwrap().len());
    assert!(frames.len() < 100 && snapshot.dropped_compose > 0, "{snapshot:?}");
    let dropped_queue: u64 = snapshot.dropped_mailboxes.iter().map(|(_, n)| n).sum();
    assert_eq!(
        snapshot.composed + snapshot.dropped_compose + dropped_queue + snapshot.dropped_capture,
        100,
        "every frame is either out or counted: {snapshot:?}"
    );
}

#[test]
fn max_frames_ends_the_run() {
    let mut rig = rig(
        MadeSource::new(vec![alternating(500)], Duration::from_millis(1)),
        None,
    );
    rig.options.max_frames = Some(7);
    let (result, frames, _, recorded) = rig.run();
    assert_eq!(result.unwrap(), Ended::Finished);
    assert_eq!(frames.len(), 7);
    assert_eq!(recorded.finished.load(Ordering::Relaxed), 1);
}

#[test]
fn a_stop_ends_the_run_and_completes_the_outputs() {
    let rig = rig(
        MadeSource::new(vec![alternating(100_000)], Duration::from_millis(1)),
        None,
    );
    let (stop, recorded) = (rig.stop_tx.clone(), rig.recorded.clone());
    std::thread::spawn(move || {
        while recorded.frames.lock().unwrap().len() < 5 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = stop.send(());
    });
    let (result, frames, _, recorded) = rig.run();
    assert_eq!(result.unwrap(), Ended::Stopped);
    assert!(frames.len() >= 5);
    assert_eq!(recorded.finished.load(Ordering::Relaxed), 1);
}

#[test]
fn two_outputs_get_the_same_frames() {
    let mut rig = rig(MadeSource::new(vec![alternating(20)], Duration::ZERO), None);
    let second = Recorded::default();
    rig.parts.outputs.push(Box::new(Recorder {
        recorded: second.clone(),
        keep: None,
        fail_at: None,
    }));
    let (result, frames, _, _) = rig.run();
    result.unwrap();
    assert_eq!(frames.len(), 20);
    assert_eq!(frames, *second.frames.lock().unwrap());
}

/// Runs frames with the newest mask, each key waiting for its own: the same in each run.
fn scheduled(steps: Vec<Step>, schedule: ScheduleOptions) -> (Pushed, Arc<Metrics>) {
    let mut rig = rig(MadeSource::new(vec![steps], Duration::ZERO), None);
    rig.options.masks = MaskPolicy::Newest;
    rig.options.schedule = schedule;
    let (result, frames, metrics, _) = rig.run();
    assert_eq!(result.unwrap(), Ended::Finished);
    (frames, metrics)
}

fn asked(metrics: &Metrics) -> Vec<(Reason, u64)> {
    let asked = metrics.snapshot().asked;
    asked.into_iter().filter(|(_, n)| *n > 0).collect()
}

#[test]
fn every_fourth_frame_is_segmented_and_the_others_keep_its_mask() {
    let schedule = ScheduleOptions {
        every: Some(4),
        ..ScheduleOptions::hold()
    };
    let steps = (0..12)
        .map(|n| Step::Frame(if n < 6 { 30 } else { 220 }))
        .collect();
    let (frames, metrics) = scheduled(steps, schedule);
    // Frames 6 and 7 still have the mask of frame 4: without propagation nobody looks for cuts.
    let expected: Vec<(u64, u8)> = (0..12).map(|n| (n, u8::from(n >= 8))).collect();
    assert_eq!(frames, expected);
    assert_eq!(asked(&metrics), [(Reason::First, 1), (Reason::Every, 2)]);
    assert_eq!(metrics.snapshot().inferences, 3);
}

#[test]
fn a_scene_cut_is_segmented_at_once() {
    let schedule = ScheduleOptions {
        every: Some(100),
        ..ScheduleOptions::default()
    };
    let steps = (0..12)
        .map(|n| Step::Frame(if n < 6 { 30 } else { 220 }))
        .collect();
    let (frames, metrics) = scheduled(steps, schedule);
    let expected: Vec<(u64, u8)> = (0..12).map(|n| (n, u8::from(n >= 6))).collect();
    assert_eq!(frames, expected);
    assert_eq!(asked(&metrics), [(Reason::First, 1), (Reason::Cut, 1)]);
}

#[test]
fn a_still_scene_is_segmented_once_a_second() {
    let steps = vec![Step::Frame(220); 100];
    let (frames, metrics) = scheduled(steps, ScheduleOptions::default());
    assert_eq!(frames.len(), 100);
    assert!(frames.iter().all(|(_, label)| *label == 1));
    // Frames are 33 ms apart: frames 31, 62 and 93 are the first after a second.
    assert_eq!(asked(&metrics), [(Reason::First, 1), (Reason::Refresh, 3)]);
    assert_eq!(metrics.snapshot().propagated, 0, "nothing moves");
}

#[test]
fn after_a_cut_no_mask_is_shown_until_its_own_is_there() {
    // One inference is allowed; the next stands still until all frames are out.
    let (permit, gate) = unbounded();
    permit.send(()).unwrap();
    let mut steps = vec![Step::Frame(220); 40];
    steps.extend(vec![Step::Frame(20); 20]);
    let mut rig = rig(MadeSource::new(vec![steps], Duration::from_millis(5)), Some(gate));
    rig.options.masks = MaskPolicy::Newest;
    rig.options.live = true;
    rig.options.schedule = ScheduleOptions {
        wait: Duration::ZERO,
        hide_after: Duration::MAX,
        ..ScheduleOptions::default()
    };
    let recorded = rig.recorded.clone();
    let release = std::thread::spawn(move || {
        let deadline = Instant::now() + Duration::from_secs(20);
        while recorded.frames.lock().unwrap().len() < 60 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        drop(permit);
    });
    let (result, frames, metrics, _) = rig.run();
    result.unwrap();
    release.join().unwrap();
    assert_eq!(frames.len(), 60);
    // Without a mask labels are drawn black, which is luma 16.
    assert!(frames[30..40].iter().all(|(_, luma)| *luma == 1), "{frames:?}");
    assert!(frames[40..].iter().all(|(_, luma)| *luma == 16), "{frames:?}");
    assert_eq!(metrics.snapshot().blanked, 20);
}

#[test]
fn a_mask_older_than_the_limit_is_not_shown() {
    // From frame 5 on the picture is another, but no cut: its brightness differs too little.
    let steps = (0..20)
        .map(|n| Step::Frame(if n < 5 { 190 } else { 206 }))
        .collect();
    let mut rig = rig(MadeSource::new(vec![steps], Duration::from_millis(5)), None);
    rig.options.masks = MaskPolicy::Newest;
    rig.options.live = true;
    rig.options.schedule = ScheduleOptions {
        every: Some(1000),
        wait: Duration::from_secs(5),
        hide_after: Duration::from_millis(100),
        ..ScheduleOptions::default()
    };
    let (result, frames, metrics, _) = rig.run();
    result.unwrap();
    // Frame 4 is the last that is the key's picture; frame 7 is 99 ms later, frame 8 132 ms. Frames that come while
    // the first waits for its mask may be dropped.
    assert!(frames.len() > 14, "{frames:?}");
    for &(n, luma) in &frames {
        assert_eq!(luma, if n < 8 { 1 } else { 16 }, "frame {n} of {frames:?}");
    }
    let late = frames.iter().filter(|(n, _)| *n >= 8).count() as u64;
    assert_eq!(metrics.snapshot().blanked, late);
}
