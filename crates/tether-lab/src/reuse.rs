//! `tether reuse`: the policies of step reuse, and their profiles.

mod args;

use std::io::Write;

use anyhow::{Context, Result};
use tether_models::{Schedule, TinyVideo};
use tether_reuse::{ProfileData, ReuseRecipe, catalogue};

pub use self::args::ReuseArgs;
use self::args::{ReuseAction, ReuseProfileArgs};
use crate::budget::CHUNK;
use crate::calibration::Calibration;
use crate::rollout::GIVEN;
use crate::usage::Usage;

/// Runs the subcommand.
///
/// # Errors
/// What cannot be read, made or written.
pub fn run(args: &ReuseArgs) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match &args.action {
        None => {
            for row in catalogue() {
                let (site, profile) = (row.site.to_string(), if row.needs_profile { "profile" } else { "" });
                writeln!(out, "{:14} {:17} {:14} {profile:8} {}", row.name, row.paper, site, row.summary)?;
            }
        }
        Some(ReuseAction::Show { policy }) => {
            out.write_all(ReuseRecipe::parse(policy)?.to_toml()?.as_bytes())?;
        }
        Some(ReuseAction::Profile(args)) => profile(args, &mut out)?,
    }
    Ok(())
}

fn profile(args: &ReuseProfileArgs, out: &mut impl Write) -> Result<()> {
    if args.scenes == 0 || args.frames <= GIVEN || !args.frames.is_multiple_of(CHUNK) {
        let problem = format!(
            "--scenes and --frames: at least one scene, and a multiple of {CHUNK} frames above {GIVEN}"
        );
        return Err(Usage(problem).into());
    }
    let schedule = Schedule::shifted(args.steps, Schedule::SHIFT).map_err(|e| Usage(e.to_string()))?;
    let model = TinyVideo::bundled().context("cannot load the bundled model")?;
    let calibration = Calibration {
        model: &model,
        schedule: &schedule,
        scenes: args.scenes,
        frames: args.frames,
        seed: args.seed,
        lambda: args.lambda,
        tau: args.tau,
    };
    let profile = calibration.profile(&args.policy)?;
    profile.save(&args.out)?;
    match &profile.data {
        ProfileData::Erta(d) => {
            let reused = d.reuse.iter().filter(|r| **r).count();
            writeln!(out, "{reused} of {} steps are reused", d.reuse.len())?;
        }
        ProfileData::Mag { ratios } => writeln!(out, "ratios {ratios:?}")?,
        ProfileData::Tea { polynomial } => writeln!(out, "polynomial {polynomial:?}")?,
        ProfileData::Blocks { foreground, background } => {
            writeln!(out, "foreground {foreground:?}, cached blocks {background:?}")?;
        }
    }
    let (toml, arrays) = (args.out.with_extension("toml"), args.out.with_extension("safetensors"));
    writeln!(out, "{}, {}", toml.display(), arrays.display())?;
    Ok(())
}
