/// What can be wrong with an edit.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    /// A strength outside 0 to 1.
    #[error("tau = {tau}: it must lie in [0, 1]")]
    Tau {
        /// The strength given.
        tau: f32,
    },
    /// Moments of another number of channels than the tokens.
    #[error("{what}: expected moments of {expected} channels, got {got}")]
    Channels {
        /// Whose moments.
        what: &'static str,
        /// Channels of a token.
        expected: usize,
        /// Channels of the moments.
        got: usize,
    },
    /// Data that is not whole tokens.
    #[error("{got} numbers are not whole tokens of {channels} channels")]
    Length {
        /// Numbers given.
        got: usize,
        /// Channels of a token.
        channels: usize,
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
    /// An edit of a token that does not exist.
    #[error("token {token} of head {head} does not exist: there are {tokens}")]
    NoSuchToken {
        /// The head.
        head: usize,
        /// The token.
        token: u32,
        /// Tokens there are.
        tokens: usize,
    },
    /// Statistics over a batch need the same edits in every sequence.
    #[error("mixed batch statistics need equal edits, but sequences admit {counts:?} units")]
    Ragged {
        /// Admissions per sequence.
        counts: Vec<usize>,
    },
}
