//! What the kernels' crate emitted.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

/// An operation on a target: one entry for each kernel that it launched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) target: String,
    /// The operation, and what is fixed at compile time.
    pub(crate) case: String,
    /// Of the operation's tensors.
    pub(crate) dtype: Option<String>,
    pub(crate) outcome: Outcome,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Emitted(Source),
    /// The engine does not have it there, and says what is missing.
    Refused(String),
    Failed(String),
}

/// A file below the folder of sources. Several entries may name the same one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// `module::function`
    pub(crate) kernel: String,
    pub(crate) file: PathBuf,
    pub(crate) shared_bytes: u64,
    /// What validated it when it was emitted.
    pub(crate) checked: Option<String>,
}

impl Entry {
    pub(crate) fn source(&self) -> Option<&Source> {
        match &self.outcome {
            Outcome::Emitted(source) => Some(source),
            Outcome::Refused(_) | Outcome::Failed(_) => None,
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.target, self.case)?;
        if let Some(dtype) = &self.dtype {
            write!(f, ", {dtype}")?;
        }
        if let Some(source) = self.source() {
            write!(f, " ({})", source.file.display())?;
        }
        Ok(())
    }
}

/// Entries with a source that no earlier one has, by their place in `entries`.
pub(crate) fn sources(entries: &[Entry]) -> impl Iterator<Item = (usize, &Source)> {
    let mut seen = BTreeSet::new();
    let sources = entries.iter().enumerate().filter_map(|(i, entry)| Some((i, entry.source()?)));
    sources.filter(move |(_, source)| seen.insert(&source.file))
}

pub(crate) fn parse(manifest: &str) -> Result<Vec<Entry>> {
    let manifest: Vec<Value> = serde_json::from_str(manifest).context("the manifest is no list")?;
    manifest
        .iter()
        .map(|entry| parse_entry(entry).with_context(|| format!("manifest entry {entry}")))
        .collect()
}

fn parse_entry(entry: &Value) -> Result<Entry> {
    let text = |key: &str| entry[key].as_str().map(str::to_owned);
    let required = |key: &'static str| text(key).with_context(|| format!("no `{key}`"));
    let outcome = if let Some(reason) = text("failed") {
        Outcome::Failed(reason)
    } else if let Some(feature) = text("refused") {
        Outcome::Refused(feature)
    } else {
        Outcome::Emitted(Source {
            kernel: required("kernel")?,
            file: required("file")?.into(),
            shared_bytes: entry["shared_bytes"].as_u64().context("no `shared_bytes`")?,
            checked: text("checked"),
        })
    };
    Ok(Entry { target: required("target")?, case: required("case")?, dtype: text("dtype"), outcome })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An entry of `case`; `dtype` may be empty.
    fn entry(target: &str, case: &str, dtype: &str, outcome: Outcome) -> Entry {
        let dtype = (!dtype.is_empty()).then(|| dtype.to_owned());
        Entry { target: target.to_owned(), case: case.to_owned(), dtype, outcome }
    }

    /// `kernel`, emitted to a file of its own for `target` and `dtype`.
    pub(crate) fn emitted(target: &str, kernel: &str, dtype: &str) -> Entry {
        let source = Source {
            kernel: kernel.to_owned(),
            file: format!("{target}/{kernel}-{dtype}").into(),
            shared_bytes: 64,
            checked: (target == "wgsl").then(|| "naga".to_owned()),
        };
        entry(target, "a case", dtype, Outcome::Emitted(source))
    }

    pub(crate) fn refused(target: &str, case: &str, dtype: &str, feature: &str) -> Entry {
        entry(target, case, dtype, Outcome::Refused(feature.to_owned()))
    }

    #[test]
    fn each_outcome_is_read() {
        let manifest = r#"[
            {"target": "wgsl", "case": "align", "dtype": "f16", "kernel": "copy::fill_zero",
             "file": "wgsl/copy/fill_zero/align-f16.wgsl", "entry": "fill_zero_f_", "shared_bytes": 64, "checked": "naga"},
            {"target": "msl", "case": "top 8 of 64", "dtype": null, "failed": "a panic"},
            {"target": "msl", "case": "align", "dtype": "bf16", "refused": "bf16 storage"}
        ]"#;
        let entries = parse(manifest).unwrap();
        let source = entries[0].source().unwrap();
        assert_eq!(source.kernel, "copy::fill_zero");
        assert_eq!(
            (source.file.to_str(), source.shared_bytes),
            (Some("wgsl/copy/fill_zero/align-f16.wgsl"), 64)
        );
        assert_eq!(source.checked.as_deref(), Some("naga"));
        assert_eq!((&entries[1].outcome, &entries[1].dtype), (&Outcome::Failed("a panic".to_owned()), &None));
        assert_eq!(entries[2], refused("msl", "align", "bf16", "bf16 storage"));
        assert_eq!(entries[2].to_string(), "msl: align, bf16");
    }

    #[test]
    fn an_entry_that_says_nothing_is_an_error() {
        let error = parse(r#"[{"target": "msl", "case": "align", "dtype": null, "kernel": "a::b"}]"#);
        assert!(format!("{:#}", error.unwrap_err()).contains("no `file`"));
        assert!(parse("{}").is_err());
    }

    #[test]
    fn a_source_is_named_once() {
        let entries = [
            refused("msl", "align", "bf16", "bf16 storage"),
            emitted("wgsl", "a::b", "f32"),
            emitted("wgsl", "a::b", "f32"),
            emitted("wgsl", "a::b", "f16"),
        ];
        assert_eq!(sources(&entries).map(|(i, _)| i).collect::<Vec<_>>(), [1, 3]);
    }
}
