//! Chance, the control.

use serde::{Deserialize, Serialize};
use tether_part::Settings;

use crate::ScoreError;
use crate::tokens::{HeadScores, Needs, ScoreRequest, ScoreTokens, TokenObservation};

/// Numbers that depend on seed, layer and position only, so that what has lost once does not come back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomScore {
    /// Seed.
    #[serde(default)]
    pub seed: u64,
}

impl Settings for RandomScore {
    const KIND: &'static str = "random";
}

impl ScoreTokens for RandomScore {
    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn score(&self, seen: &dyn TokenObservation, request: ScoreRequest) -> Result<HeadScores, ScoreError> {
        let layer = mixed(self.seed ^ mixed(request.layer as u64));
        // 24 bits: every such number is a float of its own.
        let draw = |&position: &i32| (mixed(layer ^ mixed(position as u64)) >> 40) as f32 / (1 << 24) as f32;
        let scores = (0..seen.kv_heads()).flat_map(|h| seen.positions(h).iter().map(draw)).collect();
        HeadScores::new(seen.kv_heads(), seen.tokens(), scores)
    }
}

/// `SplitMix64`.
fn mixed(seed: u64) -> u64 {
    let x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
