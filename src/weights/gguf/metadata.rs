//! Metadata values.

use std::fmt;

/// The value of a metadata key.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// An integer of any width, signed or unsigned.
    Integer(i128),
    /// An f32 or f64.
    Float(f64),
    /// A boolean.
    Bool(bool),
    /// A string.
    String(String),
    /// An array of values of one type.
    Array(Array),
}

/// The type of a value or of an array's elements. Arrays of arrays do not occur in models and are rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Unsigned, 8 bits.
    U8,
    /// Signed, 8 bits.
    I8,
    /// Unsigned, 16 bits.
    U16,
    /// Signed, 16 bits.
    I16,
    /// Unsigned, 32 bits.
    U32,
    /// Signed, 32 bits.
    I32,
    /// IEEE single precision.
    F32,
    /// One byte, 0 or 1.
    Bool,
    /// A 64-bit length followed by that many bytes of UTF-8.
    String,
    /// Unsigned, 64 bits.
    U64,
    /// Signed, 64 bits.
    I64,
    /// IEEE double precision.
    F64,
}

impl Kind {
    /// The type with this number in files. Number 9, the array, is not one of these.
    pub(super) fn from_id(id: u32) -> Option<Kind> {
        Some(match id {
            0 => Kind::U8,
            1 => Kind::I8,
            2 => Kind::U16,
            3 => Kind::I16,
            4 => Kind::U32,
            5 => Kind::I32,
            6 => Kind::F32,
            7 => Kind::Bool,
            8 => Kind::String,
            10 => Kind::U64,
            11 => Kind::I64,
            12 => Kind::F64,
            _ => return None,
        })
    }

    /// The size of a value in bytes; for a string, the minimum.
    pub(super) fn bytes(self) -> u64 {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => 1,
            Kind::U16 | Kind::I16 => 2,
            Kind::U32 | Kind::I32 | Kind::F32 => 4,
            Kind::String | Kind::U64 | Kind::I64 | Kind::F64 => 8,
        }
    }
}

/// An array of values of one type, kept as the file's bytes: a decoded list of short strings would use several times as much memory.
#[derive(Clone, PartialEq)]
pub struct Array {
    pub(super) kind: Kind,
    pub(super) len: usize,
    /// Validated: `len` values, strings in UTF-8.
    pub(super) bytes: Vec<u8>,
}

impl Array {
    /// The type of the elements.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the array has no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:?}; {}]", self.kind, self.len)
    }
}

impl fmt::Display for Value {
    /// Describes the value for messages, without the contents of strings and arrays.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Integer(value) => write!(f, "the integer {value}"),
            Value::Float(value) => write!(f, "the number {value}"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::String(_) => write!(f, "a string"),
            Value::Array(array) => write!(f, "an array of {} {:?}", array.len, array.kind),
        }
    }
}

/// The strings of an array, in order.
#[derive(Clone, Debug)]
pub struct Strings<'a> {
    rest: &'a [u8],
    len: usize,
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let (len, rest) = self.rest.split_first_chunk()?;
        let (text, rest) = rest.split_at(u64::from_le_bytes(*len) as usize);
        self.rest = rest;
        self.len -= 1;
        Some(str::from_utf8(text).expect("strings are checked when they are read"))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.len, Some(self.len))
    }
}

impl ExactSizeIterator for Strings<'_> {}

/// A type that [`Gguf::value`](super::Gguf::value) can return.
pub trait FromValue<'a>: Sized {
    /// The expected value, for messages.
    const EXPECTED: &'static str;

    /// Converts the value, or returns `None` if it has another type or is out of range.
    fn from_value(value: &'a Value) -> Option<Self>;
}

/// From any integer type, since files differ in the type they use for counts.
impl FromValue<'_> for u32 {
    const EXPECTED: &'static str = "an integer from 0 to 4294967295";

    fn from_value(value: &Value) -> Option<u32> {
        match *value {
            Value::Integer(value) => value.try_into().ok(),
            _ => None,
        }
    }
}

/// Must be finite; an f64 is rounded.
impl FromValue<'_> for f32 {
    const EXPECTED: &'static str = "a finite floating-point number";

    fn from_value(value: &Value) -> Option<f32> {
        match *value {
            Value::Float(value) => Some(value as f32).filter(|value| value.is_finite()),
            _ => None,
        }
    }
}

impl FromValue<'_> for bool {
    const EXPECTED: &'static str = "true or false";

    fn from_value(value: &Value) -> Option<bool> {
        match *value {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for &'a str {
    const EXPECTED: &'static str = "a string";

    fn from_value(value: &'a Value) -> Option<&'a str> {
        match value {
            Value::String(value) => Some(value),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for Strings<'a> {
    const EXPECTED: &'static str = "an array of strings";

    fn from_value(value: &'a Value) -> Option<Strings<'a>> {
        match value {
            Value::Array(Array { kind: Kind::String, len, bytes }) => Some(Strings { rest: bytes, len: *len }),
            _ => None,
        }
    }
}

/// Can contain infinities, as token scores do.
impl FromValue<'_> for Vec<f32> {
    const EXPECTED: &'static str = "an array of f32";

    fn from_value(value: &Value) -> Option<Vec<f32>> {
        match value {
            Value::Array(Array { kind: Kind::F32, bytes, .. }) => Some(bytemuck::pod_collect_to_vec(bytes)),
            _ => None,
        }
    }
}

/// From i32, or u32 below 2³¹.
impl FromValue<'_> for Vec<i32> {
    const EXPECTED: &'static str = "an array of i32";

    fn from_value(value: &Value) -> Option<Vec<i32>> {
        let Value::Array(Array { kind: kind @ (Kind::I32 | Kind::U32), bytes, .. }) = value else { return None };
        let values: Vec<i32> = bytemuck::pod_collect_to_vec(bytes);
        (*kind == Kind::I32 || values.iter().all(|&value| value >= 0)).then_some(values)
    }
}
