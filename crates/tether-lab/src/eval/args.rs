//! `tether eval` on the command line.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use tethercache::core::DType;

use crate::device::Device;

/// What is measured.
#[derive(Args, Debug)]
pub struct EvalArgs {
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
    /// Draw charts again from the numbers that an evaluation left beside them.
    Draw(DrawArgs),
    /// What codecs of keys and values cost the model's attention, and one budget over all tokens beside equal bits.
    Codec(CodecArgs),
}

#[derive(Args, Debug)]
pub(crate) struct DrawArgs {
    /// What `eval all --svg DIR` wrote to DIR/evaluation.jsonl, or `eval reuse --out DIR` to DIR/points.jsonl.
    #[arg(value_name = "FILE")]
    pub(crate) numbers: PathBuf,
    /// Folder for the charts.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
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
    /// How keys and values are stored that are not coded.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) stored: Stored,
    /// Print a JSON object a line instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    /// Draw the recipes in their order at each budget.
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
}

/// Numbers of a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stored {
    /// As the model makes them.
    #[default]
    F32,
    F16,
    Bf16,
}

impl From<Stored> for DType {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::F32 => Self::F32,
            Stored::F16 => Self::F16,
            Stored::Bf16 => Self::BF16,
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct CodecArgs {
    /// A published model that was fetched (smollm2), or a GGUF file of the Llama architecture.
    #[arg(long, default_value = "smollm2", value_name = "MODEL")]
    pub(crate) model: String,
    /// The text; several give tables each.
    #[arg(long, required_unless_present = "video", num_args = 1.., value_name = "FILE")]
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
    /// Rotations of spherical codes whose mean is shown, with the standard deviation.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) rotations: usize,
    /// Run the model itself with older tokens as codes, and say how well it predicts what follows the first --tokens tokens.
    #[arg(long)]
    pub(crate) end_to_end: bool,
    /// Tokens that are predicted, with --end-to-end.
    #[arg(long, default_value_t = 1024, value_name = "N")]
    pub(crate) scored: usize,
    /// Tokens that are read at a time then: so many at most are attended to as they came before they may be coded.
    #[arg(long, default_value_t = 32, value_name = "N")]
    pub(crate) block: usize,
    /// Instead of a text, real frames of so many scenes: keys of the small video model, coded before the rotary embedding and after it.
    #[arg(long, default_value_t = 0, value_name = "SCENES", conflicts_with = "text")]
    pub(crate) video: usize,
    /// Seed of the scenes.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) seed: u64,
}

/// What is compared on what.
#[derive(Args, Debug)]
pub(crate) struct Comparison {
    /// A published model that was fetched (smollm2), or a GGUF file of the Llama architecture.
    #[arg(long, default_value = "smollm2", value_name = "MODEL")]
    pub(crate) model: String,
    /// Texts that contexts are made of.
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    pub(crate) text: Vec<PathBuf>,
    /// Recipes to compare; full, window, sink-recent and random run beside them.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub(crate) recipe: Vec<String>,
    /// Shares of the tokens that they keep.
    #[arg(long, value_delimiter = ',', default_values_t = [0.5, 0.2, 0.1, 0.05], value_name = "SHARE")]
    pub(crate) budget: Vec<f64>,
    /// Override a field of every recipe named with --recipe, such as score.window=32.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// What the model's heads are for (see `tether profile heads`), where a recipe asks.
    #[arg(long, value_name = "FILE")]
    pub(crate) profile: Option<PathBuf>,
    /// Where the cache lives and attention runs; the model stays on the host.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) device: Device,
}

/// When a question is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Asking {
    /// Before the eviction: recipes may look at it.
    Seen,
    /// After it: recipes evict without knowing what will be asked.
    Unseen,
}

#[derive(Args, Debug)]
pub(crate) struct QuizArgs {
    #[command(flatten)]
    pub(crate) comparison: Comparison,
    /// Tokens of a context.
    #[arg(long, value_delimiter = ',', default_values_t = [1024], value_name = "N")]
    pub(crate) length: Vec<usize>,
    /// Contexts of each length from each text, from different places of it.
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub(crate) seeds: usize,
    /// Questions about each, at as many depths.
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub(crate) depths: usize,
    /// Whether recipes see a question before they evict.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Asking::Seen, Asking::Unseen], value_name = "WHEN")]
    pub(crate) question: Vec<Asking>,
    /// Print a JSON object a line instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    /// Draw the recipes in their order at each budget.
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct SpeedArgs {
    #[command(flatten)]
    pub(crate) comparison: Comparison,
    /// Tokens of a context.
    #[arg(long, value_delimiter = ',', default_values_t = [1024, 4000], value_name = "N")]
    pub(crate) length: Vec<usize>,
    /// Tokens that are read one by one after it.
    #[arg(long, default_value_t = 32, value_name = "N")]
    pub(crate) steps: usize,
    /// Print a JSON object a line instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct AllArgs {
    #[command(flatten)]
    pub(crate) comparison: Comparison,
    /// Tokens of each text that perplexity is measured on.
    #[arg(long, default_value_t = 1536, value_name = "N")]
    pub(crate) tokens: usize,
    /// Tokens that are read before the first eviction.
    #[arg(long, default_value_t = 1024, value_name = "N")]
    pub(crate) prompt: usize,
    /// Tokens that recipes which evict while a text grows read at a time.
    #[arg(long, default_value_t = 16, value_name = "N")]
    pub(crate) block: usize,
    /// Tokens of contexts that questions are asked about.
    #[arg(long, value_delimiter = ',', default_values_t = [1024], value_name = "N")]
    pub(crate) length: Vec<usize>,
    /// Contexts of each length from each text.
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub(crate) seeds: usize,
    /// Questions about each.
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub(crate) depths: usize,
    /// The page whose part between `<!-- tether eval all -->` and `<!-- end of tether eval all -->` is written.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Keep what was measured here, an object a line, and do not measure again what is there.
    #[arg(long, value_name = "FILE")]
    pub(crate) rows: Option<PathBuf>,
    /// Draw the recipes in their order at each budget into this folder, and write the numbers of the charts beside them.
    #[arg(long, value_name = "DIR")]
    pub(crate) svg: Option<PathBuf>,
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
    /// Leave measured times out of the table and the numbers, so that the same seed gives the same bytes in every file.
    #[arg(long)]
    pub(crate) no_timings: bool,
    /// Folder for the plot, the table and the numbers.
    #[arg(long, default_value = "out/reuse", value_name = "DIR")]
    pub(crate) out: PathBuf,
}
