//! Frequencies and how a head's pairs are split between axes.

/// Pairs of a head that turn with each axis, in Wan 2.1's split: rows and columns get a third each (rounded down), time the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AxisSplit {
    /// Pairs that turn with time.
    pub time: usize,
    /// Pairs that turn with the row.
    pub row: usize,
    /// Pairs that turn with the column.
    pub column: usize,
}

impl AxisSplit {
    /// The split of a head of `head_dim` channels: 22, 21 and 21 pairs for 128, as in Wan 2.1.
    pub const fn wan(head_dim: usize) -> Self {
        let pairs = head_dim / 2;
        Self { time: pairs - 2 * (pairs / 3), row: pairs / 3, column: pairs / 3 }
    }
}

/// Angular frequencies of an axis with `pairs` pairs: `theta^(-i / pairs)`, highest first, in radians per position.
pub fn axis_frequencies(theta: f64, pairs: usize) -> impl Iterator<Item = f64> {
    (0..pairs).map(move |i| theta.powf(-(i as f64) / pairs as f64))
}
