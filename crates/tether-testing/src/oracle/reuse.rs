//! Measuring and correcting for step reuse.

use tether_reuse::{Grid, Reduction};

fn sum(values: impl Iterator<Item = f64>) -> f64 {
    values.sum()
}

fn wide(x: &[f32]) -> impl Iterator<Item = f64> {
    x.iter().map(|&x| f64::from(x))
}

fn apart(a: &[f32], b: &[f32]) -> f64 {
    sum(wide(a).zip(wide(b)).map(|(a, b)| (a - b).abs()))
}

fn magnitude(a: &[f32]) -> f64 {
    sum(wide(a).map(f64::abs))
}

fn length(a: &[f32]) -> f64 {
    sum(wide(a).map(|x| x * x)).sqrt()
}

/// `a / b`, 0 for nothing over nothing.
fn share(a: f64, b: f64) -> f64 {
    if a == 0.0 { 0.0 } else { a / b }
}

/// A signal, by its definition.
pub fn literal_signal(reduction: &Reduction<'_, [f32]>, grid: Grid) -> f64 {
    match *reduction {
        Reduction::MeanAbs(a) => share(magnitude(a), a.len() as f64),
        Reduction::MeanAbsDiff(a, b) => share(apart(a, b), a.len() as f64),
        Reduction::RelL1(a, b) => share(apart(a, b), magnitude(b)),
        Reduction::TokenRatio(a, b) => {
            let width = a.len() / grid.tokens;
            let tokens = (0..grid.tokens).map(|t| t * width..(t + 1) * width);
            sum(tokens.map(|t| share(length(&a[t.clone()]), length(&b[t])))) / grid.tokens as f64
        }
        Reduction::FrameMotion(a) => {
            let width = a.len() / grid.frames;
            let (later, earlier) = (&a[width..], &a[..a.len() - width]);
            share(apart(later, earlier), magnitude(later) + magnitude(earlier))
        }
    }
}

/// The rungs of a ladder after `value` has entered it, of which `known` held something: `D0' = value`, `D(j+1)' = (Dj' - Dj) / gap`. A rung that
/// is not reached is `None`.
pub fn literal_ladder(value: &[f32], ladder: &[Vec<f32>], known: usize, gap: f64) -> Vec<Option<Vec<f64>>> {
    let mut new: Vec<f64> = wide(value).collect();
    let mut all = Vec::new();
    for (j, old) in ladder.iter().enumerate() {
        all.push((j <= known).then(|| new.clone()));
        new = new.iter().zip(wide(old)).map(|(new, old)| (new - old) / gap).collect();
    }
    all
}

/// `(1 - a) (base + sum_j w_j t_j) - b`.
pub fn literal_combination(
    base: Option<&[f32]>,
    terms: &[(f32, &[f32])],
    affine: Option<(&[f32], &[f32])>,
    elements: usize,
) -> Vec<f64> {
    let element = |i: usize| {
        let of = |x: &[f32]| f64::from(x[i % x.len()]);
        let y = base.map_or(0.0, of) + sum(terms.iter().map(|(w, t)| f64::from(*w) * of(t)));
        affine.map_or(y, |(a, b)| (1.0 - of(a)) * y - of(b))
    };
    (0..elements).map(element).collect()
}
