//! One module per subcommand.

pub(crate) mod bench;
pub(crate) mod recipes;
pub(crate) mod replay;
mod replay_tokens;
pub(crate) mod video;
