//! The highest scores.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};
use tether_part::Settings;

use crate::ScoreError;
use crate::tokens::{HeadShare, Protected, SelectScope, SelectTokens};

/// The highest scores, of each head or, where heads share a budget by score, of all heads together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopK {}

impl Settings for TopK {
    const KIND: &'static str = "top-k";
}

impl SelectTokens for TopK {
    fn scope(&self) -> SelectScope {
        SelectScope::Joint
    }

    fn keeps_highest(&self) -> bool {
        true
    }

    fn choose(&self, rows: &[&[f32]], share: HeadShare) -> Result<Vec<u32>, ScoreError> {
        Ok(best(rows.first().copied().unwrap_or_default(), share.kept, share.protected))
    }
}

/// The `kept` best of `scores`, in no order, the protected ones always among them.
pub(in crate::tokens) fn best(scores: &[f32], kept: usize, protected: Protected) -> Vec<u32> {
    let tokens = scores.len();
    let kept = kept.min(tokens);
    let protected = protected.within(kept, tokens);
    let key = |&t: &u32| (!protected.holds(t as usize, tokens), Reverse(Ranked(scores[t as usize])), t);
    let mut order: Vec<u32> = (0..tokens as u32).collect();
    if kept < tokens {
        order.select_nth_unstable_by_key(kept, key);
        order.truncate(kept);
    }
    order
}

/// The best tokens of all heads together, `kept` a head on average: the `least` best of each head, then whatever scores highest.
pub(in crate::tokens) fn across_heads(
    rows: &[&[f32]],
    kept: usize,
    least: usize,
    protected: Protected,
) -> Vec<Vec<u32>> {
    let forced = |row: &&[f32]| {
        let ends = protected.within(kept, row.len());
        best(row, least.max(ends.sink + ends.recent).min(kept), protected)
    };
    let mut sets: Vec<Vec<u32>> = rows.iter().map(forced).collect();
    let mut open: Vec<(Reverse<Ranked>, u32, usize)> = Vec::with_capacity(rows.iter().map(|r| r.len()).sum());
    for (head, row) in rows.iter().enumerate() {
        let mut forced = vec![false; row.len()];
        sets[head].iter().for_each(|&t| forced[t as usize] = true);
        let rest = row.iter().enumerate().filter(|(t, _)| !forced[*t]);
        open.extend(rest.map(|(t, &s)| (Reverse(Ranked(s)), t as u32, head)));
    }
    let room = (rows.len() * kept).saturating_sub(sets.iter().map(Vec::len).sum());
    if room < open.len() {
        open.select_nth_unstable(room);
        open.truncate(room);
    }
    open.into_iter().for_each(|(_, token, head)| sets[head].push(token));
    sets
}

/// A finite score, ordered; -0 equals 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ranked(pub(super) f32);

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ranked {}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0 + 0.0).total_cmp(&(other.0 + 0.0))
    }
}
