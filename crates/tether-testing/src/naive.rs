//! TetherCache the obvious way: one buffer per region, frames copied about, every statistic from the tokens themselves.

use crate::{literal_mean_logits, token_moments};

/// Sizes in frames, and strengths.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NaiveSettings {
    /// Sink frames.
    pub sink: usize,
    /// Memory frames.
    pub memory: usize,
    /// Recent frames, the current chunk included.
    pub recent: usize,
    /// Frames of a chunk.
    pub chunk: usize,
    /// Heads (of queries and keys alike).
    pub heads: usize,
    /// Channels of a head.
    pub dim: usize,
    /// Weight of the diversity term.
    pub alpha: f64,
    /// Strength of the alignment.
    pub tau: f64,
    /// Softmax temperature.
    pub temperature: f64,
}

#[derive(Clone, Debug, PartialEq)]
struct Frame {
    index: u64,
    k: Vec<f32>,
    v: Vec<f32>,
}

/// What a clean pass decided.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NaiveStep {
    /// Scores of memory members and evicted frames, empty when nothing had to be chosen.
    pub scores: Vec<f64>,
    /// Distance between the lowest score kept and the highest dropped: a smaller one than the arithmetic's error decides nothing.
    pub gap: f64,
    /// Candidates kept, ascending.
    pub keep: Vec<usize>,
}

/// One layer and sequence. Frames are moved between vectors, as a reader of the paper would do it.
#[derive(Clone, Debug)]
pub struct NaiveCache {
    settings: NaiveSettings,
    frames: Vec<Frame>,
    memory: Vec<Frame>,
    pending: Vec<Frame>,
    full: bool,
}

impl NaiveCache {
    /// An empty cache.
    pub fn new(settings: NaiveSettings) -> Self {
        Self { settings, frames: Vec::new(), memory: Vec::new(), pending: Vec::new(), full: false }
    }

    fn capacity(&self) -> usize {
        self.settings.sink + self.settings.memory + self.settings.recent
    }

    /// A pass over chunk `chunk`: `k` and `v` hold its frames. A new chunk makes room first.
    pub fn write(&mut self, chunk: u64, k: &[f32], v: &[f32]) {
        let s = self.settings;
        let first = chunk * s.chunk as u64;
        let begun = self.frames.iter().any(|f| f.index == first);
        if begun {
            self.frames.truncate(self.frames.len() - s.chunk);
        } else if self.frames.len() + self.memory.len() + s.chunk > self.capacity() {
            if !self.full {
                self.memory = self.frames.drain(s.sink..s.sink + s.memory).collect();
                self.full = true;
            }
            self.pending = self.frames.drain(s.sink..s.sink + s.chunk).collect();
        }
        let len = k.len() / s.chunk;
        for (i, (k, v)) in k.chunks_exact(len).zip(v.chunks_exact(v.len() / s.chunk)).enumerate() {
            self.frames.push(Frame { index: first + i as u64, k: k.to_vec(), v: v.to_vec() });
        }
    }

    /// The clean pass's recall with queries `q`. `decide` may replace the choice, for scores that are too close to call.
    pub fn recall(&mut self, q: &[f32], decide: impl FnOnce(&NaiveStep) -> Vec<usize>) -> NaiveStep {
        let s = self.settings;
        if self.pending.is_empty() || s.memory == 0 {
            self.pending.clear();
            return NaiveStep::default();
        }
        let candidates: Vec<Frame> = self.memory.iter().chain(&self.pending).cloned().collect();
        let keys: Vec<&[f32]> = candidates.iter().map(|f| f.k.as_slice()).collect();
        let logits = literal_mean_logits(q, &keys, s.heads, s.heads, s.dim);
        let weights: Vec<f64> = logits.iter().map(|l| (l / s.temperature).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mass: Vec<f64> = weights.iter().map(|w| w / total).collect();
        let index: Vec<f64> = candidates.iter().map(|f| f.index as f64).collect();
        let extent =
            index.iter().fold(0f64, |m, &i| m.max(i)) - index.iter().fold(f64::MAX, |m, &i| m.min(i)) + 1.0;
        let sigma = (0.5 * extent).max(1.0);
        let mut step = NaiveStep::default();
        for i in 0..index.len() {
            let others = (0..index.len()).filter(|&j| j != i);
            let redundancy =
                others.map(|j| (-(index[i] - index[j]).abs() / sigma).exp() * mass[j]).fold(0.0, f64::max);
            step.scores.push(mass[i] + s.alpha * (1.0 - redundancy).max(0.0));
        }
        let mut order: Vec<usize> = (0..step.scores.len()).collect();
        order.sort_by(|&a, &b| step.scores[b].total_cmp(&step.scores[a]));
        step.gap = order
            .get(s.memory)
            .map_or(f64::MAX, |&next| step.scores[order[s.memory - 1]] - step.scores[next]);
        step.keep = order[..s.memory].to_vec();
        step.keep.sort_unstable();
        step.keep = decide(&step);
        let trusted: Vec<&Frame> = self.frames[..s.sink].iter().chain(&self.memory).collect();
        let pool = |side: fn(&Frame) -> &Vec<f32>| -> Vec<f32> {
            trusted.iter().copied().flat_map(side).copied().collect()
        };
        let (pool_k, pool_v) = (pool(|f| &f.k), pool(|f| &f.v));
        let members = self.memory.len();
        self.memory = step
            .keep
            .iter()
            .map(|&i| {
                let mut frame = candidates[i].clone();
                if i >= members {
                    self.align(&mut frame.k, &pool_k);
                    self.align(&mut frame.v, &pool_v);
                }
                frame
            })
            .collect();
        self.pending.clear();
        step
    }

    fn align(&self, tokens: &mut [f32], trusted: &[f32]) {
        let channels = self.settings.heads * self.settings.dim;
        let tau = self.settings.tau;
        let (mean, m2) = token_moments(tokens, channels);
        let (target_mean, target_m2) = token_moments(trusted, channels);
        let sd = |m2: f64, len: usize| (m2 / (len / channels) as f64).sqrt().max(1e-6);
        let len = tokens.len();
        for (i, x) in tokens.iter_mut().enumerate() {
            let c = i % channels;
            let z = (f64::from(*x) - mean[c]) / sd(m2[c], len);
            let pulled = z * sd(target_m2[c], trusted.len()) + target_mean[c];
            *x = ((1.0 - tau) * f64::from(*x) + tau * pulled) as f32;
        }
    }

    /// Global indices of the memory frames.
    pub fn memory_indices(&self) -> Vec<u64> {
        self.memory.iter().map(|f| f.index).collect()
    }

    /// Global indices, keys and values of the window, sink to recent.
    pub fn window(&self) -> (Vec<u64>, Vec<f32>, Vec<f32>) {
        let (sink, rest) = self.frames.split_at(self.settings.sink.min(self.frames.len()));
        let frames = || sink.iter().chain(&self.memory).chain(rest);
        let flat = |side: fn(&Frame) -> &Vec<f32>| frames().flat_map(side).copied().collect();
        (frames().map(|f| f.index).collect(), flat(|f| &f.k), flat(|f| &f.v))
    }
}
