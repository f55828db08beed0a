//! Compilers and validators that may not be installed.

use std::process::Command;

use anyhow::{Result, bail};

/// What `TETHER_REQUIRE` names, as for the runtimes that tests need: a tool in it must be there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Required(Vec<String>);

/// What came of a check that needs a tool.
pub(crate) enum Outcome<T> {
    Ran(T),
    /// Why it did not, and what to install.
    Missing(String),
}

impl Required {
    pub(crate) fn from_env() -> Self {
        Self::parse(&std::env::var("TETHER_REQUIRE").unwrap_or_default())
    }

    fn parse(names: &str) -> Self {
        Self(names.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect())
    }

    /// The check is skipped, unless `name` is required.
    pub(crate) fn missing<T>(&self, name: &str, why: &str) -> Result<Outcome<T>> {
        if self.0.iter().any(|required| required == name) {
            bail!("TETHER_REQUIRE names {name}, but {why}");
        }
        Ok(Outcome::Missing(format!("{name}: {why}")))
    }
}

/// The first of `names` that starts.
pub(crate) fn find(names: &[&'static str]) -> Option<&'static str> {
    names
        .iter()
        .copied()
        .find(|name| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_is_an_error_where_it_is_required() {
        let required = Required::parse("vulkan, clang");
        assert!(required.missing::<()>("clang", "it is not installed").is_err());
        let skipped = required.missing::<()>("spirv-val", "it is not installed").unwrap();
        assert!(matches!(skipped, Outcome::Missing(why) if why == "spirv-val: it is not installed"));
        assert!(Required::parse("").missing::<()>("", "an empty name is no name").is_ok());
    }

    #[test]
    fn what_does_not_start_is_not_found() {
        assert_eq!(find(&["no-such-program", "cargo"]), Some("cargo"));
        assert_eq!(find(&["no-such-program"]), None);
    }
}
