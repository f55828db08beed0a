//! `tether recipes`.

use std::io::Write;

use anyhow::Result;
use tethercache::{Proof, Recipe, catalogue};

use crate::cli::{RecipesAction, RecipesArgs};

/// Runs the subcommand.
pub(crate) fn run(args: &RecipesArgs) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if let Some(RecipesAction::Show { name }) = &args.action {
        // The text as it was written, comments included; the name is checked first.
        Recipe::named(name)?;
        let toml = catalogue().iter().find(|c| c.name == name).map_or("", |c| c.toml);
        out.write_all(toml.as_bytes())?;
        return Ok(());
    }
    let header =
        ["recipe", "unit", "needs", "frees memory", "proof", "paper", "what it does"].map(str::to_owned);
    let rows: Vec<[String; 7]> = std::iter::once(header)
        .chain(catalogue().iter().map(|c| {
            let proof = match c.proof {
                Proof::GoldenData => "golden data",
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
