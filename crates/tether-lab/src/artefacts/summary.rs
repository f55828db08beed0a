//! The numbers of the report: means over scenes, drift, and paired differences from the baseline.

use super::experiment::{Experiment, Run, Segment};
use crate::estimate::{Estimate, Verdict};
use serde::Serialize;

/// What recipes are compared in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Metric {
    /// Background PSNR of the last segment.
    BgPsnr,
    /// Identity in the last segment.
    Ident,
    /// Colour error of the last segment.
    Colour,
    /// Motion ratio of the last segment.
    MotionRatio,
    /// Quality of the last segment.
    Quality,
    /// How far quality moved from the first segment to the last.
    Drift,
}

/// Which way a metric improves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Better {
    /// More is better.
    Higher,
    /// Less is better.
    Lower,
    /// One is right; more and less are both wrong.
    One,
}

impl Metric {
    /// Every metric, in the order of the report.
    pub(crate) const ALL: [Self; 6] =
        [Self::BgPsnr, Self::Ident, Self::Colour, Self::MotionRatio, Self::Quality, Self::Drift];

    /// The name for a person.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::BgPsnr => "background PSNR",
            Self::Ident => "identity",
            Self::Colour => "colour error",
            Self::MotionRatio => "motion ratio",
            Self::Quality => "Q",
            Self::Drift => "drift of Q",
        }
    }

    /// The unit, with its space.
    pub(crate) fn unit(self) -> &'static str {
        if self == Self::BgPsnr { " dB" } else { "" }
    }

    /// Digits after the point that are worth showing.
    pub(crate) fn digits(self) -> usize {
        match self {
            Self::Ident | Self::Colour => 3,
            Self::BgPsnr | Self::MotionRatio => 2,
            Self::Quality | Self::Drift => 1,
        }
    }

    /// Which way the metric improves.
    pub(crate) fn better(self) -> Better {
        match self {
            Self::BgPsnr | Self::Ident | Self::Quality => Better::Higher,
            Self::Colour | Self::Drift => Better::Lower,
            Self::MotionRatio => Better::One,
        }
    }

    fn of(self, run: &Run) -> f64 {
        let Some(last) = run.segments.last() else { return f64::NAN };
        match self {
            Self::BgPsnr => last.bg_psnr,
            Self::Ident => last.ident,
            Self::Colour => last.colour,
            Self::MotionRatio => last.motion_ratio,
            Self::Quality => last.quality,
            Self::Drift => drift(run),
        }
    }
}

/// How far quality moved from the first segment to the last, either way.
fn drift(run: &Run) -> f64 {
    match (run.segments.first(), run.segments.last()) {
        (Some(first), Some(last)) => (first.quality - last.quality).abs(),
        _ => f64::NAN,
    }
}

/// One segment of a recipe over all scenes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct SegmentMeans {
    /// First frame.
    pub(crate) start: usize,
    /// One past the last frame.
    pub(crate) end: usize,
    /// Background PSNR in dB.
    pub(crate) bg_psnr: Estimate,
    /// Identity.
    pub(crate) ident: Estimate,
    /// Colour error.
    pub(crate) colour: Estimate,
    /// Saturation.
    pub(crate) sat: Estimate,
    /// Motion ratio.
    pub(crate) motion_ratio: Estimate,
    /// Quality.
    pub(crate) quality: Estimate,
}

/// The memory of a recipe: the largest over the scenes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct CacheSummary {
    /// The most ever resident, with staging and archive.
    pub(crate) peak_bytes: u64,
    /// What attention reads.
    pub(crate) window_bytes: u64,
    /// What keeping every frame would have taken.
    pub(crate) full_history_bytes: u64,
    /// Peak over full history.
    pub(crate) peak_over_full_history: f64,
}

/// One scene's own numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct SceneNumbers {
    /// Which scene.
    pub(crate) scene: usize,
    /// Quality of the last segment.
    pub(crate) final_quality: f64,
    /// How far quality moved.
    pub(crate) drift: f64,
    /// Every segment.
    pub(crate) segments: Vec<Segment>,
}

/// A recipe over all scenes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct RecipeNumbers {
    /// Its name.
    pub(crate) name: String,
    /// One line on what it does.
    pub(crate) description: String,
    /// The recipe file.
    pub(crate) toml: String,
    /// Quality of the last segment.
    pub(crate) final_quality: Estimate,
    /// How far quality moved from the first segment to the last.
    pub(crate) drift: Estimate,
    /// Memory.
    pub(crate) cache: CacheSummary,
    /// Means of each segment.
    pub(crate) segments: Vec<SegmentMeans>,
    /// The scenes one by one.
    pub(crate) per_scene: Vec<SceneNumbers>,
}

/// A recipe less the baseline, scene by scene.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Paired {
    /// The recipe.
    pub(crate) recipe: String,
    /// What it is compared with.
    pub(crate) baseline: String,
    /// What is compared.
    pub(crate) metric: Metric,
    /// Which way it improves.
    pub(crate) better: Better,
    /// The mean difference, its error, and the number of pairs.
    #[serde(flatten)]
    pub(crate) difference: Estimate,
    /// Whether it stands out.
    pub(crate) verdict: Verdict,
    /// The difference in each scene.
    pub(crate) per_scene: Vec<f64>,
}

/// All numbers of the report that are not times.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Summary {
    /// The recipes, in the order in which they are shown.
    pub(crate) recipes: Vec<RecipeNumbers>,
    /// Every recipe but the baseline against it, in every metric of the last segment.
    pub(crate) paired: Vec<Paired>,
}

impl Summary {
    /// Works the numbers out.
    pub(crate) fn of(experiment: &Experiment) -> Self {
        let recipes = experiment.recipes.iter().map(|recipe| {
            let runs: Vec<&Run> = experiment.runs_of(&recipe.name).collect();
            RecipeNumbers {
                name: recipe.name.clone(),
                description: recipe.description.clone(),
                toml: recipe.toml.clone(),
                final_quality: Estimate::of(runs.iter().map(|run| Metric::Quality.of(run))),
                drift: Estimate::of(runs.iter().map(|run| drift(run))),
                cache: cache(&runs),
                segments: segments(&runs),
                per_scene: runs.iter().map(|run| scene_numbers(run)).collect(),
            }
        });
        Self { recipes: recipes.collect(), paired: paired(experiment) }
    }

    /// The paired differences of one recipe.
    pub(crate) fn paired_of<'a>(&'a self, recipe: &'a str) -> impl Iterator<Item = &'a Paired> {
        self.paired.iter().filter(move |paired| paired.recipe == recipe)
    }
}

fn scene_numbers(run: &Run) -> SceneNumbers {
    SceneNumbers {
        scene: run.scene,
        final_quality: Metric::Quality.of(run),
        drift: drift(run),
        segments: run.segments.clone(),
    }
}

fn cache(runs: &[&Run]) -> CacheSummary {
    let peak_bytes = runs.iter().map(|run| run.cache.peak).max().unwrap_or(0);
    let full_history_bytes = runs.iter().map(|run| run.cache.full_history).max().unwrap_or(0);
    CacheSummary {
        peak_bytes,
        window_bytes: runs.iter().map(|run| run.cache.window).max().unwrap_or(0),
        full_history_bytes,
        peak_over_full_history: peak_bytes as f64 / full_history_bytes as f64,
    }
}

fn segments(runs: &[&Run]) -> Vec<SegmentMeans> {
    let count = runs.iter().map(|run| run.segments.len()).min().unwrap_or(0);
    (0..count)
        .map(|index| {
            let mean =
                |value: fn(&Segment) -> f64| Estimate::of(runs.iter().map(|run| value(&run.segments[index])));
            SegmentMeans {
                start: runs[0].segments[index].start,
                end: runs[0].segments[index].end,
                bg_psnr: mean(|segment| segment.bg_psnr),
                ident: mean(|segment| segment.ident),
                colour: mean(|segment| segment.colour),
                sat: mean(|segment| segment.sat),
                motion_ratio: mean(|segment| segment.motion_ratio),
                quality: mean(|segment| segment.quality),
            }
        })
        .collect()
}

fn paired(experiment: &Experiment) -> Vec<Paired> {
    let mut all = Vec::new();
    if experiment.recipes.iter().all(|recipe| recipe.name != experiment.baseline) {
        return all;
    }
    for recipe in experiment.recipes.iter().filter(|recipe| recipe.name != experiment.baseline) {
        for metric in Metric::ALL {
            let values = |name: &str| -> Vec<f64> {
                // By scene number and not by position, so that a missing run cannot shift the pairs.
                (0..experiment.scenes)
                    .map(|scene| experiment.run(name, scene).map_or(f64::NAN, |run| metric.of(run)))
                    .collect()
            };
            let (ours, theirs) = (values(&recipe.name), values(&experiment.baseline));
            let difference = Estimate::of_differences(&ours, &theirs);
            all.push(Paired {
                recipe: recipe.name.clone(),
                baseline: experiment.baseline.clone(),
                metric,
                better: metric.better(),
                difference,
                verdict: difference.verdict(),
                per_scene: ours.iter().zip(&theirs).map(|(a, b)| a - b).collect(),
            });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artefacts::synthetic::experiment;

    fn set_quality(e: &mut Experiment, recipe: &str, scene: usize, first: f64, last: f64) {
        let run = e.runs.iter_mut().find(|run| run.recipe == recipe && run.scene == scene).unwrap();
        run.segments[0].quality = first;
        run.segments[3].quality = last;
    }

    fn find(summary: &Summary, recipe: &str, metric: Metric) -> Paired {
        summary.paired_of(recipe).find(|paired| paired.metric == metric).unwrap().clone()
    }

    #[test]
    fn drift_and_differences_by_hand() {
        let mut e = experiment(2, 40);
        set_quality(&mut e, "fifo", 0, 80.0, 40.0);
        set_quality(&mut e, "fifo", 1, 70.0, 50.0);
        // Scene 1 improves, and counts as drift all the same.
        set_quality(&mut e, "tethercache", 0, 80.0, 70.0);
        set_quality(&mut e, "tethercache", 1, 70.0, 76.0);
        let summary = Summary::of(&e);
        let ours = summary.recipes.iter().find(|recipe| recipe.name == "tethercache").unwrap();
        assert_eq!(ours.drift, Estimate { mean: 8.0, se: Some(2.0), n: 2 });
        assert_eq!(ours.final_quality, Estimate { mean: 73.0, se: Some(3.0), n: 2 });
        let quality = find(&summary, "tethercache", Metric::Quality);
        assert_eq!(quality.per_scene, [30.0, 26.0]);
        assert_eq!(quality.difference, Estimate { mean: 28.0, se: Some(2.0), n: 2 });
        assert_eq!(quality.verdict, Verdict::Resolved);
        let drift = find(&summary, "tethercache", Metric::Drift);
        assert_eq!(drift.per_scene, [-30.0, -14.0]);
        assert_eq!(drift.difference, Estimate { mean: -22.0, se: Some(8.0), n: 2 });
    }

    #[test]
    fn differences_that_change_sign_are_not_resolved() {
        let mut e = experiment(2, 40);
        for (scene, last) in [(0, 10.0), (1, -8.0)] {
            set_quality(&mut e, "fifo", scene, 80.0, 50.0);
            set_quality(&mut e, "tethercache", scene, 80.0, 50.0 + last);
        }
        assert_eq!(find(&Summary::of(&e), "tethercache", Metric::Quality).verdict, Verdict::NotResolved);
    }

    #[test]
    fn one_scene_gives_no_error_and_says_so() {
        let summary = Summary::of(&experiment(1, 40));
        assert!(summary.recipes.iter().all(|recipe| recipe.drift.se.is_none()));
        assert!(summary.paired.iter().all(|paired| paired.verdict == Verdict::SingleScene));
        assert_eq!(summary.paired.len(), 4 * Metric::ALL.len());
    }

    #[test]
    fn without_the_baseline_nothing_is_paired() {
        let mut e = experiment(2, 40);
        e.baseline = "absent".to_owned();
        assert!(Summary::of(&e).paired.is_empty());
    }

    #[test]
    fn cache_ratio_by_hand() {
        let cache = Summary::of(&experiment(1, 40)).recipes[0].cache;
        assert_eq!((cache.peak_bytes, cache.full_history_bytes), (524_288, 3_932_160));
        assert!((cache.peak_over_full_history - 0.133_333).abs() < 1e-6);
    }
}
