//! What can go wrong with a model file, an argument or a forward pass.

use safetensors::{Dtype, SafeTensorError};

/// An unusable model file or argument.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The bytes are not a safetensors file.
    #[error("not a readable safetensors file")]
    Format(#[from] SafeTensorError),
    /// A tensor of the architecture is not in the file.
    #[error("the model file lacks tensor {name}")]
    MissingTensor {
        /// The tensor's name.
        name: String,
    },
    /// The file holds a tensor that the architecture does not have.
    #[error("the model file holds a tensor {name} that the architecture does not have")]
    UnexpectedTensor {
        /// The tensor's name.
        name: String,
    },
    /// A tensor of the file has another shape than the architecture's.
    #[error("tensor {name}: expected shape {expected:?}, got {got:?}")]
    TensorShape {
        /// The tensor's name.
        name: String,
        /// The architecture's shape.
        expected: Vec<usize>,
        /// The file's shape.
        got: Vec<usize>,
    },
    /// A tensor of the file is not of a floating-point type that is promoted to `f32`.
    #[error("tensor {name}: dtype {got:?} is none of F32, F16, BF16")]
    TensorDType {
        /// The tensor's name.
        name: String,
        /// The file's dtype.
        got: Dtype,
    },
    /// A weight is NaN or infinite.
    #[error("tensor {name}: element {index} is NaN or infinite")]
    NonFiniteWeight {
        /// The tensor's name.
        name: String,
        /// Flat index of the first such element.
        index: usize,
    },
    /// A slice argument has the wrong number of elements.
    #[error("{what}: expected {expected} elements, got {got}")]
    Length {
        /// The argument's name.
        what: &'static str,
        /// Elements needed.
        expected: usize,
        /// Elements given.
        got: usize,
    },
    /// A slice argument's length is not a multiple of the unit that it is made of.
    #[error("{what}: {got} elements are not a multiple of {unit}")]
    NotAMultiple {
        /// The argument's name.
        what: &'static str,
        /// Elements per unit.
        unit: usize,
        /// Elements given.
        got: usize,
    },
    /// A number is outside its range.
    #[error("{what} = {value}: {requirement}")]
    OutOfRange {
        /// The argument's name.
        what: &'static str,
        /// The value given.
        value: f64,
        /// What it must satisfy.
        requirement: &'static str,
    },
    /// An attention replaced a work tensor by one of another shape or dtype.
    #[error("work tensor {what} is no longer an f32 tensor of {expected} elements")]
    WorkTensor {
        /// The tensor's name.
        what: &'static str,
        /// Elements that it had.
        expected: usize,
    },
    /// A video is too short to be scored.
    #[error("{got} frames were given, {needed} are needed")]
    TooFewFrames {
        /// Frames needed.
        needed: usize,
        /// Frames given.
        got: usize,
    },
}

/// A forward pass that failed, in the model or in the attention that its caller brought.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForwardError<E> {
    /// The model refused its arguments.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The attention of a layer failed.
    #[error("attention of layer {layer} failed")]
    Attention {
        /// The layer's index.
        layer: usize,
        /// The attention's own error.
        source: E,
    },
}
