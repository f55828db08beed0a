//! Tokens that change their position while they are held.
//!
//! What counts for attention is how far a token stands from a query. So what stays does not move to `0, 1, ..`, with
//! queries counted anew, but up to the position of the token that comes next: the distances are the same, a caller's
//! positions go on as they were, and the newest tokens, which are most of what stays, do not move at all.
//!
//! A key that moves is always rotated from what it was when it came: every rotation of a stored key would round it
//! again. Keys as they came stay on the device, next to each other in one tensor a layer.

use std::collections::BTreeMap;

use tether_core::{CoreError, HostTensor, TokenEngine, TokenLayout};
use tether_edit::tokens::TokenEdit;
use tether_rope::TokenRope;
use tether_score::ScoreError;

use super::TokenCache;
use super::head_pages::HeadPages;
use crate::Error;
use crate::tokens::TokenPlan;

/// A key as it came: its row of the layer's original keys, and the position that it was rotated to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OriginalKey {
    row: u32,
    position: i32,
}

/// Keys of a head's moved tokens as they came, by where the tokens stand now.
pub(super) type OriginalKeys = BTreeMap<i32, OriginalKey>;

/// Where a key that is rotated is read.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// A row of the layer's original keys.
    Original(u32),
    /// A row of the pool of keys.
    Pool(u32),
}

/// What a plan moves in one head.
#[derive(Debug, Default)]
pub(super) struct HeadMoves {
    /// Positions of all that stay, and the originals of those that have moved, now or before.
    pub positions: Vec<i32>,
    pub originals: OriginalKeys,
    /// Tokens that move now, by their number among those that stay, ascending.
    pub moved: Vec<usize>,
}

/// What a plan moves in a layer.
#[derive(Debug)]
pub(super) struct Moves<T> {
    pub heads: Vec<HeadMoves>,
    /// Keys of the tokens that move, rotated to their new positions, head after head `[n, 1, head_dim_k]`; none where
    /// nothing moves.
    pub rotated: Option<T>,
    /// The layer's original keys from then on.
    pub originals: Option<T>,
}

impl<E: TokenEngine> TokenCache<E> {
    /// The rotation of keys, where it fits them and a token's one position is all that it takes.
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

    /// Where the plan leaves the tokens of each head, and their keys; nothing is changed yet. None where the recipe
    /// moves no tokens.
    pub(super) fn moves(
        &self,
        heads: &[HeadPages],
        originals: Option<&E::Tensor>,
        plan: &TokenPlan,
    ) -> Result<Option<Moves<E::Tensor>>, Error> {
        let Some(planned) = &plan.positions else { return Ok(None) };
        let size = self.geometry.block_size;
        // Without evictions while a text grows, nothing moves twice; and what is read of a retained text is chosen
        // from the text as it came.
        let again = self.planner.recipe().decode.is_some() && !plan.retain;
        // A merged key is another key, and as it came where it is.
        let merged = |head: usize, token: u32| {
            plan.edits.iter().any(|e| matches!(e, TokenEdit::Merge(m) if m.head == head && m.into == token))
        };
        let mut all = Moves { heads: Vec::with_capacity(heads.len()), rotated: None, originals: None };
        // Rows that are rotated and by how much, and rows that are original keys from then on.
        let (mut turned, mut deltas, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        for (number, (head, (set, planned))) in
            heads.iter().zip(plan.keep.sets().iter().zip(planned)).enumerate()
        {
            // The plan counts from 0; here the last of them stands before the token that comes next.
            let up = head.positions.last().zip(planned.last()).map_or(0, |(last, planned)| last - planned);
            let mut moves = HeadMoves::default();
            let mut keep = |moves: &mut HeadMoves, new: i32, source: Source, position: i32| {
                moves.originals.insert(new, OriginalKey { row: kept.len() as u32, position });
                kept.push(source);
            };
            for (place, &token) in set.iter().enumerate() {
                let old = head.positions.at(token as usize);
                let new = up + planned[place];
                moves.positions.push(new);
                let original = head.originals.get(&old).filter(|_| !merged(number, token));
                let (source, from) = match original {
                    Some(original) => (Source::Original(original.row), original.position),
                    None => (Source::Pool(head.row(token as usize, size)), old),
                };
                if new == old {
                    if original.is_some() {
                        keep(&mut moves, new, source, from);
                    }
                    continue;
                }
                moves.moved.push(place);
                turned.push(source);
                deltas.push(new - from);
                if again {
                    keep(&mut moves, new, source, from);
                }
            }
            all.heads.push(moves);
        }
        all.originals = self.key_rows(plan.layer, originals, &kept)?;
        if let Some(keys) = self.key_rows(plan.layer, originals, &turned)? {
            let rotation = self.engine.upload_rotation(&self.rope()?.by(&[&deltas]))?;
            all.rotated = Some(self.engine.rotated(&keys, TokenLayout::Nhd, &rotation)?);
        }
        Ok(Some(all))
    }

    /// Keys next to each other, `[n, 1, head_dim_k]`; none where there are none.
    fn key_rows(
        &self,
        layer: usize,
        originals: Option<&E::Tensor>,
        sources: &[Source],
    ) -> Result<Option<E::Tensor>, CoreError> {
        if sources.is_empty() {
            return Ok(None);
        }
        let engine = &self.engine;
        let from_pool = |(i, source): (usize, &Source)| match *source {
            Source::Pool(row) => Ok((i as u32, row)),
            Source::Original(row) => Err((i as u32, row)),
        };
        let (mut pool, mut original) = (Vec::new(), Vec::new());
        for found in sources.iter().enumerate().map(from_pool) {
            match found {
                Ok(pair) => pool.push(pair),
                Err(pair) => original.push(pair),
            }
        }
        let read = |tensor: &E::Tensor, pairs: &[(u32, u32)]| {
            let rows: Vec<u32> = pairs.iter().map(|pair| pair.1).collect();
            engine.read_rows(tensor, &engine.upload_indices(&[rows.len(), 1], &rows)?)
        };
        let keys = &self.layers[layer].k;
        match (original.is_empty(), pool.is_empty(), originals) {
            (true, ..) => read(keys, &pool).map(Some),
            (_, true, Some(tensor)) => read(tensor, &original).map(Some),
            (_, _, tensor) => {
                let g = &self.geometry;
                let zeros = HostTensor::zeros(&[sources.len(), 1, g.head_dim_k], g.dtype)?;
                let mut joined = engine.upload(&zeros)?;
                for (tensor, pairs) in [(Some(keys), pool), (tensor, original)] {
                    let Some(tensor) = tensor else { continue };
                    let to: Vec<u32> = pairs.iter().map(|pair| pair.0).collect();
                    let to = engine.upload_indices(&[to.len(), 1], &to)?;
                    engine.write_rows(&mut joined, &to, &read(tensor, &pairs)?)?;
                }
                Ok(Some(joined))
            }
        }
    }
}
