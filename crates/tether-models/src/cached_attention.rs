//! A language model's attention over a `TokenCache`.

use tether_core::{CoreError, DType, HostTensor, Readback, TensorData, TokenEngine};
use tethercache::score::tokens::HeadProfile;
use tethercache::tokens::{
    EvictReport, ModelInfo, NewTokens, SequenceId, TokenBytes, TokenCache, TokenGeometry, TokenRecipe,
};
use tethercache::{Error, Requirement};

use crate::{Llama, TokenAttention, TokenBlock};

/// Tokens of a block of the cache.
const BLOCK: usize = 16;

/// One sequence of a [`TokenCache`], under any recipe and on any engine; the model stays on the host.
///
/// Nothing is evicted inside a forward pass: call [`CachedAttention::evict`] after the prompt and after what follows, or
/// [`crate::LlamaSession::evict`], which also runs the probe tokens that a recipe may ask for.
#[derive(Debug)]
pub struct CachedAttention<E: TokenEngine> {
    cache: TokenCache<E>,
    sequence: SequenceId,
}

impl<E: TokenEngine> CachedAttention<E> {
    /// An empty cache for `model`, stored as `dtype`.
    ///
    /// # Errors
    /// Those of [`TokenCache::new`].
    pub fn new(engine: E, model: &Llama, recipe: TokenRecipe, dtype: DType) -> Result<Self, Error> {
        Self::with_profile(engine, model, recipe, dtype, None)
    }

    /// An empty cache for `model`, stored as `dtype`, and what the model's heads are for.
    ///
    /// # Errors
    /// Those of [`TokenCache::new`], and [`Error::Score`] for a profile of a model of other sizes.
    pub fn with_profile(
        engine: E,
        model: &Llama,
        recipe: TokenRecipe,
        dtype: DType,
        head_profile: Option<HeadProfile>,
    ) -> Result<Self, Error> {
        let config = model.config();
        let geometry = TokenGeometry {
            layers: config.layers,
            query_heads: config.query_heads,
            kv_heads: config.kv_heads,
            head_dim_k: config.head_dim,
            head_dim_v: config.head_dim,
            block_size: BLOCK,
            dtype,
            attention: tethercache::tokens::TokenAttention::default(),
        };
        if let Some(profile) = &head_profile {
            profile.check(config.layers, config.kv_heads)?;
        }
        let output_projections = if recipe.requires().contains(&Requirement::OutputProjection) {
            (0..config.layers).map(|l| model.output_projection(l).unwrap_or_default()).collect()
        } else {
            Vec::new()
        };
        // The pairs that the model's own turns are of.
        let rope = Some(model.rope().clone());
        let facts = ModelInfo { rope, output_projections, head_profile };
        let mut cache = TokenCache::new(engine, geometry, recipe, facts)?;
        let sequence = cache.start();
        Ok(Self { cache, sequence })
    }

    /// The sequence that the next tokens belong to.
    pub fn sequence(&self) -> SequenceId {
        self.sequence
    }

    /// Goes on with a copy of the sequence, which shares its memory until one of both changes; returns the original, to go back to with
    /// [`CachedAttention::back_to`]. Positions are the session's: set them back, too.
    ///
    /// # Errors
    /// Those of [`TokenCache::fork`].
    pub fn branch(&mut self) -> Result<SequenceId, Error> {
        let copy = self.cache.fork(self.sequence)?;
        Ok(std::mem::replace(&mut self.sequence, copy))
    }

    /// Forgets the sequence, and goes on with `original`.
    ///
    /// # Errors
    /// Those of [`TokenCache::remove`].
    pub fn back_to(&mut self, original: SequenceId) -> Result<(), Error> {
        self.cache.remove(self.sequence)?;
        self.sequence = original;
        Ok(())
    }

    /// Goes on with `original`, of which this sequence is a copy that has read probe tokens: their queries and keys are what the next eviction
    /// asks, and nothing else of them stays.
    ///
    /// # Errors
    /// Those of [`TokenCache::probed`].
    pub fn back_from_probes(&mut self, original: SequenceId) -> Result<(), Error> {
        self.cache.probed(original, self.sequence)?;
        self.sequence = original;
        Ok(())
    }

    /// The cache.
    pub fn cache(&self) -> &TokenCache<E> {
        &self.cache
    }

    /// Carries the recipe out where something is due.
    ///
    /// # Errors
    /// Those of [`TokenCache::evict`].
    pub fn evict(&mut self) -> Result<EvictReport, Error> {
        self.cache.evict(self.sequence)
    }

    /// Chooses anew what is read, under a recipe that retains what it does not read.
    ///
    /// # Errors
    /// Those of [`TokenCache::recall`].
    pub fn recall(&mut self) -> Result<(), Error> {
        self.cache.recall(self.sequence)
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> TokenBytes {
        self.cache.bytes()
    }
}

impl<E: TokenEngine> CachedAttention<E> {
    /// Adds a block whose attention is known; see [`TokenCache::append`].
    ///
    /// # Errors
    /// Those of [`TokenCache::append`].
    pub fn append(&mut self, block: &TokenBlock<'_>) -> Result<(), Error> {
        self.add(block, TokenCache::append)
    }

    fn add<T>(
        &mut self,
        block: &TokenBlock<'_>,
        add: impl FnOnce(&mut TokenCache<E>, SequenceId, usize, &NewTokens<'_, E>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let dtype = self.cache.geometry().dtype;
        let upload = |engine: &E, x: &HostTensor| -> Result<E::Tensor, CoreError> {
            if x.dtype() == dtype {
                return engine.upload(x);
            }
            let narrowed = TensorData::narrowed(dtype, &x.to_f32_vec());
            engine.upload(&HostTensor::new(x.shape(), narrowed)?)
        };
        let engine = self.cache.engine();
        let (q, k, v) = (upload(engine, block.q)?, upload(engine, block.k)?, upload(engine, block.v)?);
        let raw_q = match self.cache.planner().needs().raw_queries {
            0 => None,
            _ => Some(upload(engine, block.q_pre)?),
        };
        let raw_q = raw_q.as_ref();
        let new = NewTokens { q: &q, k: &k, v: &v, raw_q, positions: block.positions, grid: None };
        add(&mut self.cache, self.sequence, block.layer, &new)
    }
}

impl<E: TokenEngine> TokenAttention for CachedAttention<E> {
    type Error = Error;

    fn attend(&mut self, block: &TokenBlock<'_>, out: &mut HostTensor) -> Result<(), Error> {
        let result = self.add(block, TokenCache::extend)?;
        let result = self.cache.engine().read(&[&result])?.wait()?;
        if result[0].shape() != out.shape() {
            let (expected, got) = (out.shape().into(), result[0].shape().into());
            return Err(CoreError::ShapeMismatch { what: "out", expected, got }.into());
        }
        let got = out.dtype();
        let into = out.as_f32_mut();
        let into = into.ok_or(CoreError::DTypeMismatch { what: "out", expected: DType::F32, got })?;
        result[0].data().widen_into(0, into);
        Ok(())
    }
}
