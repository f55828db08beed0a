//! Rotary embeddings of single tokens: frequencies, axes and the move of keys that are already rotated.

use tether_core::{
    AxisOrder, CoreError, MAX_AXES, Pairing, RopeKind, RopeSpan, Rotation, RotationPhases, TokenLayout,
    TokenShape,
};

use crate::RopeError;
use crate::frequency::{self, axis_frequencies, base, thirds};

/// How a model turns the keys of single tokens: by one position, or by several axes' (M-RoPE), with plain or scaled frequencies.
///
/// Turning is exact or refused: a model whose frequencies depend on the length of the text (dynamic NTK) cannot be described, because a key
/// that was rotated under other frequencies cannot be moved.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenRope {
    pairing: Pairing,
    frequencies: Vec<f64>,
    axes: Vec<u8>,
    attention_factor: f32,
}

/// `YaRN`'s settings (arXiv:2309.00071).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Yarn {
    /// How many times longer texts may be than those of training.
    pub factor: f64,
    /// Tokens of a text in training.
    pub original_length: usize,
    /// Turns within the original length above which a frequency is kept.
    pub beta_fast: f64,
    /// Turns below which it is divided by the factor.
    pub beta_slow: f64,
}

impl Yarn {
    /// The published settings for a factor and a length.
    pub const fn new(factor: f64, original_length: usize) -> Self {
        Self { factor, original_length, beta_fast: 32.0, beta_slow: 1.0 }
    }
}

impl TokenRope {
    /// A rotation by one position with base `theta` over `rotary_dim` channels.
    ///
    /// # Errors
    /// [`RopeError::HeadDim`] for an odd number of channels, [`RopeError::Theta`].
    pub fn new(pairing: Pairing, theta: f64, rotary_dim: usize) -> Result<Self, RopeError> {
        if rotary_dim == 0 || !rotary_dim.is_multiple_of(2) {
            return Err(RopeError::HeadDim { head_dim: rotary_dim, least: 2 });
        }
        Self::from_frequencies(pairing, axis_frequencies(base(theta)?, rotary_dim / 2).collect())
    }

    /// As a model's geometry says, for `heads` key heads of `head_dim` channels. `None` for a model without rotation.
    ///
    /// # Errors
    /// [`RopeError`] when `head_dim` or a setting of `kind` does not suit.
    pub fn of(kind: &RopeKind, (heads, head_dim): (usize, usize)) -> Result<Option<Self>, RopeError> {
        let (theta, layout) = match *kind {
            RopeKind::None => return Ok(None),
            RopeKind::OneD { theta, pairing } => return Self::new(pairing, theta, head_dim).map(Some),
            RopeKind::ThreeD { theta, layout, .. } => (theta, layout),
            _ => {
                let feature = "this kind of rotary embedding";
                return Err(CoreError::Unsupported { engine: "tether-rope", feature }.into());
            }
        };
        let dim = match layout.span {
            RopeSpan::Head => head_dim,
            RopeSpan::Token => heads.saturating_mul(head_dim),
        };
        let least = if layout.pairs.is_none() { 6 } else { 2 };
        if !dim.is_multiple_of(2) || dim < least {
            return Err(RopeError::HeadDim { head_dim: dim, least });
        }
        let pairs = layout.pairs.unwrap_or_else(|| thirds((dim / 2).saturating_sub(layout.skip)));
        let turning = pairs.iter().try_fold(0usize, |n, &p| n.checked_add(p));
        let all = turning.filter(|&n| n > 0).and_then(|n| n.checked_add(layout.skip));
        let Some(all) = all.filter(|&n| n <= dim / 2) else {
            return Err(RopeError::Sections { pairs: dim / 2, sections: pairs.to_vec() });
        };
        let mut axes = vec![0; layout.skip];
        let mut frequencies = vec![0.0; layout.skip];
        let turning = frequency::axes(layout.order, pairs)?;
        frequencies.extend(frequency::frequencies(&layout, theta, &turning)?);
        axes.extend(turning);
        debug_assert_eq!(axes.len(), all);
        Ok(Some(Self { axes, ..Self::from_frequencies(layout.pairing, frequencies)? }))
    }

    /// A rotation with frequencies as a model lists them, radians per position.
    ///
    /// # Errors
    /// [`RopeError::Core`] for a frequency that is not finite.
    pub fn from_frequencies(pairing: Pairing, frequencies: Vec<f64>) -> Result<Self, RopeError> {
        let rope = Self { pairing, frequencies, axes: Vec::new(), attention_factor: 1.0 };
        rope.rotation(&[&[]], 1.0).extents()?;
        Ok(rope)
    }

    /// With `YaRN`'s frequencies and attention factor; `theta` as in [`TokenRope::new`].
    ///
    /// # Errors
    /// As [`TokenRope::new`], and [`RopeError::Scaling`] for settings out of range.
    pub fn yarn(pairing: Pairing, theta: f64, rotary_dim: usize, yarn: Yarn) -> Result<Self, RopeError> {
        let plain = Self::new(pairing, theta, rotary_dim)?;
        let Yarn { factor, original_length, beta_fast, beta_slow } = yarn;
        let sound = factor.is_finite() && factor >= 1.0 && original_length > 0 && beta_slow > 0.0;
        if !(sound && beta_fast.is_finite() && beta_fast > beta_slow) {
            return Err(RopeError::Scaling { factor });
        }
        let dim = rotary_dim as f64;
        let pair_of_turns = |turns: f64| {
            dim * (original_length as f64 / (turns * std::f64::consts::TAU)).ln() / (2.0 * theta.ln())
        };
        let low = pair_of_turns(beta_fast).floor().max(0.0);
        let high = pair_of_turns(beta_slow).ceil().min(dim - 1.0);
        let span = if low == high { 1e-3 } else { high - low };
        let scaled = plain.frequencies.iter().enumerate().map(|(i, f)| {
            let slow = ((i as f64 - low) / span).clamp(0.0, 1.0);
            f * (1.0 - slow) + f / factor * slow
        });
        let frequencies = scaled.collect();
        let attention_factor = if factor > 1.0 { (0.1 * factor.ln() + 1.0) as f32 } else { 1.0 };
        Ok(Self { frequencies, attention_factor, ..plain })
    }

    /// With the first `sections[0]` pairs turning with axis 0, the next `sections[1]` with axis 1 and so on (M-RoPE, arXiv:2409.12191: 16, 24
    /// and 24 pairs of a head of 128).
    ///
    /// # Errors
    /// [`RopeError::Sections`] unless the sections cover all pairs and there are 1 to 3.
    pub fn with_sections(self, sections: &[usize]) -> Result<Self, RopeError> {
        let pairs = self.frequencies.len();
        if sections.is_empty() || sections.len() > MAX_AXES || sections.iter().sum::<usize>() != pairs {
            return Err(RopeError::Sections { pairs, sections: sections.to_vec() });
        }
        let axes = (0u8..).zip(sections).flat_map(|(axis, &n)| std::iter::repeat_n(axis, n)).collect();
        Ok(Self { axes, ..self })
    }

    /// With `sections` pairs for time, rows and columns that take turns, time first, as long as an axis has any left; what is over is time's (Qwen3-VL:
    /// 24, 20 and 20 pairs of a head of 128).
    ///
    /// # Errors
    /// [`RopeError::Sections`] unless the sections cover all pairs, [`RopeError::Turns`] when time has too few to stand between the others.
    pub fn with_sections_in_turns(self, sections: [usize; 3]) -> Result<Self, RopeError> {
        let pairs = self.frequencies.len();
        if sections.iter().try_fold(0usize, |n, &s| n.checked_add(s)) != Some(pairs) {
            return Err(RopeError::Sections { pairs, sections: sections.to_vec() });
        }
        Ok(Self { axes: frequency::axes(AxisOrder::InTurns, sections)?, ..self })
    }

    /// Axes of a position.
    pub fn axes(&self) -> usize {
        self.axes.iter().max().map_or(1, |&a| usize::from(a) + 1)
    }

    /// Which channels form a pair.
    pub fn pairing(&self) -> Pairing {
        self.pairing
    }

    /// Radians per position of each pair.
    pub fn frequencies(&self) -> &[f64] {
        &self.frequencies
    }

    /// What rotated keys are longer by.
    pub fn attention_factor(&self) -> f32 {
        self.attention_factor
    }

    /// The rotation of raw keys to `positions`, one list an axis; applies the attention factor.
    pub fn to_positions<'a>(&'a self, positions: &'a [&'a [i32]]) -> Rotation<'a> {
        self.rotation(positions, self.attention_factor)
    }

    /// The rotation of keys that are rotated by `deltas` more, one list an axis. The attention factor is in them already.
    pub fn by<'a>(&'a self, deltas: &'a [&'a [i32]]) -> Rotation<'a> {
        self.rotation(deltas, 1.0)
    }

    /// The rotation of keys at positions `p` back to raw ones, with `back` being `-p`, one list an axis; takes the attention factor out.
    pub fn to_raw<'a>(&'a self, back: &'a [&'a [i32]]) -> Rotation<'a> {
        self.rotation(back, 1.0 / self.attention_factor)
    }

    fn rotation<'a>(&'a self, deltas: &'a [&'a [i32]], scale: f32) -> Rotation<'a> {
        Rotation {
            pairing: self.pairing,
            rotary_dim: 2 * self.frequencies.len(),
            first_pair: 0,
            frequencies: &self.frequencies,
            axes: &self.axes,
            deltas,
            tokens_per_delta: 1,
            scale,
        }
    }
}

/// How the angle of a turn, a number of positions times a frequency, is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Angles {
    /// Exactly; what an engine does.
    #[default]
    Exact,
    /// Rounded to `f32`, as models in PyTorch do it: off by up to 1e-5 radians a few hundred positions on. To compare with their outputs.
    Rounded,
}

/// Rotates keys `[tokens, heads, head_dim]` in place by `rotation`, which has an entry for each token.
///
/// To move keys often, keep them as they were first written and rotate a copy by the whole difference: every rotation of a stored key rounds it
/// again.
///
/// # Errors
/// [`RopeError::Rows`] for part of a token, [`RopeError::Core`] when the rotation does not fit the keys; they are as they were.
pub fn rotate_rows(
    keys: &mut [f32],
    heads: usize,
    head_dim: usize,
    rotation: &Rotation<'_>,
    angles: Angles,
) -> Result<(), RopeError> {
    let row = heads.saturating_mul(head_dim);
    if row == 0 || !keys.len().is_multiple_of(row) {
        return Err(RopeError::Rows { got: keys.len(), heads, head_dim });
    }
    let extents = rotation.extents()?;
    extents.fit(&TokenShape { tokens: keys.len() / row, heads, head_dim, layout: TokenLayout::Nhd })?;
    match angles {
        Angles::Exact => {
            let phases = RotationPhases::new(rotation)?;
            for (token, row) in keys.chunks_exact_mut(row).enumerate() {
                for head in row.chunks_exact_mut(head_dim) {
                    phases.rotate(token, head, |x| x, |x| x);
                }
            }
        }
        Angles::Rounded => {
            for (token, row) in keys.chunks_exact_mut(row).enumerate() {
                for (pair, &frequency) in rotation.frequencies.iter().enumerate() {
                    let axis = rotation.axes.get(pair).map_or(0, |&a| usize::from(a));
                    let delta = rotation.deltas[axis][token / rotation.tokens_per_delta];
                    let angle = f64::from(delta as f32 * frequency as f32);
                    let (sin, cos) =
                        (angle.sin() as f32 * rotation.scale, angle.cos() as f32 * rotation.scale);
                    let (i, j) = extents.channels(pair);
                    for head in row.chunks_exact_mut(head_dim) {
                        let (a, b) = (head[i], head[j]);
                        (head[i], head[j]) = (a * cos - b * sin, b * cos + a * sin);
                    }
                }
            }
        }
    }
    Ok(())
}

/// [`rotate_rows`] of keys of one head, `[tokens, head_dim]`, that the caller gives away.
///
/// # Errors
/// As [`rotate_rows`].
pub fn turned(
    mut keys: Vec<f32>,
    head_dim: usize,
    rotation: &Rotation<'_>,
    angles: Angles,
) -> Result<Vec<f32>, RopeError> {
    rotate_rows(&mut keys, 1, head_dim, rotation, angles)?;
    Ok(keys)
}
