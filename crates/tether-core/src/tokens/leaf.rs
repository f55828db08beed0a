//! What a backend is asked to work out of keys, values and queries so that tokens can be scored: the leaves of score
//! expressions.

use serde::{Deserialize, Serialize};

use super::{MeanRotation, Pool, TokenEngine, TokenGrid};
use crate::{CoreError, DType, Shape, checks};

/// One number for each token of each key head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ScoreLeaf {
    /// Attention that each token before the last `queries` gets from their queries: averaged over them, smoothed
    /// along the tokens, then averaged over the query heads of a key head (`SnapKV`, arXiv:2404.14469).
    WindowAttention {
        /// Last tokens whose queries are asked; they have no score of their own.
        queries: usize,
        /// Smoothing along the tokens.
        smoothing: Pool,
    },
    /// Attention that each token got from all queries so far, averaged over the query heads of a key head (H2O,
    /// arXiv:2306.14048).
    AttentionSums,
    /// Length of the key.
    KeyNorm,
    /// Length of the value.
    ValueNorm,
    /// Cosine of the key and the mean direction of all keys of the head (arXiv:2504.15364).
    KeyMeanCosine,
    /// Mean logit that the last `queries` tokens' queries give the key, over them and over the query heads of a key
    /// head.
    MeanLogit {
        /// Last tokens whose queries are asked.
        queries: usize,
    },
    /// Attention that each token gets from `queries` queries at equal distances over the text, the last one's among
    /// them, each of which sees the tokens up to its own: averaged over them and over the query heads of a key head
    /// (arXiv:2504.09261).
    SampledAttention {
        /// Queries, or as many as there are tokens.
        queries: usize,
    },
    /// Attention that each token before the last `queries` gets from their queries, which see those tokens alone: the
    /// largest logit of a key head's query heads stands for all of them; averaged over the queries (`FlowCache`,
    /// arXiv:2602.10825).
    LargestAttention {
        /// Last tokens whose queries are asked; they have no score of their own.
        queries: usize,
    },
    /// What spans of `span` tokens before the last `queries` get from their queries: of each query head, the mean of
    /// the `best` tokens of the span that its queries attend to most, averaged over the query heads of a key head
    /// (`WindowKV`, arXiv:2503.17922). A number for each span, the last of which may be shorter.
    SpanAttention {
        /// Last tokens whose queries are asked; they are in no span.
        queries: usize,
        /// Tokens of a span.
        span: usize,
        /// Tokens of it that count.
        best: usize,
    },
    /// Attention that each token gets from probes, which stand after the text and see each other up to themselves:
    /// summed over them, smoothed along the tokens, then averaged over the query heads of a key head (`DapQ`,
    /// arXiv:2603.11564).
    ProbeAttention {
        /// Smoothing along the tokens.
        smoothing: Pool,
    },
    /// Mean cosine of each key before the last `newest` and the other ones of those.
    KeyRedundancy {
        /// Last tokens that have no number and are compared with none.
        newest: usize,
    },
    /// Attention that each token after the first `sink` is expected to get, among those, from queries to come, which
    /// are taken as normally distributed before the rotation and rotated to `future` positions: averaged over the
    /// query heads of a key head (arXiv:2510.00636).
    ExpectedAttention {
        /// Positions to come over which the rotation is averaged.
        future: usize,
        /// First tokens: they have no number, and their queries do not count.
        sink: usize,
        /// Whether the queries' covariance counts, and not their mean alone.
        covariance: bool,
    },
    /// Sum of the absolute numbers of the value under the output projection of a query head, averaged over the query
    /// heads of a key head (arXiv:2502.03805).
    ProjectedValueNorm,
    /// How unevenly each key of a block of `size` tokens after the first `first` spreads over the channels, in units
    /// of the next block's range of each channel, as a softmax over the block (`LagKV`, arXiv:2504.04704). The last
    /// whole block, which has no next one, has no numbers.
    KeySpread {
        /// Tokens before the first block.
        first: usize,
        /// Tokens of a block.
        size: usize,
    },
    /// The same of values.
    ValueSpread {
        /// Tokens before the first block.
        first: usize,
        /// Tokens of a block.
        size: usize,
    },
    /// One less the mean cosine of a visual token's key and those of its neighbours in the frame, before the rotation
    /// and over all heads together; 0 for text and for a token without neighbours. The same for all heads (`ST-Lite`,
    /// arXiv:2603.00188).
    FrameSaliency,
    /// 1 for text, for tokens of the newest frame, and for the `kept` tokens of older ones whose keys are least like
    /// any of the newest frame's, with those that are equally like; 0 for the others. Likeness as of
    /// [`ScoreLeaf::FrameSaliency`].
    FrameGate {
        /// Tokens of older frames.
        kept: usize,
    },
    /// Of each whole block of `size` tokens between the first ones and the last `queries`: the product of its mean
    /// key and the last tokens' mean queries, summed over the query heads of a key head, all before the rotation
    /// (`ReKV`, arXiv:2503.00540). Whoever holds means of blocks makes it of [`ScoreLeaf::MeanLogit`].
    BlockMeanLogit {
        /// First tokens, which form no block.
        first: usize,
        /// Tokens of a block.
        size: usize,
        /// Last tokens, whose queries before the rotation are asked.
        queries: usize,
    },
}

/// Queries that a leaf asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeafQueries {
    /// None.
    None,
    /// Rotated ones of the last tokens.
    Last(usize),
    /// Rotated ones at equal distances over the text ([`ScoreLeaf::sampled_tokens`]).
    Sampled(usize),
    /// Rotated ones of tokens that stand after the text, with their keys.
    Probes,
    /// Those before the rotation, but for those of the first `sink` tokens.
    Raw {
        /// First tokens whose queries do not count.
        sink: usize,
    },
}

impl ScoreLeaf {
    /// The queries that it asks.
    pub fn queries(&self) -> LeafQueries {
        match *self {
            Self::WindowAttention { queries, .. }
            | Self::MeanLogit { queries }
            | Self::LargestAttention { queries }
            | Self::SpanAttention { queries, .. } => LeafQueries::Last(queries),
            Self::SampledAttention { queries } => LeafQueries::Sampled(queries),
            Self::ProbeAttention { .. } => LeafQueries::Probes,
            Self::ExpectedAttention { sink, .. } => LeafQueries::Raw { sink },
            Self::AttentionSums
            | Self::KeyNorm
            | Self::ValueNorm
            | Self::KeyMeanCosine
            | Self::KeyRedundancy { .. }
            | Self::ProjectedValueNorm
            | Self::KeySpread { .. }
            | Self::ValueSpread { .. }
            | Self::FrameSaliency
            | Self::FrameGate { .. }
            | Self::BlockMeanLogit { .. } => LeafQueries::None,
        }
    }

    /// Numbers of a key head that holds `tokens`: one for each token, but where the leaf says otherwise.
    pub fn columns(&self, tokens: usize) -> usize {
        match *self {
            Self::WindowAttention { queries, .. } | Self::LargestAttention { queries } => {
                tokens.saturating_sub(queries)
            }
            Self::SpanAttention { queries, span, .. } => tokens.saturating_sub(queries).div_ceil(span.max(1)),
            Self::BlockMeanLogit { first, size, queries } => {
                tokens.saturating_sub(first + queries) / size.max(1)
            }
            Self::KeyRedundancy { newest } => tokens.saturating_sub(newest),
            Self::ExpectedAttention { sink, .. } => tokens.saturating_sub(sink),
            Self::KeySpread { first, size } | Self::ValueSpread { first, size } => {
                (tokens.saturating_sub(first) / size.max(1)).saturating_sub(1) * size
            }
            _ => tokens,
        }
    }

    /// True where it is made of keys before the rotation, and of where tokens stand in frames.
    pub fn is_of_frames(&self) -> bool {
        matches!(self, Self::FrameSaliency | Self::FrameGate { .. })
    }

    /// True where it is made of values.
    pub fn is_of_values(&self) -> bool {
        matches!(self, Self::ValueNorm | Self::ProjectedValueNorm | Self::ValueSpread { .. })
    }

    /// The tokens whose queries [`LeafQueries::Sampled`] asks for.
    pub fn sampled_tokens(queries: usize, tokens: usize) -> impl Iterator<Item = usize> + Clone {
        let count = queries.min(tokens);
        (1..=count).map(move |i| i * tokens / count - 1)
    }
}

/// Key heads of one layer that hold equally many tokens.
#[derive(Debug)]
pub struct ObservedLayer<'a, E: TokenEngine> {
    /// Pool of rotated keys, `[pages, page_size, page_heads, head_dim_k]`.
    pub k: &'a E::Tensor,
    /// Pool of values.
    pub v: &'a E::Tensor,
    /// Attention that rows got so far, `f32` `[pages, page_size, page_heads, group]`.
    pub sums: Option<&'a E::Tensor>,
    /// Rows of the pools, those of a head in the order of their positions: `[kv_heads, tokens]`.
    pub rows: &'a E::Indices,
    /// The queries that the leaf asks, `[query_heads, n, head_dim_k]`.
    pub queries: Option<&'a E::Tensor>,
    /// Rotated keys of probes, whose queries are the ones that are asked, `[kv_heads, n, head_dim_k]`.
    pub probe_keys: Option<&'a E::Tensor>,
    /// How queries to come are rotated, on average.
    pub rotation: Option<&'a MeanRotation>,
    /// The output projection of each query head, `f32` `[query_heads, hidden, head_dim_v]`.
    pub projection: Option<&'a E::Tensor>,
    /// Keys before the rotation, token after token, `[tokens, kv_heads, head_dim_k]`.
    pub raw_keys: Option<&'a E::Tensor>,
    /// Where the tokens stand in frames, in all heads.
    pub grid: Option<&'a TokenGrid>,
    /// Multiplies `q.k`.
    pub scale: f32,
}

impl<'a, E: TokenEngine> ObservedLayer<'a, E> {
    /// Rows of pools of keys and values.
    pub fn new((k, v): (&'a E::Tensor, &'a E::Tensor), rows: &'a E::Indices, scale: f32) -> Self {
        let (sums, queries, probe_keys, rotation, projection) = (None, None, None, None, None);
        let (raw_keys, grid) = (None, None);
        Self { k, v, sums, rows, queries, probe_keys, rotation, projection, raw_keys, grid, scale }
    }
}

/// Shapes of what is observed.
#[derive(Clone, Copy, Debug, Default)]
pub struct ObservedShapes<'a> {
    /// Of the rows.
    pub rows: &'a [usize],
    /// Of the keys' pool.
    pub k: &'a [usize],
    /// Of the values' pool.
    pub v: &'a [usize],
    /// Of the sums of attention.
    pub sums: Option<(&'a [usize], DType)>,
    /// Of the queries.
    pub queries: Option<&'a [usize]>,
    /// Of the probes' keys.
    pub probe_keys: Option<&'a [usize]>,
    /// Channels of the rotation.
    pub rotation: Option<usize>,
    /// Of the output projection.
    pub projection: Option<(&'a [usize], DType)>,
    /// Of the keys before the rotation.
    pub raw_keys: Option<&'a [usize]>,
    /// Tokens of the grid.
    pub grid: Option<usize>,
}

/// Extents of a leaf, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafProblem {
    /// Key heads.
    pub kv_heads: usize,
    /// Tokens of each.
    pub tokens: usize,
    /// Query heads of a key head; 1 where nothing of query heads is asked.
    pub group: usize,
    /// Channels of a key, or of a value where that is asked.
    pub dim: usize,
    /// Queries of a query head, or rows of its projection.
    pub asked: usize,
}

impl LeafProblem {
    /// From the shapes of what is observed.
    ///
    /// # Errors
    /// [`CoreError::ShapeMismatch`], [`CoreError::Geometry`] for heads that do not group evenly and for blocks, spans
    /// and smoothing windows of no tokens, [`CoreError::Count`] for what is missing, and for other queries than the
    /// leaf asks, [`CoreError::DTypeMismatch`].
    pub fn new(leaf: &ScoreLeaf, shapes: &ObservedShapes<'_>) -> Result<Self, CoreError> {
        let &[kv_heads, tokens] = shapes.rows else {
            let (expected, got) = ([0, 0].into(), shapes.rows.into());
            return Err(CoreError::ShapeMismatch { what: "rows", expected, got });
        };
        let pool = if leaf.is_of_values() { shapes.v } else { shapes.k };
        let dim = pool.last().copied().unwrap_or(0);
        let mut problem = Self { kv_heads, tokens, group: 1, dim, asked: 0 };
        let f32_only = |what, (shape, got): (_, DType)| match got {
            DType::F32 => Ok(shape),
            got => Err(CoreError::DTypeMismatch { what, expected: DType::F32, got }),
        };
        let missing = |what, expected| CoreError::Count { what, expected, got: 0 };
        match *leaf {
            ScoreLeaf::AttentionSums => {
                let what = "sums of attention";
                let shape: &[usize] = f32_only(what, shapes.sums.ok_or(missing(what, 1))?)?;
                problem.group = shape.last().copied().unwrap_or(0);
            }
            ScoreLeaf::ProjectedValueNorm => {
                let what = "the output projection";
                let shape = f32_only(what, shapes.projection.ok_or(missing(what, 1))?)?;
                problem.group_of(what, shape)?;
            }
            ScoreLeaf::FrameSaliency | ScoreLeaf::FrameGate { .. } => {
                let got = shapes.raw_keys.ok_or(missing("keys before the rotation", 1))?;
                let expected = [tokens, kv_heads, dim];
                if got != expected {
                    let (what, expected) = ("keys before the rotation", expected.into());
                    return Err(CoreError::ShapeMismatch { what, expected, got: got.into() });
                }
                let got = shapes.grid.ok_or(missing("tokens of a grid", tokens))?;
                if got != tokens {
                    return Err(CoreError::Count { what: "tokens of a grid", expected: tokens, got });
                }
            }
            ScoreLeaf::KeySpread { size, .. } | ScoreLeaf::ValueSpread { size, .. } => {
                checks::setting(size > 0, "size", size, "must be at least 1")?;
            }
            ScoreLeaf::SpanAttention { span, best, .. } => {
                checks::setting(span > 0, "span", span, "must be at least 1")?;
                checks::setting(best > 0, "best", best, "must be at least 1")?;
            }
            ScoreLeaf::WindowAttention { smoothing, .. } | ScoreLeaf::ProbeAttention { smoothing } => {
                let size = smoothing.size();
                checks::setting(!size.is_multiple_of(2), "smoothing", size, "must be odd")?;
            }
            _ => {}
        }
        let asked = match leaf.queries() {
            LeafQueries::None => return Ok(problem),
            LeafQueries::Last(count) => Some(count),
            LeafQueries::Sampled(count) => Some(count.min(tokens)),
            LeafQueries::Probes | LeafQueries::Raw { .. } => None,
        };
        let shape = shapes.queries.ok_or(missing("queries", asked.unwrap_or(1)))?;
        problem.group_of("queries", shape)?;
        if asked.is_some_and(|count| count != problem.asked) {
            let expected: Shape = [kv_heads, asked.unwrap_or(0), dim].as_slice().into();
            let (what, got) = ("queries", shape.into());
            return Err(CoreError::ShapeMismatch { what, expected: expected.as_slice().into(), got });
        }
        match leaf.queries() {
            LeafQueries::Last(count) => {
                let within = count <= tokens;
                checks::setting(within, "queries", count, "must be at most the tokens there are")?;
            }
            LeafQueries::Probes => {
                let got = shapes.probe_keys.ok_or(missing("keys of probes", 1))?;
                let expected = [kv_heads, problem.asked, dim];
                if got != expected {
                    let (what, expected) = ("keys of probes", expected.into());
                    return Err(CoreError::ShapeMismatch { what, expected, got: got.into() });
                }
            }
            LeafQueries::Raw { .. } => {
                let got = shapes.rotation.ok_or(missing("channels of a rotation", dim))?;
                if got != dim {
                    let what = "channels of a rotation";
                    return Err(CoreError::Count { what, expected: dim, got });
                }
            }
            LeafQueries::None | LeafQueries::Sampled(_) => {}
        }
        Ok(problem)
    }

    /// Takes the group, and what is asked of each query head, from the shape `[query_heads, n, dim]` of what every
    /// query head has.
    fn group_of(&mut self, what: &'static str, shape: &[usize]) -> Result<(), CoreError> {
        let (heads, asked) = match *shape {
            [heads, n, dim] if dim == self.dim && n > 0 => (heads, n),
            _ => {
                let expected = [self.kv_heads, 1, self.dim].into();
                return Err(CoreError::ShapeMismatch { what, expected, got: shape.into() });
            }
        };
        let even = self.kv_heads > 0 && heads > 0 && heads.is_multiple_of(self.kv_heads);
        checks::setting(even, "query_heads", heads, "must be a multiple of kv_heads")?;
        (self.group, self.asked) = (heads / self.kv_heads, asked);
        Ok(())
    }
}
