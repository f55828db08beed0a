//! The plain data of an experiment: what was run and what was measured.

use anyhow::{Result, ensure};
use serde::Serialize;
use tether_reuse::ReuseStats;

/// One picture, three bytes a pixel, rows from the top.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rgb8Frame {
    /// Pixels in a row.
    pub(crate) width: usize,
    /// Number of rows.
    pub(crate) height: usize,
    /// `width * height * 3` bytes.
    pub(crate) rgb: Vec<u8>,
}

/// The measures of a rollout frame by frame; each list holds one number per frame.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Series {
    /// PSNR of the background at the best-matching camera offset, in dB.
    pub(crate) bg_psnr: Vec<f64>,
    /// Identity of the sprites; higher is better.
    pub(crate) ident: Vec<f64>,
    /// Colour error of the sprites; lower is better.
    pub(crate) colour: Vec<f64>,
    /// Saturation.
    pub(crate) sat: Vec<f64>,
    /// Amount of motion in the rollout.
    pub(crate) motion: Vec<f64>,
    /// Amount of motion in the real video at the same frame.
    pub(crate) motion_real: Vec<f64>,
}

/// The measures of a rollout averaged over a stretch of frames.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Segment {
    /// First frame.
    pub(crate) start: usize,
    /// One past the last frame.
    pub(crate) end: usize,
    /// Mean background PSNR in dB.
    pub(crate) bg_psnr: f64,
    /// Mean identity.
    pub(crate) ident: f64,
    /// Mean colour error.
    pub(crate) colour: f64,
    /// Mean saturation.
    pub(crate) sat: f64,
    /// Motion of the rollout over motion of the real video; 1 is right.
    pub(crate) motion_ratio: f64,
    /// The combined quality Q, 0 to 100.
    pub(crate) quality: f64,
}

/// How much memory the cache took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct CacheBytes {
    /// The most ever resident, with staging and archive.
    pub(crate) peak: u64,
    /// What attention reads.
    pub(crate) window: u64,
    /// What keeping every frame would have taken.
    pub(crate) full_history: u64,
}

/// Measured times. The only part of a run that differs between two runs of the same seed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Timing {
    /// Chunks generated.
    pub(crate) chunks: usize,
    /// Milliseconds in the model, per chunk.
    pub(crate) model_ms_per_chunk: f64,
    /// Milliseconds in cache management (stage, score, select, align, tables), per chunk.
    pub(crate) cache_ms_per_chunk: f64,
    /// Milliseconds in attention, per chunk.
    pub(crate) attention_ms_per_chunk: f64,
}

/// What was done for the generated frames.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Work {
    /// Multiply-adds of linear layers and attention.
    pub(crate) multiply_adds: u64,
    /// What step reuse did, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reuse: Option<ReuseStats>,
}

/// One recipe's rollout of one scene.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// Name of the recipe.
    pub(crate) recipe: String,
    /// Which scene, from 0.
    pub(crate) scene: usize,
    /// The rollout, given frames first.
    pub(crate) frames: Vec<Rgb8Frame>,
    /// Measures frame by frame.
    pub(crate) series: Series,
    /// Measures by stretch of frames, in order.
    pub(crate) segments: Vec<Segment>,
    /// Memory of the cache.
    pub(crate) cache: CacheBytes,
    /// Measured times.
    pub(crate) timing: Timing,
    /// Work, which no load on the machine disturbs.
    pub(crate) work: Work,
}

/// A recipe as the report introduces it.
#[derive(Debug, Clone)]
pub(crate) struct RecipeSummary {
    /// Name, as in [`Run::recipe`].
    pub(crate) name: String,
    /// The recipe file.
    pub(crate) toml: String,
    /// One line on what it does.
    pub(crate) description: String,
}

/// Several recipes continuing the same scenes from the same noise.
#[derive(Debug, Clone)]
pub(crate) struct Experiment {
    /// Length of the video in frames, the given ones included.
    pub(crate) frames: usize,
    /// How many frames at the start are real rather than generated.
    pub(crate) given_frames: usize,
    /// Frames the cache may hold before it must evict.
    pub(crate) budget: usize,
    /// Denoising steps.
    pub(crate) steps: usize,
    /// The policy of step reuse, as it was asked for.
    pub(crate) reuse: Option<String>,
    /// Seed of the noise and of the scenes.
    pub(crate) seed: u64,
    /// How many scenes.
    pub(crate) scenes: usize,
    /// The recipe that the others are compared with.
    pub(crate) baseline: String,
    /// The real video of each scene.
    pub(crate) reference: Vec<Vec<Rgb8Frame>>,
    /// Every recipe's rollout of every scene, in any order.
    pub(crate) runs: Vec<Run>,
    /// The recipes, in the order in which they are shown.
    pub(crate) recipes: Vec<RecipeSummary>,
}

impl Experiment {
    /// The rollout of `scene` under `recipe`.
    pub(crate) fn run(&self, recipe: &str, scene: usize) -> Option<&Run> {
        self.runs.iter().find(|run| run.scene == scene && run.recipe == recipe)
    }

    /// The rollouts under `recipe`, by scene.
    pub(crate) fn runs_of<'a>(&'a self, recipe: &'a str) -> impl Iterator<Item = &'a Run> {
        (0..self.scenes).filter_map(move |scene| self.run(recipe, scene))
    }

    /// Checks that the parts belong together.
    ///
    /// The writers rely on this: a table or a picture with a hole in it would compare unlike things.
    ///
    /// # Errors
    /// Names the first part that is missing, of another size, or there twice.
    pub(crate) fn validate(&self) -> Result<()> {
        ensure!(self.scenes > 0, "the experiment has no scene");
        ensure!(!self.recipes.is_empty(), "the experiment has no recipe");
        ensure!(
            self.given_frames < self.frames,
            "{} of {} frames are given, so none is generated",
            self.given_frames,
            self.frames
        );
        ensure!(
            self.reference.len() == self.scenes,
            "{} real videos for {} scenes",
            self.reference.len(),
            self.scenes
        );
        let first = self.reference.iter().flatten().next();
        let (width, height) = first.map_or((0, 0), |frame| (frame.width, frame.height));
        ensure!(width > 0 && height > 0, "the real video has no pixels");
        let check_video = |what: &str, scene: usize, frames: &[Rgb8Frame]| -> Result<()> {
            ensure!(
                frames.len() == self.frames,
                "{what}, scene {scene}: {} frames instead of {}",
                frames.len(),
                self.frames
            );
            ensure!(
                frames
                    .iter()
                    .all(|f| (f.width, f.height) == (width, height) && f.rgb.len() == width * height * 3),
                "{what}, scene {scene}: a frame is not {width}x{height} RGB"
            );
            Ok(())
        };
        for (scene, frames) in self.reference.iter().enumerate() {
            check_video("real video", scene, frames)?;
        }
        let spans = |run: &Run| run.segments.iter().map(|s| (s.start, s.end)).collect::<Vec<_>>();
        let expected = self.runs.first().map(spans).unwrap_or_default();
        ensure!(!expected.is_empty(), "the runs have no segment");
        ensure!(
            expected.iter().all(|(start, end)| start < end && *end <= self.frames),
            "a segment is empty or reaches past frame {}",
            self.frames
        );
        for (index, recipe) in self.recipes.iter().enumerate() {
            ensure!(
                self.recipes[..index].iter().all(|other| other.name != recipe.name),
                "recipe {} is listed twice",
                recipe.name
            );
            for scene in 0..self.scenes {
                let found =
                    self.runs.iter().filter(|run| run.scene == scene && run.recipe == recipe.name).count();
                ensure!(found == 1, "recipe {}, scene {scene}: {found} runs instead of one", recipe.name);
            }
        }
        for run in &self.runs {
            ensure!(
                run.scene < self.scenes && self.recipes.iter().any(|recipe| recipe.name == run.recipe),
                "a run of recipe {}, scene {} belongs to no listed recipe and scene",
                run.recipe,
                run.scene
            );
            check_video(&run.recipe, run.scene, &run.frames)?;
            let s = &run.series;
            for (name, values) in [
                ("bg_psnr", &s.bg_psnr),
                ("ident", &s.ident),
                ("colour", &s.colour),
                ("sat", &s.sat),
                ("motion", &s.motion),
                ("motion_real", &s.motion_real),
            ] {
                ensure!(
                    values.len() == self.frames,
                    "{}, scene {}: series {name} has {} values for {} frames",
                    run.recipe,
                    run.scene,
                    values.len(),
                    self.frames
                );
            }
            ensure!(
                spans(run) == expected,
                "{}, scene {}: its segments differ from the first run's",
                run.recipe,
                run.scene
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::artefacts::synthetic::experiment;

    #[test]
    fn a_whole_experiment_is_accepted() {
        experiment(2, 40).validate().unwrap();
    }

    #[test]
    fn each_missing_part_is_named() {
        let mut e = experiment(2, 40);
        e.runs.pop();
        assert!(e.validate().unwrap_err().to_string().contains("0 runs instead of one"));

        let mut e = experiment(2, 40);
        e.runs[0].frames.pop();
        assert!(e.validate().unwrap_err().to_string().contains("39 frames instead of 40"));

        let mut e = experiment(2, 40);
        e.runs[1].series.ident.pop();
        assert!(e.validate().unwrap_err().to_string().contains("ident has 39 values"));

        let mut e = experiment(2, 40);
        e.runs[1].segments.pop();
        assert!(e.validate().unwrap_err().to_string().contains("segments differ"));

        let mut e = experiment(2, 40);
        e.reference[1][3].rgb.pop();
        assert!(e.validate().unwrap_err().to_string().contains("not 32x32"));

        let mut e = experiment(2, 40);
        e.given_frames = 40;
        assert!(e.validate().unwrap_err().to_string().contains("none is generated"));
    }

    #[test]
    fn runs_come_by_scene() {
        let mut e = experiment(3, 20);
        e.runs.reverse();
        let scenes: Vec<usize> = e.runs_of("fifo").map(|run| run.scene).collect();
        assert_eq!(scenes, [0, 1, 2]);
    }
}
