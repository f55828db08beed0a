//! A retrieval method's only code: what it makes of the answers that archived frames give to a chunk's queries.

use serde::{Deserialize, Serialize};
use tethercache::part::Settings;
use tethercache::score::{FrameCandidates, ScoreError, ScoreFrames, UnitScores};

/// Frames that answer, each the less the better the frame before it in the archive does: of a scene that stands still one frame is enough.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AskedFor {
    /// What the frame before takes off.
    pub(crate) neighbour: f32,
}

impl Settings for AskedFor {
    const KIND: &'static str = "asked-for";
}

impl ScoreFrames for AskedFor {
    fn score(&self, seen: FrameCandidates<'_>) -> Result<UnitScores, ScoreError> {
        let before = |i: usize| if i == 0 { 0.0 } else { seen.logits[i - 1].max(0.0) };
        let score = (0..seen.logits.len()).map(|i| seen.logits[i] - self.neighbour * before(i)).collect();
        Ok(UnitScores { score, ..UnitScores::default() })
    }
}
