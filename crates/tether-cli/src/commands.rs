//! One module per subcommand.

#[cfg(not(feature = "lab"))]
pub(crate) mod absent;
pub(crate) mod bench;
pub(crate) mod fetch;
pub(crate) mod recipes;
pub(crate) mod replay;
mod replay_tokens;
