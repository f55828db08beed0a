//! `tether generate` on the command line.

use std::path::PathBuf;

use clap::Args;

use crate::device::Device;

/// What to continue, and under which recipe.
#[derive(Args, Debug)]
pub struct GenerateArgs {
    /// The text to continue.
    #[arg(value_name = "PROMPT", required_unless_present = "file")]
    pub(crate) prompt: Option<String>,
    /// Read it from a file.
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    pub(crate) file: Option<PathBuf>,
    /// A published model that was fetched (smollm2), or a GGUF file of the Llama architecture.
    #[arg(long, default_value = "smollm2", value_name = "MODEL")]
    pub(crate) model: String,
    /// The prompt is a user's message, to be answered and not to be continued.
    #[arg(long)]
    pub(crate) chat: bool,
    /// Stop after this many tokens, if the model has not stopped before.
    #[arg(long, default_value_t = 128, value_name = "N")]
    pub(crate) max_tokens: usize,
    /// What the cache keeps.
    #[arg(long, default_value = "full", value_name = "NAME")]
    pub(crate) recipe: String,
    /// Share of the tokens that it keeps [default: the recipe's].
    #[arg(long, value_name = "SHARE")]
    pub(crate) budget: Option<f64>,
    /// Override a field of the recipe, such as score.window=32.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// What the model's heads are for (see `tether profile heads`), where the recipe asks.
    #[arg(long, value_name = "FILE")]
    pub(crate) profile: Option<PathBuf>,
    /// Where the cache lives and attention runs; the model stays on the host.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) device: Device,
}
