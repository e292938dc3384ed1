//! Reading a model's contract and files: bounded, and with the hash that the contract names.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::contract::{Contract, ModelFile};
use super::{Model, ModelBytes, Origin, embedded};
use crate::error::{Error, Result};
use crate::file;

/// The contract's file name.
pub const CONTRACT_FILE: &str = "contract.toml";

/// Largest contract in bytes.
const MAX_CONTRACT_BYTES: u64 = 1 << 20;

/// Largest network or picture file of a model in bytes.
pub const MAX_FILE_BYTES: u64 = 512 << 20;

impl Model {
    /// Reads and checks the contract of the model in `folder`. The files are read when a backend asks for them.
    ///
    /// # Errors
    /// Usage if there is no readable, valid `contract.toml`.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(CONTRACT_FILE);
        let bytes = file::read(&path, MAX_CONTRACT_BYTES).map_err(|e| {
            Error::usage(format!("can't read {}", path.display()))
                .caused_by(e)
                .hint("a model is a folder with a contract.toml")
        })?;
        Ok(Self {
            contract: parse(&bytes, &path.display().to_string())?,
            origin: Origin::Folder(folder.to_path_buf()),
        })
    }

    /// The model inside the binary, if there is one.
    ///
    /// # Errors
    /// Usage if its contract is not valid.
    pub fn embedded() -> Result<Option<Self>> {
        let Some(bytes) = embedded::file(CONTRACT_FILE) else {
            return Ok(None);
        };
        Ok(Some(Self {
            contract: parse(bytes, "contract.toml inside the binary")?,
            origin: Origin::Embedded,
        }))
    }

    /// Where `file` is, for messages.
    pub fn locate(&self, file: &str) -> String {
        match &self.origin {
            Origin::Folder(folder) => folder.join(file).display().to_string(),
            Origin::Embedded => format!("{file} inside the binary"),
        }
    }

    /// Reads one of the network's files and checks its hash.
    ///
    /// # Errors
    /// Fatal if it can't be read, is larger than [`MAX_FILE_BYTES`], or has another sha256 than the contract says.
    pub fn network(&self, file: &ModelFile) -> Result<ModelBytes> {
        let bytes = self.file(&file.path)?;
        let found = sha256_hex(&bytes);
        if found != file.sha256 {
            return Err(Error::fatal(format!(
                "{}: sha256 is {}..., the contract says {}...",
                self.locate(&file.path),
                &found[..16],
                // A contract holds 64 hex digits here, which parsing checks.
                file.sha256.get(..16).unwrap_or(&file.sha256)
            ))
            .hint("the file was changed or is incomplete: install the model again"));
        }
        Ok(bytes)
    }

    /// Reads a file beside the contract.
    ///
    /// # Errors
    /// Fatal if it can't be read or is larger than [`MAX_FILE_BYTES`].
    pub fn file(&self, name: &str) -> Result<ModelBytes> {
        match &self.origin {
            Origin::Folder(folder) => {
                let path: PathBuf = folder.join(name);
                file::read(&path, MAX_FILE_BYTES)
                    .map(Cow::Owned)
                    .map_err(|e| Error::fatal(format!("can't read {}", path.display())).caused_by(e))
            }
            Origin::Embedded => embedded::file(name).map(Cow::Borrowed).ok_or_else(|| {
                Error::fatal(format!(
                    "the contract inside the binary names {name}, which is not inside"
                ))
                .hint("build segd again, or name a model's folder with --model")
            }),
        }
    }
}

/// Lower-case hex sha256.
pub fn sha256_hex(bytes: &[u8]) -> String {
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        hex.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
        hex.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
    }
    hex
}

fn parse(bytes: &[u8], origin: &str) -> Result<Contract> {
    let text = std::str::from_utf8(bytes)
        .map_err(|e| Error::usage(format!("{origin}: not UTF-8 text")).caused_by(e))?;
    Contract::parse(text, origin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha256_of_known_text() {
        assert_eq!(
            sha256_hex(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
