//! Step reuse for TinyVideo: what is asked at every place where work can be saved.

use std::ops::Range;

use tether_reuse::profile::ProfileData;
use tether_reuse::{
    Grid, HostReuse, Lane, ModuleKind, Place, Profile, ReuseError, ReuseRecipe, ReuseStats, RunPlan, Site,
    StepReuse, Verdict, block_runs,
};

use crate::{Schedule, TinyVideo};

/// Asked before and told after every place of a pass. `()` computes everything and costs nothing.
///
/// A place that is reused is not told. `input` and `output` of a module are what goes into its projection's gate; of a run of blocks the
/// residual stream before and after.
pub trait PlaceHook {
    /// Runs of blocks that are places, in order and apart from each other.
    fn spans(&self) -> &[Range<usize>] {
        &[]
    }

    /// Whether a place is looked at; others are computed without asking.
    fn watches(&self, place: Place) -> bool {
        let _ = place;
        false
    }

    /// Whether a place is computed. Where it is not, `output` has been filled; for a run of blocks it comes as the stream before and leaves as
    /// the stream after. `probe` is the input of the place, or for a run of blocks the modulated input of the first one or what the blocks
    /// before it added.
    ///
    /// # Errors
    /// What the policy or its engine reports.
    fn computes(&mut self, place: Place, probe: &[f32], output: &mut [f32]) -> Result<bool, ReuseError> {
        let _ = (place, probe, output);
        Ok(true)
    }

    /// A place was computed.
    ///
    /// # Errors
    /// What the policy or its engine reports.
    fn computed(&mut self, place: Place, input: &[f32], output: &[f32]) -> Result<(), ReuseError> {
        let _ = (place, input, output);
        Ok(())
    }
}

impl PlaceHook for () {}

/// Step reuse of one video: a recipe and what it keeps of the chunk that is being made.
#[derive(Debug)]
pub struct VideoReuse {
    recipe: ReuseRecipe,
    reuse: StepReuse<HostReuse>,
    spans: Vec<Range<usize>>,
    step: u32,
}

impl VideoReuse {
    /// `recipe` for `model`.
    ///
    /// # Errors
    /// What [`ReuseRecipe::build`] refuses, and runs of blocks that the model does not have.
    pub fn new(
        model: &TinyVideo,
        recipe: ReuseRecipe,
        profile: Option<&Profile>,
    ) -> Result<Self, ReuseError> {
        let layers = model.config().layers;
        let spans = match (recipe.site, profile.map(|p| &p.data)) {
            (Site::BlockStack, _) => {
                let (first, last) = (usize::from(recipe.first_blocks), usize::from(recipe.last_blocks));
                if first + last >= layers {
                    let what =
                        format!("{first} first and {last} last of {layers} blocks leave none to reuse");
                    return Err(ReuseError::Recipe(what));
                }
                std::iter::once(first..layers - last).collect()
            }
            (Site::BlockRuns, Some(ProfileData::Blocks { background, foreground })) => {
                if foreground.len() != layers {
                    let what = format!("a profile of {} blocks, the model has {layers}", foreground.len());
                    return Err(ReuseError::Recipe(what));
                }
                block_runs(background)
            }
            (Site::BlockRuns, _) => {
                let policy = recipe.name();
                return Err(tether_reuse::ProfileError::Needed { policy }.into());
            }
            _ => Vec::new(),
        };
        let policy = recipe.build(profile)?;
        Ok(Self { reuse: StepReuse::new(HostReuse::new(), policy), recipe, spans, step: 0 })
    }

    /// What a policy is told of a run of `model` over `schedule`; a profile holds for one of these.
    pub fn plan(model: &TinyVideo, schedule: &Schedule) -> RunPlan {
        let c = model.config();
        let side = c.tokens_per_frame.isqrt();
        let resolution = format!("{} frames of {side}x{side} tokens", c.chunk_frames);
        let scheduler = format!("euler shift={}", Schedule::SHIFT);
        let mut plan = RunPlan::new("tinyvideo", &scheduler, &resolution, schedule.times());
        plan.grid = Grid { frames: c.chunk_frames, tokens: c.chunk_tokens() };
        plan
    }

    /// The recipe.
    pub fn recipe(&self) -> &ReuseRecipe {
        &self.recipe
    }

    /// What was computed and reused so far.
    pub fn stats(&self) -> &ReuseStats {
        self.reuse.stats()
    }

    /// A chunk begins: nothing of the one before is left. Returns the noise levels of its steps.
    ///
    /// # Errors
    /// What [`StepReuse::begin`] refuses.
    pub fn begin_chunk(&mut self, plan: &RunPlan) -> Result<Vec<f32>, ReuseError> {
        self.step = 0;
        self.reuse.begin(plan)
    }

    /// The next passes are those of step `step`.
    pub fn begin_step(&mut self, step: u32) {
        self.step = step;
    }
}

impl PlaceHook for VideoReuse {
    fn spans(&self) -> &[Range<usize>] {
        &self.spans
    }

    fn watches(&self, place: Place) -> bool {
        match (self.recipe.site, place) {
            (Site::Latent, Place::Model) | (Site::SolverUpdate, Place::Solver) => true,
            (Site::BlockStack | Site::BlockRuns, Place::Span(_)) => true,
            (Site::Modules, Place::Module { .. }) => true,
            (Site::Attention, Place::Module { kind, .. }) => kind != ModuleKind::Mlp,
            _ => false,
        }
    }

    fn computes(&mut self, place: Place, probe: &[f32], output: &mut [f32]) -> Result<bool, ReuseError> {
        let lane = Lane::new(place);
        match self.reuse.decide(lane, self.step, probe)? {
            Verdict::Compute => return Ok(true),
            Verdict::Reuse(_) if matches!(place, Place::Span(_)) => {
                self.reuse.reused_in_place(lane, output)?;
            }
            Verdict::Reuse(_) => self.reuse.reused(lane, probe, output)?,
        }
        Ok(false)
    }

    fn computed(&mut self, place: Place, input: &[f32], output: &[f32]) -> Result<(), ReuseError> {
        self.reuse.computed(Lane::new(place), input, output)
    }
}

/// Writes down every place's probe, input and output, and computes them all; what calibrations read.
#[derive(Clone, Debug, Default)]
pub struct PlaceRecorder {
    spans: Vec<Range<usize>>,
    /// Probe, input and output by call, of the watched places.
    pub calls: Vec<PlaceCall>,
    probe: Vec<f32>,
}

/// One computed place.
#[derive(Clone, Debug, PartialEq)]
pub struct PlaceCall {
    /// Which.
    pub place: Place,
    /// What a policy would have looked at.
    pub probe: Vec<f32>,
    /// What went in.
    pub input: Vec<f32>,
    /// What came out.
    pub output: Vec<f32>,
}

impl PlaceRecorder {
    /// Records the whole model and, as one run, blocks `0..layers`.
    pub fn new(layers: usize) -> Self {
        Self { spans: std::iter::once(0..layers).collect(), ..Self::default() }
    }
}

impl PlaceHook for PlaceRecorder {
    fn spans(&self) -> &[Range<usize>] {
        &self.spans
    }

    fn watches(&self, place: Place) -> bool {
        matches!(place, Place::Model | Place::Span(_))
    }

    fn computes(&mut self, place: Place, probe: &[f32], _: &mut [f32]) -> Result<bool, ReuseError> {
        // The model's own probe is its input, so the one that is open is always the innermost.
        if place != Place::Model {
            self.probe = probe.to_vec();
        }
        Ok(true)
    }

    fn computed(&mut self, place: Place, input: &[f32], output: &[f32]) -> Result<(), ReuseError> {
        let probe = if place == Place::Model { input.to_vec() } else { std::mem::take(&mut self.probe) };
        self.calls.push(PlaceCall { place, probe, input: input.to_vec(), output: output.to_vec() });
        Ok(())
    }
}
