//! Attention over pages of spherical codes.

use half::f16;
use tether_codec::{HostSpherical, SphericalBits, SphericalEngine, SphericalFormat, SphericalFrame};
use tether_core::{BlockTables, CoreError, DType, HostTensor, Side, merge_partial};

use super::spherical::{random_codes, random_frame};
use crate::oracle::{literal_decode, literal_restored};
use crate::tensors::{poison, random, read};
use crate::token_cases::{DECODE_SHAPES, PagedTokens, assert_refused};
use crate::{Op, Tolerance, assert_close, tolerance};

/// Codes of a pool; rows that are nobody's have NaN for a radius.
fn pool_codes(
    seed: u64,
    shape: &[usize],
    (side, bits): (Side, SphericalBits),
    live: &[bool],
) -> Result<HostSpherical, CoreError> {
    let mut codes = random_codes(seed, shape, SphericalFormat::of(side, bits))?;
    codes.radii.iter_mut().zip(live).filter(|(_, live)| !**live).for_each(|(radius, _)| *radius = f16::NAN);
    Ok(codes)
}

fn restored(codes: &HostSpherical, frame: &SphericalFrame, heads: &[usize]) -> Vec<f32> {
    literal_restored(codes, frame, |row| heads[row]).iter().map(|&x| x as f32).collect()
}

/// What rounding rotated queries to their own dtype may cost a logit: engines with matrix units do that.
fn logit_rounding(q: &HostTensor, k: &[f32], dim: usize, scale: f32) -> f64 {
    let longest = |x: &[f32]| {
        let lengths =
            x.chunks_exact(dim).map(|row| row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt());
        lengths.filter(|l| l.is_finite()).fold(0.0, f64::max)
    };
    let unit = match q.dtype() {
        DType::F32 => return 0.0,
        DType::F16 => 2f64.powi(-11),
        DType::BF16 => 2f64.powi(-8),
    };
    // Rounding errors of coordinates are independent of each other.
    4.0 * unit * f64::from(scale.abs()) * longest(&q.to_f32_vec()) * longest(k) / (dim as f64).sqrt()
}

/// Attention over codes is attention over what they stand for, means included; rows that no list names are not looked at.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When a result is out of tolerance.
pub fn attends_over_spherical_codes<E: SphericalEngine>(engine: &E, dtype: DType) -> Result<(), CoreError> {
    let shapes = DECODE_SHAPES.iter().enumerate();
    for (i, shape) in shapes.filter(|(_, s)| s.head_dims.0 % 8 == 0 && s.head_dims.1 % 8 == 0) {
        for bits in SphericalBits::ALL {
            let what = format!("{shape:?} {bits:?} {dtype}");
            let seed = 421 + 10 * i as u64;
            let tokens = PagedTokens::of(shape, seed);
            let page_heads = tokens.pool[0][2];
            let (live, heads) = (tokens.live_rows(page_heads), tokens.heads_of_rows(page_heads));
            let q = shape.q(seed + 1, dtype);
            let problem = tokens.problem(&q)?;
            let k = pool_codes(seed + 2, &tokens.pool[0], (Side::Keys, bits), &live)?;
            let v = pool_codes(seed + 4, &tokens.pool[1], (Side::Values, bits), &live)?;
            let (dk, dv) = shape.head_dims;
            let k_frame = random_frame(seed + 6, problem.kv_heads, dk)?;
            let v_frame = random_frame(seed + 7, problem.kv_heads, dv)?;
            let on_k = (engine.upload_spherical(&k)?, engine.upload_frame(&k_frame)?);
            let on_v = (engine.upload_spherical(&v)?, engine.upload_frame(&v_frame)?);
            let (on_q, tables) = (engine.upload(&q)?, engine.upload_tables(&tokens.tables())?);
            let out_shape = [problem.sequences, problem.query_heads(), dv];
            poison(engine, out_shape.iter().product())?;
            let (out, lse) = engine.decode_spherical(
                &on_q,
                (&on_k.0, &on_k.1),
                (&on_v.0, &on_v.1),
                &tables,
                shape.scale(),
            )?;
            let (out, lse) = (read(engine, &out)?, read(engine, &lse)?);
            assert_eq!((out.shape(), out.dtype()), (&out_shape[..], dtype), "{what}");
            assert_eq!((lse.shape(), lse.dtype()), (&out_shape[..2], DType::F32), "{what}");
            let numbers = (restored(&k, &k_frame, &heads), restored(&v, &v_frame, &heads));
            let (expected, expected_lse) = literal_decode(
                &q.to_f32_vec(),
                &numbers.0,
                &numbers.1,
                &problem,
                &tokens.tables(),
                shape.scale(),
            );
            let rounding = logit_rounding(&q, &numbers.0, dk, shape.scale());
            let wider = |t: Tolerance, by: f64| Tolerance { abs: t.abs + by, ..t };
            // Values reach from -4 to 4.
            let allowed = wider(tolerance(Op::Attend, dtype), 8.0 * rounding);
            let allowed = if dtype == DType::F32 { wider(allowed, 1e-4) } else { allowed };
            assert_close(&what, &out.to_f32_vec(), &expected, allowed);
            let what = format!("{what}: log-sum-exp");
            assert_close(
                &what,
                &lse.to_f32_vec(),
                &expected_lse,
                wider(tolerance(Op::LogSumExp, dtype), rounding),
            );
        }
    }
    Ok(())
}

/// Attention over codes and over numbers of the same heads, merged, is attention over all of them: log-sum-exps hold the term of the mean.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When a result is out of tolerance.
pub fn merges_spherical_codes_with_numbers<E: SphericalEngine>(engine: &E) -> Result<(), CoreError> {
    const PAGE: usize = 4;
    // Two groups of one head, three queries each; pages 0 to 2 hold codes, 3 to 5 numbers.
    let coded =
        BlockTables { page_size: PAGE, groups: 2, indptr: &[0, 2, 3], pages: &[2, 0, 1], lengths: &[8, 4] };
    let plain =
        BlockTables { page_size: PAGE, groups: 2, indptr: &[0, 1, 3], pages: &[1, 2, 0], lengths: &[3, 6] };
    let all = BlockTables {
        page_size: PAGE,
        groups: 2,
        indptr: &[0, 3, 6],
        pages: &[2, 0, 4, 1, 5, 3],
        lengths: &[11, 10],
    };
    let heads: Vec<usize> = (0..3 * PAGE).map(|row| usize::from(row / PAGE == 1)).collect();
    for (i, bits) in SphericalBits::ALL.into_iter().enumerate() {
        let seed = 501 + 10 * i as u64;
        let (dk, dv, scale) = (64, 80, 0.3);
        let shapes = [[3, PAGE, 1, dk], [3, PAGE, 1, dv]];
        let k = random_codes(seed, &shapes[0], SphericalFormat::of(Side::Keys, bits))?;
        let v = random_codes(seed + 2, &shapes[1], SphericalFormat::of(Side::Values, bits))?;
        let frames = (random_frame(seed + 4, 2, dk)?, random_frame(seed + 5, 2, dv)?);
        let (k_numbers, v_numbers) =
            (random(seed + 6, &shapes[0], DType::F32, 0.3), random(seed + 7, &shapes[1], DType::F32, -0.3));
        let q = random(seed + 8, &[1, 6, dk], DType::F32, 0.1);
        let on_q = engine.upload(&q)?;
        let (mut out, mut lse) = {
            let on_k = (engine.upload_spherical(&k)?, engine.upload_frame(&frames.0)?);
            let on_v = (engine.upload_spherical(&v)?, engine.upload_frame(&frames.1)?);
            let tables = engine.upload_tables(&coded)?;
            let (out, lse) =
                engine.decode_spherical(&on_q, (&on_k.0, &on_k.1), (&on_v.0, &on_v.1), &tables, scale)?;
            (read(engine, &out)?.to_f32_vec(), read(engine, &lse)?.to_f32_vec())
        };
        let tables = engine.upload_tables(&plain)?;
        let (other, other_lse) =
            engine.decode(&on_q, &engine.upload(&k_numbers)?, &engine.upload(&v_numbers)?, &tables, scale)?;
        let (other, other_lse) = (read(engine, &other)?.to_f32_vec(), read(engine, &other_lse)?.to_f32_vec());
        merge_partial((&mut out, &mut lse), (&other, &other_lse))?;
        let pool = |codes, frame, numbers: &HostTensor| {
            [restored(codes, frame, &heads), numbers.to_f32_vec()].concat()
        };
        let (k, v) = (pool(&k, &frames.0, &k_numbers), pool(&v, &frames.1, &v_numbers));
        let problem = tether_core::DecodeProblem::new(
            q.shape(),
            &[6, PAGE, 1, dk],
            &[6, PAGE, 1, dv],
            (PAGE, 2, 1),
            all.page_bound(),
        )?;
        let (expected, expected_lse) = literal_decode(&q.to_f32_vec(), &k, &v, &problem, &all, scale);
        assert_close(&format!("{bits:?} merged"), &out, &expected, tolerance(Op::Attend, DType::F32));
        assert_close(&format!("{bits:?} merged"), &lse, &expected_lse, tolerance(Op::LogSumExp, DType::F32));
    }
    Ok(())
}

/// Pools, frames and queries that do not fit are refused; keys and values of unequal bits are attended to or refused.
///
/// # Errors
/// What the engine refuses and should not.
///
/// # Panics
/// When it accepts one of the calls.
pub fn refuses_spherical_codes_it_cannot_attend_to<E: SphericalEngine>(engine: &E) -> Result<(), CoreError> {
    let tables = BlockTables { page_size: 4, groups: 1, indptr: &[0, 2], pages: &[2, 0], lengths: &[7] };
    let tables = engine.upload_tables(&tables)?;
    let codes = |shape: &[usize], bits| {
        engine.upload_spherical(&random_codes(551, shape, SphericalFormat::of(Side::Values, bits))?)
    };
    let frame = |heads, dim| engine.upload_frame(&random_frame(552, heads, dim)?);
    let q = engine.upload(&random(553, &[1, 4, 64], DType::F32, 0.0))?;
    let (good, good_frame) = (codes(&[3, 4, 2, 64], SphericalBits::Four)?, frame(2, 64)?);
    let attend = |q, k, kf, v, vf| engine.decode_spherical(q, (k, kf), (v, vf), &tables, 1.0);
    // Waited for, as a process should not end while a device works.
    read(engine, &attend(&q, &good, &good_frame, &good, &good_frame)?.0)?;
    let wrong = [frame(1, 64)?, frame(2, 32)?];
    for wrong in &wrong {
        assert_refused!(
            attend(&q, &good, wrong, &good, &good_frame),
            CoreError::ShapeMismatch { what: "frame of keys", .. }
        );
        assert_refused!(
            attend(&q, &good, &good_frame, &good, wrong),
            CoreError::ShapeMismatch { what: "frame of values", .. }
        );
    }
    let small = codes(&[2, 4, 2, 64], SphericalBits::Four)?;
    assert_refused!(
        attend(&q, &small, &good_frame, &small, &good_frame),
        CoreError::Count { what: "pages of the pool", .. }
    );
    let other = codes(&[3, 4, 1, 64], SphericalBits::Four)?;
    assert_refused!(
        attend(&q, &good, &good_frame, &other, &good_frame),
        CoreError::ShapeMismatch { what: "v", .. }
    );
    let wide = engine.upload(&random(553, &[1, 4, 32], DType::F32, 0.0))?;
    assert_refused!(
        attend(&wide, &good, &good_frame, &good, &good_frame),
        CoreError::ShapeMismatch { what: "q", .. }
    );
    let two = codes(&[3, 4, 2, 64], SphericalBits::Two)?;
    match attend(&q, &good, &good_frame, &two, &good_frame) {
        Ok(_) | Err(CoreError::Unsupported { .. }) => Ok(()),
        Err(e) => Err(e),
    }
}
