//! `tether recipes`.

use std::io::Write;

use anyhow::Result;
use tethercache::catalogue;

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
    let header = ["recipe", "unit", "needs", "reads back", "frees memory", "proof", "paper", "what it does"]
        .map(str::to_owned);
    let rows: Vec<[String; 8]> = std::iter::once(header)
        .chain(catalogue().iter().map(|c| {
            let about = c.about;
            let frees = if about.frees_memory { "yes" } else { "no" };
            let or_none = |text: &'static Option<String>| text.as_deref().unwrap_or("-");
            let (back, paper) = (or_none(&about.reads_back), or_none(&about.paper));
            let proof = about.proof_in_words();
            [c.name, c.unit, &c.needs, back, frees, &proof, paper, &about.summary].map(str::to_owned)
        }))
        .collect();
    let width = |column: usize| rows.iter().map(|r| r[column].len()).max().unwrap_or(0);
    for row in &rows {
        let cells: Vec<String> = row.iter().enumerate().map(|(i, c)| format!("{c:<0$}", width(i))).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}
