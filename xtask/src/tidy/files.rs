//! The repository's files: their names, their sizes, and what must not be left in them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

/// Written in halves, or this file would be its own first finding.
const LEFTOVERS: [&str; 3] = [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("dbg", "!(")];
/// Names that say nothing about what is inside.
const NAMES: [&str; 2] = ["utils.rs", "mod.rs"];
const MAX_LINES: usize = 800;
const MAX_BYTES: u64 = 9_000_000;

/// Looks at every file that git tracks or would track.
pub(crate) fn check(shell: &Shell) -> Result<Vec<String>> {
    let list = cmd!(shell, "git ls-files -z --cached --others --exclude-standard").quiet().read()?;
    let mut problems = Vec::new();
    for path in list.split('\0').filter(|path| !path.is_empty()) {
        let full = shell.current_dir().join(path);
        // Git lists deleted files until the deletion is staged, and links and submodules as files.
        let Some(metadata) = fs::symlink_metadata(&full).ok().filter(fs::Metadata::is_file) else { continue };
        problems.extend(check_size(path, metadata.len()));
        if path.ends_with(".rs") {
            let source = fs::read_to_string(&full).with_context(|| format!("cannot read {path}"))?;
            problems.extend(check_source(path, &source));
        }
    }
    Ok(problems)
}

fn check_size(path: &str, bytes: u64) -> Option<String> {
    (bytes > MAX_BYTES).then(|| format!("{path}: {bytes} bytes, {MAX_BYTES} is the most"))
}

fn check_source(path: &str, source: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let name = Path::new(path).file_name().unwrap_or_default();
    if NAMES.iter().any(|&bad| name == bad) {
        problems.push(format!("{path}: name the file after what is in it"));
    }
    let lines = source.lines().count();
    if lines > MAX_LINES {
        problems.push(format!("{path}: {lines} lines, {MAX_LINES} is the most: one concept per file"));
    }
    for (text, line) in source.lines().zip(1..) {
        for leftover in LEFTOVERS.iter().filter(|&&leftover| text.contains(leftover)) {
            problems.push(format!("{path}:{line}: `{leftover}` is unfinished work"));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_leftovers_by_line() {
        for leftover in LEFTOVERS {
            let problems = check_source("a/b.rs", &format!("fn f() {{\n    {leftover})\n}}\n"));
            assert_eq!(problems, [format!("a/b.rs:2: `{leftover}` is unfinished work")]);
        }
        assert_eq!(check_source("a/todo.rs", "fn todo() {}\n"), [""; 0]);
    }

    #[test]
    fn refuses_names_that_say_nothing() {
        assert_eq!(check_source("a/utils.rs", "").len(), 1);
        assert_eq!(check_source("a/mod.rs", "").len(), 1);
        assert_eq!(check_source("utils/model.rs", ""), [""; 0]);
    }

    #[test]
    fn limits_are_inclusive() {
        assert_eq!(check_source("a.rs", &"\n".repeat(MAX_LINES)), [""; 0]);
        assert_eq!(check_source("a.rs", &"\n".repeat(MAX_LINES + 1)).len(), 1);
        assert_eq!(check_size("a.bin", MAX_BYTES), None);
        assert!(check_size("a.bin", MAX_BYTES + 1).is_some());
    }
}
