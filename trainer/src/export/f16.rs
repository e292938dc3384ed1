//! Weights of an f32 file stored as f16: half the bytes, the same arithmetic.
//!
//! A tensor `NAME` becomes an f16 constant `NAME.f16`, and a `Cast` to f32 that is called `NAME`. ONNX Runtime and tract compute
//! the cast once, when they load the file.

use half::f16;
use tract_onnx::pb::{GraphProto, NodeProto, TensorProto, tensor_proto::DataType};

use super::builder::int;

/// Behind the name of a tensor that is stored as f16.
pub const SUFFIX: &str = ".f16";

/// Fewer values are not worth a node: scalars, and what is no weight.
const LEAST: usize = 64;

/// The largest tensor that tract computes casts of when it loads a file, in values.
const MOST: usize = (4 << 20) / 4;

/// Stores the values of a constant as f16: the constant, and the node that makes f32 of it. `None` if it is to stay as it is:
/// a bias (of one dimension), a small or very large tensor, or one with values beyond f16's range.
#[must_use]
pub fn store(name: &str, dims: &[i64], values: &[f32]) -> Option<(TensorProto, NodeProto)> {
    let stored: Vec<f16> = values.iter().map(|&value| f16::from_f32(value)).collect();
    let fits = (LEAST..=MOST).contains(&values.len()) && stored.iter().all(|value| value.is_finite());
    if dims.len() < 2 || !fits {
        return None;
    }
    let stored_name = format!("{name}{SUFFIX}");
    let constant = TensorProto {
        name: stored_name.clone(),
        dims: dims.to_vec(),
        data_type: DataType::Float16 as i32,
        raw_data: stored.iter().flat_map(|value| value.to_le_bytes()).collect(),
        ..Default::default()
    };
    let cast = NodeProto {
        input: vec![stored_name],
        output: vec![name.to_owned()],
        name: name.to_owned(),
        op_type: "Cast".to_owned(),
        attribute: vec![int("to", DataType::Float as i64)],
        ..Default::default()
    };
    Some((constant, cast))
}

/// Stores a graph's f32 weights as f16; how many tensors that were.
pub fn store_all(graph: &mut GraphProto) -> usize {
    let mut casts = Vec::new();
    for constant in &mut graph.initializer {
        if constant.data_type != DataType::Float as i32 {
            continue;
        }
        let Some(values) = floats(constant) else {
            continue;
        };
        if let Some((stored, cast)) = store(&constant.name, &constant.dims, &values) {
            *constant = stored;
            casts.push(cast);
        }
    }
    let count = casts.len();
    // Before all nodes that take them.
    graph.node.splice(0..0, casts);
    count
}

/// The values of an f32 or f16 constant inside its file; `None` for other types, and for values in a file of their own.
#[must_use]
pub fn floats(constant: &TensorProto) -> Option<Vec<f32>> {
    if !constant.external_data.is_empty() {
        return None;
    }
    let raw = &constant.raw_data;
    if constant.data_type == DataType::Float as i32 {
        let (values, _) = raw.as_chunks::<4>();
        return Some(match raw.is_empty() {
            true => constant.float_data.clone(),
            false => values.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
        });
    }
    if constant.data_type == DataType::Float16 as i32 {
        let (values, _) = raw.as_chunks::<2>();
        return Some(match raw.is_empty() {
            // As ONNX has it: the bits of each value in an integer of its own.
            true => constant
                .int32_data
                .iter()
                .map(|&bits| f16::from_bits(bits as u16).to_f32())
                .collect(),
            false => values
                .iter()
                .map(|&bytes| f16::from_le_bytes(bytes).to_f32())
                .collect(),
        });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn constant(dims: &[i64], values: &[f32]) -> TensorProto {
        TensorProto {
            name: "a".into(),
            dims: dims.to_vec(),
            data_type: DataType::Float as i32,
            raw_data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn weights_come_back_as_near_as_f16_is() {
        let values: Vec<f32> = (0..128).map(|n| (n as f32 - 64.0) * 0.37).collect();
        let (stored, cast) = store("a", &[8, 16], &values).unwrap();
        assert_eq!(stored.raw_data.len(), 2 * values.len());
        assert_eq!((&cast.input[0], &cast.output[0]), (&stored.name, &"a".to_owned()));
        for (value, found) in values.iter().zip(floats(&stored).unwrap()) {
            assert!(
                (value - found).abs() <= value.abs() * 0.0005,
                "{found} is not {value}"
            );
        }
    }

    #[test]
    fn what_is_no_weight_or_too_large_for_f16_stays() {
        assert!(store("bias", &[128], &[0.5; 128]).is_none());
        assert!(store("small", &[2, 2], &[0.5; 4]).is_none());
        let mut values = [0.5; 128];
        values[7] = 70_000.0;
        assert!(store("far", &[8, 16], &values).is_none());
        values[7] = f32::NAN;
        assert!(store("none", &[8, 16], &values).is_none());
    }

    #[test]
    fn a_graph_is_stored_with_its_casts_first() {
        let mut graph = GraphProto {
            initializer: vec![constant(&[8, 16], &[0.5; 128]), constant(&[128], &[0.5; 128])],
            node: vec![NodeProto {
                name: "conv".into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        assert_eq!(store_all(&mut graph), 1);
        let names: Vec<&str> = graph.node.iter().map(|node| node.op_type.as_str()).collect();
        assert_eq!(names, ["Cast", ""]);
        assert_eq!(graph.initializer[0].name, "a.f16");
        assert_eq!(store_all(&mut graph), 0, "what is stored stays");
    }
}
