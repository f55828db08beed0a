//! The tiers of Spherical KV as published (arXiv:2605.18856): groups of channels as a radius and an entry of a trained codebook of directions.

use tether_core::CoreError;

/// A tier of the published scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PublishedTier {
    /// Groups of 16 channels, 64 directions.
    High,
    /// Groups of 16 channels, 16 directions.
    Mid,
    /// Groups of 32 channels, 8 directions.
    Low,
}

impl PublishedTier {
    /// Channels of a group and bits of a direction.
    pub fn shape(self) -> (usize, u32) {
        match self {
            Self::High => (16, 6),
            Self::Mid => (16, 4),
            Self::Low => (32, 3),
        }
    }

    /// Bits of a channel without what pages store once: 8 for a radius, and the direction.
    pub fn bits_per_channel(self) -> f64 {
        let (channels, bits) = self.shape();
        f64::from(8 + bits) / channels as f64
    }
}

/// Directions of each group of channels of one head, by spherical k-means.
#[derive(Clone, Debug)]
pub struct SphericalCodebooks {
    tier: PublishedTier,
    dim: usize,
    /// Group by group, direction by direction.
    directions: Vec<f32>,
}

/// Tokens of a page: radii of a group share a scale in it.
const PAGE: usize = 128;
const ITERATIONS: usize = 25;

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The direction nearest to `x`, the lower of two as near.
fn nearest(directions: &[f32], x: &[f32]) -> usize {
    let mut best = (0, f32::NEG_INFINITY);
    for (i, direction) in directions.chunks_exact(x.len()).enumerate() {
        let along = dot(direction, x);
        if along > best.1 {
            best = (i, along);
        }
    }
    best.0
}

impl SphericalCodebooks {
    /// Trains on a sample `[tokens, dim]`: first directions spread over the sample, each as far as possible from those before it, then Lloyd's iteration.
    ///
    /// # Errors
    /// [`CoreError::Geometry`] for a head that is no whole number of groups, [`CoreError::Count`] for a sample without a token.
    pub fn train(tier: PublishedTier, sample: &[f32], dim: usize) -> Result<Self, CoreError> {
        let (channels, bits) = tier.shape();
        if dim == 0 || !dim.is_multiple_of(channels) {
            let requirement = "must be a multiple of the tier's groups of 16 or 32 channels";
            return Err(CoreError::Geometry { field: "head_dim", value: dim, requirement });
        }
        if sample.len() < dim {
            return Err(CoreError::Count { what: "tokens of a sample", expected: 1, got: 0 });
        }
        let count = 1usize << bits;
        let mut directions = Vec::new();
        for group in 0..dim / channels {
            let units: Vec<Vec<f32>> = sample
                .chunks_exact(dim)
                .map(|row| &row[group * channels..][..channels])
                .map(|x| {
                    let norm = dot(x, x).sqrt().max(f32::MIN_POSITIVE);
                    x.iter().map(|x| x / norm).collect()
                })
                .collect();
            let mut book = units[0].clone();
            let mut closest: Vec<f32> = units.iter().map(|u| dot(u, &book)).collect();
            while book.len() < count * channels {
                let farthest = (0..units.len()).fold(0, |m, i| if closest[i] < closest[m] { i } else { m });
                let start = book.len();
                book.extend_from_slice(&units[farthest]);
                closest.iter_mut().zip(&units).for_each(|(c, u)| *c = c.max(dot(u, &book[start..])));
            }
            for _ in 0..ITERATIONS {
                let mut sums = vec![0f32; book.len()];
                for unit in &units {
                    let at = nearest(&book, unit) * channels;
                    sums[at..at + channels].iter_mut().zip(unit).for_each(|(s, u)| *s += u);
                }
                for (direction, sum) in book.chunks_exact_mut(channels).zip(sums.chunks_exact(channels)) {
                    let norm = dot(sum, sum).sqrt();
                    // A direction that nobody is nearest to stays.
                    if norm > 0.0 {
                        direction.iter_mut().zip(sum).for_each(|(d, s)| *d = s / norm);
                    }
                }
            }
            directions.extend(book);
        }
        Ok(Self { tier, dim, directions })
    }

    /// Bytes of the directions, as `f16`.
    pub fn bytes(&self) -> usize {
        2 * self.directions.len()
    }

    /// What tokens `x` `[tokens, dim]` come back as: directions from the book, radii in steps of a 127th of the page's largest in the group.
    pub fn restored(&self, x: &[f32]) -> Vec<f32> {
        let (channels, bits) = self.tier.shape();
        let book = channels << bits;
        let mut out = vec![0f32; x.len() / self.dim * self.dim];
        for (page, into) in x.chunks(PAGE * self.dim).zip(out.chunks_mut(PAGE * self.dim)) {
            for (group, directions) in self.directions.chunks_exact(book).enumerate() {
                let part =
                    |row: usize| row * self.dim + group * channels..row * self.dim + (group + 1) * channels;
                let rows = page.len() / self.dim;
                let radius = |row: usize| dot(&page[part(row)], &page[part(row)]).sqrt();
                let step = (0..rows).map(radius).fold(0f32, f32::max) / 127.0;
                for row in 0..rows {
                    let code = nearest(directions, &page[part(row)]);
                    let radius = if step > 0.0 { (radius(row) / step).round() * step } else { 0.0 };
                    let direction = &directions[code * channels..][..channels];
                    into[part(row)].iter_mut().zip(direction).for_each(|(to, d)| *to = radius * d);
                }
            }
        }
        out
    }
}
