//! Models: the contract that each carries, where they are found, and loading them with their hash checked.

use std::borrow::Cow;
use std::path::PathBuf;

pub mod contract;

pub use contract::Contract;

/// Where a model's files come from.
#[derive(Debug, Clone)]
pub enum Origin {
    /// A folder with a `contract.toml`.
    Folder(PathBuf),
    /// Inside the binary.
    Embedded,
}

/// A model: its contract and where its files are.
#[derive(Debug, Clone)]
pub struct Model {
    /// What the model takes and gives.
    pub contract: Contract,
    /// Where its files are.
    pub origin: Origin,
}

/// A model file's bytes.
pub type ModelBytes = Cow<'static, [u8]>;
