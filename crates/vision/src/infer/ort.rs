//! The backend through [ONNX Runtime](https://onnxruntime.ai), whose library is loaded at run time.
//!
//! Fast on CPUs, and the way to CUDA and TensorRT. If an accelerator that was asked for can't run, that is an error: ONNX
//! Runtime by itself would silently fall back to the CPU. Which providers ran is read from the profile of the first run.
//! TensorRT's engines are kept from one start to the next.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::available_parallelism;

use ort::ep::{CUDA, ExecutionProviderDispatch, TensorRT};
use ort::logging::LogLevel;
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::value::{DynValue, TensorElementType, TensorRef, ValueType};

use tracing::{info, warn};

use super::engine_cache::{self, EngineKey};
use super::ort_failure;
use super::ort_library::{self, Loaded};
use super::ort_profile;
use super::{Backend, Device, InputSize, Outputs, RunsOn, Segmenter, TensorData, network_for, pick_outputs};
use crate::answer::Reader;
use crate::error::{Error, Result};
use crate::model::contract::{Contract, InputType, Layout, ModelFile, OutputContract, Precision};
use crate::model::load::sha256_hex;
use crate::model::{Model, ModelBytes};
use crate::tensor::Elements;

pub use super::ort_library::LIBRARY_VARIABLE;

/// The execution providers that a library was built with, of those that segd can use. Whether they work shows only when a
/// network runs.
///
/// # Errors
/// Usage or fatal if the library can't be loaded.
pub fn built_in_providers(library: Option<&Path>) -> Result<Vec<&'static str>> {
    use ort::ep::ExecutionProvider;
    ort_library::load(library)?;
    let mut providers = vec![Device::Cpu.provider()];
    for (there, device) in [
        (CUDA::is_available(), Device::Cuda),
        (TensorRT::is_available(), Device::TensorRt),
    ] {
        if there.unwrap_or(false) {
            providers.push(device.provider());
        }
    }
    Ok(providers)
}

/// Tests an accelerator by preparing a network of one node on it. The engine that TensorRT builds for that is not kept.
///
/// # Errors
/// Usage or fatal if the library can't be loaded; fatal, with what is missing, if the accelerator doesn't work.
pub fn try_provider(library: Option<&Path>, device: Device) -> Result<()> {
    let backend = OrtBackend::load(OrtOptions {
        device,
        library: library.map(Path::to_path_buf),
        ..OrtOptions::default()
    })?;
    let session = backend.session(ONE_NODE, &[], TensorRT::default, None);
    session.map(drop).map_err(|e| {
        let why = ort_failure::explain(device, e.message());
        Error::fatal(why.cause).hint(why.hint)
    })
}

/// An ONNX file: `y = Relu(x)` of one number, operator set 13.
const ONE_NODE: &[u8] = b"\x08\x07\x3a\x35\x0a\x0c\x0a\x01x\x12\x01y\x22\x04Relu\x12\x03one\
    \x5a\x0f\x0a\x01x\x12\x0a\x0a\x08\x08\x01\x12\x04\x0a\x02\x08\x01\
    \x62\x0f\x0a\x01y\x12\x0a\x0a\x08\x08\x01\x12\x04\x0a\x02\x08\x01\x42\x02\x10\x0d";

/// What to run on, and how.
#[derive(Debug, Clone)]
pub struct OrtOptions {
    /// Where the network runs.
    pub device: Device,
    /// Only files of this precision. Otherwise the contract's first file for `ort` on the CPU, and on an
    /// accelerator the first of fp16 and fp32.
    pub precision: Option<Precision>,
    /// Threads of one inference on the CPU, at least 1.
    pub threads: usize,
    /// The library; searched for otherwise.
    pub library: Option<PathBuf>,
}

impl Default for OrtOptions {
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            precision: None,
            threads: 1,
            library: None,
        }
    }
}

/// Runs networks through ONNX Runtime. Segmenters of one backend that run the same file at the same size share sessions, of
/// which there are no more than can run at a time: a session holds the weights, and runs one inference at a time.
#[derive(Debug)]
pub struct OrtBackend {
    options: OrtOptions,
    loaded: Loaded,
    pools: Mutex<Vec<(PoolKey, Weak<Pool>)>>,
}

impl OrtBackend {
    /// Loads the library: `options.library`, `$ORT_DYLIB_PATH`, or the first found beside the binary, in
    /// `../lib/segd` from there, or in the system's folders.
    ///
    /// # Errors
    /// Usage if a library that was named can't be loaded; fatal if none is found.
    pub fn load(options: OrtOptions) -> Result<Self> {
        Ok(Self {
            loaded: ort_library::load(options.library.as_deref())?,
            options,
            pools: Mutex::default(),
        })
    }

    /// The library that is loaded.
    pub fn library(&self) -> &Path {
        &self.loaded.path
    }

    /// The library's version.
    pub fn version(&self) -> &str {
        &self.loaded.version
    }

    /// The file to run, and the precision that it is run with.
    fn file<'m>(&self, model: &'m Model) -> Result<(&'m ModelFile, Precision)> {
        let contract = &model.contract;
        match (self.options.device, self.options.precision) {
            // TensorRT takes symmetric 8-bit numbers with their scales beside them, and no integer operators.
            (Device::TensorRt, Some(Precision::Int8)) => {
                let of = |backend| contract.file_for(backend, Some(Precision::Int8));
                return match of("tensorrt").or_else(|| of("ort")) {
                    Some(file) => Ok((file, Precision::Int8)),
                    None => Err(Error::usage(format!("model {} has no int8 file", contract.name))
                        .hint("use --precision fp16, or make one with `segd-train quantize`")),
                };
            }
            // It makes 16-bit engines of 32-bit files.
            (Device::TensorRt, Some(Precision::Fp16)) => {
                if let Some(file) = contract.file_for("ort", Some(Precision::Fp16)) {
                    return Ok((file, Precision::Fp16));
                }
                let file = network_for(model, "ort", Some(Precision::Fp32))?;
                return Ok((file, Precision::Fp16));
            }
            _ => {}
        }
        if self.options.precision.is_none() && self.options.device != Device::Cpu {
            // Files for the CPU's integer units are slow on an accelerator, or don't run there at all.
            for precision in [Precision::Fp16, Precision::Fp32] {
                if let Some(file) = contract.file_for("ort", Some(precision)) {
                    return Ok((file, precision));
                }
            }
        }
        let file = network_for(model, "ort", self.options.precision)?;
        Ok((file, file.precision))
    }

    /// TensorRT for a file that is run with `precision`: 8- and 16-bit engines where asked for, engines and timings
    /// kept in a folder of their own.
    /// (<https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html>)
    fn tensorrt(&self, sha256: &str, precision: Precision, size: InputSize) -> TensorRT {
        let provider = TensorRT::default()
            .with_fp16(precision == Precision::Fp16)
            .with_int8(precision == Precision::Int8);
        let key = EngineKey {
            model_sha256: sha256,
            runtime: &self.loaded.version,
            tensorrt: &engine_cache::installed_tensorrt().unwrap_or_default(),
            gpu: &engine_cache::gpu_name().unwrap_or_default(),
            precision: precision.as_str(),
            size,
        };
        let Some(folder) = engine_cache::folder(&key) else {
            return provider;
        };
        let is_empty = std::fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_none());
        if is_empty {
            info!(
                folder = %folder.display(),
                "no TensorRT engine is kept for this network yet; building one takes minutes on a board"
            );
        }
        let folder = folder.display();
        provider
            .with_engine_cache(true)
            .with_engine_cache_path(&folder)
            .with_timing_cache(true)
            .with_timing_cache_path(&folder)
    }

    fn builder(&self) -> ort::Result<SessionBuilder> {
        Ok(Session::builder(&self.loaded.environment)?
            .with_log_level(LogLevel::Warning)?
            .with_intra_threads(self.options.threads.max(1))?
            .with_inter_threads(1)?
            // Threads that spin while they wait take CPU time from those that work.
            .with_intra_op_spinning(false)?
            .with_inter_op_spinning(false)?)
    }

    /// The session that runs the network at a fixed size.
    fn session(
        &self,
        bytes: &[u8],
        sides: &[(String, i64)],
        tensorrt: impl FnOnce() -> TensorRT,
        profile: Option<&Path>,
    ) -> ort::Result<Session> {
        let mut builder = self.builder()?;
        if let Some(profile) = profile {
            builder = builder.with_profiling(profile)?;
        }
        for (name, size) in sides {
            builder = builder.with_dimension_override(name, *size)?;
        }
        let providers: Vec<ExecutionProviderDispatch> = match self.options.device {
            Device::Cpu => Vec::new(),
            Device::Cuda => vec![CUDA::default().build().error_on_failure()],
            // CUDA takes the operators that TensorRT doesn't have.
            Device::TensorRt => vec![
                tensorrt().build().error_on_failure(),
                CUDA::default().build().error_on_failure(),
            ],
        };
        if !providers.is_empty() {
            builder = builder
                .with_execution_providers(providers)?
                .with_disable_cpu_fallback()?;
        }
        builder.commit_from_memory(bytes)
    }
}

impl OrtBackend {
    /// The network to load: the file, or for TensorRT in 8 bits what it takes, made of the file for CPUs.
    fn network(&self, model: &Model, file: &ModelFile, precision: Precision) -> Result<ModelBytes> {
        let bytes = model.network(file)?;
        let is_for_it = file.backends.iter().any(|backend| backend == "tensorrt");
        if self.options.device != Device::TensorRt || precision != Precision::Int8 || is_for_it {
            return Ok(bytes);
        }
        #[cfg(feature = "tract")]
        let made = super::qdq::from_qlinear(&bytes);
        #[cfg(not(feature = "tract"))]
        let made: Result<Vec<u8>, String> =
            Err("this segd was built without tract, which reads the file".into());
        made.map(ModelBytes::Owned).map_err(|why| {
            Error::fatal(format!(
                "{}: TensorRT's 8-bit form can't be made of it: {why}",
                model.locate(&file.path)
            ))
            .hint("use --precision fp16, or add a file with QuantizeLinear/DequantizeLinear pairs and backends = [\"tensorrt\"]")
        })
    }

    /// Inferences that can run at a time here: more sessions would only hold the weights once more.
    fn most_sessions(&self) -> usize {
        let cores = available_parallelism().map_or(1, usize::from);
        (cores / self.options.threads.max(1)).max(1)
    }

    /// Loads a file, prepares it for `size`, and runs it once: an answer that is not what the contract says is found here,
    /// and memory is there.
    fn open(&self, model: &Model, file: &ModelFile, precision: Precision, size: InputSize) -> Result<Opened> {
        let location = model.locate(&file.path);
        let bytes = self.network(model, file, precision)?;
        let contract = &model.contract;
        let fatal = |what: String| Error::fatal(format!("{location}: {what}"));
        let mismatch = |why: String| {
            fatal(why).hint(
                "the contract and the network don't belong together: correct contract.toml or export again",
            )
        };

        // Looking at inputs and outputs needs a session, but not an optimised one.
        let probe = self
            .builder()
            .and_then(|b| Ok(b.with_optimization_level(GraphOptimizationLevel::Disable)?))
            .and_then(|mut b| b.commit_from_memory(&bytes))
            .map_err(|e| {
                let cause = one_line(&e);
                let hint = ort_failure::why_unreadable(&cause);
                fatal(format!("ONNX Runtime {} can't read it", self.loaded.version))
                    .caused_by(cause)
                    .hint(hint)
            })?;
        let shape = input_shape(contract, size);
        let (has_batch, sides) = check_input(&probe, contract, &shape).map_err(mismatch)?;
        let names: Vec<&str> = probe.outputs().iter().map(|o| o.name()).collect();
        let wanted: Vec<(usize, String)> = pick_outputs(&names, contract)
            .map_err(mismatch)?
            .into_iter()
            .map(|index| (index, names[index].to_owned()))
            .collect();
        drop(probe);

        let asked = self.options.device.provider();
        let scratch = tempfile::tempdir().ok();
        let profile = scratch.as_ref().map(|folder| folder.path().join("run"));
        let tensorrt = || self.tensorrt(&sha256_hex(&bytes), precision, size);
        let session = self.session(&bytes, &sides, tensorrt, profile.as_deref());
        let mut session = session.map_err(|e| {
            let what = fatal(format!(
                "ONNX Runtime {} can't run it on {} at {}x{}",
                self.loaded.version, asked, size.width, size.height
            ));
            match self.options.device {
                Device::Cpu => what
                    .caused_by(one_line(&e))
                    .hint("use --backend tract, or another --precision"),
                device => {
                    let why = ort_failure::explain(device, e.message());
                    what.caused_by(why.cause).hint(why.hint)
                }
            }
        })?;
        let mut facts = Facts {
            threads: match self.options.device {
                Device::Cpu => self.options.threads.max(1),
                Device::Cuda | Device::TensorRt => 1,
            },
            wanted,
            shape,
            has_batch,
            dtype: contract.input.dtype,
            size,
            runs_on: RunsOn {
                backend: "ort",
                provider: asked.into(),
                precision: precision.as_str().into(),
                version: self.loaded.version.clone(),
                input_size: size,
            },
            file: location,
        };
        let zeros = TensorData::zeros(contract.input.dtype, size);
        let mut outputs = Outputs::default();
        facts.run(&mut session, &zeros, &mut outputs)?;
        Reader::new(contract, &facts.file).check(&outputs)?;
        match profile.map(|_| profiled(&mut session)) {
            Some(Ok(shares)) => {
                facts.runs_on.provider = ort_profile::provider(&shares, asked).map_err(|why| {
                    Error::fatal(format!("{}: {why}", facts.file))
                        .hint("choose --device cuda or --device cpu")
                })?;
            }
            // Without accelerators there is nothing else that it could run on.
            _ if self.options.device == Device::Cpu => {}
            Some(Err(why)) => warn!("where the network runs can't be verified: {why}"),
            None => warn!("where the network runs can't be verified: no folder for temporary files"),
        }
        Ok(Opened { session, facts })
    }
}

impl Backend for OrtBackend {
    fn name(&self) -> &'static str {
        "ort"
    }

    fn prepare(&self, model: &Model, size: InputSize) -> Result<Box<dyn Segmenter>> {
        let (file, precision) = self.file(model)?;
        let contract = &model.contract;
        let key = PoolKey {
            sha256: file.sha256.clone(),
            precision,
            shape: input_shape(contract, size),
            dtype: contract.input.dtype,
            output: contract.output.clone(),
            classes: contract.classes.len(),
        };
        // Held while a session is made: whoever wants the same meanwhile waits for it.
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|(_, pool)| pool.strong_count() > 0);
        let known = pools.iter().find(|(known, _)| *known == key);
        let pool = match known.and_then(|(_, pool)| pool.upgrade()) {
            Some(pool) if pool.len() >= self.most_sessions() => pool,
            Some(pool) => {
                pool.add(self.open(model, file, precision, size)?.session);
                pool
            }
            None => {
                let pool = Arc::new(Pool::new(self.open(model, file, precision, size)?));
                pools.push((key, Arc::downgrade(&pool)));
                pool
            }
        };
        Ok(Box::new(OrtSegmenter { pool }))
    }

    fn with_threads(&self, threads: usize) -> Result<Option<Arc<dyn Backend>>> {
        Ok(Some(Arc::new(Self {
            options: OrtOptions {
                threads,
                ..self.options.clone()
            },
            loaded: self.loaded.clone(),
            pools: Mutex::default(),
        })))
    }
}

/// All that a session depends on.
#[derive(Debug, PartialEq)]
struct PoolKey {
    sha256: String,
    precision: Precision,
    shape: [usize; 4],
    dtype: InputType,
    output: OutputContract,
    classes: usize,
}

/// What is known of a network at one size, whichever session runs it.
#[derive(Debug)]
struct Facts {
    /// Of one inference on the CPU.
    threads: usize,
    /// Place and name of each output that the contract names.
    wanted: Vec<(usize, String)>,
    shape: [usize; 4],
    /// Whether the input's first side counts pictures. Some networks take one without saying so.
    has_batch: bool,
    dtype: InputType,
    size: InputSize,
    runs_on: RunsOn,
    file: String,
}

/// A session that has run once.
struct Opened {
    session: Session,
    facts: Facts,
}

/// Sessions of one network at one size. A session runs one inference at a time, so each is lent to one segmenter at a time.
#[derive(Debug)]
struct Pool {
    facts: Facts,
    sessions: Mutex<Sessions>,
    given_back: Condvar,
}

#[derive(Debug)]
struct Sessions {
    /// The one that ran last is taken first.
    idle: Vec<Session>,
    /// Idle and lent ones.
    count: usize,
}

impl Pool {
    fn new(opened: Opened) -> Self {
        Self {
            facts: opened.facts,
            sessions: Mutex::new(Sessions {
                idle: vec![opened.session],
                count: 1,
            }),
            given_back: Condvar::new(),
        }
    }

    fn len(&self) -> usize {
        self.lock().count
    }

    fn add(&self, session: Session) {
        let mut sessions = self.lock();
        sessions.idle.push(session);
        sessions.count += 1;
        drop(sessions);
        self.given_back.notify_one();
    }

    /// Does something with an idle session, which is waited for: those that have one give it back when their inference is
    /// done.
    fn with_session<T>(&self, work: impl FnOnce(&mut Session) -> T) -> T {
        let mut sessions = self.lock();
        let mut session = loop {
            match sessions.idle.pop() {
                Some(session) => break session,
                None => {
                    let woken = self.given_back.wait(sessions);
                    sessions = woken.unwrap_or_else(PoisonError::into_inner);
                }
            }
        };
        drop(sessions);
        let done = work(&mut session);
        self.lock().idle.push(session);
        self.given_back.notify_one();
        done
    }

    fn lock(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a network on sessions that others may run as well.
struct OrtSegmenter {
    pool: Arc<Pool>,
}

/// Ends the profile that the session began with, and reads from it on which providers the nodes ran.
fn profiled(session: &mut Session) -> Result<Vec<ort_profile::Share>, String> {
    let path = session.end_profiling().map_err(|e| one_line(&e))?;
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    ort_profile::shares(&text)
}

impl Segmenter for OrtSegmenter {
    fn input_size(&self) -> InputSize {
        self.pool.facts.size
    }

    fn runs_on(&self) -> RunsOn {
        self.pool.facts.runs_on.clone()
    }

    fn threads(&self) -> usize {
        self.pool.facts.threads
    }

    fn run(&mut self, input: &TensorData, outputs: &mut Outputs) -> Result<()> {
        let facts = &self.pool.facts;
        self.pool
            .with_session(|session| facts.run(session, input, outputs))
    }
}

impl Facts {
    /// Runs the network; see [`Segmenter::run`].
    fn run(&self, session: &mut Session, input: &TensorData, outputs: &mut Outputs) -> Result<()> {
        let elements: usize = self.shape.iter().product();
        let fits = match (input, self.dtype) {
            (TensorData::F32(v), InputType::F32) => v.len() == elements,
            (TensorData::U8(v), InputType::U8) => v.len() == elements,
            _ => false,
        };
        if !fits {
            return Err(Error::fatal(format!(
                "{}: the input is not what the contract says for {}x{}",
                self.file, self.size.width, self.size.height
            )));
        }
        let Self {
            file, shape, wanted, ..
        } = self;
        let failed = |e: ort::Error| {
            Error::transient(format!("{file}: ONNX Runtime failed to run it")).caused_by(one_line(&e))
        };
        // The input is lent, not copied.
        let [_, a, b, c] = *shape;
        let one = [a, b, c];
        let found = match (input, self.has_batch) {
            (TensorData::F32(values), true) => TensorRef::from_array_view((*shape, values.as_slice()))
                .and_then(|tensor| session.run(ort::inputs![tensor])),
            (TensorData::F32(values), false) => TensorRef::from_array_view((one, values.as_slice()))
                .and_then(|tensor| session.run(ort::inputs![tensor])),
            (TensorData::U8(values), true) => TensorRef::from_array_view((*shape, values.as_slice()))
                .and_then(|tensor| session.run(ort::inputs![tensor])),
            (TensorData::U8(values), false) => TensorRef::from_array_view((one, values.as_slice()))
                .and_then(|tensor| session.run(ort::inputs![tensor])),
        }
        .map_err(failed)?;
        for (slot, (index, name)) in wanted.iter().enumerate() {
            let value: &DynValue = &found[*index];
            let ValueType::Tensor { ty, shape: dims, .. } = value.dtype() else {
                return Err(Error::fatal(format!("{file}: its output {name:?} is no tensor")));
            };
            let elements = match ty {
                TensorElementType::Float32 => value.try_extract_tensor().map(|(_, v)| Elements::F32(v)),
                TensorElementType::Int64 => value.try_extract_tensor().map(|(_, v)| Elements::I64(v)),
                TensorElementType::Int32 => value.try_extract_tensor().map(|(_, v)| Elements::I32(v)),
                TensorElementType::Uint8 => value.try_extract_tensor().map(|(_, v)| Elements::U8(v)),
                other => {
                    return Err(Error::fatal(format!(
                        "{file}: its output holds {other}, expected f32, i64, i32 or u8"
                    )));
                }
            }
            .map_err(failed)?;
            // More dimensions than any answer has are cut to one too many, which no answer has either.
            let mut known = [0usize; 6];
            let rank = dims.len().min(known.len());
            for (side, &dim) in known.iter_mut().zip(dims.iter()) {
                *side = usize::try_from(dim).unwrap_or(0);
            }
            outputs.write(slot, name, &known[..rank], elements);
        }
        Ok(())
    }
}

/// `[1, 3, H, W]` or `[1, H, W, 3]`.
fn input_shape(contract: &Contract, size: InputSize) -> [usize; 4] {
    match contract.input.layout {
        Layout::Nchw => [1, 3, size.height, size.width],
        Layout::Nhwc => [1, size.height, size.width, 3],
    }
}

/// Checks that the network has one input, of the contract's type, into which `shape` fits, with or without its first side.
/// Says whether with it, and gives the sizes of its symbolic dimensions.
fn check_input(
    session: &Session,
    contract: &Contract,
    shape: &[usize; 4],
) -> Result<(bool, Vec<(String, i64)>), String> {
    let [input] = session.inputs() else {
        return Err(format!("it has {} inputs, expected 1", session.inputs().len()));
    };
    let ValueType::Tensor {
        ty,
        shape: dims,
        dimension_symbols,
    } = input.dtype()
    else {
        return Err(format!("its input {:?} is no tensor", input.name()));
    };
    let expected = match contract.input.dtype {
        InputType::F32 => TensorElementType::Float32,
        InputType::U8 => TensorElementType::Uint8,
    };
    if *ty != expected {
        return Err(format!(
            "its input holds {ty}, the contract says {expected} (input.dtype)"
        ));
    }
    let has_batch = dims.len() != 3;
    let wanted_sides = &shape[usize::from(!has_batch)..];
    let fits = dims.len() == wanted_sides.len()
        && dims
            .iter()
            .zip(wanted_sides)
            .all(|(&dim, &wanted)| dim < 0 || usize::try_from(dim) == Ok(wanted));
    if !fits {
        let text: Vec<String> = dims
            .iter()
            .map(|&d| if d < 0 { "?".to_owned() } else { d.to_string() })
            .collect();
        return Err(format!(
            "its input has shape [{}], the contract leads to {shape:?}",
            text.join(", ")
        ));
    }
    let mut sides: Vec<(String, i64)> = Vec::new();
    for ((symbol, &dim), &wanted) in dimension_symbols.iter().zip(dims.iter()).zip(wanted_sides) {
        if dim < 0 && !symbol.is_empty() {
            sides.push((symbol.clone(), wanted as i64));
        }
    }
    // A name for two different sides can't be fixed; it stays open.
    let all = sides.clone();
    sides.retain(|(name, size)| all.iter().all(|(n, s)| n != name || s == size));
    Ok((has_batch, sides))
}

/// ONNX Runtime's message in one line that a log can hold.
fn one_line<R>(error: &ort::Error<R>) -> String {
    ort_failure::one_line(error.message())
}
