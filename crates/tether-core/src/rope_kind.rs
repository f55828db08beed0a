//! Which rotary position embedding a model uses, as data. `tether-rope` turns it into tables.

use serde::{Deserialize, Serialize};

/// Which channels of a head form a rotated pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pairing {
    /// Channels `2i` and `2i + 1` (Wan, GPT-J).
    #[default]
    Interleaved,
    /// Channels `i` and `i + head_dim / 2` (Llama).
    Half,
}

impl Pairing {
    /// The two channels of pair `pair` of `pairs`.
    pub fn channels(self, pair: usize, pairs: usize) -> (usize, usize) {
        match self {
            Self::Half => (pair, pair + pairs),
            Self::Interleaved => (2 * pair, 2 * pair + 1),
        }
    }
}

/// A rotary position embedding.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum RopeKind {
    /// Keys carry no position.
    None,
    /// One axis: the unit's position.
    #[serde(rename = "1d")]
    OneD {
        /// Base of the frequencies.
        theta: f64,
        /// Channel pairing.
        pairing: Pairing,
    },
    /// Time, row and column.
    #[serde(rename = "3d")]
    ThreeD {
        /// Base of the frequencies of every axis.
        theta: f64,
        /// Token rows of a unit.
        height: usize,
        /// Token columns of a unit.
        width: usize,
        /// Which pairs turn with which axis, and how fast; Wan 2.1's where nothing is said.
        #[serde(default, skip_serializing_if = "AxisLayout::is_default")]
        layout: AxisLayout,
    },
}

/// An axis of a token's position in a video.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Axis {
    /// The frame.
    Time,
    /// The row in the frame.
    Row,
    /// The column in the frame.
    Column,
}

/// In which order pairs are given to axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AxisOrder {
    /// All pairs of the first axis, then all of the next.
    Blocks([Axis; 3]),
    /// One pair of each in turn, time first, as long as the axis has any left; what is over is time's (LTX-Video, Qwen3-VL).
    InTurns,
}

/// How the frequencies of an axis's pairs are made of its base.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Frequencies {
    /// Each axis begins anew: pair `i` of its `n` turns by `theta^(-i / n)`.
    #[default]
    PerAxis,
    /// One sequence for all: pair `i` of the head's `n` turns by `theta^(-i / n)`, whatever its axis (M-RoPE).
    Shared,
    /// Each axis begins anew and rises: pair `i` of its `n` turns by `pi / 2 * theta^(i / (n - 1))` (LTX-Video).
    Rising,
}

/// What an embedding is laid over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RopeSpan {
    /// Every head alike.
    #[default]
    Head,
    /// All heads of a token as if they were one (LTX-Video).
    Token,
}

/// Which pairs turn with which axis, and how fast. What a model adds to all positions of an axis is left out: queries and keys are rotated by it
/// alike, so it changes no product of them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AxisLayout {
    /// Which channels form a pair.
    pub pairing: Pairing,
    /// Pairs that turn with time, row and column. None for Wan's split: rows and columns a third each, rounded down, and time the rest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pairs: Option<[usize; 3]>,
    /// Their order.
    pub order: AxisOrder,
    /// Pairs before them that never turn.
    pub skip: usize,
    /// How frequencies are made.
    pub frequencies: Frequencies,
    /// Bases of time, row and column, where they are not all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thetas: Option<[f64; 3]>,
    /// What positions in time, rows and columns are multiplied by.
    pub scales: [f64; 3],
    /// What it is laid over.
    pub span: RopeSpan,
}

impl Default for AxisLayout {
    fn default() -> Self {
        Self {
            pairing: Pairing::Interleaved,
            pairs: None,
            order: AxisOrder::Blocks([Axis::Time, Axis::Row, Axis::Column]),
            skip: 0,
            frequencies: Frequencies::PerAxis,
            thetas: None,
            scales: [1.0; 3],
            span: RopeSpan::Head,
        }
    }
}

impl AxisLayout {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl RopeKind {
    /// Wan 2.1 and 2.2: 22, 21 and 21 pairs of a head of 128.
    pub fn wan(height: usize, width: usize) -> Self {
        Self::ThreeD { theta: 10_000.0, height, width, layout: AxisLayout::default() }
    }

    /// `HunyuanVideo`: 8, 28 and 28 pairs of a head of 128.
    pub fn hunyuan_video(height: usize, width: usize) -> Self {
        let layout = AxisLayout { pairs: Some([8, 28, 28]), ..AxisLayout::default() };
        Self::ThreeD { theta: 256.0, height, width, layout }
    }

    /// `CogVideoX`: 8, 12 and 12 pairs of a head of 64. `scales` are 1 at the size of training.
    pub fn cogvideox(height: usize, width: usize, scales: [f64; 3]) -> Self {
        let layout = AxisLayout { pairs: Some([8, 12, 12]), scales, ..AxisLayout::default() };
        Self::ThreeD { theta: 10_000.0, height, width, layout }
    }

    /// Cosmos: 22, 21 and 21 pairs of a head of 128, half a head apart, each axis's base raised for being `extrapolated` (time, rows, columns)
    /// beyond training. `frame_scale` is the training's frame rate over the video's.
    pub fn cosmos(height: usize, width: usize, extrapolated: [f64; 3], frame_scale: f64) -> Self {
        let pairs = [22usize, 21, 21];
        let base = |axis: usize| {
            let dim = 2.0 * pairs[axis] as f64;
            10_000.0 * extrapolated[axis].powf(dim / (dim - 2.0))
        };
        let layout = AxisLayout {
            pairing: Pairing::Half,
            pairs: Some(pairs),
            thetas: Some([base(0), base(1), base(2)]),
            scales: [frame_scale, 1.0, 1.0],
            ..AxisLayout::default()
        };
        Self::ThreeD { theta: 10_000.0, height, width, layout }
    }

    /// LTX-Video with `heads` heads of `head_dim` channels, over all of which the embedding is laid. `scales` are a step in time, by a row and by a
    /// column, in units of the whole range.
    pub fn ltx_video(
        height: usize,
        width: usize,
        (heads, head_dim): (usize, usize),
        scales: [f64; 3],
    ) -> Self {
        let pairs = heads * head_dim / 2;
        let layout = AxisLayout {
            pairs: Some([pairs / 3; 3]),
            order: AxisOrder::InTurns,
            skip: pairs % 3,
            frequencies: Frequencies::Rising,
            // Positions run from -1 to 1.
            scales: scales.map(|scale| 2.0 * scale),
            span: RopeSpan::Token,
            ..AxisLayout::default()
        };
        Self::ThreeD { theta: 10_000.0, height, width, layout }
    }

    /// M-RoPE over the frames of a video (arXiv:2409.12191), `sections` pairs for time, rows and columns: one after the other as in Qwen2-VL and
    /// Qwen2.5-VL, or in turns as in Qwen3-VL.
    pub fn m_rope(theta: f64, (height, width): (usize, usize), sections: [usize; 3], in_turns: bool) -> Self {
        let order = if in_turns { AxisOrder::InTurns } else { AxisLayout::default().order };
        let layout = AxisLayout {
            pairing: Pairing::Half,
            pairs: Some(sections),
            order,
            frequencies: Frequencies::Shared,
            ..AxisLayout::default()
        };
        Self::ThreeD { theta, height, width, layout }
    }
}
