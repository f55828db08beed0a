//! Leaves of score expressions.

use tether_core::{MeanRotation, Pool, ScoreLeaf, TokenGrid, WindowProblem, WindowSpec};

use super::literal_window_scores;

/// A layer of which leaves are made: arrays of each head in turn, `[heads, n, dim]`.
#[derive(Clone, Debug)]
pub struct ObservedText<'a> {
    /// Key heads.
    pub heads: usize,
    /// Query heads of a key head.
    pub group: usize,
    /// Tokens of a key head.
    pub tokens: usize,
    /// Channels of a key and of a value.
    pub dims: (usize, usize),
    /// Keys.
    pub keys: &'a [f32],
    /// Values.
    pub values: &'a [f32],
    /// Sums of attention, `[heads, tokens, group]`.
    pub sums: &'a [f32],
    /// Queries that are asked, of each query head.
    pub queries: &'a [f32],
    /// Keys of probes, as many as there are queries.
    pub probe_keys: &'a [f32],
    /// How queries to come are rotated.
    pub rotation: &'a MeanRotation,
    /// The output projection of each query head, `[heads * group, hidden, dims.1]`.
    pub projection: &'a [f32],
    /// Keys before the rotation, `[tokens, heads, dims.0]`.
    pub raw_keys: &'a [f32],
    /// Where tokens stand in frames.
    pub grid: &'a TokenGrid,
    /// Multiplies logits.
    pub scale: f32,
}

/// Rows of `dim` channels, as `f64`.
fn rows(x: &[f32], dim: usize) -> Vec<Vec<f64>> {
    x.chunks_exact(dim).map(|row| row.iter().map(|&x| x.into()).collect()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn length(row: &[f64]) -> f64 {
    dot(row, row).sqrt()
}

fn mean_row(rows: &[Vec<f64>]) -> Vec<f64> {
    let of_channel = |c: usize| rows.iter().map(|row| row[c]).sum::<f64>() / rows.len() as f64;
    (0..rows.first().map_or(0, Vec::len)).map(of_channel).collect()
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = logits.iter().map(|l| (l - highest).exp()).sum();
    logits.iter().map(|l| (l - highest).exp() / total).collect()
}

/// The means of rows of equal length, element by element.
fn mean_of(all: &[Vec<f64>]) -> Vec<f64> {
    (0..all[0].len()).map(|i| all.iter().map(|row| row[i]).sum::<f64>() / all.len() as f64).collect()
}

impl ObservedText<'_> {
    fn keys_of(&self, head: usize) -> Vec<Vec<f64>> {
        let of_head = self.tokens * self.dims.0;
        rows(&self.keys[head * of_head..][..of_head], self.dims.0)
    }

    fn values_of(&self, head: usize) -> Vec<Vec<f64>> {
        let of_head = self.tokens * self.dims.1;
        rows(&self.values[head * of_head..][..of_head], self.dims.1)
    }

    /// The queries of a key head's query heads, each for itself.
    fn queries_of(&self, head: usize) -> Vec<Vec<Vec<f64>>> {
        let all = rows(self.queries, self.dims.0);
        let asked = all.len() / (self.heads * self.group);
        (0..self.group).map(|g| all[(head * self.group + g) * asked..][..asked].to_vec()).collect()
    }

    /// Weights of a query over the first `seen` of `keys`; none of the others.
    fn weights(&self, query: &[f64], keys: &[Vec<f64>], seen: usize) -> Vec<f64> {
        let logits: Vec<f64> =
            keys[..seen].iter().map(|key| dot(query, key) * f64::from(self.scale)).collect();
        let mut weights = softmax(&logits);
        weights.resize(keys.len(), 0.0);
        weights
    }

    fn window(&self, keys: &[f32], tokens: usize, smoothing: Pool) -> Vec<f32> {
        let spec = WindowSpec { scale: self.scale, pool: smoothing };
        let asked = self.queries.len() / (self.heads * self.group * self.dims.0);
        let shapes = [[self.heads * self.group, asked, self.dims.0], [self.heads, tokens, self.dims.0]];
        let problem = WindowProblem::new(&shapes[0], &shapes[1], &spec).expect("they fit");
        literal_window_scores(self.queries, keys, &problem, &spec)
    }
}

/// What a leaf says of a layer, in the order of its definition: `[heads, columns]`.
pub fn literal_leaf(leaf: &ScoreLeaf, text: &ObservedText<'_>) -> Vec<f32> {
    match *leaf {
        ScoreLeaf::WindowAttention { smoothing, .. } => text.window(text.keys, text.tokens, smoothing),
        ScoreLeaf::ProbeAttention { smoothing } => {
            let (dim, probes) = (text.dims.0, text.probe_keys.len() / (text.heads * text.dims.0));
            let own = text.keys.chunks_exact(text.tokens * dim);
            let both = own.zip(text.probe_keys.chunks_exact(probes * dim));
            let both: Vec<f32> = both.flat_map(|(own, after)| [own, after].concat()).collect();
            let means = text.window(&both, text.tokens + probes, smoothing);
            means.into_iter().map(|mean| mean * probes as f32).collect()
        }
        ScoreLeaf::FrameSaliency => saliency(text).repeat(text.heads),
        ScoreLeaf::FrameGate { kept } => gate(text, kept).repeat(text.heads),
        _ => {
            let of_head = |head| of_head(leaf, text, head).into_iter().map(|x| x as f32);
            (0..text.heads).flat_map(of_head).collect()
        }
    }
}

fn of_head(leaf: &ScoreLeaf, text: &ObservedText<'_>, head: usize) -> Vec<f64> {
    let (keys, tokens) = (text.keys_of(head), text.tokens);
    match *leaf {
        ScoreLeaf::AttentionSums => {
            let of_head = &text.sums[head * tokens * text.group..][..tokens * text.group];
            rows(of_head, text.group).iter().map(|row| row.iter().sum::<f64>() / row.len() as f64).collect()
        }
        ScoreLeaf::KeyNorm => keys.iter().map(|key| length(key)).collect(),
        ScoreLeaf::ValueNorm => text.values_of(head).iter().map(|value| length(value)).collect(),
        ScoreLeaf::KeyMeanCosine => {
            let scaled = |key: &Vec<f64>| key.iter().map(|x| x / length(key).max(1e-12)).collect();
            let mean = mean_row(&keys.iter().map(scaled).collect::<Vec<_>>());
            keys.iter().map(|key| cosine(key, &mean)).collect()
        }
        ScoreLeaf::KeyRedundancy { newest } => {
            let keys = &keys[..tokens - newest];
            let others = |i: usize| {
                let cosines = (0..keys.len()).filter(|&j| j != i).map(|j| cosine(&keys[i], &keys[j]));
                cosines.sum::<f64>() / keys.len() as f64
            };
            (0..keys.len()).map(others).collect()
        }
        ScoreLeaf::MeanLogit { .. } => {
            let mean = mean_row(&text.queries_of(head).concat());
            keys.iter().map(|key| dot(key, &mean) * f64::from(text.scale)).collect()
        }
        ScoreLeaf::SampledAttention { queries } => {
            let places: Vec<usize> = ScoreLeaf::sampled_tokens(queries, tokens).collect();
            let of_query_head = |queries: Vec<Vec<f64>>| {
                let rows = queries.iter().zip(&places).map(|(q, place)| text.weights(q, &keys, place + 1));
                mean_of(&rows.collect::<Vec<_>>())
            };
            mean_of(&text.queries_of(head).into_iter().map(of_query_head).collect::<Vec<_>>())
        }
        ScoreLeaf::LargestAttention { queries } => {
            let keys = &keys[..tokens - queries];
            let of_heads = text.queries_of(head);
            let of_query = |i: usize| {
                let logit = |key: &Vec<f64>| {
                    let of_each = of_heads.iter().map(|queries| dot(&queries[i], key));
                    of_each.fold(f64::NEG_INFINITY, f64::max) * f64::from(text.scale)
                };
                softmax(&keys.iter().map(logit).collect::<Vec<_>>())
            };
            mean_of(&(0..queries).map(of_query).collect::<Vec<_>>())
        }
        ScoreLeaf::SpanAttention { queries, span, best } => {
            let before = tokens - queries;
            let of_query_head = |asked: Vec<Vec<f64>>| {
                let rows = asked.iter().zip(before + 1..).map(|(q, seen)| text.weights(q, &keys, seen));
                let mut means = mean_of(&rows.collect::<Vec<_>>());
                means.truncate(before);
                let worth = |span: &[f64]| {
                    let mut span = span.to_vec();
                    span.sort_by(|a, b| b.total_cmp(a));
                    span.truncate(best);
                    span.iter().sum::<f64>() / span.len() as f64
                };
                means.chunks(span).map(worth).collect::<Vec<_>>()
            };
            mean_of(&text.queries_of(head).into_iter().map(of_query_head).collect::<Vec<_>>())
        }
        ScoreLeaf::ExpectedAttention { sink, covariance, .. } => {
            let scale = f64::from(text.scale);
            let of_query_head = |queries: Vec<Vec<f64>>| {
                let mean = mean_row(&queries);
                // The variance of the rotated queries' products with a key, straight from the definition.
                let rotated_mean = text.rotation.vector(&mean);
                let spread = |key: &Vec<f64>| {
                    let apart = |query: &Vec<f64>| {
                        let centred: Vec<f64> = query.iter().zip(&mean).map(|(q, m)| q - m).collect();
                        dot(&text.rotation.vector(&centred), key).powi(2)
                    };
                    queries.iter().map(apart).sum::<f64>() / queries.len() as f64
                };
                let logit = |key: &Vec<f64>| {
                    let spread = if covariance { spread(key) } else { 0.0 };
                    dot(&rotated_mean, key) * scale + spread * scale * scale / 2.0
                };
                softmax(&keys[sink..].iter().map(logit).collect::<Vec<_>>())
            };
            mean_of(&text.queries_of(head).into_iter().map(of_query_head).collect::<Vec<_>>())
        }
        ScoreLeaf::ProjectedValueNorm => {
            let projection = rows(text.projection, text.dims.1);
            let hidden = projection.len() / (text.heads * text.group);
            let norm = |value: &Vec<f64>| {
                let of_group = &projection[head * text.group * hidden..][..text.group * hidden];
                of_group.iter().map(|row| dot(row, value).abs()).sum::<f64>() / text.group as f64
            };
            text.values_of(head).iter().map(norm).collect()
        }
        ScoreLeaf::KeySpread { first, size } => spreads(&keys[first..], size),
        ScoreLeaf::ValueSpread { first, size } => spreads(&text.values_of(head)[first..], size),
        _ => panic!("a leaf without an oracle: {leaf:?}"),
    }
}

fn spreads(rows: &[Vec<f64>], size: usize) -> Vec<f64> {
    let blocks: Vec<&[Vec<f64>]> = rows.chunks_exact(size).collect();
    let of_pair = |pair: &[&[Vec<f64>]]| {
        let column = |c: usize| pair[1].iter().map(move |row| row[c]);
        let spread = |row: &Vec<f64>| {
            let scaled = |(c, x): (usize, &f64)| {
                let low = column(c).fold(f64::INFINITY, f64::min);
                let range = column(c).fold(f64::NEG_INFINITY, f64::max) - low;
                if range > 0.0 { (x - low) / range } else { 0.0 }
            };
            let scaled: Vec<f64> = row.iter().enumerate().map(scaled).collect();
            let mean = scaled.iter().sum::<f64>() / scaled.len() as f64;
            let squares: f64 = scaled.iter().map(|x| (x - mean).powi(2)).sum();
            (squares / (scaled.len() as f64 - 1.0).max(1.0)).sqrt()
        };
        softmax(&pair[0].iter().map(spread).collect::<Vec<_>>())
    };
    blocks.windows(2).flat_map(of_pair).collect()
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    dot(a, b) / (length(a).max(1e-12) * length(b).max(1e-12))
}

fn saliency(text: &ObservedText<'_>) -> Vec<f32> {
    let keys = rows(text.raw_keys, text.heads * text.dims.0);
    let of_token = |token: usize| {
        let around = text.grid.neighbours[token].iter().filter(|&&other| other as usize != token);
        let likeness: Vec<f64> = around.map(|&other| cosine(&keys[token], &keys[other as usize])).collect();
        match likeness.len() {
            0 => 0.0,
            count => (1.0 - likeness.iter().sum::<f64>() / count as f64) as f32,
        }
    };
    (0..text.tokens).map(of_token).collect()
}

fn gate(text: &ObservedText<'_>, kept: usize) -> Vec<f32> {
    let keys = rows(text.raw_keys, text.heads * text.dims.0);
    let TokenGrid { newest, older, .. } = text.grid;
    let mut open = vec![1.0; text.tokens];
    if older.len() <= kept || newest.is_empty() {
        return open;
    }
    let nearest = |&token: &u32| {
        let like = |&other: &u32| cosine(&keys[token as usize], &keys[other as usize]);
        newest.iter().map(like).fold(f64::NEG_INFINITY, f64::max)
    };
    let nearest: Vec<f64> = older.iter().map(nearest).collect();
    let mut sorted = nearest.clone();
    sorted.sort_by(f64::total_cmp);
    let limit = sorted[kept.max(1) - 1];
    older.iter().zip(nearest).filter(|(_, n)| *n > limit).for_each(|(&t, _)| open[t as usize] = 0.0);
    open
}
