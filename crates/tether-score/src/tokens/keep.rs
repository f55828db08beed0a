//! What stays, per head.

use serde::{Deserialize, Serialize};

/// Token numbers that stay, ascending, for each head. Heads may keep different numbers of tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeptIndices(Vec<Vec<u32>>);

impl KeptIndices {
    /// Sorts each set and drops repetitions.
    pub fn new(mut sets: Vec<Vec<u32>>) -> Self {
        for set in &mut sets {
            set.sort_unstable();
            set.dedup();
        }
        Self(sets)
    }

    /// Sets that ascend already, as a selection on a device returns them; others are sorted as [`KeptIndices::new`] does.
    pub fn ascending(sets: Vec<Vec<u32>>) -> Self {
        let ascends = |set: &Vec<u32>| set.is_sorted_by(|a, b| a < b);
        if sets.iter().all(ascends) { Self(sets) } else { Self::new(sets) }
    }

    /// All of `tokens` tokens in each of `heads` heads.
    pub fn all(heads: usize, tokens: usize) -> Self {
        Self(vec![(0..tokens as u32).collect(); heads])
    }

    /// The same set for `heads` heads.
    pub fn shared(heads: usize, set: Vec<u32>) -> Self {
        Self::new(vec![set; heads])
    }

    /// Heads.
    pub fn heads(&self) -> usize {
        self.0.len()
    }

    /// The set of one head.
    ///
    /// # Panics
    /// When there is no such head.
    pub fn head(&self, head: usize) -> &[u32] {
        &self.0[head]
    }

    /// The sets.
    pub fn sets(&self) -> &[Vec<u32>] {
        &self.0
    }

    /// How many tokens each head keeps, when all keep equally many.
    pub fn uniform_len(&self) -> Option<usize> {
        let first = self.0.first().map_or(0, Vec::len);
        self.0.iter().all(|s| s.len() == first).then_some(first)
    }

    /// Kept tokens, summed over the heads.
    pub fn total(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    /// The tokens of `head` that do not stay, of `tokens` there are.
    ///
    /// # Panics
    /// When there is no such head.
    pub fn evicted(&self, head: usize, tokens: usize) -> Vec<u32> {
        let mut kept = self.0[head].iter().peekable();
        (0..tokens as u32).filter(|t| kept.next_if_eq(&t).is_none()).collect()
    }
}
