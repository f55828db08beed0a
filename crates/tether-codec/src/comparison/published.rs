//! The tiers of Spherical KV as published (arXiv:2605.18856): groups of channels as a radius and an entry of a trained codebook of directions.

use tether_core::{CoreError, PublishedTier, checks};

/// Directions of each group of channels of one head, by spherical k-means.
#[derive(Clone, Debug, PartialEq)]
pub struct SphericalCodebooks {
    tier: PublishedTier,
    dim: usize,
    /// Group by group, direction by direction.
    directions: Vec<f32>,
}

/// Tokens of a page: radii of a group share a scale in it.
const PAGE: usize = 128;
const ITERATIONS: usize = 25;
/// Largest code of a radius.
const LEVELS: f32 = 127.0;

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

    /// From directions that were trained before, group by group and direction by direction.
    ///
    /// # Errors
    /// [`CoreError::Geometry`] for a head that is no whole number of groups, [`CoreError::Count`] for directions that
    /// are not as many.
    pub fn of(tier: PublishedTier, dim: usize, directions: &[f32]) -> Result<Self, CoreError> {
        let (channels, bits) = tier.shape();
        let whole = dim.is_multiple_of(channels);
        checks::setting(whole, "head_dim", dim, "must be a multiple of the tier's groups")?;
        checks::count("numbers of directions", dim << bits, directions.len())?;
        Ok(Self { tier, dim, directions: directions.to_vec() })
    }

    /// Directions, group by group and direction by direction.
    pub fn directions(&self) -> &[f32] {
        &self.directions
    }

    /// Channels of a row.
    pub fn head_dim(&self) -> usize {
        self.dim
    }

    /// Bytes of the directions.
    pub fn bytes(&self) -> usize {
        size_of_val(self.directions.as_slice())
    }

    /// Codes rows `x` `[rows, dim]`, which are one page: radii of a group share a scale.
    ///
    /// # Errors
    /// [`CoreError::Count`] for part of a row, [`CoreError::NonFinite`].
    pub fn encode(&self, x: &[f32]) -> Result<PublishedCodes, CoreError> {
        let (channels, bits) = self.tier.shape();
        let (book, bits) = (channels << bits, bits as usize);
        let (rows, groups) = (x.len() / self.dim, self.dim / channels);
        checks::count("elements of whole rows", rows * self.dim, x.len())?;
        if let Some(index) = x.iter().position(|x| !x.is_finite()) {
            return Err(CoreError::NonFinite { what: "x", index });
        }
        let part = |row: usize, group: usize| &x[row * self.dim + group * channels..][..channels];
        let radius = |row: usize, group: usize| dot(part(row, group), part(row, group)).sqrt();
        let scales: Vec<f32> = (0..groups)
            .map(|group| (0..rows).map(|row| radius(row, group)).fold(0f32, f32::max) / LEVELS)
            .collect();
        if let Some(index) = scales.iter().position(|s| !s.is_finite()) {
            return Err(CoreError::NonFinite { what: "scale of a group", index });
        }
        let mut directions = vec![0u8; (rows * groups * bits).div_ceil(8)];
        let mut radii = Vec::with_capacity(rows * groups);
        for row in 0..rows {
            for (group, entries) in self.directions.chunks_exact(book).enumerate() {
                let at = radii.len() * bits;
                let code = (nearest(entries, part(row, group)) as u16) << (at % 8);
                directions[at / 8] |= code as u8;
                if code > 255 {
                    directions[at / 8 + 1] |= (code >> 8) as u8;
                }
                let scale = scales[group];
                radii.push(if scale > 0.0 { (radius(row, group) / scale).round() as u8 } else { 0 });
            }
        }
        Ok(PublishedCodes { tier: self.tier, rows, scales, directions, radii })
    }

    /// What rows of a page from `first` on stand for, as many as fit `into`. Rows that are not there are left as they are.
    ///
    /// # Errors
    /// [`CoreError::Unsupported`] for codes of another tier, [`CoreError::Count`] for those of other heads.
    pub fn read_rows(&self, codes: &PublishedCodes, first: usize, into: &mut [f32]) -> Result<(), CoreError> {
        let (channels, bits) = self.tier.shape();
        if codes.tier != self.tier {
            let feature = "codes of another tier";
            return Err(CoreError::Unsupported { engine: "the host", feature });
        }
        checks::count("groups of a row", self.dim / channels, codes.scales.len())?;
        let (book, bits, groups) = (channels << bits, bits as usize, self.dim / channels);
        for (row, into) in (first..codes.rows).zip(into.chunks_exact_mut(self.dim)) {
            for (group, into) in into.chunks_exact_mut(channels).enumerate() {
                let place = row * groups + group;
                let at = place * bits;
                let next = codes.directions.get(at / 8 + 1).copied().unwrap_or(0);
                let word = u16::from(codes.directions[at / 8]) | u16::from(next) << 8;
                let code = usize::from(word >> (at % 8)) & ((1 << bits) - 1);
                let radius = f32::from(codes.radii[place]) * codes.scales[group];
                let direction = &self.directions[group * book + code * channels..][..channels];
                into.iter_mut().zip(direction).for_each(|(to, d)| *to = radius * d);
            }
        }
        Ok(())
    }

    /// What tokens `x` `[tokens, dim]` come back as, in pages of 128.
    ///
    /// # Errors
    /// Those of [`SphericalCodebooks::encode`].
    pub fn restored(&self, x: &[f32]) -> Result<Vec<f32>, CoreError> {
        let mut out = vec![0f32; x.len()];
        for (page, into) in x.chunks(PAGE * self.dim).zip(out.chunks_mut(PAGE * self.dim)) {
            self.read_rows(&self.encode(page)?, 0, into)?;
        }
        Ok(out)
    }
}

/// Codes of a page.
///
/// Beside them go the page's header (8 bytes, whoever pages has it) and the codebooks. Groups of a row lie together, rows in their order: directions are packed without
/// gaps, lowest bits first; a radius is a byte, `radius / scale` rounded, with the scale of the page and group a 127th of the largest radius.
#[derive(Clone, Debug, PartialEq)]
pub struct PublishedCodes {
    pub(crate) tier: PublishedTier,
    pub(crate) rows: usize,
    /// One for each group.
    pub(crate) scales: Vec<f32>,
    pub(crate) directions: Vec<u8>,
    pub(crate) radii: Vec<u8>,
}

impl PublishedCodes {
    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of directions, radii and scales.
    pub fn bytes(&self) -> usize {
        self.directions.len() + self.radii.len() + size_of_val(self.scales.as_slice())
    }
}
