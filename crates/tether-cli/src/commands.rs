//! One module per subcommand.

pub(crate) mod bench;
pub(crate) mod recipes;
pub(crate) mod replay;
pub(crate) mod video;
