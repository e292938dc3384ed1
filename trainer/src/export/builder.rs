//! Puts ONNX graphs together.

use prost::Message;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto, attribute_proto::AttributeType, tensor_proto::DataType, tensor_shape_proto,
    type_proto,
};

use super::f16;
use crate::graph::{Conv, ConvTranspose, Graph, NodeId, Op, Output, Pool};
use crate::weights::FoldedConv;

/// The version of ONNX's operators that the files use.
const OPSET: i64 = 17;
/// The version of the file format that goes with it.
const IR_VERSION: i64 = 8;
/// The domain of ONNX Runtime's own operators.
pub const MICROSOFT: &str = "com.microsoft";

/// A side that every network takes: a multiple of all their strides and of 48, which pyramid pooling needs.
pub const SIDE: i64 = 96;

/// The network's input in every file: `[1, C, height, width]`, f32, normalised.
pub const INPUT: &str = "input";
/// The network's first output in every file: `[1, classes, grid_height, grid_width]`, f32.
pub const OUTPUT: &str = "logits";

/// The name of a node's value if it is an output.
#[must_use]
pub fn output_name(network: &Graph, id: NodeId) -> Option<&'static str> {
    let other = network.others.iter().find(|output| output.node == id);
    match other {
        _ if id == network.output => Some(OUTPUT),
        other => other.map(|output| output.name),
    }
}

/// An ONNX graph under construction.
#[derive(Default)]
pub struct Builder {
    graph: GraphProto,
    uses_microsoft: bool,
    /// Whether weights are stored as f16.
    stores_f16: bool,
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

    /// A graph whose weights are stored as f16 where that is enough ([`f16::store`]).
    #[must_use]
    pub fn storing_f16() -> Self {
        Self {
            stores_f16: true,
            ..Self::default()
        }
    }

    /// Adds f32 weights, in the form in which this graph stores them.
    pub fn weights(&mut self, name: &str, dims: &[i64], values: &[f32]) {
        let stored = self.stores_f16.then(|| f16::store(name, dims, values));
        match stored.flatten() {
            Some((constant, cast)) => {
                self.graph.initializer.push(constant);
                self.graph.node.push(cast);
            }
            None => self.floats(name, dims, values),
        }
    }

    /// Adds an i32 constant.
    pub fn ints(&mut self, name: &str, dims: &[i64], values: &[i32]) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(name, dims, DataType::Int32, bytes);
    }

    /// Adds an i64 constant of one axis.
    pub fn longs(&mut self, name: &str, values: &[i64]) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(name, &[values.len() as i64], DataType::Int64, bytes);
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

    /// Adds [`Op::Unpool`] for values `z`, what was pooled and what the pooling gave, all stored alike; `zero` names the
    /// constant that stands for zero.
    ///
    /// ONNX's MaxUnpool is known to neither tract nor TensorRT. The pooled picture is sliced into the four places of
    /// its cells; a value goes to the first that equals the maximum. Nothing is left after the third, so the fourth
    /// takes the rest.
    pub fn unpool(&mut self, [z, pooled_from, pooled]: [&str; 3], zero: &str, output: &str) {
        if !self.has_constant("unpool.ends") {
            for (name, values) in [
                ("unpool.00", [0, 0]),
                ("unpool.01", [0, 1]),
                ("unpool.10", [1, 0]),
                ("unpool.ends", [i64::MAX; 2]),
                ("unpool.axes", [2, 3]),
                ("unpool.steps", [2, 2]),
            ] {
                self.longs(name, &values);
            }
        }
        let name = |part: &str, place: &str| format!("{output}.{part}{place}");
        let mut rest = z.to_owned();
        let mut places = Vec::with_capacity(4);
        for place in ["00", "01", "10"] {
            let (slice, equal) = (name("slice", place), name("equal", place));
            let (here, after) = (name("here", place), name("rest", place));
            self.node(
                "Slice",
                &[
                    pooled_from,
                    &format!("unpool.{place}"),
                    "unpool.ends",
                    "unpool.axes",
                    "unpool.steps",
                ],
                &slice,
                vec![],
            );
            self.node("Equal", &[&slice, pooled], &equal, vec![]);
            self.node("Where", &[&equal, &rest, zero], &here, vec![]);
            self.node("Where", &[&equal, zero, &rest], &after, vec![]);
            places.push(here);
            rest = after;
        }
        places.push(rest);
        let places: Vec<&str> = places.iter().map(String::as_str).collect();
        let all = name("places", "");
        self.node("Concat", &places, &all, vec![int("axis", 1)]);
        self.node("DepthToSpace", &[&all], output, depth_to_space_attributes());
    }

    /// Adds a node that only f32 values go through: [`Op::ConvTranspose`], [`Op::BinPool`], [`Op::ResizeLike`],
    /// and a sum. `channels` are those of the first input.
    ///
    /// # Panics
    /// The operation is another one.
    pub fn float_only(
        &mut self,
        op: &Op,
        channels: i64,
        inputs: &[&str],
        output: &str,
        folded: Option<&FoldedConv>,
    ) {
        match op {
            Op::ConvTranspose(conv) => {
                let folded = folded.expect("weights of a transposed convolution");
                let (weight, bias) = (format!("{output}.weight"), format!("{output}.bias"));
                self.weights(&weight, &conv.weight_shape(), &folded.weight);
                self.floats(&bias, &[conv.outputs], &folded.bias);
                self.node(
                    "ConvTranspose",
                    &[inputs[0], &weight, &bias],
                    output,
                    conv_transpose_attributes(conv),
                );
            }
            Op::BinPool { bins } => self.bin_pool(*bins, channels, inputs[0], output),
            Op::Add => self.node("Add", inputs, output, vec![]),
            Op::ResizeLike => self.resize_like(channels, inputs[0], inputs[1], output),
            _ => panic!("{output}: not an operation of f32 values alone"),
        }
    }

    /// Means over `bins` x `bins` parts: rows are brought together by a reshape that leaves the width as it is, averaged,
    /// then the same along the columns. `0` in a reshape keeps a side, `-1` stands for the one that is not known.
    fn bin_pool(&mut self, bins: i64, channels: i64, input: &str, output: &str) {
        let name = |part: &str| format!("{output}.{part}");
        let mean = |axis: i64| vec![ints("axes", &[axis]), int("keepdims", 1)];
        self.longs(&name("rows"), &[1, channels * bins, -1, 0]);
        self.node("Reshape", &[input, &name("rows")], &name("by_row"), vec![]);
        self.node("ReduceMean", &[&name("by_row")], &name("row_means"), mean(2));
        self.longs(&name("columns"), &[1, channels * bins, bins, -1]);
        self.node(
            "Reshape",
            &[&name("row_means"), &name("columns")],
            &name("by_column"),
            vec![],
        );
        self.node("ReduceMean", &[&name("by_column")], &name("means"), mean(3));
        self.longs(&name("shape"), &[1, channels, bins, bins]);
        self.node("Reshape", &[&name("means"), &name("shape")], output, vec![]);
    }

    /// `input` at the size of `like`. The size is read from the value at hand, so that height and width stay symbolic; a
    /// loader that fixes them folds it to a constant.
    fn resize_like(&mut self, channels: i64, input: &str, like: &str, output: &str) {
        let name = |part: &str| format!("{output}.{part}");
        self.node("Shape", &[like], &name("sides"), vec![int("start", 2)]);
        self.longs(&name("channels"), &[1, channels]);
        self.node(
            "Concat",
            &[&name("channels"), &name("sides")],
            &name("size"),
            vec![int("axis", 0)],
        );
        self.node(
            "Resize",
            &[input, "", "", &name("size")],
            output,
            vec![
                string("coordinate_transformation_mode", "half_pixel"),
                string("mode", "linear"),
            ],
        );
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
        let shapes = network.shapes(SIDE, SIDE);
        self.graph.name = name.to_owned();
        self.graph.input = vec![value_info(INPUT, channels, ["height", "width"])];
        self.graph.output = vec![value_info(
            OUTPUT,
            shapes[network.output][0],
            ["grid_height", "grid_width"],
        )];
        for Output { name, node } in &network.others {
            let sides = ["height", "width"].map(|side| format!("{name}_{side}"));
            let info = value_info(name, shapes[*node][0], [&sides[0], &sides[1]]);
            self.graph.output.push(info);
        }
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

/// The attributes of a MaxPool node.
#[must_use]
pub fn max_pool_attributes(pool: Pool) -> Vec<AttributeProto> {
    vec![
        ints("kernel_shape", &[pool.kernel(); 2]),
        ints("pads", &[pool.padding(); 4]),
        ints("strides", &[2; 2]),
    ]
}

/// The attributes of a ConvTranspose node.
#[must_use]
pub fn conv_transpose_attributes(conv: &ConvTranspose) -> Vec<AttributeProto> {
    vec![
        ints("kernel_shape", &[conv.kernel; 2]),
        ints("pads", &[conv.padding(); 4]),
        ints("strides", &[conv.stride; 2]),
    ]
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
