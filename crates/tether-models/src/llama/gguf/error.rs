//! What can be wrong with the head of a GGUF file.

/// Bytes that are not the head of a GGUF file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// Other bytes than GGUF at the start.
    #[error("it does not begin with GGUF")]
    Magic,
    /// A version of the format that is not known.
    #[error("its version is {version}, and only 1, 2 and 3 are known")]
    Version {
        /// What the file says.
        version: u32,
    },
    /// The file ends inside what it announces.
    #[error("it ends at byte {len}, inside {what} at byte {at}")]
    End {
        /// What should be there.
        what: &'static str,
        /// Where that begins.
        at: usize,
        /// Bytes of the file.
        len: usize,
    },
    /// More of something than any model has.
    #[error("it announces {got} {what}, and at most {most} are read")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        got: u64,
        /// How many are read.
        most: u64,
    },
    /// The number of a type of settings that is not known.
    #[error("setting {key} has type {number}, which is not known")]
    ValueType {
        /// The setting.
        key: String,
        /// What the file says.
        number: u32,
    },
    /// A truth value other than 0 and 1.
    #[error("setting {key} is neither true nor false but {got}")]
    Bool {
        /// The setting.
        key: String,
        /// What the file says.
        got: u8,
    },
    /// The number of a format of weights that is not known.
    #[error("tensor {name} is of block format {number}, which is not known")]
    BlockFormat {
        /// The tensor.
        name: String,
        /// What the file says.
        number: u32,
    },
    /// A setting or a tensor that is there twice.
    #[error("{name} is there twice")]
    Twice {
        /// Its name.
        name: String,
    },
}
