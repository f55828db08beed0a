//! `cargo xtask bench`: every device operation timed on the GPU that is here.

use anyhow::{Context, Result, bail};
use clap::Args;
use xshell::{Shell, cmd};

use crate::step::Runtime;

/// What to time, and where
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bench {
    /// The runtime [default: cuda where `nvidia-smi` runs, rocm where `rocminfo` does, metal on macOS, else vulkan]
    #[arg(long, value_enum)]
    device: Option<Runtime>,
    /// Groups of operations, such as decode,rope [default: all]
    #[arg(long, value_delimiter = ',', value_name = "GROUP")]
    ops: Vec<String>,
    /// A JSON object a line instead of a table
    #[arg(long)]
    json: bool,
}

/// The runtime that this machine's GPU is made for.
fn here(shell: &Shell) -> Runtime {
    let runs = |program: &str| cmd!(shell, "{program}").quiet().ignore_stdout().ignore_stderr().run().is_ok();
    if runs("nvidia-smi") {
        Runtime::Cuda
    } else if runs("rocminfo") {
        Runtime::Rocm
    } else if cfg!(target_os = "macos") {
        Runtime::Metal
    } else {
        Runtime::Vulkan
    }
}

impl Bench {
    pub(crate) fn run(&self, shell: &Shell) -> Result<()> {
        let runtime = self.device.unwrap_or_else(|| here(shell));
        let device = runtime.feature().context("the host's code is timed by `cargo bench`")?;
        let args = self.arguments(device);
        if cmd!(shell, "cargo run --quiet --release -p tether-cli --features {device} -- {args...}")
            .run()
            .is_err()
        {
            bail!("the benchmarks did not finish on {device}; another runtime may be named with --device");
        }
        Ok(())
    }

    fn arguments(&self, device: &str) -> Vec<String> {
        let mut args = vec!["bench".to_owned(), "--device".to_owned(), device.to_owned()];
        if !self.ops.is_empty() {
            args.extend(["--ops".to_owned(), self.ops.join(",")]);
        }
        if self.json {
            args.push("--json".to_owned());
        }
        args
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_reach_the_command() {
        let ops = vec!["rope".to_owned(), "decode".to_owned()];
        let bench = Bench { device: None, ops, json: true };
        assert_eq!(bench.arguments("cuda"), ["bench", "--device", "cuda", "--ops", "rope,decode", "--json"]);
        assert_eq!(Bench::default().arguments("wgpu"), ["bench", "--device", "wgpu"]);
    }
}
