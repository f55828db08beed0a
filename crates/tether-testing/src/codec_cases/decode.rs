//! Attention over pages of codes.

use tether_codec::{Bits, CodecEngine, Format, Grouping, HostCodes};
use tether_core::{BlockTables, CoreError, DType};

use crate::oracle::{literal_codes, literal_decode, literal_dequantised};
use crate::tensors::{poison, random, read};
use crate::token_cases::{DECODE_SHAPES, PagedTokens, assert_refused};
use crate::{Op, assert_close, tolerance};

/// Codes of a pool; rows that are nobody's have NaN for a scale.
fn pool_codes(values: &[f32], shape: &[usize], bits: Bits, live: &[bool]) -> HostCodes {
    let finite: Vec<f32> = values.iter().map(|x| if x.is_nan() { 0.0 } else { *x }).collect();
    let mut codes = literal_codes(&finite, shape, Format { bits, grouping: Grouping::Token }).packed();
    codes.scales.iter_mut().zip(live).filter(|(_, live)| !**live).for_each(|(scale, _)| *scale = f32::NAN);
    codes
}

/// Attention over codes is attention over what they stand for.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When a result is out of tolerance.
pub fn attends_over_codes<E: CodecEngine>(engine: &E, dtype: DType) -> Result<(), CoreError> {
    for (i, shape) in DECODE_SHAPES.iter().enumerate() {
        for bits in [Bits::Eight, Bits::Four] {
            if !shape.head_dims.0.is_multiple_of(8) || !shape.head_dims.1.is_multiple_of(8) {
                continue;
            }
            let what = format!("{shape:?} {bits:?} {dtype}");
            let tokens = PagedTokens::of(shape, 221 + i as u64);
            let live = tokens.live_rows(tokens.pool[0][2]);
            let k = pool_codes(&tokens.k, &tokens.pool[0], bits, &live);
            let v = pool_codes(&tokens.v, &tokens.pool[1], bits, &live);
            let q = shape.q(241 + i as u64, dtype);
            let problem = tokens.problem(&q)?;
            let (on_q, on_k, on_v) = (engine.upload(&q)?, engine.upload_codes(&k)?, engine.upload_codes(&v)?);
            let tables = engine.upload_tables(&tokens.tables())?;
            poison(engine, problem.sequences * problem.query_heads() * problem.head_dim_v)?;
            let (out, lse) = engine.decode_codes(&on_q, &on_k, &on_v, &tables, shape.scale())?;
            let (out, lse) = (read(engine, &out)?, read(engine, &lse)?);
            let out_shape = [problem.sequences, problem.query_heads(), problem.head_dim_v];
            assert_eq!((out.shape(), out.dtype()), (&out_shape[..], dtype), "{what}");
            assert_eq!((lse.shape(), lse.dtype()), (&out_shape[..2], DType::F32), "{what}");
            let numbers =
                |codes| literal_dequantised(codes).iter().map(|(x, _)| *x as f32).collect::<Vec<_>>();
            let (expected, expected_lse) = literal_decode(
                &q.to_f32_vec(),
                &numbers(&k),
                &numbers(&v),
                &problem,
                &tokens.tables(),
                shape.scale(),
            );
            assert_close(&what, &out.to_f32_vec(), &expected, tolerance(Op::Attend, dtype));
            let what = format!("{what}: log-sum-exp");
            assert_close(&what, &lse.to_f32_vec(), &expected_lse, tolerance(Op::LogSumExp, dtype));
        }
    }
    Ok(())
}

/// Codes of another grouping, keys and values of unequal bits, and pools that do not fit are refused.
///
/// # Errors
/// What the engine refuses and should not.
///
/// # Panics
/// When it accepts one of the calls.
pub fn refuses_codes_it_cannot_attend_to<E: CodecEngine>(engine: &E) -> Result<(), CoreError> {
    let tables = BlockTables { page_size: 4, groups: 1, indptr: &[0, 2], pages: &[2, 0], lengths: &[7] };
    let tables = engine.upload_tables(&tables)?;
    let codes = |shape: &[usize], bits, grouping| {
        let x = random(261, shape, DType::F32, 0.0).to_f32_vec();
        engine.upload_codes(&literal_codes(&x, shape, Format { bits, grouping }).packed())
    };
    let q = engine.upload(&random(262, &[1, 4, 8], DType::F32, 0.0))?;
    let pool = [3, 4, 2, 8];
    let good = codes(&pool, Bits::Eight, Grouping::Token)?;
    assert!(engine.decode_codes(&q, &good, &good, &tables, 1.0).is_ok(), "these codes fit");
    let channels = codes(&pool, Bits::Eight, Grouping::Channel(4))?;
    assert_refused!(engine.decode_codes(&q, &channels, &good, &tables, 1.0), CoreError::Unsupported { .. });
    assert_refused!(engine.decode_codes(&q, &good, &channels, &tables, 1.0), CoreError::Unsupported { .. });
    let four = codes(&pool, Bits::Four, Grouping::Token)?;
    assert_refused!(engine.decode_codes(&q, &good, &four, &tables, 1.0), CoreError::Unsupported { .. });
    let small = codes(&[2, 4, 2, 8], Bits::Eight, Grouping::Token)?;
    assert_refused!(
        engine.decode_codes(&q, &small, &small, &tables, 1.0),
        CoreError::Count { what: "pages of the pool", .. }
    );
    let other = codes(&[3, 4, 1, 8], Bits::Eight, Grouping::Token)?;
    assert_refused!(
        engine.decode_codes(&q, &good, &other, &tables, 1.0),
        CoreError::ShapeMismatch { what: "v", .. }
    );
    Ok(())
}
