//! Reading GGUF files, with every key, shape and type checked.

mod block_format;
mod dequantise;
mod error;
mod header;
mod k_blocks;
mod value;

use std::collections::BTreeSet;
use std::path::Path;

pub use self::block_format::BlockFormat;
use self::dequantise::half_at;
pub use self::error::GgufError;
use self::header::{Header, TensorInfo};
pub use self::value::GgufValue;
use super::matrix::{BLOCK, Matrix, Weights};
use crate::ModelError;

/// A GGUF file: settings, a tokenizer, and tensors that are not decoded yet.
pub struct GgufFile {
    bytes: Vec<u8>,
    header: Header,
    /// Where the weights begin.
    data: usize,
}

/// Weights begin at a multiple of so many bytes unless the file says otherwise.
const ALIGNMENT: usize = 32;

impl std::fmt::Debug for GgufFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tensors = self.header.tensors.len();
        f.debug_struct("GgufFile").field("bytes", &self.bytes.len()).field("tensors", &tensors).finish()
    }
}

impl GgufFile {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ModelError::Io`], and those of [`GgufFile::parse`].
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        Self::parse(std::fs::read(path).map_err(|source| ModelError::Io { path: path.to_owned(), source })?)
    }

    /// Takes a file's bytes.
    ///
    /// # Errors
    /// [`ModelError::Gguf`] when they are not a GGUF file, [`ModelError::Metadata`] for weights that begin nowhere.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, ModelError> {
        let header = Header::read(&bytes)?;
        let end = header.end;
        let mut file = Self { bytes, header, data: 0 };
        let key = "general.alignment";
        file.data = match file.count(key)?.unwrap_or(ALIGNMENT) {
            0 => return Err(metadata(key, "must be at least 1")),
            alignment => end.checked_next_multiple_of(alignment).ok_or(metadata(key, "is too large"))?,
        };
        Ok(file)
    }

    /// A setting as it is in the file.
    pub fn setting(&self, key: &str) -> Option<&GgufValue> {
        self.header.settings.get(key)
    }

    /// A setting that is a string.
    ///
    /// # Errors
    /// [`ModelError::Metadata`] when it is there and is something else.
    pub fn text(&self, key: &str) -> Result<Option<&str>, ModelError> {
        match self.setting(key) {
            None => Ok(None),
            Some(GgufValue::String(s)) => Ok(Some(s)),
            Some(_) => Err(metadata(key, "must be a string")),
        }
    }

    /// A setting that is a whole number.
    ///
    /// # Errors
    /// [`ModelError::Metadata`] when it is there and is something else, or negative.
    pub fn count(&self, key: &str) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.setting(key) else { return Ok(None) };
        let number = match value {
            GgufValue::U8(x) => u64::from(*x),
            GgufValue::U16(x) => u64::from(*x),
            GgufValue::U32(x) => u64::from(*x),
            GgufValue::U64(x) => *x,
            GgufValue::I8(x) => u64::try_from(*x).map_err(|_| metadata(key, "must not be negative"))?,
            GgufValue::I16(x) => u64::try_from(*x).map_err(|_| metadata(key, "must not be negative"))?,
            GgufValue::I32(x) => u64::try_from(*x).map_err(|_| metadata(key, "must not be negative"))?,
            GgufValue::I64(x) => u64::try_from(*x).map_err(|_| metadata(key, "must not be negative"))?,
            _ => return Err(metadata(key, "must be a whole number")),
        };
        usize::try_from(number).map(Some).map_err(|_| metadata(key, "is too large"))
    }

    /// A setting that is a number.
    ///
    /// # Errors
    /// [`ModelError::Metadata`] when it is there and is something else.
    pub fn number(&self, key: &str) -> Result<Option<f64>, ModelError> {
        match self.setting(key) {
            None => Ok(None),
            Some(GgufValue::F32(x)) => Ok(Some(f64::from(*x))),
            Some(GgufValue::F64(x)) => Ok(Some(*x)),
            Some(_) => Err(metadata(key, "must be a floating-point number")),
        }
    }

    /// A setting that is true or false.
    ///
    /// # Errors
    /// [`ModelError::Metadata`] when it is there and is something else.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, ModelError> {
        match self.setting(key) {
            None => Ok(None),
            Some(GgufValue::Bool(x)) => Ok(Some(*x)),
            Some(_) => Err(metadata(key, "must be true or false")),
        }
    }

    /// The items of a list; empty when there is none of that name.
    pub(super) fn list<'a, T>(
        &'a self,
        key: &str,
        requirement: &'static str,
        item: impl Fn(&'a GgufValue) -> Option<T>,
    ) -> Result<Vec<T>, ModelError> {
        match self.setting(key) {
            None => Ok(Vec::new()),
            Some(GgufValue::Array(items)) => {
                items.iter().map(|v| item(v).ok_or_else(|| metadata(key, requirement))).collect()
            }
            Some(_) => Err(metadata(key, requirement)),
        }
    }

    /// The items of a list of strings.
    pub(super) fn texts(&self, key: &str) -> Result<Vec<&str>, ModelError> {
        self.list(key, "must be a list of strings", |v| match v {
            GgufValue::String(s) => Some(s.as_str()),
            _ => None,
        })
    }

    /// The tensors, to be taken one by one.
    pub(super) fn tensors(&self) -> Tensors<'_> {
        Tensors { file: self, untaken: self.header.tensors.keys().map(String::as_str).collect() }
    }
}

pub(super) fn metadata(key: &str, requirement: &'static str) -> ModelError {
    ModelError::Metadata { key: key.to_owned(), requirement }
}

/// A file's tensors, minus those already taken.
pub(super) struct Tensors<'a> {
    file: &'a GgufFile,
    untaken: BTreeSet<&'a str>,
}

impl<'a> Tensors<'a> {
    pub(super) fn has(&self, name: &str) -> bool {
        self.file.header.tensors.contains_key(name)
    }

    /// A tensor and its bytes, once its shape is the architecture's.
    fn raw(&mut self, name: &str, shape: &[usize]) -> Result<(&'a TensorInfo, &'a [u8]), ModelError> {
        let file = self.file;
        let missing = || ModelError::MissingTensor { name: name.to_owned() };
        let info = file.header.tensors.get(name).ok_or_else(missing)?;
        if info.shape != shape {
            return Err(ModelError::TensorShape {
                name: name.to_owned(),
                expected: shape.to_vec(),
                got: info.shape.clone(),
            });
        }
        let truncated = || ModelError::TensorBytes { name: name.to_owned() };
        let weights = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        let bytes = weights.and_then(|n| info.format.bytes_of(n)).ok_or_else(truncated)?;
        let start = usize::try_from(info.offset).ok().and_then(|offset| file.data.checked_add(offset));
        let start = start.ok_or_else(truncated)?;
        let end = start.checked_add(bytes).ok_or_else(truncated)?;
        let bytes = file.bytes.get(start..end).ok_or_else(truncated)?;
        self.untaken.remove(name);
        Ok((info, bytes))
    }

    /// A vector.
    pub(super) fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>, ModelError> {
        let (info, bytes) = self.raw(name, &[len])?;
        widened(name, info, bytes)
    }

    /// A matrix, in the file's own blocks where there are kernels for them.
    pub(super) fn matrix(&mut self, name: &str, outputs: usize, inputs: usize) -> Result<Matrix, ModelError> {
        let (info, bytes) = self.raw(name, &[outputs, inputs])?;
        let whole = inputs.is_multiple_of(BLOCK);
        let weights = match info.format {
            BlockFormat::Q4_1 if whole => {
                let blocks = bytes.as_chunks::<20>().0;
                let (scales, least): (Vec<f32>, Vec<f32>) =
                    blocks.iter().map(|b| (half_at(b, 0), half_at(b, 2))).unzip();
                finite(name, &scales, BLOCK)?;
                finite(name, &least, BLOCK)?;
                let codes = blocks.iter().map(|b| std::array::from_fn(|i| b[4 + i])).collect();
                Weights::Q4_1 { scales, least, codes }
            }
            BlockFormat::Q8_0 if whole => {
                let blocks = bytes.as_chunks::<34>().0;
                let scales: Vec<f32> = blocks.iter().map(|b| half_at(b, 0)).collect();
                finite(name, &scales, BLOCK)?;
                let codes = blocks.iter().map(|b| std::array::from_fn(|i| b[2 + i].cast_signed())).collect();
                Weights::Q8_0 { scales, codes }
            }
            _ => Weights::F32(widened(name, info, bytes)?),
        };
        Ok(Matrix::new(outputs, inputs, weights))
    }

    /// Refuses a file with tensors that were not taken: another architecture would lose them silently.
    pub(super) fn finish(self) -> Result<(), ModelError> {
        match self.untaken.into_iter().next() {
            Some(name) => Err(ModelError::UnexpectedTensor { name: name.to_owned() }),
            None => Ok(()),
        }
    }
}

/// A tensor of any format, as plain numbers.
fn widened(name: &str, info: &TensorInfo, bytes: &[u8]) -> Result<Vec<f32>, ModelError> {
    let values = info.format.dequantise(bytes);
    finite(name, &values, 1)?;
    Ok(values)
}

/// `values` stand for `each` weights apiece.
fn finite(name: &str, values: &[f32], each: usize) -> Result<(), ModelError> {
    match values.iter().position(|x| !x.is_finite()) {
        Some(index) => Err(ModelError::NonFiniteWeight { name: name.to_owned(), index: index * each }),
        None => Ok(()),
    }
}
