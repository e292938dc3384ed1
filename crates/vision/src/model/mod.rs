//! Models: the contract that each carries, where they are found, and loading them with their hash checked.

use std::borrow::Cow;
use std::path::PathBuf;

pub mod contract;
mod embedded;
pub mod load;
pub mod registry;

pub use contract::Contract;
pub use registry::{DEFAULT_MODEL, Found, Registry};

/// Where a model's files come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A folder with a `contract.toml`.
    Folder(PathBuf),
    /// Inside the binary.
    Embedded,
}

/// The folder, or `inside the binary`.
impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder(folder) => write!(f, "{}", folder.display()),
            Self::Embedded => f.write_str("inside the binary"),
        }
    }
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
