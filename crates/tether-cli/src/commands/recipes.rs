//! `tether recipes`.

use std::io::Write;

use anyhow::Result;
use tether_lab::table::{Table, words};
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
    let heads = ["recipe", "unit", "needs", "reads back", "frees memory", "proof", "paper", "what it does"];
    let mut table = Table::new(heads.map(words));
    for row in catalogue() {
        let about = row.about;
        let frees = if about.frees_memory { "yes" } else { "no" };
        let or_none = |text: &'static Option<String>| text.as_deref().unwrap_or("-");
        let (back, paper) = (or_none(&about.reads_back), or_none(&about.paper));
        let proof = about.proof_in_words();
        let cells = [row.name, row.unit, &row.needs, back, frees, &proof, paper, &about.summary];
        table.push(cells.map(str::to_owned));
    }
    for line in table.plain() {
        writeln!(out, "{line}")?;
    }
    Ok(())
}
