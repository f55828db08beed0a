//! Writes GGUF files: what their readers are tested on.

use std::collections::BTreeMap;

use half::{bf16, f16};
use tether_models::{BlockFormat, GgufValue as Value};

/// A tensor as a file has it, and the weights that are in it.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) shape: Vec<usize>,
    pub(crate) format: BlockFormat,
    pub(crate) bytes: Vec<u8>,
    /// What a reader must find, worked out from the codes here and not read back.
    #[allow(dead_code, reason = "not all tests that include this file have an oracle")]
    pub(crate) weights: Vec<f32>,
}

impl Stored {
    /// Quantises `values`.
    pub(crate) fn new(shape: &[usize], format: BlockFormat, values: &[f32]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        let (mut bytes, mut weights) = (Vec::new(), Vec::new());
        assert!(values.len().is_multiple_of(format.weights()), "whole blocks");
        for block in values.chunks(format.weights()) {
            let (written, meant) = quantised(format, block);
            bytes.extend(written);
            weights.extend(meant);
        }
        Self { shape: shape.to_vec(), format, bytes, weights }
    }
}

/// A block's bytes, and the weights that they stand for.
fn quantised(format: BlockFormat, x: &[f32]) -> (Vec<u8>, Vec<f32>) {
    let half = |x: f32| (f16::from_f32(x).to_le_bytes(), f16::from_f32(x).to_f32());
    // Codes from 0 to `most`, and the scale and the shift that they are of.
    let codes = |scale: f32, least: f32, most: f32| -> Vec<u8> {
        let step = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        x.iter().map(|x| ((x - least) * step).round().clamp(0.0, most) as u8).collect()
    };
    let low = x.iter().copied().fold(f32::INFINITY, f32::min);
    let high = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let peak = x.iter().fold(0f32, |m, x| m.max(x.abs()));
    let nibbles =
        |codes: &[u8]| (0..16).map(|i| codes[i] & 15 | (codes[i + 16] & 15) << 4).collect::<Vec<u8>>();
    match format {
        BlockFormat::F32 => (x[0].to_le_bytes().to_vec(), x.to_vec()),
        BlockFormat::F16 => (half(x[0]).0.to_vec(), vec![half(x[0]).1]),
        BlockFormat::BF16 => {
            (bf16::from_f32(x[0]).to_le_bytes().to_vec(), vec![bf16::from_f32(x[0]).to_f32()])
        }
        BlockFormat::Q4_1 => {
            let ((scale_bytes, scale), (least_bytes, least)) = (half((high - low) / 15.0), half(low));
            let codes = codes(scale, least, 15.0);
            let bytes = [&scale_bytes[..], &least_bytes, &nibbles(&codes)].concat();
            (bytes, codes.iter().map(|c| f32::from(*c) * scale + least).collect())
        }
        BlockFormat::Q5_0 => {
            let (scale_bytes, scale) = half(peak / 15.0);
            let codes = codes(scale, -16.0 * scale, 31.0);
            let high = codes.iter().enumerate().fold(0u32, |all, (i, c)| all | u32::from(c >> 4) << i);
            let bytes = [&scale_bytes[..], &high.to_le_bytes(), &nibbles(&codes)].concat();
            (bytes, codes.iter().map(|c| (f32::from(*c) - 16.0) * scale).collect())
        }
        BlockFormat::Q8_0 => {
            let (scale_bytes, scale) = half(peak / 127.0);
            let codes = codes(scale, -127.0 * scale, 254.0);
            let signed: Vec<i8> = codes.iter().map(|c| (i16::from(*c) - 127) as i8).collect();
            let bytes = scale_bytes.into_iter().chain(signed.iter().map(|c| c.cast_unsigned())).collect();
            (bytes, signed.iter().map(|c| f32::from(*c) * scale).collect())
        }
        other => panic!("no test writes {other:?}"),
    }
}

/// A file of version 3.
pub(crate) fn written(settings: &BTreeMap<String, Value>, tensors: &BTreeMap<String, Stored>) -> Vec<u8> {
    let mut file = b"GGUF".to_vec();
    file.extend(3u32.to_le_bytes());
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend((settings.len() as u64).to_le_bytes());
    for (key, value) in settings {
        text(&mut file, key);
        file.extend(kind(value).to_le_bytes());
        put(&mut file, value);
    }
    let mut offset = 0usize;
    for (name, tensor) in tensors {
        text(&mut file, name);
        file.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|d| file.extend((*d as u64).to_le_bytes()));
        file.extend(tensor.format.number().to_le_bytes());
        file.extend((offset as u64).to_le_bytes());
        offset = (offset + tensor.bytes.len()).next_multiple_of(32);
    }
    for tensor in tensors.values() {
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(&tensor.bytes);
    }
    file
}

fn text(file: &mut Vec<u8>, text: &str) {
    file.extend((text.len() as u64).to_le_bytes());
    file.extend(text.as_bytes());
}

fn kind(value: &Value) -> u32 {
    match value {
        Value::U8(_) => 0,
        Value::I8(_) => 1,
        Value::U16(_) => 2,
        Value::I16(_) => 3,
        Value::U32(_) => 4,
        Value::I32(_) => 5,
        Value::F32(_) => 6,
        Value::Bool(_) => 7,
        Value::String(_) => 8,
        Value::Array(_) => 9,
        Value::U64(_) => 10,
        Value::I64(_) => 11,
        Value::F64(_) => 12,
    }
}

fn put(file: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(x) => file.extend(x.to_le_bytes()),
        Value::I8(x) => file.extend(x.to_le_bytes()),
        Value::U16(x) => file.extend(x.to_le_bytes()),
        Value::I16(x) => file.extend(x.to_le_bytes()),
        Value::U32(x) => file.extend(x.to_le_bytes()),
        Value::I32(x) => file.extend(x.to_le_bytes()),
        Value::U64(x) => file.extend(x.to_le_bytes()),
        Value::I64(x) => file.extend(x.to_le_bytes()),
        Value::F32(x) => file.extend(x.to_le_bytes()),
        Value::F64(x) => file.extend(x.to_le_bytes()),
        Value::Bool(x) => file.push(u8::from(*x)),
        Value::String(x) => text(file, x),
        Value::Array(items) => {
            file.extend(items.first().map_or(4, kind).to_le_bytes());
            file.extend((items.len() as u64).to_le_bytes());
            items.iter().for_each(|item| put(file, item));
        }
    }
}
