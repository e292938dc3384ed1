//! Threads beside the pipelines.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::clock::{Stop, StopHandle, stop_pair};
use vision::error::{Error, Result};

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
