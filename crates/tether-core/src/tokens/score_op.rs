//! Arithmetic over scores: what is made of leaves until tokens are chosen.

use super::Pool;
use crate::{CoreError, checks};

/// Something that is made of one or two scores, `f32` `[heads, columns]` each.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum ScoreOp {
    /// Each number times a number, and another one added.
    Linear {
        /// The factor.
        by: f32,
        /// What is added.
        plus: f32,
    },
    /// The sum of two, of which the second may have one row for several neighbouring rows of the first.
    Sum,
    /// The product of two, likewise.
    Product,
    /// Each number over the highest of its row, the first and the last ones left out; at most 1 where those are not
    /// higher. Rows without a number above 0 are divided by the least number there is.
    PerHighest {
        /// First columns that do not count.
        first: usize,
        /// Last columns, likewise.
        last: usize,
    },
    /// Columns, times a number.
    Columns {
        /// The first one.
        first: usize,
        /// How many.
        count: usize,
        /// The factor.
        by: f32,
        /// Whether the last one comes first.
        reversed: bool,
    },
    /// Columns before and after those that there are.
    Ends {
        /// Columns before.
        first: usize,
        /// Columns after.
        last: usize,
        /// The number in them; `None` for one above the highest number of all heads.
        score: Option<f32>,
    },
    /// Each column several times.
    Repeat {
        /// How often; the last one as often as columns are left.
        times: usize,
        /// Columns that there are to be.
        columns: usize,
    },
    /// Smoothed along the columns.
    Smooth(Pool),
    /// The softmax over the columns of each head.
    Softmax,
    /// The rank in its block of columns, as a share of the block: 0 for the lowest, of equal ones for the first.
    Rank {
        /// Columns of a block; the last one may be shorter.
        size: usize,
    },
    /// The mean over heads, for each of them.
    HeadMean,
    /// One column: 0 for a head whose numbers are all finite, and no number for another.
    Finite,
    /// The first of two, but the largest finite number in the `count` columns that are best by the second: the
    /// `first` and the `last` ones, and the highest between them, of equal ones the earlier.
    Raise {
        /// Columns that are raised.
        count: usize,
        /// First columns that are among them whatever their scores.
        first: usize,
        /// Last columns, likewise.
        last: usize,
    },
    /// Means over all heads and over spans of `size` columns: one row.
    SpanMeans {
        /// Columns before the first span.
        first: usize,
        /// Columns of a span; the last one may be shorter.
        size: usize,
        /// Columns before which the last span ends.
        end: usize,
    },
    /// All numbers in one row, those of a column next to each other.
    Interleaved,
}

impl ScoreOp {
    /// Scores that it is made of.
    pub fn inputs(&self) -> usize {
        match self {
            Self::Sum | Self::Product | Self::Raise { .. } => 2,
            _ => 1,
        }
    }

    /// The shape of what comes out, of what goes in.
    ///
    /// # Errors
    /// [`CoreError::ShapeMismatch`] for scores that are no table, [`CoreError::Count`] for another number of scores,
    /// or for columns that are not there, [`CoreError::Geometry`] for spans, blocks and smoothing windows of no
    /// columns.
    pub fn shape(&self, of: &[&[usize]]) -> Result<[usize; 2], CoreError> {
        if of.len() != self.inputs() {
            return Err(CoreError::Count { what: "scores", expected: self.inputs(), got: of.len() });
        }
        let table = |shape: &[usize]| {
            <[usize; 2]>::try_from(shape).map_err(|_| CoreError::ShapeMismatch {
                what: "scores",
                expected: [0, 0].into(),
                got: shape.into(),
            })
        };
        let [heads, columns] = table(of[0])?;
        if let Some(second) = of.get(1) {
            let second = table(second)?;
            let several = matches!(self, Self::Sum | Self::Product)
                && second[1] == columns
                && second[0] > 0
                && heads.is_multiple_of(second[0]);
            if second != [heads, columns] && !several {
                let (expected, got) = ([heads, columns].into(), second.into());
                return Err(CoreError::ShapeMismatch { what: "scores", expected, got });
            }
        }
        let within = |most: usize| match most <= columns {
            true => Ok(()),
            false => Err(CoreError::Count { what: "columns of scores", expected: most, got: columns }),
        };
        let some = |field, value: usize| checks::setting(value > 0, field, value, "must be at least 1");
        match *self {
            Self::Columns { first, count, .. } => {
                within(first.saturating_add(count)).map(|()| [heads, count])
            }
            Self::Ends { first, last, .. } => Ok([heads, first + columns + last]),
            Self::Repeat { times, columns: all } => {
                some("times", times)?;
                within(all.div_ceil(times)).map(|()| [heads, all])
            }
            Self::Smooth(over) => {
                let size = over.size();
                checks::setting(!size.is_multiple_of(2), "smoothing", size, "must be odd")?;
                Ok([heads, columns])
            }
            Self::PerHighest { first, last } => within(first.saturating_add(last)).map(|()| [heads, columns]),
            Self::Rank { size } => some("size", size).map(|()| [heads, columns]),
            Self::Finite => Ok([heads, 1]),
            Self::Raise { count, first, last } => {
                within(count.max(first.saturating_add(last))).map(|()| [heads, columns])
            }
            Self::SpanMeans { first, size, end } => {
                some("size", size)?;
                within(end).map(|()| [1, end.saturating_sub(first).div_ceil(size)])
            }
            Self::Interleaved => Ok([1, heads * columns]),
            Self::Linear { .. } | Self::Sum | Self::Product | Self::Softmax | Self::HeadMean => {
                Ok([heads, columns])
            }
        }
    }

    /// What comes out, on the host. `of` are numbers of the shape `[heads, columns]`, which [`ScoreOp::shape`] has
    /// seen.
    pub fn apply(&self, of: &[&[f32]], [heads, columns]: [usize; 2]) -> Vec<f32> {
        let [x, y] = [of[0], of.get(1).copied().unwrap_or_default()];
        let rows = || x.chunks_exact(columns.max(1)).take(heads);
        match *self {
            Self::Linear { by, plus } => x.iter().map(|x| x * by + plus).collect(),
            Self::Sum => x.iter().zip(repeated(y, x.len(), columns)).map(|(x, y)| x + y).collect(),
            Self::Product => x.iter().zip(repeated(y, x.len(), columns)).map(|(x, y)| x * y).collect(),
            Self::PerHighest { first, last } => {
                let of_row = |row: &[f32]| {
                    let highest = row[first..row.len() - last].iter().copied().fold(0.0, f32::max);
                    row.iter().map(|x| x / highest.max(f32::MIN_POSITIVE)).collect::<Vec<_>>()
                };
                rows().flat_map(of_row).collect()
            }
            Self::Columns { first, count, by, reversed } => {
                let column = move |i: usize| first + if reversed { count - 1 - i } else { i };
                rows().flat_map(|row| (0..count).map(move |i| row[column(i)] * by)).collect()
            }
            Self::Ends { first, last, score } => {
                let above = || x.iter().copied().reduce(f32::max).unwrap_or(0.0) + 1.0;
                let end = score.unwrap_or_else(above);
                let of_head = |head: usize| {
                    let row = x[head * columns..][..columns].iter().copied();
                    let ends = |count| std::iter::repeat_n(end, count);
                    ends(first).chain(row).chain(ends(last))
                };
                (0..heads).flat_map(of_head).collect()
            }
            Self::Repeat { times, columns: all } => {
                rows().flat_map(|row| (0..all).map(move |i| row[i / times])).collect()
            }
            Self::Smooth(over) => rows().flat_map(|row| over.smoothed(row)).collect(),
            Self::Softmax => rows().flat_map(softmax).collect(),
            Self::Rank { size } => rows().flat_map(|row| row.chunks(size).flat_map(ranks)).collect(),
            Self::HeadMean => {
                let mut sums = vec![0f64; columns];
                rows().for_each(|row| sums.iter_mut().zip(row).for_each(|(s, &x)| *s += f64::from(x)));
                let means: Vec<f32> = sums.into_iter().map(|s| (s / heads as f64) as f32).collect();
                means.repeat(heads)
            }
            Self::Finite => {
                let of_head = |head: usize| x[head * columns..][..columns].iter().map(|x| x * 0.0).sum();
                (0..heads).map(of_head).collect()
            }
            Self::Raise { count, first, last } => {
                let of_head = |(row, by): (&[f32], &[f32])| raised(row, by, count, (first, last));
                rows().zip(y.chunks_exact(columns.max(1))).flat_map(of_head).collect()
            }
            Self::SpanMeans { first, size, end } => {
                let of_span = |start: usize| {
                    let span = start..end.min(start + size);
                    let total: f64 = rows().map(|row| sum(&row[span.clone()])).sum();
                    (total / (heads * span.len()) as f64) as f32
                };
                (first..end).step_by(size).map(of_span).collect()
            }
            Self::Interleaved => {
                (0..columns).flat_map(|c| (0..heads).map(move |head| x[head * columns + c])).collect()
            }
        }
    }
}

/// Rows of `columns` numbers, each as often in turn as makes `len` numbers of them.
fn repeated(rows: &[f32], len: usize, columns: usize) -> impl Iterator<Item = f32> {
    let times = len / rows.len().max(1);
    rows.chunks_exact(columns.max(1)).flat_map(move |row| std::iter::repeat_n(row, times).flatten().copied())
}

fn sum(row: &[f32]) -> f64 {
    row.iter().map(|&x| f64::from(x)).sum()
}

fn softmax(row: &[f32]) -> Vec<f32> {
    let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weigh = |&x: &f32| (f64::from(x) - f64::from(highest)).exp();
    let total: f64 = row.iter().map(weigh).sum();
    row.iter().map(|x| (weigh(x) / total) as f32).collect()
}

/// The rank of each number, as a share of them.
fn ranks(block: &[f32]) -> Vec<f32> {
    let mut order: Vec<usize> = (0..block.len()).collect();
    // -0 equals 0.
    order.sort_by(|&a, &b| (block[a] + 0.0).total_cmp(&(block[b] + 0.0)));
    let mut ranks = vec![0f32; block.len()];
    order.iter().enumerate().for_each(|(rank, &at)| ranks[at] = rank as f32 / block.len() as f32);
    ranks
}

fn raised(row: &[f32], by: &[f32], count: usize, (first, last): (usize, usize)) -> Vec<f32> {
    let mut row = row.to_vec();
    let between = first..row.len() - last;
    let mut order: Vec<usize> = between.clone().collect();
    // -0 equals 0.
    order.sort_by(|&a, &b| (by[b] + 0.0).total_cmp(&(by[a] + 0.0)));
    order.truncate(count.saturating_sub(first + last));
    let (before, after) = (0..first, between.end..row.len());
    before.chain(after).chain(order).for_each(|at| row[at] = f32::MAX);
    row
}
