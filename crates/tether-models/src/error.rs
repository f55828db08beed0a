//! What can go wrong with a model file, an argument or a forward pass.

use std::path::PathBuf;

use safetensors::{Dtype, SafeTensorError};
use tether_core::CoreError;

/// An unusable model file or argument.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The bytes are not a safetensors file.
    #[error("not a readable safetensors file")]
    Format(#[from] SafeTensorError),
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The bytes are not a GGUF file.
    #[cfg(feature = "language")]
    #[error("not a readable GGUF file")]
    Gguf {
        /// What is wrong with its head.
        #[from]
        source: crate::llama::GgufError,
    },
    /// A GGUF file of another architecture.
    #[error("the GGUF file's architecture is {got:?}, and only \"llama\" is implemented")]
    Architecture {
        /// What the file says.
        got: String,
    },
    /// A setting of a GGUF file is missing or unusable.
    #[error("GGUF key {key} {requirement}")]
    Metadata {
        /// The key.
        key: String,
        /// What is wrong, as the end of the sentence.
        requirement: &'static str,
    },
    /// A tensor does not lie inside its file, or is not whole blocks.
    #[error("tensor {name} does not lie inside the file, or is not whole blocks")]
    TensorBytes {
        /// The tensor's name.
        name: String,
    },
    /// A GGUF file's tokenizer cannot be built, or a text not be tokenised.
    #[error("tokenizer: {problem}")]
    Tokenizer {
        /// What is wrong.
        problem: String,
    },
    /// A token id that the model does not have.
    #[error("token {index} is {id}, and the model has ids below {vocabulary}")]
    TokenId {
        /// Its place among the tokens given.
        index: usize,
        /// The id.
        id: u32,
        /// Number of ids.
        vocabulary: usize,
    },
    /// Sizes that do not fit.
    #[error(transparent)]
    Core(#[from] CoreError),
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
    /// Step reuse failed.
    #[error("step reuse")]
    Reuse(#[from] tether_reuse::ReuseError),
    /// The attention of a layer failed.
    #[error("attention of layer {layer} failed")]
    Attention {
        /// The layer's index.
        layer: usize,
        /// The attention's own error.
        source: E,
    },
    /// The cache could not carry its recipe out.
    #[error("the cache could not carry its recipe out")]
    Cache {
        /// The cache's own error.
        source: E,
    },
}
