//! Running the network: backends behind one trait.

use std::sync::Arc;
use std::time::{Duration, Instant};

#[cfg(any(feature = "tract", feature = "ort"))]
use crate::error::Error;
use crate::error::Result;
use crate::model::Model;
#[cfg(any(feature = "tract", feature = "ort"))]
use crate::model::contract::{Contract, ModelFile, Precision};
use crate::timing::thread_cpu_ns;

pub use crate::tensor::{InputSize, Outputs, Placement, TensorData};

#[cfg(feature = "tract")]
mod onnx_check;
#[cfg(all(feature = "tract", feature = "ort"))]
pub mod qdq;
#[cfg(feature = "tract")]
pub mod tract;
#[cfg(feature = "ort")]
pub mod ort;
#[cfg(feature = "ort")]
pub mod engine_cache;
#[cfg(feature = "ort")]
mod ort_failure;
#[cfg(feature = "ort")]
mod ort_library;
#[cfg(feature = "ort")]
mod ort_profile;

/// Where a network runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Device {
    /// The CPU.
    #[default]
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
    /// An NVIDIA GPU, with engines built by TensorRT.
    #[value(name = "tensorrt")]
    TensorRt,
}

impl Device {
    /// The execution provider's name, as in [`RunsOn::provider`].
    pub fn provider(self) -> &'static str {
        match self {
            Self::Cpu => "CPU",
            Self::Cuda => "CUDA",
            Self::TensorRt => "TensorRT",
        }
    }
}

/// What really runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunsOn {
    /// `tract` or `ort`.
    pub backend: &'static str,
    /// Execution provider: `CPU`, `CUDA`, `TensorRT`; where several share the network, all of them, joined by `+`.
    pub provider: String,
    /// `fp32`, `fp16` or `int8`.
    pub precision: String,
    /// Version of the library that runs.
    pub version: String,
    /// Size of the network's input.
    pub input_size: InputSize,
}

/// `tract 0.23.0 CPU int8 320x256`
impl std::fmt::Display for RunsOn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let InputSize { width, height } = self.input_size;
        write!(
            f,
            "{} {} {} {} {width}x{height}",
            self.backend, self.version, self.provider, self.precision
        )
    }
}

/// A network prepared for one input size; one per thread.
pub trait Segmenter: Send {
    /// The input's size.
    fn input_size(&self) -> InputSize;

    /// What really runs.
    fn runs_on(&self) -> RunsOn;

    /// Threads of one inference, the one that asks included if it works itself.
    fn threads(&self) -> usize {
        1
    }

    /// Runs the network. `input` has the contract's layout, type and this segmenter's size; `outputs`
    /// gets the outputs that the contract names, in its order, in the buffers of the run before.
    ///
    /// # Errors
    /// Fatal if the network's answer is not what the contract says; transient if the provider failed.
    fn run(&mut self, input: &TensorData, outputs: &mut Outputs) -> Result<()>;
}

/// A way to run networks.
pub trait Backend: Send + Sync {
    /// `tract` or `ort`.
    fn name(&self) -> &'static str;

    /// Loads the model's file for this backend and prepares it for `size`.
    ///
    /// # Errors
    /// Usage if the model has no file for this backend, fatal if the file can't be run: another opset,
    /// truncated, or other inputs and outputs than the contract says.
    fn prepare(&self, model: &Model, size: InputSize) -> Result<Box<dyn Segmenter>>;

    /// The same backend with this many threads for an inference; `None` if the number can't be chosen.
    ///
    /// # Errors
    /// Fatal if the threads can't be started.
    fn with_threads(&self, threads: usize) -> Result<Option<Arc<dyn Backend>>> {
        let _ = threads;
        Ok(None)
    }
}

/// CPU time of an inference in nanoseconds: that of the asking thread, or, if several work, the most that it can be.
pub fn cost_ns(threads: usize, asking_ns: u64, wall_ns: u64) -> u64 {
    match threads {
        0 | 1 => asking_ns,
        _ => wall_ns.saturating_mul(threads as u64),
    }
}

/// What one inference takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// CPU time in nanoseconds, as [`cost_ns`] has it.
    pub cpu_ns: u64,
    /// From the request to the answer, in nanoseconds.
    pub wall_ns: u64,
}

/// The pause between two timed inferences, as a video has one between its frames. Without it, processors keep threads
/// in place and caches warm.
const PAUSE: Duration = Duration::from_millis(5);

/// Times an inference on a blank input: the least of `runs`, after one that does not count.
///
/// # Errors
/// As [`Backend::prepare`] and [`Segmenter::run`].
pub fn time(model: &Model, backend: &dyn Backend, size: InputSize, runs: usize) -> Result<Cost> {
    let [cost] = time_in_turns(model, [backend], size, runs)?;
    Ok(cost)
}

/// [`time`] for several backends, run by run in turns, so that other load on the machine affects all alike.
///
/// # Errors
/// As [`time`].
pub fn time_in_turns<const N: usize>(
    model: &Model,
    backends: [&dyn Backend; N],
    size: InputSize,
    runs: usize,
) -> Result<[Cost; N]> {
    let input = TensorData::zeros(model.contract.input.dtype, size);
    let mut outputs = Outputs::default();
    let mut segmenters = Vec::with_capacity(N);
    for backend in backends {
        let mut segmenter = backend.prepare(model, size)?;
        segmenter.run(&input, &mut outputs)?;
        segmenters.push(segmenter);
    }
    let mut least = [Cost {
        cpu_ns: u64::MAX,
        wall_ns: u64::MAX,
    }; N];
    for _ in 0..runs {
        for (segmenter, least) in segmenters.iter_mut().zip(&mut least) {
            std::thread::sleep(PAUSE);
            let (cpu, wall) = (thread_cpu_ns(), Instant::now());
            segmenter.run(&input, &mut outputs)?;
            let wall_ns = u64::try_from(wall.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let asking_ns = thread_cpu_ns().saturating_sub(cpu);
            least.cpu_ns = least.cpu_ns.min(cost_ns(segmenter.threads(), asking_ns, wall_ns));
            least.wall_ns = least.wall_ns.min(wall_ns);
        }
    }
    Ok(least)
}

/// The model's file for `backend`, of `precision` if one is asked for.
#[cfg(any(feature = "tract", feature = "ort"))]
fn network_for<'m>(model: &'m Model, backend: &str, precision: Option<Precision>) -> Result<&'m ModelFile> {
    let contract = &model.contract;
    contract.file_for(backend, precision).ok_or_else(|| {
        let files: Vec<String> = contract
            .files
            .iter()
            .map(|f| format!("{} ({}: {})", f.path, f.precision.as_str(), f.backends.join(", ")))
            .collect();
        Error::usage(format!(
            "model {} has no {}file for {backend}; it has {}",
            contract.name,
            precision.map_or(String::new(), |p| format!("{} ", p.as_str())),
            files.join(", ")
        ))
        .hint("choose another --precision or --backend")
    })
}

/// Which of the network's outputs the contract means, in the contract's order.
#[cfg(any(feature = "tract", feature = "ort"))]
fn pick_outputs(names: &[&str], contract: &Contract) -> Result<Vec<usize>, String> {
    let wanted = contract.output.tensors.iter().enumerate();
    wanted
        .map(|(number, tensor)| match (&tensor.name, names) {
            (None, [_]) => Ok(0),
            (None, _) => Err(format!(
                "it has {} outputs ({}), the contract names none: set output.name",
                names.len(),
                names.join(", ")
            )),
            (Some(name), _) => names.iter().position(|n| n == name).ok_or_else(|| {
                let key = match number {
                    0 => "output.name".to_owned(),
                    n => format!("output.tensors[{n}].name"),
                };
                format!("it has no output {name:?} ({key}), only {}", names.join(", "))
            }),
        })
        .collect()
}
