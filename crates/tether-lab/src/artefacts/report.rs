//! `report.json`: everything measured, for programs.

use super::experiment::{Experiment, Timing};
use super::summary::Summary;
use crate::estimate::Estimate;
use anyhow::{Context, Result};
use serde::Serialize;
use std::path::Path;
use tether_reuse::ReuseStats;

/// Names of the pictures, relative to the report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct ArtefactFiles {
    /// The animations, by scene.
    pub(crate) gifs: Vec<String>,
    /// The contact sheet.
    pub(crate) sheet: String,
    /// The plot of quality over time.
    pub(crate) plot: String,
}

#[derive(Serialize)]
struct Report<'a> {
    format: &'static str,
    experiment: Settings<'a>,
    files: &'a ArtefactFiles,
    #[serde(flatten)]
    summary: Summary,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reuse: Vec<RecipeReuse>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<Timings>,
}

#[derive(Serialize)]
struct Settings<'a> {
    frames: usize,
    given_frames: usize,
    budget: usize,
    steps: usize,
    seed: u64,
    scenes: usize,
    baseline: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reuse: Option<&'a str>,
}

/// What step reuse did under one recipe, summed over scenes.
#[derive(Debug, Serialize)]
pub(crate) struct RecipeReuse {
    /// The recipe of the KV cache.
    pub(crate) name: String,
    /// Multiply-adds, of linear layers and attention, in generated chunks.
    pub(crate) multiply_adds: u64,
    /// Counts.
    pub(crate) stats: ReuseStats,
}

/// Step reuse by recipe; empty without.
pub(crate) fn recipe_reuse(experiment: &Experiment) -> Vec<RecipeReuse> {
    let of_recipe = |name: &str| {
        let mut sum = RecipeReuse { name: name.to_owned(), multiply_adds: 0, stats: ReuseStats::default() };
        for run in experiment.runs_of(name) {
            sum.multiply_adds += run.work.multiply_adds;
            sum.stats.add(run.work.reuse.as_ref()?);
        }
        Some(sum)
    };
    experiment.recipes.iter().filter_map(|recipe| of_recipe(&recipe.name)).collect()
}

/// Measured times, kept in one place because they alone differ from run to run.
#[derive(Debug, Serialize)]
struct Timings {
    recipes: Vec<RecipeTimings>,
}

/// The times of one recipe, in milliseconds per chunk.
#[derive(Debug, Serialize)]
pub(crate) struct RecipeTimings {
    /// The recipe.
    pub(crate) name: String,
    /// In the model.
    pub(crate) model_ms_per_chunk: Estimate,
    /// In cache management.
    pub(crate) cache_ms_per_chunk: Estimate,
    /// In attention.
    pub(crate) attention_ms_per_chunk: Estimate,
    /// The scenes one by one.
    pub(crate) per_scene: Vec<Timing>,
}

/// The times of every recipe, averaged over scenes.
pub(crate) fn recipe_timings(experiment: &Experiment) -> Vec<RecipeTimings> {
    let of_recipe = |name: &str| {
        let per_scene: Vec<Timing> = experiment.runs_of(name).map(|run| run.timing).collect();
        let mean = |value: fn(&Timing) -> f64| Estimate::of(per_scene.iter().map(value));
        RecipeTimings {
            name: name.to_owned(),
            model_ms_per_chunk: mean(|timing| timing.model_ms_per_chunk),
            cache_ms_per_chunk: mean(|timing| timing.cache_ms_per_chunk),
            attention_ms_per_chunk: mean(|timing| timing.attention_ms_per_chunk),
            per_scene,
        }
    };
    experiment.recipes.iter().map(|recipe| of_recipe(&recipe.name)).collect()
}

/// Writes `report.json`. Without timings the same seed gives the same bytes.
///
/// # Errors
/// When the experiment is incomplete or the file cannot be written.
pub(crate) fn write_report_json(
    path: &Path,
    experiment: &Experiment,
    files: &ArtefactFiles,
    with_timings: bool,
) -> Result<()> {
    let text = report_json(experiment, files, with_timings)
        .with_context(|| format!("making the report {}", path.display()))?;
    std::fs::write(path, text).with_context(|| format!("writing the report {}", path.display()))
}

/// Numbers that are not finite become `null`.
fn report_json(experiment: &Experiment, files: &ArtefactFiles, with_timings: bool) -> Result<String> {
    experiment.validate()?;
    let report = Report {
        format: "tether-video-report/1",
        experiment: Settings {
            frames: experiment.frames,
            given_frames: experiment.given_frames,
            budget: experiment.budget,
            steps: experiment.steps,
            seed: experiment.seed,
            scenes: experiment.scenes,
            baseline: &experiment.baseline,
            reuse: experiment.reuse.as_deref(),
        },
        reuse: recipe_reuse(experiment),
        files,
        summary: Summary::of(experiment),
        timings: with_timings.then(|| Timings { recipes: recipe_timings(experiment) }),
    };
    let mut text = serde_json::to_string_pretty(&report)?;
    text.push('\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artefacts::synthetic::experiment;
    use serde_json::Value;

    fn files() -> ArtefactFiles {
        ArtefactFiles {
            gifs: vec!["scene0.gif".into()],
            sheet: "sheet.png".into(),
            plot: "quality.svg".into(),
        }
    }

    fn parsed(e: &Experiment, with_timings: bool) -> Value {
        serde_json::from_str(&report_json(e, &files(), with_timings).unwrap()).unwrap()
    }

    #[test]
    fn it_holds_the_numbers() {
        let e = experiment(3, 40);
        let report = parsed(&e, true);
        let keys: Vec<&String> = report.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["format", "experiment", "files", "recipes", "paired", "timings"]);
        assert_eq!(report["experiment"]["seed"], 7);
        let recipe = &report["recipes"][0];
        assert_eq!(recipe["name"], "fifo");
        assert_eq!(recipe["segments"].as_array().unwrap().len(), 4);
        let expected = e.runs_of("fifo").map(|run| run.segments[1].colour).sum::<f64>() / 3.0;
        assert!((recipe["segments"][1]["colour"]["mean"].as_f64().unwrap() - expected).abs() < 1e-12);
        assert_eq!(recipe["per_scene"][2]["segments"][3]["end"], 40);
        let paired = &report["paired"][0];
        assert_eq!((&paired["recipe"], &paired["metric"]), (&"sink-recent".into(), &"bg_psnr".into()));
        assert!(paired["mean"].is_number() && paired["se"].is_number() && paired["verdict"].is_string());
    }

    #[test]
    fn times_are_in_one_place_and_change_nothing_else() {
        let mut e = experiment(2, 40);
        let plain = report_json(&e, &files(), false).unwrap();
        let with = parsed(&e, true);
        for run in &mut e.runs {
            run.timing.model_ms_per_chunk *= 3.0;
            run.timing.cache_ms_per_chunk += 1.0;
        }
        assert_eq!(plain, report_json(&e, &files(), false).unwrap());
        assert!(!plain.contains("timings") && !plain.contains("_ms"));
        let mut slower = parsed(&e, true);
        assert_ne!(with, slower);
        slower["timings"] = with["timings"].clone();
        assert_eq!(with, slower);
    }

    #[test]
    fn numbers_that_are_not_finite_become_null() {
        let mut e = experiment(1, 40);
        e.runs[0].segments[3].bg_psnr = f64::NAN;
        e.runs[0].segments[2].ident = f64::INFINITY;
        let text = report_json(&e, &files(), true).unwrap();
        assert!(!text.contains("NaN") && !text.contains("inf"));
        let report: Value = serde_json::from_str(&text).unwrap();
        assert!(report["recipes"][0]["segments"][3]["bg_psnr"]["mean"].is_null());
        assert!(report["recipes"][0]["per_scene"][0]["segments"][2]["ident"].is_null());
        assert!(report["recipes"][0]["drift"]["se"].is_null(), "one scene has no error");
    }

    #[test]
    fn the_file_is_written_and_a_bad_path_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        let e = experiment(1, 20);
        write_report_json(&path, &e, &files(), false).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), report_json(&e, &files(), false).unwrap());
        let error = write_report_json(&folder.path().join("none/r.json"), &e, &files(), false).unwrap_err();
        assert!(format!("{error:#}").contains("none/r.json"));
    }
}
