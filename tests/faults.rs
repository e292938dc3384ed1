//! Faults at each stage, put in on purpose: what goes out, what is said, what ends the run.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use segd::capture::{Capture, FrameSource, SourceOpener};
use segd::clock::{RealClock, SharedClock, stop_pair};
use segd::error::{Error, Result};
use segd::frame::{Frame, FrameFormat, PixelFormat};
use segd::health::{Health, Limits, Watched};
use segd::metrics::Metrics;
use segd::model::Model;
use segd::overlay::OverlayOptions;
use segd::pipeline::control::{Control, Looks, NextModel, Privacy};
use segd::pipeline::{LostPicture, MaskPolicy, Parts, PipelineOptions, reconnect, run};
use segd::pool::FramePool;
use segd::redact::{How, RedactOptions};
use segd::schedule::ScheduleOptions;
use segd::segment::{Engine, Fallback};
use segd::stream::{FrameSink, SinkOpener};
use segd::supervise::Ended;
use segd::upgrade::{Step as UpgradeStep, Upgrade};

#[path = "common/made.rs"]
mod made;

use made::{Gives, MadeBackend, flat};

const WIDTH: usize = 64;
const HEIGHT: usize = 64;
/// Luma of the captured pictures: what must not go out in clear.
const SECRET: u8 = 200;

fn format() -> FrameFormat {
    FrameFormat::new(PixelFormat::I420, WIDTH, HEIGHT)
}

type Step = Box<dyn FnMut(u64) -> Result<Option<u64>> + Send>;

/// A source whose `next` says for each read the frame's time, that nothing came, or an error.
struct Source {
    opened: Arc<AtomicUsize>,
    next: Arc<Mutex<Step>>,
}

struct Opened {
    next: Arc<Mutex<Step>>,
    sequence: u64,
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
            data,
        }))
    }
}

/// What the network does when it runs for the n-th time.
type Answer = Arc<dyn Fn(u64) -> Result<u8> + Send + Sync>;

/// What reached the output.
#[derive(Clone, Default)]
struct Seen {
    pictures: Arc<Mutex<Vec<Vec<u8>>>>,
    opened: Arc<AtomicUsize>,
    /// Pushes so far, over all openings.
    pushed: Arc<AtomicUsize>,
}

/// The error of the n-th call, if it fails.
type Fails = Arc<dyn Fn(usize) -> Option<Error> + Send + Sync>;

struct Sink {
    seen: Seen,
    fail: Fails,
    fail_open: Fails,
}

impl SinkOpener for Sink {
    fn name(&self) -> String {
        "sink".into()
    }

    fn is_live(&self) -> bool {
        true
    }

    fn open(&self, _format: FrameFormat, _frame_rate: Option<f64>) -> Result<Box<dyn FrameSink>> {
        if let Some(error) = (self.fail_open)(self.seen.opened.fetch_add(1, Relaxed)) {
            return Err(error);
        }
        Ok(Box::new(Self {
            seen: self.seen.clone(),
            fail: self.fail.clone(),
            fail_open: self.fail_open.clone(),
        }))
    }
}

impl FrameSink for Sink {
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

fn model() -> Arc<Model> {
    made::model(WIDTH, HEIGHT, "person", Gives::Labels)
}

fn looks(generation: u64, privacy: Option<How>) -> Looks {
    Looks {
        generation,
        classes: model().contract.classes.clone(),
        overlay: OverlayOptions {
            alpha: 0.0,
            legend: false,
            ..OverlayOptions::default()
        },
        privacy: privacy.map(|how| Privacy {
            redact: RedactOptions {
                how: vec![None, Some(how)],
                margin: 0.0,
            },
            max_mask_age: Duration::from_millis(300),
        }),
    }
}

fn engine(answer: Answer, metrics: &Arc<Metrics>) -> Engine {
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
struct Rig {
    clock: SharedClock,
    metrics: Arc<Metrics>,
    control: Arc<Control>,
    seen: Seen,
    opened: Arc<AtomicUsize>,
    stop: Sender<()>,
    thread: std::thread::JoinHandle<Result<Ended>>,
}

struct Faults {
    next: Step,
    answer: Answer,
    fail_sink: Fails,
    fail_open: Fails,
    /// The pictures' format while the source is away.
    lost_format: FrameFormat,
    privacy: Option<How>,
    clock: SharedClock,
    /// What takes over where the network fails.
    fallbacks: Vec<Fallback>,
    masks: MaskPolicy,
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
            lost_format: format(),
            privacy: None,
            clock,
            fallbacks: Vec::new(),
            masks: MaskPolicy::Newest,
        }
    }
}

impl Faults {
    fn start(self) -> Rig {
        let metrics = Metrics::shared();
        let control = Control::new(looks(0, self.privacy), Duration::ZERO);
        let (seen, opened) = (Seen::default(), Arc::new(AtomicUsize::new(0)));
        let parts = Parts {
            source: Box::new(Source {
                opened: opened.clone(),
                next: Arc::new(Mutex::new(self.next)),
            }),
            sinks: vec![Box::new(Sink {
                seen: seen.clone(),
                fail: self.fail_sink,
                fail_open: self.fail_open,
            })],
            engine: engine(self.answer, &metrics).with_fallbacks(self.fallbacks),
            control: control.clone(),
            clock: self.clock.clone(),
            metrics: metrics.clone(),
        };
        let options = PipelineOptions {
            masks: self.masks,
            schedule: ScheduleOptions::hold(),
            stamp: false,
            live: true,
            on_source_error: reconnect(),
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
    fn wait(&self, what: &str, ready: impl Fn(&Self) -> bool) {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while !ready(self) {
            assert!(std::time::Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn pictures(&self) -> Vec<Vec<u8>> {
        self.seen.pictures.lock().unwrap().clone()
    }

    fn stop(self) -> Result<Ended> {
        let _ = self.stop.send(());
        self.thread.join().unwrap()
    }
}

/// A backend on `provider` that answers so, and may take over.
fn fallback(provider: &'static str, answer: Answer) -> Fallback {
    Fallback {
        name: provider.into(),
        make: Arc::new(move |_| {
            let answer = answer.clone();
            let run = move |size| -> made::Run {
                let (answer, mut runs) = (answer.clone(), 0);
                Box::new(move |_, output| {
                    runs += 1;
                    *output = flat(size, answer(runs)?);
                    Ok(())
                })
            };
            Ok(Arc::new(MadeBackend(run, provider)))
        }),
    }
}

/// A backend that can't be had.
fn absent(provider: &'static str) -> Fallback {
    Fallback {
        name: provider.into(),
        make: Arc::new(|_| Err(Error::fatal("there is no such device"))),
    }
}

/// What health says of the pipeline.
fn troubles(rig: &Rig) -> Vec<String> {
    let second = Duration::from_secs(1);
    let watched = Watched {
        name: "made".into(),
        metrics: rig.metrics.clone(),
        clock: rig.clock.clone(),
        control: rig.control.clone(),
        limits: Limits {
            silence: 10 * second,
            mask_age: 10 * second,
            warm_up: Duration::ZERO,
        },
        began_ns: rig.clock.now_ns(),
    };
    Health::new(vec![watched]).troubles()
}

/// Works for a while, then never again.
fn breaks_after(runs: u64, error: fn(&'static str) -> Error) -> Answer {
    Arc::new(move |n| {
        if n <= runs {
            Ok(0)
        } else {
            Err(error("CUDA failure 719"))
        }
    })
}

#[test]
fn a_provider_that_fails_is_replaced_by_the_next_that_can_be_had() {
    let faults = Faults {
        answer: breaks_after(10, Error::transient),
        // The next can't be had, the one after it fails at once.
        fallbacks: vec![
            absent("CUDA"),
            fallback("NPU", breaks_after(0, Error::transient)),
            fallback("tract", Arc::new(|_| Ok(1))),
        ],
        privacy: Some(How::Fill),
        ..Faults::default()
    };
    let rig = faults.start();
    rig.wait("clear pictures", |r| {
        r.pictures().last().is_some_and(|p| shows_secret(p))
    });
    // The last one sees persons everywhere: what is hidden comes from its masks.
    rig.wait("the last backend's masks", |r| {
        r.pictures().last().is_some_and(|p| !shows_secret(p))
            && r.metrics.vitals.mask_age_ns.load(Relaxed) < 200_000_000
    });
    assert_eq!(rig.metrics.vitals.runs_on().unwrap().provider, "tract");
    let said = troubles(&rig);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0]
            .contains("degraded: the network ran on made CPU and runs on made tract now: CUDA failure 719"),
        "{said:?}"
    );
    assert_eq!(rig.stop().unwrap(), Ended::Stopped);
}

#[test]
fn a_single_failure_replaces_nothing() {
    let faults = Faults {
        answer: Arc::new(|n| {
            if n == 5 {
                Err(Error::transient("out of memory"))
            } else {
                Ok(0)
            }
        }),
        fallbacks: vec![fallback("tract", Arc::new(|_| Ok(1)))],
        ..Faults::default()
    };
    let rig = faults.start();
    rig.wait("many inferences", |r| r.metrics.inferences.load(Relaxed) >= 20);
    assert_eq!(rig.metrics.vitals.infer_failures.load(Relaxed), 1);
    assert_eq!(rig.metrics.vitals.runs_on().unwrap().provider, "CPU");
    assert_eq!(troubles(&rig), Vec::<String>::new());
    rig.stop().unwrap();
}

#[test]
fn in_lockstep_the_frame_that_failed_is_segmented_by_the_next_provider() {
    let faults = Faults {
        answer: breaks_after(10, Error::fatal),
        fallbacks: vec![fallback("tract", Arc::new(|_| Ok(1)))],
        masks: MaskPolicy::Lockstep,
        ..Faults::default()
    };
    let rig = faults.start();
    rig.wait("30 pictures", |r| r.pictures().len() >= 30);
    assert_eq!(rig.metrics.vitals.runs_on().unwrap().provider, "tract");
    let metrics = rig.metrics.clone();
    assert_eq!(rig.stop().unwrap(), Ended::Stopped);
    let (inferred, composed) = (metrics.inferences.load(Relaxed), metrics.composed.load(Relaxed));
    assert!(inferred >= composed, "{inferred} masks for {composed} pictures");
}

/// An engine of the same model on a faster device.
fn step(
    rig: &Rig,
    name: &'static str,
    answer: impl FnOnce() -> Result<Answer> + Send + 'static,
) -> UpgradeStep {
    let metrics = rig.metrics.clone();
    UpgradeStep {
        name: name.into(),
        make: Box::new(move || {
            let made = (fallback(name, answer()?).make)(&model())?;
            Ok(Engine::new(model(), made, None, metrics))
        }),
    }
}

/// Runs an upgrade beside the rig until it has gone through its steps.
fn upgrade(rig: &Rig, steps: Vec<UpgradeStep>) -> std::thread::JoinHandle<()> {
    let upgrade = Upgrade {
        control: rig.control.clone(),
        metrics: rig.metrics.clone(),
        steps,
    };
    std::thread::spawn(move || {
        let (_handle, stop) = stop_pair();
        upgrade.run(&stop);
    })
}

fn provider(rig: &Rig) -> Option<String> {
    rig.metrics.vitals.runs_on().map(|on| on.provider)
}

#[test]
fn a_network_moves_to_faster_devices_while_it_runs() {
    let rig = Faults::default().start();
    let (go, gate) = bounded::<()>(0);
    let steps = vec![
        step(&rig, "CUDA", || Ok(Arc::new(|_| Ok(0)))),
        // No such device: the network stays where it runs.
        step(&rig, "NPU", || Err(Error::fatal("no such device"))),
        step(&rig, "TensorRT", move || {
            let _ = gate.recv();
            Ok(Arc::new(|_| Ok(1)))
        }),
    ];
    let moving = upgrade(&rig, steps);
    rig.wait("the first step", |r| provider(r).as_deref() == Some("CUDA"));
    rig.wait("the last one is being made", |r| {
        r.metrics.vitals.preparing().as_deref() == Some("TensorRT")
    });
    let before = rig.metrics.inferences.load(Relaxed);
    rig.wait("inferences meanwhile", |r| {
        r.metrics.inferences.load(Relaxed) > before + 10
    });
    assert_eq!(provider(&rig).as_deref(), Some("CUDA"));
    drop(go);
    rig.wait("the last step", |r| provider(r).as_deref() == Some("TensorRT"));
    moving.join().unwrap();
    assert_eq!(rig.metrics.vitals.preparing(), None);
    assert_eq!(troubles(&rig), Vec::<String>::new(), "moving on is no trouble");
    assert_eq!(rig.control.looks().generation, 0, "the model is the same");
    assert_eq!(rig.stop().unwrap(), Ended::Stopped);
}

#[test]
fn a_model_that_was_swapped_in_is_not_undone_by_an_engine_of_the_one_before() {
    let rig = Faults::default().start();
    let (go, gate) = bounded::<()>(0);
    let steps = vec![step(&rig, "TensorRT", move || {
        let _ = gate.recv();
        Ok(Arc::new(|_| Ok(0)))
    })];
    let moving = upgrade(&rig, steps);
    rig.wait("it is being made", |r| r.metrics.vitals.preparing().is_some());
    rig.control.swap_model(NextModel {
        engine: engine(Arc::new(|_| Ok(1)), &rig.metrics),
        looks: Arc::new(looks(1, None)),
    });
    drop(go);
    moving.join().unwrap();
    rig.wait("the new model's masks", |r| r.control.looks().generation == 1);
    let before = rig.metrics.inferences.load(Relaxed);
    rig.wait("more inferences", |r| {
        r.metrics.inferences.load(Relaxed) > before + 5
    });
    assert_eq!(provider(&rig).as_deref(), Some("CPU"), "the new model's own");
    rig.stop().unwrap();
}

#[test]
fn where_no_provider_is_left_the_run_ends_with_the_first_error() {
    let faults = Faults {
        answer: breaks_after(5, Error::fatal),
        fallbacks: vec![absent("CUDA"), absent("CPU")],
        ..Faults::default()
    };
    let rig = faults.start();
    let error = rig.thread.join().unwrap().unwrap_err();
    assert!(error.to_string().contains("CUDA failure 719"), "{error}");
}

/// Notices may be smaller.
fn shows_secret(picture: &[u8]) -> bool {
    picture.len() > WIDTH * HEIGHT && picture[..WIDTH * HEIGHT].contains(&SECRET)
}

#[test]
fn a_source_that_fails_or_falls_silent_is_shown_and_opened_again() {
    let clock = RealClock::shared();
    let now = clock.clone();
    let reads = AtomicU64::new(0);
    let faults = Faults {
        next: Box::new(move |_| match reads.fetch_add(1, Relaxed) {
            20 => Err(Error::transient("unplugged")),
            // Hangs without an error until it is opened again.
            40..=80 => Ok(None),
            _ => Ok(Some(now.now_ns())),
        }),
        clock,
        ..Faults::default()
    };
    let rig = faults.start();
    rig.wait("it was opened after the error and after the silence", |r| {
        r.opened.load(Relaxed) >= 3
    });
    rig.wait("frames again", |r| r.metrics.vitals.source_lost().is_none());
    let notices = rig.metrics.vitals.notices.load(Relaxed);
    assert!(notices >= 2, "{notices}");
    assert!(rig.pictures().iter().any(|p| !shows_secret(p)), "a notice");
    assert!(rig.metrics.reconnects.load(Relaxed) >= 2);
    assert_eq!(rig.seen.opened.load(Relaxed), 1, "the output stays open");
    assert_eq!(rig.stop().unwrap(), Ended::Stopped);
}

#[test]
fn privacy_shows_nothing_while_the_mask_is_missing_old_or_of_a_failed_model() {
    // No answer for a while, then answers, then the network fails, then it answers again.
    let gate = Arc::new(AtomicUsize::new(0));
    let state = gate.clone();
    let answer: Answer = Arc::new(move |_| {
        loop {
            match state.load(Relaxed) {
                0 => std::thread::sleep(Duration::from_millis(5)),
                1 => return Ok(0),
                2 => {
                    std::thread::sleep(Duration::from_millis(5));
                    return Err(Error::transient("the accelerator has reset"));
                }
                _ => return Ok(1),
            }
        }
    });
    let faults = Faults {
        answer,
        privacy: Some(How::Fill),
        ..Faults::default()
    };
    let rig = faults.start();
    rig.wait("pictures before the first mask", |r| r.pictures().len() >= 20);
    assert!(
        rig.pictures().iter().all(|p| !shows_secret(p)),
        "no mask: nothing in clear"
    );
    gate.store(1, Relaxed);
    // Background everywhere: nothing is to be hidden.
    rig.wait("clear pictures", |r| {
        r.pictures().last().is_some_and(|p| shows_secret(p))
    });
    gate.store(2, Relaxed);
    rig.wait("hidden again", |r| {
        r.pictures().last().is_some_and(|p| !shows_secret(p))
    });
    let (hidden, at) = (rig.metrics.vitals.hidden.load(Relaxed), rig.pictures().len());
    assert!(hidden >= 20);
    assert!(rig.metrics.vitals.infer_failures.load(Relaxed) >= 1);
    rig.wait("more of them", |r| r.pictures().len() >= at + 20);
    assert!(
        rig.pictures()[at..].iter().all(|p| !shows_secret(p)),
        "an old mask: nothing in clear"
    );
    // The network is back, and everything is a person.
    gate.store(3, Relaxed);
    rig.wait("current masks", |r| {
        r.metrics.vitals.mask_age_ns.load(Relaxed) < 200_000_000
    });
    let at = rig.pictures().len();
    rig.wait("more of them", |r| r.pictures().len() >= at + 5);
    assert!(
        rig.pictures()[at..].iter().all(|p| !shows_secret(p)),
        "persons are hidden"
    );
    rig.stop().unwrap();
}

#[test]
fn a_network_that_goes_on_failing_ends_the_run_with_its_error() {
    let faults = Faults {
        answer: Arc::new(|n| {
            if n < 5 {
                Ok(0)
            } else {
                Err(Error::transient("out of memory"))
            }
        }),
        ..Faults::default()
    };
    let rig = faults.start();
    let error = rig.thread.join().unwrap().unwrap_err();
    assert!(error.to_string().contains("out of memory"), "{error}");
}

#[test]
fn a_backend_that_panics_ends_the_run() {
    let faults = Faults {
        answer: Arc::new(|n| {
            if n < 5 {
                Ok(0)
            } else {
                panic!("a bug in the backend")
            }
        }),
        privacy: Some(How::Blur),
        ..Faults::default()
    };
    let rig = faults.start();
    let error = rig.thread.join().unwrap().unwrap_err();
    assert!(error.to_string().contains("panicked"), "{error}");
}

#[test]
fn an_output_that_fails_is_opened_again() {
    // The encoder fails, the disk is full for a while.
    let faults = Faults {
        fail_sink: Arc::new(|n| match n {
            10 => Some(Error::transient("the encoding pipeline failed")),
            30 => Some(Error::fatal("No space left on device")),
            _ => None,
        }),
        ..Faults::default()
    };
    let rig = faults.start();
    rig.wait("opened three times", |r| r.seen.opened.load(Relaxed) >= 3);
    let at = rig.pictures().len();
    rig.wait("pictures after that", |r| r.pictures().len() > at + 20);
    assert_eq!(rig.metrics.vitals.output_failures.load(Relaxed), 2);
    assert_eq!(rig.metrics.vitals.outputs_down.load(Relaxed), 0);
    assert_eq!(rig.stop().unwrap(), Ended::Stopped);
}

#[test]
fn an_output_that_can_not_be_opened_yet_is_opened_later() {
    let faults = Faults {
        fail_open: Arc::new(|n| (n < 2).then(|| Error::transient("no thread to be had"))),
        ..Faults::default()
    };
    let rig = faults.start();
    rig.wait("it is said to be down", |r| {
        r.metrics.vitals.outputs_down.load(Relaxed) == 1
    });
    rig.wait("pictures", |r| r.pictures().len() > 20);
    assert_eq!(rig.seen.opened.load(Relaxed), 3);
    assert_eq!(rig.metrics.vitals.output_failures.load(Relaxed), 2);
    assert_eq!(rig.metrics.vitals.outputs_down.load(Relaxed), 0);
    assert_eq!(rig.stop().unwrap(), Ended::Stopped);

    // What is wrong from the start and stays wrong ends it.
    let faults = Faults {
        fail_open: Arc::new(|_| Some(Error::usage("this port is another program's"))),
        ..Faults::default()
    };
    let error = faults.start().thread.join().unwrap().unwrap_err();
    assert_eq!(error.exit_code(), 2);
}

#[test]
fn an_output_that_can_not_be_opened_for_a_new_size_is_opened_later() {
    // The source is away at first; when it comes it has another size than the notice.
    let clock = RealClock::shared();
    let now = clock.clone();
    let reads = AtomicU64::new(0);
    let faults = Faults {
        next: Box::new(move |_| match reads.fetch_add(1, Relaxed) {
            0..80 => Ok(None),
            _ => Ok(Some(now.now_ns())),
        }),
        fail_open: Arc::new(|n| (n == 1).then(|| Error::fatal("the port is not free yet"))),
        lost_format: FrameFormat::new(PixelFormat::I420, 32, 32),
        clock,
        ..Faults::default()
    };
    let rig = faults.start();
    rig.wait("a notice", |r| r.metrics.vitals.notices.load(Relaxed) > 0);
    rig.wait("pictures of the source", |r| {
        r.pictures().last().is_some_and(|p| shows_secret(p))
    });
    assert_eq!(rig.seen.opened.load(Relaxed), 3);
    assert_eq!(rig.metrics.vitals.outputs_down.load(Relaxed), 0);
    assert_eq!(rig.stop().unwrap(), Ended::Stopped);
}

#[test]
fn a_camera_clock_that_jumps_does_not_stop_the_video_or_uncover_it() {
    // The camera's times jump an hour ahead, then back to nothing.
    let clock = RealClock::shared();
    let now = clock.clone();
    let hour = 3_600_000_000_000;
    let faults = Faults {
        next: Box::new(move |n| {
            Ok(Some(match n {
                50..100 => now.now_ns() + hour,
                100..150 => n,
                _ => now.now_ns(),
            }))
        }),
        answer: Arc::new(|_| Ok(1)),
        privacy: Some(How::Fill),
        clock,
        ..Faults::default()
    };
    let rig = faults.start();
    rig.wait("200 pictures", |r| r.pictures().len() >= 200);
    assert!(rig.pictures().iter().all(|p| !shows_secret(p)));
    assert_eq!(rig.stop().unwrap(), Ended::Stopped);
}

#[test]
fn a_model_is_swapped_between_two_frames() {
    let faults = Faults {
        privacy: Some(How::Fill),
        ..Faults::default()
    };
    let rig = faults.start();
    rig.wait("clear pictures", |r| {
        r.pictures().last().is_some_and(|p| shows_secret(p))
    });
    rig.wait("its format", |r| r.control.format().is_some());
    let mut next = engine(Arc::new(|_| Ok(1)), &rig.metrics);
    next.prepare(format()).unwrap();
    rig.control.swap_model(NextModel {
        engine: next,
        looks: Arc::new(looks(1, Some(How::Fill))),
    });
    rig.wait("the new model's masks", |r| r.control.looks().generation == 1);
    rig.wait("persons are hidden", |r| {
        r.pictures().last().is_some_and(|p| !shows_secret(p))
    });
    assert_eq!(
        rig.metrics.vitals.hidden.load(Relaxed),
        hidden_before_the_first_mask(&rig)
    );
    rig.stop().unwrap();
}

/// Whole pictures hidden: only those before the first mask, none at the swap.
fn hidden_before_the_first_mask(rig: &Rig) -> u64 {
    let pictures = rig.pictures();
    pictures.iter().take_while(|p| !shows_secret(p)).count() as u64
}
