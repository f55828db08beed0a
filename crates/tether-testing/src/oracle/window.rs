//! Observation-window scores.

use tether_core::{Pool, WindowProblem, WindowSpec};

/// `[kv_heads, prefix]`, in the order of the definition: softmax, mean over the window, smoothing, mean over the group.
pub fn literal_window_scores(q: &[f32], k: &[f32], problem: &WindowProblem, spec: &WindowSpec) -> Vec<f32> {
    let &WindowProblem { window, tokens, kv_heads, group, head_dim } = problem;
    let prefix = tokens - window;
    let mut scores = vec![0f64; kv_heads * prefix];
    for head in 0..kv_heads * group {
        let mut mean = vec![0f64; prefix];
        for place in 0..window {
            let query = &q[(head * window + place) * head_dim..][..head_dim];
            let logits: Vec<f64> = (0..=prefix + place)
                .map(|token| {
                    let key = &k[(head / group * tokens + token) * head_dim..][..head_dim];
                    let dot: f64 = query.iter().zip(key).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    dot * f64::from(spec.scale)
                })
                .collect();
            let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = logits.iter().map(|l| (l - highest).exp()).sum();
            mean.iter_mut().zip(&logits).for_each(|(m, l)| *m += (l - highest).exp() / total / window as f64);
        }
        for token in 0..prefix {
            let reach = spec.pool.size() / 2;
            let around = mean[token.saturating_sub(reach)..=(token + reach).min(prefix - 1)].iter();
            let smoothed = match spec.pool {
                Pool::None => mean[token],
                Pool::Mean(size) => around.sum::<f64>() / size as f64,
                Pool::Max(_) => around.copied().fold(f64::NEG_INFINITY, f64::max),
            };
            scores[head / group * prefix + token] += smoothed / group as f64;
        }
    }
    scores.into_iter().map(|x| x as f32).collect()
}
