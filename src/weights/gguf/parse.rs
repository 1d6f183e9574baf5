//! Parsing a file's header. Every error is the part of a sentence that follows the file's name.

use std::collections::BTreeMap;
use std::ops::Range;

use super::metadata::{Array, Kind, Value};
use crate::graph::Shape;
use crate::weights::quant::{self, GgmlType};
use crate::words::shown;

/// The specification's limit on the length of keys.
const MAX_KEY: usize = 65535;
/// ggml stores names in 64 bytes, the last of which is 0.
const MAX_NAME: usize = 63;
/// ggml's limit on axes.
const MAX_AXES: u32 = 4;
/// Files use 32; no memory page that a file might be aligned to is larger than this.
const MAX_ALIGNMENT: u32 = 65536;
const DEFAULT_ALIGNMENT: u32 = 32;

/// Everything in a file before its tensor data.
pub(super) struct Header {
    pub metadata: BTreeMap<String, Value>,
    /// The metadata in the file's order: each key with the range of its value, which begins with the value's type.
    pub entries: Vec<(String, Range<usize>)>,
    pub alignment: u64,
    pub tensors: BTreeMap<String, TensorInfo>,
}

/// The header's information about one tensor.
pub(super) struct TensorInfo {
    pub shape: Shape,
    pub format: GgmlType,
    /// Its range in the file.
    pub bytes: Range<usize>,
}

/// Reads the header and checks that the file contains all tensor data.
pub(super) fn parse(file: &[u8]) -> Result<Header, String> {
    let mut cursor = Cursor { rest: file };
    if cursor.array() != Some(*b"GGUF") {
        return Err("is not a GGUF file, since it does not begin with 'GGUF'; check the path, and that the download is complete".into());
    }
    let version = cursor.u32().ok_or_else(|| cut("its version"))?;
    match version {
        2 | 3 => {}
        _ if matches!(version.swap_bytes(), 1..=3) => {
            return Err("is a big-endian GGUF file, but only little-endian ones are supported; convert the model again".into());
        }
        _ => {
            return Err(format!(
                "is of GGUF version {version}, but only 2 and 3 are supported; convert the model again with a current converter"
            ));
        }
    }
    let tensor_count = cursor.u64().ok_or_else(|| cut("its number of tensors"))?;
    let entry_count = cursor.u64().ok_or_else(|| cut("its number of metadata entries"))?;

    // Every entry has a minimum size, so a count that passes this check bounds the loops.
    cursor.room_for(entry_count, 8 + 4 + 1).ok_or_else(|| cut(format!("the list of its {entry_count} metadata entries")))?;
    let (mut metadata, mut entries) = (BTreeMap::new(), Vec::new());
    for index in 0..entry_count {
        let start = file.len() - cursor.rest.len();
        let (key, value) = entry(&mut cursor, index)?;
        entries.push((key.clone(), start + 8 + key.len()..file.len() - cursor.rest.len()));
        if metadata.contains_key(&key) {
            return Err(damaged(format!("the key '{}' appears twice", shown(&key))));
        }
        metadata.insert(key, value);
    }

    cursor.room_for(tensor_count, 8 + 4 + 8 + 4 + 8).ok_or_else(|| cut(format!("the list of its {tensor_count} tensors")))?;
    let alignment = alignment(&metadata)?;
    let mut tensors = BTreeMap::new();
    let mut end = 0;
    let mut last = None;
    for index in 0..tensor_count {
        let Described { name, shape, format, offset, len } = described(&mut cursor, index)?;
        let too_large = || damaged(format!("tensor '{}' has the impossible shape {shape}", shown(&name)));
        let begin = pad(end, alignment).ok_or_else(too_large)?;
        if offset != begin {
            return Err(damaged(format!("tensor '{}' begins at offset {offset} of the data, expected {begin}", shown(&name))));
        }
        end = begin.checked_add(len).ok_or_else(too_large)?;
        if tensors.contains_key(&name) {
            return Err(damaged(format!("the tensor '{}' appears twice", shown(&name))));
        }
        last = Some(name.clone());
        tensors.insert(name, (shape, format, begin..end));
    }

    let Some(last) = last else { return Ok(Header { metadata, entries, alignment, tensors: BTreeMap::new() }) };
    // The data follow the header at the next multiple of the alignment. Tensors are in order, so if the last is complete, all are.
    let header_len = (file.len() - cursor.rest.len()) as u64;
    let data = pad(header_len, alignment).filter(|&data| data.checked_add(end).is_some_and(|end| end <= file.len() as u64));
    let Some(data) = data else { return Err(cut(format!("the data of its last tensor, '{}'", shown(&last)))) };
    let info = |(shape, format, Range { start, end })| TensorInfo {
        shape,
        format,
        // Cannot overflow: the range is within the file, whose length is a usize.
        bytes: (data + start) as usize..(data + end) as usize,
    };
    let tensors = tensors.into_iter().map(|(name, tensor)| (name, info(tensor))).collect();
    Ok(Header { metadata, entries, alignment, tensors })
}

/// Reads one metadata entry.
fn entry(cursor: &mut Cursor<'_>, index: u64) -> Result<(String, Value), String> {
    let key = cursor.string().ok_or_else(|| cut(format!("the key of metadata entry {index}")))?;
    let key = match str::from_utf8(key) {
        Ok(key) if (1..=MAX_KEY).contains(&key.len()) => key,
        Ok(key) => return Err(damaged(format!("the key of metadata entry {index} has {} bytes; 1 to {MAX_KEY} are allowed", key.len()))),
        Err(_) => return Err(damaged(format!("the key of metadata entry {index} is not UTF-8"))),
    };
    let cut = || cut(format!("the value of key '{}'", shown(key)));
    let unknown = |id| damaged(format!("the value of key '{}' is of the unknown kind {id}", shown(key)));
    let value = match cursor.u32().ok_or_else(cut)? {
        9 => match cursor.u32().ok_or_else(cut)? {
            9 => return Err(format!("key '{}' is an array of arrays, which is not supported; convert the model again", shown(key))),
            id => {
                let kind = Kind::from_id(id).ok_or_else(|| unknown(id))?;
                let len = cursor.u64().ok_or_else(cut)?;
                array(cursor, kind, len).ok_or_else(cut)?
            }
        },
        id => scalar(cursor, Kind::from_id(id).ok_or_else(|| unknown(id))?).ok_or_else(cut)?,
    };
    let value = value.map_err(|problem| damaged(format!("the value of key '{}' {problem}", shown(key))))?;
    Ok((key.into(), value))
}

/// Reads a single value: `None` if the file ends too early, an error if the bytes are invalid.
fn scalar(cursor: &mut Cursor<'_>, kind: Kind) -> Option<Result<Value, &'static str>> {
    Some(Ok(match kind {
        Kind::U8 => Value::Integer(u8::from_le_bytes(cursor.array()?).into()),
        Kind::I8 => Value::Integer(i8::from_le_bytes(cursor.array()?).into()),
        Kind::U16 => Value::Integer(u16::from_le_bytes(cursor.array()?).into()),
        Kind::I16 => Value::Integer(i16::from_le_bytes(cursor.array()?).into()),
        Kind::U32 => Value::Integer(u32::from_le_bytes(cursor.array()?).into()),
        Kind::I32 => Value::Integer(i32::from_le_bytes(cursor.array()?).into()),
        Kind::U64 => Value::Integer(u64::from_le_bytes(cursor.array()?).into()),
        Kind::I64 => Value::Integer(i64::from_le_bytes(cursor.array()?).into()),
        Kind::F32 => Value::Float(f32::from_le_bytes(cursor.array()?).into()),
        Kind::F64 => Value::Float(f64::from_le_bytes(cursor.array()?)),
        Kind::Bool => match cursor.array()? {
            [byte @ (0 | 1)] => Value::Bool(byte == 1),
            _ => return Some(Err("is neither true nor false")),
        },
        Kind::String => match str::from_utf8(cursor.string()?) {
            Ok(text) => Value::String(text.into()),
            Err(_) => return Some(Err("is not UTF-8")),
        },
    }))
}

/// Reads an array: validates it, then copies its bytes. Returns as [`scalar`].
fn array(cursor: &mut Cursor<'_>, kind: Kind, len: u64) -> Option<Result<Value, &'static str>> {
    cursor.room_for(len, kind.bytes())?;
    let mut ahead = Cursor { rest: cursor.rest };
    match kind {
        Kind::String => {
            for _ in 0..len {
                if str::from_utf8(ahead.string()?).is_err() {
                    return Some(Err("is not UTF-8"));
                }
            }
        }
        Kind::Bool => {
            if ahead.take(len)?.iter().any(|&byte| byte > 1) {
                return Some(Err("is neither true nor false"));
            }
        }
        _ => drop(ahead.take(len * kind.bytes())?),
    }
    let bytes = cursor.take((cursor.rest.len() - ahead.rest.len()) as u64)?.to_vec();
    Some(Ok(Value::Array(Array { kind, len: len as usize, bytes })))
}

/// The alignment of the data, in bytes.
fn alignment(metadata: &BTreeMap<String, Value>) -> Result<u64, String> {
    let alignment = match metadata.get("general.alignment") {
        None => Some(DEFAULT_ALIGNMENT),
        Some(&Value::Integer(value)) => u32::try_from(value).ok().filter(|&value| value.is_power_of_two() && value <= MAX_ALIGNMENT),
        Some(_) => None,
    };
    alignment.map(u64::from).ok_or_else(|| {
        let value = &metadata["general.alignment"];
        damaged(format!("'general.alignment' is {value}, expected a power of two up to {MAX_ALIGNMENT}"))
    })
}

/// A tensor's entry, checked as far as possible on its own.
struct Described {
    name: String,
    shape: Shape,
    format: GgmlType,
    /// Offset within the data, in bytes.
    offset: u64,
    /// Size in bytes.
    len: u64,
}

fn described(cursor: &mut Cursor<'_>, index: u64) -> Result<Described, String> {
    let name = cursor.string().ok_or_else(|| cut(format!("the name of tensor {index}")))?;
    let name = match str::from_utf8(name) {
        Ok(name) if (1..=MAX_NAME).contains(&name.len()) => name,
        Ok(name) => return Err(damaged(format!("the name of tensor {index} has {} bytes; 1 to {MAX_NAME} are allowed", name.len()))),
        Err(_) => return Err(damaged(format!("the name of tensor {index} is not UTF-8"))),
    };
    let tensor = || format!("tensor '{}'", shown(name));
    let cut = || cut(format!("the entry of {}", tensor()));

    let count = cursor.u32().ok_or_else(cut)?;
    if !(1..=MAX_AXES).contains(&count) {
        return Err(damaged(format!("{} has {count} axes; 1 to {MAX_AXES} are allowed", tensor())));
    }
    let mut axes = Vec::new();
    for _ in 0..count {
        let extent = cursor.u64().ok_or_else(cut)?;
        // A u32 fits a usize on every machine with enough memory.
        match u32::try_from(extent) {
            Ok(extent @ 1..) => axes.insert(0, extent as usize),
            _ => return Err(damaged(format!("{} has an axis of extent {extent}; 1 to {} are allowed", tensor(), u32::MAX))),
        }
    }
    let shape = Shape::from(&axes[..]);
    let id = cursor.u32().ok_or_else(cut)?;
    let Some(format) = GgmlType::from_id(id) else {
        let supported = GgmlType::ALL.map(GgmlType::name).join(", ");
        let has = quant::name_of_unsupported(id).map_or(format!("unknown type {id}"), |name| format!("type {name}"));
        return Err(format!("{} has the {has}, which is not supported; use a file with {supported}", tensor()));
    };
    let offset = cursor.u64().ok_or_else(cut)?;

    let (row, outer) = axes.split_last().expect("there is an axis");
    if !row.is_multiple_of(format.block_len()) {
        let len = format.block_len();
        return Err(damaged(format!("{} has rows of {row} elements, but {format} has blocks of {len}", tensor())));
    }
    let rows = outer.iter().try_fold(1_u32, |rows, &extent| rows.checked_mul(extent as u32));
    let row_bytes = (row / format.block_len()) as u64 * format.block_bytes() as u64;
    let len = rows.and_then(|rows| row_bytes.checked_mul(rows.into()));
    let len = len.ok_or_else(|| damaged(format!("{} has the impossible shape {shape}", tensor())))?;
    Ok(Described { name: name.into(), shape, format, offset, len })
}

/// The next multiple of `alignment`, which is a power of two.
fn pad(len: u64, alignment: u64) -> Option<u64> {
    len.checked_next_multiple_of(alignment)
}

/// The message about a file that ends too early or claims to contain more than it does.
fn cut(what: impl AsRef<str>) -> String {
    format!("is cut short or damaged: {} extends past its end; fetch or copy it again", what.as_ref())
}

fn damaged(what: String) -> String {
    format!("is damaged: {what}; fetch or convert it again")
}

/// The unread rest of a file. Each method returns `None` if the file ends too early.
struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(usize::try_from(len).ok()?)?;
        self.rest = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*taken)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A length and that many bytes.
    fn string(&mut self) -> Option<&'a [u8]> {
        let len = self.u64()?;
        self.take(len)
    }

    /// `Some` if the rest has room for `count` items of at least `bytes` each.
    fn room_for(&self, count: u64, bytes: u64) -> Option<()> {
        count.checked_mul(bytes).filter(|&bytes| bytes <= self.rest.len() as u64).map(drop)
    }
}
