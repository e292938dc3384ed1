//! Threads: the only place that spawns, retries, stops and joins them.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select_biased, unbounded};
use tracing::{debug, error, info, warn};

use crate::clock::{Stop, StopHandle, stop_pair};
use vision::error::{Error, Result};

mod background;
mod retry;
mod signals;

pub use background::{Background, Ticker};
pub use retry::{Backoff, OnTransient, open_with_retry};
pub use signals::{Hangups, Signals, outlive_file_limits, signals, stop_on_signals};

/// How long threads may take to end after a stop.
pub const JOIN_DEADLINE: Duration = Duration::from_secs(5);

/// Why the pipeline ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Every thread came to its end: the input is over.
    Finished,
    /// A stop was asked for.
    Stopped,
}

/// What the orderly end of a thread means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnEnd {
    /// The others go on.
    GoOn,
    /// The run is finished: the others are stopped. For the last stage of a pipeline.
    Finish,
}

struct Thread {
    name: &'static str,
    handle: JoinHandle<()>,
}

/// A thread's name, what its end means, and how it ended.
type Done = (&'static str, OnEnd, Result<()>);

/// Spawns the pipeline's threads, waits for their end, and stops them all when one fails.
pub struct Supervisor {
    stop: Stop,
    handle: Option<StopHandle>,
    threads: Vec<Thread>,
    done_tx: Sender<Done>,
    done_rx: Receiver<Done>,
}

impl Default for Supervisor {
    fn default() -> Self {
        Self::new()
    }
}

impl Supervisor {
    /// A supervisor without threads.
    pub fn new() -> Self {
        let (handle, stop) = stop_pair();
        let (done_tx, done_rx) = unbounded();
        Self {
            stop,
            handle: Some(handle),
            threads: Vec::new(),
            done_tx,
            done_rx,
        }
    }

    /// The stop that every thread of this supervisor watches.
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Starts a thread. Its error stops all others.
    ///
    /// # Errors
    /// Fatal if the system can't start another thread.
    pub fn spawn(
        &mut self,
        name: &'static str,
        on_end: OnEnd,
        run: impl FnOnce() -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let done = self.done_tx.clone();
        let handle = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                // In builds that unwind, a panic is reported as this thread's failure; the release build aborts.
                let result =
                    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or_else(|_| {
                        Err(Error::fatal(format!(
                            "thread {name} panicked; please report this"
                        )))
                    });
                let _ = done.send((name, on_end, result));
            })
            .map_err(|e| Error::fatal(format!("thread {name} can't be started")).caused_by(e))?;
        self.threads.push(Thread { name, handle });
        Ok(())
    }

    /// Waits until every thread has ended, one whose end finishes the run has, one has failed, or `asked_to_stop` fires or is dropped; then
    /// stops and joins all threads against [`JOIN_DEADLINE`].
    ///
    /// # Errors
    /// The first error of a thread; or, if none failed, that a thread did not end in time (named).
    pub fn run(mut self, asked_to_stop: &Receiver<()>) -> Result<Ended> {
        let mut outcome = Ok(Ended::Finished);
        let mut running = self.threads.len();
        while running > 0 {
            select_biased! {
                recv(self.done_rx) -> done => {
                    running -= 1;
                    if let Ok((name, on_end, result)) = done {
                        debug!(thread = name, ok = result.is_ok(), "ended");
                        if let Err(error) = result {
                            outcome = Err(error);
                            break;
                        }
                        if on_end == OnEnd::Finish {
                            break;
                        }
                    }
                }
                recv(asked_to_stop) -> _ => {
                    info!("stopping");
                    outcome = Ok(Ended::Stopped);
                    break;
                }
            }
        }
        drop(self.handle.take());
        let late = self.join(running, &mut outcome);
        if late.is_empty() {
            return outcome;
        }
        let message = format!(
            "{} did not end within {} s of the stop",
            late.join(", "),
            JOIN_DEADLINE.as_secs()
        );
        warn!("{message}");
        outcome.and(Err(Error::fatal(message)))
    }

    fn join(&mut self, mut running: usize, outcome: &mut Result<Ended>) -> Vec<&'static str> {
        let deadline = Instant::now() + JOIN_DEADLINE;
        while running > 0 {
            match self.done_rx.recv_deadline(deadline) {
                Ok((_, _, result)) => {
                    running -= 1;
                    if let (Err(error), true) = (result, outcome.is_ok()) {
                        *outcome = Err(error);
                    }
                }
                Err(_) => break,
            }
        }
        let mut late = Vec::new();
        for thread in self.threads.drain(..) {
            // A thread that has sent its result ends within microseconds.
            let grace = Instant::now() + Duration::from_millis(if running > 0 { 5 } else { 500 });
            while !thread.handle.is_finished() && Instant::now() < grace {
                std::thread::sleep(Duration::from_millis(1));
            }
            if thread.handle.is_finished() {
                let _ = thread.handle.join();
            } else {
                late.push(thread.name);
            }
        }
        late
    }
}

/// Runs until its end, or until its channel fires or is dropped.
pub type Run = Box<dyn FnOnce(&Receiver<()>) -> Result<Ended> + Send>;

/// A pipeline that runs beside others: its name, and what runs until its channel fires or is dropped.
pub struct Job {
    /// For the log.
    pub name: String,
    /// Runs it.
    pub run: Run,
}

/// Runs all until each has ended, or `asked_to_stop` fires and stops them all. If one fails, the log says so and the
/// others go on. One job runs on the calling thread.
///
/// # Errors
/// With its name where there are several: the first that failed, if nothing else ended the run; after a stop, the
/// first that could not end well.
pub fn run_all(mut jobs: Vec<Job>, asked_to_stop: &Receiver<()>) -> Result<Ended> {
    if jobs.len() == 1
        && let Some(job) = jobs.pop()
    {
        return (job.run)(asked_to_stop);
    }
    let (done_tx, done_rx) = unbounded();
    let mut stops = Vec::new();
    let mut outcome = Ok(Ended::Finished);
    std::thread::scope(|scope| {
        let mut running = 0;
        for job in jobs {
            let (stop_tx, stop_rx) = bounded::<()>(0);
            let done = done_tx.clone();
            let name = job.name;
            let run = job.run;
            let spawned = std::thread::Builder::new()
                .name(name.clone())
                .spawn_scoped(scope, move || {
                    let _ = done.send((name, run(&stop_rx)));
                });
            match spawned {
                Ok(_) => {
                    running += 1;
                    stops.push(stop_tx);
                }
                Err(e) => {
                    outcome = Err(Error::fatal("a camera's thread can't be started").caused_by(e));
                    stops.clear();
                    break;
                }
            }
        }
        while running > 0 {
            select_biased! {
                recv(done_rx) -> done => {
                    running -= 1;
                    if let Ok((name, Err(error))) = done {
                        let error = error.in_camera(&name);
                        if running > 0 {
                            error!(going_on = running, "{error}");
                        }
                        if outcome.is_ok() {
                            outcome = Err(error);
                        }
                    }
                }
                recv(asked_to_stop) -> _ => {
                    // Earlier failures were logged when they happened, and did not end the run.
                    outcome = Ok(Ended::Stopped);
                    stops.clear();
                    // Each ends by its own deadline.
                    while running > 0 && let Ok((name, result)) = done_rx.recv() {
                        running -= 1;
                        if let (Err(error), true) = (result, outcome.is_ok()) {
                            outcome = Err(error.in_camera(&name));
                        }
                    }
                }
            }
        }
    });
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_a_waiting_thread() -> Supervisor {
        let mut supervisor = Supervisor::new();
        let stop = supervisor.stop().clone();
        supervisor
            .spawn("waits", OnEnd::GoOn, move || {
                stop.wait(Duration::from_secs(60));
                Ok(())
            })
            .unwrap();
        supervisor
    }

    #[test]
    fn one_failing_thread_stops_the_others() {
        let mut supervisor = with_a_waiting_thread();
        supervisor
            .spawn("fails", OnEnd::GoOn, || Err(Error::fatal("no model")))
            .unwrap();
        let (_tx, rx) = bounded(1);
        assert_eq!(supervisor.run(&rx).unwrap_err().to_string(), "no model");
    }

    #[test]
    fn the_end_of_the_last_stage_finishes_the_run() {
        let mut supervisor = with_a_waiting_thread();
        supervisor.spawn("last", OnEnd::Finish, || Ok(())).unwrap();
        let (_tx, rx) = bounded(1);
        assert_eq!(supervisor.run(&rx).unwrap(), Ended::Finished);
    }

    #[test]
    fn a_panic_is_a_failure() {
        let mut supervisor = Supervisor::new();
        supervisor
            .spawn("panics", OnEnd::GoOn, || panic!("boom"))
            .unwrap();
        let (_tx, rx) = bounded(1);
        assert!(supervisor.run(&rx).unwrap_err().to_string().contains("panics"));
    }

    fn job(name: &str, run: impl FnOnce(&Receiver<()>) -> Result<Ended> + Send + 'static) -> Job {
        Job {
            name: name.into(),
            run: Box::new(run),
        }
    }

    #[test]
    fn a_job_that_fails_leaves_the_others_running() {
        let (tx, rx) = bounded(1);
        let (failed_tx, failed) = bounded::<()>(0);
        let fails = job("door", move |_| {
            let _ended = failed_tx;
            Err(Error::usage("no such mode"))
        });
        let goes_on = job("yard", move |stop| {
            let _ = failed.recv();
            assert!(
                stop.recv_timeout(Duration::from_millis(300))
                    .is_err_and(|e| e.is_timeout())
            );
            tx.send(()).unwrap();
            let _ = stop.recv();
            Ok(Ended::Stopped)
        });
        assert_eq!(run_all(vec![fails, goes_on], &rx).unwrap(), Ended::Stopped);

        // All have failed: the first one's error.
        let (_tx, rx) = bounded(1);
        let (first_tx, first) = bounded::<()>(0);
        let jobs = vec![
            job("door", move |_| {
                let _ = first.recv();
                std::thread::sleep(Duration::from_millis(200));
                Err(Error::fatal("later"))
            }),
            job("yard", move |_| {
                let _ended = first_tx;
                Err(Error::usage("no such mode"))
            }),
        ];
        let error = run_all(jobs, &rx).unwrap_err();
        assert_eq!(
            (error.to_string().as_str(), error.exit_code()),
            ("camera yard: no such mode", 2)
        );
    }

    #[test]
    fn an_asked_stop_and_a_natural_end_differ() {
        let supervisor = with_a_waiting_thread();
        let (tx, rx) = bounded(1);
        tx.send(()).unwrap();
        assert_eq!(supervisor.run(&rx).unwrap(), Ended::Stopped);

        let mut supervisor = Supervisor::new();
        supervisor.spawn("ends", OnEnd::GoOn, || Ok(())).unwrap();
        let (_tx, rx) = bounded(1);
        assert_eq!(supervisor.run(&rx).unwrap(), Ended::Finished);
    }
}
