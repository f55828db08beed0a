//! Which crates from outside the workspace its crates may use.

use std::collections::BTreeSet;

use super::workspace::Workspace;

/// The only crates that may name a GPU kernel compiler.
const KERNEL_CRATES: [&str; 2] = ["tether-kernels", "tether-burn"];
/// Each with its companions, such as `wgpu-hal`.
const GPU_FAMILIES: [&str; 4] = ["ash", "cubecl", "cudarc", "wgpu"];

/// Manifests that name a crate which is not for them.
pub(crate) fn check(workspace: &Workspace) -> Vec<String> {
    let mut problems = Vec::new();
    for package in &workspace.packages {
        let (name, manifest) = (&package.name, package.manifest());
        if package.published && package.inherited().any(|used| used == "anyhow") {
            problems
                .push(format!("{manifest}: `{name}` is a library and has errors of its own: no `anyhow`"));
        }
        if !KERNEL_CRATES.contains(&name.as_str()) {
            let kernels = package.dependencies.iter().filter(|used| used.name.starts_with("cubecl"));
            problems.extend(kernels.map(|used| {
                format!("{manifest}: `{name}` depends on `{}`, which is for {KERNEL_CRATES:?}", used.name)
            }));
        }
    }
    problems
}

/// GPU crates in `tree`, the default build's `cargo tree --prefix none`.
pub(crate) fn gpu_crates(tree: &str) -> Vec<String> {
    let names: BTreeSet<_> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    names
        .into_iter()
        .filter(|name| GPU_FAMILIES.contains(&name.split('-').next().unwrap_or_default()))
        .map(|name| {
            format!(
                "the default build has the GPU crate `{name}`: put it behind a feature \
                 (`cargo tree --workspace -e normal --target all -i {name}` shows who asks)"
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::workspace::{Dependency, Package};

    fn package(name: &str, published: bool, dependencies: &[(&str, bool)]) -> Package {
        Package {
            name: name.to_owned(),
            published,
            description: None,
            folder: name.to_owned(),
            lib_target: None,
            dependencies: dependencies
                .iter()
                .map(|&(name, dev)| Dependency { name: name.to_owned(), dev })
                .collect(),
        }
    }

    #[test]
    fn anyhow_is_for_binaries_and_tests() {
        let packages = vec![
            package("bin", false, &[("anyhow", false)]),
            package("tested", true, &[("anyhow", true)]),
            package("lib", true, &[("anyhow", false)]),
        ];
        let problems = check(&Workspace { packages });
        assert_eq!(problems, ["lib/Cargo.toml: `lib` is a library and has errors of its own: no `anyhow`"]);
    }

    #[test]
    fn kernels_live_in_their_crates() {
        let packages = vec![
            package("tether-kernels", true, &[("cubecl", false)]),
            package("tether-burn", true, &[("cubecl-core", false)]),
            package("tether-core", true, &[("cubecl-core", true)]),
        ];
        let problems = check(&Workspace { packages });
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with("tether-core/Cargo.toml: `tether-core` depends on `cubecl-core`"));
    }

    #[test]
    fn gpu_crates_are_known_by_whole_words() {
        let tree = "tether-core v0.1.0 (/w)\nhashbrown v0.17.1\nahash v0.8.12 (*)\n\nwgpu-hal v27.0.0\nash v0.38.0\nash v0.38.0 (*)";
        let problems = gpu_crates(tree);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].contains("`ash`") && problems[1].contains("`wgpu-hal`"), "{problems:?}");
    }
}
