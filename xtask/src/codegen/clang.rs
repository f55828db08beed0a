//! HIP sources, compiled by clang to the instructions of each GPU. No device library is linked: HIP's headers and `xtask/hip` have all
//! that the kernels call, so the registers that clang tells are those of the whole kernel.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::manifest::{Entry, sources};
use super::tool::{self, Outcome, Required};
use super::verdict::{Resources, Verdict, in_parallel};

/// As `TETHER_REQUIRE` names it.
const NAME: &str = "clang";
const PACKAGES: &str = "apt-get install clang-19 libamdhip64-dev";

/// The targets' GPUs: CDNA 2 and 3, RDNA 3.
const DEVICES: [(&str, &str); 3] =
    [("hip-wave64", "gfx90a"), ("hip-wave64", "gfx942"), ("hip-wave32", "gfx1100")];

/// Included once for each device, because parsing them takes longer than most kernels do.
const HEADERS: &str = "#include <hip/hip_runtime.h>\n#include <hip/hip_fp16.h>\n#include <hip/hip_bf16.h>\n";

/// Compiles every HIP source of `entries`, which lie below `folder`.
pub(crate) fn check(
    root: &Path,
    folder: &Path,
    entries: &[Entry],
    required: &Required,
) -> Result<Outcome<Vec<Verdict>>> {
    let Some(program) = tool::find(&["clang-19", "clang"]) else {
        return required.missing(NAME, &format!("it is not installed ({PACKAGES})"));
    };
    let headers = folder.join("headers.hip");
    fs::write(&headers, HEADERS)?;
    let mut verdicts = Vec::new();
    for (target, device) in DEVICES {
        let clang = Clang { program, device, root, precompiled: folder.join(format!("{device}.pch")) };
        if let Err(why) = clang.precompile(&headers)? {
            return required.missing(NAME, &format!("{program} has no HIP for {device} ({PACKAGES}): {why}"));
        }
        let of_target = |entry: &usize| entries[*entry].target == target;
        let chosen: Vec<usize> = sources(entries).map(|(entry, _)| entry).filter(of_target).collect();
        verdicts.extend(in_parallel(&chosen, |entry| {
            let result =
                entries[entry].source().map_or(Ok(None), |source| clang.compile(&folder.join(&source.file)));
            Verdict { entry, by: device, result }
        }));
    }
    Ok(Outcome::Ran(verdicts))
}

struct Clang<'a> {
    program: &'static str,
    device: &'static str,
    root: &'a Path,
    precompiled: PathBuf,
}

impl Clang<'_> {
    fn command(&self) -> Command {
        let rocm = std::env::var("ROCM_PATH").unwrap_or_else(|_| "/usr".to_owned());
        let mut command = Command::new(self.program);
        command
            .args(["-x", "hip", "--cuda-device-only", "-nogpulib", "-O3", "-std=c++17", "-S"])
            .arg(format!("--offload-arch={}", self.device))
            .arg(format!("--rocm-path={rocm}"))
            .arg("-I")
            .arg(self.root.join("xtask/hip"));
        command
    }

    /// What clang says when it cannot.
    fn precompile(&self, headers: &Path) -> Result<Result<(), String>> {
        let output = self
            .command()
            .args(["-Xclang", "-emit-pch", "-o"])
            .arg(&self.precompiled)
            .arg(headers)
            .output()
            .with_context(|| format!("{} does not run", self.program))?;
        let ok = output.status.success();
        Ok(if ok { Ok(()) } else { Err(first_error(&String::from_utf8_lossy(&output.stderr))) })
    }

    fn compile(&self, source: &Path) -> Result<Option<Resources>, String> {
        let assembly = source.with_extension(format!("{}.s", self.device));
        let output = self
            .command()
            .args(["-Rpass-analysis=kernel-resource-usage", "-Xclang", "-include-pch", "-Xclang"])
            .arg(&self.precompiled)
            .arg("-o")
            .arg(assembly)
            .arg(source)
            .output()
            .map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return Err(first_error(&said));
        }
        resources(&said)
            .map(Some)
            .ok_or_else(|| "it compiles, but clang does not say what it takes".to_owned())
    }
}

/// The first message that is an error; the rest follows from it.
fn first_error(said: &str) -> String {
    said.lines()
        .find(|line| line.contains("error:"))
        .or_else(|| said.lines().next())
        .unwrap_or("no message")
        .to_owned()
}

/// The numbers in the remarks of `-Rpass-analysis=kernel-resource-usage`.
fn resources(remarks: &str) -> Option<Resources> {
    // `kernel.hip:20:1: remark:     SGPRs Spill: 0 [-Rpass-analysis=kernel-resource-usage]`
    let value = |name: &str| {
        remarks.lines().find_map(|line| {
            let said = line.split_once("remark:")?.1.trim_start();
            Some(said.strip_prefix(name)?.strip_prefix(": ")?.split_whitespace().next()?.to_owned())
        })
    };
    let number = |name: &str| value(name)?.parse().ok();
    Some(Resources {
        vector_registers: number("VGPRs")?,
        // RDNA has none, and nothing is said of them there.
        accumulator_registers: number("AGPRs").unwrap_or(0),
        // `TotalSGPRs` from clang 20 on.
        scalar_registers: number("SGPRs").or_else(|| number("TotalSGPRs"))?,
        vector_spills: number("VGPRs Spill")?,
        scalar_spills: number("SGPRs Spill")?,
        occupancy: number("Occupancy [waves/SIMD]")?,
        calls: value("Dynamic Stack")? == "True",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const REMARKS: &str = "\
hip-wave64/attend/attend_rows-d128-f16.hip:20:1: remark: Function Name: attend_rows_f_ [-Rpass-analysis=kernel-resource-usage]
   20 | ) {
      | ^
hip-wave64/attend/attend_rows-d128-f16.hip:20:1: remark:     SGPRs: 42 [-Rpass-analysis=kernel-resource-usage]
hip-wave64/attend/attend_rows-d128-f16.hip:20:1: remark:     VGPRs: 256 [-Rpass-analysis=kernel-resource-usage]
hip-wave64/attend/attend_rows-d128-f16.hip:20:1: remark:     AGPRs: 132 [-Rpass-analysis=kernel-resource-usage]
hip-wave64/attend/attend_rows-d128-f16.hip:20:1: remark:     ScratchSize [bytes/lane]: 0 [-Rpass-analysis=kernel-resource-usage]
hip-wave64/attend/attend_rows-d128-f16.hip:20:1: remark:     Dynamic Stack: False [-Rpass-analysis=kernel-resource-usage]
hip-wave64/attend/attend_rows-d128-f16.hip:20:1: remark:     Occupancy [waves/SIMD]: 1 [-Rpass-analysis=kernel-resource-usage]
hip-wave64/attend/attend_rows-d128-f16.hip:20:1: remark:     SGPRs Spill: 3 [-Rpass-analysis=kernel-resource-usage]
hip-wave64/attend/attend_rows-d128-f16.hip:20:1: remark:     VGPRs Spill: 216 [-Rpass-analysis=kernel-resource-usage]
hip-wave64/attend/attend_rows-d128-f16.hip:20:1: remark:     LDS Size [bytes/block]: 0 [-Rpass-analysis=kernel-resource-usage]
";

    #[test]
    fn registers_and_spills_are_told_apart() {
        let expected = Resources {
            vector_registers: 256,
            accumulator_registers: 132,
            scalar_registers: 42,
            vector_spills: 216,
            scalar_spills: 3,
            occupancy: 1,
            calls: false,
        };
        assert_eq!(resources(REMARKS), Some(expected));
        let calls = REMARKS.replace("Dynamic Stack: False", "Dynamic Stack: True");
        assert_eq!(resources(&calls), Some(Resources { calls: true, ..expected }));
        let rdna = REMARKS.replace("AGPRs", "?");
        assert_eq!(resources(&rdna), Some(Resources { accumulator_registers: 0, ..expected }));
        let newer = REMARKS.replace("remark:     SGPRs: 42", "remark:     TotalSGPRs: 42");
        assert_eq!(resources(&newer), Some(expected));
    }

    #[test]
    fn half_a_report_is_none() {
        assert_eq!(resources(&REMARKS.replace("VGPRs Spill", "?")), None);
        assert_eq!(resources(""), None);
    }

    #[test]
    fn the_first_error_is_the_one_to_show() {
        let said = "In file included from a.hip:1:\nb.h:3:1: error: unknown type\na.hip:9:2: error: too few arguments\n2 errors generated.";
        assert_eq!(first_error(said), "b.h:3:1: error: unknown type");
        assert_eq!(first_error("killed"), "killed");
        assert_eq!(first_error(""), "no message");
    }
}
