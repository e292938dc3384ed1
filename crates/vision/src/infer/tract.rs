//! The backend in pure Rust: [tract](https://github.com/sonos/tract), on the CPU.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rayon::{ThreadPool, ThreadPoolBuilder};
use tract_int8::{depthwise_op, int8};
use tract_linalg::multithread::{Executor, multithread_tract_scope};
use tract_onnx::pb::tensor_shape_proto::dimension;
use tract_onnx::pb::type_proto;
use tract_onnx::pb::{ModelProto, ValueInfoProto};
use tract_onnx::prelude::*;

use super::{
    Backend, InputSize, Outputs, RunsOn, Segmenter, TensorData, network_for, onnx_check, pick_outputs,
};
use crate::answer::Reader;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::contract::{Contract, InputType, Layout, ModelFile, OutputContract, Precision};
use crate::tensor::Elements;

/// The version of tract that segd is built with.
pub const VERSION: &str = "0.23";

/// Runs networks through tract. What is prepared for the same file and size is shared by all segmenters of a backend and of
/// those made from it with other threads: the weights are held once.
#[derive(Debug, Clone)]
pub struct TractBackend {
    /// Only files of this precision. Otherwise the 8-bit one where the CPU has instructions for it
    /// ([`int8::is_fast`]), else the contract's first for tract.
    precision: Option<Precision>,
    threads: usize,
    /// Threads that were started, by their number.
    pools: Arc<Mutex<BTreeMap<usize, Arc<ThreadPool>>>>,
    networks: Arc<Networks>,
}

impl Default for TractBackend {
    fn default() -> Self {
        Self::new(None)
    }
}

impl TractBackend {
    /// With one thread; with a precision, only files of that.
    pub fn new(precision: Option<Precision>) -> Self {
        Self {
            precision,
            threads: 1,
            pools: Arc::default(),
            networks: Arc::default(),
        }
    }

    /// With this many threads for an inference, at least 1, which wait for work between inferences.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// Where operators find threads. The 8-bit ones also work on the asking thread: if it only waited, the system would
    /// wake the others on its core, and two of them would share it until another core is seen to be idle. The 32-bit
    /// ones are tract's, and leave the asking thread idle.
    fn executor(&self, is_int8: bool) -> Result<Executor> {
        let started = match (self.threads, is_int8) {
            (1, _) => return Ok(Executor::SingleThread),
            (threads, true) => threads - 1,
            (threads, false) => threads,
        };
        let mut pools = self.pools.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(pool) = pools.get(&started) {
            return Ok(Executor::MultiThread(pool.clone()));
        }
        let pool = ThreadPoolBuilder::new()
            .num_threads(started)
            .thread_name(|n| format!("infer-{n}"))
            .build();
        let pool = Arc::new(pool.map_err(|e| {
            Error::fatal(format!("{started} threads for tract can't be started")).caused_by(e)
        })?);
        pools.insert(started, pool.clone());
        Ok(Executor::MultiThread(pool))
    }
}

impl Backend for TractBackend {
    fn name(&self) -> &'static str {
        "tract"
    }

    fn prepare(&self, model: &Model, size: InputSize) -> Result<Box<dyn Segmenter>> {
        let precision = self.precision.or_else(|| precisions(model).first().copied());
        let file = network_for(model, "tract", precision)?;
        let location = model.locate(&file.path);
        let contract = &model.contract;
        let fatal = |what: String| Error::fatal(format!("{location}: {what}"));
        let key = NetworkKey::new(contract, file, size);
        let network = self.networks.get(key, || load(model, file, size))?;
        let shape = input_shape(contract, size);
        let shape = network.sides(&shape);
        let input = match contract.input.dtype {
            InputType::F32 => Tensor::zero_dt(f32::datum_type(), shape),
            InputType::U8 => Tensor::zero_dt(u8::datum_type(), shape),
        }
        .map_err(|e| fatal("no input tensor".into()).caused_by(cause(&e)))?;
        let state = TypedSimpleState::new(&network.plan)
            .map_err(|e| fatal("no state".into()).caused_by(cause(&e)))?;
        let mut segmenter = TractSegmenter {
            state,
            executor: self.executor(network.is_int8)?,
            threads: self.threads,
            input: Arc::new(input),
            size,
            network,
            precision: file.precision,
            file: location,
        };
        // One run, so that an answer that is not what the contract says is found here.
        let mut outputs = Outputs::default();
        segmenter.infer(&mut outputs)?;
        Reader::new(contract, &segmenter.file).check(&outputs)?;
        Ok(Box::new(segmenter))
    }

    fn with_threads(&self, threads: usize) -> Result<Option<Arc<dyn Backend>>> {
        Ok(Some(Arc::new(self.clone().threads(threads))))
    }
}

/// A network made ready for one input size, which any number of segmenters run at a time.
struct Network {
    plan: Arc<TypedSimplePlan>,
    is_int8: bool,
    /// Whether the input's first side counts pictures. Some networks take one without saying so.
    has_batch: bool,
    /// Of the outputs.
    names: Vec<String>,
}

impl Network {
    /// The sides of `shape` that the input has.
    fn sides<'a>(&self, shape: &'a [usize; 4]) -> &'a [usize] {
        &shape[usize::from(!self.has_batch)..]
    }
}

/// All that what is made ready depends on.
#[derive(PartialEq)]
struct NetworkKey {
    sha256: String,
    shape: [usize; 4],
    dtype: InputType,
    output: OutputContract,
}

impl NetworkKey {
    fn new(contract: &Contract, file: &ModelFile, size: InputSize) -> Self {
        Self {
            sha256: file.sha256.clone(),
            shape: input_shape(contract, size),
            dtype: contract.input.dtype,
            output: contract.output.clone(),
        }
    }
}

/// The networks that segmenters run now.
#[derive(Default)]
struct Networks(Mutex<Vec<(NetworkKey, Weak<Network>)>>);

impl fmt::Debug for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let networks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        write!(f, "Networks({})", networks.len())
    }
}

impl Networks {
    /// The network that runs already, or the one that `make` makes. Whoever wants the same meanwhile waits for it.
    fn get(&self, key: NetworkKey, make: impl FnOnce() -> Result<Network>) -> Result<Arc<Network>> {
        let mut networks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        networks.retain(|(_, network)| network.strong_count() > 0);
        let known = networks.iter().find(|(known, _)| *known == key);
        if let Some(network) = known.and_then(|(_, network)| network.upgrade()) {
            return Ok(network);
        }
        let network = Arc::new(make()?);
        networks.push((key, Arc::downgrade(&network)));
        Ok(network)
    }
}

/// Reads a model's file and makes it ready for `size`.
fn load(model: &Model, file: &ModelFile, size: InputSize) -> Result<Network> {
    let location = model.locate(&file.path);
    let bytes = model.network(file)?;
    let contract = &model.contract;
    let fatal = |what: String| Error::fatal(format!("{location}: {what}"));
    let mut onnx = tract_onnx::onnx();
    let proto = onnx.proto_model_for_read(&mut &bytes[..]).map_err(|e| {
        fatal("not an ONNX file, or a damaged one".into())
            .caused_by(cause(&e))
            .hint("export the network again")
    })?;
    drop(bytes);
    onnx_check::check(&proto).map_err(|why| fatal(why).hint("export the network again"))?;
    let opset = proto
        .opset_import
        .first()
        .map_or(0, |operator_set| operator_set.version);
    let is_int8 = int8::is_int8(&proto);
    if is_int8 {
        int8::register(&mut onnx);
    }
    let shape = input_shape(contract, size);
    let has_batch = check_input(&proto, contract, &shape).map_err(|why| {
        fatal(why)
            .hint("the contract and the network don't belong together: correct contract.toml or export again")
    })?;
    let all_names = output_names(&proto);
    let outputs = pick_outputs(&all_names, contract).map_err(&fatal)?;
    let names: Vec<String> = outputs.iter().map(|&index| all_names[index].to_owned()).collect();

    let prepared = catch_unwind(AssertUnwindSafe(|| {
        let sides = &shape[usize::from(!has_batch)..];
        prepare_plan(&onnx, &proto, sides, contract.input.dtype, &outputs)
    }))
    .unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<String>().map(String::as_str);
        let what = what.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(TractError::msg(what.unwrap_or("a panic").to_owned()))
    });
    let plan = prepared.map_err(|e| {
        fatal(format!(
            "tract can't run it at {}x{} (operator set {opset})",
            size.width, size.height
        ))
        .caused_by(cause(&e))
        .hint("use --backend ort, or export with operators that tract has")
    })?;
    Ok(Network {
        plan,
        is_int8,
        has_batch,
        names,
    })
}

/// Whether networks of 8 bits run faster here than the same in 32-bit float.
pub fn is_int8_fast() -> bool {
    int8::is_fast()
}

/// Precisions of the model's files for tract, the one that runs fastest here first.
pub fn precisions(model: &Model) -> Vec<Precision> {
    let mut precisions = model.contract.precisions_for("tract");
    precisions.sort_by_key(|&precision| (precision == Precision::Int8) != int8::is_fast());
    precisions
}

/// A network and the buffers of one thread that runs it.
struct TractSegmenter {
    state: TypedSimpleState,
    executor: Executor,
    threads: usize,
    /// Lent to tract for each run, and ours alone between runs.
    input: Arc<Tensor>,
    size: InputSize,
    /// Kept where others find it.
    network: Arc<Network>,
    precision: Precision,
    file: String,
}

impl TractSegmenter {
    fn infer(&mut self, outputs: &mut Outputs) -> Result<()> {
        multithread_tract_scope(self.executor.clone(), || self.infer_here(outputs))
    }

    fn infer_here(&mut self, outputs: &mut Outputs) -> Result<()> {
        let failed = |file: &str, e: &TractError| {
            Error::transient(format!("{file}: tract failed to run it")).caused_by(cause(e))
        };
        let found = self
            .state
            .run(tvec!(TValue::from_const(Arc::clone(&self.input))))
            .map_err(|e| failed(&self.file, &e))?;
        for (index, name) in self.network.names.iter().enumerate() {
            let tensor = found
                .get(index)
                .ok_or_else(|| Error::fatal(format!("{}: no output {name:?}", self.file)))?;
            let view = tensor.view();
            let kind = tensor.datum_type();
            let elements = if kind == f32::datum_type() {
                view.as_slice().map(Elements::F32)
            } else if kind == i64::datum_type() {
                view.as_slice().map(Elements::I64)
            } else if kind == i32::datum_type() {
                view.as_slice().map(Elements::I32)
            } else if kind == u8::datum_type() {
                view.as_slice().map(Elements::U8)
            } else {
                return Err(Error::fatal(format!(
                    "{}: its output holds {kind:?}, expected f32, i64, i32 or u8",
                    self.file
                )));
            };
            let elements = elements.map_err(|e| failed(&self.file, &e))?;
            outputs.write(index, name, tensor.shape(), elements);
        }
        Ok(())
    }
}

impl Segmenter for TractSegmenter {
    fn input_size(&self) -> InputSize {
        self.size
    }

    fn runs_on(&self) -> RunsOn {
        RunsOn {
            backend: "tract",
            provider: "CPU".into(),
            precision: self.precision.as_str().into(),
            version: VERSION.into(),
            input_size: self.size,
        }
    }

    fn threads(&self) -> usize {
        self.threads
    }

    fn run(&mut self, input: &TensorData, outputs: &mut Outputs) -> Result<()> {
        if Arc::get_mut(&mut self.input).is_none() {
            // A run that failed may have kept its input.
            self.input = Arc::new((*self.input).clone());
        }
        let wrong = || {
            Error::fatal(format!(
                "{}: the input is not what the contract says for {}x{}",
                self.file, self.size.width, self.size.height
            ))
        };
        let Some(tensor) = Arc::get_mut(&mut self.input) else {
            return Err(wrong());
        };
        let mut view = tensor.view_mut();
        match input {
            TensorData::F32(values) => match view.as_slice_mut::<f32>() {
                Ok(slot) if slot.len() == values.len() => slot.copy_from_slice(values),
                _ => return Err(wrong()),
            },
            TensorData::U8(values) => match view.as_slice_mut::<u8>() {
                Ok(slot) if slot.len() == values.len() => slot.copy_from_slice(values),
                _ => return Err(wrong()),
            },
        }
        self.infer(outputs)
    }
}

/// `[1, 3, H, W]` or `[1, H, W, 3]`.
fn input_shape(contract: &Contract, size: InputSize) -> [usize; 4] {
    match contract.input.layout {
        Layout::Nchw => [1, 3, size.height, size.width],
        Layout::Nhwc => [1, size.height, size.width, 3],
    }
}

/// The graph's inputs that are not weights.
fn true_inputs(proto: &ModelProto) -> Vec<&ValueInfoProto> {
    let Some(graph) = &proto.graph else {
        return Vec::new();
    };
    graph
        .input
        .iter()
        .filter(|input| graph.initializer.iter().all(|w| w.name != input.name))
        .collect()
}

/// Checks that the network has one input, of the contract's type, into which `shape` fits, with or without its first side;
/// and says whether with it.
fn check_input(proto: &ModelProto, contract: &Contract, shape: &[usize; 4]) -> Result<bool, String> {
    use tract_onnx::pb::tensor_proto::DataType;
    let inputs = true_inputs(proto);
    let [input] = inputs[..] else {
        return Err(format!("it has {} inputs, expected 1", inputs.len()));
    };
    let Some(type_proto::Value::TensorType(tensor)) = input.r#type.as_ref().and_then(|t| t.value.as_ref())
    else {
        return Err(format!("its input {:?} has no type", input.name));
    };
    let expected = match contract.input.dtype {
        InputType::F32 => DataType::Float,
        InputType::U8 => DataType::Uint8,
    };
    let found = DataType::try_from(tensor.elem_type).unwrap_or(DataType::Undefined);
    if found != expected {
        return Err(format!(
            "its input holds {found:?}, the contract says {expected:?} (input.dtype)"
        ));
    }
    let dims: Vec<Option<i64>> = tensor.shape.iter().flat_map(|s| &s.dim).map(fixed).collect();
    let has_batch = dims.len() != 3;
    let sides = &shape[usize::from(!has_batch)..];
    let fits = dims.len() == sides.len()
        && dims
            .iter()
            .zip(sides)
            .all(|(fixed, &wanted)| fixed.is_none_or(|d| usize::try_from(d) == Ok(wanted)));
    if !fits {
        let text: Vec<String> = dims
            .iter()
            .map(|d| d.map_or("?".to_owned(), |d| d.to_string()))
            .collect();
        return Err(format!(
            "its input has shape [{}], the contract leads to {shape:?}",
            text.join(", ")
        ));
    }
    Ok(has_batch)
}

fn fixed(dim: &tract_onnx::pb::tensor_shape_proto::Dimension) -> Option<i64> {
    match dim.value {
        Some(dimension::Value::DimValue(value)) if value > 0 => Some(value),
        _ => None,
    }
}

/// The names of the graph's outputs.
fn output_names(proto: &ModelProto) -> Vec<&str> {
    let graph = proto.graph.iter();
    graph.flat_map(|g| &g.output).map(|o| o.name.as_str()).collect()
}

/// The network with its input's shape fixed, only the outputs that are wanted, optimised.
fn prepare_plan(
    onnx: &tract_onnx::Onnx,
    proto: &ModelProto,
    shape: &[usize],
    dtype: InputType,
    outputs: &[usize],
) -> TractResult<Arc<TypedSimplePlan>> {
    let fact = match dtype {
        InputType::F32 => f32::fact(shape),
        InputType::U8 => u8::fact(shape),
    };
    let mut model = onnx.model_for_proto_model(proto)?;
    model.set_input_fact(0, fact.into())?;
    let all = model.output_outlets()?.to_vec();
    let wanted: Vec<_> = outputs.iter().map(|&index| all[index]).collect();
    model.select_output_outlets(&wanted)?;
    let mut model = model.into_typed()?;
    int8::replace(&mut model)?;
    let mut model = model.into_decluttered()?;
    depthwise_op::replace_depthwise(&mut model)?;
    model.optimize()?;
    model.into_runnable()
}

/// tract's error with its causes, in one line that a log can hold.
fn cause(error: &TractError) -> String {
    const LONGEST: usize = 400;
    let text = format!("{error:#}").replace('\n', " ");
    match text.char_indices().nth(LONGEST) {
        None => text,
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_prepared_is_shared_while_somebody_runs_it() {
        let folder = format!("{}/../../models/voc21", env!("CARGO_MANIFEST_DIR"));
        let model = Model::open(std::path::Path::new(&folder)).unwrap();
        let backend = TractBackend::new(Some(Precision::Int8));
        let threaded = backend.clone().threads(2);
        let size = |width| InputSize { width, height: 64 };
        let count = || {
            let networks = backend.networks.0.lock().unwrap();
            networks.iter().filter(|(_, n)| n.strong_count() > 0).count()
        };
        let first = backend.prepare(&model, size(96)).unwrap();
        let second = threaded.prepare(&model, size(96)).unwrap();
        assert_eq!(count(), 1);
        let other = backend.prepare(&model, size(64)).unwrap();
        assert_eq!(count(), 2);
        drop((first, other));
        assert_eq!(count(), 1);
        drop(second);
        assert_eq!(count(), 0);
    }

    /// The names of the operators that a shipped model's int8 file runs as.
    fn operators(model: &str) -> Vec<String> {
        let path = format!("{}/../../models/{model}/int8.onnx", env!("CARGO_MANIFEST_DIR"));
        let mut onnx = tract_onnx::onnx();
        let proto = onnx.proto_model_for_path(path).unwrap();
        int8::register(&mut onnx);
        let plan = prepare_plan(&onnx, &proto, &[1, 3, 96, 128], InputType::F32, &[0]).unwrap();
        plan.model()
            .nodes()
            .iter()
            .map(|node| node.op.name().to_string())
            .collect()
    }

    #[test]
    fn bytes_stay_in_planes_from_the_first_convolution_to_the_last() {
        let names = operators("voc21");
        let count = |name: &str| names.iter().filter(|n| *n == name).count();
        assert_eq!(count("SegdQuantize"), 1, "{names:?}");
        assert_eq!(count("SegdConvolveInt8"), 63, "{names:?}");
        assert_eq!(count("SegdAddInt8"), 13);
        assert_eq!(count("SegdAverageInt8"), 1);
        assert_eq!(count("SegdDepthToSpaceInt8"), 2);
        assert_eq!(count("SegdDequantize"), 1);
        assert_eq!(count("SegdPack") + count("SegdUnpack"), 0);
        // A pyramid of several branches.
        let names = operators("camvid-deeplab");
        let count = |name: &str| names.iter().filter(|n| *n == name).count();
        assert_eq!(count("SegdConcatenateInt8"), 1, "{names:?}");
        assert_eq!(count("SegdPack") + count("SegdUnpack"), 0);
    }

    #[test]
    fn what_is_not_ours_gets_bytes_as_it_knows_them() {
        // SegNet's unpooling is of tract's operators.
        let names = operators("camvid-segnet");
        let count = |name: &str| names.iter().filter(|n| *n == name).count();
        assert_eq!(count("SegdConvolveInt8"), 69, "{names:?}");
        assert!(count("SegdPack") > 0 && count("SegdUnpack") > 0, "{names:?}");
    }
}
