//! Exact selection by an order of integers.

use rayon::prelude::*;

use tether_core::TopKProblem;

/// The best `k` columns of each row, ascending. There is no NaN.
pub(super) fn select(problem: &TopKProblem, scores: &[f32], parallel: bool) -> Vec<u32> {
    if problem.k == 0 || problem.rows == 0 {
        return Vec::new();
    }
    let of_row = |row: &[f32]| select_row(row, problem.k);
    let rows: Vec<Vec<u32>> = if parallel {
        scores.par_chunks_exact(problem.columns).map(of_row).collect()
    } else {
        scores.chunks_exact(problem.columns).map(of_row).collect()
    };
    rows.concat()
}

fn select_row(row: &[f32], k: usize) -> Vec<u32> {
    // Score before column, better before worse: one total order, so that any partition finds the same set.
    let mut order: Vec<u64> =
        row.iter().enumerate().map(|(column, &x)| u64::from(!ascending(x)) << 32 | column as u64).collect();
    if k < order.len() {
        order.select_nth_unstable(k - 1);
        order.truncate(k);
    }
    let mut columns: Vec<u32> = order.into_iter().map(|x| x as u32).collect();
    columns.sort_unstable();
    columns
}

/// Integers that compare as the numbers do, with -0 equal to 0.
fn ascending(x: f32) -> u32 {
    let bits = (x + 0.0).to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

#[cfg(test)]
mod tests {
    use super::ascending;

    #[test]
    fn integers_compare_as_numbers_do() {
        let numbers = [
            f32::NEG_INFINITY,
            f32::MIN,
            -1.5,
            -f32::MIN_POSITIVE,
            -1e-45,
            0.0,
            1e-45,
            1e-8,
            1.0,
            f32::MAX,
            f32::INFINITY,
        ];
        assert!(numbers.is_sorted_by(|&a, &b| ascending(a) < ascending(b)));
        assert_eq!(ascending(-0.0), ascending(0.0));
    }
}
