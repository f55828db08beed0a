//! One module per subcommand.

pub(crate) mod bench;
pub(crate) mod eval;
pub(crate) mod fetch;
pub(crate) mod generate;
pub(crate) mod profile;
pub(crate) mod recipes;
pub(crate) mod replay;
mod replay_tokens;
pub(crate) mod reuse;
pub(crate) mod video;
