//! Paged attention.

use tether_core::{BlockTables, DecodeProblem, EMPTY_LSE};

/// Output `[sequences, query_heads, head_dim_v]` and log-sum-exp `[sequences, query_heads]`.
pub fn literal_decode(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    problem: &DecodeProblem,
    tables: &BlockTables<'_>,
    scale: f32,
) -> (Vec<f32>, Vec<f32>) {
    let &DecodeProblem { sequences, head_dim_k, head_dim_v, page_size, page_heads, .. } = problem;
    let (mut out, mut lse) = (Vec::new(), Vec::new());
    for sequence in 0..sequences {
        for head in 0..problem.query_heads() {
            let kv_head = head / problem.group;
            let list = kv_head / page_heads * sequences + sequence;
            let pages = &tables.pages[tables.indptr[list] as usize..];
            let rows: Vec<usize> = (0..tables.lengths[list] as usize)
                .map(|token| {
                    let slot = pages[token / page_size] as usize * page_size + token % page_size;
                    slot * page_heads + kv_head % page_heads
                })
                .collect();
            if rows.is_empty() {
                out.extend(vec![0.0; head_dim_v]);
                lse.push(EMPTY_LSE);
                continue;
            }
            let query = &q[(sequence * problem.query_heads() + head) * head_dim_k..][..head_dim_k];
            let logit = |row: usize| {
                let key = &k[row * head_dim_k..][..head_dim_k];
                let dot: f64 = query.iter().zip(key).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                dot * f64::from(scale)
            };
            let logits: Vec<f64> = rows.iter().map(|&row| logit(row)).collect();
            let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = logits.iter().map(|l| (l - highest).exp()).sum();
            let mut sum = vec![0f64; head_dim_v];
            for (row, logit) in rows.iter().zip(&logits) {
                let weight = (logit - highest).exp() / total;
                let value = &v[row * head_dim_v..][..head_dim_v];
                sum.iter_mut().zip(value).for_each(|(s, x)| *s += weight * f64::from(*x));
            }
            out.extend(sum.iter().map(|&x| x as f32));
            lse.push((highest + total.ln()) as f32);
        }
    }
    (out, lse)
}
