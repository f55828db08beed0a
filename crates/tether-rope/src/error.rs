//! Errors of rotations.

use tether_core::{Axis, CoreError};

/// What can be wrong with a rotation. A rotation is exact or refused, never approximate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RopeError {
    /// Channels are rotated in pairs.
    #[error("head_dim {head_dim} cannot be rotated: it must be even and at least {least}")]
    HeadDim {
        /// Channels of a head.
        head_dim: usize,
        /// Channels the embedding needs.
        least: usize,
    },
    /// The base must be finite and above 1.
    #[error("theta = {theta}: it must be finite and greater than 1")]
    Theta {
        /// The base given.
        theta: f64,
    },
    /// Scaled frequencies need a factor of at least 1, a length and an order of turns.
    #[error(
        "frequencies cannot be scaled by {factor}: the factor, the original length or the turns are out of range"
    )]
    Scaling {
        /// The factor given.
        factor: f64,
    },
    /// Sections that do not cover the pairs.
    #[error("sections {sections:?} are not 1 to 3 parts of {pairs} pairs")]
    Sections {
        /// Pairs there are.
        pairs: usize,
        /// The sections given.
        sections: Vec<usize>,
    },
    /// An order of axes that leaves one out.
    #[error("axes in the order {order:?}: each has to be there once")]
    Order {
        /// The order given.
        order: [Axis; 3],
    },
    /// Sections that cannot take turns.
    #[error(
        "{pairs:?} pairs for time, rows and columns cannot take turns: time has too few to stand between the others"
    )]
    Turns {
        /// The sections given.
        pairs: [usize; 3],
    },
    /// A grid that does not cover a unit.
    #[error("a grid of {height} rows and {width} columns does not cover a unit of {tokens} tokens")]
    Grid {
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
        /// Tokens of a unit.
        tokens: usize,
    },
    /// A 1-D embedding advances with every token, so its unit is one token.
    #[error("a 1-D rotary embedding needs units of one token, not of {tokens}")]
    UnitOfTokens {
        /// Tokens of a unit.
        tokens: usize,
    },
    /// The data to rotate is not a whole number of units.
    #[error("{got} numbers are not {units} units of {unit_len}")]
    Length {
        /// Numbers given.
        got: usize,
        /// Units announced by the positions.
        units: usize,
        /// Numbers of a unit.
        unit_len: usize,
    },
    /// The keys are not whole tokens.
    #[error("{got} numbers are not whole tokens of {heads} heads of {head_dim} channels")]
    Rows {
        /// Numbers given.
        got: usize,
        /// Heads of a token.
        heads: usize,
        /// Channels of a head.
        head_dim: usize,
    },
    /// From the table.
    #[error(transparent)]
    Core(#[from] CoreError),
}
