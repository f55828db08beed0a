//! The kernels that there are, as their sources tell.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Where kernels live.
const FOLDER: &str = "crates/tether-kernels/src/kernels";

/// Every kernel of the checkout at `root`, as `module::function`: of `decode/matrix.rs` the module is `decode`.
pub(crate) fn all(root: &Path) -> Result<BTreeSet<String>> {
    let folder = root.join(FOLDER);
    let mut kernels = BTreeSet::new();
    let mut folders = vec![folder.clone()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).with_context(|| format!("cannot list {}", next.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let below = path.strip_prefix(&folder)?.with_extension("");
            let module = below.iter().next().context("a file has a name")?.to_string_lossy().into_owned();
            let source =
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            kernels.extend(launched(&source).into_iter().map(|function| format!("{module}::{function}")));
        }
    }
    Ok(kernels)
}

/// Functions of `source` that can be launched: `#[cube(launch)]` and its kin, not `#[cube]`, which only kernels can call.
fn launched(source: &str) -> Vec<String> {
    let mut functions = Vec::new();
    let mut rest = source;
    while let Some((_, after)) = rest.split_once("#[cube(") {
        let Some((arguments, after)) = after.split_once(")]") else { break };
        rest = after;
        if arguments.split(',').any(|argument| argument.trim().starts_with("launch")) {
            let name = after.split_once("fn ").map(|(_, name)| name);
            let end = |c: char| !(c.is_alphanumeric() || c == '_');
            functions.extend(name.and_then(|name| name.split(end).next()).map(str::to_owned));
        }
    }
    functions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_launched_is_a_kernel() {
        let source = "
            #[cube]\nfn helper(x: f32) -> f32 { x }
            #[cube(launch)]\npub(crate) fn plain<F: Float>(x: &Array<F>) {}
            #[cube(launch_unchecked)]\n#[allow(dead_code, reason = \"soon\")]\npub(crate) fn unchecked(x: &Array<f32>) {}
            #[cube(fast_math = FastMath::all())]\nfn quick(x: f32) -> f32 { x }
            #[cube(\n    launch_unchecked,\n    cluster_dim = dim,\n)]\nfn spread_out() {}
        ";
        assert_eq!(launched(source), ["plain", "unchecked", "spread_out"]);
    }
}
