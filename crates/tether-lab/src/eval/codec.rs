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
use super::args::CodecArgs;
use super::perplexity::name;
use crate::input::read_text;
use crate::language::Language;
use crate::samples::mean;
use crate::table::{Table, numbers, words};
use crate::usage::Usage;

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
        tables(&mut out, &name(path), &heads, args)?;
    }
    Ok(())
}

/// Prints both tables of one text.
fn tables(out: &mut impl Write, text: &str, heads: &[HeadTrace], args: &CodecArgs) -> Result<()> {
    let (queries, rotations) = (args.queries, args.rotations.max(1));
    writeln!(out, "### {text}: keys coded, values as they are\n")?;
    let table = Table::new([
        words("codec"),
        numbers("bits per channel"),
        numbers("attention KL"),
        numbers("relative output error"),
    ]);
    out.write_all(table.head().as_bytes())?;
    for scheme in Scheme::all() {
        let rotations = if scheme.rotates() { rotations } else { 1 };
        let rows = (0..rotations).map(|i| keys_only(heads, &scheme, queries, seed(i)));
        let rows = rows.collect::<Result<Vec<_>>>()?;
        let bits = rows.iter().map(|row| row.bits).fold(0.0, f64::max);
        let divergence = spread(rows.iter().map(|row| row.score.divergence).collect());
        let error = spread(rows.iter().map(|row| row.score.error).collect());
        let row = [scheme.name(), format!("{bits:.3}"), divergence, error];
        out.write_all(table.line(row).as_bytes())?;
    }
    writeln!(out, "\n### {text}: keys and values coded under one budget\n")?;
    let columns = [
        "average bits per channel",
        "uniform",
        "SnapKV, 4 bits",
        "retention, a budget per head (dropped)",
        "one budget for all (dropped)",
    ];
    let table = Table::new(columns.map(numbers));
    out.write_all(table.head().as_bytes())?;
    let mut rows = Vec::new();
    for budget in retention::BUDGETS {
        let bits = budget.bits() as f64 + 16.0 / heads.first().map_or(1.0, |h| h.dim as f64);
        let of_seed = |i| retention::compare(heads, queries, WINDOW, budget, seed(i));
        let mut of_seeds = (0..rotations).map(of_seed).collect::<Result<Vec<_>>>()?;
        let each = |of: &dyn Fn(&retention::Retention) -> f64| spread(of_seeds.iter().map(of).collect());
        let (uniform, keep) = (each(&|r| r.uniform), each(&|r| r.keep));
        let cell = |of: &dyn Fn(&retention::Retention) -> &retention::Outcome| {
            let dropped = of_seeds.iter().map(|r| of(r).dropped).sum::<f64>() / of_seeds.len() as f64;
            format!("{} ({:.0}%)", each(&|r| of(r).score.error), 100.0 * dropped)
        };
        let (own, shared) = (cell(&|r| &r.own), cell(&|r| &r.shared));
        out.write_all(table.line([format!("{bits:.2}"), uniform, keep, own, shared]).as_bytes())?;
        rows.push((bits, of_seeds.swap_remove(0)));
    }
    writeln!(out, "\n### {text}: mean squared change of an output, as foreseen and as measured\n")?;
    let bits_and_budget = [numbers("average bits per channel"), words("budget")].into_iter();
    let mut table = Table::new(bits_and_budget.chain(["foreseen", "measured"].map(numbers)));
    for (bits, row) in &rows {
        for (which, outcome) in [("per head", &row.own), ("for all", &row.shared)] {
            let (foreseen, measured) = (outcome.predicted, outcome.score.squared);
            let numbers = [foreseen, measured].map(|x| format!("{x:.4}"));
            table.push([format!("{bits:.2}"), which.to_owned()].into_iter().chain(numbers));
        }
    }
    out.write_all(table.markdown().as_bytes())?;
    writeln!(out)?;
    Ok(())
}

/// One scheme over all heads.
struct KeysOnly {
    bits: f64,
    score: Score,
}

/// Seeds of rotations: each takes two, for keys and for values.
fn seed(rotation: usize) -> u64 {
    2 * rotation as u64
}

/// A number, or the mean of several with their standard deviation.
fn spread(x: Vec<f64>) -> String {
    let mean = mean(&x);
    match x.len() {
        0 | 1 => format!("{mean:.4}"),
        n => {
            let squares = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
            format!("{mean:.4} ± {:.4}", (squares / (n - 1) as f64).sqrt())
        }
    }
}

fn keys_only(heads: &[HeadTrace], scheme: &Scheme, queries: usize, seed: u64) -> Result<KeysOnly> {
    let mut all = Vec::new();
    let mut bits = 0.0;
    for head in heads {
        let (keys, cost) = scheme.keys(head, seed)?;
        bits += cost / heads.len() as f64;
        all.push(score::Changed { head, keys, values: head.v.clone(), dropped: Vec::new() });
    }
    Ok(KeysOnly { bits, score: scores(&all, queries) })
}

#[cfg(test)]
mod tests {
    use super::retention;
    use super::scheme::Mean;
    use super::{HeadTrace, Language, Scheme, WINDOW, keys_only, record, seed};
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
            let row = keys_only(&heads, &scheme, 256, seed(0)).expect("finite keys");
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
            let row =
                retention::compare(&heads, 256, WINDOW, budget, seed(0)).expect("a budget that can be met");
            assert!(uniform.contains(&row.uniform), "{budget:?}: uniform {}", row.uniform);
            let error = row.own.score.error;
            assert!(error <= most && error < row.keep, "{budget:?}: {error}, SnapKV {}", row.keep);
        };
        at(SphericalBits::One, 0.40..=0.50, 0.122);
        at(SphericalBits::Two, 0.24..=0.36, 0.08);
        at(SphericalBits::Three, 0.10..=0.14, 0.05);
    }
}
