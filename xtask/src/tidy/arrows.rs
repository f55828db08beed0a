//! The dependency arrows between the workspace's crates, against the table that allows them.

use super::ARCHITECTURE;
use super::table::{Row, Table};
use super::workspace::Workspace;

/// Arrows that the table lacks, crates that only one side knows, and cycles in the table.
pub(crate) fn check(table: &Table, workspace: &Workspace) -> Vec<String> {
    let mut problems = Vec::new();
    for package in &workspace.packages {
        let name = &package.name;
        let Some(row) = table.row(name) else {
            problems.push(format!(
                "{ARCHITECTURE}: the dependency table has no row for `{name}` ({})",
                package.manifest()
            ));
            continue;
        };
        for used in package.inherited().filter(|used| workspace.package(used).is_some()) {
            if !row.may_use.iter().any(|allowed| allowed == used) {
                problems.push(format!(
                    "{}: `{name}` depends on `{used}`, an arrow that the architecture lacks: \
                     drop the dependency, or add `{used}` to the row of `{name}`, {ARCHITECTURE}:{}",
                    package.manifest(),
                    row.line
                ));
            }
        }
    }
    for row in &table.rows {
        for name in std::iter::once(&row.name).chain(&row.may_use) {
            if workspace.package(name).is_none() {
                problems.push(format!("{ARCHITECTURE}:{}: `{name}` is no crate of this workspace", row.line));
            }
        }
    }
    problems
        .extend(cycle(table).map(|names| {
            format!("{ARCHITECTURE}: the dependency table has a cycle: {}", names.join(" -> "))
        }));
    problems
}

/// Published crates whose users would need a crate that no registry has.
pub(crate) fn published_on_unpublished(workspace: &Workspace) -> Vec<String> {
    let mut problems = Vec::new();
    for package in workspace.packages.iter().filter(|package| package.published) {
        let unpublished = |name: &&str| workspace.package(name).is_some_and(|package| !package.published);
        for used in package.inherited().filter(unpublished) {
            problems.push(format!(
                "{}: `{}` is published but depends on `{used}`, which is not",
                package.manifest(),
                package.name
            ));
        }
    }
    problems
}

/// The first cycle, its first crate repeated at the end.
fn cycle(table: &Table) -> Option<Vec<&str>> {
    /// `path` leads to `row`; `done` holds the crates from which no cycle can be reached.
    fn visit<'a>(table: &'a Table, row: &'a Row, path: &mut Vec<&'a str>, done: &mut Vec<&'a str>) -> bool {
        let name = row.name.as_str();
        if done.contains(&name) {
            return false;
        }
        let seen = path.iter().position(|&other| other == name);
        path.push(name);
        if let Some(start) = seen {
            path.drain(..start);
            return true;
        }
        if row.may_use.iter().filter_map(|used| table.row(used)).any(|used| visit(table, used, path, done)) {
            return true;
        }
        path.pop();
        done.push(name);
        false
    }

    let mut path = Vec::new();
    let mut done = Vec::new();
    table.rows.iter().any(|row| visit(table, row, &mut path, &mut done)).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn table(rows: &[(&str, &[&str])]) -> Table {
        let rows = rows.iter().zip(10..).map(|(&(name, may_use), line)| Row {
            line,
            name: name.to_owned(),
            may_use: may_use.iter().map(|&name| name.to_owned()).collect(),
        });
        Table { rows: rows.collect() }
    }

    /// A dependency's name and its kind in cargo's metadata, which is null for a normal one.
    type Arrow<'a> = (&'a str, Option<&'a str>);

    /// Crates as (name, published, dependencies).
    fn workspace(crates: &[(&str, bool, &[Arrow<'_>])]) -> Workspace {
        let packages: Vec<_> = crates
            .iter()
            .map(|&(name, published, dependencies)| {
                json!({
                    "name": name,
                    "publish": if published { json!(null) } else { json!([]) },
                    "description": null,
                    "manifest_path": format!("/w/crates/{name}/Cargo.toml"),
                    "targets": [],
                    "dependencies": dependencies
                        .iter()
                        .map(|(name, kind)| json!({ "name": name, "kind": kind }))
                        .collect::<Vec<_>>(),
                })
            })
            .collect();
        Workspace::from_metadata(&json!({ "workspace_root": "/w", "packages": packages }).to_string())
            .unwrap()
    }

    #[test]
    fn allows_the_arrows_of_the_table_and_dev_dependencies() {
        let workspace = workspace(&[
            ("a", true, &[("serde", None), ("b", Some("dev"))]),
            ("b", true, &[("a", None), ("a", Some("dev"))]),
        ]);
        assert_eq!(check(&table(&[("a", &[]), ("b", &["a"])]), &workspace), [""; 0]);
    }

    #[test]
    fn reports_an_arrow_that_the_table_lacks() {
        for kind in [None, Some("build")] {
            let workspace = workspace(&[("a", true, &[]), ("b", true, &[("a", kind)])]);
            let problems = check(&table(&[("a", &[]), ("b", &[])]), &workspace);
            assert_eq!(
                problems,
                ["crates/b/Cargo.toml: `b` depends on `a`, an arrow that the architecture lacks: \
                  drop the dependency, or add `a` to the row of `b`, ARCHITECTURE.md:11"]
            );
        }
    }

    #[test]
    fn reports_crates_that_only_one_side_knows() {
        let workspace = workspace(&[("a", true, &[]), ("new", true, &[])]);
        let problems = check(&table(&[("a", &["gone"]), ("old", &[])]), &workspace);
        assert_eq!(
            problems,
            [
                "ARCHITECTURE.md: the dependency table has no row for `new` (crates/new/Cargo.toml)",
                "ARCHITECTURE.md:10: `gone` is no crate of this workspace",
                "ARCHITECTURE.md:11: `old` is no crate of this workspace",
            ]
        );
    }

    #[test]
    fn reports_a_cycle_without_what_leads_to_it() {
        let workspace = workspace(&[("a", true, &[]), ("b", true, &[]), ("c", true, &[]), ("d", true, &[])]);
        let table = table(&[("a", &["d", "b"]), ("b", &["c"]), ("c", &["d", "b"]), ("d", &[])]);
        assert_eq!(
            check(&table, &workspace),
            ["ARCHITECTURE.md: the dependency table has a cycle: b -> c -> b"]
        );
    }

    #[test]
    fn a_crate_may_not_use_itself_and_a_diamond_is_no_cycle() {
        assert_eq!(cycle(&table(&[("a", &["a"])])), Some(vec!["a", "a"]));
        assert_eq!(cycle(&table(&[("a", &["b", "c"]), ("b", &["d"]), ("c", &["d"]), ("d", &[])])), None);
    }

    #[test]
    fn published_crates_keep_to_published_ones() {
        let workspace = workspace(&[
            ("tool", false, &[]),
            ("tests", false, &[("tool", None)]),
            ("good", true, &[("tool", Some("dev"))]),
            ("bad", true, &[("good", None), ("tool", None)]),
        ]);
        assert_eq!(
            published_on_unpublished(&workspace),
            ["crates/bad/Cargo.toml: `bad` is published but depends on `tool`, which is not"]
        );
    }
}
