//! `tether`: runs KV-cache recipes on a real model and on recorded traces.

mod cli;
mod commands;
mod exit;
mod fetch;
mod token_trace;
mod trace;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let command = cli::Cli::parse().command;
    let result = match command {
        cli::Command::Video(args) => tether_lab::video::run(&args),
        cli::Command::Replay(args) => commands::replay::run(&args),
        cli::Command::Recipes(args) => commands::recipes::run(&args),
        cli::Command::Bench(args) => commands::bench::run(&args),
        cli::Command::Fetch(args) => commands::fetch::run(&args),
        cli::Command::Reuse(args) => tether_lab::reuse::run(&args),
        #[cfg(feature = "lab")]
        cli::Command::Eval(args) => tether_lab::eval::run(&args),
        #[cfg(feature = "lab")]
        cli::Command::Profile(args) => tether_lab::profile::run(&args),
        #[cfg(feature = "lab")]
        cli::Command::Generate(args) => tether_lab::generate::run(&args),
        #[cfg(not(feature = "lab"))]
        cli::Command::Eval(args) => commands::absent::run("eval", &args),
        #[cfg(not(feature = "lab"))]
        cli::Command::Profile(args) => commands::absent::run("profile", &args),
        #[cfg(not(feature = "lab"))]
        cli::Command::Generate(args) => commands::absent::run("generate", &args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error),
    }
}
