//! Rotations of whole frames, or of whatever else is cached as one.

use tether_core::{RopeKind, Rotation};

use crate::{Angles, RopeError, TokenRope, rotate_rows};

/// How a model rotates the tokens of its units: each stands at its unit's position in time, and at its row and column in it.
#[derive(Clone, Debug, PartialEq)]
pub struct FrameRope {
    rope: TokenRope,
    tokens: usize,
    /// Columns of the grid; none where a unit is one token on one axis.
    width: Option<usize>,
}

impl FrameRope {
    /// For units of `tokens` tokens of `heads` key heads of `head_dim` channels. `None` for a model without rotation.
    ///
    /// # Errors
    /// [`RopeError`] when `head_dim`, `tokens` or a setting of `kind` does not suit.
    pub fn new(
        kind: &RopeKind,
        (heads, head_dim): (usize, usize),
        tokens: usize,
    ) -> Result<Option<Self>, RopeError> {
        let width = match *kind {
            RopeKind::ThreeD { height, width, .. } if height.checked_mul(width) != Some(tokens) => {
                return Err(RopeError::Grid { height, width, tokens });
            }
            RopeKind::ThreeD { width, .. } => Some(width),
            RopeKind::OneD { .. } if tokens != 1 => return Err(RopeError::UnitOfTokens { tokens }),
            _ => None,
        };
        let rope = TokenRope::of(kind, (heads, head_dim))?;
        Ok(rope.map(|rope| Self { rope, tokens, width }))
    }

    /// Frequencies and axes.
    pub fn rope(&self) -> &TokenRope {
        &self.rope
    }

    /// Positions of all tokens of units at `units`, a list for each axis.
    pub fn positions(&self, units: impl IntoIterator<Item = i32> + Clone) -> Vec<Vec<i32>> {
        let of_unit = |unit| std::iter::repeat_n(unit, self.tokens);
        let time = units.clone().into_iter().flat_map(of_unit).collect();
        let Some(width) = self.width else { return vec![time] };
        let within = |place: fn(i32, i32) -> i32| -> Vec<i32> {
            let of_unit = |_| (0..self.tokens as i32).map(move |token| place(token, width as i32));
            units.clone().into_iter().flat_map(of_unit).collect()
        };
        vec![time, within(|token, width| token / width), within(|token, width| token % width)]
    }

    /// Hands the rotation to positions `0, 1, ..`, as many as `count`, to `use_it`: an entry for each token of each of them.
    pub fn with_table<T>(&self, count: u32, use_it: impl FnOnce(&Rotation<'_>) -> T) -> T {
        let lists = self.positions(0..count.cast_signed());
        let lists: Vec<&[i32]> = lists.iter().map(Vec::as_slice).collect();
        use_it(&self.rope.to_positions(&lists))
    }

    /// Rotates `units` (`[positions.len(), tokens, heads, head_dim]`) in place: unit `i` to position `positions[i]`.
    ///
    /// The data must be un-rotated; to move a key that was rotated, keep it un-rotated and rotate it once.
    ///
    /// # Errors
    /// [`RopeError::Length`] when the data is not `positions.len()` whole units, [`RopeError::HeadDim`] when more channels turn than a head has, or,
    /// under an embedding that spans all heads, than a token.
    pub fn rotate(
        &self,
        units: &mut [f32],
        (heads, head_dim): (usize, usize),
        positions: &[i32],
    ) -> Result<(), RopeError> {
        let least = 2 * self.rope.frequencies().len();
        let spans = least > head_dim;
        let (heads, head_dim) = if spans { (1, heads.saturating_mul(head_dim)) } else { (heads, head_dim) };
        if least > head_dim {
            return Err(RopeError::HeadDim { head_dim, least });
        }
        let unit_len = self.tokens * heads * head_dim;
        if unit_len.saturating_mul(positions.len()) != units.len() || unit_len == 0 {
            return Err(RopeError::Length { got: units.len(), units: positions.len(), unit_len });
        }
        let lists = self.positions(positions.iter().copied());
        let lists: Vec<&[i32]> = lists.iter().map(Vec::as_slice).collect();
        rotate_rows(units, heads, head_dim, &self.rope.to_positions(&lists), Angles::Exact)
    }
}
