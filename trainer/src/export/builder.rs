//! Puts ONNX graphs together.

use prost::Message;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto, attribute_proto::AttributeType, tensor_proto::DataType, tensor_shape_proto,
    type_proto,
};

use crate::graph::{Conv, Graph, Op};

/// The version of ONNX's operators that the files use.
const OPSET: i64 = 17;
/// The version of the file format that goes with it.
const IR_VERSION: i64 = 8;
/// The domain of ONNX Runtime's own operators.
pub const MICROSOFT: &str = "com.microsoft";

/// The network's input in every file: `[1, C, height, width]`, f32, normalised.
pub const INPUT: &str = "input";
/// The network's output in every file: `[1, classes, grid_height, grid_width]`, f32.
pub const OUTPUT: &str = "logits";

/// An ONNX graph under construction.
#[derive(Default)]
pub struct Builder {
    graph: GraphProto,
    uses_microsoft: bool,
}

impl Builder {
    /// Adds a node with one output, which is called like the node.
    pub fn node(&mut self, op: &str, inputs: &[&str], output: &str, attributes: Vec<AttributeProto>) {
        self.node_of("", op, inputs, output, attributes);
    }

    /// Adds a node of another domain.
    pub fn node_of(
        &mut self,
        domain: &str,
        op: &str,
        inputs: &[&str],
        output: &str,
        attributes: Vec<AttributeProto>,
    ) {
        self.uses_microsoft |= domain == MICROSOFT;
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(|&name| name.to_owned()).collect(),
            output: vec![output.to_owned()],
            name: output.to_owned(),
            op_type: op.to_owned(),
            domain: domain.to_owned(),
            attribute: attributes,
            ..Default::default()
        });
    }

    /// Whether a constant of that name was added.
    #[must_use]
    pub fn has_constant(&self, name: &str) -> bool {
        self.graph
            .initializer
            .iter()
            .any(|constant| constant.name == name)
    }

    /// Adds an f32 constant.
    pub fn floats(&mut self, name: &str, dims: &[i64], values: &[f32]) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(name, dims, DataType::Float, bytes);
    }

    /// Adds an i32 constant.
    pub fn ints(&mut self, name: &str, dims: &[i64], values: &[i32]) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(name, dims, DataType::Int32, bytes);
    }

    /// Adds an i8 constant.
    pub fn signed_bytes(&mut self, name: &str, dims: &[i64], values: &[i8]) {
        self.constant(
            name,
            dims,
            DataType::Int8,
            values.iter().map(|&value| value as u8).collect(),
        );
    }

    /// Adds a u8 constant.
    pub fn bytes(&mut self, name: &str, dims: &[i64], values: &[u8]) {
        self.constant(name, dims, DataType::Uint8, values.to_vec());
    }

    fn constant(&mut self, name: &str, dims: &[i64], data_type: DataType, raw_data: Vec<u8>) {
        self.graph.initializer.push(TensorProto {
            name: name.to_owned(),
            dims: dims.to_vec(),
            data_type: data_type as i32,
            raw_data,
            ..Default::default()
        });
    }

    /// The finished file. Height and width are symbolic.
    ///
    /// # Panics
    /// The graph's first node is not its input.
    #[must_use]
    pub fn finish(mut self, name: &str, network: &Graph) -> Vec<u8> {
        let Op::Input { channels } = network.nodes[0].op else {
            panic!("the first node is the input")
        };
        let classes = network.shapes(64, 64)[network.output][0];
        self.graph.name = name.to_owned();
        self.graph.input = vec![value_info(INPUT, channels, ["height", "width"])];
        self.graph.output = vec![value_info(OUTPUT, classes, ["grid_height", "grid_width"])];
        let mut opset_import = vec![OperatorSetIdProto {
            domain: String::new(),
            version: OPSET,
        }];
        if self.uses_microsoft {
            opset_import.push(OperatorSetIdProto {
                domain: MICROSOFT.to_owned(),
                version: 1,
            });
        }
        let model = ModelProto {
            ir_version: IR_VERSION,
            opset_import,
            producer_name: "segd-train".to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            graph: Some(self.graph),
            ..Default::default()
        };
        model.encode_to_vec()
    }
}

/// The attributes of a Conv or QLinearConv node.
#[must_use]
pub fn conv_attributes(conv: &Conv) -> Vec<AttributeProto> {
    let [before, after] = conv.padding;
    vec![
        ints("dilations", &[conv.dilation; 2]),
        int("group", conv.groups),
        ints("kernel_shape", &[conv.kernel; 2]),
        ints("pads", &[before, before, after, after]),
        ints("strides", &[conv.stride; 2]),
    ]
}

/// The attributes of a DepthToSpace node, as [`Op::DepthToSpace`] means it.
#[must_use]
pub fn depth_to_space_attributes() -> Vec<AttributeProto> {
    vec![int("blocksize", 2), string("mode", "DCR")]
}

/// An integer attribute.
#[must_use]
pub fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Int as i32,
        i: value,
        ..Default::default()
    }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Ints as i32,
        ints: values.to_vec(),
        ..Default::default()
    }
}

fn string(name: &str, value: &str) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::String as i32,
        s: value.as_bytes().to_vec(),
        ..Default::default()
    }
}

fn value_info(name: &str, channels: i64, sides: [&str; 2]) -> ValueInfoProto {
    use tensor_shape_proto::{Dimension, dimension::Value};
    let fixed = |value| Dimension {
        value: Some(Value::DimValue(value)),
        ..Default::default()
    };
    let symbolic = |name: &str| Dimension {
        value: Some(Value::DimParam(name.to_owned())),
        ..Default::default()
    };
    let shape = TensorShapeProto {
        dim: vec![fixed(1), fixed(channels), symbolic(sides[0]), symbolic(sides[1])],
    };
    let tensor = type_proto::Tensor {
        elem_type: DataType::Float as i32,
        shape: Some(shape),
    };
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            ..Default::default()
        }),
        ..Default::default()
    }
}
