//! The engine on host slices.

use smallvec::SmallVec;

use crate::ReuseError;
use crate::checks::{self, part, ratio};
use crate::engine::{Base, Grid, Reduction, ReuseEngine, Shape};

/// Sums are kept in this many lanes, always: one accumulator would forbid vector code.
const LANES: usize = 8;
/// Elements of a block of `f64` sums; blocks are added pairwise.
const BLOCK: usize = 4096;

/// Step reuse on `f32` slices. Sums are in `f64` and in one fixed order.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostReuse;

impl HostReuse {
    /// An engine; it holds nothing.
    pub const fn new() -> Self {
        Self
    }
}

/// `sum f(x_i, y_i)` in a fixed order.
#[inline(always)]
fn sum2(a: &[f32], b: &[f32], f: impl Fn(f64, f64) -> f64 + Copy) -> f64 {
    if a.len() > BLOCK {
        let half = (a.len() / 2).next_multiple_of(BLOCK);
        let half = if half < a.len() { half } else { BLOCK };
        return sum2_split(a, b, half, f);
    }
    let mut lanes = [0f64; LANES];
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += f(f64::from(*a), f64::from(*b));
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| f(f64::from(*a), f64::from(*b))).sum();
    lanes.iter().sum::<f64>() + rest
}

fn sum2_split(a: &[f32], b: &[f32], half: usize, f: impl Fn(f64, f64) -> f64 + Copy) -> f64 {
    let ((a0, a1), (b0, b1)) = (a.split_at(half), b.split_at(half));
    sum2(a0, b0, f) + sum2(a1, b1, f)
}

fn sum_abs(a: &[f32]) -> f64 {
    sum2(a, a, |x, _| x.abs())
}

fn sum_abs_diff(a: &[f32], b: &[f32]) -> f64 {
    sum2(a, b, |x, y| (x - y).abs())
}

fn norm(a: &[f32]) -> f64 {
    sum2(a, a, |x, y| x * y).sqrt()
}

fn same(what: &'static str, got: usize, expected: usize) -> Result<(), ReuseError> {
    checks::same_shape(what, &[got], &[expected])
}

fn reduce(reduction: &Reduction<'_, [f32]>, grid: Grid) -> Result<f64, ReuseError> {
    Ok(match *reduction {
        Reduction::MeanAbs(a) => sum_abs(a) / a.len().max(1) as f64,
        Reduction::MeanAbsDiff(a, b) => {
            same("a signal's second tensor", b.len(), a.len())?;
            sum_abs_diff(a, b) / a.len().max(1) as f64
        }
        Reduction::RelL1(a, b) => {
            same("a signal's second tensor", b.len(), a.len())?;
            ratio(sum_abs_diff(a, b), sum_abs(b))
        }
        Reduction::TokenRatio(a, b) => {
            same("a signal's second tensor", b.len(), a.len())?;
            let width = part("token ratio", a.len(), grid.tokens)?;
            let ratios =
                a.chunks_exact(width).zip(b.chunks_exact(width)).map(|(a, b)| ratio(norm(a), norm(b)));
            ratios.sum::<f64>() / grid.tokens as f64
        }
        Reduction::FrameMotion(a) => {
            let width = part("frame motion", a.len(), grid.frames)?;
            let (later, earlier) = (&a[width..], &a[..a.len() - width]);
            ratio(sum_abs_diff(later, earlier), sum_abs(later) + sum_abs(earlier))
        }
    })
}

impl ReuseEngine for HostReuse {
    type Tensor = [f32];
    type Owned = Vec<f32>;
    type Error = ReuseError;

    fn shape(&self, tensor: &[f32]) -> Shape {
        [tensor.len()].as_slice().into()
    }

    fn bytes(&self, tensor: &Vec<f32>) -> u64 {
        size_of_val(tensor.as_slice()) as u64
    }

    fn measure(
        &self,
        reductions: &[Reduction<'_, [f32]>],
        grid: Grid,
    ) -> Result<SmallVec<[f64; 4]>, ReuseError> {
        reductions.iter().map(|r| reduce(r, grid)).collect()
    }

    fn copy(&self, tensor: &[f32]) -> Result<Vec<f32>, ReuseError> {
        Ok(tensor.to_vec())
    }

    fn copy_into(&self, tensor: &[f32], into: &mut Vec<f32>) -> Result<(), ReuseError> {
        same("a copy", into.len(), tensor.len())?;
        into.copy_from_slice(tensor);
        Ok(())
    }

    fn difference(&self, output: &[f32], input: &[f32], into: &mut Vec<f32>) -> Result<(), ReuseError> {
        same("a place's input", input.len(), output.len())?;
        same("a difference", into.len(), output.len())?;
        for ((d, y), x) in into.iter_mut().zip(output).zip(input) {
            *d = y - x;
        }
        Ok(())
    }

    fn climb(
        &self,
        value: &[f32],
        ladder: &mut [Vec<f32>],
        known: usize,
        gap: f32,
    ) -> Result<(), ReuseError> {
        for rung in &*ladder {
            same("a difference", rung.len(), value.len())?;
        }
        let inverse = 1.0 / gap;
        for (i, x) in value.iter().enumerate() {
            let mut new = *x;
            for (j, rung) in ladder.iter_mut().enumerate().take(known + 1) {
                let old = std::mem::replace(&mut rung[i], new);
                // The entry above the known ones holds nothing to subtract.
                if j < known {
                    new = (new - old) * inverse;
                }
            }
        }
        Ok(())
    }

    fn combine(
        &self,
        base: Base<'_, [f32]>,
        terms: &[(f32, &[f32])],
        affine: Option<(&[f32], &[f32])>,
        out: &mut [f32],
    ) -> Result<(), ReuseError> {
        for (_, term) in terms {
            same("the output", out.len(), term.len())?;
        }
        if let Some((a, b)) = affine {
            checks::affine(out.len(), a.len(), b.len())?;
        }
        let mut terms = terms.iter();
        match base {
            Base::Nothing => match terms.next() {
                Some((weight, term)) => out.iter_mut().zip(*term).for_each(|(y, t)| *y = weight * t),
                None => out.fill(0.0),
            },
            Base::Tensor(base) => {
                same("the input", base.len(), out.len())?;
                out.copy_from_slice(base);
            }
            Base::InPlace => {}
        }
        for (weight, term) in terms {
            for (y, t) in out.iter_mut().zip(*term) {
                *y += weight * t;
            }
        }
        if let Some((a, b)) = affine {
            for row in out.chunks_exact_mut(a.len()) {
                for ((y, a), b) in row.iter_mut().zip(a).zip(b) {
                    *y = (1.0 - a) * *y - b;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_accurate_where_f32_would_stall() {
        let a = vec![0.1f32; 3_000_001];
        let got = HostReuse.measure(&[Reduction::MeanAbs(&a)], Grid { frames: 1, tokens: 1 }).unwrap()[0];
        assert!((got - f64::from(0.1f32)).abs() < 1e-12, "{got}");
    }

    #[test]
    fn reductions_by_hand() {
        let grid = Grid { frames: 2, tokens: 2 };
        let (a, b) = ([3.0f32, 4.0, 0.0, 1.0], [0.0f32, 1.0, 0.0, 2.0]);
        let got = HostReuse
            .measure(
                &[
                    Reduction::MeanAbs(&a[..]),
                    Reduction::MeanAbsDiff(&a, &b),
                    Reduction::RelL1(&a, &b),
                    Reduction::TokenRatio(&a, &b),
                    Reduction::FrameMotion(&a),
                ],
                grid,
            )
            .unwrap();
        assert_eq!(got[..], [2.0, 7.0 / 4.0, 7.0 / 3.0, (5.0 + 0.5) / 2.0, 6.0 / 8.0]);
        let zero = [0f32; 4];
        let got = HostReuse.measure(&[Reduction::RelL1(&zero[..], &zero)], grid).unwrap();
        assert_eq!(got[..], [0.0]);
        assert!(HostReuse.measure(&[Reduction::RelL1(&a[..3], &b)], grid).is_err());
        let odd = Grid { frames: 3, tokens: 3 };
        assert!(HostReuse.measure(&[Reduction::FrameMotion(&a[..])], odd).is_err());
    }

    #[test]
    fn nan_is_passed_on() {
        let (a, b) = ([f32::NAN, 1.0], [1.0f32, 1.0]);
        let grid = Grid { frames: 1, tokens: 1 };
        let got = HostReuse.measure(&[Reduction::RelL1(&a[..], &b), Reduction::MeanAbs(&a)], grid).unwrap();
        assert!(got.iter().all(|x| x.is_nan()));
    }

    #[test]
    fn affine_runs_over_channels() {
        let mut out = [1.0f32, 2.0, 3.0, 4.0];
        let affine = (&[0.5f32, 0.0][..], &[0.0f32, 1.0][..]);
        HostReuse.combine(Base::InPlace, &[(2.0, &[1.0, 1.0, 1.0, 1.0])], Some(affine), &mut out).unwrap();
        assert_eq!(out, [1.5, 3.0, 2.5, 5.0]);
        let odd = (&[0.5f32; 3][..], &[0.0f32; 3][..]);
        assert!(HostReuse.combine(Base::InPlace, &[], Some(odd), &mut out).is_err());
    }
}
