use tether_core::CoreError;

/// What can be wrong with observations, scores or a scorer's settings.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ScoreError {
    /// A score or logit that cannot be ranked.
    #[error("{what} of candidate {candidate} is {value}: scores must be finite")]
    NonFinite {
        /// What was NaN or infinite.
        what: &'static str,
        /// The candidate's place.
        candidate: usize,
        /// The value.
        value: f32,
    },
    /// A token's score that cannot be ranked.
    #[error("{what} of token {token} of head {head} is {value}: scores must be finite")]
    NonFiniteToken {
        /// What was NaN or infinite.
        what: &'static str,
        /// The head.
        head: usize,
        /// The token's place.
        token: usize,
        /// The value.
        value: f32,
    },
    /// An observation that a scorer needs and that nobody recorded.
    #[error("this needs {what}, which was not recorded")]
    Missing {
        /// What is missing.
        what: &'static str,
    },
    /// Keys that turn by several axes of positions, where a token has one position.
    #[error("keys that turn by {axes} axes of positions cannot be turned here: a token has one position")]
    Axes {
        /// Axes.
        axes: usize,
    },
    /// An observation that an engine could not make.
    #[error(transparent)]
    Core(#[from] CoreError),
    /// Head counts that do not fit each other.
    #[error(
        "{query_heads} query heads over {kv_heads} key heads of {dim} channels: not a whole number of each, or none"
    )]
    Heads {
        /// Query heads.
        query_heads: usize,
        /// Key heads.
        kv_heads: usize,
        /// Channels of a head.
        dim: usize,
    },
    /// Two lists that belong together differ in length.
    #[error("{what}: expected {expected}, got {got}")]
    Count {
        /// What is counted.
        what: &'static str,
        /// How many there should be.
        expected: usize,
        /// How many there are.
        got: usize,
    },
    /// Tokens that must be kept cost more than there is.
    #[error("what must be kept costs {needed}, and the budget is {budget}")]
    Budget {
        /// Cost of fixed tokens and of the cheapest tiers of the others.
        needed: u64,
        /// The budget.
        budget: u64,
    },
    /// A part inside another one that does not go there.
    #[error("{part}: {requirement}")]
    Nested {
        /// Its name in a recipe.
        part: &'static str,
        /// What it must satisfy.
        requirement: &'static str,
    },
    /// A setting out of range.
    #[error("{setting} = {value}: {requirement}")]
    Setting {
        /// Its name in a recipe.
        setting: &'static str,
        /// Its value.
        value: f32,
        /// What it must satisfy.
        requirement: &'static str,
    },
}

pub(crate) fn all_finite(what: &'static str, values: &[f32]) -> Result<(), ScoreError> {
    match values.iter().position(|v| !v.is_finite()) {
        Some(candidate) => Err(ScoreError::NonFinite { what, candidate, value: values[candidate] }),
        None => Ok(()),
    }
}
