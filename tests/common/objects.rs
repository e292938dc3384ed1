//! Small networks that tell objects apart, written as ONNX files in the shapes that exporters give them.
//!
//! Boxes and scores are constants; masks come from the picture: what is bright is inside.

#![allow(dead_code, reason = "each test file uses its part")]

use prost::Message;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};

/// Side of the networks' input in pixels.
pub const SIDE: usize = 64;

/// A candidate: left, top, right, bottom in input pixels, score, class.
pub type Candidate = ([f32; 4], f32, usize);

fn value(name: &str, element: DataType, dims: &[i64]) -> ValueInfoProto {
    let dim = |&side: &i64| Dimension {
        denotation: String::new(),
        value: Some(dimension::Value::DimValue(side)),
    };
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto {
            denotation: String::new(),
            value: Some(type_proto::Value::TensorType(type_proto::Tensor {
                elem_type: element as i32,
                shape: Some(TensorShapeProto {
                    dim: dims.iter().map(dim).collect(),
                }),
            })),
        }),
        doc_string: String::new(),
    }
}

fn floats(name: &str, dims: &[i64], data: Vec<f32>) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: DataType::Float as i32,
        float_data: data,
        ..TensorProto::default()
    }
}

fn longs(name: &str, dims: &[i64], data: Vec<i64>) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: DataType::Int64 as i32,
        int64_data: data,
        ..TensorProto::default()
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

fn node(op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    let own = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    NodeProto {
        input: own(inputs),
        output: vec![output.to_owned()],
        name: format!("make {output}"),
        op_type: op.to_owned(),
        attribute,
        ..NodeProto::default()
    }
}

fn model(graph: GraphProto, metadata: &[(&str, &str)]) -> Vec<u8> {
    let entry = |(key, value): &(&str, &str)| StringStringEntryProto {
        key: (*key).to_owned(),
        value: (*value).to_owned(),
    };
    ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto {
            domain: String::new(),
            version: 17,
        }],
        graph: Some(graph),
        metadata_props: metadata.iter().map(entry).collect(),
        ..ModelProto::default()
    }
    .encode_to_vec()
}

/// A network as Ultralytics exports one for the task of segmenting: `[1, 4 + C + 1, N]` and `[1, 1, 16, 16]`. Pictures are
/// 0 to 1; a cell is inside if its 4x4 pixels are brighter than the middle on average.
pub fn yolo(names: &[&str], candidates: &[Candidate]) -> Vec<u8> {
    let (classes, count) = (names.len(), candidates.len());
    let fields = 4 + classes + 1;
    let mut numbers = vec![0.0; fields * count];
    for (column, ([left, top, right, bottom], score, class)) in candidates.iter().enumerate() {
        let row = [
            (left + right) / 2.0,
            (top + bottom) / 2.0,
            right - left,
            bottom - top,
        ];
        for (field, value) in row.into_iter().enumerate() {
            numbers[field * count + column] = value;
        }
        numbers[(4 + class) * count + column] = *score;
        numbers[(fields - 1) * count + column] = 1.0;
    }
    let cells = (SIDE / 4) as i64;
    let (fields, count) = (fields as i64, count as i64);
    let listed: Vec<String> = names
        .iter()
        .enumerate()
        .map(|(n, name)| format!("{n}: '{name}'"))
        .collect();
    let listed = format!("{{{}}}", listed.join(", "));
    let side = SIDE as i64;
    model(
        GraphProto {
            name: "yolo".into(),
            node: vec![
                node(
                    "Conv",
                    &["images", "weights", "bias"],
                    "output1",
                    vec![ints("kernel_shape", &[4, 4]), ints("strides", &[4, 4])],
                ),
                // The candidates, and nothing of the picture.
                node("GlobalAveragePool", &["images"], "pooled", vec![]),
                node("Reshape", &["pooled", "three"], "mean", vec![]),
                node("Mul", &["mean", "nothing"], "zero", vec![]),
                node("MatMul", &["zero", "ones"], "zeros", vec![]),
                node("Add", &["zeros", "candidates"], "output0", vec![]),
            ],
            initializer: vec![
                floats("weights", &[1, 3, 4, 4], vec![1.0 / 48.0; 48]),
                floats("bias", &[1], vec![-0.5]),
                longs("three", &[3], vec![1, 1, 3]),
                floats("nothing", &[1], vec![0.0]),
                floats("ones", &[1, 3, count], vec![1.0; 3 * count as usize]),
                floats("candidates", &[1, fields, count], numbers),
            ],
            input: vec![value("images", DataType::Float, &[1, 3, side, side])],
            output: vec![
                value("output0", DataType::Float, &[1, fields, count]),
                value("output1", DataType::Float, &[1, 1, cells, cells]),
            ],
            ..GraphProto::default()
        },
        &[
            ("task", "segment"),
            ("stride", "32"),
            ("imgsz", &format!("[{side}, {side}]")),
            ("names", &listed),
            ("description", "made network"),
        ],
    )
}

/// A network as torchvision exports Mask R-CNN: one picture `[3, H, W]` in; boxes, labels, scores and masks out. Masks fill
/// their boxes if the picture has any brightness.
pub fn mask_rcnn(classes: usize, candidates: &[Candidate]) -> Vec<u8> {
    let (count, side) = (candidates.len() as i64, SIDE as i64);
    let boxes = candidates.iter().flat_map(|c| c.0).collect();
    let scores = candidates.iter().map(|c| c.1).collect();
    let labels = candidates.iter().map(|c| c.2 as i64).collect();
    let ones = vec![1.0; 16 * candidates.len()];
    model(
        GraphProto {
            name: "mask r-cnn".into(),
            node: vec![
                node("ReduceMean", &["image"], "mean", vec![]),
                node("Mul", &["mean", "nothing"], "zero", vec![]),
                node("Reshape", &["zero", "one"], "scalar", vec![]),
                node("Add", &["all_boxes", "scalar"], "boxes", vec![]),
                node("Add", &["all_scores", "scalar"], "scores", vec![]),
                node("Add", &["all_masks", "scalar"], "masks", vec![]),
                node("Identity", &["all_labels"], "labels", vec![]),
            ],
            initializer: vec![
                floats("nothing", &[1], vec![0.0]),
                longs("one", &[1], vec![1]),
                floats("all_boxes", &[count, 4], boxes),
                floats("all_scores", &[count], scores),
                longs("all_labels", &[count], labels),
                floats("all_masks", &[count, 1, 4, 4], ones),
                floats(
                    "roi_heads.box_predictor.cls_score.bias",
                    &[classes as i64],
                    vec![0.0; classes],
                ),
            ],
            input: vec![value("image", DataType::Float, &[3, side, side])],
            output: vec![
                value("boxes", DataType::Float, &[count, 4]),
                value("labels", DataType::Int64, &[count]),
                value("scores", DataType::Float, &[count]),
                value("masks", DataType::Float, &[count, 1, 4, 4]),
            ],
            ..GraphProto::default()
        },
        &[],
    )
}
