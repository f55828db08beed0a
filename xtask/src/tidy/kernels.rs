//! Kernels that the support matrix does not know, and the other way round: the list of cases is behind the kernels.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::codegen::{CASES, SUPPORT, kernels, support};

pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let matrix = fs::read_to_string(root.join(SUPPORT)).with_context(|| format!("cannot read {SUPPORT}"))?;
    Ok(compare(&kernels::all(root)?, &support::listed(&matrix)))
}

fn compare(kernels: &BTreeSet<String>, listed: &BTreeSet<&str>) -> Vec<String> {
    let missing = kernels.iter().filter(|kernel| !listed.contains(kernel.as_str())).map(|kernel| {
        format!(
            "{SUPPORT} lacks `{kernel}`: add a case that launches it to {CASES} and run `cargo xtask codegen`"
        )
    });
    let gone = listed
        .iter()
        .filter(|kernel| !kernels.contains(**kernel))
        .map(|kernel| format!("{SUPPORT} has `{kernel}`, which is gone: run `cargo xtask codegen`"));
    missing.chain(gone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_a_case_is_a_problem() {
        let kernels = BTreeSet::from(["copy::fill".to_owned(), "copy::new".to_owned()]);
        let problems = compare(&kernels, &BTreeSet::from(["copy::fill", "copy::old"]));
        assert_eq!(problems.len(), 2);
        assert!(problems[0].contains("lacks `copy::new`"), "{problems:?}");
        assert!(problems[1].contains("has `copy::old`"), "{problems:?}");
    }

    #[test]
    fn every_kernel_of_this_checkout_has_a_case() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the checkout");
        assert!(!kernels::all(root).unwrap().is_empty());
        assert_eq!(check(root).unwrap(), [""; 0]);
    }
}
