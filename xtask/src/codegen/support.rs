//! The support matrix: runtime x kernel x dtype. It says what the engine launches and the compilers emit, whatever checkers are here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::manifest::{Entry, Outcome};

/// Targets with their runtimes, features of the crates, and devices that are assumed.
const RUNTIMES: [Runtime; 6] = [
    Runtime {
        target: "cuda",
        name: "CUDA",
        feature: "cuda",
        language: "CUDA C++",
        device: "compute capability 9.0",
    },
    Runtime {
        target: "hip-wave32",
        name: "ROCm, wave 32",
        feature: "rocm",
        language: "HIP",
        device: "RDNA 3 (gfx1100)",
    },
    Runtime {
        target: "hip-wave64",
        name: "ROCm, wave 64",
        feature: "rocm",
        language: "HIP",
        device: "CDNA 2 and 3 (gfx90a, gfx942)",
    },
    Runtime {
        target: "spirv",
        name: "Vulkan",
        feature: "vulkan",
        language: "SPIR-V",
        device: "Vulkan 1.3 with 16-bit storage and arithmetic, subgroups of 32",
    },
    Runtime {
        target: "wgsl",
        name: "WebGPU",
        feature: "wgpu",
        language: "WGSL",
        device: "`shader-f16` and `subgroups` of 32",
    },
    Runtime { target: "msl", name: "Metal", feature: "metal", language: "MSL", device: "Metal 3" },
];

struct Runtime {
    target: &'static str,
    name: &'static str,
    feature: &'static str,
    language: &'static str,
    device: &'static str,
}

const HEAD: &str = "\
# Support

Written by `cargo xtask codegen`, which runs the engine's operations for each runtime without a device and keeps what is launched.
`cargo xtask codegen --check` fails when this file is stale. It tells what the engine and the compilers can do, not where it has been run:
that is in the README and in [performance.md](performance.md).

";

/// `docs/support.md`.
pub(crate) fn matrix(entries: &[Entry]) -> String {
    let mut text = HEAD.to_owned();
    runtimes(&mut text);
    kernels(&mut text, entries);
    refusals(&mut text, entries);
    text
}

/// Kernels in the matrix `text`.
pub(crate) fn listed(text: &str) -> BTreeSet<&str> {
    let cells = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    cells.map(|(kernel, _)| kernel).filter(|kernel| kernel.contains("::")).collect()
}

fn runtimes(text: &mut String) {
    text.push_str(
        "## Runtimes\n\n| runtime | feature | language | devices that are assumed |\n|---|---|---|---|\n",
    );
    for Runtime { name, feature, language, device, .. } in RUNTIMES {
        let _ = writeln!(text, "| {name} | `{feature}` | {language} | {device} |");
    }
}

fn kernels(text: &mut String, entries: &[Entry]) {
    let mut dtypes: BTreeMap<&str, BTreeMap<&str, BTreeSet<Option<&str>>>> = BTreeMap::new();
    for entry in entries {
        let Some(source) = entry.source() else { continue };
        let of_target = dtypes.entry(&source.kernel).or_default().entry(&entry.target).or_default();
        of_target.insert(entry.dtype.as_deref());
    }
    text.push_str(
        "\n## Kernels\n\nDtypes of the tensors for which an operation launches the kernel; `yes` where there is no choice of dtype. A kernel \
         that a runtime\nlacks has another in its place there, unless the operation is listed below.\n\n| kernel |",
    );
    for runtime in RUNTIMES {
        let _ = write!(text, " {} |", runtime.name);
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(RUNTIMES.len()));
    text.push('\n');
    for (kernel, of_targets) in dtypes {
        let _ = write!(text, "| `{kernel}` |");
        for runtime in RUNTIMES {
            let cell = of_targets.get(runtime.target).map(cell).unwrap_or_default();
            let _ = write!(text, "{cell} |");
        }
        text.push('\n');
    }
}

/// With a space in front, so that an empty one is empty.
fn cell(dtypes: &BTreeSet<Option<&str>>) -> String {
    if dtypes.contains(&None) && dtypes.len() == 1 {
        return " yes".to_owned();
    }
    ["f32", "f16", "bf16"]
        .iter()
        .filter(|dtype| dtypes.contains(&Some(**dtype)))
        .map(|dtype| format!(" {dtype}"))
        .collect()
}

fn refusals(text: &mut String, entries: &[Entry]) {
    // For each reason, what was refused where.
    let mut refused: BTreeMap<&str, (BTreeSet<&str>, BTreeSet<&str>)> = BTreeMap::new();
    for entry in entries {
        let Outcome::Refused(feature) = &entry.outcome else { continue };
        let (operations, targets) = refused.entry(feature).or_default();
        operations.insert(operation(entry));
        targets.insert(&entry.target);
    }
    let all: BTreeSet<&str> = entries.iter().filter(|entry| entry.dtype.is_some()).map(operation).collect();
    text.push_str("\n## What is refused\n\n");
    if refused.is_empty() {
        text.push_str("Nothing.\n");
        return;
    }
    text.push_str(
        "The engine returns `CoreError::Unsupported` and names what is missing.\n\n| missing | runtimes | operations |\n|---|---|---|\n",
    );
    for (feature, (operations, targets)) in refused {
        let names: Vec<&str> = RUNTIMES
            .iter()
            .filter(|runtime| targets.contains(runtime.target))
            .map(|runtime| runtime.name)
            .collect();
        let names = if names.len() == RUNTIMES.len() { "all".to_owned() } else { names.join("; ") };
        let operations = if operations.is_superset(&all) {
            "all".to_owned()
        } else {
            operations.into_iter().collect::<Vec<_>>().join("; ")
        };
        let _ = writeln!(text, "| {feature} | {names} | {operations} |");
    }
}

/// The case without its sizes.
fn operation(entry: &Entry) -> &str {
    entry.case.split(',').next().unwrap_or(&entry.case)
}

#[cfg(test)]
mod tests {
    use super::super::manifest::tests::{emitted, refused};
    use super::*;

    #[test]
    fn a_row_has_a_cell_for_each_runtime() {
        let entries = [
            emitted("wgsl", "copy::fill_zero", "f32"),
            emitted("cuda", "copy::fill_zero", "bf16"),
            emitted("cuda", "copy::fill_zero", "f32"),
            emitted("cuda", "copy::fill_zero", "f32"),
            emitted("msl", "ceiling::empty", ""),
        ];
        let text = matrix(&entries);
        assert!(text.contains("\n| `copy::fill_zero` | f32 bf16 | | | | f32 | |\n"), "{text}");
        assert!(text.contains("\n| `ceiling::empty` | | | | | | yes |\n"), "{text}");
        assert!(text.ends_with("Nothing.\n"), "{text}");
        assert_eq!(listed(&text).into_iter().collect::<Vec<_>>(), ["ceiling::empty", "copy::fill_zero"]);
    }

    #[test]
    fn refusals_are_grouped_by_what_is_missing() {
        let entries = [
            emitted("cuda", "copy::fill_zero", "f32"),
            refused("wgsl", "a case", "bf16", "bf16 storage"),
            refused("wgsl", "decode, 64 channels", "f32", "heads of this size"),
            refused("msl", "decode, 128 channels", "f32", "heads of this size"),
        ];
        let text = matrix(&entries);
        assert!(text.contains("\n| bf16 storage | WebGPU | a case |\n"), "{text}");
        assert!(text.contains("\n| heads of this size | WebGPU; Metal | decode |\n"), "{text}");
    }

    #[test]
    fn what_refuses_every_operation_says_so() {
        let entries = [
            emitted("cuda", "copy::fill_zero", "bf16"),
            refused("wgsl", "a case", "bf16", "bf16 storage"),
            refused("wgsl", "a case, of 3", "bf16", "bf16 storage"),
        ];
        assert!(matrix(&entries).contains("\n| bf16 storage | WebGPU | all |\n"));
    }
}
