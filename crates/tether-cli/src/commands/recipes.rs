//! `tether recipes`.

use std::io::Write;

use anyhow::Result;
use tethercache::{Proof, catalogue};

use crate::cli::{RecipesAction, RecipesArgs};

/// Runs the subcommand.
pub(crate) fn run(args: &RecipesArgs) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if let Some(RecipesAction::Show { name, unit }) = &args.action {
        let mut rows = catalogue().iter().filter(|c| unit.as_ref().is_none_or(|u| c.unit == u));
        let Some(row) = rows.find(|c| c.name == name) else {
            let unit = unit.as_deref().unwrap_or("frame or token");
            return Err(tethercache::unknown_recipe(name, unit).into());
        };
        // The text as it was written, comments included.
        out.write_all(row.toml.as_bytes())?;
        return Ok(());
    }
    let header =
        ["recipe", "unit", "needs", "frees memory", "proof", "paper", "what it does"].map(str::to_owned);
    let rows: Vec<[String; 7]> = std::iter::once(header)
        .chain(catalogue().iter().map(|c| {
            let proof = match c.proof {
                Proof::GoldenData => "golden data",
                Proof::HandWorked => "worked by hand",
                Proof::Control => "control",
            };
            let frees = if c.frees_memory { "yes" } else { "no" };
            let paper = if c.paper.is_empty() { "-" } else { c.paper };
            [c.name, c.unit, c.needs, frees, proof, paper, c.summary].map(str::to_owned)
        }))
        .collect();
    let width = |column: usize| rows.iter().map(|r| r[column].len()).max().unwrap_or(0);
    for row in &rows {
        let cells: Vec<String> = row.iter().enumerate().map(|(i, c)| format!("{c:<0$}", width(i))).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}
