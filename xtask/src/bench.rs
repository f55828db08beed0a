//! `cargo xtask bench`: every device operation timed on the GPU that is here.

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use xshell::{Shell, cmd};

/// What to time, and where
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bench {
    /// The runtime [default: cuda where `nvidia-smi` runs, rocm where `rocminfo` does, metal on macOS, else vulkan]
    #[arg(long, value_enum)]
    device: Option<Gpu>,
    /// Groups of operations, such as decode,rope [default: all]
    #[arg(long, value_delimiter = ',', value_name = "GROUP")]
    ops: Vec<String>,
    /// A JSON object a line instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Gpu {
    Cuda,
    Rocm,
    Vulkan,
    Metal,
    Wgpu,
}

impl Gpu {
    /// The feature of the crates and the device of the command have this name.
    fn name(self) -> &'static str {
        match self {
            Self::Cuda => "cuda",
            Self::Rocm => "rocm",
            Self::Vulkan => "vulkan",
            Self::Metal => "metal",
            Self::Wgpu => "wgpu",
        }
    }

    fn here(shell: &Shell) -> Self {
        let runs =
            |program: &str| cmd!(shell, "{program}").quiet().ignore_stdout().ignore_stderr().run().is_ok();
        if runs("nvidia-smi") {
            Self::Cuda
        } else if runs("rocminfo") {
            Self::Rocm
        } else if cfg!(target_os = "macos") {
            Self::Metal
        } else {
            Self::Vulkan
        }
    }
}

impl Bench {
    pub(crate) fn run(&self, shell: &Shell) -> Result<()> {
        let device = self.device.unwrap_or_else(|| Gpu::here(shell)).name();
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
