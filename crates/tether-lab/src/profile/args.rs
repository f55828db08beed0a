//! `tether profile` on the command line.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// What is measured.
#[derive(Args, Debug)]
pub struct ProfileArgs {
    #[command(subcommand)]
    pub(crate) what: Profiled,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Profiled {
    /// Measure what a model's key heads are for, for recipes that treat them by kind (razor-attention, hack).
    Heads(HeadsArgs),
}

#[derive(Args, Debug)]
pub(crate) struct HeadsArgs {
    /// A published model that was fetched (smollm2), or a GGUF file of the Llama architecture.
    #[arg(long, default_value = "smollm2", value_name = "MODEL")]
    pub(crate) model: String,
    /// A text of the kind that the model is to read, but none that recipes are compared on.
    #[arg(long, value_name = "FILE")]
    pub(crate) text: PathBuf,
    /// Read no more than this many tokens of it.
    #[arg(long, default_value_t = 1024, value_name = "N")]
    pub(crate) tokens: usize,
    /// Random tokens that are repeated to find heads that look for earlier copies; the publication has 2500.
    #[arg(long, default_value_t = 512, value_name = "N")]
    pub(crate) period: usize,
    /// How often they come.
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub(crate) repeats: usize,
    /// Seed of the random tokens.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) seed: u64,
    /// Where to write the profile.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}
