//! Reading golden files.

use safetensors::{Dtype, SafeTensors};

/// Where golden file `name` is.
macro_rules! golden {
    ($name:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../golden/tinyvideo/", $name))
    };
}
pub(crate) use golden;

pub(crate) struct Golden<'a>(SafeTensors<'a>);

impl<'a> Golden<'a> {
    pub(crate) fn open(bytes: &'a [u8]) -> Self {
        Self(SafeTensors::deserialize(bytes).expect("a safetensors file"))
    }

    /// Any tensor as `f32`.
    pub(crate) fn f32(&self, name: &str) -> Vec<f32> {
        let view = self.0.tensor(name).expect(name);
        let data = view.data();
        match view.dtype() {
            Dtype::F32 => data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::I32 => data.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b) as f32).collect(),
            Dtype::U8 => data.iter().map(|b| f32::from(*b)).collect(),
            other => panic!("{name} has dtype {other:?}"),
        }
    }
}

/// Largest absolute difference.
pub(crate) fn max_abs_diff(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
