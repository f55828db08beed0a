//! Partial attention results, put together.

use super::EMPTY_LSE;
use crate::{CoreError, checks};

/// Merges attention over more tokens into `out` and `lse`, as if all tokens had been attended to at once: outputs are weighted by their
/// log-sum-exps, which add up. `out` is `[rows, head_dim]` and `lse` `[rows]`, as [`super::TokenEngine::decode`] returns them, and so are the
/// others.
///
/// The order of merges does not matter. A row without tokens ([`EMPTY_LSE`], or minus infinity as other libraries have it) is the identity;
/// its output is not looked at.
///
/// # Errors
/// [`CoreError::Count`] when the lengths do not fit.
pub fn merge_partial(
    (out, lse): (&mut [f32], &mut [f32]),
    (other_out, other_lse): (&[f32], &[f32]),
) -> Result<(), CoreError> {
    checks::count("rows of log-sum-exps", lse.len(), other_lse.len())?;
    checks::count("elements of a partial output", out.len(), other_out.len())?;
    let dim = out.len() / lse.len().max(1);
    checks::count("elements of a partial output", dim * lse.len(), out.len())?;
    for (row, (own, &other)) in lse.iter_mut().zip(other_lse).enumerate() {
        let range = row * dim..(row + 1) * dim;
        let (out, other_out) = (&mut out[range.clone()], &other_out[range]);
        if other <= EMPTY_LSE {
            continue;
        }
        if *own <= EMPTY_LSE {
            out.copy_from_slice(other_out);
            *own = other;
            continue;
        }
        let highest = own.max(other);
        let (weight, other_weight) = ((*own - highest).exp(), (other - highest).exp());
        let total = weight + other_weight;
        let (weight, other_weight) = (weight / total, other_weight / total);
        out.iter_mut().zip(other_out).for_each(|(x, y)| *x = weight * *x + other_weight * y);
        *own = highest + total.ln();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{EMPTY_LSE, merge_partial};
    use crate::CoreError;

    #[test]
    fn what_has_no_tokens_is_the_identity_on_either_side() {
        for empty in [EMPTY_LSE, f32::NEG_INFINITY] {
            let (mut out, mut lse) = ([1.0, -2.0], [0.5]);
            merge_partial((&mut out, &mut lse), (&[f32::NAN; 2], &[empty])).unwrap();
            assert_eq!((out, lse), ([1.0, -2.0], [0.5]));
            let (mut out, mut lse) = ([f32::NAN; 2], [empty]);
            merge_partial((&mut out, &mut lse), (&[1.0, -2.0], &[0.5])).unwrap();
            assert_eq!((out, lse), ([1.0, -2.0], [0.5]));
        }
        let (mut out, mut lse) = ([0.0], [EMPTY_LSE]);
        merge_partial((&mut out, &mut lse), (&[0.0], &[EMPTY_LSE])).unwrap();
        assert_eq!((out, lse), ([0.0], [EMPTY_LSE]));
    }

    #[test]
    fn equal_parts_count_alike_and_far_ones_do_not_overflow() {
        let (mut out, mut lse) = ([1.0, 3.0], [200.0, -200.0]);
        merge_partial((&mut out, &mut lse), (&[3.0, 5.0], &[200.0, 200.0])).unwrap();
        assert_eq!(out, [2.0, 5.0]);
        assert_eq!(lse, [200.0 + 2f32.ln(), 200.0]);
    }

    #[test]
    fn lengths_must_fit() {
        for (out, lse) in [(&[0.0; 4][..], &[0.0; 3][..]), (&[0.0; 6], &[0.0; 2]), (&[0.0; 4], &[])] {
            let e = merge_partial((&mut [0.0; 4], &mut [0.0; 2]), (out, lse));
            assert!(matches!(e, Err(CoreError::Count { .. })), "{e:?}");
        }
        let e = merge_partial((&mut [0.0; 5], &mut [0.0; 2]), (&[0.0; 5], &[0.0; 2]));
        assert!(matches!(e, Err(CoreError::Count { .. })), "{e:?}");
    }
}
