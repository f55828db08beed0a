//! One video: a recipe on a scene, made and measured.

use anyhow::Result;
use indicatif::ProgressBar;
use tether_models::{
    CachedPass, ChunkAttention, FRAME_SIZE, Frame, Scene, Schedule, TinyVideo, VideoReuse, VideoSession,
    chunk_noise, frame_metrics, segment_scores,
};
use tether_reuse::{Profile, ReuseRecipe};
use tethercache::Recipe;
use tethercache::core::Engine;

use crate::artefacts::{CacheBytes, Rgb8Frame, Run, Segment, Series, Timing, Work};
use crate::budget::CHUNK;

/// Real frames at the start: the model continues, it does not begin.
pub(crate) const GIVEN: usize = 9;
/// Equal parts of what is generated, each scored by itself.
pub(crate) const SEGMENTS: usize = 4;

/// Step reuse that was asked for.
#[derive(Debug)]
pub(crate) struct Reuse {
    pub(crate) recipe: ReuseRecipe,
    pub(crate) profile: Option<Profile>,
}

/// One recipe on one scene.
#[derive(Clone, Copy)]
pub(crate) struct Rollout<'a> {
    /// Of scenes and noise.
    pub(crate) seed: u64,
    /// Length of the video.
    pub(crate) frames: usize,
    pub(crate) model: &'a TinyVideo,
    pub(crate) schedule: &'a Schedule,
    pub(crate) scene: (usize, &'a Scene),
    pub(crate) recipe: &'a Recipe,
    pub(crate) reuse: Option<&'a Reuse>,
    pub(crate) bar: &'a ProgressBar,
}

/// Makes the video with its cache on `engine`.
pub(crate) fn roll_out<E: Engine>(rollout: &Rollout<'_>, engine: E) -> Result<Run>
where
    for<'c> CachedPass<'c, E>: ChunkAttention<Error = tethercache::Error>,
{
    let &Rollout { seed, frames: length, model, schedule, scene: (index, scene), recipe, reuse, bar } =
        rollout;
    let mut session = VideoSession::new(model, recipe.clone(), schedule.clone(), engine)?;
    if let Some(Reuse { recipe, profile }) = reuse {
        session = session.with_reuse(VideoReuse::new(model, recipe.clone(), profile.as_ref())?);
    }
    let mut frames = give(&mut session, scene, || bar.inc(1))?;
    let given = session.timing();
    for_each_chunk(model, (seed, index as u64), length, |_, noise| {
        frames.extend(session.generate(noise)?);
        bar.inc(1);
        Ok(())
    })?;
    let timing = session.timing();
    let chunks = timing.chunks - given.chunks;
    let per_chunk = |total: std::time::Duration, before: std::time::Duration| {
        (total - before).as_secs_f64() * 1e3 / f64::from(chunks.max(1))
    };
    let metrics = frame_metrics(scene, &frames)?;
    let segments = segment_scores(&metrics, GIVEN, SEGMENTS)?;
    let peak = session.peak();
    Ok(Run {
        work: Work {
            multiply_adds: timing.multiply_adds - given.multiply_adds,
            reuse: session.reuse().map(|r| r.stats().clone()),
        },
        recipe: recipe.name.clone(),
        scene: index,
        frames: frames.iter().map(picture).collect(),
        segments: segments
            .iter()
            .map(|s| Segment {
                start: s.start,
                end: s.end,
                bg_psnr: s.bg_psnr,
                ident: s.ident,
                colour: s.colour,
                sat: s.sat,
                motion_ratio: s.motion_ratio,
                quality: s.quality,
            })
            .collect(),
        series: Series {
            bg_psnr: metrics.bg_psnr,
            ident: metrics.ident,
            colour: metrics.colour,
            sat: metrics.sat,
            motion: metrics.motion,
            motion_real: metrics.motion_real,
        },
        cache: CacheBytes { peak: peak.resident, window: peak.window, full_history: peak.full_history },
        timing: Timing {
            chunks: chunks as usize,
            model_ms_per_chunk: per_chunk(timing.model, given.model),
            cache_ms_per_chunk: per_chunk(timing.cache + timing.transfer, given.cache + given.transfer),
            attention_ms_per_chunk: per_chunk(timing.attention, given.attention),
        },
    })
}

/// Gives the session the start of a scene. Returns its frames; `each` is called for each chunk.
pub(crate) fn give<E: Engine>(
    session: &mut VideoSession<'_, E>,
    scene: &Scene,
    mut each: impl FnMut(),
) -> Result<Vec<Frame>>
where
    for<'c> CachedPass<'c, E>: ChunkAttention<Error = tethercache::Error>,
{
    let frames: Vec<Frame> = (0..GIVEN).map(|t| scene.render(t as f32)).collect();
    for given in frames.chunks(CHUNK) {
        session.give(given)?;
        each();
    }
    Ok(frames)
}

/// Calls `make` with the number and the noise of each chunk of a video of `frames` frames that is to be made, the given ones left out.
/// `scene` is the seed and the scene's number.
pub(crate) fn for_each_chunk(
    model: &TinyVideo,
    (seed, scene): (u64, u64),
    frames: usize,
    mut make: impl FnMut(usize, &[f32]) -> Result<()>,
) -> Result<()> {
    let mut noise = vec![0.0; model.config().chunk_values()];
    for chunk in GIVEN / CHUNK..frames / CHUNK {
        chunk_noise(seed, scene, chunk as u64, &mut noise);
        make(chunk, &noise)?;
    }
    Ok(())
}

/// A frame as the pictures take it.
pub(crate) fn picture(frame: &Frame) -> Rgb8Frame {
    Rgb8Frame { width: FRAME_SIZE, height: FRAME_SIZE, rgb: frame.to_rgb8() }
}
