//! Signals.

use std::borrow::Borrow;

use tether_core::{CoreError, DType, HostTensor, TensorData};
use tether_reuse::{Grid, Reduction, ReuseEngine};

use super::{ReuseSubject, done, random};
use crate::oracle::literal_signal;
use crate::{Op, assert_close, tolerance};

/// Frames, tokens, and elements of a token.
const SHAPES: [(usize, usize, usize); 9] = [
    (1, 1, 1),
    (2, 6, 5),
    (3, 3, 7),
    (3, 6, 64),
    (5, 65, 24),
    (1, 77, 1032),
    // More than one round of a launch: in single elements, in tokens of one thread, in tokens of several.
    (1, 1, 4_400_001),
    (2, 540_676, 3),
    (4, 17_000, 132),
];

/// Every signal of two tensors, by name.
fn all<'t, T: ?Sized>(a: &'t T, b: &'t T, alone: &'t T) -> [(&'static str, Reduction<'t, T>); 8] {
    [
        ("mean |a|", Reduction::MeanAbs(a)),
        ("mean |a - b|", Reduction::MeanAbsDiff(a, b)),
        ("relative to b", Reduction::RelL1(a, b)),
        ("mean |b|", Reduction::MeanAbs(b)),
        ("relative to a", Reduction::RelL1(b, a)),
        ("token ratio", Reduction::TokenRatio(a, b)),
        ("frame motion", Reduction::FrameMotion(b)),
        ("mean of another", Reduction::MeanAbs(alone)),
    ]
}

fn measured<E: ReuseEngine>(
    what: &str,
    engine: &E,
    (a, b, alone): (&E::Tensor, &E::Tensor, &E::Tensor),
    grid: Grid,
) -> Vec<f64> {
    let reductions = all(a, b, alone).map(|(_, reduction)| reduction);
    done(what, engine.measure(&reductions, grid)).to_vec()
}

/// Every signal is its definition, alone and among others, and comes out bit by bit the same twice.
///
/// # Errors
/// What the engine does not take.
///
/// # Panics
/// When a signal is out of tolerance.
pub fn measures_signals<E: ReuseEngine>(
    subject: &ReuseSubject<'_, E>,
    dtype: DType,
) -> Result<(), CoreError> {
    for (i, (frames, tokens, width)) in SHAPES.into_iter().enumerate() {
        let (elements, grid, seed) = (tokens * width, Grid { frames, tokens }, 601 + 10 * i as u64);
        let host = [
            random(seed, elements, dtype, 0.2),
            random(seed + 1, elements, dtype, 0.0),
            random(seed + 2, 1 + elements / 2, dtype, -3.0),
        ];
        let [a, b, alone] = [0, 1, 2].map(|i| (subject.upload)(&host[i]));
        let (a, b, alone) = (a?, b?, alone?);
        subject.poison(3 * 1056)?;
        let what = format!("{frames} frames, {tokens} tokens of {width}, {dtype}");
        let tensors = (a.borrow(), b.borrow(), alone.borrow());
        let got = measured(&what, subject.engine, tensors, grid);
        let again = measured(&what, subject.engine, tensors, grid);
        let bits = |signals: &[f64]| signals.iter().map(|s| s.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&got), bits(&again), "{what}: not the same twice");
        let numbers = host.map(|t| t.to_f32_vec());
        let expected = all(&numbers[0][..], &numbers[1][..], &numbers[2][..]);
        let on_engine = all(tensors.0, tensors.1, tensors.2);
        for (((name, literal), (_, reduction)), got) in expected.iter().zip(on_engine).zip(got) {
            let what = format!("{what}: {name}");
            let expected = [literal_signal(literal, grid) as f32];
            assert_close(&what, &[got as f32], &expected, tolerance(Op::Signal, dtype));
            let alone = done(&what, subject.engine.measure(&[reduction], grid));
            assert_close(&what, &[alone[0] as f32], &expected, tolerance(Op::Signal, dtype));
        }
    }
    Ok(())
}

/// Signals of zeros and of nothing are 0, and no signals are none.
///
/// # Errors
/// What the engine does not take.
///
/// # Panics
/// When something comes of nothing.
pub fn measures_nothing_as_nothing<E: ReuseEngine>(subject: &ReuseSubject<'_, E>) -> Result<(), CoreError> {
    let grid = Grid { frames: 2, tokens: 6 };
    let zeros = HostTensor::zeros(&[54], DType::F32)?;
    let (a, b) = ((subject.upload)(&zeros)?, (subject.upload)(&zeros)?);
    subject.poison(64)?;
    let tensors = (a.borrow(), b.borrow(), b.borrow());
    assert_eq!(measured("zeros", subject.engine, tensors, grid), [0.0; 8]);
    let empty = HostTensor::zeros(&[0], DType::F32)?;
    let (a, b) = ((subject.upload)(&empty)?, (subject.upload)(&empty)?);
    let (a, b): (&E::Tensor, &E::Tensor) = (a.borrow(), b.borrow());
    let reductions = [Reduction::MeanAbs(a), Reduction::MeanAbsDiff(a, b), Reduction::RelL1(a, b)];
    assert_eq!(done("nothing", subject.engine.measure(&reductions, grid))[..], [0.0; 3]);
    assert!(done("no signals", subject.engine.measure(&[], grid)).is_empty());
    Ok(())
}

/// A NaN anywhere makes every signal of that tensor NaN and no other; infinities never make a finite distance.
///
/// # Errors
/// What the engine does not take.
///
/// # Panics
/// When a NaN is lost: a step would be reused that must not be.
pub fn tells_what_is_not_a_number<E: ReuseEngine>(
    subject: &ReuseSubject<'_, E>,
    dtype: DType,
) -> Result<(), CoreError> {
    for (frames, tokens, width) in [(3, 6, 7), (2, 10, 520), (1, 1, 270_337)] {
        let (elements, grid) = (tokens * width, Grid { frames, tokens });
        let clean = random(701, elements, dtype, 0.5);
        let numbers = clean.to_f32_vec();
        for (place, value) in [
            (0, f32::NAN),
            (elements / 2, f32::NAN),
            (elements - 1, f32::NAN),
            (0, f32::INFINITY),
            (elements - 1, f32::NEG_INFINITY),
        ] {
            let what = format!("{value} at {place} of {elements}, {dtype}");
            let mut numbers = numbers.clone();
            numbers[place] = value;
            let spoilt = HostTensor::new(&[elements], TensorData::narrowed(dtype, &numbers))?;
            let (spoilt, clean) = ((subject.upload)(&spoilt)?, (subject.upload)(&clean)?);
            let (spoilt, clean): (&E::Tensor, &E::Tensor) = (spoilt.borrow(), clean.borrow());
            for (a, b) in [(spoilt, clean), (clean, spoilt)] {
                let names = all(a, b, clean).map(|(name, _)| name);
                let got = measured(&what, subject.engine, (a, b, clean), grid);
                for (name, got) in names.into_iter().zip(got) {
                    let concerned = match name {
                        "mean |a|" => std::ptr::eq(a, spoilt),
                        "mean |b|" => std::ptr::eq(b, spoilt),
                        // With one frame nothing moves.
                        "frame motion" => std::ptr::eq(b, spoilt) && frames > 1,
                        "mean of another" => false,
                        // A length over an infinite one is 0.
                        "token ratio" => value.is_nan() || std::ptr::eq(a, spoilt),
                        _ => true,
                    };
                    let told = if value.is_nan() { got.is_nan() } else { !got.is_finite() };
                    assert!(!concerned || told, "{what}: {name} is {got}");
                    assert!(concerned || got.is_finite(), "{what}: {name} of other tensors is {got}");
                }
            }
        }
    }
    Ok(())
}

/// Tensors of unequal sizes, and frames or tokens that do not divide a tensor, are refused.
///
/// # Errors
/// What the engine does not take.
///
/// # Panics
/// When a call is accepted.
pub fn refuses_grids_that_do_not_fit<E: ReuseEngine>(subject: &ReuseSubject<'_, E>) -> Result<(), CoreError> {
    let (a, b) = (random(711, 12, DType::F32, 0.0), random(712, 8, DType::F32, 0.0));
    let (a, b) = ((subject.upload)(&a)?, (subject.upload)(&b)?);
    let (a, b): (&E::Tensor, &E::Tensor) = (a.borrow(), b.borrow());
    let fits = Grid { frames: 2, tokens: 4 };
    for reduction in [Reduction::MeanAbsDiff(a, b), Reduction::RelL1(a, b), Reduction::TokenRatio(a, b)] {
        let what = format!("{:?}", std::mem::discriminant(&reduction));
        assert!(subject.engine.measure(&[reduction], fits).is_err(), "{what}");
    }
    for parts in [0, 5, 13] {
        let grid = Grid { frames: parts, tokens: parts };
        assert!(subject.engine.measure(&[Reduction::FrameMotion(a)], grid).is_err(), "{parts} frames");
        assert!(subject.engine.measure(&[Reduction::TokenRatio(a, a)], grid).is_err(), "{parts} tokens");
    }
    let empty = (subject.upload)(&HostTensor::zeros(&[0], DType::F32)?)?;
    assert!(subject.engine.measure(&[Reduction::FrameMotion(empty.borrow())], fits).is_err(), "no frames");
    Ok(())
}
