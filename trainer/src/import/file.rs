//! Tensors by name from a file of any of the formats in which weights are published: PyTorch's .pth, .safetensors, ONNX.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use prost::Message;
use tch::{Kind, Tensor};
use tract_onnx::pb::{ModelProto, TensorProto, tensor_proto::DataType};

use super::pth;
use crate::export::f16;

/// The f32 tensors of a file.
///
/// # Errors
/// The file can't be read, or is of another format.
pub fn read(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    parse(&bytes, path).with_context(|| format!("reading {}", path.display()))
}

fn parse(bytes: &[u8], path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let extension = path.extension().and_then(|extension| extension.to_str());
    match extension.map(str::to_ascii_lowercase).as_deref() {
        Some("safetensors") => Ok(Tensor::read_safetensors(path)?
            .into_iter()
            .filter(|(_, tensor)| tensor.kind() == Kind::Float)
            .collect()),
        Some("onnx") => onnx(bytes),
        Some("pth" | "pt" | "bin") => Ok(pth::read(bytes)?
            .into_iter()
            .map(|(name, tensor)| (name, Tensor::from_slice(&tensor.data).reshape(&tensor.shape)))
            .collect()),
        _ => bail!("expected a file that ends in .pth, .safetensors or .onnx"),
    }
}

/// The f32 tensors of an ONNX file: its constants, and f16 ones by the name of their cast to f32.
fn onnx(bytes: &[u8]) -> Result<BTreeMap<String, Tensor>> {
    let model = ModelProto::decode(bytes).context("is no ONNX file")?;
    let graph = model.graph.context("is an ONNX file without a graph")?;
    let casts: BTreeMap<&str, &str> = graph
        .node
        .iter()
        .filter(|node| node.op_type == "Cast")
        .filter_map(|node| Some((node.input.first()?.as_str(), node.output.first()?.as_str())))
        .collect();
    let named = |constant: &TensorProto| {
        if constant.data_type == DataType::Float as i32 {
            return Some(constant.name.clone());
        }
        let cast = casts.get(constant.name.as_str())?;
        (constant.data_type == DataType::Float16 as i32).then(|| (*cast).to_owned())
    };
    graph
        .initializer
        .iter()
        .filter_map(|constant| Some((named(constant)?, constant)))
        .map(|(name, constant)| {
            let tensor = initializer(constant).with_context(|| format!("tensor {name}"))?;
            Ok((name, tensor))
        })
        .collect()
}

fn initializer(constant: &TensorProto) -> Result<Tensor> {
    let values = f16::floats(constant)
        .context("its values are in a file of their own, expected them inside the ONNX file")?;
    let expected = constant.dims.iter().try_fold(1i64, |count, &side| {
        (side >= 0).then(|| count.checked_mul(side)).flatten()
    });
    ensure!(
        expected == Some(values.len() as i64),
        "shape {:?}, but {} values",
        constant.dims,
        values.len()
    );
    Ok(Tensor::from_slice(&values).reshape(&constant.dims))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tract_onnx::pb::{GraphProto, NodeProto};

    fn onnx_file(constant: TensorProto) -> Vec<u8> {
        let model = ModelProto {
            graph: Some(GraphProto {
                initializer: vec![constant],
                node: vec![NodeProto {
                    op_type: "Cast".into(),
                    input: vec!["a.f16".into()],
                    output: vec!["a".into()],
                    ..Default::default()
                }],
                ..Default::default()
            }),
            ..Default::default()
        };
        model.encode_to_vec()
    }

    #[test]
    fn initializers_are_read_from_either_field() {
        let values = [1.0f32, -2.5, 3.0];
        let constant = TensorProto {
            name: "a".into(),
            dims: vec![3, 1],
            data_type: DataType::Float as i32,
            ..Default::default()
        };
        let raw = TensorProto {
            raw_data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            ..constant.clone()
        };
        let plain = TensorProto {
            float_data: values.to_vec(),
            ..constant.clone()
        };
        let bits = values.map(|value| half::f16::from_f32(value).to_bits());
        let halves = TensorProto {
            name: "a.f16".into(),
            data_type: DataType::Float16 as i32,
            raw_data: bits.iter().flat_map(|bits| bits.to_le_bytes()).collect(),
            ..constant.clone()
        };
        let plain_halves = TensorProto {
            int32_data: bits.map(i32::from).to_vec(),
            raw_data: vec![],
            ..halves.clone()
        };
        for constant in [raw, plain, halves, plain_halves] {
            let tensors = onnx(&onnx_file(constant)).unwrap();
            assert_eq!(tensors.len(), 1);
            assert_eq!(tensors["a"].size(), [3, 1]);
            assert_eq!(Vec::<f32>::try_from(tensors["a"].view([-1])).unwrap(), values);
        }
        let message = format!("{:#}", onnx(&onnx_file(constant)).unwrap_err());
        assert!(
            message.contains("tensor a") && message.contains("0 values"),
            "{message}"
        );
    }

    #[test]
    fn a_file_of_another_kind_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.h5");
        std::fs::write(&path, "x").unwrap();
        let message = format!("{:#}", read(&path).unwrap_err());
        assert!(
            message.contains("weights.h5") && message.contains(".safetensors"),
            "{message}"
        );
        let path = folder.path().join("weights.onnx");
        std::fs::write(&path, "no onnx").unwrap();
        assert!(read(&path).is_err());
    }
}
