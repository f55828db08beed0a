//! Errors of bytes that come from outside.

use tether_core::CoreError;

/// Why bytes are no codes.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// Bytes are missing, or there are too many.
    #[error("a record of {expected} bytes was expected, but there are {got}")]
    Length {
        /// Bytes that the record has by its header.
        expected: usize,
        /// Bytes that came.
        got: usize,
    },
    /// A header's field has a value that there is no meaning for.
    #[error("the record's {field} is {value}, which is not known")]
    Header {
        /// The field.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
    /// The bytes are not those that were written.
    #[error("the record's checksum is {expected:016x}, its bytes have {got:016x}")]
    Checksum {
        /// The checksum in the header.
        expected: u64,
        /// That of the bytes.
        got: u64,
    },
    /// A radius is negative, NaN or infinite.
    #[error("the radius of row {row} is {radius}")]
    Radius {
        /// The row.
        row: usize,
        /// The radius.
        radius: f32,
    },
    /// A scale or a zero of a group, or a number, is not finite, or a scale is negative.
    #[error("number {number} of the record's {part} is {value}")]
    Number {
        /// The part.
        part: &'static str,
        /// Its place there.
        number: usize,
        /// What it is.
        value: f32,
    },
    /// Bits after a row's last code are set.
    #[error("bits after the last code of row {row} are set")]
    Padding {
        /// The row.
        row: usize,
    },
    /// Extents that no codes can have.
    #[error(transparent)]
    Core(#[from] CoreError),
}
