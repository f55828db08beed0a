//! A small model, and every recipe for tokens with regions that are small enough for it.

use tether_core::{DType, HostTensor, Pairing};
use tether_rope::TokenRope;
use tether_score::tokens::{GridPlace, HeadProfile, LayerProfile};
use tethercache::tokens::{ModelInfo, TokenAttention, TokenGeometry, TokenRecipe};

pub(crate) const LAYERS: usize = 2;
pub(crate) const QUERY_HEADS: usize = 4;
pub(crate) const KV_HEADS: usize = 2;
pub(crate) const DIM: usize = 32;

pub(crate) fn geometry(dtype: DType) -> TokenGeometry {
    TokenGeometry {
        layers: LAYERS,
        query_heads: QUERY_HEADS,
        kv_heads: KV_HEADS,
        head_dim_k: DIM,
        head_dim_v: DIM,
        block_size: 4,
        dtype,
        attention: TokenAttention::default(),
    }
}

pub(crate) fn facts() -> ModelInfo {
    let layer = |other: f32| LayerProfile {
        echo: vec![0.1, 0.3],
        induction: vec![0.9 * other, 0.2],
        variance: vec![0.5, 2.0 + other],
    };
    let weights = (0..8 * QUERY_HEADS * DIM).map(|i| ((i * 7) % 13) as f32 - 6.0).collect();
    ModelInfo {
        rope: Some(TokenRope::new(Pairing::Half, 10_000.0, DIM).unwrap()),
        output_projections: vec![weights; LAYERS],
        head_profile: Some(HeadProfile { layers: vec![layer(0.3), layer(1.0)], ..HeadProfile::default() }),
    }
}

/// Where tokens stand in frames of four rows of six.
pub(crate) fn grid(positions: &[i32]) -> Vec<Option<GridPlace>> {
    let place = |&t: &i32| {
        let t = t as u32;
        Some(GridPlace { frame: t / 24, row: t / 6 % 4, column: t % 6 })
    };
    positions.iter().map(place).collect()
}

/// A recipe with small regions.
pub(crate) fn small(name: &str) -> TokenRecipe {
    let fitted: &[&str] = match name {
        "snapkv" | "adakv" | "pyramidkv" => &["score.window=6"],
        "criticalkv" => &["score.base.window=6"],
        "chunkkv" => &["score.window=6", "select.length=5"],
        "expected-attention" => &["score.future=8"],
        "question-guided" => &["score.question=6"],
        "flowcache" => &["score.window=6"],
        "lagkv" => &["score.lag=6"],
        "window-kv" => &["score.suffix=6", "budget.layers.shared=2"],
        "razor-attention" => &["budget.ratio=0.4", "budget.heads.induction=0.25", "decode.every=3"],
        "hack" => &["edit.threshold=0"],
        "elastic-cache" => &["decode.place.distance=-4"],
        "dapq" => &["score.first=1", "score.last=3", "score.recent=4"],
        "quest" => &["score.page=4", "select.size=4", "budget.dense=0"],
        "rekv" => &["score.block=4", "score.init=4", "score.question=4", "select.size=4", "select.top=4"],
        "spherical-rdr" => &[
            "codec.sink=2",
            "codec.recent=5",
            "codec.page=8",
            "codec.retention.window=4",
            "codec.retention.every=3",
        ],
        "int8" | "int4" | "kivi" | "spherical" | "spherical-published" => {
            &["codec.sink=2", "codec.recent=5", "codec.page=8"]
        }
        _ => &[],
    };
    TokenRecipe::named(name).unwrap().with_overrides(fitted).unwrap()
}

/// Xorshift, roughly normal.
pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    pub(crate) fn tensor(&mut self, shape: &[usize]) -> HostTensor {
        let mut next = || {
            let mut sum = 0.0;
            for _ in 0..4 {
                self.0 ^= self.0 << 13;
                self.0 ^= self.0 >> 7;
                self.0 ^= self.0 << 17;
                sum += (self.0 >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
            }
            1.7 * sum
        };
        HostTensor::from_f32(shape, (0..shape.iter().product()).map(|_| next()).collect()).unwrap()
    }
}
