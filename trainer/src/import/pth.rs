//! Reads tensors from a PyTorch weights file without running its pickle.
//!
//! Before version 1.6 ("legacy") such a file is five pickles and then raw storages: a magic number, the protocol version,
//! facts about the machine, the object (a dictionary of tensors, whose storages are persistent ids), the list of storage
//! keys, and for each key a 64-bit element count and the elements, little-endian. Since 1.6 it is a zip archive with the
//! object in `<name>/data.pkl` and each storage in `<name>/data/<key>`. See `_legacy_load` and `_load` in PyTorch's
//! `torch/serialization.py`.
//!
//! Only what a dictionary of tensors needs is understood, nothing is called, and memory is bounded by the file's
//! length: a file that is broken or made to harm gives an error.

mod pickle;

use std::collections::{BTreeMap, HashMap};
use std::io::{Cursor, Read};

use anyhow::{Context, Result, bail, ensure};
use zip::{CompressionMethod, ZipArchive};

use pickle::{Input, Object, Pickle, StorageRef};

/// The number the first pickle holds.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const PROTOCOL: i64 = 1001;
/// Storages of f32.
const FLOAT_STORAGE: &str = "torch.FloatStorage";

/// A tensor, contiguous.
#[derive(Clone, Debug, PartialEq)]
pub struct PthTensor {
    /// Shape.
    pub shape: Vec<i64>,
    /// Elements, row-major.
    pub data: Vec<f32>,
}

/// Reads every f32 tensor of a file by name; tensors of other types (counters) are left out.
///
/// # Errors
/// The file is of another format, is cut, or is inconsistent.
pub fn read(bytes: &[u8]) -> Result<BTreeMap<String, PthTensor>> {
    if bytes.starts_with(b"PK") {
        return read_archive(bytes);
    }
    let mut input = Input { bytes, at: 0 };
    let magic = Pickle::load(&mut input).context("the magic number")?;
    ensure!(
        matches!(magic.top(), Object::Bytes(magic) if magic.as_slice() == MAGIC),
        "is no PyTorch weights file"
    );
    let protocol = Pickle::load(&mut input).context("the protocol version")?;
    ensure!(
        matches!(protocol.top(), Object::Int(PROTOCOL)),
        "has an unknown protocol version"
    );
    Pickle::load(&mut input).context("the system information")?;
    let object = Pickle::load(&mut input).context("the tensors")?;
    let keys = Pickle::load(&mut input).context("the storage keys")?;
    let storages = read_storages(&mut input, &object, &keys)?;
    tensors(&object, &storages, bytes.len())
}

/// The file as PyTorch writes it since version 1.6.
fn read_archive(bytes: &[u8]) -> Result<BTreeMap<String, PthTensor>> {
    let mut archive = ZipArchive::new(Cursor::new(bytes))?;
    let name = archive
        .file_names()
        .find(|name| name.ends_with("/data.pkl"))
        .context("is a zip archive without a data.pkl: no PyTorch weights file")?
        .to_owned();
    let folder = name.trim_end_matches("data.pkl").to_owned();
    let mut file = |name: &str| -> Result<Vec<u8>> {
        let mut entry = archive.by_name(name).with_context(|| name.to_owned())?;
        // PyTorch stores without compression, which also bounds what is read by the archive's size.
        ensure!(
            entry.compression() == CompressionMethod::Stored && entry.size() <= bytes.len() as u64,
            "{name} is compressed, expected PyTorch's plain storage"
        );
        let mut data = Vec::new();
        entry.read_to_end(&mut data).with_context(|| name.to_owned())?;
        Ok(data)
    };
    let data = file(&name)?;
    let object = Pickle::load(&mut Input { bytes: &data, at: 0 }).context("the tensors")?;
    let mut data: HashMap<&str, Vec<u8>> = HashMap::new();
    for storage in storage_refs(&object) {
        if storage.kind == FLOAT_STORAGE && !data.contains_key(storage.key.as_str()) {
            data.insert(&storage.key, file(&format!("{folder}data/{}", storage.key))?);
        }
    }
    let storages = data
        .iter()
        .map(|(key, data)| ((*key).to_owned(), data.as_slice()))
        .collect();
    tensors(&object, &storages, bytes.len())
}

fn storage_refs(object: &Pickle) -> impl Iterator<Item = &StorageRef> {
    object.objects.iter().filter_map(|item| match item {
        Object::Storage(storage) => Some(storage),
        _ => None,
    })
}

/// The f32 tensors of the dictionary `object`, whose storages were found in a file of `length` bytes.
fn tensors(
    object: &Pickle,
    storages: &HashMap<String, &[u8]>,
    length: usize,
) -> Result<BTreeMap<String, PthTensor>> {
    let Object::Dict(entries) = object.top() else {
        bail!("holds no dictionary of tensors")
    };
    let mut tensors = BTreeMap::new();
    // A hostile file could name one storage in many overlapping tensors: what is made stays in proportion to the file.
    let mut budget = length;
    for &(key, value) in entries {
        let (Object::Str(name), Object::Tensor(tensor)) = (object.get(key), object.get(value)) else {
            continue;
        };
        let Some(storage) = storages.get(tensor.storage.key.as_str()) else {
            continue;
        };
        let elements = tensor
            .gather(storage, &mut budget)
            .with_context(|| format!("tensor {name}"))?;
        tensors.insert(
            name.clone(),
            PthTensor {
                shape: tensor.shape.clone(),
                data: elements,
            },
        );
    }
    Ok(tensors)
}

/// The f32 storages by key, as bytes.
fn read_storages<'a>(
    input: &mut Input<'a>,
    object: &Pickle,
    keys: &Pickle,
) -> Result<HashMap<String, &'a [u8]>> {
    let mut kinds: HashMap<&str, &StorageRef> = HashMap::new();
    for storage in storage_refs(object) {
        kinds.insert(&storage.key, storage);
    }
    let Object::List(keys_list) = keys.top() else {
        bail!("holds no list of storage keys")
    };
    let mut storages = HashMap::new();
    for &key in keys_list {
        let Object::Str(key) = keys.get(key) else {
            bail!("a storage key is no string")
        };
        let storage = kinds
            .get(key.as_str())
            .with_context(|| format!("storage {key} belongs to no tensor"))?;
        let count = i64::from_le_bytes(input.array()?);
        ensure!(
            count == storage.elements,
            "storage {key} has {count} elements, expected {}",
            storage.elements
        );
        let size =
            element_size(&storage.kind).with_context(|| format!("storage {key} is a {}", storage.kind))?;
        let length = usize::try_from(count)
            .ok()
            .and_then(|count| count.checked_mul(size));
        let data = input
            .take(length.context("a storage is too large")?)
            .with_context(|| format!("storage {key}"))?;
        if storage.kind == FLOAT_STORAGE {
            storages.insert(key.clone(), data);
        }
    }
    Ok(storages)
}

fn element_size(storage: &str) -> Option<usize> {
    Some(match storage {
        "torch.DoubleStorage" | "torch.LongStorage" => 8,
        "torch.FloatStorage" | "torch.IntStorage" => 4,
        "torch.HalfStorage" | "torch.BFloat16Storage" | "torch.ShortStorage" => 2,
        "torch.ByteStorage" | "torch.CharStorage" | "torch.BoolStorage" => 1,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
