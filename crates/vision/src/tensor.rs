//! What goes into a network, and what comes out of it.

use serde::{Deserialize, Serialize};

/// Type of the input's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InputType {
    /// 32-bit float, normalised.
    F32,
    /// Bytes 0..255, not normalised.
    U8,
}

/// Type of the output's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputType {
    /// 32-bit float.
    F32,
    /// 64-bit integer (labels).
    I64,
    /// 32-bit integer (labels).
    I32,
    /// Bytes (labels).
    U8,
}

/// Width and height of the network's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InputSize {
    /// Pixels a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

/// The part of the network's input that the picture fills, in input pixels: all of it, or a letterbox's window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Placement {
    /// First column.
    pub x: usize,
    /// First row.
    pub y: usize,
    /// Columns, at least 1.
    pub width: usize,
    /// Rows, at least 1.
    pub height: usize,
}

/// The network's input, in the layout and type of the contract.
#[derive(Debug, Clone, PartialEq)]
pub enum TensorData {
    /// 32-bit float.
    F32(Vec<f32>),
    /// Bytes.
    U8(Vec<u8>),
}

impl TensorData {
    /// An RGB input of zeros.
    pub fn zeros(dtype: InputType, size: InputSize) -> Self {
        let count = 3 * size.width * size.height;
        match dtype {
            InputType::F32 => Self::F32(vec![0.0; count]),
            InputType::U8 => Self::U8(vec![0; count]),
        }
    }
}

/// The elements of a tensor, row-major.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// 32-bit float.
    F32(Vec<f32>),
    /// 64-bit integers.
    I64(Vec<i64>),
    /// 32-bit integers.
    I32(Vec<i32>),
    /// Bytes.
    U8(Vec<u8>),
}

impl Values {
    /// The elements, borrowed.
    pub fn elements(&self) -> Elements<'_> {
        match self {
            Self::F32(v) => Elements::F32(v),
            Self::I64(v) => Elements::I64(v),
            Self::I32(v) => Elements::I32(v),
            Self::U8(v) => Elements::U8(v),
        }
    }

    /// Copies `elements`; the buffer is kept where the type stays the same.
    fn set(&mut self, elements: Elements<'_>) {
        match (self, elements) {
            (Self::F32(to), Elements::F32(from)) => refill(to, from),
            (Self::I64(to), Elements::I64(from)) => refill(to, from),
            (Self::I32(to), Elements::I32(from)) => refill(to, from),
            (Self::U8(to), Elements::U8(from)) => refill(to, from),
            (to, from) => *to = from.to_values(),
        }
    }
}

fn refill<T: Copy>(to: &mut Vec<T>, from: &[T]) {
    to.clear();
    to.extend_from_slice(from);
}

/// Borrowed elements of a tensor, row-major.
#[derive(Debug, Clone, Copy)]
pub enum Elements<'a> {
    /// 32-bit float.
    F32(&'a [f32]),
    /// 64-bit integers.
    I64(&'a [i64]),
    /// 32-bit integers.
    I32(&'a [i32]),
    /// Bytes.
    U8(&'a [u8]),
}

impl Elements<'_> {
    /// Their type.
    pub fn dtype(self) -> OutputType {
        match self {
            Self::F32(_) => OutputType::F32,
            Self::I64(_) => OutputType::I64,
            Self::I32(_) => OutputType::I32,
            Self::U8(_) => OutputType::U8,
        }
    }

    /// How many there are.
    pub fn len(self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::I64(v) => v.len(),
            Self::I32(v) => v.len(),
            Self::U8(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    fn to_values(self) -> Values {
        match self {
            Self::F32(v) => Values::F32(v.to_vec()),
            Self::I64(v) => Values::I64(v.to_vec()),
            Self::I32(v) => Values::I32(v.to_vec()),
            Self::U8(v) => Values::U8(v.to_vec()),
        }
    }
}

/// One of a network's outputs.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedTensor {
    /// Its name in the network's file.
    pub name: String,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Its elements; as many as the shape says, unless the backend is wrong.
    pub values: Values,
}

/// What a network gave for one input: the outputs that the contract names, in the contract's order.
///
/// Kept from run to run: a backend writes into the buffers of the run before.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outputs {
    tensors: Vec<NamedTensor>,
}

impl Outputs {
    /// Writes output `index`. Outputs are written in order: one past the last adds one, anything beyond is ignored.
    pub fn write(&mut self, index: usize, name: &str, shape: &[usize], elements: Elements<'_>) {
        if let Some(tensor) = self.tensors.get_mut(index) {
            if tensor.name != name {
                name.clone_into(&mut tensor.name);
            }
            refill(&mut tensor.shape, shape);
            tensor.values.set(elements);
        } else if index == self.tensors.len() {
            self.tensors.push(NamedTensor {
                name: name.to_owned(),
                shape: shape.to_vec(),
                values: elements.to_values(),
            });
        }
    }

    /// The outputs, in the contract's order.
    pub fn tensors(&self) -> &[NamedTensor] {
        &self.tensors
    }

    /// Output `index`, for a decoder that takes its buffer and leaves one of its own.
    pub fn tensor_mut(&mut self, index: usize) -> Option<&mut NamedTensor> {
        self.tensors.get_mut(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_kept_from_run_to_run() {
        let mut outputs = Outputs::default();
        outputs.write(0, "scores", &[1, 3], Elements::F32(&[1.0, 2.0, 3.0]));
        let address = |outputs: &Outputs| match &outputs.tensors()[0].values {
            Values::F32(v) => v.as_ptr(),
            _ => panic!("not floats"),
        };
        let before = address(&outputs);
        outputs.write(0, "scores", &[1, 2], Elements::F32(&[4.0, 5.0]));
        assert_eq!(address(&outputs), before);
        assert_eq!(
            outputs.tensors(),
            [NamedTensor {
                name: "scores".into(),
                shape: vec![1, 2],
                values: Values::F32(vec![4.0, 5.0]),
            }]
        );
        outputs.write(0, "labels", &[2], Elements::U8(&[7, 8]));
        outputs.write(1, "more", &[1], Elements::I64(&[-1]));
        outputs.write(3, "not in order", &[1], Elements::I32(&[0]));
        let names: Vec<&str> = outputs.tensors().iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["labels", "more"]);
        assert_eq!(outputs.tensors()[0].values, Values::U8(vec![7, 8]));
    }
}
