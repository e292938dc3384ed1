//! Which model runs on which backend, and why. No backend is taken that was not seen to give the right answer.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use tracing::warn;

use crate::error::{Error, Result};
use crate::infer::{Backend, Device, time};
use crate::model::contract::{Input, Precision};
use crate::model::{DEFAULT_MODEL, Model, Registry};
use crate::schedule::ScheduleOptions;
use crate::segment::Fallback;
use crate::selftest;

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
    /// The CPU at first, then CUDA and TensorRT as soon as they are ready, where they can be had.
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

/// How large the network's input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InputLength {
    /// As the contract says.
    #[default]
    Contract,
    /// The longer side in pixels.
    Pixels(usize),
    /// The contract's, or as much less, down to half, as an inference needs to take no more time than this here.
    Within(Duration),
}

impl InputLength {
    /// So that a frame can wait for its own mask, as long as frames do by default ([`ScheduleOptions`]), most of the time.
    pub fn auto() -> Self {
        Self::Within(ScheduleOptions::default().wait.mul_f64(MOSTLY))
    }

    /// Takes no more of a CPU budget in cores than leaves masks younger than `max_mask_age`.
    #[must_use]
    pub fn within_budget(self, schedule: &ScheduleOptions) -> Self {
        match (self, schedule.cpu_budget) {
            (Self::Within(time), Some(cores)) => {
                Self::Within(time.min(schedule.max_mask_age.mul_f64(MOSTLY * cores.clamp(0.0, 1.0))))
            }
            _ => self,
        }
    }

    /// The longer side, where it was said.
    fn pixels(self) -> Option<usize> {
        match self {
            Self::Pixels(pixels) => Some(pixels),
            Self::Contract | Self::Within(_) => None,
        }
    }
}

/// Part of a limit on time that an inference may take in the least of several runs.
const MOSTLY: f64 = 0.8;

/// The longer side of an input that takes `limit_ns` or less, where the contract's takes `taken_ns`: time goes with the area.
/// At least half of the contract's; `None` for the contract's own.
fn length_within(input: &Input, taken_ns: u64, limit_ns: u64) -> Option<usize> {
    if taken_ns <= limit_ns {
        return None;
    }
    let whole = input.width.max(input.height);
    let wanted = (whole as f64 * (limit_ns as f64 / taken_ns as f64).sqrt()) as usize;
    let steps = wanted.saturating_sub(input.offset) / input.multiple;
    let below = steps * input.multiple + input.offset;
    Some(below.max(input.nearest_side(whole.div_ceil(2)))).filter(|&length| length < whole)
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct ChoiceOptions {
    /// Name or folder of the model.
    pub model: String,
    /// The backend.
    pub backend: BackendName,
    /// Where the network runs. Anything but the CPU needs ONNX Runtime.
    pub device: Device,
    /// Whether it moves on to CUDA and TensorRT once they are ready, where they can be had.
    pub accelerate: bool,
    /// Only files of this precision.
    pub precision: Option<Precision>,
    /// How large the network's input is.
    pub length: InputLength,
    /// Threads of one inference, for ONNX Runtime.
    pub threads: usize,
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
            length: InputLength::Contract,
            threads: 1,
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

/// A backend that passed its test, and how that went.
type Trusted = (Arc<dyn Backend>, String);

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
    /// The model that is asked for.
    ///
    /// # Errors
    /// Usage if it doesn't exist or its contract is not valid.
    pub fn find(&self) -> Result<Model> {
        Registry::from_environment().find(&self.model)
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
        let (backend, why) = match (self.backend, self.device) {
            (BackendName::Auto, Device::Cpu) => self.best(&model)?,
            (BackendName::Tract, _) => self.trusted_tract(&model)?,
            // An accelerator is only had through ONNX Runtime: what is asked for is had or is an error.
            (BackendName::Ort | BackendName::Auto, _) => {
                let backend = self.ort()?;
                let why = self.trust(&model, &backend)?;
                (backend, why)
            }
        };
        let (longest, why) = self.longest(&model, &backend, why)?;
        // tract runs on what is always there: nothing has to take over from it.
        let fallbacks = match backend.name() {
            "tract" => Vec::new(),
            _ => self.fallbacks(),
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
            Fallback {
                name: match backend {
                    BackendName::Tract => "tract".to_owned(),
                    _ => format!("ONNX Runtime on {}", device.provider()),
                },
                make: Arc::new(move |model: &Arc<Model>| {
                    if options.backend == BackendName::Tract {
                        return Ok(options.trusted_tract(model)?.0);
                    }
                    let backend = options.ort()?;
                    options.trust(model, &backend)?;
                    Ok(backend)
                }),
            }
        };
        steps.into_iter().map(fallback).collect()
    }

    /// ONNX Runtime with the first of the model's files that gives the right labels, or tract where that has an 8-bit file
    /// which takes less CPU; tract where ONNX Runtime is not to be had.
    fn best(&self, model: &Arc<Model>) -> Result<Trusted> {
        let (ort, reason) = self.trusted_ort(model)?;
        let Some((ort, ort_why)) = ort else {
            let reason = reason.unwrap_or_else(|| "the model has no such file for ONNX Runtime".to_owned());
            if cfg!(not(feature = "tract")) {
                return Err(Error::fatal(reason));
            }
            // The network's own faults, such as a damaged file, come up here again.
            let (tract, why) = self.trusted_tract(model)?;
            return Ok((tract, format!("{why}; not ONNX Runtime: {reason}")));
        };
        let ort_why = reason.map_or(ort_why.clone(), |first| format!("{ort_why}; before: {first}"));
        let chosen = match self.faster_tract(model, &ort) {
            Ok(Some((tract, why))) => (tract, why),
            Ok(None) => (ort, ort_why),
            Err(error) => {
                warn!("tract is not used: {error}");
                (ort, ort_why)
            }
        };
        give_back_memory();
        Ok(chosen)
    }

    /// ONNX Runtime with the first of the model's files that gives the right labels, and why not with an earlier one.
    ///
    /// 8-bit convolutions of u8 by s8 saturate on x86 processors without VNNI, and an int8 file with weights of all 8 bits may
    /// fail there
    /// (<https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html#when-and-why-do-i-need-to-try-u8u8>);
    /// the fp32 file in ONNX Runtime is then still faster than in tract.
    fn trusted_ort(&self, model: &Arc<Model>) -> Result<(Option<Trusted>, Option<String>)> {
        let mut reason = None;
        for precision in self.precisions(model) {
            let options = self.with(Some(precision));
            match options.ort() {
                // A library that was named must load.
                Err(error) if error.exit_code() == 2 => return Err(error),
                Err(error) => {
                    reason.get_or_insert(error.to_string());
                    break;
                }
                Ok(ort) => match options.trust(model, &ort) {
                    Ok(why) => return Ok((Some((ort, why)), reason)),
                    Err(error) => {
                        warn!(
                            precision = precision.as_str(),
                            "ONNX Runtime is not used with this file: {error}"
                        );
                        reason.get_or_insert(error.to_string());
                    }
                },
            }
        }
        Ok((None, reason))
    }

    /// tract with its 8-bit file, if that gives the right labels and takes less CPU than `ort` here.
    #[cfg(feature = "tract")]
    fn faster_tract(&self, model: &Arc<Model>, ort: &Arc<dyn Backend>) -> Result<Option<Trusted>> {
        use crate::infer::tract;
        /// Inferences that are timed: the least counts.
        const RUNS: usize = 3;
        let int8 = Precision::Int8;
        let has_file = model.contract.file_for("tract", Some(int8)).is_some();
        let is_asked = self.precision.is_none_or(|asked| asked == int8);
        // More threads are only had with ONNX Runtime.
        if !has_file || !is_asked || !tract::int8::is_fast() || self.threads > 1 {
            return Ok(None);
        }
        let options = self.with(Some(int8));
        let rival = options.tract_at(Some(int8))?;
        let why = options.trust(model, &rival)?;
        let size = model.contract.input.size_for(640, 480, self.length.pixels());
        let ms = |backend: &Arc<dyn Backend>| -> Result<f64> {
            Ok(time(model, &**backend, size, RUNS)?.cpu_ns as f64 / 1e6)
        };
        let (of_rival, of_ort) = (ms(&rival)?, ms(ort)?);
        let why = format!("{why}; an inference takes {of_rival:.1} ms of CPU, with ONNX Runtime {of_ort:.1}");
        Ok((of_rival < of_ort).then_some((rival, why)))
    }

    #[cfg(not(feature = "tract"))]
    fn faster_tract(&self, _model: &Arc<Model>, _ort: &Arc<dyn Backend>) -> Result<Option<Trusted>> {
        Ok(None)
    }

    /// tract with the fastest of the model's files that gives the right labels.
    #[cfg(feature = "tract")]
    fn trusted_tract(&self, model: &Arc<Model>) -> Result<Trusted> {
        let mut first_error = None;
        let precisions = crate::infer::tract::precisions(model).into_iter();
        for precision in precisions.filter(|&p| self.precision.is_none_or(|asked| asked == p)) {
            let options = self.with(Some(precision));
            let tract = options.tract_at(Some(precision))?;
            match options.trust(model, &tract) {
                Ok(why) => return Ok((tract, why)),
                Err(error) => {
                    warn!(
                        precision = precision.as_str(),
                        "tract is not used with this file: {error}"
                    );
                    first_error.get_or_insert(error);
                }
            }
        }
        match first_error {
            Some(error) => Err(error),
            // There is no such file, as preparing it says.
            None => {
                let tract = self.tract_at(self.precision)?;
                let why = self.trust(model, &tract)?;
                Ok((tract, why))
            }
        }
    }

    #[cfg(not(feature = "tract"))]
    fn trusted_tract(&self, _model: &Arc<Model>) -> Result<Trusted> {
        Err(Error::usage("this segd was built without tract").hint("use --backend ort"))
    }

    fn with(&self, precision: Option<Precision>) -> Self {
        Self {
            precision,
            ..self.clone()
        }
    }

    /// Precisions of the model's files for ONNX Runtime, in the contract's order; the one that is asked for alone.
    fn precisions(&self, model: &Model) -> Vec<Precision> {
        let mut precisions: Vec<Precision> = Vec::new();
        for file in &model.contract.files {
            let asked = self.precision.is_none_or(|asked| asked == file.precision);
            let is_for_ort = file.backends.iter().any(|backend| backend == "ort");
            if asked && is_for_ort && !precisions.contains(&file.precision) {
                precisions.push(file.precision);
            }
        }
        precisions
    }

    /// The longer side of the input, and what the log says about it.
    fn longest(
        &self,
        model: &Model,
        backend: &Arc<dyn Backend>,
        why: String,
    ) -> Result<(Option<usize>, String)> {
        /// Inferences that are timed: the least counts.
        const RUNS: usize = 3;
        let InputLength::Within(limit) = self.length else {
            return Ok((self.length.pixels(), why));
        };
        let input = &model.contract.input;
        let cost = time(model, &**backend, input.size_for(640, 480, None), RUNS)?;
        let limit_ns = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        let ms = cost.wall_ns as f64 / 1e6;
        let longest = length_within(input, cost.wall_ns, limit_ns);
        let said = match longest {
            None => format!("{why}; an inference takes {ms:.1} ms, and the input is the model's"),
            Some(pixels) => format!(
                "{why}; an input of {pixels} pixels, as one of {} takes {ms:.1} ms",
                input.width.max(input.height)
            ),
        };
        Ok((longest, said))
    }

    /// Tests the backend; the text says how that went.
    fn trust(&self, model: &Arc<Model>, backend: &Arc<dyn Backend>) -> Result<String> {
        if !self.selftest {
            return Ok("self-test switched off".into());
        }
        let agreement = match selftest::run(model, backend)? {
            Some(agreement) => agreement,
            None => match self.compared(model, backend)? {
                Some(agreement) => agreement,
                None => {
                    if backend.name() != "tract" {
                        warn!(
                            model = model.contract.name,
                            "the model has no self-test: {} is trusted untested",
                            backend.name()
                        );
                    }
                    return Ok("the model has no self-test".into());
                }
            },
        };
        if agreement.passes() {
            return Ok(format!("self-test: {agreement}"));
        }
        Err(Error::fatal(format!(
            "backend {} fails the self-test of model {}: {agreement}",
            backend.name(),
            model.contract.name
        ))
        .hint("use another --backend, --device or --precision (--no-selftest runs it all the same)"))
    }

    /// For a model without a self-test: against tract with the fp32 file, where it can run that.
    fn compared(
        &self,
        model: &Arc<Model>,
        backend: &Arc<dyn Backend>,
    ) -> Result<Option<selftest::Agreement>> {
        let contract = &model.contract;
        let full = contract.file_for("tract", Some(Precision::Fp32));
        let Some(reference) = full.or_else(|| contract.file_for("tract", None)) else {
            return Ok(None);
        };
        let tested = contract.file_for(backend.name(), self.precision);
        let same = tested.is_some_and(|f| f.precision == reference.precision);
        if backend.name() == "tract" && same {
            return Ok(None);
        }
        let Ok(tract) = self.tract_at(Some(reference.precision)) else {
            return Ok(None);
        };
        match selftest::compare(model, backend, &tract, same) {
            Ok(agreement) => Ok(Some(agreement)),
            Err(error) => {
                // Whose fault it is shows when the backend runs alone.
                warn!("{} can't be compared with tract's fp32: {error}", backend.name());
                Ok(None)
            }
        }
    }

    #[cfg(feature = "tract")]
    fn tract_at(&self, precision: Option<Precision>) -> Result<Arc<dyn Backend>> {
        Ok(Arc::new(crate::infer::tract::TractBackend { precision }))
    }

    #[cfg(not(feature = "tract"))]
    fn tract_at(&self, _precision: Option<Precision>) -> Result<Arc<dyn Backend>> {
        Err(Error::usage("this segd was built without tract").hint("use --backend ort"))
    }

    #[cfg(feature = "ort")]
    fn ort(&self) -> Result<Arc<dyn Backend>> {
        use crate::infer::ort::{OrtBackend, OrtOptions};
        Ok(Arc::new(OrtBackend::load(OrtOptions {
            device: self.device,
            precision: self.precision,
            threads: self.threads,
            library: self.ort_library.clone(),
        })?))
    }

    #[cfg(not(feature = "ort"))]
    fn ort(&self) -> Result<Arc<dyn Backend>> {
        Err(Error::fatal("this segd was built without ONNX Runtime").hint("use --backend tract"))
    }
}

/// Gives memory that is free again back to the system: of the backend that was not chosen nothing should stay.
fn give_back_memory() {
    // SAFETY: malloc_trim takes a number, and touches only what is free.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
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
    fn an_input_is_as_large_as_time_allows() {
        let model = Model::embedded().unwrap();
        let Some(input) = model.map(|model| model.contract.input) else {
            return;
        };
        assert_eq!((input.width, input.height, input.multiple), (384, 384, 32));
        assert_eq!(length_within(&input, 20, 24), None);
        assert_eq!(length_within(&input, 24, 24), None);
        // 384 * sqrt(24 / 30) is 343.5.
        assert_eq!(length_within(&input, 30, 24), Some(320));
        assert_eq!(length_within(&input, 25, 24), Some(352));
        assert_eq!(length_within(&input, 10_000, 24), Some(192));
        assert_eq!(length_within(&input, u64::MAX, 0), Some(192));
    }

    #[test]
    fn a_budget_shortens_inferences_and_never_lengthens_them() {
        let with = |cpu_budget| ScheduleOptions {
            cpu_budget,
            ..ScheduleOptions::default()
        };
        let ms = |n| InputLength::Within(Duration::from_millis(n));
        assert_eq!(InputLength::auto(), ms(24));
        assert_eq!(InputLength::auto().within_budget(&with(None)), ms(24));
        assert_eq!(InputLength::auto().within_budget(&with(Some(4.0))), ms(24));
        assert_eq!(InputLength::auto().within_budget(&with(Some(0.25))), ms(20));
        assert_eq!(
            InputLength::Contract.within_budget(&with(Some(0.1))),
            InputLength::Contract
        );
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
