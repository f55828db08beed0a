//! `tether`: runs KV-cache recipes on a real model and on recorded traces.

mod artefacts;
mod budget;
mod calibration;
mod cli;
mod commands;
mod device;
mod exit;
mod fetch;
mod head_profile;
mod language;
mod progress;
mod rollout;
mod token_trace;
mod trace;
mod workers;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let command = cli::Cli::parse().command;
    let result = match command {
        cli::Command::Video(args) => commands::video::run(&args),
        cli::Command::Replay(args) => commands::replay::run(&args),
        cli::Command::Recipes(args) => commands::recipes::run(&args),
        cli::Command::Bench(args) => commands::bench::run(&args),
        cli::Command::Fetch(args) => commands::fetch::run(&args),
        cli::Command::Eval(args) => commands::eval::run(&args),
        cli::Command::Reuse(args) => commands::reuse::run(&args),
        cli::Command::Profile(args) => commands::profile::run(&args),
        cli::Command::Generate(args) => commands::generate::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error),
    }
}
