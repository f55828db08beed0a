//! The workspace's crates, from `cargo metadata --no-deps`.

use anyhow::{Context, Result};
use serde_json::Value;

/// The workspace's crates.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// In cargo's order.
    pub(crate) packages: Vec<Package>,
}

/// One crate of the workspace.
#[derive(Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    /// Whether it may go to a registry.
    pub(crate) published: bool,
    pub(crate) description: Option<String>,
    /// Folder, relative to the workspace.
    pub(crate) folder: String,
    /// Root file of its library, relative to the workspace.
    pub(crate) lib_target: Option<String>,
    pub(crate) dependencies: Vec<Dependency>,
}

/// One entry of a crate's manifest.
#[derive(Debug)]
pub(crate) struct Dependency {
    /// The package's own name, whatever the manifest renames it to.
    pub(crate) name: String,
    /// Whether only tests, examples and benches see it.
    pub(crate) dev: bool,
}

impl Workspace {
    /// Reads the answer of `cargo metadata --no-deps --format-version 1`.
    pub(crate) fn from_metadata(json: &str) -> Result<Self> {
        let metadata: Value = serde_json::from_str(json).context("cargo metadata is not JSON")?;
        let root = string(&metadata, "workspace_root")?;
        let packages = array(&metadata, "packages")?
            .iter()
            .map(|package| Package::from_metadata(package, root))
            .collect::<Result<_>>()?;
        Ok(Self { packages })
    }

    /// The crate with this name, if it is one of the workspace's.
    pub(crate) fn package(&self, name: &str) -> Option<&Package> {
        self.packages.iter().find(|package| package.name == name)
    }
}

impl Package {
    /// The dependencies that its users inherit.
    pub(crate) fn inherited(&self) -> impl Iterator<Item = &str> {
        self.dependencies
            .iter()
            .filter(|dependency| !dependency.dev)
            .map(|dependency| dependency.name.as_str())
    }

    /// Its manifest, relative to the workspace.
    pub(crate) fn manifest(&self) -> String {
        format!("{}/Cargo.toml", self.folder)
    }

    fn from_metadata(package: &Value, root: &str) -> Result<Self> {
        let folder = relative(string(package, "manifest_path")?, root).trim_end_matches("Cargo.toml");
        let lib_target = array(package, "targets")?
            .iter()
            .find(|target| {
                target["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == "lib"))
            })
            .map(|target| string(target, "src_path").map(|path| relative(path, root).to_owned()))
            .transpose()?;
        Ok(Self {
            name: string(package, "name")?.to_owned(),
            // `publish = false` arrives as an empty list of registries.
            published: package["publish"].as_array().is_none_or(|registries| !registries.is_empty()),
            description: package["description"].as_str().map(str::to_owned),
            folder: folder.trim_end_matches('/').to_owned(),
            lib_target,
            dependencies: array(package, "dependencies")?
                .iter()
                .map(|dependency| {
                    let name = string(dependency, "name")?.to_owned();
                    Ok(Dependency { name, dev: dependency["kind"] == "dev" })
                })
                .collect::<Result<_>>()?,
        })
    }
}

fn relative<'a>(path: &'a str, root: &str) -> &'a str {
    path.strip_prefix(root).unwrap_or(path).trim_start_matches('/')
}

fn string<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value[key].as_str().with_context(|| format!("cargo metadata has no string `{key}` where one is due"))
}

fn array<'a>(value: &'a Value, key: &str) -> Result<&'a Vec<Value>> {
    value[key].as_array().with_context(|| format!("cargo metadata has no list `{key}` where one is due"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const METADATA: &str = r#"{
        "workspace_root": "/w",
        "packages": [{
            "name": "a", "publish": null, "description": "First", "manifest_path": "/w/crates/a/Cargo.toml",
            "targets": [{ "kind": ["test"], "src_path": "/w/crates/a/tests/t.rs" },
                        { "kind": ["lib"], "src_path": "/w/crates/a/src/lib.rs" }],
            "dependencies": [{ "name": "b", "kind": null }, { "name": "c", "kind": "dev" },
                             { "name": "d", "kind": "build" }]
        }, {
            "name": "b", "publish": [], "description": null, "manifest_path": "/w/b/Cargo.toml",
            "targets": [{ "kind": ["bin"], "src_path": "/w/b/src/main.rs" }], "dependencies": []
        }]
    }"#;

    #[test]
    fn reads_what_the_checks_need() {
        let workspace = Workspace::from_metadata(METADATA).unwrap();
        let a = workspace.package("a").unwrap();
        assert!(a.published);
        assert_eq!(a.description.as_deref(), Some("First"));
        assert_eq!(a.manifest(), "crates/a/Cargo.toml");
        assert_eq!(a.lib_target.as_deref(), Some("crates/a/src/lib.rs"));
        assert_eq!(a.inherited().collect::<Vec<_>>(), ["b", "d"]);

        let b = workspace.package("b").unwrap();
        assert!(!b.published);
        assert_eq!((&b.description, &b.lib_target), (&None, &None));
        assert!(workspace.package("c").is_none());
    }

    #[test]
    fn names_what_is_missing() {
        let error = Workspace::from_metadata(r#"{ "workspace_root": "/w" }"#).unwrap_err();
        assert!(error.to_string().contains("`packages`"), "{error}");
    }
}
