//! Moves a network that runs to faster devices, once they are ready: the CPU serves while CUDA loads, CUDA while
//! TensorRT builds its engine. Beside the pipeline, on a thread of its own; what is swapped in is prepared and tested.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use crate::clock::{SharedClock, Stop};
use crate::metrics::{Metrics, Preparing};
use crate::pipeline::control::Control;
use vision::error::Result;
use vision::segment::Engine;

/// How often it is looked whether the first frame has come.
const LOOK: Duration = Duration::from_millis(100);

/// A faster device.
pub struct Step {
    /// What it is, for people: `TensorRT`.
    pub name: String,
    /// Makes an engine for it, tested; may take minutes.
    pub make: Box<dyn FnOnce() -> Result<Engine> + Send>,
}

/// The way of one pipeline's network to faster devices.
pub struct Upgrade {
    /// Changes the pipeline.
    pub control: Arc<Control>,
    /// Where is said what is being prepared.
    pub metrics: Arc<Metrics>,
    /// The pipeline's.
    pub clock: SharedClock,
    /// The devices, each faster than the one before.
    pub steps: Vec<Step>,
}

impl Upgrade {
    /// Waits for the first frame, and goes from step to step. A device that doesn't work is named in the log, and the
    /// network stays where it runs. Ends early when another model takes over.
    pub fn run(self, stop: &Stop) {
        let ticket = self.control.ticket();
        for step in self.steps {
            // The format may have changed while the last step was made.
            let format = loop {
                if stop.wait(Duration::ZERO) {
                    return;
                }
                match self.control.format() {
                    Some(format) => break format,
                    None if stop.wait(LOOK) => return,
                    None => {}
                }
            };
            info!("{} is being prepared; the network runs meanwhile", step.name);
            self.metrics.vitals.set_preparing(Some(Preparing {
                name: step.name.clone(),
                since_ns: self.clock.now_ns(),
            }));
            let made = (step.make)().and_then(|mut engine| {
                engine.prepare(format)?;
                Ok(engine)
            });
            self.metrics.vitals.set_preparing(None);
            match made {
                Ok(engine) => {
                    if !self.control.swap_engine(engine, ticket) {
                        info!("{} is ready, but another model has taken over", step.name);
                        return;
                    }
                    info!("{} is ready and takes over", step.name);
                }
                Err(why) => warn!("{} is not used: {why}", step.name),
            }
        }
    }
}
