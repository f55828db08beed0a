//! Keys of the small video model, coded before the rotary embedding or after it.

use std::io::Write;

use anyhow::{Context, Result};
use tether_core::{Geometry, HostTensor};
use tether_host::Host;
use tether_models::{ChunkAttention, Frame, Scene, TinyVideo, VideoSession, patchify};
use tethercache::rope::FrameRope;
use tethercache::{KvCache, Pass, Recipe};

use super::record::{HeadTrace, column};
use super::scheme::Scheme;
use super::score::{Changed, scores};
use crate::table::{Table, numbers, words};

/// A model's attention over real frames, all of them cached.
struct Recorder {
    cache: KvCache<Host>,
    pass: Pass,
    /// Queries of the last pass, layer by layer.
    q: Vec<HostTensor>,
}

impl ChunkAttention for Recorder {
    type Error = tethercache::Error;

    fn attend(
        &mut self,
        layer: usize,
        q: &HostTensor,
        k: &HostTensor,
        v: &HostTensor,
        out: &mut HostTensor,
    ) -> Result<(), Self::Error> {
        self.cache.stage(layer, self.pass, k, v)?;
        self.cache.commit(layer, self.pass.chunk.0, q)?;
        self.cache.attend(layer, q, out)?;
        self.q.truncate(layer);
        self.q.push(q.clone());
        Ok(())
    }
}

/// A head with its keys rotated, and the keys as they were before.
struct VideoHead {
    rotated: HeadTrace,
    plain: HeadTrace,
}

/// Reads real frames of a scene, as many as the model was trained on; all heads of all layers.
fn record(model: &TinyVideo, scene: &Scene) -> Result<(Vec<VideoHead>, FrameRope)> {
    let config = model.config();
    let geometry: Geometry = VideoSession::<Host>::geometry(model);
    let mut recorder = Recorder {
        cache: KvCache::new(Host::parallel(), geometry.clone(), Recipe::full())?,
        pass: Pass::clean(0),
        q: Vec::new(),
    };
    let mut workspace = model.workspace();
    let frames: Vec<Frame> = (0..config.train_frames).map(|t| scene.render(t as f32)).collect();
    for (chunk, frames) in frames.chunks_exact(config.chunk_frames).enumerate() {
        recorder.pass = Pass::clean(chunk as u64);
        let pixels = patchify(frames);
        let mut velocity = vec![0.0; pixels.len()];
        model.forward(&mut workspace, &pixels, 0.0, &mut recorder, &mut velocity)?;
    }
    let units = config.train_frames;
    let rope = FrameRope::new(&geometry.rope, (1, config.head_dim), config.tokens_per_frame)?;
    let rope = rope.context("the model has no rotation")?;
    let positions: Vec<i32> = (0..units as i32).collect();
    let mut heads = Vec::new();
    for (layer, q) in recorder.q.iter().enumerate() {
        let (k, v) = recorder.cache.contiguous_unrotated(layer, 0)?;
        for head in 0..config.heads {
            let of = |x: &HostTensor| {
                let mut rows = Vec::new();
                column(x, head, &mut rows);
                rows
            };
            let plain =
                HeadTrace { q: vec![of(q)], k: of(&k), v: of(&v), dim: config.head_dim, causal: false };
            let mut rotated = plain.clone();
            rope.rotate(&mut rotated.k, (1, config.head_dim), &positions)?;
            let last = &positions[units - config.chunk_frames..];
            rotated.q.iter_mut().try_for_each(|q| rope.rotate(q, (1, config.head_dim), last))?;
            heads.push(VideoHead { rotated, plain });
        }
    }
    Ok((heads, rope))
}

/// Share of the keys' squared length that their mean has.
fn share_of_mean(k: &[f32], dim: usize) -> f64 {
    let rows = (k.len() / dim) as f64;
    let mean = (0..dim).map(|c| k.iter().skip(c).step_by(dim).map(|x| f64::from(*x)).sum::<f64>() / rows);
    let all = k.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / rows;
    mean.map(|m| m * m).sum::<f64>() / all.max(f64::MIN_POSITIVE)
}

/// Prints the table.
pub(super) fn table(out: &mut impl Write, scenes: usize, seed: u64) -> Result<()> {
    let model = TinyVideo::bundled().context("cannot load the bundled model")?;
    let (mut heads, mut rope) = (Vec::new(), None);
    for number in 0..scenes {
        let (of_scene, of_model) = record(&model, &Scene::sample(seed, number as u64))?;
        heads.extend(of_scene);
        rope = Some(of_model);
    }
    let (Some(rope), Some(first)) = (rope, heads.first()) else { return Ok(()) };
    let config = model.config();
    let (dim, queries) = (config.head_dim, config.chunk_tokens());
    let positions: Vec<i32> = (0..(first.plain.tokens() / config.tokens_per_frame) as i32).collect();
    writeln!(out, "### Keys of the video model, coded before and after the rotary embedding\n")?;
    let measured = [
        "bits per channel",
        "attention KL, rotated",
        "un-rotated",
        "relative output error, rotated",
        "un-rotated",
    ];
    let layout = Table::new(std::iter::once(words("codec")).chain(measured.map(numbers)));
    out.write_all(layout.head().as_bytes())?;
    for scheme in Scheme::all() {
        let (mut before, mut after) = (Vec::new(), Vec::new());
        let mut bits = 0.0;
        for head in &heads {
            let changed = |keys| Changed {
                head: &head.rotated,
                keys,
                values: head.rotated.v.clone(),
                dropped: Vec::new(),
            };
            let (keys, cost) = scheme.keys(&head.rotated, 0)?;
            bits += cost / heads.len() as f64;
            after.push(changed(keys));
            let (mut keys, _) = scheme.keys(&head.plain, 0)?;
            rope.rotate(&mut keys, (1, dim), &positions)?;
            before.push(changed(keys));
        }
        let (after, before) = (scores(&after, queries), scores(&before, queries));
        let scores = [after.divergence, before.divergence, after.error, before.error];
        let row = [scheme.name(), format!("{bits:.3}")].into_iter();
        out.write_all(layout.line(row.chain(scores.map(|x| format!("{x:.4}")))).as_bytes())?;
        out.flush()?;
    }
    let mean = |of: fn(&VideoHead) -> &HeadTrace| {
        heads.iter().map(|h| share_of_mean(&of(h).k, dim)).sum::<f64>() / heads.len() as f64
    };
    writeln!(
        out,
        "\nShare of the keys' squared length that their mean over all frames has: {:.3} rotated, {:.3} un-rotated.\n",
        mean(|h| &h.rotated),
        mean(|h| &h.plain)
    )?;
    Ok(())
}
