//! `cargo xtask`: the checks that a change passes before it is merged.

mod bench;
mod codegen;
mod step;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use bench::Bench;
use clap::{Parser, Subcommand};
use step::Step;
use xshell::{Shell, cmd};

/// The repository's checks
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Every check, cheap ones first, up to the first that fails
    Validate {
        /// Leave out the tests and the doctests, for where they have just run
        #[arg(long)]
        skip_tests: bool,
    },
    /// Times every device operation on the GPU that is here, beside its own ceilings, and checks the results
    Bench(Bench),
    #[command(flatten)]
    Step(Step),
}

impl Task {
    fn steps(self) -> Vec<Step> {
        match self {
            Self::Validate { skip_tests } => {
                Step::ALL.into_iter().filter(|step| !(skip_tests && step.is_tests())).collect()
            }
            // Whoever asks for the tests means all of them, and neither runner does both kinds.
            Self::Step(Step::Test(tests)) if tests.are_default() => vec![Step::Test(tests), Step::Doctest],
            Self::Step(step) => vec![step],
            // No check.
            Self::Bench(_) => Vec::new(),
        }
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        // Not returned: a failing check is no bug of this program, and a backtrace would bury it.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    let shell = Shell::new()?;
    shell.change_dir(workspace_root(&shell)?);
    if let Task::Bench(bench) = &task {
        return bench.run(&shell);
    }
    task.steps().into_iter().try_for_each(|step| step.run(&shell))
}

/// The alias works from any folder of the checkout; the checks speak of paths from its root.
fn workspace_root(shell: &Shell) -> Result<PathBuf> {
    let manifest = cmd!(shell, "cargo locate-project --workspace --message-format plain")
        .quiet()
        .read()
        .context("cannot find the workspace: run `cargo xtask` inside a checkout")?;
    let root = PathBuf::from(manifest).parent().context("the workspace manifest has no folder")?.to_owned();
    Ok(root)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::Tests;

    fn steps(args: &[&str]) -> Vec<Step> {
        Cli::try_parse_from([&["cargo xtask"], args].concat()).unwrap().task.steps()
    }

    #[test]
    fn validate_runs_every_step_in_order() {
        assert_eq!(steps(&["validate"]), Step::ALL);
    }

    #[test]
    fn skipping_the_tests_leaves_the_rest() {
        let rest = [Step::Fmt, Step::Tidy, Step::Lint, Step::Doc, Step::Deny];
        assert_eq!(steps(&["validate", "--skip-tests"]), rest);
    }

    #[test]
    fn test_includes_the_doctests() {
        assert_eq!(steps(&["test"]), [Step::Test(Tests::default()), Step::Doctest]);
        // An engine on a device has tests of its own, and no doctests.
        assert_eq!(steps(&["test", "--runtime", "cuda"]).len(), 1);
        assert_eq!(steps(&["doctest"]), [Step::Doctest]);
    }
}
