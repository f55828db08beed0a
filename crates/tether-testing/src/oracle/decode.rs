//! Paged attention.

use tether_core::{AttendOptions, BlockTables, DecodeProblem, EMPTY_LSE};

/// Output `[sequences, query_heads, head_dim_v]` and log-sum-exp `[sequences, query_heads]`.
pub fn literal_decode(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    problem: &DecodeProblem,
    tables: &BlockTables<'_>,
    scale: f32,
) -> (Vec<f32>, Vec<f32>) {
    literal_attention([q, k, v], problem, tables, None, &AttendOptions::scaled(scale))
}

/// [`literal_decode`] with options. Positions are those of the pool's rows and of the queries' tokens.
pub fn literal_attention(
    [q, k, v]: [&[f32]; 3],
    problem: &DecodeProblem,
    tables: &BlockTables<'_>,
    positions: Option<(&[i32], &[i32])>,
    options: &AttendOptions,
) -> (Vec<f32>, Vec<f32>) {
    let &DecodeProblem { sequences, head_dim_k, head_dim_v, page_size, page_heads, .. } = problem;
    let (mut out, mut lse) = (Vec::new(), Vec::new());
    for sequence in 0..sequences {
        for head in 0..problem.query_heads() {
            let kv_head = head / problem.group;
            let list = kv_head / page_heads * sequences + sequence;
            let pages = &tables.pages[tables.indptr[list] as usize..];
            let length = tables.lengths[list] as usize;
            let query_position =
                positions.map_or(length as i64 - 1, |(_, tokens)| i64::from(tokens[sequence]));
            // Of each token that is seen, its row and how far before the query it is.
            let seen: Vec<(usize, i64)> = (0..length)
                .map(|token| {
                    let slot = pages[token / page_size] as usize * page_size + token % page_size;
                    let row = slot * page_heads + kv_head % page_heads;
                    let position = positions.map_or(token as i64, |(rows, _)| i64::from(rows[row]));
                    (row, query_position - position)
                })
                .filter(|&(_, before)| options.window.is_none_or(|window| before < i64::from(window)))
                .collect();
            let sink = options.sinks.get(head).map(|&sink| f64::from(sink));
            if seen.is_empty() && sink.is_none() {
                out.extend(vec![0.0; head_dim_v]);
                lse.push(EMPTY_LSE);
                continue;
            }
            let query = &q[(sequence * problem.query_heads() + head) * head_dim_k..][..head_dim_k];
            let logit = |&(row, before): &(usize, i64)| {
                let key = &k[row * head_dim_k..][..head_dim_k];
                let dot: f64 = query.iter().zip(key).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                let scaled = dot * f64::from(options.scale);
                let capped =
                    options.softcap.map_or(scaled, |cap| f64::from(cap) * (scaled / f64::from(cap)).tanh());
                capped - options.alibi.get(head).map_or(0.0, |&slope| f64::from(slope) * before as f64)
            };
            let logits: Vec<f64> = seen.iter().map(logit).collect();
            let highest = logits.iter().copied().chain(sink).fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = logits.iter().copied().chain(sink).map(|l| (l - highest).exp()).sum();
            let mut sum = vec![0f64; head_dim_v];
            for (&(row, _), logit) in seen.iter().zip(&logits) {
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
