//! Small networks with known answers, written as ONNX files with their contracts.
//!
//! Each network samples the picture at every second pixel and gives class scores that are a fixed linear
//! function of the three channels, so a test can compute the right answer itself.

#![allow(dead_code, reason = "each test file uses its part")]

use std::path::Path;

use prost::Message;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto, type_proto,
};
use vision::infer::{InputSize, TensorData};
use vision::model::contract::{
    Class, ColorOrder, Contract, Grid, Input, InputType, Layout, ModelFile, OutputContract, OutputType,
    Precision, Resize, Role, TensorContract,
};
use vision::model::load::sha256_hex;
use vision::model::{Model, Origin};

/// A network: what it takes and gives.
#[derive(Debug, Clone)]
pub struct Tiny {
    /// Layout of input and of logits.
    pub layout: Layout,
    /// Type of the input.
    pub dtype: InputType,
    /// Logits, or labels by an argmax in the graph.
    pub kind: Role,
    /// Type of labels.
    pub label_type: OutputType,
    /// Labels keep a dimension of 1 in place of the classes.
    pub keep_dims: bool,
    /// Classes.
    pub classes: usize,
    /// Fixed input size; symbolic otherwise.
    pub fixed: Option<InputSize>,
    /// A second output, beside the one that counts.
    pub second_output: bool,
    /// Operator set.
    pub opset: i64,
    /// An operator that no backend knows, after the convolution.
    pub unknown_operator: bool,
    /// Backends that the contract lists.
    pub backends: Vec<&'static str>,
    /// Class `i` has the score that class `i + shift` would have: another network with the same contract.
    pub shift: usize,
}

impl Default for Tiny {
    fn default() -> Self {
        Self {
            layout: Layout::Nchw,
            dtype: InputType::F32,
            kind: Role::Logits,
            label_type: OutputType::I64,
            keep_dims: false,
            classes: 4,
            fixed: None,
            second_output: false,
            opset: 17,
            unknown_operator: false,
            backends: vec!["tract", "ort"],
            shift: 0,
        }
    }
}

/// The weight of channel `channel` in class `class`'s score.
pub fn weight(class: usize, channel: usize) -> f32 {
    // Each class prefers another mixture, and no two are equal.
    let angle = class as f32 * 1.7 + channel as f32 * 2.1;
    angle.sin()
}

/// What class `class`'s score has beside its channels.
pub fn bias(class: usize) -> f32 {
    0.1 * (class % 4) as f32
}

impl Tiny {
    /// The score of `class` for a cell whose pixel has these channels.
    pub fn score(&self, class: usize, pixel: [f32; 3]) -> f32 {
        let shifted = self.shifted(class);
        (0..3).map(|k| weight(shifted, k) * pixel[k]).sum::<f32>() + bias(shifted)
    }

    fn shifted(&self, class: usize) -> usize {
        (class + self.shift) % self.classes
    }

    /// The class with the largest score.
    pub fn winner(&self, pixel: [f32; 3]) -> u8 {
        let mut best = 0;
        for class in 1..self.classes {
            if self.score(class, pixel) > self.score(best, pixel) {
                best = class;
            }
        }
        best as u8
    }

    /// Two colours with different winners, both by a clear margin.
    pub fn two_colors(&self) -> [[u8; 3]; 2] {
        let clear = |color: &[u8; 3]| {
            let pixel = color.map(|v| f32::from(v) / 255.0);
            let mut scores: Vec<f32> = (0..self.classes).map(|c| self.score(c, pixel)).collect();
            scores.sort_by(f32::total_cmp);
            scores[self.classes - 1] - scores[self.classes - 2] > 0.05
        };
        let levels = [10u8, 90, 170, 250];
        let colors = levels
            .into_iter()
            .flat_map(|r| levels.into_iter().flat_map(move |g| levels.map(|b| [r, g, b])));
        let colors: Vec<[u8; 3]> = colors.filter(clear).collect();
        let first = colors[0];
        let second = colors
            .iter()
            .find(|c| self.label(**c) != self.label(first))
            .unwrap();
        [first, *second]
    }

    /// The label of a pixel of this colour.
    pub fn label(&self, color: [u8; 3]) -> u8 {
        self.winner(color.map(|v| f32::from(v) / 255.0))
    }

    /// The ONNX file.
    pub fn onnx(&self) -> Vec<u8> {
        self.proto().encode_to_vec()
    }

    /// The ONNX model.
    pub fn proto(&self) -> ModelProto {
        let dim = |value: Option<usize>, name: &str| Dimension {
            denotation: String::new(),
            value: Some(match value {
                Some(v) => dimension::Value::DimValue(v as i64),
                None => dimension::Value::DimParam(name.to_owned()),
            }),
        };
        let side = |f: fn(&InputSize) -> usize| self.fixed.as_ref().map(f);
        let (height, width) = (dim(side(|s| s.height), "height"), dim(side(|s| s.width), "width"));
        let (one, three) = (dim(Some(1), ""), dim(Some(3), ""));
        let dims = match self.layout {
            Layout::Nchw => vec![one, three, height, width],
            Layout::Nhwc => vec![one, height, width, three],
        };
        let input_type = match self.dtype {
            InputType::F32 => DataType::Float,
            InputType::U8 => DataType::Uint8,
        };
        let mut nodes = Vec::new();
        let mut at = "image".to_owned();
        let mut push = |op: &str, inputs: &[&str], attributes: Vec<AttributeProto>| {
            let name = format!("{}_{}", op.to_lowercase(), nodes.len());
            nodes.push(NodeProto {
                input: std::iter::once(at.as_str())
                    .chain(inputs.iter().copied())
                    .map(str::to_owned)
                    .collect(),
                output: vec![name.clone()],
                name: name.clone(),
                op_type: op.to_owned(),
                attribute: attributes,
                ..NodeProto::default()
            });
            at = name;
        };
        if self.dtype == InputType::U8 {
            push("Cast", &[], vec![int("to", DataType::Float as i64)]);
        }
        if self.layout == Layout::Nhwc {
            push("Transpose", &[], vec![ints("perm", &[0, 3, 1, 2])]);
        }
        push(
            "Conv",
            &["weights", "bias"],
            vec![ints("kernel_shape", &[1, 1]), ints("strides", &[2, 2])],
        );
        if self.unknown_operator {
            push("Frobnicate", &[], vec![]);
        }
        let element = match self.kind == Role::Logits {
            true => {
                if self.layout == Layout::Nhwc {
                    push("Transpose", &[], vec![ints("perm", &[0, 2, 3, 1])]);
                }
                DataType::Float
            }
            false => {
                push(
                    "ArgMax",
                    &[],
                    vec![int("axis", 1), int("keepdims", i64::from(self.keep_dims))],
                );
                let kind = match self.label_type {
                    OutputType::I64 => DataType::Int64,
                    OutputType::I32 => DataType::Int32,
                    OutputType::U8 => DataType::Uint8,
                    OutputType::F32 => DataType::Float,
                };
                if kind != DataType::Int64 {
                    push("Cast", &[], vec![int("to", kind as i64)]);
                }
                kind
            }
        };
        push("Identity", &[], vec![]);
        if let Some(last) = nodes.last_mut() {
            last.output = vec!["answer".to_owned()];
        }
        let mut outputs = vec![value("answer", element, None)];
        if self.second_output {
            let conv = nodes.iter().find(|n| n.op_type == "Conv").unwrap().output[0].clone();
            outputs.insert(0, value(&conv, DataType::Float, None));
        }
        let weights: Vec<f32> = (0..self.classes)
            .flat_map(|c| (0..3).map(move |k| weight(self.shifted(c), k)))
            .collect();
        let bias: Vec<f32> = (0..self.classes).map(|c| bias(self.shifted(c))).collect();
        ModelProto {
            ir_version: 8,
            producer_name: "segd tests".into(),
            opset_import: vec![OperatorSetIdProto {
                domain: String::new(),
                version: self.opset,
            }],
            graph: Some(GraphProto {
                name: "tiny".into(),
                node: nodes,
                initializer: vec![
                    tensor("weights", &[self.classes as i64, 3, 1, 1], weights),
                    tensor("bias", &[self.classes as i64], bias),
                ],
                input: vec![value("image", input_type, Some(dims))],
                output: outputs,
                ..GraphProto::default()
            }),
            ..ModelProto::default()
        }
    }

    /// The contract that belongs to it; `sha256` of the file `net.onnx`.
    pub fn contract(&self, sha256: String) -> Contract {
        Contract {
            format: 1,
            name: "tiny".into(),
            description: "test network".into(),
            license: "CC0-1.0".into(),
            multiply_accumulates: None,
            input: Input {
                layout: self.layout,
                dtype: self.dtype,
                color: ColorOrder::Rgb,
                mean: [0.0; 3],
                std: if self.dtype == InputType::U8 {
                    [1.0; 3]
                } else {
                    [255.0; 3]
                },
                resize: Resize::Fit,
                width: 16,
                height: 16,
                multiple: 2,
                offset: 0,
                pad: 0,
            },
            // Cell i is the pixel 2 i, which neither grid says; tests compare cells.
            output: OutputContract::of(
                TensorContract {
                    role: self.kind,
                    layout: self.layout,
                    dtype: if self.kind == Role::Labels {
                        self.label_type
                    } else {
                        OutputType::F32
                    },
                    name: self.second_output.then(|| "answer".to_owned()),
                },
                Grid::HalfPixel,
            ),
            classes: (0..self.classes)
                .map(|i| Class {
                    name: format!("class{i}"),
                    color: [(40 * i % 256) as u8, 200, 255 - (40 * i % 256) as u8],
                    background: i == 0,
                    thing: false,
                })
                .collect(),
            files: vec![ModelFile {
                path: "net.onnx".into(),
                precision: Precision::Fp32,
                backends: self.backends.iter().map(|b| (*b).to_owned()).collect(),
                sha256,
            }],
            selftest: None,
            training: None,
            scores: Vec::new(),
        }
    }

    /// Writes file and contract into `folder`.
    pub fn write(&self, folder: &Path) -> Model {
        let bytes = self.onnx();
        write_model(folder, &self.contract(sha256_hex(&bytes)), &bytes)
    }

    /// A picture of that size in the input's layout and type, and its pixels as the network sees them.
    pub fn picture(&self, size: InputSize, seed: u32) -> (TensorData, Vec<[f32; 3]>) {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
        let mut byte = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let pixels: Vec<[u8; 3]> = (0..size.width * size.height)
            .map(|_| [byte(), byte(), byte()])
            .collect();
        let scale = if self.dtype == InputType::U8 { 1.0 } else { 255.0 };
        let seen: Vec<[f32; 3]> = pixels.iter().map(|p| p.map(|v| f32::from(v) / scale)).collect();
        let ordered = |channel: usize, pixel: usize| match self.layout {
            Layout::Nchw => channel * size.width * size.height + pixel,
            Layout::Nhwc => pixel * 3 + channel,
        };
        let data = match self.dtype {
            InputType::F32 => {
                let mut data = vec![0.0; 3 * pixels.len()];
                for (i, pixel) in seen.iter().enumerate() {
                    for k in 0..3 {
                        data[ordered(k, i)] = pixel[k];
                    }
                }
                TensorData::F32(data)
            }
            InputType::U8 => {
                let mut data = vec![0; 3 * pixels.len()];
                for (i, pixel) in pixels.iter().enumerate() {
                    for k in 0..3 {
                        data[ordered(k, i)] = pixel[k];
                    }
                }
                TensorData::U8(data)
            }
        };
        (data, seen)
    }
}

/// Writes a contract and the file `net.onnx` that it names.
pub fn write_model(folder: &Path, contract: &Contract, onnx: &[u8]) -> Model {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("net.onnx"), onnx).unwrap();
    std::fs::write(folder.join("contract.toml"), contract.to_toml().unwrap()).unwrap();
    Model {
        contract: contract.clone(),
        origin: Origin::Folder(folder.to_path_buf()),
    }
}

fn value(name: &str, element: DataType, dims: Option<Vec<Dimension>>) -> ValueInfoProto {
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto {
            denotation: String::new(),
            value: Some(type_proto::Value::TensorType(type_proto::Tensor {
                elem_type: element as i32,
                shape: dims.map(|dim| TensorShapeProto { dim }),
            })),
        }),
        doc_string: String::new(),
    }
}

fn tensor(name: &str, dims: &[i64], data: Vec<f32>) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: DataType::Float as i32,
        float_data: data,
        ..TensorProto::default()
    }
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Int as i32,
        i: value,
        ..AttributeProto::default()
    }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Ints as i32,
        ints: values.to_vec(),
        ..AttributeProto::default()
    }
}
