//! TensorRT's form of a network in 8 bits, made from the form for CPUs.
//!
//! TensorRT has no integer operators. It fuses pairs of QuantizeLinear and DequantizeLinear into its 8-bit layers (NVIDIA TensorRT
//! developer guide, "Working with quantized types"): s8 with zero point 0, one scale a value, one scale an output channel
//! of weights. The file for CPUs holds the same numbers in QLinearConv and its relatives, with unsigned values and a zero point.
//! Weights and biases are taken as they are. A value's scale becomes the smallest symmetric one that covers its range.

use std::collections::{BTreeMap, HashMap, HashSet};

use prost::Message;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{ModelProto, NodeProto, TensorProto};

/// Operators of ONNX Runtime's own domain.
const MICROSOFT: &str = "com.microsoft";

/// Operators that move or pick stored values and leave their scale as it is.
const MOVING: [&str; 9] = [
    "Concat",
    "DepthToSpace",
    "Equal",
    "Flatten",
    "MaxPool",
    "Reshape",
    "Slice",
    "Transpose",
    "Where",
];

/// The zero point of all pairs.
const ZERO: &str = "qdq.zero";

/// The network `int8`, an ONNX file of QLinearConv and its relatives, with pairs of QuantizeLinear and DequantizeLinear around values
/// and weights instead.
///
/// # Errors
/// What in the file has no such form.
pub fn from_qlinear(int8: &[u8]) -> Result<Vec<u8>, String> {
    let mut model = ModelProto::decode(int8).map_err(|e| format!("it can't be read as ONNX: {e}"))?;
    let mut graph = model.graph.take().ok_or("it holds no graph")?;
    let mut writer = Writer {
        constants: graph
            .initializer
            .iter()
            .map(|tensor| (tensor.name.as_str(), tensor))
            .collect(),
        results: graph.output.iter().map(|output| output.name.as_str()).collect(),
        real: HashMap::new(),
        stored: HashMap::new(),
        same: HashMap::new(),
        nodes: Vec::new(),
        made: BTreeMap::new(),
        is_eight_bit: false,
    };
    for node in &graph.node {
        writer.add(node)?;
    }
    if !writer.is_eight_bit {
        return Err("it has no QLinearConv".into());
    }
    writer
        .made
        .insert(ZERO.into(), bytes_constant(ZERO, vec![], vec![0]));
    let Writer { nodes, made, .. } = writer;
    let read: HashSet<&str> = nodes
        .iter()
        .flat_map(|node| &node.input)
        .map(String::as_str)
        .collect();
    let kept: Vec<TensorProto> = graph
        .initializer
        .iter()
        .filter(|tensor| read.contains(tensor.name.as_str()) && !made.contains_key(&tensor.name))
        .cloned()
        .collect();
    graph.initializer = kept.into_iter().chain(made.into_values()).collect();
    graph.node = nodes;
    // Types of what lies between the nodes have changed.
    graph.value_info.clear();
    model.graph = Some(graph);
    model.opset_import.retain(|set| set.domain != MICROSOFT);
    Ok(model.encode_to_vec())
}

/// How a value is stored in unsigned bytes: `real = (byte - zero) * scale`.
#[derive(Clone, Copy, PartialEq)]
struct Storage {
    scale: f32,
    zero: u8,
}

impl Storage {
    /// The range of the bytes 0 to 255.
    fn range(self) -> (f32, f32) {
        let zero = f32::from(self.zero);
        (-zero * self.scale, (255.0 - zero) * self.scale)
    }

    /// The smallest symmetric scale of s8 that covers the range.
    fn symmetric_scale(self) -> f32 {
        let (low, high) = self.range();
        (high.max(-low) / 127.0).max(f32::MIN_POSITIVE)
    }
}

struct Writer<'a> {
    constants: HashMap<&'a str, &'a TensorProto>,
    /// The network's outputs.
    results: HashSet<&'a str>,
    /// The name of each 8-bit value's counterpart in floats.
    real: HashMap<String, String>,
    /// How the values are stored that nodes have written.
    stored: HashMap<String, Storage>,
    /// Values in floats that have another name now.
    same: HashMap<String, String>,
    nodes: Vec<NodeProto>,
    made: BTreeMap<String, TensorProto>,
    is_eight_bit: bool,
}

impl Writer<'_> {
    fn add(&mut self, node: &NodeProto) -> Result<(), String> {
        let what = |why: String| format!("{} {}: {why}", node.op_type, node.name);
        let result = match (node.domain.as_str(), node.op_type.as_str()) {
            ("" | "ai.onnx", "QuantizeLinear") => self.quantize(node),
            ("" | "ai.onnx", "DequantizeLinear") => self.dequantize(node),
            ("" | "ai.onnx", "QLinearConv") => self.conv(node),
            (MICROSOFT, "QLinearAdd") => self.sum(node),
            (MICROSOFT, "QLinearConcat") => self.concat(node),
            (MICROSOFT, "QLinearGlobalAveragePool") => self.average(node),
            ("" | "ai.onnx", op) => self.keep(node, MOVING.contains(&op)),
            (domain, _) => Err(format!("TensorRT has no operators of {domain}")),
        };
        result.map_err(what)
    }

    /// The 8-bit value of this name, in floats.
    fn real(&self, value: &str) -> Result<String, String> {
        let real = self.real.get(value);
        real.cloned()
            .ok_or_else(|| format!("{value:?} is no 8-bit value that a node before it has written"))
    }

    /// Whatever is not stored in 8 bits goes on as it is. So do operators that only move values, on floats.
    fn keep(&mut self, node: &NodeProto, moves: bool) -> Result<(), String> {
        let mut node = node.clone();
        for input in &mut node.input {
            if let Some(same) = self.same.get(input) {
                input.clone_from(same);
            }
        }
        let eight_bit: Vec<&String> = node.input.iter().filter(|i| self.real.contains_key(*i)).collect();
        if eight_bit.is_empty() {
            self.nodes.push(node);
            return Ok(());
        }
        if !moves {
            return Err(format!("it reads {:?}, which is stored in 8 bits", eight_bit[0]));
        }
        let storage = self.stored.get(eight_bit[0]).copied();
        // A constant in bytes is stored as the values beside it.
        for input in &mut node.input {
            if let Some(real) = self.real.get(input) {
                input.clone_from(real);
            } else if let Some(constant) = self.constants.get(input.as_str())
                && constant.data_type == DataType::Uint8 as i32
            {
                let storage = storage.ok_or("how its input is stored is not known")?;
                let name = format!("{input}.qdq");
                let reals = bytes(constant)?
                    .iter()
                    .map(|&byte| (f32::from(byte) - f32::from(storage.zero)) * storage.scale)
                    .collect();
                let dims = constant.dims.clone();
                self.made
                    .insert(name.clone(), floats_constant(&name, dims, reals));
                *input = name;
            }
        }
        // What a comparison gives is no number.
        if node.op_type != "Equal" {
            for output in &mut node.output {
                let real = format!("{output}.real");
                if let Some(storage) = storage {
                    self.stored.insert(output.clone(), storage);
                }
                self.real.insert(std::mem::replace(output, real.clone()), real);
            }
        }
        self.nodes.push(node);
        Ok(())
    }

    fn quantize(&mut self, node: &NodeProto) -> Result<(), String> {
        let [value, scale, zero] = inputs(node)?;
        let storage = self.storage(scale, zero)?;
        let value = self.same.get(value).map_or(value, String::as_str).to_owned();
        self.pair(&value, output(node)?, storage);
        Ok(())
    }

    fn dequantize(&mut self, node: &NodeProto) -> Result<(), String> {
        let [value, scale, zero] = inputs::<3>(node)?;
        if let Some(weights) = self.constants.get(value).copied() {
            return self.weights(node, weights, scale, zero);
        }
        let (real, output) = (self.real(value)?, output(node)?);
        if self.results.contains(output) {
            self.nodes.push(new_node("Identity", &[&real], output));
        }
        self.same.insert(output.to_owned(), real);
        Ok(())
    }

    /// Weights of a layer in floats, which are stored in 8 bits, become floats: TensorRT has no such layer.
    fn weights(
        &mut self,
        node: &NodeProto,
        weights: &TensorProto,
        scale: &str,
        zero: &str,
    ) -> Result<(), String> {
        let scales = self.scales(weights, scale, zero)?;
        let channels = weights.dims.first().map_or(0, |&channels| channels as usize);
        let axis = node.attribute.iter().find(|attribute| attribute.name == "axis");
        if scales.len() > 1 && axis.is_none_or(|axis| axis.i != 0) {
            return Err(format!(
                "the scales of {:?} are not those of its first axis",
                weights.name
            ));
        }
        let codes = bytes(weights)?;
        if codes.len() % channels.max(1) != 0 {
            return Err(format!("{:?} is cut short", weights.name));
        }
        let of_channel = (codes.len() / channels.max(1)).max(1);
        let reals = codes.iter().enumerate().map(|(at, &code)| {
            let scale = scales[if scales.len() > 1 { at / of_channel } else { 0 }];
            f32::from(code as i8) * scale
        });
        let name = output(node)?.to_owned();
        let constant = floats_constant(&name, weights.dims.clone(), reals.collect());
        self.made.insert(name, constant);
        Ok(())
    }

    fn conv(&mut self, node: &NodeProto) -> Result<(), String> {
        self.is_eight_bit = true;
        let has_bias = node.input.len() == 9;
        let [x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero] = inputs::<8>(&NodeProto {
            input: node.input.iter().take(8).cloned().collect(),
            ..node.clone()
        })
        .map(|names| names.map(str::to_owned))?;
        let from = self.storage(&x_scale, &x_zero)?;
        let weight = self.constant(&w)?;
        let scales = self.scales(weight, &w_scale, &w_zero)?;
        let channels = weight.dims.first().copied().unwrap_or(0);
        let weights = format!("{w}.real");
        let mut dequantize = new_node("DequantizeLinear", &[&w, &w_scale, &w_zero], &weights);
        if scales.len() > 1 {
            dequantize.attribute.push(axis_zero());
        }
        self.nodes.push(dequantize);

        let output = output(node)?.to_owned();
        let mut read = vec![self.real(&x)?, weights];
        if has_bias {
            let name = node.input[8].clone();
            let sums = ints(self.constant(&name)?)?;
            if sums.len() as i64 != channels {
                return Err(format!("{} biases for {channels} channels", sums.len()));
            }
            let reals = sums.iter().enumerate().map(|(channel, &sum)| {
                let scale = scales[if scales.len() > 1 { channel } else { 0 }];
                (f64::from(sum) * f64::from(from.scale) * f64::from(scale)) as f32
            });
            let real = format!("{name}.real");
            self.made.insert(
                real.clone(),
                floats_constant(&real, vec![channels], reals.collect()),
            );
            read.push(real);
        }
        let read: Vec<&str> = read.iter().map(String::as_str).collect();
        let mut conv = new_node("Conv", &read, &format!("{output}.float"));
        conv.attribute.clone_from(&node.attribute);
        self.nodes.push(conv);
        let storage = self.storage(&y_scale, &y_zero)?;
        self.clipped_pair(&format!("{output}.float"), &output, storage);
        Ok(())
    }

    fn sum(&mut self, node: &NodeProto) -> Result<(), String> {
        let [a, _, _, b, _, _, scale, zero] = inputs(node)?;
        let storage = self.storage(scale, zero)?;
        let (a, b, output) = (self.real(a)?, self.real(b)?, output(node)?);
        let float = format!("{output}.float");
        self.nodes.push(new_node("Add", &[&a, &b], &float));
        self.clipped_pair(&float, output, storage);
        Ok(())
    }

    /// Values of several scales side by side.
    fn concat(&mut self, node: &NodeProto) -> Result<(), String> {
        let [scale, zero, values @ ..] = &*node.input else {
            return Err(format!("it has {} inputs, expected 2 and more", node.input.len()));
        };
        let storage = self.storage(scale, zero)?;
        let reals: Vec<String> = values
            .iter()
            .step_by(3)
            .map(|value| self.real(value))
            .collect::<Result<_, _>>()?;
        let reals: Vec<&str> = reals.iter().map(String::as_str).collect();
        let output = output(node)?;
        let float = format!("{output}.float");
        let mut concat = new_node("Concat", &reals, &float);
        concat.attribute.clone_from(&node.attribute);
        self.nodes.push(concat);
        self.pair(&float, output, storage);
        Ok(())
    }

    fn average(&mut self, node: &NodeProto) -> Result<(), String> {
        let [x, _, _, scale, zero] = inputs(node)?;
        let storage = self.storage(scale, zero)?;
        let (x, output) = (self.real(x)?, output(node)?);
        let float = format!("{output}.float");
        self.nodes.push(new_node("GlobalAveragePool", &[&x], &float));
        self.clipped_pair(&float, output, storage);
        Ok(())
    }

    /// Stores `value`, of which the unsigned form cuts off what is negative: the activation that was folded into it.
    fn clipped_pair(&mut self, value: &str, output: &str, storage: Storage) {
        if storage.zero != 0 {
            self.pair(value, output, storage);
            return;
        }
        let (low, high) = storage.range();
        let bounds = [("low", low), ("high", high)].map(|(end, bound)| {
            let name = format!("{output}.{end}");
            self.made
                .insert(name.clone(), floats_constant(&name, vec![], vec![bound]));
            name
        });
        let clipped = format!("{output}.clipped");
        self.nodes
            .push(new_node("Clip", &[value, &bounds[0], &bounds[1]], &clipped));
        self.pair(&clipped, output, storage);
    }

    /// Stores `value` in s8 and reads it back; what reads `output`, in bytes, reads that.
    fn pair(&mut self, value: &str, output: &str, storage: Storage) {
        let (scale, stored, real) = (
            format!("{output}.qdq.scale"),
            format!("{output}.s8"),
            format!("{output}.real"),
        );
        self.made.insert(
            scale.clone(),
            floats_constant(&scale, vec![], vec![storage.symmetric_scale()]),
        );
        self.nodes
            .push(new_node("QuantizeLinear", &[value, &scale, ZERO], &stored));
        self.nodes
            .push(new_node("DequantizeLinear", &[&stored, &scale, ZERO], &real));
        self.real.insert(output.to_owned(), real);
        self.stored.insert(output.to_owned(), storage);
    }

    fn constant(&self, name: &str) -> Result<&TensorProto, String> {
        let constant = self.constants.get(name).copied();
        constant.ok_or_else(|| format!("{name:?} is no constant of the file"))
    }

    /// The scales of weights in signed bytes without a zero point: one, or one for each output channel.
    fn scales(&self, weights: &TensorProto, scale: &str, zero: &str) -> Result<Vec<f32>, String> {
        let name = &weights.name;
        let scales = floats(self.constant(scale)?)?;
        if weights.data_type != DataType::Int8 as i32 {
            return Err(format!("its weights {name:?} are not signed bytes"));
        }
        if bytes(self.constant(zero)?)?.iter().any(|&zero| zero != 0) {
            return Err(format!("the zero point of its weights {name:?} is not zero"));
        }
        let channels = weights.dims.first().copied().unwrap_or(0);
        if scales.len() as i64 != channels && scales.len() != 1 {
            return Err(format!("{} scales for {channels} channels", scales.len()));
        }
        Ok(scales)
    }

    /// Scale and zero point of an unsigned value.
    fn storage(&self, scale: &str, zero: &str) -> Result<Storage, String> {
        let (scales, zeros) = (self.constant(scale)?, self.constant(zero)?);
        if zeros.data_type != DataType::Uint8 as i32 {
            return Err(format!("the zero point {zero:?} is no unsigned byte"));
        }
        match (&*floats(scales)?, &*bytes(zeros)?) {
            (&[scale], &[zero]) if scale.is_finite() && scale > 0.0 => Ok(Storage { scale, zero }),
            (&[found], &[_]) => Err(format!(
                "the scale {scale:?} is {found}, expected a number above 0"
            )),
            _ => Err(format!("{scale:?} and {zero:?} are not one number each")),
        }
    }
}

fn inputs<const N: usize>(node: &NodeProto) -> Result<[&str; N], String> {
    let names: Vec<&str> = node.input.iter().map(String::as_str).collect();
    let found = names.len();
    names
        .try_into()
        .map_err(|_| format!("it has {found} inputs, expected {N}"))
}

fn output(node: &NodeProto) -> Result<&str, String> {
    match &*node.output {
        [output] => Ok(output),
        outputs => Err(format!("it has {} outputs, expected one", outputs.len())),
    }
}

fn new_node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: vec![output.to_owned()],
        name: output.to_owned(),
        op_type: op.to_owned(),
        ..NodeProto::default()
    }
}

fn axis_zero() -> tract_onnx::pb::AttributeProto {
    tract_onnx::pb::AttributeProto {
        name: "axis".into(),
        r#type: tract_onnx::pb::attribute_proto::AttributeType::Int as i32,
        i: 0,
        ..Default::default()
    }
}

fn bytes_constant(name: &str, dims: Vec<i64>, raw_data: Vec<u8>) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims,
        data_type: DataType::Int8 as i32,
        raw_data,
        ..TensorProto::default()
    }
}

fn floats_constant(name: &str, dims: Vec<i64>, values: Vec<f32>) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims,
        data_type: DataType::Float as i32,
        raw_data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        ..TensorProto::default()
    }
}

/// A constant's bytes, signed or not.
fn bytes(tensor: &TensorProto) -> Result<Vec<u8>, String> {
    let is_bytes = [DataType::Uint8 as i32, DataType::Int8 as i32].contains(&tensor.data_type);
    match (is_bytes, tensor.raw_data.is_empty()) {
        (false, _) => Err(format!("{:?} holds no bytes", tensor.name)),
        (true, false) => Ok(tensor.raw_data.clone()),
        (true, true) => Ok(tensor.int32_data.iter().map(|&value| value as u8).collect()),
    }
}

/// A constant's numbers of four bytes each, read by `read`.
fn words<T: Copy>(
    tensor: &TensorProto,
    kind: DataType,
    listed: &[T],
    read: fn([u8; 4]) -> T,
) -> Result<Vec<T>, String> {
    if tensor.data_type != kind as i32 {
        return Err(format!("{:?} is not of {kind:?}", tensor.name));
    }
    if tensor.raw_data.is_empty() {
        return Ok(listed.to_vec());
    }
    let (words, rest) = tensor.raw_data.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(format!("{:?} is cut short", tensor.name));
    }
    Ok(words.iter().map(|&word| read(word)).collect())
}

fn floats(tensor: &TensorProto) -> Result<Vec<f32>, String> {
    words(tensor, DataType::Float, &tensor.float_data, f32::from_le_bytes)
}

fn ints(tensor: &TensorProto) -> Result<Vec<i32>, String> {
    words(tensor, DataType::Int32, &tensor.int32_data, i32::from_le_bytes)
}
