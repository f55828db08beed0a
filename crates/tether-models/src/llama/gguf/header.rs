//! The head of a GGUF file: its settings, and where its tensors lie.
//!
//! Nothing is allocated by a number of the file that its length does not bear out.

use std::collections::BTreeMap;

use super::block_format::BlockFormat;
use super::error::GgufError;
use super::value::{GgufValue, ValueType};

/// Values of all settings together, items of lists among them. Tokens, merges, scores and types of the largest vocabularies are two
/// million.
const MOST_VALUES: u64 = 1 << 24;
/// Tensors have no more dimensions.
const MOST_DIMENSIONS: u64 = 4;
/// Lists in lists, so that a file cannot exhaust the stack.
const DEEPEST: usize = 64;

/// A tensor's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TensorInfo {
    pub(super) format: BlockFormat,
    /// Row-major: the file has the last dimension first.
    pub(super) shape: Vec<usize>,
    /// From the beginning of the weights.
    pub(super) offset: u64,
}

/// What stands before the weights.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) settings: BTreeMap<String, GgufValue>,
    pub(super) tensors: BTreeMap<String, TensorInfo>,
    /// Where it ends.
    pub(super) end: usize,
}

impl Header {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, GgufError> {
        let mut reader = Reader { bytes, at: 0, short: false, values: 0 };
        if reader.array("the magic number")? != *b"GGUF" {
            return Err(GgufError::Magic);
        }
        let version = reader.u32("the version")?;
        if !(1..=3).contains(&version) {
            return Err(GgufError::Version { version });
        }
        reader.short = version == 1;
        let tensor_count = reader.length("the number of tensors")?;
        let setting_count = reader.length("the number of settings")?;
        let mut settings = BTreeMap::new();
        for _ in 0..setting_count {
            let key = reader.text("a setting's name")?;
            let kind = reader.value_type(&key)?;
            let value = reader.value(&key, kind, 0)?;
            once(settings.insert(key.clone(), value).is_none(), key)?;
        }
        let mut tensors = BTreeMap::new();
        for _ in 0..tensor_count {
            let name = reader.text("a tensor's name")?;
            let info = reader.tensor(&name)?;
            once(tensors.insert(name.clone(), info).is_none(), name)?;
        }
        Ok(Self { settings, tensors, end: reader.at })
    }
}

fn once(first: bool, name: String) -> Result<(), GgufError> {
    if first { Ok(()) } else { Err(GgufError::Twice { name }) }
}

/// Bytes, read from the front.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Lengths have 32 bits, as in the first version.
    short: bool,
    /// Values that were read.
    values: u64,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: u64, what: &'static str) -> Result<&'a [u8], GgufError> {
        let (at, bytes) = (self.at, self.bytes);
        let taken = usize::try_from(len).ok().and_then(|len| bytes.get(at..at.checked_add(len)?));
        let taken = taken.ok_or(GgufError::End { what, at, len: bytes.len() })?;
        self.at += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], GgufError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64, what)?);
        Ok(array)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn length(&mut self, what: &'static str) -> Result<u64, GgufError> {
        if self.short { self.u32(what).map(u64::from) } else { self.array(what).map(u64::from_le_bytes) }
    }

    /// A text. Some files end theirs with zeros, and some have bytes that are no UTF-8.
    fn text(&mut self, what: &'static str) -> Result<String, GgufError> {
        let len = self.length(what)?;
        let bytes = self.take(len, what)?;
        let len = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
        Ok(String::from_utf8_lossy(&bytes[..len]).into_owned())
    }

    fn value_type(&mut self, key: &str) -> Result<ValueType, GgufError> {
        let number = self.u32("the type of a setting")?;
        ValueType::of_number(number).ok_or_else(|| GgufError::ValueType { key: key.to_owned(), number })
    }

    fn value(&mut self, key: &str, kind: ValueType, depth: usize) -> Result<GgufValue, GgufError> {
        const WHAT: &str = "the value of a setting";
        self.count_values(1)?;
        Ok(match kind {
            ValueType::U8 => GgufValue::U8(u8::from_le_bytes(self.array(WHAT)?)),
            ValueType::I8 => GgufValue::I8(i8::from_le_bytes(self.array(WHAT)?)),
            ValueType::U16 => GgufValue::U16(u16::from_le_bytes(self.array(WHAT)?)),
            ValueType::I16 => GgufValue::I16(i16::from_le_bytes(self.array(WHAT)?)),
            ValueType::U32 => GgufValue::U32(u32::from_le_bytes(self.array(WHAT)?)),
            ValueType::I32 => GgufValue::I32(i32::from_le_bytes(self.array(WHAT)?)),
            ValueType::U64 => GgufValue::U64(u64::from_le_bytes(self.array(WHAT)?)),
            ValueType::I64 => GgufValue::I64(i64::from_le_bytes(self.array(WHAT)?)),
            ValueType::F32 => GgufValue::F32(f32::from_le_bytes(self.array(WHAT)?)),
            ValueType::F64 => GgufValue::F64(f64::from_le_bytes(self.array(WHAT)?)),
            ValueType::Bool => match u8::from_le_bytes(self.array(WHAT)?) {
                0 => GgufValue::Bool(false),
                1 => GgufValue::Bool(true),
                got => return Err(GgufError::Bool { key: key.to_owned(), got }),
            },
            ValueType::String => GgufValue::String(self.text(WHAT)?),
            ValueType::Array => {
                if depth == DEEPEST {
                    let (got, most) = (depth as u64 + 1, DEEPEST as u64);
                    return Err(GgufError::TooMany { what: "lists in lists", got, most });
                }
                let kind = self.value_type(key)?;
                let len = self.length("the length of a list")?;
                // Items are counted before they are read, one by one: a length that is not true allocates nothing.
                self.count_values(len)?;
                self.values -= len;
                GgufValue::Array(
                    (0..len).map(|_| self.value(key, kind, depth + 1)).collect::<Result<_, _>>()?,
                )
            }
        })
    }

    fn count_values(&mut self, more: u64) -> Result<(), GgufError> {
        let got = self.values.saturating_add(more);
        if got > MOST_VALUES {
            return Err(GgufError::TooMany { what: "values of settings", got, most: MOST_VALUES });
        }
        self.values = got;
        Ok(())
    }

    fn tensor(&mut self, name: &str) -> Result<TensorInfo, GgufError> {
        let dimensions = u64::from(self.u32("a tensor's dimensions")?);
        if dimensions > MOST_DIMENSIONS {
            let what = "dimensions of a tensor";
            return Err(GgufError::TooMany { what, got: dimensions, most: MOST_DIMENSIONS });
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let got = self.length("a tensor's shape")?;
            let too_many = |_| GgufError::TooMany { what: "rows of a tensor", got, most: usize::MAX as u64 };
            shape.push(usize::try_from(got).map_err(too_many)?);
        }
        shape.reverse();
        let number = self.u32("a tensor's block format")?;
        let unknown = || GgufError::BlockFormat { name: name.to_owned(), number };
        let format = BlockFormat::of_number(number).ok_or_else(unknown)?;
        let offset = u64::from_le_bytes(self.array("a tensor's offset")?);
        Ok(TensorInfo { format, shape, offset })
    }
}
