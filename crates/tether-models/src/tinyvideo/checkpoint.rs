//! Reading tensors out of a safetensors file, with every name, shape and dtype checked.

use std::collections::BTreeSet;

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensorError, SafeTensors};

use crate::ModelError;
use crate::linear::Linear;

/// A file's tensors, minus those already taken.
pub(super) struct Checkpoint<'a> {
    tensors: SafeTensors<'a>,
    untaken: BTreeSet<String>,
}

impl<'a> Checkpoint<'a> {
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, ModelError> {
        let tensors = SafeTensors::deserialize(bytes)?;
        let untaken = tensors.names().into_iter().map(str::to_owned).collect();
        Ok(Self { tensors, untaken })
    }

    /// The tensor `name`, widened to `f32`.
    pub(super) fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let view = self.tensors.tensor(name).map_err(|e| match e {
            SafeTensorError::TensorNotFound(name) => ModelError::MissingTensor { name },
            other => ModelError::Format(other),
        })?;
        if view.shape() != shape {
            return Err(ModelError::TensorShape {
                name: name.to_owned(),
                expected: shape.to_vec(),
                got: view.shape().to_vec(),
            });
        }
        let data = view.data();
        let values: Vec<f32> = match view.dtype() {
            Dtype::F32 => data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F16 => data.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::BF16 => data.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            got => return Err(ModelError::TensorDType { name: name.to_owned(), got }),
        };
        if let Some(index) = values.iter().position(|x| !x.is_finite()) {
            return Err(ModelError::NonFiniteWeight { name: name.to_owned(), index });
        }
        self.untaken.remove(name);
        Ok(values)
    }

    /// The layer of `{name}.weight` (`[outputs, inputs]`) and `{name}.bias`.
    pub(super) fn linear(&mut self, name: &str, inputs: usize, outputs: usize) -> Result<Linear, ModelError> {
        let weight = self.take(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias = self.take(&format!("{name}.bias"), &[outputs])?;
        Ok(Linear::new(&weight, bias))
    }

    /// Several square layers with the same input as one.
    pub(super) fn stacked(&mut self, names: &[String], dim: usize) -> Result<Linear, ModelError> {
        let mut weights = Vec::with_capacity(names.len());
        let mut bias = Vec::with_capacity(names.len() * dim);
        for name in names {
            weights.push(self.take(&format!("{name}.weight"), &[dim, dim])?);
            bias.extend(self.take(&format!("{name}.bias"), &[dim])?);
        }
        let rows: Vec<&[f32]> = weights.iter().map(Vec::as_slice).collect();
        Ok(Linear::stacked(&rows, bias))
    }

    /// Refuses a file with tensors that were not taken: another architecture would lose them silently.
    pub(super) fn finish(self) -> Result<(), ModelError> {
        match self.untaken.into_iter().next() {
            Some(name) => Err(ModelError::UnexpectedTensor { name }),
            None => Ok(()),
        }
    }
}
