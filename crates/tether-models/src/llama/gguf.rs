//! Reading GGUF files, with every key, shape and type checked.

use std::collections::BTreeSet;
use std::io::Cursor;
use std::path::Path;

use candle_core::Device;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::{Content, TensorInfo, Value};
use half::f16;

use super::matrix::{BLOCK, Matrix, Weights};
use crate::ModelError;

/// A GGUF file: settings, a tokenizer, and tensors that are not decoded yet.
pub struct GgufFile {
    bytes: Vec<u8>,
    content: Content,
}

impl std::fmt::Debug for GgufFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tensors = self.content.tensor_infos.len();
        f.debug_struct("GgufFile").field("bytes", &self.bytes.len()).field("tensors", &tensors).finish()
    }
}

fn unreadable(error: candle_core::Error) -> ModelError {
    ModelError::Gguf { source: Box::new(error) }
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
    /// [`ModelError::Gguf`] when they are not a GGUF file.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, ModelError> {
        refuse_alignment_of_zero(&bytes)?;
        let content = Content::read(&mut Cursor::new(&bytes)).map_err(unreadable)?;
        Ok(Self { bytes, content })
    }

    /// A setting that is a string.
    ///
    /// # Errors
    /// [`ModelError::Metadata`] when it is there and is something else.
    pub fn text(&self, key: &str) -> Result<Option<&str>, ModelError> {
        match self.content.metadata.get(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(_) => Err(metadata(key, "must be a string")),
        }
    }

    /// A setting that is a whole number.
    ///
    /// # Errors
    /// [`ModelError::Metadata`] when it is there and is something else, or negative.
    pub fn count(&self, key: &str) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.content.metadata.get(key) else { return Ok(None) };
        let number = match value {
            Value::U8(x) => u64::from(*x),
            Value::U16(x) => u64::from(*x),
            Value::U32(x) => u64::from(*x),
            Value::U64(x) => *x,
            Value::I8(x) => u64::try_from(*x).map_err(|_| metadata(key, "must not be negative"))?,
            Value::I16(x) => u64::try_from(*x).map_err(|_| metadata(key, "must not be negative"))?,
            Value::I32(x) => u64::try_from(*x).map_err(|_| metadata(key, "must not be negative"))?,
            Value::I64(x) => u64::try_from(*x).map_err(|_| metadata(key, "must not be negative"))?,
            _ => return Err(metadata(key, "must be a whole number")),
        };
        usize::try_from(number).map(Some).map_err(|_| metadata(key, "is too large"))
    }

    /// A setting that is a number.
    ///
    /// # Errors
    /// [`ModelError::Metadata`] when it is there and is something else.
    pub fn number(&self, key: &str) -> Result<Option<f64>, ModelError> {
        match self.content.metadata.get(key) {
            None => Ok(None),
            Some(Value::F32(x)) => Ok(Some(f64::from(*x))),
            Some(Value::F64(x)) => Ok(Some(*x)),
            Some(_) => Err(metadata(key, "must be a floating-point number")),
        }
    }

    /// A setting that is true or false.
    ///
    /// # Errors
    /// [`ModelError::Metadata`] when it is there and is something else.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, ModelError> {
        match self.content.metadata.get(key) {
            None => Ok(None),
            Some(Value::Bool(x)) => Ok(Some(*x)),
            Some(_) => Err(metadata(key, "must be true or false")),
        }
    }

    /// The items of a list; empty when there is none of that name.
    pub(super) fn list<'a, T>(
        &'a self,
        key: &str,
        requirement: &'static str,
        item: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Vec<T>, ModelError> {
        match self.content.metadata.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => {
                items.iter().map(|v| item(v).ok_or_else(|| metadata(key, requirement))).collect()
            }
            Some(_) => Err(metadata(key, requirement)),
        }
    }

    /// The items of a list of strings.
    pub(super) fn texts(&self, key: &str) -> Result<Vec<&str>, ModelError> {
        self.list(key, "must be a list of strings", |v| match v {
            Value::String(s) => Some(s.as_str()),
            _ => None,
        })
    }

    /// The tensors, to be taken one by one.
    pub(super) fn tensors(&self) -> Tensors<'_> {
        Tensors { file: self, untaken: self.content.tensor_infos.keys().map(String::as_str).collect() }
    }
}

pub(super) fn metadata(key: &str, requirement: &'static str) -> ModelError {
    ModelError::Metadata { key: key.to_owned(), requirement }
}

/// The reader divides by `general.alignment` without looking at it, so a file that sets it to 0 must not get that far.
fn refuse_alignment_of_zero(bytes: &[u8]) -> Result<(), ModelError> {
    let key = b"general.alignment";
    let zero = memchr::memmem::find_iter(bytes, key).any(|at| {
        // Its type's number, then its value; the shortest type has one byte, and the longest four that the reader looks at.
        let value = bytes.get(at + key.len() + 4..).unwrap_or_default();
        let size = match bytes.get(at + key.len()) {
            Some(0 | 1) => 1,
            Some(2 | 3) => 2,
            _ => 4,
        };
        value.len() >= size && value[..size].iter().all(|b| *b == 0)
    });
    if zero { Err(metadata("general.alignment", "must be at least 1")) } else { Ok(()) }
}

/// A file's tensors, minus those already taken.
pub(super) struct Tensors<'a> {
    file: &'a GgufFile,
    untaken: BTreeSet<&'a str>,
}

impl<'a> Tensors<'a> {
    pub(super) fn has(&self, name: &str) -> bool {
        self.file.content.tensor_infos.contains_key(name)
    }

    /// A tensor and its bytes, once its shape is the architecture's.
    fn raw(&mut self, name: &str, shape: &[usize]) -> Result<(&'a TensorInfo, &'a [u8]), ModelError> {
        let file = self.file;
        let info = file
            .content
            .tensor_infos
            .get(name)
            .ok_or_else(|| ModelError::MissingTensor { name: name.to_owned() })?;
        if info.shape.dims() != shape {
            return Err(ModelError::TensorShape {
                name: name.to_owned(),
                expected: shape.to_vec(),
                got: info.shape.dims().to_vec(),
            });
        }
        let truncated = || ModelError::TensorBytes { name: name.to_owned() };
        let (size, per) = (info.ggml_dtype.type_size(), info.ggml_dtype.block_size());
        let bytes = shape
            .iter()
            .try_fold(1usize, |n, d| n.checked_mul(*d))
            .filter(|n| n.is_multiple_of(per))
            .and_then(|n| (n / per).checked_mul(size))
            .ok_or_else(truncated)?;
        let start = file.content.tensor_data_offset.checked_add(info.offset).ok_or_else(truncated)?;
        let start = usize::try_from(start).map_err(|_| truncated())?;
        let end = start.checked_add(bytes).ok_or_else(truncated)?;
        let bytes = file.bytes.get(start..end).ok_or_else(truncated)?;
        self.untaken.remove(name);
        Ok((info, bytes))
    }

    /// A tensor of any type, widened.
    fn widened(&self, name: &str, info: &TensorInfo) -> Result<Vec<f32>, ModelError> {
        let mut reader = Cursor::new(&self.file.bytes);
        let offset = self.file.content.tensor_data_offset;
        let values = info
            .read(&mut reader, offset, &Device::Cpu)
            .and_then(|t| t.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>())
            .map_err(|e| ModelError::GgufTensor { name: name.to_owned(), source: Box::new(e) })?;
        finite(name, &values, 1)?;
        Ok(values)
    }

    /// A vector.
    pub(super) fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>, ModelError> {
        let (info, _) = self.raw(name, &[len])?;
        self.widened(name, info)
    }

    /// A matrix, in the file's own blocks where there are kernels for them.
    pub(super) fn matrix(&mut self, name: &str, outputs: usize, inputs: usize) -> Result<Matrix, ModelError> {
        let (info, bytes) = self.raw(name, &[outputs, inputs])?;
        let whole = inputs.is_multiple_of(BLOCK);
        let weights = match info.ggml_dtype {
            GgmlDType::Q4_1 if whole => {
                let blocks = bytes.as_chunks::<20>().0;
                let (scales, least): (Vec<f32>, Vec<f32>) =
                    blocks.iter().map(|b| (half_at(b, 0), half_at(b, 2))).unzip();
                finite(name, &scales, BLOCK)?;
                finite(name, &least, BLOCK)?;
                let codes = blocks.iter().map(|b| std::array::from_fn(|i| b[4 + i])).collect();
                Weights::Q4_1 { scales, least, codes }
            }
            GgmlDType::Q8_0 if whole => {
                let blocks = bytes.as_chunks::<34>().0;
                let scales: Vec<f32> = blocks.iter().map(|b| half_at(b, 0)).collect();
                finite(name, &scales, BLOCK)?;
                let codes = blocks.iter().map(|b| std::array::from_fn(|i| b[2 + i].cast_signed())).collect();
                Weights::Q8_0 { scales, codes }
            }
            _ => Weights::F32(self.widened(name, info)?),
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

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// `values` stand for `each` weights apiece.
fn finite(name: &str, values: &[f32], each: usize) -> Result<(), ModelError> {
    match values.iter().position(|x| !x.is_finite()) {
        Some(index) => Err(ModelError::NonFiniteWeight { name: name.to_owned(), index: index * each }),
        None => Ok(()),
    }
}
