//! Spherical codes and back.

use half::f16;
use tether_codec::{
    HostSpherical, RadiusFit, SphericalBits, SphericalEngine, SphericalFormat, SphericalFrame,
    SphericalProblem,
};
use tether_core::{CoreError, DType, HostTensor};

use crate::oracle::{literal_radius, literal_restored, literal_spherical, unpacked_spherical};
use crate::tensors::{indices, numbers, poison, random, read, tensor};
use crate::token_cases::assert_refused;
use crate::{Op, assert_close, tolerance};

const SHAPES: [&[usize]; 11] = [
    &[1, 1, 8],
    &[3, 2, 16],
    &[7, 3, 24],
    &[33, 2, 64],
    &[40, 3, 80],
    &[37, 1, 96],
    &[65, 4, 128],
    &[5, 2, 256],
    &[0, 2, 64],
    // Pages, and no tokens beside the heads.
    &[6, 5, 2, 64],
    &[2, 128],
];

pub(super) fn formats() -> impl Iterator<Item = SphericalFormat> {
    let of = |bits| [RadiusFit::Unbiased, RadiusFit::LeastSquares].map(|fit| SphericalFormat { bits, fit });
    SphericalBits::ALL.into_iter().flat_map(of)
}

/// Every so many of what there is, beginning elsewhere for each shape: each is a kernel of its own on a device, which may take a second to compile.
pub(super) fn some_of<T>(
    all: impl IntoIterator<Item = T>,
    shape: usize,
    every: usize,
) -> impl Iterator<Item = T> {
    all.into_iter().enumerate().filter(move |(i, _)| (i + shape).is_multiple_of(every)).map(|(_, x)| x)
}

/// What is coded: vectors about a point far from 0, some of them 0 or at the point, sizes that differ by much.
fn vectors(seed: u64, shape: &[usize], dtype: DType) -> HostTensor {
    let dim = shape[shape.len() - 1];
    let heads = shape[shape.len() - 2];
    let centre: Vec<f32> = numbers(seed + 1).map(|x| 4.0 * x).take(heads * dim).collect();
    let value = |(i, x): (usize, f32)| {
        let (row, channel) = (i / dim, i % (heads * dim));
        let size = [1.0, 0.02, 1.0, 30.0, 0.0, 1e-3][row % 6];
        if row % 11 == 7 { 0.0 } else { centre[channel] + size * x }
    };
    let values: Vec<f32> = numbers(seed).take(shape.iter().product()).enumerate().map(value).collect();
    tensor(shape, dtype, &values)
}

/// A frame that suits `x`: the mean of what is there, or none.
fn frame(x: &HostTensor, seed: u64) -> Result<SphericalFrame, CoreError> {
    let &[.., heads, dim] = x.shape() else { unreachable!("cases have heads") };
    if seed.is_multiple_of(3) {
        SphericalFrame::uncentred(heads, dim, seed)
    } else {
        SphericalFrame::centred(x, seed)
    }
}

/// Compares codes with what `x` should come to: codes are the oracle's but where a coordinate lies between two, radii fit the codes.
fn assert_codes(what: &str, codes: &HostSpherical, x: &[f32], frame: &SphericalFrame) {
    let problem = codes.check().unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(codes.radii.iter().all(|r| r.is_finite() && r.to_f32() >= 0.0), "{what}: radii");
    // Heads are multiples of 8 channels, so codes end with a byte; what is left of a row's words is 0.
    let used = problem.head_dim * codes.format.bits.bits() / 8;
    let mut rows = codes.codes.chunks_exact(problem.row_bytes());
    assert!(rows.all(|row| row[used..].iter().all(|&byte| byte == 0)), "{what}: padding");
    let expected = literal_spherical(x, frame, codes.format.bits);
    let got = unpacked_spherical(codes);
    let dim = problem.head_dim;
    for row in 0..problem.rows() {
        let range = row * dim..(row + 1) * dim;
        let rotated = &expected.rotated[range.clone()];
        let radius = literal_radius(rotated, &got[range.clone()], codes.format);
        let stored = codes.radii[row].to_f64();
        // Half a step of the last place, of a number or of the smallest; and what single precision costs.
        let allowed = radius * (2f64.powi(-11) + 1e-5) + 2f64.powi(-25) * 1.001;
        assert!(
            (stored - radius).abs() <= allowed,
            "{what}: radius of row {row} is {stored}, should be {radius}"
        );
        if radius < 1e-6 {
            // Hardly more than rounding of the numbers themselves.
            continue;
        }
        // A difference of numbers is known as well as they are.
        let size = x[range.clone()].iter().fold(0f32, |m, x| m.max(x.abs()));
        let slack = 1e-5 + f64::from(size) * 1e-6 / radius;
        for i in range {
            let (u, code) = (expected.units[i], got[i]);
            if code != expected.codes[i] {
                let between = f64::from(codes.format.bits.midpoints()[code.min(expected.codes[i])]);
                let near = code.abs_diff(expected.codes[i]) == 1 && (u - between).abs() <= slack;
                assert!(near, "{what}: code {i} of {u} is {code}, should be {}", expected.codes[i]);
            }
        }
    }
}

/// Codes are the oracle's, and radii fit them.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When a result is wrong.
pub fn codes_spherically<E: SphericalEngine>(engine: &E, dtype: DType) -> Result<(), CoreError> {
    for (i, shape) in SHAPES.into_iter().enumerate() {
        let x = vectors(301 + i as u64, shape, dtype);
        let frame = frame(&x, i as u64)?;
        let (on_device, on_frame) = (engine.upload(&x)?, engine.upload_frame(&frame)?);
        for format in some_of(formats(), i, 4) {
            let what = format!("{shape:?} {format:?} {dtype}");
            let problem = SphericalProblem::new(shape, format)?;
            poison(engine, problem.code_bytes() / 4)?;
            poison(engine, problem.rows().div_ceil(2))?;
            let codes = engine.read_spherical(&engine.quantise_spherical(&on_device, &on_frame, format)?)?;
            assert_eq!((&codes.shape[..], codes.format), (shape, format), "{what}");
            assert_codes(&what, &codes, &x.to_f32_vec(), &frame);
        }
    }
    Ok(())
}

/// Codes of any bits and radii of any size in `0..2`, padding 0.
pub(super) fn random_codes(
    seed: u64,
    shape: &[usize],
    format: SphericalFormat,
) -> Result<HostSpherical, CoreError> {
    let mut codes = HostSpherical::zeros(shape, format)?;
    let problem = codes.check()?;
    let used = problem.head_dim * format.bits.bits() / 8;
    let mut bytes = indices(seed, 256);
    for row in codes.codes.chunks_exact_mut(problem.row_bytes()) {
        row[..used].iter_mut().zip(&mut bytes).for_each(|(to, byte)| *to = byte as u8);
    }
    let radii = numbers(seed + 1).map(|x| f16::from_f32(x + 1.0));
    codes.radii.iter_mut().zip(radii).for_each(|(to, radius)| *to = radius);
    Ok(codes)
}

pub(super) fn random_frame(seed: u64, heads: usize, dim: usize) -> Result<SphericalFrame, CoreError> {
    let means: Vec<f32> = numbers(seed).take(heads * dim).collect();
    SphericalFrame::new(heads, dim, &means, seed)
}

/// Codes come back as the numbers they stand for, in every dtype.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When a result is out of tolerance.
pub fn restores_spherical_codes<E: SphericalEngine>(engine: &E, dtype: DType) -> Result<(), CoreError> {
    for (i, shape) in SHAPES.into_iter().enumerate() {
        let &[.., heads, dim] = shape else { continue };
        let frame = random_frame(321 + i as u64, heads, dim)?;
        let on_frame = engine.upload_frame(&frame)?;
        for bits in some_of(SphericalBits::ALL, i, 2) {
            let what = format!("{shape:?} {bits:?} {dtype}");
            let format = SphericalFormat { bits, fit: RadiusFit::LeastSquares };
            let codes = random_codes(341 + i as u64, shape, format)?;
            poison(engine, shape.iter().product())?;
            let back = engine.dequantise_spherical(&engine.upload_spherical(&codes)?, &on_frame, dtype)?;
            let back = read(engine, &back)?;
            assert_eq!((back.shape(), back.dtype()), (shape, dtype), "{what}");
            let expected: Vec<f32> =
                literal_restored(&codes, &frame, |row| row % heads).iter().map(|&x| x as f32).collect();
            assert_close(&what, &back.to_f32_vec(), &expected, tolerance(Op::Rotate, dtype));
        }
    }
    Ok(())
}

/// Codes survive the way to the device and back, bit by bit.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When they do not.
pub fn carries_spherical_codes_unchanged<E: SphericalEngine>(engine: &E) -> Result<(), CoreError> {
    for (i, shape) in SHAPES.into_iter().enumerate() {
        for format in formats() {
            let codes = random_codes(361 + i as u64, shape, format)?;
            assert_eq!(engine.read_spherical(&engine.upload_spherical(&codes)?)?, codes);
        }
    }
    Ok(())
}

/// Rows that are written to a pool are those that coding them makes, wherever they go and also where keys and values are written together; the others stay as
/// they were.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When a row is wrong.
pub fn writes_spherical_rows<E: SphericalEngine>(engine: &E, dtype: DType) -> Result<(), CoreError> {
    for (i, (tokens, heads, dim)) in
        [(5, 2, 64), (1, 3, 80), (13, 1, 128), (4, 2, 8), (0, 2, 64)].into_iter().enumerate()
    {
        let mut places: Vec<u32> = (0..PLACES as u32).collect();
        for (a, b) in (1..PLACES).zip(indices(401 + i as u64, usize::MAX >> 33)) {
            places.swap(a, b as usize % (a + 1));
        }
        places.truncate(tokens * heads);
        let rows = engine.upload_indices(&[tokens, heads], &places)?;
        let pool_shape = [PLACES / 3, 3, 1, dim];
        let x = [381, 481].map(|seed| vectors(seed + i as u64, &[tokens, heads, dim], dtype));
        let frames = [frame(&x[0], 1)?, frame(&x[1], 2)?];
        let on_engine = [engine.upload(&x[0])?, engine.upload(&x[1])?];
        let frames_there = [engine.upload_frame(&frames[0])?, engine.upload_frame(&frames[1])?];
        let formats: Vec<SphericalFormat> = some_of(formats(), i, 5).collect();
        for (j, &format) in formats.iter().enumerate() {
            let what = format!("{tokens} tokens of {heads} heads of {dim}, {format:?} {dtype}");
            let before = random_codes(391 + i as u64, &pool_shape, format)?;
            let mut pool = engine.upload_spherical(&before)?;
            engine.write_spherical(&mut pool, &rows, &on_engine[0], &frames_there[0])?;
            let after = engine.read_spherical(&pool)?;
            assert_written(&what, [&before, &after], &places, &x[0], &frames[0])?;

            let other = formats[(j + 1) % formats.len()];
            let before_v = random_codes(491 + i as u64, &pool_shape, other)?;
            let mut pools = [engine.upload_spherical(&before)?, engine.upload_spherical(&before_v)?];
            let [k, v] = &mut pools;
            let both = [&on_engine[0], &on_engine[1]];
            engine.write_spherical_pair([k, v], &rows, both, [&frames_there[0], &frames_there[1]])?;
            let together = [engine.read_spherical(k)?, engine.read_spherical(v)?];
            for (side, before) in [&before, &before_v].into_iter().enumerate() {
                let what = format!("{what}, with values of {other:?}, side {side}");
                assert_written(&what, [before, &together[side]], &places, &x[side], &frames[side])?;
            }
        }
    }
    Ok(())
}

/// Rows of a pool that is written to: an odd number, so that radii share words with those of rows that stay.
const PLACES: usize = 21;

/// Rows `places` of a pool hold the codes of `x`, the others what they held before.
fn assert_written(
    what: &str,
    [before, after]: [&HostSpherical; 2],
    places: &[u32],
    x: &HostTensor,
    frame: &SphericalFrame,
) -> Result<(), CoreError> {
    let bytes = after.check()?.row_bytes();
    let mut written = HostSpherical::zeros(x.shape(), after.format)?;
    for row in 0..PLACES {
        let own = row * bytes..(row + 1) * bytes;
        if let Some(at) = places.iter().position(|&place| place as usize == row) {
            written.codes[at * bytes..][..bytes].copy_from_slice(&after.codes[own]);
            written.radii[at] = after.radii[row];
        } else {
            assert_eq!(after.codes[own.clone()], before.codes[own], "{what}: row {row} was nobody's");
            assert_eq!(after.radii[row], before.radii[row], "{what}: row {row} was nobody's");
        }
    }
    assert_codes(what, &written, &x.to_f32_vec(), frame);
    Ok(())
}

/// Shapes, frames and rows that do not fit are refused.
///
/// # Errors
/// What the engine refuses and should not.
///
/// # Panics
/// When it accepts one of the calls.
pub fn refuses_spherical_codes_that_do_not_fit<E: SphericalEngine>(engine: &E) -> Result<(), CoreError> {
    let format = SphericalFormat { bits: SphericalBits::Four, fit: RadiusFit::Unbiased };
    let frame = |heads, dim| engine.upload_frame(&SphericalFrame::uncentred(heads, dim, 1)?);
    let x = |shape: &[usize]| engine.upload(&random(411, shape, DType::F32, 0.0));
    let good = frame(2, 16)?;
    assert!(engine.quantise_spherical(&x(&[3, 2, 16])?, &good, format).is_ok(), "this fits");
    for odd in [12, 20] {
        assert_refused!(
            engine.quantise_spherical(&x(&[3, 2, odd])?, &frame(2, odd)?, format),
            CoreError::Geometry { field: "head_dim", .. }
        );
    }
    assert_refused!(
        engine.quantise_spherical(&x(&[16])?, &frame(1, 16)?, format),
        CoreError::ShapeMismatch { what: "x", .. }
    );
    for other in [frame(1, 16)?, frame(2, 8)?] {
        let e = engine.quantise_spherical(&x(&[3, 2, 16])?, &other, format);
        assert_refused!(e, CoreError::ShapeMismatch { what: "frame", .. });
    }
    let codes = HostSpherical::zeros(&[3, 2, 16], format)?;
    let mut pool = engine.upload_spherical(&codes)?;
    assert_refused!(
        engine.dequantise_spherical(&pool, &frame(3, 16)?, DType::F32),
        CoreError::ShapeMismatch { what: "frame", .. }
    );
    let cut = HostSpherical { codes: codes.codes[1..].to_vec(), ..codes.clone() };
    assert_refused!(engine.upload_spherical(&cut), CoreError::Count { what: "bytes of codes", .. });
    let cut = HostSpherical { radii: codes.radii[1..].to_vec(), ..codes.clone() };
    assert_refused!(engine.upload_spherical(&cut), CoreError::Count { what: "radii", .. });

    let rows = |shape: &[usize], rows: &[u32]| engine.upload_indices(shape, rows);
    let one = x(&[1, 2, 16])?;
    assert!(
        engine.write_spherical(&mut pool, &rows(&[1, 2], &[5, 0])?, &one, &good).is_ok(),
        "these rows are there"
    );
    assert_refused!(
        engine.write_spherical(&mut pool, &rows(&[2], &[5, 0])?, &one, &good),
        CoreError::ShapeMismatch { what: "rows", .. }
    );
    assert_refused!(
        engine.write_spherical(&mut pool, &rows(&[1, 2], &[6, 0])?, &one, &good),
        CoreError::Count { what: "rows", .. }
    );
    assert_refused!(
        engine.write_spherical(&mut pool, &rows(&[1, 2], &[5, 0])?, &x(&[1, 2, 8])?, &frame(2, 8)?),
        CoreError::ShapeMismatch { what: "x", .. }
    );
    assert_refused!(
        engine.write_spherical(&mut pool, &rows(&[1, 2], &[5, 0])?, &one, &frame(1, 16)?),
        CoreError::ShapeMismatch { what: "frame", .. }
    );
    // Values that do not fit leave the keys' pool alone too.
    let mut of_values = engine.upload_spherical(&codes)?;
    let before = engine.read_spherical(&pool)?;
    let (two, wrong) = (x(&[1, 2, 16])?, frame(1, 16)?);
    assert_refused!(
        engine.write_spherical_pair(
            [&mut pool, &mut of_values],
            &rows(&[1, 2], &[3, 4])?,
            [&one, &two],
            [&good, &wrong]
        ),
        CoreError::ShapeMismatch { what: "frame", .. }
    );
    assert_eq!(engine.read_spherical(&pool)?, before, "keys were written though values were refused");
    Ok(())
}
