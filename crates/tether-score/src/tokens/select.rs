//! From scores to the tokens that stay.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

use super::{HeadScores, HeadShare, HeadShares, KeepSets, Protected};
use crate::ScoreError;
use crate::tokens::scorer::at_least;

/// A way to choose tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum TokenSelector {
    /// The highest scores.
    TopK {},
    /// Whole pages of consecutive tokens, of each head those with the highest mean scores, the protected tokens' pages first (Quest,
    /// arXiv:2406.10774). A share that is smaller than a page goes to the highest scores.
    Pages {
        /// Tokens of a page.
        size: usize,
    },
    /// Whole chunks of consecutive tokens, the same in all heads (`ChunkKV`, arXiv:2502.00299).
    Chunks {
        /// Tokens of a chunk.
        length: usize,
    },
    /// Whole windows of consecutive tokens before the protected last ones, the same in all heads (`WindowKV`, arXiv:2503.17922).
    Windows {
        /// Tokens of a window.
        size: usize,
    },
    /// A number of blocks of consecutive tokens between the protected ones, the same in all heads, in runs of `chunk` blocks (`ReKV`,
    /// arXiv:2503.00540). Tokens at the end that do not fill a block stay.
    Blocks {
        /// Tokens of a block.
        size: usize,
        /// Blocks that stay.
        top: usize,
        /// Neighbouring blocks that are chosen together; `top` is a multiple.
        chunk: usize,
    },
    /// What the published code of Elastic Cache keeps: between the first tokens and the last one, the places at which the order of scores
    /// happens to hold a large number. For comparison only.
    ElasticOfficial {},
}

impl TokenSelector {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`ScoreError::Setting`].
    pub fn validate(&self) -> Result<(), ScoreError> {
        match *self {
            Self::TopK {} | Self::ElasticOfficial {} => Ok(()),
            Self::Chunks { length } => at_least("select.length", length, 1),
            Self::Windows { size } | Self::Pages { size } => at_least("select.size", size, 1),
            Self::Blocks { size, top, chunk } => {
                at_least("select.size", size, 1)?;
                at_least("select.chunk", chunk, 1)?;
                if top.is_multiple_of(chunk) {
                    return Ok(());
                }
                let requirement = "must be a multiple of select.chunk";
                Err(ScoreError::Setting { setting: "select.top", value: top as f32, requirement })
            }
        }
    }

    /// Tokens that it keeps of `tokens` where the budget does not say.
    pub fn tokens(&self, protected: Protected, tokens: usize) -> Option<usize> {
        match *self {
            Self::Blocks { size, top, .. } => {
                let between = tokens.saturating_sub(protected.sink + protected.recent);
                let blocks = (between / size.max(1)).min(top);
                Some(tokens - between + blocks * size + between % size.max(1))
            }
            _ => None,
        }
    }

    /// True when all heads keep the same tokens, and so equally many.
    pub fn is_shared(&self) -> bool {
        !matches!(self, Self::TopK {} | Self::Pages { .. })
    }

    /// True when tokens of different heads may compete for one share.
    pub fn is_joint(&self) -> bool {
        matches!(self, Self::TopK {})
    }

    /// What stays: no head keeps more than its share, and the protected tokens are among it. Equal scores: the earlier token stays.
    ///
    /// # Errors
    /// [`ScoreError::Setting`]; [`ScoreError::Count`] when there are not as many shares as heads, or when heads must agree and have shares that
    /// differ.
    pub fn select(&self, scores: &HeadScores, shares: &HeadShares) -> Result<KeepSets, ScoreError> {
        self.validate()?;
        let heads = scores.heads();
        let shares = match shares {
            HeadShares::Each(shares) if shares.len() == heads => shares,
            HeadShares::Each(shares) => {
                return Err(ScoreError::Count { what: "shares", expected: heads, got: shares.len() });
            }
            HeadShares::Together { .. } if self.is_joint() => {
                let rows: Vec<&[f32]> = scores.rows().collect();
                return Ok(KeepSets::new(self.each_or_together(&rows, shares)));
            }
            HeadShares::Together { .. } => {
                return Err(ScoreError::Count { what: "shares", expected: heads, got: 1 });
            }
        };
        let Some(&first) = shares.first() else { return Ok(KeepSets::default()) };
        if self.is_shared()
            && let Some(other) = shares.iter().find(|s| **s != first)
        {
            return Err(ScoreError::Count {
                what: "tokens of every head",
                expected: first.kept,
                got: other.kept,
            });
        }
        let tokens = scores.tokens();
        let one = HeadShare { kept: first.kept.min(tokens), ..first };
        Ok(match *self {
            Self::TopK {} | Self::Pages { .. } => {
                KeepSets::new(scores.rows().zip(shares).map(|(row, s)| self.of_head(row, *s)).collect())
            }
            Self::Chunks { length } => KeepSets::shared(heads, chunks(scores, length, one)),
            Self::Windows { size } => KeepSets::shared(heads, windows(scores, size, one)),
            Self::Blocks { size, top, chunk } => {
                KeepSets::shared(heads, blocks(scores, (size, top, chunk), one))
            }
            Self::ElasticOfficial {} => KeepSets::shared(heads, elastic_official(scores.head(0), one)),
        })
    }

    /// [`TokenSelector::select`] for heads that hold different numbers of tokens: scores of one head each.
    ///
    /// # Errors
    /// [`ScoreError::Count`] for a selector that keeps the same tokens in all heads, for scores of more than one head, and when there are not
    /// as many shares as heads.
    pub fn select_ragged(&self, scores: &[HeadScores], shares: &HeadShares) -> Result<KeepSets, ScoreError> {
        self.validate()?;
        let count = |what, expected, got| Err(ScoreError::Count { what, expected, got });
        if self.is_shared() {
            return count("different lengths of heads that keep the same tokens", 0, scores.len());
        }
        if let Some(other) = scores.iter().find(|s| s.heads() != 1) {
            return count("heads of a head's scores", 1, other.heads());
        }
        if let HeadShares::Each(shares) = shares
            && shares.len() != scores.len()
        {
            return count("shares", scores.len(), shares.len());
        }
        if matches!(shares, HeadShares::Together { .. }) && !self.is_joint() {
            return count("shares", scores.len(), 1);
        }
        let rows: Vec<&[f32]> = scores.iter().map(HeadScores::values).collect();
        Ok(KeepSets::new(self.each_or_together(&rows, shares)))
    }

    /// The best of each row, or of all rows together.
    fn each_or_together(&self, rows: &[&[f32]], shares: &HeadShares) -> Vec<Vec<u32>> {
        match shares {
            HeadShares::Each(shares) => {
                rows.iter().zip(shares).map(|(row, s)| self.of_head(row, *s)).collect()
            }
            &HeadShares::Together { kept, least, protected } => across_heads(rows, kept, least, protected),
        }
    }

    /// What one head keeps where heads choose on their own.
    fn of_head(&self, scores: &[f32], share: HeadShare) -> Vec<u32> {
        match *self {
            Self::Pages { size } if size <= share.kept => pages(scores, size, share),
            _ => best(scores, share.kept, share.protected),
        }
    }
}

/// The `kept` best of `scores`, in no order, the protected ones always among them.
pub(super) fn best(scores: &[f32], kept: usize, protected: Protected) -> Vec<u32> {
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
fn across_heads(rows: &[&[f32]], kept: usize, least: usize, protected: Protected) -> Vec<Vec<u32>> {
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

/// The means of the spans `[start, end)` over their tokens, of sums over heads.
fn span_means<'a>(
    rows: impl Iterator<Item = &'a [f32]> + Clone,
    spans: &[std::ops::Range<usize>],
) -> Vec<f64> {
    let sum = |span: &std::ops::Range<usize>| -> f64 {
        rows.clone().map(|row| row[span.clone()].iter().map(|&x| f64::from(x)).sum::<f64>()).sum()
    };
    spans.iter().map(|span| sum(span) / span.len().max(1) as f64).collect()
}

/// The protected tokens and then the spans in `order`, at most `count` of them, as long as they fit.
fn fill(
    share: HeadShare,
    tokens: usize,
    spans: &[std::ops::Range<usize>],
    order: &[usize],
    count: usize,
) -> Vec<u32> {
    let protected = share.protected.within(share.kept, tokens);
    let mut kept = vec![false; tokens];
    (0..tokens).filter(|&t| protected.holds(t, tokens)).for_each(|t| kept[t] = true);
    let mut room = share.kept - kept.iter().filter(|k| **k).count();
    for span in order.iter().take(count).map(|&i| spans[i].clone()) {
        let cost = kept[span.clone()].iter().filter(|k| !**k).count();
        if cost > room {
            break;
        }
        room -= cost;
        kept[span].fill(true);
    }
    (0..tokens as u32).filter(|&t| kept[t as usize]).collect()
}

/// Spans of `length` that cover `0..tokens`, the last one shorter.
fn spans(tokens: usize, length: usize) -> Vec<std::ops::Range<usize>> {
    (0..tokens).step_by(length).map(|start| start..tokens.min(start + length)).collect()
}

/// Indices of `means`, the highest first; equal ones in order.
fn descending(means: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..means.len()).collect();
    order.sort_by(|&a, &b| means[b].total_cmp(&means[a]).then(a.cmp(&b)));
    order
}

fn pages(scores: &[f32], size: usize, share: HeadShare) -> Vec<u32> {
    let tokens = scores.len();
    let share = HeadShare { kept: share.kept.min(tokens), ..share };
    let protected = share.protected.within(share.kept, tokens);
    let spans = spans(tokens, size);
    let mut order = descending(&span_means(std::iter::once(scores), &spans));
    order.sort_by_key(|&page| !spans[page].clone().any(|t| protected.holds(t, tokens)));
    fill(share, tokens, &spans, &order, spans.len())
}

fn chunks(scores: &HeadScores, length: usize, share: HeadShare) -> Vec<u32> {
    let tokens = scores.tokens();
    let spans = spans(tokens, length);
    let order = descending(&span_means(scores.rows(), &spans));
    let count = (spans.len() as f64 * share.kept as f64 / tokens.max(1) as f64 + 1e-9) as usize;
    fill(share, tokens, &spans, &order, count.max(1))
}

fn windows(scores: &HeadScores, size: usize, share: HeadShare) -> Vec<u32> {
    let tokens = scores.tokens();
    let protected = share.protected.within(share.kept, tokens);
    let review = tokens - protected.recent;
    let spans = spans(review, size);
    let order = descending(&span_means(scores.rows(), &spans));
    let dropped = (review - (share.kept - protected.recent).min(review)).div_ceil(size);
    fill(share, tokens, &spans, &order, spans.len().saturating_sub(dropped))
}

fn blocks(scores: &HeadScores, (size, top, chunk): (usize, usize, usize), share: HeadShare) -> Vec<u32> {
    let tokens = scores.tokens();
    let protected = share.protected.within(share.kept, tokens);
    let between = tokens - protected.sink - protected.recent;
    let whole = between / size * size;
    // What does not fill a block is as recent as what follows it.
    let tail = protected.recent + between - whole;
    let share = HeadShare { protected: Protected { recent: tail, ..share.protected }, ..share };
    let mut spans = spans(whole, size * chunk);
    spans.iter_mut().for_each(|s| *s = s.start + protected.sink..s.end + protected.sink);
    let order = descending(&span_means(scores.rows(), &spans));
    let count = if whole <= top * size { spans.len() } else { top / chunk };
    fill(share, tokens, &spans, &order, count)
}

/// See [`TokenSelector::ElasticOfficial`]: first tokens, a middle, and the last token.
fn elastic_official(scores: &[f32], share: HeadShare) -> Vec<u32> {
    let tokens = scores.len();
    let start = share.protected.sink.min(tokens);
    let last = tokens.saturating_sub(1).max(start);
    let forgotten = tokens - share.kept;
    let mut order: Vec<usize> = (start..last).collect();
    order.sort_by(|&a, &b| Ranked(scores[a]).cmp(&Ranked(scores[b])).then(a.cmp(&b)));
    // The order's numbers are taken for ranks.
    let middle = order.iter().enumerate().filter(|(_, at)| **at - start > forgotten);
    let middle = middle.map(|(place, _)| (start + place) as u32);
    (0..start as u32).chain(middle).chain(last as u32..tokens as u32).collect()
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
