//! A video that is continued chunk by chunk under a KV cache.

use std::time::{Duration, Instant};

#[cfg(any(feature = "wgpu", feature = "cuda", feature = "rocm"))]
use tether_core::Readback;
use tether_core::{DType, Engine, Geometry, HostTensor, RopeKind};
use tether_host::CodedHost;
use tether_host::Host;
#[cfg(any(feature = "wgpu", feature = "cuda", feature = "rocm"))]
use tethercache::kernels::{Cube, cubecl::Runtime};
use tethercache::{CacheBytes, KvCache, Pass, PassKind, Recipe};

use crate::{
    ChunkAttention, ForwardError, Frame, ModelError, PlaceHook, Schedule, TinyVideo, VideoReuse, Workspace,
    patchify, sample_chunk, sample_chunk_hooked, unpatchify,
};

/// Why a chunk could not be made.
pub type SessionError = ForwardError<tethercache::Error>;

/// Where the time of a session went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionTiming {
    /// Chunks, given ones included.
    pub chunks: u32,
    /// The model without its attention.
    pub model: Duration,
    /// Attention over the cache.
    pub attention: Duration,
    /// Staging, scoring, choosing, editing.
    pub cache: Duration,
    /// Tensors on their way to a device.
    pub transfer: Duration,
    /// Multiply-adds of linear layers and of attention.
    pub multiply_adds: u64,
}

/// TinyVideo, its cache on engine `E` and where they are in the video. The model itself runs on the host.
#[derive(Debug)]
pub struct VideoSession<'m, E: Engine> {
    model: &'m TinyVideo,
    workspace: Workspace,
    schedule: Schedule,
    cache: KvCache<E>,
    chunk: u64,
    peak: CacheBytes,
    timing: SessionTiming,
    reuse: Option<VideoReuse>,
}

/// The cache as the model's attention, for one pass.
#[derive(Debug)]
pub struct CachedPass<'c, E: Engine> {
    cache: &'c mut KvCache<E>,
    pass: Pass,
    timing: &'c mut SessionTiming,
}

impl<E: Engine> CachedPass<'_, E> {
    /// Stages K and V, recalls when a chunk begins, commits on the clean pass, and attends.
    fn run(
        &mut self,
        layer: usize,
        (q, k, v): (&E::Tensor, &E::Tensor, &E::Tensor),
        out: &mut E::Tensor,
    ) -> Result<(), tethercache::Error> {
        let started = Instant::now();
        if self.cache.stage(layer, self.pass, k, v)?.began_chunk {
            self.cache.recall(layer, q)?;
        }
        if self.pass.kind == PassKind::Clean {
            self.cache.commit(layer, self.pass.chunk.0, q)?;
        }
        let staged = Instant::now();
        self.cache.attend(layer, q, out)?;
        self.timing.multiply_adds += self.work(layer)?;
        self.timing.cache += staged - started;
        self.timing.attention += staged.elapsed();
        Ok(())
    }
}

impl<E: Engine> CachedPass<'_, E> {
    /// Multiply-adds of the attention of a pass: every query of the chunk with every key of the window, and its value.
    fn work(&self, layer: usize) -> Result<u64, tethercache::Error> {
        let g = self.cache.geometry();
        let view = self.cache.view(layer)?;
        let keys: usize = view.tables().iter().map(|t| t.slots.len() * g.tokens_per_unit).sum();
        let queries = g.units_per_chunk * g.tokens_per_unit;
        Ok((queries * keys * g.query_heads * (g.head_dim_k + g.head_dim_v)) as u64)
    }
}

/// On the host the model's tensors are the cache's: nothing is copied.
impl ChunkAttention for CachedPass<'_, Host> {
    type Error = tethercache::Error;

    fn attend(
        &mut self,
        layer: usize,
        q: &HostTensor,
        k: &HostTensor,
        v: &HostTensor,
        out: &mut HostTensor,
    ) -> Result<(), Self::Error> {
        self.run(layer, (q, k, v), out)
    }
}

/// The same, with frames as codes.
impl ChunkAttention for CachedPass<'_, CodedHost> {
    type Error = tethercache::Error;

    fn attend(
        &mut self,
        layer: usize,
        q: &HostTensor,
        k: &HostTensor,
        v: &HostTensor,
        out: &mut HostTensor,
    ) -> Result<(), Self::Error> {
        self.run(layer, (q, k, v), out)
    }
}

/// The model is on the host and the cache is not, so each layer's tensors travel.
#[cfg(any(feature = "wgpu", feature = "cuda", feature = "rocm"))]
impl<R: Runtime> ChunkAttention for CachedPass<'_, Cube<R>> {
    type Error = tethercache::Error;

    fn attend(
        &mut self,
        layer: usize,
        q: &HostTensor,
        k: &HostTensor,
        v: &HostTensor,
        out: &mut HostTensor,
    ) -> Result<(), Self::Error> {
        let started = Instant::now();
        let engine = self.cache.engine();
        let tensors = (engine.upload(q)?, engine.upload(k)?, engine.upload(v)?);
        let mut result = engine.upload(out)?;
        self.timing.transfer += started.elapsed();
        self.run(layer, (&tensors.0, &tensors.1, &tensors.2), &mut result)?;
        // Kernels are queued, so waiting for the result is waiting for the attention.
        let started = Instant::now();
        *out = self.cache.engine().read(&[&result])?.wait()?.remove(0);
        self.timing.attention += started.elapsed();
        Ok(())
    }
}

impl<'m, E: Engine> VideoSession<'m, E>
where
    for<'c> CachedPass<'c, E>: ChunkAttention<Error = tethercache::Error>,
{
    /// The cache geometry of `model`.
    pub fn geometry(model: &TinyVideo) -> Geometry {
        let c = model.config();
        let side = c.tokens_per_frame.isqrt();
        Geometry {
            layers: c.layers,
            query_heads: c.heads,
            kv_heads: c.heads,
            head_dim_k: c.head_dim,
            head_dim_v: c.head_dim,
            tokens_per_unit: c.tokens_per_frame,
            units_per_chunk: c.chunk_frames,
            sequences: 1,
            dtype: DType::F32,
            rope: RopeKind::wan(side, side),
        }
    }

    /// A video without frames, cached under `recipe`.
    ///
    /// # Errors
    /// What [`KvCache::new`] refuses.
    pub fn new(
        model: &'m TinyVideo,
        recipe: Recipe,
        schedule: Schedule,
        engine: E,
    ) -> Result<Self, tethercache::Error> {
        let cache = KvCache::new(engine, Self::geometry(model), recipe)?;
        Ok(Self {
            model,
            workspace: model.workspace(),
            schedule,
            cache,
            chunk: 0,
            peak: CacheBytes::default(),
            timing: SessionTiming::default(),
            reuse: None,
        })
    }

    /// Lets the chunks that follow reuse steps under `reuse`. Their clean passes are always computed: what they leave in the cache stays.
    #[must_use]
    pub fn with_reuse(mut self, reuse: VideoReuse) -> Self {
        self.reuse = Some(reuse);
        self
    }

    /// The step reuse, where there is one.
    pub fn reuse(&self) -> Option<&VideoReuse> {
        self.reuse.as_ref()
    }

    /// The cache.
    pub fn cache(&self) -> &KvCache<E> {
        &self.cache
    }

    /// The largest byte counts so far.
    pub fn peak(&self) -> CacheBytes {
        self.peak
    }

    /// Time spent and work done so far.
    pub fn timing(&self) -> SessionTiming {
        let multiply_adds = self.timing.multiply_adds + self.workspace.multiply_adds();
        SessionTiming { multiply_adds, ..self.timing }
    }

    /// Takes a chunk of real frames: only its clean pass is run.
    ///
    /// # Errors
    /// [`ModelError::Length`] for another number of frames than a chunk has, and what the cache refuses.
    pub fn give(&mut self, frames: &[Frame]) -> Result<(), SessionError> {
        let expected = self.model.config().chunk_frames;
        if frames.len() != expected {
            return Err(ModelError::Length { what: "frames of a chunk", expected, got: frames.len() }.into());
        }
        self.timed(|session| session.write_clean(&patchify(frames)))
    }

    /// Draws the next chunk from `noise` (`[192, 48]` standard normals) and caches it.
    ///
    /// # Errors
    /// [`ModelError::Length`] for noise of another size, and what the cache refuses.
    pub fn generate(&mut self, noise: &[f32]) -> Result<Vec<Frame>, SessionError> {
        self.timed(|session| {
            let Self { model, workspace, schedule, cache, timing, reuse, .. } = session;
            let mut pass = CachedPass { cache, pass: Pass::denoise(session.chunk), timing };
            let clean = match reuse {
                None => sample_chunk(model, workspace, noise, schedule, &mut pass)?,
                Some(reuse) => {
                    let times = reuse.begin_chunk(&VideoReuse::plan(model, schedule))?;
                    let begins = VideoReuse::begin_step;
                    sample_chunk_hooked(model, workspace, noise, &times, &mut pass, reuse, begins)?
                }
            };
            session.write_clean(&clean)?;
            Ok(unpatchify(&clean)?)
        })
    }

    /// As [`generate`](Self::generate), and without reuse: `hook` is told of every place.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn generate_watched<H: PlaceHook>(
        &mut self,
        noise: &[f32],
        hook: &mut H,
    ) -> Result<Vec<Frame>, SessionError> {
        self.timed(|session| {
            let Self { model, workspace, schedule, cache, timing, .. } = session;
            let mut pass = CachedPass { cache, pass: Pass::denoise(session.chunk), timing };
            let times = schedule.times();
            let clean = sample_chunk_hooked(model, workspace, noise, times, &mut pass, hook, |_, _| {})?;
            session.write_clean(&clean)?;
            Ok(unpatchify(&clean)?)
        })
    }

    /// Runs `step`, and counts as the model's what neither attention nor the cache nor transfers took of its time.
    fn timed<T>(
        &mut self,
        step: impl FnOnce(&mut Self) -> Result<T, SessionError>,
    ) -> Result<T, SessionError> {
        let elsewhere = |t: &SessionTiming| t.cache + t.attention + t.transfer;
        let (started, before) = (Instant::now(), elsewhere(&self.timing));
        let result = step(self)?;
        let elsewhere = elsewhere(&self.timing) - before;
        self.timing.model += started.elapsed().saturating_sub(elsewhere);
        Ok(result)
    }

    fn write_clean(&mut self, clean: &[f32]) -> Result<(), SessionError> {
        let mut pass =
            CachedPass { cache: &mut self.cache, pass: Pass::clean(self.chunk), timing: &mut self.timing };
        let mut velocity = vec![0.0; clean.len()];
        self.model.forward(&mut self.workspace, clean, 0.0, &mut pass, &mut velocity)?;
        self.chunk += 1;
        self.timing.chunks += 1;
        let bytes = self.cache.bytes();
        self.peak = CacheBytes {
            resident: self.peak.resident.max(bytes.resident),
            rotated: self.peak.rotated.max(bytes.rotated),
            in_use: self.peak.in_use.max(bytes.in_use),
            window: self.peak.window.max(bytes.window),
            full_history: self.peak.full_history.max(bytes.full_history),
        };
        Ok(())
    }
}
