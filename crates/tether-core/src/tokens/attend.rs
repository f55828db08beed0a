//! Attention of new tokens of any number of sequences over pages: what is asked, and how logits are made of it.

use super::{DecodeProblem, TokenEngine};
use crate::{CoreError, DType, checks};

/// How logits are made, and which tokens a query sees beside the causal ones.
///
/// The logit of a query at position `p` and a key at position `t` is `scale * q.k`, bounded by the soft cap, plus `-slope * (p - t)` of the
/// query head where there are `ALiBi` slopes (arXiv:2108.12409). Without [`PagedKv::positions`] a token's position is its place in the list.
#[derive(Clone, Debug, PartialEq)]
pub struct AttendOptions {
    /// Multiplies `q.k`; usually `1 / sqrt(head_dim_k)`.
    pub scale: f32,
    /// Logits become `cap * tanh(logit / cap)` (Gemma 2).
    pub softcap: Option<f32>,
    /// A query sees keys whose position is less than so many before its own (Mistral): 1 is itself alone.
    pub window: Option<u32>,
    /// A slope for each query head; empty for none.
    pub alibi: Vec<f32>,
    /// For each query head a logit that takes part in the softmax and has no value (gpt-oss); empty for none. The log-sum-exp counts it.
    pub sinks: Vec<f32>,
}

impl AttendOptions {
    /// Plain attention with this scale.
    pub fn scaled(scale: f32) -> Self {
        Self { scale, softcap: None, window: None, alibi: Vec::new(), sinks: Vec::new() }
    }

    /// True when positions matter beside the causal order.
    pub fn uses_positions(&self) -> bool {
        self.window.is_some() || !self.alibi.is_empty()
    }

    /// True for a scale and nothing else.
    pub fn is_plain(&self) -> bool {
        self.softcap.is_none() && self.sinks.is_empty() && !self.uses_positions()
    }

    /// Checks the options against themselves.
    ///
    /// # Errors
    /// [`CoreError::NonFinite`], [`CoreError::Geometry`] for a window of 0 or a soft cap that is not positive.
    pub fn validate(&self) -> Result<(), CoreError> {
        let finite = |what, numbers: &[f32]| match numbers.iter().position(|x| !x.is_finite()) {
            Some(index) => Err(CoreError::NonFinite { what, index }),
            None => Ok(()),
        };
        finite("scale", &[self.scale])?;
        finite("softcap", self.softcap.as_slice())?;
        finite("alibi slopes", &self.alibi)?;
        finite("sink logits", &self.sinks)?;
        let capped = self.softcap.is_none_or(|cap| cap > 0.0);
        checks::setting(capped, "softcap", 0, "must be positive")?;
        checks::setting(self.window != Some(0), "window", 0, "must be at least 1")
    }

    /// Slopes and sinks are those of `query_heads` heads.
    ///
    /// # Errors
    /// [`CoreError::Count`].
    pub fn fit(&self, query_heads: usize) -> Result<(), CoreError> {
        for (what, numbers) in [("alibi slopes", &self.alibi), ("sink logits", &self.sinks)] {
            if !numbers.is_empty() {
                checks::count(what, query_heads, numbers.len())?;
            }
        }
        Ok(())
    }
}

/// Pools of one layer, `[pages, page_size, page_heads, head_dim]`.
#[derive(Debug)]
pub struct PagedKv<'a, E: TokenEngine> {
    /// Rotated keys.
    pub k: &'a E::Tensor,
    /// Values.
    pub v: &'a E::Tensor,
    /// The position of each row, an `i32`'s bits, `[pages, page_size, page_heads]`; what [`AttendOptions::uses_positions`] asks for.
    pub positions: Option<&'a E::Indices>,
}

/// New tokens of any number of sequences, one sequence after the other.
#[derive(Debug)]
pub struct NewQueries<'a, E: TokenEngine> {
    /// Rotated queries, `[tokens, query_heads, head_dim_k]`.
    pub q: &'a E::Tensor,
    /// Where each sequence's tokens begin, and where the last one's end: `sequences + 1` numbers from 0 to `tokens`.
    pub starts: &'a [u32],
    /// The position of each token, an `i32`'s bits, `[tokens]`; where [`PagedKv::positions`] is given.
    pub positions: Option<&'a E::Indices>,
}

/// The tokens of a batch, as `starts` cut it.
///
/// # Errors
/// [`CoreError::Count`] for another number of sequences or tokens, [`CoreError::Geometry`] for a sequence without new tokens.
pub fn check_starts(starts: &[u32], sequences: usize, tokens: usize) -> Result<(), CoreError> {
    checks::count("starts of sequences", sequences + 1, starts.len())?;
    checks::count("tokens of a batch", tokens, starts.last().map_or(0, |&end| end as usize))?;
    checks::count("first start of a batch", 0, starts[0] as usize)?;
    match starts.windows(2).find(|pair| pair[0] >= pair[1]) {
        Some(pair) => {
            let requirement = "must ascend: each sequence of a batch has new tokens";
            Err(CoreError::Geometry { field: "starts", value: pair[1] as usize, requirement })
        }
        None => Ok(()),
    }
}

/// Every list holds the new tokens of its sequence.
///
/// # Errors
/// [`CoreError::Count`].
pub fn check_lengths(starts: &[u32], groups: usize, lengths: &[u32]) -> Result<(), CoreError> {
    let sequences = starts.len().saturating_sub(1);
    for (list, &length) in lengths.iter().enumerate().take(groups * sequences) {
        let sequence = list % sequences;
        let new = starts[sequence + 1] - starts[sequence];
        if length < new {
            let (expected, got) = (new as usize, length as usize);
            return Err(CoreError::Count { what: "tokens of a list", expected, got });
        }
    }
    Ok(())
}

/// Positions of a pool's rows and of new tokens, by their shapes: both or none, a position each.
///
/// # Errors
/// [`CoreError::Count`] when only one of them came, [`CoreError::ShapeMismatch`].
pub fn check_positions(
    problem: &DecodeProblem,
    rows: Option<&[usize]>,
    tokens: Option<&[usize]>,
) -> Result<(), CoreError> {
    checks::count("positions of new tokens", rows.iter().len(), tokens.iter().len())?;
    let pool = [problem.pool_pages, problem.page_size, problem.page_heads];
    let wanted =
        [("positions of rows", rows, &pool[..]), ("positions of tokens", tokens, &[problem.sequences])];
    for (what, got, expected) in wanted {
        if let Some(got) = got.filter(|&got| got != expected) {
            return Err(CoreError::ShapeMismatch { what, expected: expected.into(), got: got.into() });
        }
    }
    Ok(())
}

/// Starts and lengths of lists as those of a sequence for each new token, which sees no token after its own: so that attention of single tokens
/// serves a batch of blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CausalLists {
    /// Where each list begins.
    pub starts: Vec<u32>,
    /// Tokens of each list.
    pub lengths: Vec<u32>,
}

impl CausalLists {
    /// Of a batch that [`check_starts`] and [`check_lengths`] have passed: `lists` are `groups * sequences` starts and lengths.
    pub fn new(batch: &[u32], groups: usize, (starts, lengths): (&[u32], &[u32])) -> Self {
        let sequences = batch.len().saturating_sub(1);
        let mut causal = Self::default();
        for (list, (&start, &length)) in starts.iter().zip(lengths).enumerate().take(groups * sequences) {
            let sequence = list % sequences;
            let new = batch[sequence + 1] - batch[sequence];
            causal.starts.extend(std::iter::repeat_n(start, new as usize));
            causal.lengths.extend(length - new + 1..=length);
        }
        causal
    }
}

/// The problem of a batch: a sequence of the problem for each new token.
///
/// # Errors
/// Those of [`DecodeProblem::new`].
pub fn batch_problem(
    q: &[usize],
    (k, v): (&[usize], &[usize]),
    (page_size, groups, page_bound): (usize, usize, usize),
) -> Result<DecodeProblem, CoreError> {
    let tokens = q.first().copied().unwrap_or(0);
    DecodeProblem::new(q, k, v, (page_size, groups, tokens), page_bound)
}

/// Sums of attention are those of pools of this shape.
///
/// # Errors
/// [`CoreError::ShapeMismatch`], [`CoreError::DTypeMismatch`].
pub fn check_sums(problem: &DecodeProblem, sums: (&[usize], DType)) -> Result<(), CoreError> {
    let expected = [problem.pool_pages, problem.page_size, problem.page_heads, problem.group];
    if sums.0 != expected {
        return Err(CoreError::ShapeMismatch {
            what: "sums of attention",
            expected: expected.into(),
            got: sums.0.into(),
        });
    }
    if sums.1 != DType::F32 {
        let (what, expected) = ("sums of attention", DType::F32);
        return Err(CoreError::DTypeMismatch { what, expected, got: sums.1 });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_sees_what_came_before_it() {
        // Two groups of two sequences, with 2 new tokens and 1.
        let causal = CausalLists::new(&[0, 2, 3], 2, (&[0, 8, 16, 24], &[5, 1, 4, 9]));
        assert_eq!(causal.starts, [0, 0, 8, 16, 16, 24]);
        assert_eq!(causal.lengths, [4, 5, 1, 3, 4, 9]);
    }

    #[test]
    fn batches_are_whole() {
        assert!(check_starts(&[0, 2, 3], 2, 3).is_ok());
        for (starts, sequences, tokens) in
            [(&[0, 2][..], 2, 2), (&[0, 2, 2], 2, 2), (&[1, 2], 1, 2), (&[0, 2], 1, 3), (&[0, 3, 2], 2, 2)]
        {
            assert!(check_starts(starts, sequences, tokens).is_err(), "{starts:?}");
        }
        assert!(check_lengths(&[0, 2], 2, &[2, 3]).is_ok());
        assert!(check_lengths(&[0, 2], 2, &[2, 1]).is_err());
    }

    #[test]
    fn options_are_checked() {
        let plain = AttendOptions::scaled(0.5);
        assert!(plain.validate().is_ok() && plain.is_plain());
        for wrong in [
            AttendOptions { scale: f32::NAN, ..plain.clone() },
            AttendOptions { softcap: Some(0.0), ..plain.clone() },
            AttendOptions { window: Some(0), ..plain.clone() },
            AttendOptions { alibi: vec![f32::INFINITY], ..plain.clone() },
            AttendOptions { sinks: vec![f32::NAN], ..plain.clone() },
        ] {
            assert!(wrong.validate().is_err(), "{wrong:?}");
        }
        assert!(AttendOptions { sinks: vec![0.0; 3], ..plain }.fit(4).is_err());
    }
}
