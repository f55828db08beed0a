//! What every engine checks before it does anything, on shapes alone.

pub use crate::tensor::element_count;
use crate::{AttendTable, CoreError, DType, RotationExtents, Shape, SlotId, StoreSpec};

/// Extents of a query tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryExtents {
    /// Sequences.
    pub sequences: usize,
    /// Tokens of a sequence.
    pub tokens: usize,
    /// Query heads, a multiple of the store's key heads.
    pub heads: usize,
}

/// Every slot lies in a store of `slots` slots.
///
/// # Errors
/// [`CoreError::NoSuchSlot`] names the first that does not.
pub fn slots<'s>(slots: usize, named: impl IntoIterator<Item = &'s SlotId>) -> Result<(), CoreError> {
    match named.into_iter().find(|s| s.index() >= slots) {
        Some(&slot) => Err(CoreError::NoSuchSlot { slot, slots }),
        None => Ok(()),
    }
}

/// Two counts agree.
///
/// # Errors
/// [`CoreError::Count`].
pub fn count(what: &'static str, expected: usize, got: usize) -> Result<(), CoreError> {
    if expected == got { Ok(()) } else { Err(CoreError::Count { what, expected, got }) }
}

/// A setting is in range.
///
/// # Errors
/// [`CoreError::Geometry`] with what it should be.
pub fn setting(
    good: bool,
    field: &'static str,
    value: usize,
    requirement: &'static str,
) -> Result<(), CoreError> {
    if good { Ok(()) } else { Err(CoreError::Geometry { field, value, requirement }) }
}

/// Number of elements of `shape`, at most `limit`.
///
/// # Errors
/// [`CoreError::SizeOverflow`].
pub fn index_space(what: &'static str, shape: &[usize], limit: usize) -> Result<usize, CoreError> {
    let len = shape.iter().try_fold(1usize, |n, &extent| n.checked_mul(extent));
    len.filter(|&len| len <= limit).ok_or_else(|| CoreError::SizeOverflow { what, factors: shape.into() })
}

/// K and V, each as `(name, shape, dtype, head_dim)`, are whole units for `units` slots: `[tokens, kv_heads, head_dim]`, or with a
/// leading axis of sequences.
///
/// # Errors
/// [`CoreError::DTypeMismatch`], [`CoreError::ShapeMismatch`].
pub fn written(
    spec: &StoreSpec,
    units: usize,
    tensors: [(&'static str, &[usize], DType, usize); 2],
) -> Result<(), CoreError> {
    for (what, shape, dtype, head_dim) in tensors {
        if dtype != spec.dtype {
            return Err(CoreError::DTypeMismatch { what, expected: spec.dtype, got: dtype });
        }
        let sequences = if let [sequences, _, _, _] = *shape { sequences.max(1) } else { 1 };
        let tokens = units * spec.tokens_per_unit;
        let expected = [sequences, tokens / sequences, spec.kv_heads, head_dim];
        let fits = shape == expected || (sequences == 1 && shape == &expected[1..]);
        if !fits || !tokens.is_multiple_of(sequences) {
            let expected = if sequences == 1 { expected[1..].into() } else { expected.into() };
            return Err(CoreError::ShapeMismatch { what, expected, got: shape.into() });
        }
    }
    Ok(())
}

/// `[tokens, heads, head_dim_k]` or `[sequences, tokens, heads, head_dim_k]`.
///
/// # Errors
/// [`CoreError::ShapeMismatch`], [`CoreError::Geometry`] for heads that do not group evenly over the store's.
pub fn query(spec: &StoreSpec, shape: &[usize]) -> Result<QueryExtents, CoreError> {
    let (sequences, tokens, heads) = match *shape {
        [tokens, heads, dim] if dim == spec.head_dim_k => (1, tokens, heads),
        [sequences, tokens, heads, dim] if dim == spec.head_dim_k => (sequences, tokens, heads),
        _ => {
            let expected = [0, spec.kv_heads, spec.head_dim_k].into();
            return Err(CoreError::ShapeMismatch { what: "q", expected, got: shape.into() });
        }
    };
    if heads == 0 || !heads.is_multiple_of(spec.kv_heads) {
        let requirement = "must be a multiple of kv_heads";
        return Err(CoreError::Geometry { field: "query_heads", value: heads, requirement });
    }
    Ok(QueryExtents { sequences, tokens, heads })
}

/// A rotation suits a store's units and `heads` heads of keys or queries, and has entries for `positions`.
///
/// # Errors
/// [`CoreError::Count`], [`CoreError::Geometry`], [`CoreError::PositionOutOfTable`].
pub fn rotation(
    spec: &StoreSpec,
    heads: usize,
    extents: &RotationExtents,
    positions: impl IntoIterator<Item = usize>,
) -> Result<(), CoreError> {
    count("tokens that share an entry of the rotation", 1, extents.tokens_per_delta)?;
    let tokens = spec.tokens_per_unit.max(1);
    count("entries of whole units", extents.entries.next_multiple_of(tokens), extents.entries)?;
    let (of_keys, dim) = spec.rotated_heads(extents);
    setting(
        extents.rotary_dim <= dim,
        "rotary_dim",
        extents.rotary_dim,
        "must not exceed the channels of keys",
    )?;
    if of_keys != spec.kv_heads {
        // A pair of a query must be the key's.
        count("heads of queries under a rotation of whole tokens", spec.kv_heads, heads)?;
    }
    let table = extents.entries / tokens;
    match positions.into_iter().find(|&p| p >= table) {
        Some(position) => Err(CoreError::PositionOutOfTable { position, positions: table }),
        None => Ok(()),
    }
}

/// The arguments of an attention: queries of shape `q` over `tables`, into an `out` of that shape and dtype.
///
/// # Errors
/// Those of the other checks; [`CoreError::Count`] for a table without slots, [`CoreError::DTypeMismatch`] for an `out` that is not
/// `f32`.
pub fn attention(
    spec: &StoreSpec,
    q: &[usize],
    tables: &[AttendTable<'_>],
    rotated: Option<&RotationExtents>,
    (out, out_dtype): (&[usize], DType),
) -> Result<QueryExtents, CoreError> {
    let extents = query(spec, q)?;
    count("attention tables", extents.sequences, tables.len())?;
    for table in tables {
        slots(spec.slots, table.slots)?;
        count("positions of a table", table.slots.len(), table.positions.len())?;
        if table.slots.is_empty() {
            return Err(CoreError::Count { what: "slots to attend to", expected: 1, got: 0 });
        }
        if let Some(rotated) = rotated {
            let query_units = extents.tokens.div_ceil(spec.tokens_per_unit);
            let last_query = (table.query_position as usize + query_units).saturating_sub(1);
            let positions = table.positions.iter().map(|&p| p as usize).chain([last_query]);
            rotation(spec, extents.heads, rotated, positions)?;
        }
    }
    let mut expected = Shape::from_slice(q);
    if let Some(last) = expected.last_mut() {
        *last = spec.head_dim_v;
    }
    if out != expected.as_slice() {
        let expected = expected.as_slice().into();
        return Err(CoreError::ShapeMismatch { what: "out", expected, got: out.into() });
    }
    if out_dtype != DType::F32 {
        return Err(CoreError::DTypeMismatch { what: "out", expected: DType::F32, got: out_dtype });
    }
    Ok(extents)
}

/// The tokens of lists that are equally long.
///
/// # Errors
/// [`CoreError::Count`].
pub fn equally_long(lengths: &[u32]) -> Result<usize, CoreError> {
    let first = lengths.first().map_or(0, |&n| n as usize);
    match lengths.iter().find(|&&n| n as usize != first) {
        Some(&n) => Err(CoreError::Count { what: "tokens of a list", expected: first, got: n as usize }),
        None => Ok(first),
    }
}
