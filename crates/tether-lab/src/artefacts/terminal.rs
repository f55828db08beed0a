//! The result on one screen, for the terminal.

use super::experiment::Experiment;
use super::markdown::{direction, number, segment_name, signed, verdict_word, with_error};
use super::report::recipe_timings;
use super::summary::{Metric, Summary};
use crate::estimate::Verdict;
use crate::table::{Table, numbers, words};

/// The metrics named below the table; the others are in the report.
const SHOWN: [Metric; 3] = [Metric::BgPsnr, Metric::Ident, Metric::Quality];

/// A table of the recipes and, below it, what they differ in from the baseline.
pub(crate) fn summary_table(experiment: &Experiment) -> String {
    let summary = Summary::of(experiment);
    let name = segment_name(&summary);
    let heads =
        ["bg PSNR dB", "ident", "colour", "motion", "Q", "drift", "KiB", "of full", "model ms", "cache ms"];
    let mut table = Table::new(std::iter::once(words("recipe")).chain(heads.map(numbers)));
    for (recipe, timing) in summary.recipes.iter().zip(recipe_timings(experiment)) {
        let first = recipe.segments.first().map_or(f64::NAN, |segment| segment.bg_psnr.mean);
        let last = recipe.segments.last();
        let last = |value: fn(&super::summary::SegmentMeans) -> f64| last.map_or(f64::NAN, value);
        table.push([
            recipe.name.clone(),
            format!("{} > {}", number(first, 1), number(last(|s| s.bg_psnr.mean), 1)),
            number(last(|s| s.ident.mean), 3),
            number(last(|s| s.colour.mean), 3),
            number(last(|s| s.motion_ratio.mean), 2),
            with_error(recipe.final_quality, 1),
            number(recipe.drift.mean, 1),
            number(recipe.cache.peak_bytes as f64 / 1024.0, 0),
            format!("{}%", number(100.0 * recipe.cache.peak_over_full_history, 1)),
            number(timing.model_ms_per_chunk.mean, 1),
            number(timing.cache_ms_per_chunk.mean, 2),
        ]);
    }
    let mut lines = table.plain();
    let width = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
    lines.insert(1, "-".repeat(width));
    let mut text = lines.join("\n") + "\n";
    let scenes = if experiment.scenes == 1 {
        "one scene: no standard error, so nothing is proved".to_owned()
    } else {
        format!("{} scenes, standard error in brackets", experiment.scenes)
    };
    text.push_str(&format!(
        "PSNR first > last {name}, the rest last {name}; KiB is the cache, ms per chunk; {scenes}\n"
    ));
    for recipe in summary.recipes.iter().filter(|recipe| recipe.name != experiment.baseline) {
        let phrases: Vec<String> = summary
            .paired_of(&recipe.name)
            .filter(|paired| SHOWN.contains(&paired.metric))
            .map(|paired| {
                let metric = paired.metric;
                // Only a resolved difference is called better or worse.
                let said = match paired.verdict {
                    Verdict::Resolved => direction(paired),
                    _ => verdict_word(paired),
                };
                let difference = signed(paired.difference.mean, metric.digits());
                format!("{} {difference}{} ({said})", metric.label(), metric.unit())
            })
            .collect();
        if !phrases.is_empty() {
            text.push_str(&format!("{} - {}: {}\n", recipe.name, experiment.baseline, phrases.join(", ")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artefacts::synthetic::experiment;

    #[test]
    fn it_fits_a_screen_and_its_columns_line_up() {
        let text = summary_table(&experiment(3, 40));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2 + 5 + 1 + 4);
        let width = lines[1].len();
        assert!(lines[..7].iter().all(|line| line.chars().count() == width), "{text}");
        assert!(lines.iter().all(|line| line.chars().count() <= 120), "{text}");
        assert!(lines[11].starts_with("full - fifo: background PSNR +"), "{text}");
    }

    #[test]
    fn resolved_and_unresolved_differences_are_told_apart() {
        let mut e = experiment(2, 40);
        for run in &mut e.runs {
            run.segments[3].quality = 50.0;
            run.segments[3].ident = 0.5;
            if run.recipe == "full" {
                run.segments[3].quality += [10.0, 11.0][run.scene];
                run.segments[3].ident += [0.2, -0.1][run.scene];
            }
        }
        let text = summary_table(&e);
        let line = text.lines().find(|line| line.starts_with("full - ")).unwrap();
        assert!(line.contains("Q +10.5 (better)"), "{line}");
        assert!(line.contains("identity +0.050 (not resolved)"), "{line}");
    }

    #[test]
    fn one_scene_and_missing_numbers_are_said() {
        let mut e = experiment(1, 40);
        e.runs[0].segments.clear();
        let text = summary_table(&e);
        assert!(text.contains("nothing is proved"));
        assert!(!text.contains("NaN"));
        assert!(text.contains("no number to compare"));
    }
}
