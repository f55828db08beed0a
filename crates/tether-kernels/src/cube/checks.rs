//! What an engine checks before it launches anything.

use tether_core::{CoreError, SlotId};

use super::CubeTensor;

/// Fails when a slot lies outside a store of `count` slots.
pub(super) fn check_slots<'s>(
    count: usize,
    slots: impl IntoIterator<Item = &'s SlotId>,
) -> Result<(), CoreError> {
    match slots.into_iter().find(|s| s.index() >= count) {
        Some(&slot) => Err(CoreError::NoSuchSlot { slot, slots: count }),
        None => Ok(()),
    }
}

pub(super) fn expect_count(what: &'static str, expected: usize, got: usize) -> Result<(), CoreError> {
    if expected == got { Ok(()) } else { Err(CoreError::Count { what, expected, got }) }
}

/// `(sequences, tokens, heads)` of `[tokens, heads, dim]` or `[sequences, tokens, heads, dim]`.
pub(super) fn query_extents(
    q: &CubeTensor,
    dim: usize,
    kv_heads: usize,
) -> Result<(usize, usize, usize), CoreError> {
    let (sequences, tokens, heads) = match *q.shape() {
        [tokens, heads, d] if d == dim => (1, tokens, heads),
        [sequences, tokens, heads, d] if d == dim => (sequences, tokens, heads),
        ref got => {
            let expected = [0, kv_heads, dim].into();
            return Err(CoreError::ShapeMismatch { what: "q", expected, got: got.into() });
        }
    };
    if heads == 0 || !heads.is_multiple_of(kv_heads) {
        let requirement = "must be a multiple of kv_heads";
        return Err(CoreError::Geometry { field: "query_heads", value: heads, requirement });
    }
    Ok((sequences, tokens, heads))
}
