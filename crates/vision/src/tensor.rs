//! What goes into a network, and what comes out of it.

use crate::model::contract::InputType;

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

/// The network's output.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// `[C, H, W]` logits, whatever layout the file has.
    Logits {
        /// Classes.
        classes: usize,
        /// Rows of cells.
        height: usize,
        /// Cells a row.
        width: usize,
        /// `classes * height * width` values.
        values: Vec<f32>,
    },
    /// `[H, W]` class indices.
    Labels {
        /// Rows.
        height: usize,
        /// Labels a row.
        width: usize,
        /// `height * width` class indices.
        labels: Vec<u8>,
    },
}

impl Output {
    /// An output that holds nothing yet; the first run gives it its kind and size.
    pub fn empty() -> Self {
        Self::Labels {
            height: 0,
            width: 0,
            labels: Vec::new(),
        }
    }
}
