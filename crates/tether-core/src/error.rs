//! Errors of the core vocabulary and of engines.

use crate::{DType, SlotId};

/// What can be wrong with a geometry, a tensor or an engine call. Nothing has changed when one is returned.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CoreError {
    /// A tensor's element count is not the product of its shape.
    #[error("a tensor of shape {shape:?} holds {expected} elements, but {got} were given")]
    TensorLength {
        /// The shape asked for.
        shape: Box<[usize]>,
        /// Its product.
        expected: usize,
        /// Elements given.
        got: usize,
    },
    /// A size does not fit the machine's address space.
    #[error("{what}: the product of {factors:?} overflows")]
    SizeOverflow {
        /// The size that was computed.
        what: &'static str,
        /// Its factors.
        factors: Box<[usize]>,
    },
    /// The host has no room.
    #[error("{bytes} bytes of host memory are not to be had")]
    OutOfMemory {
        /// Bytes asked for.
        bytes: usize,
    },
    /// A tensor of another shape was expected.
    #[error("{what}: expected shape {expected:?}, got {got:?}")]
    ShapeMismatch {
        /// The argument's name.
        what: &'static str,
        /// The shape the geometry asks for.
        expected: Box<[usize]>,
        /// The shape that came.
        got: Box<[usize]>,
    },
    /// A tensor of another element type was expected.
    #[error("{what}: expected dtype {expected}, got {got}")]
    DTypeMismatch {
        /// The argument's name.
        what: &'static str,
        /// The dtype the geometry asks for.
        expected: DType,
        /// The dtype that came.
        got: DType,
    },
    /// A NaN or an infinity where finite numbers are needed.
    #[error("{what}: element {index} is NaN or infinite")]
    NonFinite {
        /// The argument's name.
        what: &'static str,
        /// Flat index of the first such element.
        index: usize,
    },
    /// A geometry field is out of range.
    #[error("geometry: {field} = {value}: {requirement}")]
    Geometry {
        /// The field's name.
        field: &'static str,
        /// Its value.
        value: usize,
        /// What it must satisfy.
        requirement: &'static str,
    },
    /// A slot that the store does not have.
    #[error("slot {slot} is outside the store's {slots} slots")]
    NoSuchSlot {
        /// The slot.
        slot: SlotId,
        /// Slots in the store.
        slots: usize,
    },
    /// A list's length does not fit another's.
    #[error("{what}: expected {expected} entries, got {got}")]
    Count {
        /// What is counted.
        what: &'static str,
        /// Entries needed.
        expected: usize,
        /// Entries given.
        got: usize,
    },
    /// A position lies outside the rotation.
    #[error("position {position} is outside the rotation's {positions} positions")]
    PositionOutOfTable {
        /// The position asked for.
        position: usize,
        /// Positions in the table.
        positions: usize,
    },
    /// The engine cannot do this.
    #[error("engine {engine} does not support {feature}")]
    Unsupported {
        /// The engine's name.
        engine: &'static str,
        /// What was asked of it.
        feature: &'static str,
    },
    /// The device behind an engine failed.
    #[error("engine {engine}: {message}")]
    Device {
        /// The engine's name.
        engine: &'static str,
        /// The device's own words.
        message: String,
    },
}
