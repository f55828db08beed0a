//! `report.md`: what was run and what it shows, for a person.

use super::experiment::Experiment;
use super::report::{ArtefactFiles, recipe_reuse, recipe_timings};
use super::summary::{Better, Paired, RecipeNumbers, Summary};
use crate::estimate::{Estimate, Verdict};
use crate::table::{self, Table};
use anyhow::{Context, Result};
use std::path::Path;

/// Writes `report.md`. Without timings the same seed gives the same bytes.
///
/// # Errors
/// When the experiment is incomplete or the file cannot be written.
pub(crate) fn write_report_md(
    path: &Path,
    experiment: &Experiment,
    files: &ArtefactFiles,
    with_timings: bool,
) -> Result<()> {
    let text = report_md(experiment, files, with_timings)
        .with_context(|| format!("making the report {}", path.display()))?;
    std::fs::write(path, text).with_context(|| format!("writing the report {}", path.display()))
}

/// A number, or a dash for what is not one.
pub(crate) fn number(value: f64, digits: usize) -> String {
    if value.is_finite() { format!("{value:.digits$}") } else { "-".to_owned() }
}

/// A number with its sign, or a dash.
pub(crate) fn signed(value: f64, digits: usize) -> String {
    if value.is_finite() { format!("{value:+.digits$}") } else { "-".to_owned() }
}

/// A mean, with its standard error in brackets where there is one.
pub(crate) fn with_error(estimate: Estimate, digits: usize) -> String {
    match estimate.se {
        Some(se) => format!("{} ({})", number(estimate.mean, digits), number(se, digits)),
        None => number(estimate.mean, digits),
    }
}

/// What a segment is called: a quarter when there are four.
pub(crate) fn segment_name(summary: &Summary) -> &'static str {
    let four = summary.recipes.first().is_some_and(|recipe| recipe.segments.len() == 4);
    if four { "quarter" } else { "segment" }
}

/// Adds a table whose first `texts` columns are words and whose others are numbers.
fn table(lines: &mut Vec<String>, heads: &[&str], texts: usize, rows: impl IntoIterator<Item = Vec<String>>) {
    let column =
        |(i, head): (usize, &&str)| if i < texts { table::words(head) } else { table::numbers(head) };
    let mut table = Table::new(heads.iter().enumerate().map(column));
    rows.into_iter().for_each(|row| table.push(row));
    lines.push(table.markdown());
}

fn report_md(experiment: &Experiment, files: &ArtefactFiles, with_timings: bool) -> Result<String> {
    experiment.validate()?;
    let summary = Summary::of(experiment);
    let name = segment_name(&summary);
    let mut lines = vec!["# One video, several caches".to_owned(), String::new()];
    lines.push(introduction(experiment, &summary));
    lines.push(String::new());
    for recipe in &experiment.recipes {
        lines.push(format!("- **{}**: {}", recipe.name, recipe.description));
    }
    lines.push(String::new());
    lines.push(links(files));
    lines.push(String::new());

    lines.push("## Results".to_owned());
    lines.push(String::new());
    results(&mut lines, experiment, &summary, name);
    differences(&mut lines, experiment, &summary, name);

    lines.push("## What the numbers leave out".to_owned());
    lines.push(String::new());
    lines.push(
        "The metrics compare the background at the best-matching camera offset, and the colour and area of \
         the sprites, not their shape. A rollout can score well with a sprite of the right colour and size \
         and the wrong outline: look at the pictures too."
            .to_owned(),
    );
    lines.push(String::new());

    let reuse = recipe_reuse(experiment);
    if let (Some(policy), false) = (&experiment.reuse, reuse.is_empty()) {
        lines.push("## Step reuse".to_owned());
        lines.push(String::new());
        lines.push(format!(
            "Every recipe ran with the step-reuse policy `{policy}`. Counted are the decisions of its sites, and the multiply-adds of linear \
             layers and attention for the generated chunks, clean passes included."
        ));
        lines.push(String::new());
        let rows = reuse.into_iter().map(|r| {
            vec![
                r.name.clone(),
                r.stats.computed.to_string(),
                r.stats.reused.to_string(),
                number(100.0 * r.stats.share(), 1),
                number(r.multiply_adds as f64 / 1e9, 1),
            ]
        });
        table(
            &mut lines,
            &["recipe", "computed", "reused", "reused, %", "billions of multiply-adds"],
            1,
            rows,
        );
    }

    if with_timings {
        lines.push("## Timings".to_owned());
        lines.push(String::new());
        lines.push(
            "Milliseconds per chunk, mean over scenes. These are measured and differ from run to run; every \
             other number in this report depends on the settings alone."
                .to_owned(),
        );
        lines.push(String::new());
        let rows = recipe_timings(experiment).into_iter().map(|timing| {
            let (model, cache) = (timing.model_ms_per_chunk.mean, timing.cache_ms_per_chunk.mean);
            let chunks = timing.per_scene.iter().map(|scene| scene.chunks).max().unwrap_or(0);
            vec![
                timing.name.clone(),
                chunks.to_string(),
                number(model, 2),
                number(timing.attention_ms_per_chunk.mean, 2),
                number(cache, 3),
                number(100.0 * cache / model, 2),
            ]
        });
        let heads =
            ["recipe", "chunks", "model", "attention", "cache management", "cache management, % of model"];
        table(&mut lines, &heads, 1, rows);
    }
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines.push(String::new());
    Ok(lines.join("\n"))
}

fn introduction(experiment: &Experiment, summary: &Summary) -> String {
    let generated = experiment.frames - experiment.given_frames;
    let scenes = if experiment.scenes == 1 {
        "one scene was run".to_owned()
    } else {
        format!("{} scenes were run", experiment.scenes)
    };
    let spans: Vec<String> = summary.recipes.first().map_or_else(Vec::new, |recipe| {
        recipe.segments.iter().map(|s| format!("{} to {}", s.start, s.end - 1)).collect()
    });
    format!(
        "A model was shown the first {} frames of a video and continued it to frame {} ({generated} generated \
         frames, {} denoising steps each). Every recipe started from the same frames and the same noise (seed \
         {}) and differed only in which keys and values its cache kept, with room for {} frames; {scenes}. The \
         generated part is scored in {} stretches: frames {}.",
        experiment.given_frames,
        experiment.frames - 1,
        experiment.steps,
        experiment.seed,
        experiment.budget,
        spans.len(),
        spans.join(", "),
    )
}

fn links(files: &ArtefactFiles) -> String {
    let mut links: Vec<String> =
        files.gifs.iter().map(|gif| format!("[side by side: {gif}]({})", target(gif))).collect();
    for (text, file) in [("contact sheet", &files.sheet), ("quality over time", &files.plot)] {
        if !file.is_empty() {
            links.push(format!("[{text}]({})", target(file)));
        }
    }
    if links.is_empty() { String::new() } else { format!("Pictures: {}.", links.join(", ")) }
}

/// A file name that a link can hold.
fn target(file: &str) -> String {
    file.replace(' ', "%20").replace('(', "%28").replace(')', "%29")
}

fn results(lines: &mut Vec<String>, experiment: &Experiment, summary: &Summary, name: &str) {
    let row = |recipe: &RecipeNumbers| {
        let (Some(first), Some(last)) = (recipe.segments.first(), recipe.segments.last()) else {
            return vec![recipe.name.clone()];
        };
        vec![
            recipe.name.clone(),
            format!("{} → {}", number(first.bg_psnr.mean, 2), number(last.bg_psnr.mean, 2)),
            number(last.ident.mean, 3),
            number(last.colour.mean, 3),
            number(last.motion_ratio.mean, 2),
            with_error(recipe.final_quality, 1),
            with_error(recipe.drift, 1),
            number(recipe.cache.peak_bytes as f64 / 1024.0, 0),
            number(100.0 * recipe.cache.peak_over_full_history, 1),
        ]
    };
    let psnr = format!("background PSNR, first → last {name} (dB)");
    let heads = [
        "recipe",
        &psnr,
        "identity",
        "colour error",
        "motion ratio",
        "Q",
        "drift of Q",
        "cache (KiB)",
        "% of full history",
    ];
    table(lines, &heads, 1, summary.recipes.iter().map(row));
    let errors = if experiment.scenes == 1 {
        "One scene has no standard error"
    } else {
        "Numbers are means over scenes, with the standard error in brackets"
    };
    lines.push(format!(
        "{errors}. Identity, colour error, motion ratio and Q (0 to 100) are of the last {name}; drift is how \
         far Q moved from the first {name} to the last, either way. Higher is better for PSNR, identity and Q, \
         lower for colour error and drift; a motion ratio of 1 is right. Cache is the most ever resident, with \
         staging and archive."
    ));
    lines.push(String::new());
}

fn differences(lines: &mut Vec<String>, experiment: &Experiment, summary: &Summary, name: &str) {
    lines.push(format!("## Differences from {}", experiment.baseline));
    lines.push(String::new());
    if summary.paired.is_empty() {
        lines.push(format!(
            "Nothing to compare: it takes a run of {} and of at least one other recipe.",
            experiment.baseline
        ));
        lines.push(String::new());
        return;
    }
    lines.push(format!(
        "Each scene's number under the recipe less the same scene's number under {}, in the last {name}.",
        experiment.baseline
    ));
    lines.push(String::new());
    let rows = summary.paired.iter().map(|paired| {
        let digits = paired.metric.digits();
        vec![
            paired.recipe.clone(),
            format!("{}{}", paired.metric.label(), paired.metric.unit().replace(" dB", " (dB)")),
            verdict_word(paired).to_owned(),
            signed(paired.difference.mean, digits),
            paired.difference.se.map_or_else(|| "-".to_owned(), |se| number(se, digits)),
            paired.difference.n.to_string(),
        ]
    });
    table(lines, &["recipe", "metric", "verdict", "difference", "standard error", "scenes"], 3, rows);
    if experiment.scenes == 1 {
        lines.push(
            "Only one scene was run, so there is no standard error: a single scene shows a difference, but \
             does not prove one. What it shows:"
                .to_owned(),
        );
    } else {
        lines.push(
            "A difference is resolved when it is at least two standard errors from zero. One that is not \
             resolved may be chance."
                .to_owned(),
        );
    }
    lines.push(String::new());
    for recipe in summary.recipes.iter().filter(|recipe| recipe.name != experiment.baseline) {
        let paired: Vec<&Paired> = summary.paired_of(&recipe.name).collect();
        lines.push(format!("- {}", sentence(&recipe.name, &experiment.baseline, &paired)));
    }
    lines.push(String::new());
}

/// The verdict in a word or two.
pub(crate) fn verdict_word(paired: &Paired) -> &'static str {
    match (paired.difference.n, paired.verdict) {
        (0, _) => "no number to compare",
        (_, Verdict::Resolved) => "resolved",
        (_, Verdict::NotResolved) => "not resolved",
        (_, Verdict::SingleScene) => "single scene",
    }
}

/// Whether the difference is for the better, where that can be said.
pub(crate) fn direction(paired: &Paired) -> &'static str {
    let mean = paired.difference.mean;
    match paired.better {
        _ if !mean.is_finite() => "unknown",
        _ if mean == 0.0 => "the same",
        Better::Higher if mean > 0.0 => "better",
        Better::Lower if mean < 0.0 => "better",
        Better::One if mean > 0.0 => "more motion",
        Better::One => "less motion",
        Better::Higher | Better::Lower => "worse",
    }
}

fn sentence(recipe: &str, baseline: &str, paired: &[&Paired]) -> String {
    let phrase = |verdict: Verdict| -> Vec<String> {
        let of_verdict = paired.iter().filter(|paired| paired.verdict == verdict);
        of_verdict
            .map(|paired| {
                let (metric, digits) = (paired.metric, paired.metric.digits());
                let difference = signed(paired.difference.mean, digits);
                let error =
                    paired.difference.se.map_or_else(String::new, |se| format!(" ± {}", number(se, digits)));
                format!("{} {difference}{error}{} ({})", metric.label(), metric.unit(), direction(paired))
            })
            .collect()
    };
    let mut parts = Vec::new();
    let (resolved, unresolved, single) =
        (phrase(Verdict::Resolved), phrase(Verdict::NotResolved), phrase(Verdict::SingleScene));
    if !resolved.is_empty() {
        parts.push(format!("Resolved: {}.", resolved.join(", ")));
    }
    if !unresolved.is_empty() {
        parts.push(format!("NOT resolved: {}.", unresolved.join(", ")));
    }
    if !single.is_empty() {
        parts.push(format!("Shown by a single scene, not proved: {}.", single.join(", ")));
    }
    format!("**{recipe}** against {baseline}. {}", parts.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artefacts::synthetic::experiment;

    fn files() -> ArtefactFiles {
        ArtefactFiles { gifs: vec!["scene 0.gif".into()], sheet: "sheet.png".into(), plot: "q.svg".into() }
    }

    fn line<'a>(text: &'a str, start: &str) -> &'a str {
        text.lines()
            .find(|line| line.starts_with(start))
            .unwrap_or_else(|| panic!("no line {start}:\n{text}"))
    }

    #[test]
    fn overlapping_data_is_called_not_resolved() {
        let mut e = experiment(3, 40);
        for run in &mut e.runs {
            // The recipes differ by +1, -1 and +0.5 dB: the mean is far within the error.
            run.segments[3].bg_psnr = 20.0;
            if run.recipe == "tethercache" {
                run.segments[3].bg_psnr += [1.0, -1.0, 0.5][run.scene];
            }
        }
        let text = report_md(&e, &files(), false).unwrap();
        let said = line(&text, "- **tethercache** against fifo");
        let (resolved, unresolved) = said.split_once("NOT resolved:").unwrap();
        assert!(unresolved.contains("background PSNR +0.17 ± 0.60 dB"), "{said}");
        assert!(!resolved.contains("background PSNR"), "{said}");
        assert!(text.contains("| tethercache | background PSNR (dB) | not resolved | +0.17 | 0.60 | 3 |"));
    }

    #[test]
    fn a_clear_difference_is_called_resolved_with_its_direction() {
        let mut e = experiment(3, 40);
        for run in &mut e.runs {
            run.segments[3].colour = 0.3 + 0.01 * run.scene as f64;
            if run.recipe == "tethercache" {
                run.segments[3].colour -= 0.1 + 0.001 * run.scene as f64;
            }
        }
        let text = report_md(&e, &files(), false).unwrap();
        let said = line(&text, "- **tethercache** against fifo");
        let resolved = said.split("NOT resolved").next().unwrap();
        assert!(
            resolved.contains("Resolved:") && resolved.contains("colour error -0.101 ± 0.001 (better)"),
            "{said}"
        );
        // Every other recipe has exactly the baseline's colour error.
        let same = line(&text, "- **full** against fifo");
        assert!(
            same.split_once("NOT resolved").unwrap().1.contains("colour error +0.000 ± 0.000 (the same)")
        );
    }

    #[test]
    fn one_scene_proves_nothing_and_the_report_says_so() {
        let text = report_md(&experiment(1, 40), &files(), true).unwrap();
        assert!(text.contains("a single scene shows a difference, but does not prove one"));
        assert!(
            line(&text, "- **tethercache** against fifo").contains("Shown by a single scene, not proved")
        );
        assert!(!text.contains("Resolved:") && !text.contains(" ± "));
        assert!(text.contains("one scene was run"));
    }

    #[test]
    fn tables_are_whole_and_pictures_are_linked() {
        let text = report_md(&experiment(2, 40), &files(), true).unwrap();
        let mut columns = 0;
        for row in text.lines() {
            let count = row.matches('|').count();
            if row.starts_with('|') {
                assert!(columns == 0 || columns == count, "{row}");
                columns = count;
            } else {
                columns = 0;
            }
        }
        assert!(text.contains("(scene%200.gif)") && text.contains("(sheet.png)") && text.contains("(q.svg)"));
        assert!(line(&text, "| fifo |").contains(" | 512 | 13.3 |"));
        assert!(text.contains("not their shape"));
    }

    #[test]
    fn times_come_last_and_can_be_left_out() {
        let mut e = experiment(2, 40);
        let without = report_md(&e, &files(), false).unwrap();
        let with = report_md(&e, &files(), true).unwrap();
        assert!(with.starts_with(without.trim_end()));
        assert!(with[without.len() - 1..].contains("## Timings"));
        assert!(with.contains("| fifo | 10 | 42.45 | 12.25 | 0.750 | 1.77 |"));
        for run in &mut e.runs {
            run.timing.cache_ms_per_chunk *= 2.0;
        }
        assert_eq!(without, report_md(&e, &files(), false).unwrap());
        assert_ne!(with, report_md(&e, &files(), true).unwrap());
    }

    #[test]
    fn numbers_that_are_missing_show_as_a_dash() {
        let mut e = experiment(1, 40);
        e.runs[0].segments[3].bg_psnr = f64::NAN;
        let text = report_md(&e, &files(), false).unwrap();
        assert!(!text.contains("NaN") && !text.contains("inf"));
        assert!(text.contains("no number to compare"));
    }
}
