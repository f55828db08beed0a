//! Plans carried out on host arrays: what a trace's replay writes, and what any cache must agree with.

use tether_edit::tokens::{Compensation, TokenEdit, apply_merges};
use tether_rope::{Angles, TokenRope, turned};
use tether_score::ScoreError;
use tether_score::tokens::TokenObservation;

use super::{StoredKeys, TokenPlan};
use crate::Error;

/// What one head keeps.
#[derive(Clone, Debug, PartialEq)]
pub struct KeptHead {
    /// Rotated keys, `[kept, head_dim_k]`, at their new positions.
    pub keys: Vec<f32>,
    /// Values, `[kept, head_dim_v]`.
    pub values: Vec<f32>,
    /// Positions.
    pub positions: Vec<i32>,
    /// The token that stands for those that left, where the recipe has one.
    pub compensation: Option<Compensation>,
}

/// Edits, gathers and moves keys and values as `plan` says. Keys that move turn by the difference, or are turned from the raw ones with
/// [`StoredKeys::PreRope`].
///
/// # Errors
/// [`Error::Score`] for what was not recorded, [`Error::Edit`], [`Error::Rope`]; [`tether_score::ScoreError::Missing`] without a `rope` for a
/// plan that moves tokens.
pub fn kept_heads(
    plan: &TokenPlan,
    seen: &dyn TokenObservation,
    rope: Option<&TokenRope>,
    stored: StoredKeys,
    angles: Angles,
) -> Result<Vec<KeptHead>, Error> {
    let (tokens, dims) = (seen.tokens(), (seen.head_dim_k(), seen.head_dim_v()));
    let moves = plan.positions.is_some();
    let raw = moves && stored == StoredKeys::PreRope;
    let mut keys = if raw { seen.raw_keys()? } else { seen.keys()? }.into_owned();
    let mut values = seen.values()?.into_owned();
    let mut merges = Vec::new();
    // Heads of the plan are query heads where a recipe repeats keys for them.
    let repeat = (plan.keep.heads() / seen.kv_heads().max(1)).max(1);
    let mut compensations: Vec<Option<Compensation>> = vec![None; plan.keep.heads()];
    for edit in &plan.edits {
        match edit {
            TokenEdit::Merge(merge) => merges.push(merge.clone()),
            &TokenEdit::MergeSimilar { head, .. } | &TokenEdit::Compensate { head } => {
                let Some(slot) = compensations.get_mut(head) else { continue };
                let (keys, values) = (seen.keys()?, seen.values()?);
                let keys = &keys[head / repeat * tokens * dims.0..][..tokens * dims.0];
                let values = &values[head / repeat * tokens * dims.1..][..tokens * dims.1];
                match edit {
                    TokenEdit::MergeSimilar { by, .. } => {
                        merges.extend(by.plan(head, keys, values, dims, plan.keep.head(head))?);
                    }
                    _ => {
                        *slot = Compensation::of(head, keys, values, dims, &plan.keep.evicted(head, tokens))?;
                    }
                }
            }
        }
    }
    if !merges.is_empty() {
        apply_merges(&mut keys, &mut values, tokens, dims, &merges)?;
    }
    let mut kept = Vec::with_capacity(plan.keep.heads());
    for (head, set) in plan.keep.sets().iter().enumerate() {
        let gather = |data: &[f32], dim: usize| -> Vec<f32> {
            let data = &data[head / repeat * tokens * dim..][..tokens * dim];
            set.iter().flat_map(|&t| &data[t as usize * dim..][..dim]).copied().collect()
        };
        let old: Vec<i32> = set.iter().map(|&t| seen.positions(head / repeat)[t as usize]).collect();
        let mut head_keys = gather(&keys, dims.0);
        let positions = match plan.positions.as_ref().map(|p| &p[head]) {
            None => old,
            Some(new) => {
                let rope = rope.ok_or(ScoreError::Missing { what: "rotary frequencies" })?;
                let deltas: Vec<i32> = new.iter().zip(&old).map(|(new, old)| new - old).collect();
                head_keys = if raw {
                    turned(head_keys, dims.0, &rope.to_positions(&[new.as_slice()]), angles)?
                } else {
                    turned(head_keys, dims.0, &rope.by(&[deltas.as_slice()]), angles)?
                };
                new.clone()
            }
        };
        kept.push(KeptHead {
            keys: head_keys,
            values: gather(&values, dims.1),
            positions,
            compensation: compensations[head].take(),
        });
    }
    Ok(kept)
}
