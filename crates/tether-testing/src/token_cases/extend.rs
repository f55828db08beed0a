//! Causal attention of a block of new tokens over pages.

use tether_core::{BlockTables, CausalTables, CoreError, DType, DecodeProblem, TokenEngine};

use super::assert_refused;
use super::decode::{DecodeShape, PagedTokens, shape};
use crate::oracle::literal_decode;
use crate::tensors::{poison, random, read, tensor};
use crate::{Op, assert_close, tolerance};

/// One sequence's lists, and how many of their last tokens are new.
const BLOCKS: [(DecodeShape, usize); 7] = [
    (shape((1, 1), (1, 1), (64, 64), 16, &[1]), 1),
    (shape((1, 3), (3, 1), (64, 64), 16, &[70]), 70),
    // Heads of unequal length.
    (shape((1, 3), (3, 1), (64, 64), 16, &[97, 41, 40]), 40),
    (shape((1, 2), (1, 3), (6, 10), 5, &[23]), 9),
    (shape((1, 4), (2, 1), (128, 128), 16, &[300, 33]), 33),
    (shape((1, 1), (2, 2), (80, 96), 5, &[12, 17]), 3),
    (shape((1, 8), (1, 1), (128, 128), 16, &[500]), 1),
];

/// Each token of a block attends to what came before it and to itself.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When an output or a log-sum-exp is wrong.
pub fn extends_what_is_cached<E: TokenEngine>(engine: &E, dtype: DType) -> Result<(), CoreError> {
    for (i, (of, block)) in BLOCKS.iter().enumerate() {
        let what = format!("{of:?}, {block} new, {dtype}");
        let made = PagedTokens::of(of, 501 + 10 * i as u64);
        let [k, v] = [(&made.pool[0], &made.k), (&made.pool[1], &made.v)]
            .map(|(shape, values)| tensor(shape, dtype, values));
        let q = random(601 + i as u64, &[*block, of.query_heads(), of.head_dims.0], dtype, 0.0);
        let tables = made.tables();
        let causal = CausalTables::new(&tables, *block)?;
        let causal = causal.view(tables.page_size, tables.groups);
        let extents = (tables.page_size, tables.groups, *block);
        let problem =
            DecodeProblem::new(q.shape(), &made.pool[0], &made.pool[1], extents, tables.page_bound())?;
        poison(engine, block * of.query_heads() * of.head_dims.1)?;
        let [q_device, k_device, v_device] = [&q, &k, &v].map(|x| engine.upload(x));
        let (out, lse) = engine.extend(&q_device?, &k_device?, &v_device?, &tables, of.scale())?;
        let (expected, expected_lse) =
            literal_decode(&q.to_f32_vec(), &k.to_f32_vec(), &v.to_f32_vec(), &problem, &causal, of.scale());
        let out = read(engine, &out)?;
        assert_eq!(out.shape(), [*block, of.query_heads(), of.head_dims.1], "{what}");
        assert_close(&what, &out.to_f32_vec(), &expected, tolerance(Op::Attend, dtype));
        let lse = read(engine, &lse)?.to_f32_vec();
        assert_close(&format!("{what}, lse"), &lse, &expected_lse, tolerance(Op::LogSumExp, dtype));
    }
    Ok(())
}

/// Tables of several sequences, and lists that are shorter than the block, are refused.
///
/// # Errors
/// What the engine refuses and should not.
///
/// # Panics
/// When it accepts one of the calls.
pub fn refuses_blocks_that_do_not_fit<E: TokenEngine>(engine: &E) -> Result<(), CoreError> {
    let pool = engine.upload(&random(701, &[2, 4, 1, 8], DType::F32, 0.0))?;
    let q = engine.upload(&random(702, &[3, 2, 8], DType::F32, 0.0))?;
    let tables = |indptr: &'static [u32], lengths: &'static [u32], groups| BlockTables {
        page_size: 4,
        groups,
        indptr,
        pages: &[0, 1],
        lengths,
    };
    let short = tables(&[0, 1], &[2], 1);
    assert_refused!(
        engine.extend(&q, &pool, &pool, &short, 1.0),
        CoreError::Count { what: "tokens of a list", expected: 3, got: 2 }
    );
    let two = tables(&[0, 1, 2], &[3, 3], 1);
    assert_refused!(
        engine.extend(&q, &pool, &pool, &two, 1.0),
        CoreError::Count { what: "sequences", expected: 1, got: 2 }
    );
    let heads = tables(&[0, 1, 2], &[3, 4], 2);
    assert!(engine.extend(&q, &pool, &pool, &heads, 1.0).is_ok(), "a list for each of two heads");
    Ok(())
}
