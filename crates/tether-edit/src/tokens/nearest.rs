//! Which of many rows is most like another one. Plain loops that a compiler makes vector code of: somebody who wants an editor need not
//! build a library of matrix products.

/// Rows that are multiplied with a panel together, and columns of a panel: their sums stay in registers.
const ROWS: usize = 4;
const COLUMNS: usize = 8;

/// The row of `others` with the largest inner product for each row of `rows`, the first of equal ones, and that product. Both are rows of
/// `dim` numbers, at least 1, and there is another.
pub(super) fn nearest(rows: &[f32], others: &[f32], dim: usize) -> Vec<(usize, f32)> {
    let mut best = vec![(0usize, f32::NEG_INFINITY); rows.len() / dim];
    let mut panel = vec![[0f32; COLUMNS]; dim];
    for (first, others) in (0..).step_by(COLUMNS).zip(others.chunks(COLUMNS * dim)) {
        for (column, other) in others.chunks_exact(dim).enumerate() {
            panel.iter_mut().zip(other).for_each(|(entry, &x)| entry[column] = x);
        }
        let columns = others.len() / dim;
        for (rows, best) in rows.chunks(ROWS * dim).zip(best.chunks_mut(ROWS)) {
            // The last rows may be fewer: one of them is then multiplied several times.
            let row = |i: usize| &rows[i.min(best.len() - 1) * dim..][..dim];
            let products = products([row(0), row(1), row(2), row(3)], &panel);
            for (best, products) in best.iter_mut().zip(products) {
                for (column, product) in products.into_iter().take(columns).enumerate() {
                    if product > best.1 {
                        *best = (first + column, product);
                    }
                }
            }
        }
    }
    best
}

/// Inner products of the rows with the columns of a panel `[dim]`.
fn products([a, b, c, d]: [&[f32]; ROWS], panel: &[[f32; COLUMNS]]) -> [[f32; COLUMNS]; ROWS] {
    let mut sums = [[0f32; COLUMNS]; ROWS];
    for ((((others, a), b), c), d) in panel.iter().zip(a).zip(b).zip(c).zip(d) {
        for (sums, x) in sums.iter_mut().zip([a, b, c, d]) {
            sums.iter_mut().zip(others).for_each(|(sum, other)| *sum += x * other);
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn agrees_with_the_definition() {
        for (count, many, dim) in [(1, 1, 1), (3, 2, 5), (4, 8, 16), (9, 17, 64), (6, 31, 128)] {
            let numbers = |len: usize, factor: usize| -> Vec<f32> {
                (0..len).map(|i| ((i * factor % 101) as f32 - 50.0) / 50.0).collect()
            };
            let (rows, others) = (numbers(count * dim, 37), numbers(many * dim, 53));
            let got = nearest(&rows, &others, dim);
            assert_eq!(got.len(), count);
            for (row, (index, product)) in rows.chunks_exact(dim).zip(got) {
                let dot = |other: &[f32]| -> f64 {
                    row.iter().zip(other).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
                };
                let most = others.chunks_exact(dim).map(dot).fold(f64::NEG_INFINITY, f64::max);
                assert!((f64::from(product) - most).abs() < 1e-5, "{product} for {most}");
                assert!((dot(&others[index * dim..][..dim]) - most).abs() < 1e-5, "row {index}");
            }
        }
    }

    #[test]
    fn the_first_of_equal_ones_is_taken() {
        let others: Vec<f32> = (0..20).map(|i| if i % 9 == 4 { 1.0 } else { 0.5 }).collect();
        assert_eq!(nearest(&[2.0, -1.0], &others, 1), [(4, 2.0), (0, -0.5)]);
    }
}
