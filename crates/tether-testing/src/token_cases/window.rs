//! Observation-window scores.

use tether_core::{CoreError, DType, Pool, TokenEngine, WindowProblem, WindowSpec};

use super::assert_refused;
use crate::oracle::literal_window_scores;
use crate::tensors::{poison, random, read, tensor};
use crate::{Op, assert_close, tolerance};

#[derive(Clone, Copy, Debug)]
struct Case {
    problem: WindowProblem,
    pool: Pool,
    /// Multiplies `1 / sqrt(head_dim)`: large ones make attention sharp.
    sharpness: f32,
}

const fn case(
    (window, tokens): (usize, usize),
    (kv_heads, group): (usize, usize),
    head_dim: usize,
    pool: Pool,
) -> Case {
    Case { problem: WindowProblem { window, tokens, kv_heads, group, head_dim }, pool, sharpness: 1.0 }
}

const CASES: [Case; 16] = [
    case((1, 2), (1, 1), 6, Pool::None),
    case((1, 9), (2, 3), 10, Pool::Mean(3)),
    case((4, 4), (2, 1), 64, Pool::Mean(5)),
    case((3, 5), (2, 4), 64, Pool::Max(7)),
    case((32, 201), (2, 4), 64, Pool::Mean(5)),
    case((32, 201), (2, 4), 64, Pool::Max(5)),
    case((32, 160), (2, 4), 64, Pool::None),
    case((16, 97), (3, 1), 80, Pool::Mean(7)),
    case((8, 300), (1, 8), 96, Pool::Max(3)),
    case((64, 333), (2, 3), 128, Pool::Mean(7)),
    case((7, 50), (1, 4), 256, Pool::Mean(1)),
    case((5, 130), (2, 1), 128, Pool::Max(13)),
    // Smoothed over more than there is.
    case((5, 9), (1, 1), 10, Pool::Mean(21)),
    case((16, 2500), (1, 2), 64, Pool::Mean(5)),
    Case { sharpness: 20.0, ..case((16, 190), (2, 3), 128, Pool::Mean(5)) },
    Case { sharpness: -3.0, ..case((3, 70), (1, 2), 80, Pool::Max(5)) },
];

/// Scores are those of the definition.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When a score is out of tolerance.
pub fn scores_by_a_window<E: TokenEngine>(engine: &E, dtype: DType) -> Result<(), CoreError> {
    for (i, case) in CASES.iter().enumerate() {
        let WindowProblem { window, tokens, kv_heads, group, head_dim } = case.problem;
        let q = random(81 + i as u64, &[kv_heads * group, window, head_dim], dtype, 0.1);
        let k = random(91 + i as u64, &[kv_heads, tokens, head_dim], dtype, -0.05);
        let spec = WindowSpec { scale: case.sharpness / (head_dim as f32).sqrt(), pool: case.pool };
        let (on_q, on_k) = (engine.upload(&q)?, engine.upload(&k)?);
        poison(engine, kv_heads * case.problem.prefix())?;
        let got = read(engine, &engine.window_scores(&on_q, &on_k, &spec)?)?;
        assert_eq!(
            (got.shape(), got.dtype()),
            (&[kv_heads, case.problem.prefix()][..], DType::F32),
            "{case:?}"
        );
        let expected = literal_window_scores(&q.to_f32_vec(), &k.to_f32_vec(), &case.problem, &spec);
        let what = format!("{case:?} {dtype}");
        assert_close(&what, &got.to_f32_vec(), &expected, tolerance(Op::WindowScore, dtype));
    }
    Ok(())
}

/// Windows that do not fit the prompt, and heads that do not group, are refused.
///
/// # Errors
/// What the engine refuses and should not.
///
/// # Panics
/// When it accepts one of the calls.
pub fn refuses_windows_that_do_not_fit<E: TokenEngine>(engine: &E) -> Result<(), CoreError> {
    let upload = |shape: &[usize]| engine.upload(&random(99, shape, DType::F32, 0.0));
    let k = upload(&[2, 9, 8])?;
    let good = WindowSpec { scale: 0.5, pool: Pool::Mean(3) };
    let q = upload(&[4, 3, 8])?;
    for pool in [Pool::Mean(0), Pool::Mean(4), Pool::Max(2)] {
        assert_refused!(
            engine.window_scores(&q, &k, &WindowSpec { pool, ..good }),
            CoreError::Geometry { field: "pool", .. }
        );
    }
    assert_refused!(
        engine.window_scores(&q, &k, &WindowSpec { scale: f32::NAN, ..good }),
        CoreError::NonFinite { what: "scale", .. }
    );
    let too_long = upload(&[4, 10, 8])?;
    assert_refused!(engine.window_scores(&too_long, &k, &good), CoreError::Geometry { field: "window", .. });
    let empty = upload(&[4, 0, 8])?;
    assert_refused!(engine.window_scores(&empty, &k, &good), CoreError::Geometry { field: "window", .. });
    let odd = upload(&[3, 3, 8])?;
    assert_refused!(engine.window_scores(&odd, &k, &good), CoreError::Geometry { field: "query_heads", .. });
    let narrow = upload(&[4, 3, 6])?;
    assert_refused!(engine.window_scores(&narrow, &k, &good), CoreError::ShapeMismatch { what: "q", .. });
    assert_refused!(
        engine.window_scores(&q, &upload(&[18, 8])?, &good),
        CoreError::ShapeMismatch { what: "k", .. }
    );
    if let Ok(half) = engine.upload(&tensor(&[4, 3, 8], DType::F16, &[0.0; 96])) {
        assert_refused!(engine.window_scores(&half, &k, &good), CoreError::DTypeMismatch { .. });
    }
    Ok(())
}
