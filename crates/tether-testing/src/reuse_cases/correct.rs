//! Differences, ladders and corrected sums.

use std::borrow::{Borrow, BorrowMut};

use tether_core::{CoreError, DType, HostTensor};
use tether_reuse::{Base, ReuseEngine};

use super::{ReuseSubject, done, random};
use crate::oracle::{literal_combination, literal_ladder};
use crate::tensors::assert_same_bits;
use crate::{Op, assert_close, tolerance};

/// Elements: of one vector, of a few with and without a rest, of many.
const SIZES: [usize; 6] = [1, 7, 64, 1000, 4099, 270_336];

fn narrow(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&x| x as f32).collect()
}

/// Copies are bit by bit, and differences are what they say.
///
/// # Errors
/// What the engine does not take.
///
/// # Panics
/// When a result is out of tolerance.
pub fn makes_differences<E: ReuseEngine>(
    subject: &ReuseSubject<'_, E>,
    dtype: DType,
) -> Result<(), CoreError> {
    let engine = subject.engine;
    for (i, elements) in SIZES.into_iter().chain([0]).enumerate() {
        let what = format!("{elements} elements, {dtype}");
        let host = [
            random(731 + 2 * i as u64, elements, dtype, 0.5),
            random(732 + 2 * i as u64, elements, dtype, 0.0),
        ];
        let (output, input) = ((subject.upload)(&host[0])?, (subject.upload)(&host[1])?);
        subject.poison(elements)?;
        let mut copy = done(&what, engine.copy(output.borrow()));
        assert_eq!(engine.shape(copy.borrow()), engine.shape(output.borrow()), "{what}");
        assert_eq!(engine.bytes(&copy), (elements * dtype.bytes()) as u64, "{what}");
        assert_same_bits(&what, &(subject.read)(copy.borrow())?, &host[0]);
        done(&what, engine.copy_into(input.borrow(), &mut copy));
        assert_same_bits(&what, &(subject.read)(copy.borrow())?, &host[1]);
        let mut into = subject.spoilt(elements, dtype)?;
        done(&what, engine.difference(output.borrow(), input.borrow(), &mut into));
        let terms = [(1.0, &host[0].to_f32_vec()[..]), (-1.0, &host[1].to_f32_vec()[..])];
        let expected = narrow(&literal_combination(None, &terms, None, elements));
        assert_close(&what, &subject.numbers(into.borrow())?, &expected, tolerance(Op::Correct, dtype));
        assert_same_bits(&what, &(subject.read)(output.borrow())?, &host[0]);
    }
    Ok(())
}

/// Values enter ladders of one to five rungs; rungs that are not reached yet stay as they are.
///
/// # Errors
/// What the engine does not take.
///
/// # Panics
/// When a rung is out of tolerance.
pub fn climbs_ladders<E: ReuseEngine>(subject: &ReuseSubject<'_, E>, dtype: DType) -> Result<(), CoreError> {
    for (i, elements) in SIZES.into_iter().chain([0]).enumerate() {
        for rungs in 1..=5 {
            let mut ladder =
                (0..rungs).map(|_| subject.spoilt(elements, dtype)).collect::<Result<Vec<_>, _>>()?;
            for (known, gap) in [1.0, 2.0, 1.0, 3.0, 1.0, 4.0].into_iter().enumerate() {
                let what = format!("{elements} elements, {known} of {rungs} rungs, {dtype}");
                let host = random(751 + (100 * i + known) as u64, elements, dtype, 0.1 * known as f32);
                let before =
                    ladder.iter().map(|r| subject.numbers(r.borrow())).collect::<Result<Vec<_>, _>>()?;
                let value = (subject.upload)(&host)?;
                done(&what, subject.engine.climb(value.borrow(), &mut ladder, known.min(rungs), gap));
                let expected = literal_ladder(&host.to_f32_vec(), &before, known, f64::from(gap));
                for (j, (rung, expected)) in ladder.iter().zip(expected).enumerate() {
                    let what = format!("{what}: rung {j}");
                    let got = subject.numbers(rung.borrow())?;
                    match expected {
                        Some(rung) => {
                            assert_close(&what, &got, &narrow(&rung), tolerance(Op::Correct, dtype));
                        }
                        None => assert!(got.iter().all(|x| x.is_nan()), "{what} was written"),
                    }
                }
            }
        }
    }
    Ok(())
}

/// No sum to a sum of six, into a spoilt tensor, on top of another and in place, as it is and corrected, by one number or by channel.
///
/// # Errors
/// What the engine does not take.
///
/// # Panics
/// When a result is out of tolerance.
pub fn combines_tensors<E: ReuseEngine>(
    subject: &ReuseSubject<'_, E>,
    dtype: DType,
) -> Result<(), CoreError> {
    const WEIGHTS: [f32; 5] = [1.0, -0.5, 2.0, 0.125, -1.5];
    let (slopes, offsets) = (random(791, 48, DType::F32, 0.1), random(792, 48, DType::F32, -0.2));
    let (slopes, offsets) = (slopes.to_f32_vec(), offsets.to_f32_vec());
    // Elements, and channels of a correction.
    for (elements, channels) in [(1, 1), (21, 7), (64, 16), (960, 48), (4098, 6), (4098, 1), (270_336, 32)] {
        let host: Vec<HostTensor> = (0..7).map(|i| random(801 + i, elements, dtype, 0.0)).collect();
        let numbers: Vec<Vec<f32>> = host.iter().map(HostTensor::to_f32_vec).collect();
        let uploaded = host.iter().map(|t| (subject.upload)(t)).collect::<Result<Vec<_>, _>>()?;
        for count in 0..=WEIGHTS.len() {
            for channels in [0, channels] {
                for base in 0..3 {
                    let what = format!(
                        "{elements} elements, {count} terms, {channels} channels, base {base}, {dtype}"
                    );
                    let affine = (channels > 0).then(|| (&slopes[..channels], &offsets[..channels]));
                    let of = |i: usize| -> (f32, &E::Tensor) { (WEIGHTS[i], uploaded[i].borrow()) };
                    let terms: Vec<(f32, &E::Tensor)> = (0..count).map(of).collect();
                    let mut out = match base {
                        2 => (subject.upload)(&host[6])?,
                        _ => subject.spoilt(elements, dtype)?,
                    };
                    let on = match base {
                        0 => Base::Nothing,
                        1 => Base::Tensor(uploaded[5].borrow()),
                        _ => Base::InPlace,
                    };
                    done(&what, subject.engine.combine(on, &terms, affine, out.borrow_mut()));
                    let literal: Vec<(f32, &[f32])> =
                        (0..count).map(|i| (WEIGHTS[i], &numbers[i][..])).collect();
                    let base = [None, Some(&numbers[5][..]), Some(&numbers[6][..])][base];
                    let expected = narrow(&literal_combination(base, &literal, affine, elements));
                    let got = subject.numbers(out.borrow())?;
                    assert_close(&what, &got, &expected, tolerance(Op::Correct, dtype));
                }
            }
        }
    }
    Ok(())
}

/// Tensors of other sizes and corrections that do not divide a tensor are refused, and nothing is written.
///
/// # Errors
/// What the engine does not take.
///
/// # Panics
/// When a call is accepted.
pub fn refuses_tensors_that_do_not_fit<E: ReuseEngine>(
    subject: &ReuseSubject<'_, E>,
) -> Result<(), CoreError> {
    let engine = subject.engine;
    let host = random(821, 12, DType::F32, 0.0);
    let (x, y, mut out) = ((subject.upload)(&host)?, (subject.upload)(&host)?, (subject.upload)(&host)?);
    let short = (subject.upload)(&random(822, 8, DType::F32, 0.0))?;
    let (x, y, short): (&E::Tensor, &E::Tensor, &E::Tensor) = (x.borrow(), y.borrow(), short.borrow());
    assert!(engine.copy_into(short, &mut out).is_err(), "copy");
    assert!(engine.difference(x, short, &mut out).is_err(), "difference of unequal sizes");
    assert!(engine.difference(short, short, &mut out).is_err(), "difference of another size");
    let mut ladder = [(subject.upload)(&host)?, (subject.upload)(&random(823, 8, DType::F32, 0.0))?];
    assert!(engine.climb(x, &mut ladder, 1, 1.0).is_err(), "a rung of another size");
    assert_same_bits("a rung", &(subject.read)(ladder[0].borrow())?, &host);
    let to = |out: &mut E::Owned, base, terms: &[(f32, &E::Tensor)], affine| {
        engine.combine(base, terms, affine, out.borrow_mut()).is_err()
    };
    assert!(to(&mut out, Base::Nothing, &[(1.0, short)], None), "a term of another size");
    assert!(to(&mut out, Base::Tensor(short), &[(1.0, y)], None), "a base of another size");
    let numbers = [0.5f32; 8];
    for (a, b) in [(5, 5), (8, 8), (0, 0), (4, 3)] {
        let affine = Some((&numbers[..a], &numbers[..b]));
        assert!(to(&mut out, Base::InPlace, &[(1.0, y)], affine), "{a} slopes and {b} offsets");
    }
    assert_same_bits("what nobody wrote to", &(subject.read)(out.borrow())?, &host);
    Ok(())
}
