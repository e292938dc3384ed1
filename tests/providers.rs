//! Providers that fail, and faster ones that take over: what the network runs on, and what is said of it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crossbeam_channel::bounded;
use segd::clock::stop_pair;
use segd::health::{Health, Limits, Watched};
use segd::pipeline::MaskPolicy;
use segd::pipeline::control::NextModel;
use segd::supervise::Ended;
use segd::upgrade::{Step as UpgradeStep, Upgrade};
use vision::error::{Error, Result};
use vision::redact::How;
use vision::segment::{Engine, Fallback};

#[path = "common/made.rs"]
mod made;

#[path = "common/faulty.rs"]
mod faulty;

use faulty::*;
use made::{MadeBackend, flat};

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
        clock: rig.clock.clone(),
        steps,
    };
    std::thread::spawn(move || {
        let (_handle, stop) = stop_pair();
        upgrade.run(&stop);
    })
}

/// Whether something is written in the lower left of the picture; all of it is of one brightness otherwise.
fn has_words(picture: &[u8]) -> bool {
    let luma = &picture[..WIDTH * HEIGHT];
    let changed: Vec<usize> = (0..luma.len()).filter(|&i| luma[i] != SECRET).collect();
    assert!(
        changed.iter().all(|i| i / WIDTH >= HEIGHT - 20),
        "the rest is as it was"
    );
    changed.iter().any(|&i| luma[i] == 235) && changed.iter().any(|&i| luma[i] < SECRET)
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
        r.metrics.vitals.preparing().is_some_and(|p| p.name == "TensorRT")
    });
    rig.wait("words on the picture", |r| {
        r.pictures().last().is_some_and(|p| has_words(p))
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
    rig.wait("a picture without words", |r| {
        r.pictures().last().is_some_and(|p| !has_words(p))
    });
    assert_eq!(troubles(&rig), Vec::<String>::new(), "moving on is no trouble");
    assert_eq!(rig.control.looks().model.generation, 0, "the model is the same");
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
    rig.wait("the new model's masks", |r| {
        r.control.looks().model.generation == 1
    });
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
