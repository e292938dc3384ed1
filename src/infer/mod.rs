//! Running the network: backends behind one trait.

use crate::error::Result;
use crate::model::Model;

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

/// What really runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunsOn {
    /// `tract` or `ort`.
    pub backend: &'static str,
    /// Execution provider: `CPU`, `CUDA`, `TensorRT`.
    pub provider: String,
    /// `fp32`, `fp16` or `int8`.
    pub precision: String,
    /// Version of the library that runs.
    pub version: String,
}

/// A network prepared for one input size; one per thread.
pub trait Segmenter: Send {
    /// The input's size.
    fn input_size(&self) -> InputSize;

    /// What really runs.
    fn runs_on(&self) -> RunsOn;

    /// Runs the network. `input` has the contract's layout, type and this segmenter's size; `output` is
    /// overwritten, its buffers reused.
    ///
    /// # Errors
    /// Fatal if the network's answer is not what the contract says; transient if the provider failed.
    fn run(&mut self, input: &TensorData, output: &mut Output) -> Result<()>;
}

/// A way to run networks.
pub trait Backend: Send + Sync {
    /// `tract` or `ort`.
    fn name(&self) -> &'static str;

    /// Loads the model's file for this backend and prepares it for `size`.
    ///
    /// # Errors
    /// Usage if the model has no file for this backend, fatal if the file can't be run: another opset,
    /// truncated, or other inputs and outputs than the contract says.
    fn prepare(&self, model: &Model, size: InputSize) -> Result<Box<dyn Segmenter>>;
}
