//! `tether eval codec`.

mod end_to_end;
mod record;
mod retention;
mod scheme;
mod score;
mod video;

use std::io::Write;

use anyhow::{Context, Result};

use self::record::{HeadTrace, record};
use self::scheme::Scheme;
use self::score::{Score, scores};
use super::perplexity::name;
use crate::cli::CodecArgs;
use crate::exit::Usage;
use crate::language::{Language, read_text};

/// Queries that retention sees before it decides.
const WINDOW: usize = 32;

/// Runs the subcommand.
pub(crate) fn run(args: &CodecArgs) -> Result<()> {
    if args.queries == 0 || args.tokens < args.queries + 2 * WINDOW {
        let problem = format!("--tokens: {} leaves less than 64 before the queries", args.tokens);
        return Err(Usage(problem).into());
    }
    if args.end_to_end && (args.block == 0 || args.scored == 0) {
        return Err(Usage("--block, --scored: must be at least 1".to_owned()).into());
    }
    let mut out = std::io::stdout().lock();
    if args.video > 0 {
        return video::table(&mut out, args.video, args.seed);
    }
    let texts = args.text.iter().map(|path| read_text(path)).collect::<Result<Vec<_>>>()?;
    let language = Language::open(&args.model)?;
    for (path, text) in args.text.iter().zip(&texts) {
        if args.end_to_end {
            end_to_end::table(&mut out, (path, text), &language, args)?;
            continue;
        }
        let heads = record(&language, text, args.tokens, &args.layers)
            .with_context(|| format!("cannot read {}", path.display()))?;
        tables(&mut out, &name(path), &heads, args.queries)?;
    }
    Ok(())
}

/// Prints both tables of one text.
fn tables(out: &mut impl Write, text: &str, heads: &[HeadTrace], queries: usize) -> Result<()> {
    writeln!(out, "### {text}: keys coded, values as they are\n")?;
    writeln!(
        out,
        "| codec | bits per channel | attention KL | relative output error |\n|---|---:|---:|---:|"
    )?;
    for scheme in Scheme::all() {
        let row = keys_only(heads, &scheme, queries)?;
        writeln!(
            out,
            "| {} | {:.3} | {:.4} | {:.4} |",
            scheme.name(),
            row.bits,
            row.score.divergence,
            row.score.error
        )?;
    }
    writeln!(out, "\n### {text}: keys and values coded under one budget\n")?;
    writeln!(
        out,
        "| average bits per channel | uniform | SnapKV, 4 bits | retention, a budget per head (dropped) | one budget for all (dropped) |"
    )?;
    writeln!(out, "|---:|---:|---:|---:|---:|")?;
    let mut rows = Vec::new();
    for budget in retention::BUDGETS {
        let bits = budget.bits() as f64 + 16.0 / heads.first().map_or(1.0, |h| h.dim as f64);
        let row = retention::compare(heads, queries, WINDOW, budget)?;
        let cell = |o: &retention::Outcome| format!("{:.4} ({:.0}%)", o.score.error, 100.0 * o.dropped);
        let (own, shared) = (cell(&row.own), cell(&row.shared));
        writeln!(out, "| {bits:.2} | {:.4} | {:.4} | {own} | {shared} |", row.uniform, row.keep)?;
        rows.push((bits, row));
    }
    writeln!(out, "\n### {text}: mean squared change of an output, as foreseen and as measured\n")?;
    writeln!(out, "| average bits per channel | budget | foreseen | measured |\n|---:|---|---:|---:|")?;
    for (bits, row) in &rows {
        for (which, outcome) in [("per head", &row.own), ("for all", &row.shared)] {
            let (foreseen, measured) = (outcome.predicted, outcome.score.squared);
            writeln!(out, "| {bits:.2} | {which} | {foreseen:.4} | {measured:.4} |")?;
        }
    }
    writeln!(out)?;
    Ok(())
}

/// One scheme over all heads.
struct KeysOnly {
    bits: f64,
    score: Score,
}

fn keys_only(heads: &[HeadTrace], scheme: &Scheme, queries: usize) -> Result<KeysOnly> {
    let mut all = Vec::new();
    let mut bits = 0.0;
    for head in heads {
        let (keys, cost) = scheme.keys(head)?;
        bits += cost / heads.len() as f64;
        all.push(score::Changed { head, keys, values: head.v.clone(), dropped: Vec::new() });
    }
    Ok(KeysOnly { bits, score: scores(&all, queries) })
}

#[cfg(test)]
mod tests {
    use super::retention;
    use super::scheme::Mean;
    use super::{HeadTrace, Language, Scheme, WINDOW, keys_only, record};
    use tether_codec::SphericalBits;

    fn heads() -> Option<Vec<HeadTrace>> {
        let path = tether_models::SMOLLM2.path().filter(|p| p.is_file());
        if path.is_none() {
            let required = std::env::var("TETHER_REQUIRE").unwrap_or_default();
            assert!(!required.split(',').any(|r| r.trim() == "smollm2"), "TETHER_REQUIRE names smollm2");
            eprintln!("skipped: run `tether fetch smollm2`");
            return None;
        }
        let text = concat!(env!("CARGO_MANIFEST_DIR"), "/../../golden/smollm/repeat.txt");
        let text = std::fs::read_to_string(text).expect("the golden text");
        let language = Language::open("smollm2").expect("the model");
        Some(record(&language, &text, 1024, &[0, 10, 20, 29]).expect("a text of 1024 tokens"))
    }

    #[test]
    fn what_the_documentation_says_of_smollm2_holds() {
        let Some(heads) = heads() else { return };
        let divergence = |scheme: Scheme, bits: f64, range: std::ops::RangeInclusive<f64>| {
            let row = keys_only(&heads, &scheme, 256).expect("finite keys");
            assert!((row.bits - bits).abs() < 1e-9, "{scheme:?}: {} bits", row.bits);
            assert!(range.contains(&row.score.divergence), "{scheme:?}: {}", row.score.divergence);
        };
        let spherical = |bits, mean| Scheme::Spherical { bits, mean };
        divergence(spherical(SphericalBits::Four, Mean::Head), 4.25, 0.0..=0.017);
        divergence(spherical(SphericalBits::Two, Mean::Page), 2.375, 0.0..=0.24);
        // What they are better than.
        divergence(Scheme::Int { bits: 4, group: 64 }, 4.5, 0.05..=0.08);
        divergence(Scheme::Kivi { bits: 2 }, 2.25, 0.33..=0.45);
        let at = |budget, uniform: std::ops::RangeInclusive<f64>, most: f64| {
            let row = retention::compare(&heads, 256, WINDOW, budget).expect("a budget that can be met");
            assert!(uniform.contains(&row.uniform), "{budget:?}: uniform {}", row.uniform);
            let error = row.own.score.error;
            assert!(error <= most && error < row.keep, "{budget:?}: {error}, SnapKV {}", row.keep);
        };
        at(SphericalBits::One, 0.40..=0.50, 0.122);
        at(SphericalBits::Two, 0.24..=0.36, 0.08);
        at(SphericalBits::Three, 0.10..=0.14, 0.05);
    }
}
