//! Tokens that change their position while they are held.
//!
//! What counts for attention is how far a token stands from a query. So what stays does not move to `0, 1, ..`, with queries counted anew, but up to
//! the position of the token that comes next: the distances are the same, a caller's positions go on as they were, and the newest tokens, which are most
//! of what stays, do not move at all.

use std::collections::BTreeMap;
use std::sync::Arc;

use tether_core::{Side, TokenEngine};
use tether_edit::tokens::TokenEdit;
use tether_rope::{Angles, TokenRope, turned};
use tether_score::ScoreError;

use super::TokenCache;
use super::blocks::HeadList;
use crate::Error;
use crate::tokens::TokenPlan;

/// A key as it came, rotated to `position`. One that moves is always turned from this: every turn of a stored key would round it again.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Home {
    position: i32,
    key: Vec<f32>,
}

/// Keys of moved tokens as they came, by where the tokens stand now.
pub(super) type Homes = BTreeMap<i32, Arc<Home>>;

/// Bytes of the keys.
pub(super) fn bytes_of(homes: &Homes) -> u64 {
    homes.values().map(|home| size_of_val(home.key.as_slice()) as u64).sum()
}

/// What a plan moves in one head.
#[derive(Debug, Default)]
pub(super) struct HeadMoves {
    /// Positions of all that stay, and the homes of those that have moved, now or before.
    pub positions: Vec<i32>,
    pub homes: Homes,
    /// Places, among what stays, of what moves now, ascending, and its keys one after the other.
    pub places: Vec<usize>,
    pub keys: Vec<f32>,
}

impl<E: TokenEngine> TokenCache<E> {
    /// The rotation that turns keys, where it fits them and a token's one position is all that it takes.
    pub(super) fn rope(&self) -> Result<&TokenRope, ScoreError> {
        let rope = self.facts.rope.as_ref().ok_or(ScoreError::Missing { what: "the model's rotation" })?;
        if rope.axes() > 1 {
            return Err(ScoreError::Axes { axes: rope.axes() });
        }
        let (most, pairs) = (self.geometry.head_dim_k / 2, rope.frequencies().len());
        if pairs > most {
            return Err(ScoreError::Count { what: "rotary frequencies", expected: most, got: pairs });
        }
        Ok(rope)
    }

    /// Where the plan leaves the tokens of each head; nothing is changed yet. None where the recipe moves no tokens.
    pub(super) fn moves(
        &self,
        heads: &[HeadList],
        plan: &TokenPlan,
    ) -> Result<Option<Vec<HeadMoves>>, Error> {
        let Some(planned) = &plan.positions else { return Ok(None) };
        let (rope, dim) = (self.rope()?, self.geometry.head_dim_k);
        // Without evictions while a text grows, nothing moves twice; and what is read of a retained text is chosen from the text as it came.
        let again = self.planner.recipe().decode.is_some() && !plan.retain;
        // A merged key is another key, at home where it is.
        let merged = |head: usize, token: u32| {
            plan.edits.iter().any(|e| matches!(e, TokenEdit::Merge(m) if m.head == head && m.into == token))
        };
        let mut all = Vec::with_capacity(heads.len());
        for (number, (head, (set, planned))) in
            heads.iter().zip(plan.keep.sets().iter().zip(planned)).enumerate()
        {
            // The plan counts from 0; here the last of them stands before the token that comes next.
            let up = head.positions.last().zip(planned.last()).map_or(0, |(last, planned)| last - planned);
            let mut moves = HeadMoves::default();
            let (mut homes, mut unread, mut deltas) = (Vec::new(), Vec::new(), Vec::new());
            for (place, &token) in set.iter().enumerate() {
                let old = head.positions[token as usize];
                let new = up + planned[place];
                moves.positions.push(new);
                let home = head.homes.get(&old).filter(|_| !merged(number, token)).cloned();
                if new == old {
                    moves.homes.extend(home.map(|h| (new, h)));
                    continue;
                }
                if home.is_none() {
                    unread.push(token);
                }
                moves.places.push(place);
                homes.push((old, new, home));
            }
            let read = match unread.as_slice() {
                [] => Vec::new(),
                unread => self.tokens_of(plan.layer, Side::Keys, head, unread)?,
            };
            let mut read = read.chunks_exact(dim);
            for (old, new, home) in homes {
                let home = home.unwrap_or_else(|| {
                    Arc::new(Home { position: old, key: read.next().unwrap_or_default().to_vec() })
                });
                moves.keys.extend_from_slice(&home.key);
                deltas.push(new - home.position);
                if again {
                    moves.homes.insert(new, home);
                }
            }
            if !deltas.is_empty() {
                moves.keys =
                    turned(std::mem::take(&mut moves.keys), dim, &rope.by(&[&deltas]), Angles::Exact)?;
            }
            all.push(moves);
        }
        Ok(Some(all))
    }
}
