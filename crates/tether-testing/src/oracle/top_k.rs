//! Selection by sorting.

/// The `k` best columns of each row, ascending: the lower column of equal scores, -0 as 0, NaN last.
pub fn sorted_top_k(scores: &[f32], columns: usize, k: usize) -> Vec<u32> {
    if columns == 0 {
        return Vec::new();
    }
    let rows = scores.chunks_exact(columns).flat_map(|row| {
        let mut order: Vec<u32> = (0..columns as u32).collect();
        let score = |i: u32| row[i as usize];
        order.sort_by(|&a, &b| {
            let (a, b) = (score(a), score(b));
            a.is_nan().cmp(&b.is_nan()).then(b.partial_cmp(&a).unwrap_or(std::cmp::Ordering::Equal))
        });
        order.truncate(k);
        order.sort_unstable();
        order
    });
    rows.collect()
}
