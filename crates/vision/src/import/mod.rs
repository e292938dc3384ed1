//! What can be known of a network from its ONNX file and what lies beside it: a contract, and what is left to guess.
//!
//! Pure but for [`Signature::read`]'s parsing: nothing is opened or run here.

mod names;
mod propose;
#[cfg(feature = "tract")]
mod read;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};
use crate::model::contract::Contract;

pub use names::{is_thing, read_names};

/// Type of a tensor's elements, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// 32-bit float.
    F32,
    /// 16-bit float.
    F16,
    /// 64-bit integer.
    I64,
    /// 32-bit integer.
    I32,
    /// Bytes.
    U8,
    /// Anything else.
    Other,
}

/// An input or an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// Its name.
    pub name: String,
    /// Type of its elements.
    pub element: Element,
    /// Its sides; `None` for those that are free.
    pub dims: Vec<Option<usize>>,
    /// The operator that gives it; empty for an input.
    pub operator: String,
}

/// What an ONNX file says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Signature {
    /// Inputs that are not weights.
    pub inputs: Vec<Value>,
    /// Outputs.
    pub outputs: Vec<Value>,
    /// What the exporter wrote.
    pub metadata: BTreeMap<String, String>,
    /// Version of the operator set.
    pub opset: i64,
    /// Operators that occur.
    pub operators: BTreeSet<String>,
    /// Sides of the weights whose name ends in `cls_score.weight` or `cls_score.bias`: as many rows as classes.
    pub scored_classes: Option<usize>,
    /// Whether weights are 16-bit floats.
    pub f16_weights: bool,
}

/// Files that an exporter leaves beside the network, already read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Beside {
    /// Names of the classes, from a file of one name a line.
    pub labels: Option<Vec<String>>,
    /// Hugging Face's `config.json`.
    pub config: Option<serde_json::Value>,
    /// Hugging Face's `preprocessor_config.json`.
    pub preprocessor: Option<serde_json::Value>,
}

/// How pictures become numbers, as networks are usually trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Normalization {
    /// 0 to 1.
    Unit,
    /// ImageNet's mean and deviation.
    Imagenet,
    /// -1 to 1.
    Symmetric,
    /// 0 to 255.
    Bytes,
}

impl Normalization {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Unit, Self::Imagenet, Self::Symmetric, Self::Bytes];

    /// As it is written on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Imagenet => "imagenet",
            Self::Symmetric => "symmetric",
            Self::Bytes => "bytes",
        }
    }

    /// Mean and deviation on the 0..255 scale, as in a contract.
    pub fn mean_and_std(self) -> ([f32; 3], [f32; 3]) {
        match self {
            Self::Unit => ([0.0; 3], [255.0; 3]),
            Self::Imagenet => ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
            Self::Symmetric => ([127.5; 3], [127.5; 3]),
            Self::Bytes => ([0.0; 3], [1.0; 3]),
        }
    }
}

/// A contract, and how much of it is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    /// Its files' hash is still to be filled in.
    pub contract: Contract,
    /// What the file, or a file beside it, says: a sentence each.
    pub known: Vec<String>,
    /// What was assumed, and how to say otherwise: a sentence each.
    pub assumed: Vec<String>,
    /// Whether the normalisation is known.
    pub normalization_is_known: bool,
}

impl Signature {
    /// Reads an ONNX file; `origin` names it in errors.
    ///
    /// # Errors
    /// Usage if it is not one, or its weights lie in other files.
    #[cfg(feature = "tract")]
    pub fn read(bytes: &[u8], origin: &str) -> Result<Self> {
        read::read(bytes).map_err(|why| refused(origin, why))
    }

    /// The contract of the network called `name`, whose file is `file` with the sha256 `sha256`.
    ///
    /// # Errors
    /// Usage, saying what the file has, what segd reads, and what to export in its place.
    pub fn propose(&self, name: &str, file: &str, sha256: &str, beside: &Beside) -> Result<Proposal> {
        propose::propose(self, name, file, sha256, beside).map_err(|why| refused(file, why))
    }
}

/// Why a file is refused, and what to do.
struct Refusal {
    why: String,
    hint: String,
}

impl Refusal {
    fn new(why: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            hint: hint.into(),
        }
    }
}

fn refused(origin: &str, Refusal { why, hint }: Refusal) -> Error {
    Error::usage(format!("{origin}: {why}")).hint(hint)
}
