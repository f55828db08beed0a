//! What a published crate shows on a registry's page and on docs.rs.

use xshell::Shell;

use super::workspace::{Package, Workspace};

/// Makes the README the crate's front page, and its examples doctests.
const README_DOC: &str = r#"#![doc = include_str!("../README.md")]"#;

/// Published crates without a README, a description or a front page.
pub(crate) fn check(shell: &Shell, workspace: &Workspace) -> Vec<String> {
    let published = workspace.packages.iter().filter(|package| package.published);
    published.flat_map(|package| check_package(package, |path| shell.read_file(path).ok())).collect()
}

fn check_package(package: &Package, read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut problems = Vec::new();
    let readme = format!("{}/README.md", package.folder);
    if read(&readme).is_none_or(|text| text.trim().is_empty()) {
        problems.push(format!("{readme}: a published crate has a README"));
    }
    if package.description.as_deref().is_none_or(|text| text.trim().is_empty()) {
        problems.push(format!("{}: a published crate has a `description`", package.manifest()));
    }
    if let Some(library) = &package.lib_target
        && !read(library).is_some_and(|source| source.lines().any(|line| line.trim() == README_DOC))
    {
        problems.push(format!("{library}: a published crate's front page is its README: {README_DOC}"));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(description: Option<&str>) -> Package {
        Package {
            name: "a".to_owned(),
            published: true,
            description: description.map(str::to_owned),
            folder: "crates/a".to_owned(),
            lib_target: Some("crates/a/src/lib.rs".to_owned()),
            dependencies: Vec::new(),
        }
    }

    #[test]
    fn a_complete_crate_passes() {
        let read = |path: &str| match path {
            "crates/a/README.md" => Some("# a\n".to_owned()),
            "crates/a/src/lib.rs" => Some(format!("// Licence\n{README_DOC}\nmod b;\n")),
            _ => None,
        };
        assert_eq!(check_package(&package(Some("A")), read), [""; 0]);
    }

    #[test]
    fn each_missing_part_is_a_problem() {
        let commented = |path: &str| path.ends_with("lib.rs").then(|| format!("// {README_DOC}\n"));
        for description in [None, Some(" ")] {
            let problems = check_package(&package(description), commented);
            let starts = ["crates/a/README.md:", "crates/a/Cargo.toml:", "crates/a/src/lib.rs:"];
            assert_eq!(problems.len(), starts.len(), "{problems:?}");
            for (problem, start) in problems.iter().zip(starts) {
                assert!(problem.starts_with(start), "{problem}");
            }
        }
    }
}
