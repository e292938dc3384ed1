//! Faults at each stage, put in on purpose: what goes out, what is said, what ends the run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use segd::clock::RealClock;
use segd::mailbox::Received;
use segd::observe::Seen;
use segd::pipeline::MaskPolicy;
use segd::pipeline::control::NextModel;
use segd::supervise::{Ended, OnTransient};
use vision::error::Error;
use vision::frame::{FrameFormat, PixelFormat};
use vision::redact::How;

#[path = "common/made.rs"]
mod made;

#[path = "common/faulty.rs"]
mod faulty;

use faulty::*;

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
fn an_answer_that_is_none_is_a_failed_inference_and_privacy_covers() {
    let broken = Arc::new(AtomicUsize::new(0));
    let state = broken.clone();
    let faults = Faults {
        // The model has two classes.
        answer: Arc::new(move |_| Ok(if state.load(Relaxed) == 1 { 9 } else { 0 })),
        privacy: Some(How::Fill),
        ..Faults::default()
    };
    let rig = faults.start();
    rig.wait("clear pictures", |r| {
        r.pictures().last().is_some_and(|p| shows_secret(p))
    });
    broken.store(1, Relaxed);
    rig.wait("hidden pictures", |r| {
        r.pictures().last().is_some_and(|p| !shows_secret(p))
    });
    assert!(rig.metrics.vitals.infer_failures.load(Relaxed) >= 1);
    broken.store(2, Relaxed);
    rig.wait("clear pictures again", |r| {
        r.pictures().last().is_some_and(|p| shows_secret(p))
    });
    rig.stop().unwrap();
}

#[test]
fn who_asks_is_told_what_is_seen_and_when_nothing_is_known() {
    let gate = Arc::new(AtomicUsize::new(0));
    let state = gate.clone();
    let faults = Faults {
        answer: Arc::new(move |_| match state.load(Relaxed) {
            0 => {
                std::thread::sleep(Duration::from_millis(5));
                Err(Error::transient("the accelerator has reset"))
            }
            _ => Ok(1),
        }),
        ..Faults::default()
    };
    let rig = faults.start();
    let reader = rig.control.scenes.subscribe("test");
    let next = || match reader.next(Duration::from_secs(10)) {
        Received::Item(seen) => seen,
        other => panic!("no scene: {other:?}"),
    };
    assert!(matches!(next(), Seen::Unknown { .. }), "there is no mask yet");
    gate.store(1, Relaxed);
    let scene = loop {
        if let Seen::Scene(scene) = next() {
            break scene;
        }
    };
    assert_eq!(scene.model.classes[1].name, "person");
    assert!(scene.inferred_at_ns <= scene.captured_at_ns);
    let areas: Vec<u32> = scene.extents().iter().map(|e| e.area).collect();
    assert_eq!(areas, [0, (WIDTH * HEIGHT) as u32]);
    assert_eq!(scene.segments[1].class, 1);
    let first = scene.captured_at_ns;
    assert!(next().captured_at_ns() > first, "each is of its own picture");
    drop(reader);
    rig.wait("nobody reads", |r| !r.control.scenes.is_wanted());
    rig.stop().unwrap();
}

#[test]
fn privacy_covers_damaged_pictures() {
    let faults = Faults {
        privacy: Some(How::Fill),
        ..Faults::default()
    };
    let damaged = faults.damaged.clone();
    let rig = faults.start();
    // Background everywhere: nothing is to be hidden.
    rig.wait("clear pictures", |r| {
        r.pictures().last().is_some_and(|p| shows_secret(p))
    });
    damaged.store(true, Relaxed);
    rig.wait("hidden pictures", |r| {
        r.pictures().last().is_some_and(|p| !shows_secret(p))
    });
    let at = rig.pictures().len();
    rig.wait("more of them", |r| r.pictures().len() >= at + 20);
    assert!(rig.pictures()[at..].iter().all(|p| !shows_secret(p)));
    damaged.store(false, Relaxed);
    rig.wait("clear pictures again", |r| {
        r.pictures().last().is_some_and(|p| shows_secret(p))
    });
    rig.stop().unwrap();

    // Without privacy they are shown.
    let faults = Faults::default();
    faults.damaged.store(true, Relaxed);
    let rig = faults.start();
    rig.wait("pictures", |r| r.pictures().iter().any(|p| shows_secret(p)));
    rig.stop().unwrap();
}

#[test]
fn what_was_read_goes_out_before_the_error_of_a_recording_ends_the_run() {
    for masks in [MaskPolicy::Newest, MaskPolicy::Lockstep] {
        let faults = Faults {
            next: Box::new(|n| match n {
                0..7 => Ok(Some(n * 40_000_000)),
                _ => Err(Error::fatal("the file is damaged")),
            }),
            on_source_error: OnTransient::GiveUp,
            masks,
            ..Faults::default()
        };
        let rig = faults.start();
        let seen = rig.seen.clone();
        let error = rig.thread.join().unwrap().unwrap_err();
        assert_eq!(error.to_string(), "the file is damaged");
        assert_eq!(seen.pictures.lock().unwrap().len(), 7, "{masks:?}");
    }
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
    rig.wait("the new model's masks", |r| {
        r.control.looks().model.generation == 1
    });
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
