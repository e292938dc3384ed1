//! Reads tensors from a PyTorch weights file of the format before version 1.6 ("legacy"), without running its pickle.
//!
//! Such a file is five pickles and then raw storages: a magic number, the protocol version, facts about the machine,
//! the object (a dictionary of tensors, whose storages are persistent ids), the list of storage keys, and for each key
//! a 64-bit element count and the elements, little-endian. See `_legacy_load` in PyTorch's `torch/serialization.py`,
//! and `Lib/pickletools.py` of CPython for the opcodes.
//!
//! Only what a dictionary of tensors needs is understood, nothing is called, and memory is bounded by the file's
//! length: a file that is broken or made to harm gives an error.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, bail, ensure};

/// The number the first pickle holds.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const PROTOCOL: i64 = 1001;

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
        bail!("is a zip archive (PyTorch 1.6 or newer), expected PyTorch's format before that");
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

    let Object::Dict(entries) = object.top() else {
        bail!("holds no dictionary of tensors")
    };
    let mut tensors = BTreeMap::new();
    // A hostile file could name one storage in many overlapping tensors: what is made stays in proportion to the file.
    let mut budget = bytes.len();
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
    for item in &object.objects {
        if let Object::Storage(storage) = item {
            kinds.insert(&storage.key, storage);
        }
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
        if storage.kind == "torch.FloatStorage" {
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

/// Bytes that are read from the front.
struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        ensure!(
            length <= rest.len(),
            "the file ends {} bytes early",
            length - rest.len()
        );
        self.at += length;
        Ok(&rest[..length])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into()?)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// A line without its end.
    fn line(&mut self) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let length = rest
            .iter()
            .position(|&byte| byte == b'\n')
            .context("the file ends within a line")?;
        self.at += length + 1;
        Ok(&rest[..length])
    }
}

type Id = u32;

#[derive(Debug, Clone, PartialEq)]
struct StorageRef {
    /// Such as `torch.FloatStorage`.
    kind: String,
    key: String,
    elements: i64,
}

#[derive(Debug, Clone, PartialEq)]
struct TensorRef {
    storage: StorageRef,
    offset: i64,
    shape: Vec<i64>,
    strides: Vec<i64>,
}

impl TensorRef {
    /// The elements in row-major order; `budget` is the number of elements that may still be made.
    fn gather(&self, storage: &[u8], budget: &mut usize) -> Result<Vec<f32>> {
        ensure!(
            self.shape.len() == self.strides.len(),
            "{} axes, {} strides",
            self.shape.len(),
            self.strides.len()
        );
        ensure!(
            self.shape.len() <= 8,
            "{} axes, expected at most 8",
            self.shape.len()
        );
        let mut count = 1usize;
        for &length in &self.shape {
            count = usize::try_from(length)
                .ok()
                .and_then(|length| count.checked_mul(length))
                .with_context(|| format!("shape {:?}", self.shape))?;
        }
        ensure!(count <= *budget, "shape {:?} is larger than the file", self.shape);
        *budget -= count;
        let elements = storage.len() / 4;
        let mut data = Vec::with_capacity(count);
        let mut position = vec![0i64; self.shape.len()];
        for _ in 0..count {
            let mut index = i128::from(self.offset);
            for (&at, &stride) in position.iter().zip(&self.strides) {
                index += i128::from(at) * i128::from(stride);
            }
            let index = usize::try_from(index).ok().filter(|&index| index < elements);
            let start = 4 * index.context("reaches outside its storage")?;
            data.push(f32::from_le_bytes(storage[start..start + 4].try_into()?));
            for axis in (0..position.len()).rev() {
                position[axis] += 1;
                if position[axis] < self.shape[axis] {
                    break;
                }
                position[axis] = 0;
            }
        }
        Ok(data)
    }
}

/// A pickled value. Values refer to others by [`Id`], so that nesting, however deep, needs no recursion.
#[derive(Debug, Clone)]
enum Object {
    Mark,
    None,
    Bool,
    Float,
    Int(i64),
    /// An integer past 64 bits, little-endian; or a byte string.
    Bytes(Vec<u8>),
    Str(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// `module name`
    Global(String),
    Storage(StorageRef),
    Tensor(TensorRef),
}

/// A pickle that was read.
struct Pickle {
    objects: Vec<Object>,
    top: Id,
}

impl Pickle {
    fn get(&self, id: Id) -> &Object {
        &self.objects[id as usize]
    }

    fn top(&self) -> &Object {
        self.get(self.top)
    }

    fn load(input: &mut Input) -> Result<Self> {
        let mut machine = Machine {
            objects: vec![],
            stack: vec![],
            memo: HashMap::new(),
        };
        loop {
            let at = input.at;
            let opcode = input.byte()?;
            if opcode == b'.' {
                let top = machine.pop()?;
                return Ok(Self {
                    objects: machine.objects,
                    top,
                });
            }
            machine
                .step(opcode, input)
                .with_context(|| format!("pickle opcode {opcode:#04x} at byte {at}"))?;
        }
    }
}

struct Machine {
    objects: Vec<Object>,
    stack: Vec<Id>,
    memo: HashMap<u32, Id>,
}

impl Machine {
    fn push(&mut self, object: Object) -> Result<()> {
        let id = Id::try_from(self.objects.len())?;
        self.objects.push(object);
        self.stack.push(id);
        Ok(())
    }

    fn pop(&mut self) -> Result<Id> {
        self.stack.pop().context("the stack is empty")
    }

    fn top(&self) -> Result<Id> {
        self.stack.last().copied().context("the stack is empty")
    }

    fn get(&self, id: Id) -> &Object {
        &self.objects[id as usize]
    }

    /// Everything above the last mark, which goes too.
    fn pop_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self
            .stack
            .iter()
            .rposition(|&id| matches!(self.get(id), Object::Mark))
            .context("no mark")?;
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    fn memoize(&mut self, key: u32) -> Result<()> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<()> {
        let id = *self.memo.get(&key).context("nothing was memoized there")?;
        self.stack.push(id);
        Ok(())
    }

    fn push_str(&mut self, bytes: &[u8]) -> Result<()> {
        self.push(Object::Str(std::str::from_utf8(bytes)?.to_owned()))
    }

    fn push_tuple(&mut self, length: usize) -> Result<()> {
        let start = self
            .stack
            .len()
            .checked_sub(length)
            .context("the stack is too short")?;
        let items = self.stack.split_off(start);
        self.push(Object::Tuple(items))
    }

    fn set_items(&mut self, pairs: &[Id]) -> Result<()> {
        ensure!(pairs.len().is_multiple_of(2), "a key without a value");
        let dict = self.top()?;
        let Object::Dict(entries) = &mut self.objects[dict as usize] else {
            bail!("no dictionary")
        };
        entries.extend(pairs.chunks_exact(2).map(|pair| (pair[0], pair[1])));
        Ok(())
    }

    fn append(&mut self, items: &[Id]) -> Result<()> {
        let list = self.top()?;
        let Object::List(list) = &mut self.objects[list as usize] else {
            bail!("no list")
        };
        list.extend_from_slice(items);
        Ok(())
    }

    fn step(&mut self, opcode: u8, input: &mut Input) -> Result<()> {
        match opcode {
            0x80 => ensure!(input.byte()? == 2, "expected pickle protocol 2"),
            b'(' => self.push(Object::Mark)?,
            b'N' => self.push(Object::None)?,
            0x88 | 0x89 => self.push(Object::Bool)?,
            b'J' => {
                let value = i32::from_le_bytes(input.array()?);
                self.push(Object::Int(value.into()))?;
            }
            b'K' => {
                let value = input.byte()?;
                self.push(Object::Int(value.into()))?;
            }
            b'M' => {
                let value = u16::from_le_bytes(input.array()?);
                self.push(Object::Int(value.into()))?;
            }
            0x8a => {
                let length = input.byte()?;
                let bytes = input.take(length.into())?;
                self.push(long(bytes))?;
            }
            b'G' => {
                input.take(8)?;
                self.push(Object::Float)?;
            }
            b'X' => {
                let length = input.u32()?;
                self.push_str(input.take(length.try_into()?)?)?;
            }
            b'T' => {
                let length = input.u32()?;
                self.push_str(input.take(length.try_into()?)?)?;
            }
            b'U' => {
                let length = input.byte()?;
                self.push_str(input.take(length.into())?)?;
            }
            b'q' => {
                let key = input.byte()?;
                self.memoize(key.into())?;
            }
            b'r' => {
                let key = input.u32()?;
                self.memoize(key)?;
            }
            b'h' => {
                let key = input.byte()?;
                self.recall(key.into())?;
            }
            b'j' => {
                let key = input.u32()?;
                self.recall(key)?;
            }
            b')' => self.push(Object::Tuple(vec![]))?,
            0x85..=0x87 => self.push_tuple(usize::from(opcode - 0x84))?,
            b't' => {
                let items = self.pop_mark()?;
                self.push(Object::Tuple(items))?;
            }
            b']' => self.push(Object::List(vec![]))?,
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            b'e' => {
                let items = self.pop_mark()?;
                self.append(&items)?;
            }
            b'}' => self.push(Object::Dict(vec![]))?,
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(&[key, value])?;
            }
            b'u' => {
                let pairs = self.pop_mark()?;
                self.set_items(&pairs)?;
            }
            b'c' => {
                let (module, name) = (input.line()?, input.line()?);
                let global = format!("{}.{}", std::str::from_utf8(module)?, std::str::from_utf8(name)?);
                self.push(Object::Global(global))?;
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = self.storage(id)?;
                self.push(Object::Storage(storage))?;
            }
            b'R' => {
                let arguments = self.pop()?;
                let function = self.pop()?;
                let object = self.reduce(function, arguments)?;
                self.push(object)?;
            }
            // The state of an object, such as the `_metadata` of a state dictionary: of no use here.
            b'b' => {
                self.pop()?;
                self.top()?;
            }
            _ => bail!("not one that a dictionary of tensors needs"),
        }
        Ok(())
    }

    /// A persistent id: `("storage", type, key, location, elements, view)`.
    fn storage(&self, id: Id) -> Result<StorageRef> {
        let Object::Tuple(items) = self.get(id) else {
            bail!("a persistent id is no tuple")
        };
        let &[_, kind, key, _, elements, view] = items.as_slice() else {
            bail!("a persistent id has {} items, expected 6", items.len())
        };
        match (self.get(kind), self.get(key), self.get(elements), self.get(view)) {
            (Object::Global(kind), Object::Str(key), &Object::Int(elements), Object::None) => {
                Ok(StorageRef {
                    kind: kind.clone(),
                    key: key.clone(),
                    elements,
                })
            }
            _ => bail!("a persistent id is not (\"storage\", type, key, location, elements, None)"),
        }
    }

    fn reduce(&self, function: Id, arguments: Id) -> Result<Object> {
        let (Object::Global(function), Object::Tuple(arguments)) = (self.get(function), self.get(arguments))
        else {
            bail!("calls what is no function")
        };
        match function.as_str() {
            "collections.OrderedDict" => {
                ensure!(arguments.is_empty(), "OrderedDict with arguments");
                Ok(Object::Dict(vec![]))
            }
            "torch._utils._rebuild_tensor_v2" => {
                let &[storage, offset, shape, strides, ..] = arguments.as_slice() else {
                    bail!("_rebuild_tensor_v2 with {} arguments", arguments.len())
                };
                let (Object::Storage(storage), &Object::Int(offset)) = (self.get(storage), self.get(offset))
                else {
                    bail!("_rebuild_tensor_v2 without a storage and an offset")
                };
                Ok(Object::Tensor(TensorRef {
                    storage: storage.clone(),
                    offset,
                    shape: self.ints(shape)?,
                    strides: self.ints(strides)?,
                }))
            }
            _ => bail!("calls {function}, which a dictionary of tensors does not need"),
        }
    }

    fn ints(&self, tuple: Id) -> Result<Vec<i64>> {
        let Object::Tuple(items) = self.get(tuple) else {
            bail!("a shape is no tuple")
        };
        // Bounds what a tuple that many tensors share can cost.
        ensure!(
            items.len() <= 8,
            "a tensor of {} axes, expected at most 8",
            items.len()
        );
        items
            .iter()
            .map(|&item| match self.get(item) {
                &Object::Int(value) => Ok(value),
                _ => bail!("a shape holds something other than integers"),
            })
            .collect()
    }
}

/// A two's complement integer of any length, little-endian.
fn long(bytes: &[u8]) -> Object {
    if bytes.len() > 8 {
        return Object::Bytes(bytes.to_vec());
    }
    let mut padded = [if bytes.last().is_some_and(|&byte| byte >= 0x80) {
        0xff
    } else {
        0
    }; 8];
    padded[..bytes.len()].copy_from_slice(bytes);
    Object::Int(i64::from_le_bytes(padded))
}

#[cfg(test)]
mod tests;
