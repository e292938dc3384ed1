//! Which model runs on which backend, and why. No backend is taken that was not seen to give the right answer.

mod backends;
mod chooser;
mod effort;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use clap::ValueEnum;

use vision::error::{Error, Result};
use vision::infer::{Backend, Cost, Device};
use vision::model::contract::Precision;
use vision::model::{DEFAULT_MODEL, Model, Registry};
use vision::segment::Fallback;

pub use chooser::Chooser;
pub use effort::{InputLength, Threads};

/// The backend that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum BackendName {
    /// ONNX Runtime or tract, whichever takes less CPU here of those that pass the self-test.
    #[default]
    Auto,
    /// tract, inside segd: CPU only.
    Tract,
    /// ONNX Runtime, a library: CPU, CUDA, TensorRT.
    Ort,
}

/// The device that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum DeviceName {
    /// The CPU at first, then CUDA and TensorRT, each as soon as it is ready, if it works here.
    Auto,
    /// The CPU.
    #[default]
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
    /// An NVIDIA GPU, with engines built by TensorRT.
    #[value(name = "tensorrt")]
    TensorRt,
}

impl DeviceName {
    /// The device to begin with.
    pub fn first(self) -> Device {
        match self {
            Self::Auto | Self::Cpu => Device::Cpu,
            Self::Cuda => Device::Cuda,
            Self::TensorRt => Device::TensorRt,
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct ChoiceOptions {
    /// Name or folder of the model.
    pub model: String,
    /// The backend.
    pub backend: BackendName,
    /// Where the network runs. Anything but the CPU needs ONNX Runtime.
    pub device: Device,
    /// Whether it moves on to CUDA and TensorRT once they are ready, if they work here.
    pub accelerate: bool,
    /// Only files of this precision.
    pub precision: Option<Precision>,
    /// Connected regions of a class are objects, where the network gives classes alone.
    pub regions: bool,
    /// How large the network's input is.
    pub length: InputLength,
    /// Threads of one inference on the CPU.
    pub threads: Threads,
    /// ONNX Runtime's library; searched for if `None`.
    pub ort_library: Option<PathBuf>,
    /// Test the backend before it is used.
    pub selftest: bool,
}

impl Default for ChoiceOptions {
    fn default() -> Self {
        Self {
            model: DEFAULT_MODEL.into(),
            backend: BackendName::Auto,
            device: Device::Cpu,
            accelerate: false,
            precision: None,
            regions: false,
            length: InputLength::Contract,
            threads: Threads::default(),
            ort_library: None,
            selftest: true,
        }
    }
}

/// What will run.
#[derive(Clone)]
pub struct Choice {
    /// The model.
    pub model: Arc<Model>,
    /// The backend.
    pub backend: Arc<dyn Backend>,
    /// Longer side of the network's input in pixels; the contract's if `None`.
    pub longest: Option<usize>,
    /// Why this backend, for people.
    pub why: String,
    /// What takes over in this order where the backend fails while it runs.
    pub fallbacks: Vec<Fallback>,
    /// What takes over in this order once it is ready.
    pub faster: Vec<ChoiceOptions>,
}

/// A backend that passed its test.
struct Trusted {
    backend: Arc<dyn Backend>,
    /// How that went, for people.
    why: String,
    /// What an inference takes, where it was timed with one thread.
    cost: Option<Cost>,
}

/// The backends and devices that come after one, fastest first.
fn steps_after(backend: BackendName, device: Device) -> Vec<(BackendName, Device)> {
    let all = [
        (BackendName::Ort, Device::TensorRt),
        (BackendName::Ort, Device::Cuda),
        (BackendName::Ort, Device::Cpu),
        (BackendName::Tract, Device::Cpu),
    ];
    let after = match (backend, device) {
        (BackendName::Tract, _) => 4,
        (_, Device::TensorRt) => 1,
        (_, Device::Cuda) => 2,
        (_, Device::Cpu) => 3,
    };
    all[after..].to_vec()
}

impl ChoiceOptions {
    /// Whether the other was asked for in the same words: what suits the machine is the same word, whatever it comes to.
    pub fn asks_the_same(&self, other: &Self) -> bool {
        let in_words = |options: &Self| {
            let mut options = options.clone();
            if let InputLength::Within(limit) = &mut options.length {
                *limit = Duration::ZERO;
            }
            if let Threads::Within { limit, most } = &mut options.threads {
                (*limit, *most) = (Duration::ZERO, 0);
            }
            options
        };
        in_words(self) == in_words(other)
    }

    /// The model that is asked for.
    ///
    /// # Errors
    /// Usage if it doesn't exist, its contract is not valid, or regions are asked for of a network that has no use for them.
    pub fn find(&self) -> Result<Model> {
        let mut model = Registry::from_environment().find(&self.model)?;
        if self.regions {
            model.contract.tell_regions_apart()?;
        }
        Ok(model)
    }

    /// Finds the model and a backend that runs it and passes the self-test.
    ///
    /// # Errors
    /// Usage for a model, file or library that doesn't exist; fatal if nothing runs the model, if a backend or
    /// device that was asked for can't be had, or if it gives wrong answers.
    pub fn choose(&self) -> Result<Choice> {
        self.choose_for(self.find()?)
    }

    /// As [`choose`](Self::choose), for a model that was found.
    ///
    /// # Errors
    /// As [`choose`](Self::choose).
    pub fn choose_for(&self, model: Model) -> Result<Choice> {
        let model = Arc::new(model);
        if self.device != Device::Cpu && self.backend == BackendName::Tract {
            return Err(Error::usage(format!(
                "--device {} with --backend tract, which runs on the CPU only",
                self.device.provider().to_lowercase()
            ))
            .hint("use --backend ort"));
        }
        let trusted = match (self.backend, self.device) {
            (BackendName::Auto, Device::Cpu) => self.best(&model)?,
            (BackendName::Tract, _) => self.trusted_tract(&model)?,
            // An accelerator is only had through ONNX Runtime: what is asked for is had or is an error.
            (BackendName::Ort | BackendName::Auto, _) => self.trusted(&model, self.ort()?)?,
        };
        let (trusted, threads) = self.with_threads(&model, trusted)?;
        let (longest, Trusted { backend, why, .. }) = self.longest(&model, trusted)?;
        let threaded = Self {
            threads: Threads::Count(threads),
            ..self.clone()
        };
        // tract runs on what is always there: nothing has to take over from it.
        let fallbacks = match backend.name() {
            "tract" => Vec::new(),
            _ => threaded.fallbacks(),
        };
        Ok(Choice {
            model,
            backend,
            longest,
            why,
            fallbacks,
            faster: self.faster(),
        })
    }

    /// What may take over once it is ready.
    fn faster(&self) -> Vec<Self> {
        if !self.accelerate || self.backend == BackendName::Tract {
            return Vec::new();
        }
        let on = |device| Self {
            backend: BackendName::Ort,
            device,
            accelerate: false,
            ..self.clone()
        };
        vec![on(Device::Cuda), on(Device::TensorRt)]
    }

    /// What may take over where the backend fails while it runs: the next slower device, and tract at last. Each is
    /// loaded and tested only then.
    fn fallbacks(&self) -> Vec<Fallback> {
        let steps = steps_after(self.backend, self.device);
        let fallback = |(backend, device): (BackendName, Device)| {
            // The file that suits the device, whatever precision was asked of the other one.
            let options = Self {
                backend,
                device,
                precision: None,
                ..self.clone()
            };
            // Pipelines that fail alike share what takes over.
            let made: Mutex<Option<Weak<dyn Backend>>> = Mutex::new(None);
            Fallback {
                name: match backend {
                    BackendName::Tract => "tract".to_owned(),
                    _ => format!("ONNX Runtime on {}", device.provider()),
                },
                make: Arc::new(move |model: &Arc<Model>| {
                    let mut made = made.lock().unwrap_or_else(|e| e.into_inner());
                    if let Some(backend) = made.as_ref().and_then(Weak::upgrade) {
                        return Ok(backend);
                    }
                    let backend = match options.backend {
                        BackendName::Tract => options.trusted_tract(model)?.backend,
                        _ => options.trusted(model, options.ort()?)?.backend,
                    };
                    *made = Some(Arc::downgrade(&backend));
                    Ok(backend)
                }),
            }
        };
        steps.into_iter().map(fallback).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slower_devices_come_after_faster_ones() {
        use BackendName::{Auto, Ort, Tract};
        use Device::{Cpu, Cuda, TensorRt};
        assert_eq!(
            steps_after(Ort, TensorRt),
            [(Ort, Cuda), (Ort, Cpu), (Tract, Cpu)]
        );
        assert_eq!(steps_after(Auto, Cuda), [(Ort, Cpu), (Tract, Cpu)]);
        assert_eq!(steps_after(Auto, Cpu), [(Tract, Cpu)]);
        assert_eq!(steps_after(Tract, Cpu), []);
    }

    #[test]
    fn what_suits_the_machine_is_one_wish() {
        let auto = |most| ChoiceOptions {
            threads: Threads::Within {
                limit: Duration::from_millis(24),
                most,
            },
            ..ChoiceOptions::default()
        };
        assert!(auto(1).asks_the_same(&auto(4)));
        assert!(!auto(1).asks_the_same(&ChoiceOptions::default()));
        let sized = |pixels| ChoiceOptions {
            length: InputLength::Pixels(pixels),
            ..ChoiceOptions::default()
        };
        assert!(!sized(64).asks_the_same(&sized(96)));
    }

    #[test]
    fn only_auto_moves_on_and_only_where_there_is_something_faster() {
        let faster = |accelerate, backend| {
            let options = ChoiceOptions {
                accelerate,
                backend,
                ..ChoiceOptions::default()
            };
            let steps = options.faster();
            assert!(steps.iter().all(|step| !step.accelerate));
            steps.iter().map(|step| step.device).collect::<Vec<_>>()
        };
        assert_eq!(faster(true, BackendName::Auto), [Device::Cuda, Device::TensorRt]);
        assert_eq!(faster(false, BackendName::Auto), []);
        assert_eq!(faster(true, BackendName::Tract), []);
        assert_eq!(DeviceName::Auto.first(), Device::Cpu);
    }
}
