//! Threads: the only place that spawns, retries, stops and joins them.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select_biased, unbounded};
use tracing::{debug, error, info, warn};

use crate::clock::{Clock, Stop, StopHandle, Waited, stop_pair};
use crate::error::{Error, Result};

/// How long threads may take to end after a stop.
pub const JOIN_DEADLINE: Duration = Duration::from_secs(5);

/// Capped exponential backoff.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Wait after the first failure.
    pub first: Duration,
    /// Longest wait.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(250),
            max: Duration::from_secs(10),
        }
    }
}

impl Backoff {
    /// The wait after `failures` failures in a row (1, 2, ...): doubling from `first` to `max`.
    pub fn delay(&self, failures: u32) -> Duration {
        let factor = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.max)
    }
}

/// Failures in a row that are each said in the log; after those every [`LOUD_EVERY`]th.
const LOUD_FAILURES: u32 = 5;
const LOUD_EVERY: u32 = 60;

/// What a transient error leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnTransient {
    /// Open again, waiting longer each time. For cameras and network streams.
    Retry(Backoff),
    /// End with the error. For files.
    GiveUp,
}

/// Opens something until it works, a stop comes (`None`), or an error says that trying again is useless.
///
/// # Errors
/// The error that ended the attempts.
pub fn open_with_retry<T>(
    what: &str,
    policy: OnTransient,
    clock: &dyn Clock,
    stop: &Stop,
    mut open: impl FnMut() -> Result<T>,
) -> Result<Option<T>> {
    let mut failures = 0u32;
    loop {
        if stop.is_stopped() {
            return Ok(None);
        }
        let error = match open() {
            Ok(opened) => return Ok(Some(opened)),
            Err(error) => error,
        };
        let OnTransient::Retry(backoff) = policy else {
            return Err(error);
        };
        if !error.is_transient() {
            return Err(error);
        }
        failures = failures.saturating_add(1);
        let delay = backoff.delay(failures);
        // A camera that is away for months must not fill the disk with its absence.
        if failures <= LOUD_FAILURES || failures.is_multiple_of(LOUD_EVERY) {
            warn!(
                failures,
                retry_in_ms = delay.as_millis() as u64,
                "{what}: {error}"
            );
        } else {
            debug!(failures, "{what}: {error}");
        }
        if clock.wait(delay, stop) == Waited::Stopped {
            return Ok(None);
        }
    }
}

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

/// Calls a function at regular times on a thread of its own, until dropped.
#[derive(Debug)]
pub struct Ticker {
    stop: Option<StopHandle>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Starts calling `tick` every `period`.
    ///
    /// # Errors
    /// Fatal if the system can't start another thread.
    pub fn start(
        name: &'static str,
        period: Duration,
        mut tick: impl FnMut() + Send + 'static,
    ) -> Result<Self> {
        let (handle, stop) = stop_pair();
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                while !stop.wait(period) {
                    tick();
                }
            })
            .map_err(|e| Error::fatal(format!("thread {name} can't be started")).caused_by(e))?;
        Ok(Self {
            stop: Some(handle),
            thread: Some(thread),
        })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A thread of its own that runs until dropped.
#[derive(Debug)]
pub struct Background {
    stop: Option<StopHandle>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Starts `run`, which ends soon after its stop.
    ///
    /// # Errors
    /// Fatal if the system can't start another thread.
    pub fn spawn(name: &'static str, run: impl FnOnce(&Stop) + Send + 'static) -> Result<Self> {
        let (handle, stop) = stop_pair();
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || run(&stop))
            .map_err(|e| Error::fatal(format!("thread {name} can't be started")).caused_by(e))?;
        Ok(Self {
            stop: Some(handle),
            thread: Some(thread),
        })
    }
}

impl Background {
    /// Whether the thread has come to its end.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

/// Waits for the thread's end, but not for long: it may be loading a model.
impl Drop for Background {
    fn drop(&mut self) {
        drop(self.stop.take());
        let deadline = Instant::now() + Duration::from_millis(500);
        if let Some(thread) = self.thread.take() {
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(2));
            }
            if thread.is_finished() {
                let _ = thread.join();
            }
        }
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

/// Runs all until each has ended, or `asked_to_stop` fires and stops them all. One that fails is said in the log, and
/// the others go on. One job runs on the calling thread.
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
                    // What failed before was said then, and has not ended the run.
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

/// What signals ask for.
#[derive(Debug)]
pub struct Signals {
    /// Fires on SIGINT and SIGTERM. A second one of these ends the process at once (exit code 130).
    pub stop: Receiver<()>,
    /// Fires on SIGHUP; several that come while one is dealt with count as one.
    pub reload: Receiver<()>,
}

/// Installs the signal handlers; `on_stop` is called when a stop is asked for, before anything else happens.
///
/// # Errors
/// Fatal if the handlers can't be installed.
pub fn signals(on_stop: impl Fn() + Send + 'static) -> Result<Signals> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let (stop_tx, stop) = bounded(1);
    let (reload_tx, reload) = bounded(1);
    let fail = |e: std::io::Error| Error::fatal("signal handlers can't be installed").caused_by(e);
    let seen = Arc::new(std::sync::atomic::AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // Order matters: the first signal finds `seen` false, sets it, and is delivered below; the second exits.
        signal_hook::flag::register_conditional_shutdown(signal, 130, seen.clone()).map_err(fail)?;
        signal_hook::flag::register(signal, seen.clone()).map_err(fail)?;
    }
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(fail)?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                if signal == SIGHUP {
                    let _ = reload_tx.try_send(());
                    continue;
                }
                info!(signal, "signal received; a second one exits at once");
                on_stop();
                let _ = stop_tx.send(());
                break;
            }
        })
        .map_err(fail)?;
    Ok(Signals { stop, reload })
}

/// A channel that fires on SIGINT and SIGTERM. A second signal ends the process at once (exit code 130).
///
/// # Errors
/// Fatal if the handlers can't be installed.
pub fn stop_on_signals() -> Result<Receiver<()>> {
    Ok(signals(|| {})?.stop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SimulatedClock;

    #[test]
    fn backoff_doubles_to_its_cap() {
        let backoff = Backoff {
            first: Duration::from_millis(250),
            max: Duration::from_secs(10),
        };
        let ms: Vec<u128> = (1..=8).map(|n| backoff.delay(n).as_millis()).collect();
        assert_eq!(ms, [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
        assert_eq!(backoff.delay(u32::MAX), Duration::from_secs(10));
    }

    #[test]
    fn transient_errors_are_retried_at_the_backoffs_times() {
        let clock = SimulatedClock::auto();
        let (_handle, stop) = stop_pair();
        let mut times_ms = Vec::new();
        let opened = open_with_retry(
            "camera",
            OnTransient::Retry(Backoff::default()),
            &*clock,
            &stop,
            || {
                times_ms.push(clock.now_ns() / 1_000_000);
                if times_ms.len() < 5 {
                    Err(Error::transient("busy"))
                } else {
                    Ok(7)
                }
            },
        );
        assert_eq!(opened.unwrap(), Some(7));
        assert_eq!(times_ms, [0, 250, 750, 1750, 3750]);
    }

    #[test]
    fn fatal_errors_and_give_up_are_not_retried() {
        let clock = SimulatedClock::auto();
        let (handle, stop) = stop_pair();
        for (policy, error) in [
            (OnTransient::Retry(Backoff::default()), Error::fatal("x")),
            (OnTransient::GiveUp, Error::transient("x")),
        ] {
            let mut error = Some(error);
            let result: Result<Option<()>> = open_with_retry("file", policy, &*clock, &stop, || {
                Err(error.take().expect("opened once"))
            });
            assert!(result.is_err());
        }
        drop(handle);
        let none: Result<Option<()>> = open_with_retry("file", OnTransient::GiveUp, &*clock, &stop, || {
            panic!("opened after stop")
        });
        assert!(none.unwrap().is_none());
    }

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
