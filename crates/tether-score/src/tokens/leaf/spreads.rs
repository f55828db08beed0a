//! How rows of a block spread, in units of the next block.

/// Of `rows`, `[heads, tokens, dim]`, the softmax over each block of `size` tokens after the first `first` that has a
/// next one: `[heads, blocks * size]`.
pub(super) fn of_heads(
    rows: &[f32],
    (tokens, dim): (usize, usize),
    (first, size): (usize, usize),
) -> Vec<f32> {
    let heads = rows.chunks_exact((tokens * dim).max(1));
    heads.flat_map(|head| of_blocks(&head[first.min(tokens) * dim..], dim, size)).collect()
}

fn of_blocks(rows: &[f32], dim: usize, size: usize) -> Vec<f32> {
    let blocks: Vec<&[f32]> = rows.chunks_exact(size * dim).collect();
    let mut scores = Vec::with_capacity(rows.len() / dim.max(1));
    for pair in blocks.windows(2) {
        let (own, next) = (pair[0], pair[1]);
        let mut low = next[..dim].to_vec();
        let mut high = low.clone();
        for row in next.chunks_exact(dim) {
            low.iter_mut().zip(row).for_each(|(l, &x)| *l = l.min(x));
            high.iter_mut().zip(row).for_each(|(h, &x)| *h = h.max(x));
        }
        let spread = |row: &[f32]| {
            let scaled = |c: usize| {
                let range = f64::from(high[c]) - f64::from(low[c]);
                // A channel that does not vary says nothing.
                if range > 0.0 { (f64::from(row[c]) - f64::from(low[c])) / range } else { 0.0 }
            };
            let mean = (0..dim).map(scaled).sum::<f64>() / dim as f64;
            let squares = (0..dim).map(|c| (scaled(c) - mean).powi(2)).sum::<f64>();
            (squares / (dim as f64 - 1.0).max(1.0)).sqrt()
        };
        let spreads: Vec<f64> = own.chunks_exact(dim).map(spread).collect();
        let highest = spreads.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = spreads.iter().map(|s| (s - highest).exp()).sum();
        scores.extend(spreads.iter().map(|s| ((s - highest).exp() / total) as f32));
    }
    scores
}
