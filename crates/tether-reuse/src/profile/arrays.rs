//! Profile data as arrays.

use safetensors::Dtype;
use safetensors::tensor::{SafeTensors, TensorView};

use super::{ErtaData, ProfileData};
use crate::ProfileError;

/// An array on its way to a file.
pub(super) struct Array {
    name: &'static str,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Array {
    fn new<T, const N: usize>(
        name: &'static str,
        dtype: Dtype,
        values: &[T],
        bytes: fn(&T) -> [u8; N],
    ) -> Self {
        Self { name, dtype, shape: vec![values.len()], bytes: values.iter().flat_map(bytes).collect() }
    }

    fn f32(name: &'static str, values: &[f32]) -> Self {
        Self::new(name, Dtype::F32, values, |x| x.to_le_bytes())
    }

    fn f64(name: &'static str, values: &[f64]) -> Self {
        Self::new(name, Dtype::F64, values, |x| x.to_le_bytes())
    }

    pub(super) fn view(&self) -> Result<(&'static str, TensorView<'_>), ProfileError> {
        Ok((self.name, TensorView::new(self.dtype, self.shape.clone(), &self.bytes)?))
    }
}

pub(super) fn of(data: &ProfileData) -> Vec<Array> {
    match data {
        ProfileData::Erta(d) => {
            let groups = d.groups.max(1);
            let rows = |mut array: Array| {
                array.shape = vec![d.reuse.len(), groups];
                array
            };
            vec![
                Array::new("reuse", Dtype::U8, &d.reuse, |x| [u8::from(*x)]),
                Array::f32("phi", &d.phi),
                Array::f32("sigmas", &d.sigmas),
                rows(Array::f32("a", &d.a)),
                rows(Array::f32("b", &d.b)),
            ]
        }
        ProfileData::Mag { ratios } => vec![Array::f64("ratios", ratios)],
        ProfileData::Tea { polynomial } => vec![Array::f64("polynomial", polynomial)],
        ProfileData::Blocks { foreground, background } => vec![
            Array::f32("foreground", foreground),
            Array::new("background", Dtype::U16, background, |x| x.to_le_bytes()),
        ],
    }
}

pub(super) fn read(policy: &str, file: &SafeTensors<'_>) -> Result<ProfileData, ProfileError> {
    match policy {
        "ertacache" => {
            let (a, shape) = array(file, "a", Dtype::F32, f32::from_le_bytes)?;
            let groups = shape.get(1).copied().unwrap_or(1).max(1);
            let (reuse, _) = array(file, "reuse", Dtype::U8, |[x]: [u8; 1]| x)?;
            if let Some(bad) = reuse.iter().find(|x| **x > 1) {
                return Err(ProfileError::Array {
                    name: "reuse",
                    reason: format!("{bad} is neither 0 nor 1"),
                });
            }
            Ok(ProfileData::Erta(ErtaData {
                reuse: reuse.into_iter().map(|x| x == 1).collect(),
                phi: array(file, "phi", Dtype::F32, f32::from_le_bytes)?.0,
                sigmas: array(file, "sigmas", Dtype::F32, f32::from_le_bytes)?.0,
                a,
                b: array(file, "b", Dtype::F32, f32::from_le_bytes)?.0,
                groups,
            }))
        }
        "magcache" => {
            Ok(ProfileData::Mag { ratios: array(file, "ratios", Dtype::F64, f64::from_le_bytes)?.0 })
        }
        "teacache" => {
            Ok(ProfileData::Tea { polynomial: array(file, "polynomial", Dtype::F64, f64::from_le_bytes)?.0 })
        }
        "profiling-dit" => Ok(ProfileData::Blocks {
            foreground: array(file, "foreground", Dtype::F32, f32::from_le_bytes)?.0,
            background: array(file, "background", Dtype::U16, u16::from_le_bytes)?.0,
        }),
        other => Err(ProfileError::Header(format!("no policy {other:?} has profiles"))),
    }
}

fn array<T, const N: usize>(
    file: &SafeTensors<'_>,
    name: &'static str,
    dtype: Dtype,
    value: fn([u8; N]) -> T,
) -> Result<(Vec<T>, Vec<usize>), ProfileError> {
    let view =
        file.tensor(name).map_err(|_| ProfileError::Array { name, reason: "is missing".to_owned() })?;
    if view.dtype() != dtype {
        let reason = format!("is {:?}, expected {dtype:?}", view.dtype());
        return Err(ProfileError::Array { name, reason });
    }
    Ok((view.data().as_chunks::<N>().0.iter().map(|b| value(*b)).collect(), view.shape().to_vec()))
}
