//! A scorer and a selector of one's own, for tokens and for frames, named in recipes like those that come with the library.
//!
//! `cargo run -p tethercache --example own_parts`

use std::error::Error;

use serde::{Deserialize, Serialize};
use tethercache::part::Settings;
use tethercache::prelude::*;
use tethercache::score::tokens::{
    HeadScores, HeadShare, Needs, ScoreRequest, ScoreTokens, SelectTokens, TokenObservation,
};
use tethercache::score::{FrameCandidates, FrameChoice, ScoreError, ScoreFrames, SelectFrames, UnitScores};
use tethercache::tokens::{ModelInfo, NewTokens, TokenAttention, TokenCache, TokenGeometry, TokenRecipe};

/// Tokens with large values stay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LargeValues {
    /// Of the norm: 1 for the sum of sizes, 2 for the length.
    pub(crate) power: f32,
}

impl Settings for LargeValues {
    const KIND: &'static str = "large-values";
}

impl ScoreTokens for LargeValues {
    fn validate(&self) -> Result<(), ScoreError> {
        if self.power >= 1.0 {
            return Ok(());
        }
        let requirement = "must be at least 1";
        Err(ScoreError::Setting { setting: "score.power", value: self.power, requirement })
    }

    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn score(&self, seen: &dyn TokenObservation, _: ScoreRequest) -> Result<HeadScores, ScoreError> {
        let norm = |row: &[f32]| row.iter().map(|x| x.abs().powf(self.power)).sum();
        let scores = seen.values()?.chunks_exact(seen.head_dim_v()).map(norm).collect();
        HeadScores::new(seen.kv_heads(), seen.tokens(), scores)
    }
}

/// The best token of every stretch of the text, all of equal length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BestOfEach {}

impl Settings for BestOfEach {
    const KIND: &'static str = "best-of-each";
}

impl SelectTokens for BestOfEach {
    fn choose(&self, rows: &[&[f32]], share: HeadShare) -> Result<Vec<u32>, ScoreError> {
        let scores = rows[0];
        // Protected tokens stay whether they are named or not, and count.
        let protected = share.protected.within(share.kept, scores.len());
        let (first, end) = (protected.sink, scores.len() - protected.recent);
        let stretches = share.kept - protected.sink - protected.recent;
        let best = |i: usize| {
            let (from, to) = ((end - first) * i / stretches, (end - first) * (i + 1) / stretches);
            (first + from..first + to).max_by(|&a, &b| scores[a].total_cmp(&scores[b]))
        };
        Ok((0..stretches).filter_map(best).map(|token| token as u32).collect())
    }
}

/// Attention that fades with a frame's age.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fading {
    /// Frames after which attention counts half.
    pub(crate) half_life: f32,
}

impl Settings for Fading {
    const KIND: &'static str = "fading";
}

impl ScoreFrames for Fading {
    fn score(&self, seen: FrameCandidates<'_>) -> Result<UnitScores, ScoreError> {
        let newest = seen.frames.last().copied().unwrap_or(0);
        let age = |frame: u64| (newest - frame) as f32 / self.half_life;
        let score = seen.logits.iter().zip(seen.frames).map(|(logit, &f)| logit - age(f)).collect();
        Ok(UnitScores { score, ..UnitScores::default() })
    }
}

/// The highest scores, but no two neighbours while there are others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Apart {
    /// Frames between two that stay.
    pub(crate) gap: u64,
}

impl Settings for Apart {
    const KIND: &'static str = "apart";
}

impl SelectFrames for Apart {
    fn select(&self, choice: FrameChoice<'_>) -> Result<Vec<usize>, ScoreError> {
        let mut order: Vec<usize> = (0..choice.frames.len()).collect();
        order.sort_by(|&a, &b| choice.scores[b].total_cmp(&choice.scores[a]));
        let mut kept: Vec<usize> = Vec::new();
        let far = |kept: &[usize], i: usize| {
            kept.iter().all(|&k| choice.frames[k].abs_diff(choice.frames[i]) > self.gap)
        };
        for only_far in [true, false] {
            for &i in &order {
                if kept.len() < choice.kept && !kept.contains(&i) && (!only_far || far(&kept, i)) {
                    kept.push(i);
                }
            }
        }
        kept.sort_unstable();
        Ok(kept)
    }
}

fn registry() -> Result<Registry, Box<dyn Error>> {
    let registry = Registry::default().token_scorer::<LargeValues>()?.token_selector::<BestOfEach>()?;
    Ok(registry.frame_scorer::<Fading>()?.frame_selector::<Apart>()?)
}

const TOKENS: &str = r#"
name = "own-tokens"
unit = "token"

[score]                          # half of the budget goes to large values, half to what they do to the output
kind = "criticalkv"
base = { kind = "large-values", power = 2.0 }

[budget]
ratio = 0.25
sink = 2
recent = 4

[select]
kind = "best-of-each"
"#;

const FRAMES: &str = r#"
name = "own-frames"
unit = "frame"

[layout]
sink = 1
memory = 3
recent = 2

[score]
kind = "fading"
half_life = 8.0

[select]
kind = "apart"
gap = 1

[position]
kind = "contiguous"
keys = "pre-rope"
"#;

/// Numbers between -1 and 1 that look like noise.
fn noise(shape: &[usize], seed: usize) -> Result<HostTensor, Box<dyn Error>> {
    let number = |i: usize| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0;
    Ok(HostTensor::from_f32(shape, (0..shape.iter().product()).map(number).collect())?)
}

fn tokens() -> Result<(), Box<dyn Error>> {
    let recipe = TokenRecipe::from_toml_with(TOKENS, &registry()?)?;
    assert_eq!(TokenRecipe::from_toml_with(&recipe.to_toml()?, &registry()?)?, recipe);
    // Without the output projection that criticalkv asks for: the own scorer alone.
    let recipe = recipe.with_overrides(&["score={ kind = \"large-values\", power = 2.0 }"])?;
    assert!(recipe.requires().is_empty());

    let geometry = TokenGeometry {
        layers: 1,
        query_heads: 4,
        kv_heads: 2,
        head_dim_k: 8,
        head_dim_v: 8,
        block_size: 4,
        dtype: DType::F32,
        attention: TokenAttention::default(),
    };
    let mut cache = TokenCache::new(Host::new(), geometry, recipe, ModelInfo::default())?;
    let text = cache.start();
    let (q, k, v) = (noise(&[80, 4, 8], 1)?, noise(&[80, 2, 8], 2)?, noise(&[80, 2, 8], 3)?);
    let positions: Vec<i32> = (0..80).collect();
    let new = NewTokens { q: &q, k: &k, v: &v, raw_q: None, positions: &positions, grid: None };
    cache.extend(text, 0, &new)?;
    let report = cache.evict(text)?;
    assert_eq!((report.kept, report.evicted), (2 * 20, 2 * 60));
    for head in 0..2 {
        let held = cache.positions(text, 0, head)?;
        assert_eq!((&held[..2], &held[16..]), (&[0, 1][..], &[76, 77, 78, 79][..]));
        // Between the ends one token of every stretch.
        let stretch = |i: usize| 2 + 74 * i / 14..2 + 74 * (i + 1) / 14;
        assert!(held[2..16].iter().enumerate().all(|(i, &p)| stretch(i).contains(&(p as usize))), "{held:?}");
    }
    println!("head 0 keeps tokens {:?}", cache.positions(text, 0, 0)?);
    Ok(())
}

fn frames() -> Result<(), Box<dyn Error>> {
    let recipe = Recipe::from_toml_with(FRAMES, &registry()?)?;
    assert_eq!(
        recipe.with_overrides(&["score.half_life=4"])?.score,
        Some(Fading { half_life: 4.0 }.into_part())
    );
    let geometry = Geometry {
        layers: 1,
        query_heads: 1,
        kv_heads: 1,
        head_dim_k: 12,
        head_dim_v: 12,
        tokens_per_unit: 4,
        units_per_chunk: 1,
        sequences: 1,
        dtype: DType::F32,
        rope: RopeKind::wan(2, 2),
    };
    let mut cache = KvCache::new(Host::new(), geometry, recipe)?;
    for chunk in 0..16 {
        let tensor = |seed| noise(&[4, 1, 12], 3 * chunk as usize + seed);
        let (q, k, v) = (tensor(0)?, tensor(1)?, tensor(2)?);
        cache.stage(0, Pass::clean(chunk), &k, &v)?;
        let report = cache.commit(0, chunk, &q)?;
        for memory in &report.plan.memory {
            assert_eq!((memory.keep.len(), memory.scores.len()), (3, 4));
        }
    }
    let members = cache.tables(0)?.windows()[0].memory_units();
    let frames: Vec<u64> = members.iter().flatten().map(|unit| unit.0).collect();
    assert_eq!(frames.len(), 3);
    assert!(frames.windows(2).any(|pair| pair[1] - pair[0] > 1), "{frames:?}");
    println!("memory holds frames {frames:?}");
    Ok(())
}

/// Both sessions, under recipes of own parts.
pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    tokens()?;
    frames()
}
