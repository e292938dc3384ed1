//! A recording beside a live output, on a disk that is stuck, or fails and is stuck.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use segd::output::{FrameOutput, Output, OutputOpener, Video};
use segd::supervise::Ended;
use vision::error::{Error, Result};
use vision::frame::Frame;

#[path = "common/made.rs"]
mod made;

#[path = "common/faulty.rs"]
mod faulty;

use faulty::*;

/// A disk that takes nothing while it is stuck.
#[derive(Clone, Default)]
struct Disk {
    stuck: Arc<(Mutex<bool>, Condvar)>,
    opened: Arc<AtomicUsize>,
    pushed: Arc<AtomicUsize>,
    finished: Arc<AtomicUsize>,
    /// The frame that it fails at.
    fails_at: Option<usize>,
}

impl Disk {
    fn stick(&self, stuck: bool) {
        *self.stuck.0.lock().unwrap() = stuck;
        self.stuck.1.notify_all();
    }

    fn wait(&self) {
        let mut stuck = self.stuck.0.lock().unwrap();
        while *stuck {
            stuck = self.stuck.1.wait(stuck).unwrap();
        }
    }
}

impl OutputOpener for Disk {
    fn name(&self) -> String {
        "disk".into()
    }

    fn is_live(&self) -> bool {
        false
    }

    fn open(&self, _video: &Video) -> Result<Output> {
        self.opened.fetch_add(1, Relaxed);
        self.wait();
        Ok(Output::Frames(Box::new(self.clone())))
    }
}

impl FrameOutput for Disk {
    fn describe(&self) -> String {
        "disk".into()
    }

    fn push(&mut self, _frame: Frame) -> Result<()> {
        self.wait();
        match self.pushed.fetch_add(1, Relaxed) {
            n if Some(n) == self.fails_at => {
                self.stick(true);
                Err(Error::fatal("input/output error"))
            }
            _ => Ok(()),
        }
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.wait();
        self.finished.fetch_add(1, Relaxed);
        Ok(())
    }
}

fn beside(disk: &Disk) -> Rig {
    let faults = Faults {
        beside: vec![Box::new(disk.clone())],
        ..Faults::default()
    };
    faults.start()
}

fn dropped(rig: &Rig) -> u64 {
    rig.metrics.vitals.dropped_outputs.load(Relaxed)
}

#[test]
fn a_stuck_disk_costs_the_recording_alone() {
    let disk = Disk::default();
    let rig = beside(&disk);
    rig.wait("a recording", |_| disk.pushed.load(Relaxed) > 10);
    disk.stick(true);
    rig.wait("frames of the recording are dropped", |r| dropped(r) > 100);
    let (seen, lost) = (rig.pictures().len(), dropped(&rig));
    rig.wait("the live output goes on", |r| r.pictures().len() >= seen + 100);
    // No frame was lost for anyone else: while the live output got 100, the recording lost about as many.
    assert!(dropped(&rig) >= lost + 90);
    assert_eq!(rig.metrics.dropped_compose.load(Relaxed), 0);

    let recorded = disk.pushed.load(Relaxed);
    disk.stick(false);
    rig.wait("the recording goes on", |_| {
        disk.pushed.load(Relaxed) > recorded + 20
    });
    assert_eq!(disk.opened.load(Relaxed), 1);
    assert_eq!(rig.metrics.vitals.output_failures.load(Relaxed), 0);
    assert_eq!(rig.stop().unwrap(), Ended::Stopped);
    assert_eq!(disk.finished.load(Relaxed), 1);
}

#[test]
fn a_failed_recording_that_is_still_being_completed_is_not_opened_again() {
    let disk = Disk {
        fails_at: Some(10),
        ..Disk::default()
    };
    let rig = beside(&disk);
    rig.wait("the failure is said", |r| {
        r.metrics.vitals.output_failures.load(Relaxed) == 1
    });
    // It would be opened again after 1 s.
    let seen = rig.pictures().len();
    rig.wait("two seconds of video", |r| r.pictures().len() >= seen + 200);
    assert_eq!(disk.opened.load(Relaxed), 1);
    assert_eq!(rig.metrics.vitals.outputs_down.load(Relaxed), 1);
    disk.stick(false);
    rig.wait("a new recording", |_| disk.pushed.load(Relaxed) > 20);
    assert_eq!(disk.opened.load(Relaxed), 2);
    rig.wait("all outputs are up", |r| {
        r.metrics.vitals.outputs_down.load(Relaxed) == 0
    });
    assert_eq!(rig.stop().unwrap(), Ended::Stopped);
    assert_eq!(disk.finished.load(Relaxed), 2);
}

#[test]
fn a_stop_waits_for_a_stuck_disk_no_longer_than_for_other_threads() {
    let disk = Disk::default();
    let rig = beside(&disk);
    rig.wait("a recording", |_| disk.pushed.load(Relaxed) > 10);
    disk.stick(true);
    let asked = Instant::now();
    let error = rig.stop().unwrap_err();
    assert!(asked.elapsed() < segd::supervise::JOIN_DEADLINE + Duration::from_secs(5));
    assert!(error.to_string().contains("compose"), "{error}");
    disk.stick(false);
}
