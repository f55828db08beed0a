//! What the tokens of a chunk receive of each block's attention.

use tether_core::HostTensor;
use tether_host::Host;
use tether_reuse::profile::received_attention;
use tethercache::rope::FrameRope;
use tethercache::{KvCache, Pass, Recipe};

use crate::{ChunkAttention, Scene, TinyVideo, VideoSession};

/// Attention of a chunk to itself, without context, that keeps what every token received in every block.
#[derive(Debug)]
pub struct ReceivedAttention {
    cache: KvCache<Host>,
    rope: Option<FrameRope>,
    /// By block, of the last pass.
    pub received: Vec<Vec<f64>>,
}

impl ReceivedAttention {
    /// For passes of one chunk of `model`.
    ///
    /// # Errors
    /// What [`KvCache::new`] refuses.
    pub fn new(model: &TinyVideo) -> Result<Self, tethercache::Error> {
        let g = VideoSession::<Host>::geometry(model);
        let rope = FrameRope::new(&g.rope, (g.kv_heads, g.head_dim_k), g.tokens_per_unit)?;
        let layers = g.layers;
        let cache = KvCache::new(Host::new(), g, Recipe::named("full")?)?;
        Ok(Self { cache, rope, received: vec![Vec::new(); layers] })
    }
}

impl ChunkAttention for ReceivedAttention {
    type Error = tethercache::Error;

    fn attend(
        &mut self,
        layer: usize,
        q: &HostTensor,
        k: &HostTensor,
        v: &HostTensor,
        out: &mut HostTensor,
    ) -> Result<(), Self::Error> {
        self.cache.stage(layer, Pass::denoise(0), k, v)?;
        self.cache.attend(layer, q, out)?;
        let g = self.cache.geometry();
        let rotated = |x: &HostTensor| -> Result<Vec<f32>, Self::Error> {
            let mut x = x.to_f32_vec();
            if let Some(rope) = &self.rope {
                let positions: Vec<i32> = (0..g.units_per_chunk as i32).collect();
                rope.rotate(&mut x, (g.query_heads, g.head_dim_k), &positions)?;
            }
            Ok(x)
        };
        // Lengths are the geometry's, which the cache has checked.
        let received = received_attention(&rotated(q)?, &rotated(k)?, g.query_heads, g.head_dim_k);
        self.received[layer] = received.unwrap_or_default();
        Ok(())
    }
}

impl Scene {
    /// Which tokens of the frame at time `t` show a sprite.
    pub fn sprite_tokens(&self, t: f32) -> Vec<bool> {
        let mut bare = self.clone();
        bare.sprites.iter_mut().for_each(|s| s.radius = -1.0);
        let tokens = crate::patchify(&[self.render(t)]);
        let without = crate::patchify(&[bare.render(t)]);
        let pairs = tokens.chunks_exact(crate::TOKEN_VALUES).zip(without.chunks_exact(crate::TOKEN_VALUES));
        pairs.map(|(a, b)| a.iter().zip(b).filter(|(a, b)| (*a - *b).abs() > 0.1).count() > 8).collect()
    }
}
