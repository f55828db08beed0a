//! Compaction.

use tether_core::{CoreError, DType, TokenEngine, TokenLayout, TokenShape};

use super::assert_refused;
use crate::oracle::gather_token_rows;
use crate::tensors::{assert_same_bits, indices, poison, random, read, tensor};

/// Tokens, heads, channels, and how many are kept of each head.
const ROWS: [([usize; 3], usize); 14] = [
    ([1, 1, 6], 1),
    ([7, 3, 10], 4),
    ([5, 2, 1], 3),
    ([6, 3, 7], 5),
    ([33, 8, 64], 0),
    ([0, 2, 64], 0),
    ([40, 2, 80], 40),
    // More than there are: some are copied twice.
    ([17, 1, 96], 30),
    ([65, 4, 128], 13),
    ([9, 2, 256], 5),
    ([3, 2, 4], 2),
    ([12, 3, 12], 7),
    ([700, 8, 128], 350),
    // More rows than a grid has cubes along one axis.
    ([70_001, 1, 8], 70_000),
];

/// Chosen rows are copied bit by bit, in the order of their indices, each head's its own.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When a bit is wrong.
pub fn gathers_rows<E: TokenEngine>(engine: &E, dtype: DType) -> Result<(), CoreError> {
    for (i, &([tokens, heads, head_dim], kept)) in ROWS.iter().enumerate() {
        for layout in [TokenLayout::Nhd, TokenLayout::Hnd] {
            let shape = TokenShape { tokens, heads, head_dim, layout };
            let what = format!("{shape:?}, {kept} kept, {dtype}");
            let x = random(21 + i as u64, &shape.dims(), dtype, 0.0);
            let chosen: Vec<u32> = indices(31 + i as u64, tokens.max(1)).take(heads * kept).collect();
            let uploaded = engine.upload_indices(&[heads, kept], &chosen)?;
            assert_eq!(engine.read_indices(&uploaded)?, chosen, "{what}: indices");
            let on_device = engine.upload(&x)?;
            let to = TokenShape { tokens: kept, ..shape };
            poison(engine, to.len())?;
            let got = read(engine, &engine.gather_rows(&on_device, layout, &uploaded)?)?;
            let expected = gather_token_rows(&x.to_f32_vec(), &shape, &chosen);
            let expected = tensor(&to.dims(), dtype, &expected);
            assert_same_bits(&what, &got, &expected);
            // Two at once, told apart by their signs.
            let negated: Vec<f32> = x.to_f32_vec().iter().map(|x| -x).collect();
            let other = engine.upload(&tensor(&shape.dims(), dtype, &negated))?;
            let (a, b) = engine.gather_rows_of_two((&other, &on_device), layout, &uploaded)?;
            let negated: Vec<f32> = expected.to_f32_vec().iter().map(|x| -x).collect();
            assert_same_bits(
                &format!("{what}, first of two"),
                &read(engine, &a)?,
                &tensor(&to.dims(), dtype, &negated),
            );
            assert_same_bits(&format!("{what}, second of two"), &read(engine, &b)?, &expected);
        }
    }
    Ok(())
}

/// Chosen pages are copied bit by bit, whatever a page is.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When a bit is wrong.
pub fn gathers_pages<E: TokenEngine>(engine: &E, dtype: DType) -> Result<(), CoreError> {
    let pools: [(&[usize], usize); 10] = [
        (&[5, 16, 2, 64], 3),
        (&[9, 1, 3, 10], 14),
        (&[4, 5, 1, 7], 2),
        (&[4, 5, 3, 80], 4),
        (&[3, 1], 2),
        (&[6], 4),
        (&[6, 16, 8, 128], 0),
        (&[0, 16, 1, 8], 0),
        (&[12, 16, 8, 128], 7),
        (&[70_001, 2], 70_000),
    ];
    for (i, (shape, kept)) in pools.into_iter().enumerate() {
        let what = format!("{shape:?}, {kept} pages, {dtype}");
        let pool = random(41 + i as u64, shape, dtype, 0.0);
        let chosen: Vec<u32> = indices(51 + i as u64, shape[0].max(1)).take(kept).collect();
        let uploaded = engine.upload_indices(&[kept], &chosen)?;
        let on_device = engine.upload(&pool)?;
        let len: usize = shape[1..].iter().product();
        poison(engine, kept * len)?;
        let got = read(engine, &engine.gather_pages(&on_device, &uploaded)?)?;
        let all = pool.to_f32_vec();
        let expected: Vec<f32> =
            chosen.iter().flat_map(|&p| &all[p as usize * len..][..len]).copied().collect();
        let to: Vec<usize> = [kept].iter().chain(&shape[1..]).copied().collect();
        let expected = tensor(&to, dtype, &expected);
        assert_same_bits(&what, &got, &expected);
        let negated: Vec<f32> = all.iter().map(|x| -x).collect();
        let other = engine.upload(&tensor(shape, dtype, &negated))?;
        let (a, b) = engine.gather_pages_of_two((&other, &on_device), &uploaded)?;
        let negated: Vec<f32> = expected.to_f32_vec().iter().map(|x| -x).collect();
        assert_same_bits(&format!("{what}, first of two"), &read(engine, &a)?, &tensor(&to, dtype, &negated));
        assert_same_bits(&format!("{what}, second of two"), &read(engine, &b)?, &expected);
    }
    Ok(())
}

/// Rows and pages that are not there, and indices of another shape, are refused.
///
/// # Errors
/// What the engine refuses and should not.
///
/// # Panics
/// When it accepts one of the calls.
pub fn refuses_rows_and_pages_that_are_not_there<E: TokenEngine>(engine: &E) -> Result<(), CoreError> {
    use TokenLayout::{Hnd, Nhd};
    assert_refused!(
        engine.upload_indices(&[2, 3], &[0; 5]),
        CoreError::TensorLength { expected: 6, got: 5, .. }
    );
    let x = engine.upload(&random(61, &[5, 2, 4], DType::F32, 0.0))?;
    let last = engine.upload_indices(&[2, 2], &[0, 1, 2, 4])?;
    assert!(engine.gather_rows(&x, Nhd, &last).is_ok(), "the last row is there");
    let beyond = engine.upload_indices(&[2, 2], &[0, 1, 2, 5])?;
    assert_refused!(
        engine.gather_rows(&x, Nhd, &beyond),
        CoreError::Count { what: "tokens", expected: 6, got: 5 }
    );
    assert_refused!(engine.gather_rows(&x, Hnd, &last), CoreError::ShapeMismatch { what: "indices", .. });
    let flat = engine.upload_indices(&[4], &[0, 1, 2, 3])?;
    assert_refused!(engine.gather_rows(&x, Nhd, &flat), CoreError::ShapeMismatch { what: "indices", .. });
    let pool = engine.upload(&random(62, &[5, 16, 2, 4], DType::F32, 0.0))?;
    assert_refused!(engine.gather_rows(&pool, Nhd, &last), CoreError::ShapeMismatch { what: "x", .. });
    assert_refused!(engine.gather_pages(&pool, &last), CoreError::ShapeMismatch { what: "indices", .. });
    let beyond = engine.upload_indices(&[2], &[5, 0])?;
    assert_refused!(
        engine.gather_pages(&pool, &beyond),
        CoreError::Count { what: "pages", expected: 6, got: 5 }
    );
    Ok(())
}
