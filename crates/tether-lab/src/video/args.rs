//! `tether video` on the command line.

use std::path::PathBuf;

use clap::Args;

use crate::device::Device;

/// What to make, and under which recipes.
#[derive(Args, Debug)]
pub struct VideoArgs {
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
