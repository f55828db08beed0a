//! Writes the source of every kernel for every target, and a manifest: `cargo xtask codegen` runs this, checks the sources and tells.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use tether_kernels::codegen::{Outcome, Record, emit};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: codegen FOLDER")?);
    let manifest: Vec<Value> = emit(&folder)?.iter().map(entry).collect();
    fs::write(folder.join("manifest.json"), serde_json::to_string_pretty(&manifest)?)?;
    Ok(())
}

fn entry(record: &Record) -> Value {
    let mut entry = json!({
        "target": record.target,
        "case": record.case,
        "dtype": record.dtype.map(|dtype| dtype.to_string()),
    });
    let outcome = match &record.outcome {
        Outcome::Emitted { kernel, file, entry, shared_bytes, checked } => json!({
            "kernel": kernel, "file": file, "entry": entry, "shared_bytes": shared_bytes, "checked": checked,
        }),
        Outcome::Refused { feature } => json!({ "refused": feature }),
        Outcome::Failed { reason } => json!({ "failed": reason }),
        other => json!({ "failed": format!("{other:?}") }),
    };
    if let (Value::Object(entry), Value::Object(outcome)) = (&mut entry, outcome) {
        entry.extend(outcome);
    }
    entry
}
