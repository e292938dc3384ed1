//! Puts ONNX graphs together.

use prost::Message;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto,
    attribute_proto::AttributeType,
    tensor_proto::DataType,
    tensor_shape_proto::{Dimension, dimension::Value},
    type_proto,
};

use super::f16;
use crate::forward::places;
use crate::graph::{Conv, ConvTranspose, Graph, LAYER_NORM_EPS, NOTHING, NodeId, Op, Output, Pool};
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

/// The name of a node's value if it is an output.
#[must_use]
pub fn output_name(network: &Graph, id: NodeId) -> Option<&'static str> {
    let other = network.others.iter().find(|output| output.node == id);
    match other {
        _ if id == network.output => Some(network.first),
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

    /// Adds a node that only f32 values go through: all but convolutions, pooling, what moves values, and activations without
    /// an exponent. `channels` are those of the first input.
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
            Op::ResizeTo { side } => {
                let size = format!("{output}.size");
                self.longs(&size, &[1, channels, *side, *side]);
                self.node("Resize", &[inputs[0], "", "", &size], output, resize_attributes());
            }
            Op::LayerNorm { channels } => {
                let folded = folded.expect("weights of a normalisation");
                self.layer_norm(*channels, inputs[0], output, folded);
            }
            Op::Gelu => self.gelu(inputs[0], output),
            Op::Attention { heads } => {
                self.attention(*heads, channels, [inputs[0], inputs[1], inputs[2]], output)
            }
            Op::Coordinates { side } => {
                let along = places(*side);
                let right = along.iter().cycle().take(along.len() * along.len());
                let down = along
                    .iter()
                    .flat_map(|&place| std::iter::repeat_n(place, along.len()));
                let values: Vec<f32> = right.copied().chain(down).collect();
                self.floats(output, &[1, 2, *side, *side], &values);
            }
            Op::PointsNms => self.points_nms(inputs[0], output),
            Op::Rows => self.rows(channels, inputs, output),
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
            resize_attributes(),
        );
    }

    /// Written out in operators that have no axis of their own: a `LayerNormalization` takes the last one, and would need the
    /// channels moved there and back.
    fn layer_norm(&mut self, channels: i64, input: &str, output: &str, folded: &FoldedConv) {
        if !self.has_constant("layer_norm.eps") {
            self.floats("layer_norm.eps", &[], &[LAYER_NORM_EPS as f32]);
        }
        let name = |part: &str| format!("{output}.{part}");
        let mean = || vec![ints("axes", &[1]), int("keepdims", 1)];
        let shape = [channels, 1, 1];
        self.weights(&name("weight"), &shape, &folded.weight);
        self.floats(&name("bias"), &shape, &folded.bias);
        self.node("ReduceMean", &[input], &name("mean"), mean());
        self.node("Sub", &[input, &name("mean")], &name("away"), vec![]);
        self.node("Mul", &[&name("away"), &name("away")], &name("squares"), vec![]);
        self.node("ReduceMean", &[&name("squares")], &name("variance"), mean());
        self.node(
            "Add",
            &[&name("variance"), "layer_norm.eps"],
            &name("sum"),
            vec![],
        );
        self.node("Sqrt", &[&name("sum")], &name("deviation"), vec![]);
        self.node(
            "Div",
            &[&name("away"), &name("deviation")],
            &name("normal"),
            vec![],
        );
        self.node(
            "Mul",
            &[&name("normal"), &name("weight")],
            &name("scaled"),
            vec![],
        );
        self.node("Add", &[&name("scaled"), &name("bias")], output, vec![]);
    }

    /// As exporters write it, which ONNX Runtime and tract know.
    fn gelu(&mut self, input: &str, output: &str) {
        if !self.has_constant("gelu.root") {
            self.floats("gelu.root", &[], &[std::f32::consts::SQRT_2]);
            self.floats("gelu.one", &[], &[1.0]);
            self.floats("gelu.half", &[], &[0.5]);
        }
        let name = |part: &str| format!("{output}.{part}");
        self.node("Div", &[input, "gelu.root"], &name("part"), vec![]);
        self.node("Erf", &[&name("part")], &name("erf"), vec![]);
        self.node("Add", &[&name("erf"), "gelu.one"], &name("more"), vec![]);
        self.node("Mul", &[input, &name("more")], &name("double"), vec![]);
        self.node("Mul", &[&name("double"), "gelu.half"], output, vec![]);
    }

    /// `[1, C, H, W]` become `[1, heads, C / heads, cells]`; the cells of queries come first for the product with those of keys,
    /// so that the softmax goes along the last axis.
    fn attention(&mut self, heads: i64, channels: i64, [query, key, value]: [&str; 3], output: &str) {
        let part = channels / heads;
        let name = |part: &str| format!("{output}.{part}");
        let turned = || vec![ints("perm", &[0, 1, 3, 2])];
        self.longs(&name("parts"), &[1, heads, part, -1]);
        self.floats(&name("scale"), &[], &[(part as f32).sqrt().recip()]);
        for (input, parts) in [(query, "query"), (key, "key"), (value, "value")] {
            self.node("Reshape", &[input, &name("parts")], &name(parts), vec![]);
        }
        self.node("Transpose", &[&name("query")], &name("queries"), turned());
        self.node(
            "Mul",
            &[&name("queries"), &name("scale")],
            &name("scaled"),
            vec![],
        );
        self.node(
            "MatMul",
            &[&name("scaled"), &name("key")],
            &name("products"),
            vec![],
        );
        self.node(
            "Softmax",
            &[&name("products")],
            &name("shares"),
            vec![int("axis", -1)],
        );
        self.node("Transpose", &[&name("value")], &name("values"), turned());
        self.node(
            "MatMul",
            &[&name("shares"), &name("values")],
            &name("sums"),
            vec![],
        );
        self.node("Transpose", &[&name("sums")], &name("by_channel"), turned());
        self.node("Shape", &[query], &name("shape"), vec![]);
        self.node("Reshape", &[&name("by_channel"), &name("shape")], output, vec![]);
    }

    fn points_nms(&mut self, input: &str, output: &str) {
        if !self.has_constant("points_nms.nothing") {
            self.floats("points_nms.nothing", &[], &[NOTHING as f32]);
        }
        let name = |part: &str| format!("{output}.{part}");
        let attributes = vec![
            ints("kernel_shape", &[2; 2]),
            ints("pads", &[1, 1, 0, 0]),
            ints("strides", &[1; 2]),
        ];
        self.node("MaxPool", &[input], &name("largest"), attributes);
        self.node("Equal", &[&name("largest"), input], &name("is_largest"), vec![]);
        self.node(
            "Where",
            &[&name("is_largest"), input, "points_nms.nothing"],
            output,
            vec![],
        );
    }

    fn rows(&mut self, channels: i64, inputs: &[&str], output: &str) {
        let name = |part: &str| format!("{output}.{part}");
        self.longs(&name("cells"), &[1, channels, -1]);
        let mut flat = Vec::new();
        for (index, input) in inputs.iter().enumerate() {
            let part = name(&format!("flat{index}"));
            self.node("Reshape", &[input, &name("cells")], &part, vec![]);
            flat.push(part);
        }
        let flat: Vec<&str> = flat.iter().map(String::as_str).collect();
        self.node("Concat", &flat, &name("joined"), vec![int("axis", 2)]);
        self.node(
            "Transpose",
            &[&name("joined")],
            output,
            vec![ints("perm", &[0, 2, 1])],
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
            network.first,
            shapes[network.output][0],
            ["grid_height", "grid_width"],
        )];
        for Output { name, node } in &network.others {
            let [channels, cells, fields] = shapes[*node];
            let info = if network.nodes[*node].op == Op::Rows {
                float_info(name, vec![fixed(1), fixed(cells), fixed(fields)])
            } else {
                let sides = ["height", "width"].map(|side| format!("{name}_{side}"));
                value_info(name, channels, [&sides[0], &sides[1]])
            };
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

/// The attributes of a Resize node: bilinear between cell centres.
fn resize_attributes() -> Vec<AttributeProto> {
    vec![
        string("coordinate_transformation_mode", "half_pixel"),
        string("mode", "linear"),
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

fn fixed(value: i64) -> Dimension {
    Dimension {
        value: Some(Value::DimValue(value)),
        ..Default::default()
    }
}

fn value_info(name: &str, channels: i64, sides: [&str; 2]) -> ValueInfoProto {
    let symbolic = |name: &str| Dimension {
        value: Some(Value::DimParam(name.to_owned())),
        ..Default::default()
    };
    let dims = vec![fixed(1), fixed(channels), symbolic(sides[0]), symbolic(sides[1])];
    float_info(name, dims)
}

fn float_info(name: &str, dim: Vec<Dimension>) -> ValueInfoProto {
    let shape = TensorShapeProto { dim };
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
