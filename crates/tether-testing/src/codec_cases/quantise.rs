//! Codes and back.

use tether_codec::{Bits, CodeProblem, CodecEngine, Format, Grouping, HostCodes};
use tether_core::{CoreError, DType, HostTensor};

use crate::oracle::{LiteralCodes, literal_codes, literal_dequantised, scale_of, unpacked_codes};
use crate::tensors::{numbers, poison, random, read, tensor};
use crate::token_cases::assert_refused;
use crate::{Op, Tolerance, assert_close, tolerance};

/// What is quantised.
#[derive(Clone, Copy, Debug)]
enum Numbers {
    /// Of one size.
    Plain,
    /// Keys: some channels lie far from 0 and vary more than others.
    Channels,
    /// Each channel has one value, some of them 0.
    Constant,
    Zeros,
    /// Less than the smallest range.
    Tiny,
    /// Not larger than half a float of 16 bits can be.
    Large,
}

impl Numbers {
    const ALL: [Self; 6] =
        [Self::Plain, Self::Channels, Self::Constant, Self::Zeros, Self::Tiny, Self::Large];

    fn of(self, seed: u64, shape: &[usize], dtype: DType) -> HostTensor {
        let channels: usize = shape[shape.len() - 2..].iter().product();
        let value = |(i, x): (usize, f32)| {
            let channel = i % channels.max(1);
            match self {
                Self::Plain => x,
                Self::Channels => {
                    let centre = [0.0, 8.0, -20.0, 0.5, 0.0][channel % 5];
                    centre + x * [1.0, 4.0, 0.25][channel % 3]
                }
                Self::Constant => [0.0, 1.5, -3.25, 100.0][channel % 4],
                Self::Zeros => 0.0,
                Self::Tiny => x * 3e-9,
                Self::Large => x * 30_000.0,
            }
        };
        let values: Vec<f32> = numbers(seed).take(shape.iter().product()).enumerate().map(value).collect();
        tensor(shape, dtype, &values)
    }
}

const GROUPINGS: [Grouping; 5] = [
    Grouping::Token,
    Grouping::Channel(1),
    Grouping::Channel(5),
    Grouping::Channel(32),
    Grouping::Channel(1000),
];

const SHAPES: [&[usize]; 12] = [
    &[3, 2, 16],
    &[1, 1, 8],
    &[7, 3, 24],
    &[33, 2, 64],
    &[64, 3, 80],
    &[37, 1, 96],
    &[65, 4, 128],
    &[5, 2, 256],
    &[0, 2, 64],
    // Pages, and no tokens beside the heads.
    &[6, 5, 2, 64],
    &[2, 128],
    &[70_001, 1, 8],
];

fn every(mut case: impl FnMut(&[usize], Format) -> Result<(), CoreError>) -> Result<(), CoreError> {
    for bits in [Bits::Eight, Bits::Four] {
        for grouping in GROUPINGS {
            for shape in SHAPES {
                case(shape, Format { bits, grouping })?;
            }
        }
    }
    Ok(())
}

/// Scales and zeros are the oracle's, codes too but where a number lies between two, and what they stand for is within half a step.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When a result is wrong.
pub fn quantises<E: CodecEngine>(engine: &E, dtype: DType) -> Result<(), CoreError> {
    every(|shape, format| {
        // One kind is enough for the shape that is there for its size.
        for kind in Numbers::ALL.into_iter().take(if shape[0] > 1000 { 1 } else { 6 }) {
            let what = format!("{kind:?} {shape:?} {format:?} {dtype}");
            let x = kind.of(201, shape, dtype);
            let on_device = engine.upload(&x)?;
            poison(engine, x.len())?;
            let quantised = engine.quantise(&on_device, format)?;
            let codes = engine.read_codes(&quantised)?;
            assert_eq!((&codes.shape[..], codes.format), (shape, format), "{what}");
            let problem = codes.check()?;
            let wide = x.to_f32_vec();
            assert_are(&what, &codes, &literal_codes(&wide, shape, format));
            poison(engine, x.len())?;
            let back = read(engine, &engine.dequantise(&quantised, DType::F32)?)?;
            assert_eq!((back.shape(), back.dtype()), (shape, DType::F32), "{what}");
            assert_stand_for(&what, &back, &codes);
            for (i, (&x, &got)) in wide.iter().zip(back.as_f32().unwrap_or(&[])).enumerate() {
                let scale = codes.scales[scale_of(&problem, i)];
                let zero = codes.zeros.get(scale_of(&problem, i)).map_or(0.0, |z| z.abs());
                // And what rounding the sum adds, which is more than the scale where a channel is far from 0 and narrow.
                let bound = 0.501 * f64::from(scale) + 2f64.powi(-22) * f64::from(x.abs().max(zero));
                let error = (f64::from(x) - f64::from(got)).abs();
                assert!(error <= bound, "{what}: element {i} is {x} and comes back as {got}, scale {scale}");
            }
            if dtype != DType::F32 {
                let back = read(engine, &engine.dequantise(&quantised, dtype)?)?;
                assert_eq!((back.shape(), back.dtype()), (shape, dtype), "{what}");
                assert_stand_for(&what, &back, &codes);
            }
        }
        Ok(())
    })
}

fn assert_are(what: &str, codes: &HostCodes, expected: &LiteralCodes) {
    let narrow = |x: &[f64]| x.iter().map(|&x| x as f32).collect::<Vec<_>>();
    let scale_error = tolerance(Op::CodeScale, DType::F32);
    assert_close(&format!("{what}: scales"), &codes.scales, &narrow(&expected.scales), scale_error);
    // The smallest of a group, so nothing is rounded.
    assert_eq!(codes.zeros, narrow(&expected.zeros), "{what}: zeros");
    for (i, (code, &steps)) in unpacked_codes(codes).into_iter().zip(&expected.steps).enumerate() {
        let to_a_half = (steps.abs().fract() - 0.5).abs();
        let off = (f64::from(code) - steps.round()).abs();
        let allowed = if to_a_half < 1e-3 { 1.0 } else { 0.0 };
        assert!(off <= allowed, "{what}: code {i} is {code} for {steps} steps");
    }
}

fn assert_stand_for(what: &str, got: &HostTensor, codes: &HostCodes) {
    let Tolerance { abs, rel } = tolerance(Op::Dequantise, got.dtype());
    for (i, (&got, (term, zero))) in got.to_f32_vec().iter().zip(literal_dequantised(codes)).enumerate() {
        let error = (f64::from(got) - (term + zero)).abs();
        let bound = abs + rel * (term.abs() + zero.abs());
        assert!(error <= bound, "{what}: element {i} is {got} for {}", term + zero);
    }
}

/// What codes stand for has the same codes.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When a code changes.
pub fn quantises_what_it_dequantised<E: CodecEngine>(engine: &E) -> Result<(), CoreError> {
    every(|shape, format| {
        for kind in [Numbers::Plain, Numbers::Constant] {
            let what = format!("{kind:?} {shape:?} {format:?}");
            let x = kind.of(202, shape, DType::F32);
            let first = engine.quantise(&engine.upload(&x)?, format)?;
            let again = engine.quantise(&engine.dequantise(&first, DType::F32)?, format)?;
            let (first, again) = (engine.read_codes(&first)?, engine.read_codes(&again)?);
            assert_are(&what, &first, &literal_codes(&x.to_f32_vec(), shape, format));
            assert!(first.codes == again.codes, "{what}: codes changed");
            assert_close(&what, &again.scales, &first.scales, Tolerance { abs: 0.0, rel: 1e-5 });
            assert_eq!(first.zeros, again.zeros, "{what}: zeros");
        }
        Ok(())
    })
}

/// Codes come back as they were uploaded, also those that no quantisation makes, and stand for what the oracle says.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When a byte changes.
pub fn carries_codes_unchanged<E: CodecEngine>(engine: &E, dtype: DType) -> Result<(), CoreError> {
    every(|shape, format| {
        let what = format!("{shape:?} {format:?} {dtype}");
        let problem = CodeProblem::new(shape, format)?;
        let scales: usize = problem.scale_shape().iter().product();
        let bytes = numbers(203).map(|x| (x * 128.0) as i8 as u8).take(problem.code_bytes());
        let zeros = if format.grouping == Grouping::Token { 0 } else { scales };
        let codes = HostCodes {
            shape: shape.into(),
            format,
            codes: bytes.collect(),
            scales: numbers(204).map(|x| (x + 1.5) * 0.01).take(scales).collect(),
            zeros: numbers(205).take(zeros).collect(),
        };
        let uploaded = engine.upload_codes(&codes)?;
        assert_eq!(engine.read_codes(&uploaded)?, codes, "{what}");
        poison(engine, shape.iter().product())?;
        let back = read(engine, &engine.dequantise(&uploaded, dtype)?)?;
        assert_eq!((back.shape(), back.dtype()), (shape, dtype), "{what}");
        assert_stand_for(&what, &back, &codes);
        Ok(())
    })
}

/// Shapes that do not fill words, groups of nothing, and codes whose parts do not fit are refused.
///
/// # Errors
/// What the engine refuses and should not.
///
/// # Panics
/// When it accepts one of the calls.
pub fn refuses_formats_that_do_not_fit<E: CodecEngine>(engine: &E) -> Result<(), CoreError> {
    let format = |bits, grouping| Format { bits, grouping };
    let eight = format(Bits::Eight, Grouping::Token);
    let four = format(Bits::Four, Grouping::Token);
    let upload = |shape: &[usize]| engine.upload(&random(206, shape, DType::F32, 0.0));
    for (format, dim) in [(eight, 6), (eight, 12), (four, 4), (four, 12)] {
        assert_refused!(
            engine.quantise(&upload(&[3, 2, dim])?, format),
            CoreError::Geometry { field: "head_dim", .. }
        );
    }
    let none = format(Bits::Eight, Grouping::Channel(0));
    assert_refused!(
        engine.quantise(&upload(&[3, 2, 8])?, none),
        CoreError::Geometry { field: "tokens of a group", .. }
    );
    assert_refused!(engine.quantise(&upload(&[8])?, eight), CoreError::ShapeMismatch { what: "x", .. });
    let x = engine.upload(&tensor(&[1, 2, 8], DType::F32, &[&[0.5f32; 11][..], &[f32::NAN; 5]].concat()))?;
    // A device may see it only when it reads.
    match engine.quantise(&x, eight) {
        Ok(_) | Err(CoreError::NonFinite { what: "x", index: 11 }) => {}
        Err(other) => panic!("{other}"),
    }
    let good = literal_codes(&[0.5; 48], &[3, 2, 8], format(Bits::Eight, Grouping::Channel(2))).packed();
    assert!(engine.upload_codes(&good).is_ok(), "these codes fit");
    let spoilt = |spoil: fn(&mut HostCodes)| {
        let mut codes = good.clone();
        spoil(&mut codes);
        engine.upload_codes(&codes)
    };
    assert_refused!(spoilt(|c| c.codes.truncate(44)), CoreError::Count { what: "bytes of codes", .. });
    assert_refused!(spoilt(|c| c.scales.push(1.0)), CoreError::Count { what: "scales", .. });
    assert_refused!(spoilt(|c| c.zeros.clear()), CoreError::Count { what: "zeros", .. });
    assert_refused!(spoilt(|c| c.format.grouping = Grouping::Token), CoreError::Count { .. });
    Ok(())
}
