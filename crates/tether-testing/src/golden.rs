//! Golden files: outputs of the peers' own code, under `golden/` at the root of the repository.

use std::collections::BTreeMap;
use std::path::PathBuf;

use safetensors::{Dtype, SafeTensors};
use tether_core::{DType, HostTensor, TensorData};

/// Path of a golden file.
pub fn golden_path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../golden").join(name)
}

/// Reads a golden JSON file.
///
/// # Panics
/// When it is missing or not JSON: a golden file is part of the test.
pub fn golden_json(name: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(golden_path(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// A safetensors file in memory: floats as host tensors, integers as `i64`.
#[derive(Debug)]
pub struct Golden {
    name: String,
    floats: BTreeMap<String, HostTensor>,
    integers: BTreeMap<String, Vec<i64>>,
}

impl Golden {
    /// Reads `golden/<name>`.
    ///
    /// # Panics
    /// When the file is missing or malformed.
    pub fn load(name: &str) -> Self {
        let bytes = std::fs::read(golden_path(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let file = SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut golden =
            Self { name: name.to_owned(), floats: BTreeMap::default(), integers: BTreeMap::default() };
        for (key, view) in file.tensors() {
            let data = view.data();
            let dtype = match view.dtype() {
                Dtype::F32 => DType::F32,
                Dtype::F16 => DType::F16,
                Dtype::BF16 => DType::BF16,
                other => {
                    let integers =
                        integers(other, data).unwrap_or_else(|| panic!("{name}: {key} is {other:?}"));
                    golden.integers.insert(key, integers);
                    continue;
                }
            };
            let float = TensorData::from_le_bytes(dtype, data).unwrap_or_else(|| panic!("{name}: {key}"));
            let tensor =
                HostTensor::new(view.shape(), float).unwrap_or_else(|e| panic!("{name}: {key}: {e}"));
            golden.floats.insert(key, tensor);
        }
        golden
    }

    /// A float tensor.
    ///
    /// # Panics
    /// When there is none of that name.
    pub fn tensor(&self, key: &str) -> &HostTensor {
        self.floats.get(key).unwrap_or_else(|| panic!("{}: no float tensor {key}", self.name))
    }

    /// A float tensor, widened.
    ///
    /// # Panics
    /// When there is none of that name.
    pub fn f32(&self, key: &str) -> Vec<f32> {
        self.tensor(key).to_f32_vec()
    }

    /// An integer tensor.
    ///
    /// # Panics
    /// When there is none of that name.
    pub fn integers(&self, key: &str) -> &[i64] {
        self.integers.get(key).unwrap_or_else(|| panic!("{}: no integer tensor {key}", self.name))
    }

    /// True when there is a tensor of that name.
    pub fn has(&self, key: &str) -> bool {
        self.floats.contains_key(key) || self.integers.contains_key(key)
    }
}

fn integers(dtype: Dtype, bytes: &[u8]) -> Option<Vec<i64>> {
    Some(match dtype {
        Dtype::I64 => bytes.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect(),
        Dtype::I32 => bytes.as_chunks().0.iter().map(|&b| i64::from(i32::from_le_bytes(b))).collect(),
        Dtype::U8 => bytes.iter().map(|&b| i64::from(b)).collect(),
        _ => return None,
    })
}
