//! One check: the command behind it, how long it took, and how to repeat it.

use std::time::Instant;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use xshell::{Shell, cmd};

use crate::codegen::Codegen;
use crate::tidy;

/// Features of the host's checks: every command, downloads and language models among them, which a default build leaves out.
const ALL_COMMANDS: [&str; 2] = ["--features", "tether-cli/lab,tether-cli/download"];

/// A check, also a subcommand of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub(crate) enum Step {
    /// The formatting
    Fmt,
    /// What no compiler checks: the crates' arrows, the files, the published crates' manners
    Tidy,
    /// Clippy on every target, warnings denied
    Lint,
    /// The tests: with nextest where it is installed, then the doctests
    Test(Tests),
    /// The doctests alone
    Doctest,
    /// The documentation, warnings denied
    Doc,
    /// Licences, advisories and sources of the dependencies, where cargo-deny is installed
    Deny,
    /// Every kernel as source for every target, checked by the compilers that are installed; writes docs/support.md. A compiler that is
    /// not there is skipped, and says why, unless `TETHER_REQUIRE` names it (`clang`, `spirv-val`)
    Codegen(Codegen),
}

/// Which tests.
#[derive(Args, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tests {
    /// Where engines run: `host` is every test of a build without GPUs, the others the engine's own tests on that runtime. One that is not
    /// there is skipped, and says why, unless `TETHER_REQUIRE` names it
    #[arg(long, value_enum, default_value_t)]
    runtime: Runtime,
}

impl Tests {
    /// Whether these are the host's tests, to which the doctests belong.
    pub(crate) fn are_default(self) -> bool {
        self.runtime == Runtime::Host
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Runtime {
    #[default]
    Host,
    Wgpu,
    Vulkan,
    Metal,
    Cuda,
    Rocm,
}

impl Runtime {
    /// The feature of the crates that has the same name, as has the command's `--device`.
    pub(crate) fn feature(self) -> Option<&'static str> {
        match self {
            Self::Host => None,
            Self::Wgpu => Some("wgpu"),
            Self::Vulkan => Some("vulkan"),
            Self::Metal => Some("metal"),
            Self::Cuda => Some("cuda"),
            Self::Rocm => Some("rocm"),
        }
    }
}

enum Outcome {
    Passed,
    Skipped(&'static str),
}

impl Step {
    /// From cheap to dear. Without [`Self::Codegen`], which compiles GPU crates.
    pub(crate) const ALL: [Self; 7] = [
        Self::Fmt,
        Self::Tidy,
        Self::Lint,
        Self::Test(Tests { runtime: Runtime::Host }),
        Self::Doctest,
        Self::Doc,
        Self::Deny,
    ];

    /// Whether the README's test command has already done this.
    pub(crate) fn is_tests(self) -> bool {
        matches!(self, Self::Test(_) | Self::Doctest)
    }

    /// Runs the check and says how long it took.
    pub(crate) fn run(self, shell: &Shell) -> Result<()> {
        let name = self.name();
        let start = Instant::now();
        let outcome = self.outcome(shell);
        let seconds = start.elapsed().as_secs_f64();
        // On standard error, as cargo's own messages are: a log then keeps them in order.
        match outcome {
            Ok(Outcome::Passed) => eprintln!("==> {name}: passed in {seconds:.1} s"),
            Ok(Outcome::Skipped(why)) => eprintln!("==> {name}: skipped, {why}"),
            Err(error) => {
                return Err(error.context(format!(
                    "{name} failed after {seconds:.1} s; repeat it alone with `cargo xtask {name}`"
                )));
            }
        }
        Ok(())
    }

    fn name(self) -> &'static str {
        match self {
            Self::Fmt => "fmt",
            Self::Tidy => "tidy",
            Self::Lint => "lint",
            Self::Test(_) => "test",
            Self::Doctest => "doctest",
            Self::Doc => "doc",
            Self::Deny => "deny",
            Self::Codegen(_) => "codegen",
        }
    }

    fn outcome(self, shell: &Shell) -> Result<Outcome> {
        let command = match self {
            Self::Fmt => cmd!(shell, "cargo fmt --all --check"),
            Self::Tidy => return tidy::check(shell).map(|()| Outcome::Passed),
            Self::Codegen(codegen) => return codegen.run(shell).map(|()| Outcome::Passed),
            Self::Lint => {
                // The command as people build it has fewer features than the tests.
                cmd!(shell, "cargo clippy -p tether-cli --bins --tests -- -D warnings").run()?;
                cmd!(shell, "cargo clippy --workspace --all-targets {ALL_COMMANDS...} -- -D warnings")
            }
            Self::Test(tests) if !tests.are_default() => return on_device(shell, tests.runtime),
            Self::Test(_) if is_installed(shell, "nextest") => {
                cmd!(shell, "cargo nextest run --workspace {ALL_COMMANDS...}")
            }
            // Not `--all-targets`: that would run the benches as well.
            Self::Test(_) => cmd!(shell, "cargo test --workspace --tests {ALL_COMMANDS...}"),
            Self::Doctest => cmd!(shell, "cargo test --workspace --doc {ALL_COMMANDS...}"),
            Self::Doc => cmd!(shell, "cargo doc --workspace --no-deps {ALL_COMMANDS...}")
                .env("RUSTDOCFLAGS", "-D warnings"),
            Self::Deny if is_installed(shell, "deny") => cmd!(shell, "cargo deny check"),
            Self::Deny => {
                return Ok(Outcome::Skipped(
                    "cargo-deny is not installed (cargo install --locked cargo-deny)",
                ));
            }
        };
        command.run()?;
        Ok(Outcome::Passed)
    }
}

/// The tests that engines pass, on one runtime: one command, so that all of them are of one build. What they print of skipped tests is shown.
fn on_device(shell: &Shell, runtime: Runtime) -> Result<Outcome> {
    let Some(feature) = runtime.feature() else {
        return Ok(Outcome::Skipped("the host's tests are the default ones"));
    };
    let features = format!("tether-kernels/{feature},tethercache/{feature}");
    let tests =
        ["engine", "tokens", "select", "reuse", "golden_sims", "device_tokens"].map(|test| ["--test", test]);
    let what = ["-p", "tether-kernels", "-p", "tethercache", "--features", &features];
    let what: Vec<&str> = what.into_iter().chain(tests.into_iter().flatten()).collect();
    // A software device is slow, and a compiler for it has one thread: processes side by side use all cores.
    if is_installed(shell, "nextest") {
        cmd!(shell, "cargo nextest run {what...} --success-output immediate").run()?;
    } else {
        cmd!(shell, "cargo test {what...} -- --nocapture --test-threads=1").run()?;
    }
    Ok(Outcome::Passed)
}

fn is_installed(shell: &Shell, plugin: &str) -> bool {
    cmd!(shell, "cargo {plugin} --version").quiet().ignore_stdout().ignore_stderr().run().is_ok()
}
