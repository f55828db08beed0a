//! `tether reuse` on the command line.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// What is asked of step reuse.
#[derive(Args, Debug)]
pub struct ReuseArgs {
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
