//! The backends that work here, each tested before it is trusted.

use std::sync::Arc;

use tracing::warn;

use super::{ChoiceOptions, Trusted};
use vision::error::{Error, Result};
use vision::infer::{Backend, Cost, time_in_turns};
use vision::model::Model;
use vision::model::contract::Precision;
use vision::selftest;

impl ChoiceOptions {
    /// ONNX Runtime with the first of the model's files that gives the right labels, or tract where that has an 8-bit file
    /// which takes less CPU; tract if ONNX Runtime is not installed.
    pub(super) fn best(&self, model: &Arc<Model>) -> Result<Trusted> {
        let (ort, reason) = self.trusted_ort(model)?;
        let Some(mut ort) = ort else {
            let reason = reason.unwrap_or_else(|| "the model has no such file for ONNX Runtime".to_owned());
            if cfg!(not(feature = "tract")) {
                return Err(Error::fatal(reason));
            }
            // The network's own faults, such as a damaged file, come up here again.
            let mut tract = self.trusted_tract(model)?;
            tract.why += &format!("; not ONNX Runtime: {reason}");
            return Ok(tract);
        };
        if let Some(first) = reason {
            ort.why += &format!("; before: {first}");
        }
        Ok(match self.int8_tract(model) {
            Ok(Some(tract)) => self.cheaper(model, tract, ort),
            Ok(None) => ort,
            Err(error) => {
                warn!("tract is not used: {error}");
                ort
            }
        })
    }

    /// The one of which an inference takes less CPU here, tract where they cost about the same; ONNX Runtime where that
    /// can't be measured.
    fn cheaper(&self, model: &Model, tract: Trusted, ort: Trusted) -> Trusted {
        /// Inferences of each that are timed: the least counts.
        const RUNS: usize = 5;
        let size = model.contract.input.size_for(640, 480, self.length.pixels());
        let backends = [&*tract.backend, &*ort.backend];
        let [of_tract, of_ort] = match time_in_turns(model, backends, size, RUNS) {
            Ok(costs) => costs,
            Err(error) => {
                warn!("tract is not used: {error}");
                return ort;
            }
        };
        let ms = |cost: Cost| cost.cpu_ns as f64 / 1e6;
        let (mut chosen, cost, other) = match prefers_tract(of_tract.cpu_ns, of_ort.cpu_ns) {
            true => (tract, of_tract, format!("ONNX Runtime {:.1}", ms(of_ort))),
            false => (ort, of_ort, format!("tract {:.1}", ms(of_tract))),
        };
        chosen.why += &format!("; an inference takes {:.1} ms of CPU, with {other}", ms(cost));
        chosen.cost = Some(cost);
        chosen
    }

    /// ONNX Runtime with the first of the model's files that gives the right labels, and why not with an earlier one.
    ///
    /// 8-bit convolutions of u8 by s8 saturate on x86 processors without VNNI, and an int8 file with weights of all 8 bits may
    /// fail there
    /// (<https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html#when-and-why-do-i-need-to-try-u8u8>);
    /// the fp32 file in ONNX Runtime is then still faster than in tract.
    fn trusted_ort(&self, model: &Arc<Model>) -> Result<(Option<Trusted>, Option<String>)> {
        let mut reason = None;
        for precision in self.asked_of(model.contract.precisions_for("ort")) {
            let options = self.with(Some(precision));
            match options.ort() {
                // A library that was named must load.
                Err(error) if error.exit_code() == 2 => return Err(error),
                Err(error) => {
                    reason.get_or_insert(error.to_string());
                    break;
                }
                Ok(ort) => match options.trusted(model, ort) {
                    Ok(trusted) => return Ok((Some(trusted), reason)),
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

    /// tract with its 8-bit file, where that is likely to be fast, and gives the right labels.
    #[cfg(feature = "tract")]
    fn int8_tract(&self, model: &Arc<Model>) -> Result<Option<Trusted>> {
        let int8 = Precision::Int8;
        let has_file = model.contract.file_for("tract", Some(int8)).is_some();
        let is_asked = self.precision.is_none_or(|asked| asked == int8);
        if !has_file || !is_asked || !vision::infer::tract::is_int8_fast() {
            return Ok(None);
        }
        let options = self.with(Some(int8));
        options.trusted(model, options.tract_at(Some(int8))?).map(Some)
    }

    #[cfg(not(feature = "tract"))]
    fn int8_tract(&self, _model: &Arc<Model>) -> Result<Option<Trusted>> {
        Ok(None)
    }

    /// tract with the fastest of the model's files that gives the right labels.
    #[cfg(feature = "tract")]
    pub(super) fn trusted_tract(&self, model: &Arc<Model>) -> Result<Trusted> {
        let mut first_error = None;
        let precisions = vision::infer::tract::precisions(model);
        for precision in self.asked_of(precisions) {
            let options = self.with(Some(precision));
            let tract = options.tract_at(Some(precision))?;
            match options.trusted(model, tract) {
                Ok(trusted) => return Ok(trusted),
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
            None => self.trusted(model, self.tract_at(self.precision)?),
        }
    }

    #[cfg(not(feature = "tract"))]
    pub(super) fn trusted_tract(&self, _model: &Arc<Model>) -> Result<Trusted> {
        Err(Error::usage("this segd was built without tract").hint("use --backend ort"))
    }

    fn with(&self, precision: Option<Precision>) -> Self {
        Self {
            precision,
            ..self.clone()
        }
    }

    /// Those of `precisions` that are not other than the one asked for.
    fn asked_of(&self, precisions: Vec<Precision>) -> impl Iterator<Item = Precision> {
        let asked = self.precision;
        precisions
            .into_iter()
            .filter(move |&precision| asked.is_none_or(|asked| asked == precision))
    }

    /// The backend, once it has passed its test.
    pub(super) fn trusted(&self, model: &Arc<Model>, backend: Arc<dyn Backend>) -> Result<Trusted> {
        let why = self.trust(model, &backend)?;
        Ok(Trusted {
            backend,
            why,
            cost: None,
        })
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
        let tract = vision::infer::tract::TractBackend::new(precision);
        Ok(Arc::new(tract.threads(self.threads.first())))
    }

    #[cfg(not(feature = "tract"))]
    fn tract_at(&self, _precision: Option<Precision>) -> Result<Arc<dyn Backend>> {
        Err(Error::usage("this segd was built without tract").hint("use --backend ort"))
    }

    #[cfg(feature = "ort")]
    pub(super) fn ort(&self) -> Result<Arc<dyn Backend>> {
        use vision::infer::ort::{OrtBackend, OrtOptions};
        Ok(Arc::new(OrtBackend::load(OrtOptions {
            device: self.device,
            precision: self.precision,
            threads: self.threads.first(),
            library: self.ort_library.clone(),
        })?))
    }

    #[cfg(not(feature = "ort"))]
    pub(super) fn ort(&self) -> Result<Arc<dyn Backend>> {
        Err(Error::fatal("this segd was built without ONNX Runtime").hint("use --backend tract"))
    }
}

/// Whether tract is taken where an inference takes so much CPU: it is built in and needs no library, so another has to be
/// clearly cheaper, and noise doesn't decide from start to start.
fn prefers_tract(tract_ns: u64, ort_ns: u64) -> bool {
    /// Part of ONNX Runtime's time that tract may take more.
    const ALIKE: f64 = 0.1;
    tract_ns as f64 <= ort_ns as f64 * (1.0 + ALIKE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tract_is_taken_unless_the_other_is_clearly_cheaper() {
        for (tract, taken) in [(50, true), (100, true), (110, true), (111, false), (300, false)] {
            assert_eq!(prefers_tract(tract, 100), taken, "{tract}");
        }
    }
}
