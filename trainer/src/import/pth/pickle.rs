//! The pickles in PyTorch's weights files, read without calling anything. See `Lib/pickletools.py` of CPython for the
//! opcodes. Only those that a dictionary of tensors needs are understood.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};

/// Bytes that are read from the front.
pub struct Input<'a> {
    /// All of them.
    pub bytes: &'a [u8],
    /// How many were read.
    pub at: usize,
}

impl<'a> Input<'a> {
    /// The next `length` bytes.
    pub fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        ensure!(
            length <= rest.len(),
            "the file ends {} bytes early",
            length - rest.len()
        );
        self.at += length;
        Ok(&rest[..length])
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
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

/// A value's place in [`Pickle::objects`].
pub type Id = u32;

/// A storage that tensors refer to.
#[derive(Debug, Clone, PartialEq)]
pub struct StorageRef {
    /// Such as `torch.FloatStorage`.
    pub kind: String,
    /// Its name.
    pub key: String,
    /// How many elements it has.
    pub elements: i64,
}

/// A tensor, whose elements are elsewhere.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorRef {
    /// Where they are.
    pub storage: StorageRef,
    offset: i64,
    /// Its shape.
    pub shape: Vec<i64>,
    strides: Vec<i64>,
}

impl TensorRef {
    /// The elements in row-major order; `budget` is the number of elements that may still be made.
    pub fn gather(&self, storage: &[u8], budget: &mut usize) -> Result<Vec<f32>> {
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
#[allow(missing_docs)]
pub enum Object {
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
pub struct Pickle {
    /// Every value.
    pub objects: Vec<Object>,
    top: Id,
}

impl Pickle {
    /// A value.
    pub fn get(&self, id: Id) -> &Object {
        &self.objects[id as usize]
    }

    /// The value the pickle is of.
    pub fn top(&self) -> &Object {
        self.get(self.top)
    }

    /// Reads a pickle.
    ///
    /// # Errors
    /// It is cut, or holds what a dictionary of tensors does not need.
    pub fn load(input: &mut Input) -> Result<Self> {
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
        // The view, a sixth item, is gone since PyTorch 1.6.
        let (&[_, kind, key, _, elements], view) = match items.as_slice() {
            [first @ .., view] if first.len() == 5 => (first.try_into()?, Some(*view)),
            all => {
                let all: &[Id; 5] = all
                    .try_into()
                    .with_context(|| format!("a persistent id has {} items, expected 5 or 6", items.len()))?;
                (all, None)
            }
        };
        let is_whole = view.is_none_or(|view| matches!(self.get(view), Object::None));
        match (self.get(kind), self.get(key), self.get(elements)) {
            (Object::Global(kind), Object::Str(key), &Object::Int(elements)) if is_whole => Ok(StorageRef {
                kind: kind.clone(),
                key: key.clone(),
                elements,
            }),
            _ => bail!("a persistent id is not (\"storage\", type, key, location, elements)"),
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
