//! Profiles for step reuse, measured on full runs of the small video model.

use anyhow::{Context, Result};
use tether_models::{
    PlaceRecorder, ReceivedAttention, Scene, Schedule, TinyVideo, VideoReuse, VideoSession, chunk_noise,
    patchify,
};
use tether_reuse::profile::{BlockProfiler, ErtaCalibration, ErtaChoice, MagCalibration, TeaCalibration};
use tether_reuse::{HostReuse, Place, Profile, Reduction, ReuseEngine, RunPlan};
use tethercache::Recipe;
use tethercache::host::Host;

use crate::budget::CHUNK;
use crate::rollout::{for_each_chunk, give};
use crate::usage::Usage;

/// Noise levels at which blocks are looked at.
const LEVELS: [f32; 3] = [0.3, 0.6, 0.9];
/// Multiple of an even share of attention above which a token counts as attended to.
const ABOVE: f64 = 1.5;

/// What a profile is measured on and how it is chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Calibration<'a> {
    pub(crate) model: &'a TinyVideo,
    pub(crate) schedule: &'a Schedule,
    pub(crate) scenes: usize,
    pub(crate) frames: usize,
    pub(crate) seed: u64,
    pub(crate) lambda: f64,
    pub(crate) tau: f32,
}

/// Chunks of full runs: by step, what went into and came out of the whole model and its blocks.
struct FullChunk {
    model: Vec<(Vec<f32>, Vec<f32>)>,
    residuals: Vec<Vec<f32>>,
    probes: Vec<Vec<f32>>,
}

impl Calibration<'_> {
    /// The profile of `policy`.
    pub(crate) fn profile(&self, policy: &str) -> Result<Profile> {
        let plan = VideoReuse::plan(self.model, self.schedule);
        let prompts = format!("{} scenes of seed {}, {} frames", self.scenes, self.seed, self.frames);
        match policy {
            "ertacache" => self.erta(plan, &prompts),
            "magcache" => {
                let mut mag = MagCalibration::new(plan);
                self.each_chunk(|chunk| Ok(mag.push(&chunk.residuals)?))?;
                Ok(mag.profile(&prompts)?)
            }
            "teacache" => {
                let grid = plan.grid;
                let mut tea = TeaCalibration::new(plan);
                self.each_chunk(|chunk| {
                    let change = |pair: &[Vec<f32>]| -> Result<f64> {
                        Ok(HostReuse.measure(&[Reduction::RelL1(&pair[1][..], &pair[0][..])], grid)?[0])
                    };
                    for (probe, output) in chunk.probes.windows(2).zip(chunk.residuals.windows(2)) {
                        tea.push(change(probe)?, change(output)?);
                    }
                    Ok(())
                })?;
                Ok(tea.profile(&prompts)?)
            }
            "profiling-dit" => self.blocks(&plan, &prompts),
            other => Err(Usage(format!("{other} has no profile")).into()),
        }
    }

    fn erta(&self, plan: RunPlan, prompts: &str) -> Result<Profile> {
        let mut erta = ErtaCalibration::new(plan);
        self.each_chunk(|chunk| Ok(erta.push(&chunk.model)?))?;
        let choice = ErtaChoice { lambda: self.lambda, warmup: 2, ..ErtaChoice::default() };
        Ok(erta.profile(&choice, prompts)?)
    }

    fn each_chunk(&self, mut each: impl FnMut(&FullChunk) -> Result<()>) -> Result<()> {
        let layers = self.model.config().layers;
        for index in 0..self.scenes as u64 {
            let recipe = Recipe::named("fifo")?;
            let mut session = VideoSession::new(self.model, recipe, self.schedule.clone(), Host::new())?;
            give(&mut session, &Scene::sample(self.seed, index), || ())?;
            for_each_chunk(self.model, (self.seed, index), self.frames, |chunk, noise| {
                let mut recorder = PlaceRecorder::new(layers);
                session.generate_watched(noise, &mut recorder)?;
                let mut full = FullChunk { model: Vec::new(), residuals: Vec::new(), probes: Vec::new() };
                for call in recorder.calls {
                    if call.place == Place::Model {
                        full.model.push((call.input, call.output));
                    } else {
                        full.residuals
                            .push(call.output.iter().zip(&call.input).map(|(y, x)| y - x).collect());
                        full.probes.push(call.probe);
                    }
                }
                each(&full).with_context(|| format!("scene {index}, chunk {chunk}"))
            })?;
        }
        Ok(())
    }

    /// Real frames with noise, and which of their tokens show a sprite.
    fn blocks(&self, plan: &RunPlan, prompts: &str) -> Result<Profile> {
        let layers = self.model.config().layers;
        let mut profiler = BlockProfiler::new(layers, ABOVE);
        let mut noise = vec![0.0; self.model.config().chunk_values()];
        for index in 0..self.scenes as u64 {
            let scene = Scene::sample(self.seed, index);
            for chunk in 0..self.frames / CHUNK {
                let times = (chunk * CHUNK..(chunk + 1) * CHUNK).map(|t| t as f32);
                let frames: Vec<_> = times.clone().map(|t| scene.render(t)).collect();
                let foreground: Vec<bool> = times.flat_map(|t| scene.sprite_tokens(t)).collect();
                if !foreground.contains(&true) {
                    continue;
                }
                let clean = patchify(&frames);
                chunk_noise(self.seed, index, chunk as u64, &mut noise);
                for level in LEVELS {
                    let x: Vec<f32> =
                        clean.iter().zip(&noise).map(|(x, n)| (1.0 - level) * x + level * n).collect();
                    let mut attention = ReceivedAttention::new(self.model)?;
                    let mut velocity = vec![0.0; x.len()];
                    self.model.forward(
                        &mut self.model.workspace(),
                        &x,
                        level,
                        &mut attention,
                        &mut velocity,
                    )?;
                    for (block, received) in attention.received.iter().enumerate() {
                        profiler.push(block, received, &foreground)?;
                    }
                }
            }
        }
        Ok(profiler.profile(plan, self.tau, prompts)?)
    }
}
