//! Positions of the tokens of a list.

use std::sync::OnceLock;

/// Positions, ascending. Those of a text that nothing has left are consecutive and take no memory.
#[derive(Clone, Debug)]
pub(super) struct Positions {
    held: Held,
    /// Consecutive ones, written out for whoever wants to see them.
    written: OnceLock<Vec<i32>>,
}

#[derive(Clone, Debug)]
enum Held {
    Consecutive { first: i32, len: usize },
    Listed(Vec<i32>),
}

impl Default for Positions {
    fn default() -> Self {
        Self::of(Held::Consecutive { first: 0, len: 0 })
    }
}

impl From<Vec<i32>> for Positions {
    fn from(positions: Vec<i32>) -> Self {
        Self::of(Held::Listed(positions))
    }
}

impl Positions {
    fn of(held: Held) -> Self {
        Self { held, written: OnceLock::new() }
    }

    pub(super) fn len(&self) -> usize {
        match &self.held {
            Held::Consecutive { len, .. } => *len,
            Held::Listed(positions) => positions.len(),
        }
    }

    /// The position of token number `token`.
    pub(super) fn at(&self, token: usize) -> i32 {
        match &self.held {
            Held::Consecutive { first, .. } => first + token as i32,
            Held::Listed(positions) => positions[token],
        }
    }

    pub(super) fn first(&self) -> Option<i32> {
        (self.len() > 0).then(|| self.at(0))
    }

    pub(super) fn last(&self) -> Option<i32> {
        self.len().checked_sub(1).map(|last| self.at(last))
    }

    /// The positions of some tokens, ascending.
    pub(super) fn of_tokens(&self, tokens: &[u32]) -> Self {
        let (first, last) = match tokens {
            [] => return Self::default(),
            [first, .., last] => (*first, *last),
            [one] => (*one, *one),
        };
        match &self.held {
            Held::Consecutive { first: start, .. } => {
                if (last - first) as usize + 1 == tokens.len() {
                    return Self::of(Held::Consecutive { first: start + first as i32, len: tokens.len() });
                }
                Self::of(Held::Listed(tokens.iter().map(|&token| start + token as i32).collect()))
            }
            Held::Listed(positions) => {
                Self::of(Held::Listed(tokens.iter().map(|&token| positions[token as usize]).collect()))
            }
        }
    }

    pub(super) fn as_slice(&self) -> &[i32] {
        match &self.held {
            &Held::Consecutive { first, len } => self.written.get_or_init(|| (first..).take(len).collect()),
            Held::Listed(positions) => positions,
        }
    }

    pub(super) fn truncate(&mut self, tokens: usize) {
        self.written = OnceLock::new();
        match &mut self.held {
            Held::Consecutive { len, .. } => *len = tokens.min(*len),
            Held::Listed(positions) => positions.truncate(tokens),
        }
    }

    /// Adds positions after the last one.
    pub(super) fn extend(&mut self, more: &[i32]) {
        let Some(&start) = more.first() else { return };
        self.written = OnceLock::new();
        let (first, len) = match &mut self.held {
            Held::Listed(positions) => return positions.extend_from_slice(more),
            Held::Consecutive { first, len } => (*first, *len),
        };
        let first = if len == 0 { start } else { first };
        let goes_on = more.iter().zip(i64::from(first) + len as i64..).all(|(&p, next)| i64::from(p) == next);
        self.held = if goes_on {
            Held::Consecutive { first, len: len + more.len() }
        } else {
            Held::Listed((first..).take(len).chain(more.iter().copied()).collect())
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn are_those_of_a_list(
            pieces in prop::collection::vec((1..4i32, 1..5usize), 0..6),
            cut in 0..20usize,
            kept in prop::collection::vec(any::<bool>(), 30),
        ) {
            let (mut positions, mut list, mut next) = (Positions::default(), Vec::new(), 0);
            for (step, count) in pieces {
                let first = if list.is_empty() { step } else { next + step - 1 };
                let more: Vec<i32> = (first..).take(count).collect();
                next = first + count as i32;
                positions.extend(&more);
                list.extend(more);
                prop_assert_eq!(positions.as_slice(), &list[..]);
            }
            positions.truncate(cut);
            list.truncate(cut);
            prop_assert_eq!(positions.as_slice(), &list[..]);
            prop_assert_eq!((positions.first(), positions.last()), (list.first().copied(), list.last().copied()));
            let tokens: Vec<u32> = (0..list.len() as u32).filter(|&t| kept[t as usize]).collect();
            let expected: Vec<i32> = tokens.iter().map(|&t| list[t as usize]).collect();
            let some = positions.of_tokens(&tokens);
            prop_assert_eq!(some.as_slice(), &expected[..]);
        }
    }
}
