//! Leaves of score expressions.

use tether_core::{
    BlockTables, ChosenTokens, CoreError, DType, HostTensor, LeafQueries, MeanRotation, NEIGHBOURS,
    ObservedLayer, Pairing, Pool, ScoreLeaf, TokenEngine, TokenGrid,
};

use super::assert_refused;
use crate::oracle::{ObservedText, literal_leaf};
use crate::tensors::{poison, random, read};
use crate::{Op, assert_close, tolerance};

/// A layer that is observed.
struct Layer {
    heads: usize,
    group: usize,
    tokens: usize,
    dims: (usize, usize),
    asked: usize,
}

const fn layer(heads: usize, group: usize, tokens: usize, dims: (usize, usize), asked: usize) -> Layer {
    Layer { heads, group, tokens, dims, asked }
}

const LAYERS: [Layer; 5] = [
    layer(1, 1, 1, (64, 64), 1),
    layer(2, 3, 37, (6, 10), 5),
    layer(3, 1, 130, (80, 96), 8),
    layer(2, 4, 700, (128, 64), 16),
    layer(8, 2, 33, (64, 128), 3),
];

/// Tokens of a page.
const PAGE: usize = 4;
/// Rows of an output projection.
const HIDDEN: usize = 70;

/// Rows of a pool, gathered.
fn gathered(pool: &HostTensor, rows: &[u32]) -> Vec<f32> {
    let dim = pool.shape()[pool.shape().len() - 1];
    let numbers = pool.to_f32_vec();
    rows.iter().flat_map(|&row| &numbers[row as usize * dim..][..dim]).copied().collect()
}

/// What an engine works out of a layer is what the leaf says, and leaves that it denies are refused.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When a number is wrong.
pub fn observes_leaves<E: TokenEngine>(engine: &E, dtype: DType) -> Result<(), CoreError> {
    for (i, Layer { heads, group, tokens, dims: (dk, dv), asked }) in LAYERS.into_iter().enumerate() {
        let seed = 1_001 + 20 * i as u64;
        let pages = (heads * tokens).div_ceil(PAGE) + 3;
        let pool = |seed, dim, dtype| random(seed, &[pages, PAGE, 1, dim], dtype, 0.25);
        let (k, v) = (pool(seed, dk, dtype), pool(seed + 1, dv, dtype));
        let sums = pool(seed + 2, group, DType::F32);
        // Rows in no order, none twice.
        let all = pages * PAGE;
        let rows: Vec<u32> = (0..heads * tokens).map(|n| (all - 1 - n) as u32).collect();
        let scale = 0.3f32;
        let (keys, values) = (gathered(&k, &rows), gathered(&v, &rows));
        let of_sums = gathered(&sums, &rows);
        let (on_k, on_v, on_sums) = (engine.upload(&k)?, engine.upload(&v)?, engine.upload(&sums)?);
        let on_rows = engine.upload_indices(&[heads, tokens], &rows)?;
        let probe_keys = random(seed + 4, &[heads, asked, dk], dtype, 0.25);
        let on_probe_keys = engine.upload(&probe_keys)?;
        let projection = random(seed + 5, &[heads * group, HIDDEN, dv], DType::F32, 0.0);
        let on_projection = engine.upload(&projection)?;
        let frequencies: Vec<f64> = (0..dk / 4).map(|i| 0.5f64.powi(i as i32)).collect();
        let rotation = MeanRotation::new((&frequencies, Pairing::Half), 1.0, (tokens as i64, 5), dk)?;
        let raw_keys = random(seed + 6, &[tokens, heads, dk], dtype, 0.25);
        let on_raw_keys = engine.upload(&raw_keys)?;
        let grid = frames(tokens);
        let first = 2.min(tokens);
        let size = (tokens / 5).max(1);
        let expected = |covariance| ScoreLeaf::ExpectedAttention { future: 5, sink: first, covariance };
        for leaf in [
            ScoreLeaf::KeyNorm,
            ScoreLeaf::ValueNorm,
            ScoreLeaf::AttentionSums,
            ScoreLeaf::KeyMeanCosine,
            ScoreLeaf::KeyRedundancy { newest: asked },
            ScoreLeaf::MeanLogit { queries: asked },
            ScoreLeaf::WindowAttention { queries: asked, smoothing: Pool::None },
            ScoreLeaf::WindowAttention { queries: asked, smoothing: Pool::Mean(5) },
            ScoreLeaf::SampledAttention { queries: asked },
            ScoreLeaf::LargestAttention { queries: asked },
            ScoreLeaf::SpanAttention { queries: asked, span: 8, best: 4 },
            ScoreLeaf::SpanAttention { queries: asked, span: 3, best: 3 },
            ScoreLeaf::ProbeAttention { smoothing: Pool::None },
            ScoreLeaf::ProbeAttention { smoothing: Pool::Mean(3) },
            expected(true),
            expected(false),
            ScoreLeaf::ProjectedValueNorm,
            ScoreLeaf::KeySpread { first, size },
            ScoreLeaf::ValueSpread { first, size },
            ScoreLeaf::FrameSaliency,
            ScoreLeaf::FrameGate { kept: tokens / 3 },
            ScoreLeaf::FrameGate { kept: 0 },
            ScoreLeaf::FrameGate { kept: tokens },
        ] {
            let what = format!("{leaf:?} of {heads} heads of {tokens} tokens, {dtype}");
            let asked = match leaf.queries() {
                // All but the first tokens' queries: many more than of a window.
                LeafQueries::Raw { .. } => tokens.min(300),
                _ => asked,
            };
            let queries = random(seed + 3, &[heads * group, asked, dk], dtype, 0.0);
            let on_queries = engine.upload(&queries)?;
            let layer = ObservedLayer {
                sums: Some(&on_sums),
                queries: Some(&on_queries),
                probe_keys: Some(&on_probe_keys),
                rotation: Some(&rotation),
                projection: Some(&on_projection),
                raw_keys: Some(&on_raw_keys),
                grid: Some(&grid),
                ..ObservedLayer::new((&on_k, &on_v), &on_rows, scale)
            };
            if !engine.observes(&leaf) {
                assert_refused!(engine.observe(&leaf, &layer), CoreError::Unsupported { .. });
                continue;
            }
            let columns = leaf.columns(tokens);
            let expected = match columns {
                0 => Vec::new(),
                _ => literal_leaf(
                    &leaf,
                    &ObservedText {
                        heads,
                        group,
                        tokens,
                        dims: (dk, dv),
                        keys: &keys,
                        values: &values,
                        sums: &of_sums,
                        queries: &queries.to_f32_vec(),
                        probe_keys: &probe_keys.to_f32_vec(),
                        rotation: &rotation,
                        projection: &projection.to_f32_vec(),
                        raw_keys: &raw_keys.to_f32_vec(),
                        grid: &grid,
                        scale,
                    },
                ),
            };
            poison(engine, expected.len())?;
            let got = read(engine, &engine.observe(&leaf, &layer)?)?;
            assert_eq!(got.shape(), [heads, columns], "{what}");
            let op = match leaf {
                ScoreLeaf::WindowAttention { .. } | ScoreLeaf::ProbeAttention { .. } => Op::WindowScore,
                ScoreLeaf::SampledAttention { .. } | ScoreLeaf::LargestAttention { .. } => Op::WindowScore,
                ScoreLeaf::SpanAttention { .. } | ScoreLeaf::ExpectedAttention { .. } => Op::WindowScore,
                ScoreLeaf::KeySpread { .. } | ScoreLeaf::ValueSpread { .. } => Op::WindowScore,
                ScoreLeaf::KeyRedundancy { .. } => Op::Score,
                _ => Op::LogSumExp,
            };
            assert_close(&what, &got.to_f32_vec(), &expected, tolerance(op, dtype));
        }
        if engine.observes(&ScoreLeaf::KeyNorm) {
            refuses_what_is_missing(engine, &ObservedLayer::new((&on_k, &on_v), &on_rows, scale), asked)?;
        }
    }
    Ok(())
}

/// Frames of four rows of three, each after a token of text.
fn frames(tokens: usize) -> TokenGrid {
    let place = |t: usize| (t % 13).checked_sub(1).map(|at| (t / 13, at / 3, at % 3));
    let mut grid = TokenGrid::default();
    for token in 0..tokens {
        let mut around = [token as u32; NEIGHBOURS];
        if let Some((frame, row, column)) = place(token) {
            let beside = |&other: &usize| {
                place(other).is_some_and(|(f, r, c)| {
                    other != token && f == frame && r.abs_diff(row) <= 1 && c.abs_diff(column) <= 1
                })
            };
            let others = (0..tokens).filter(beside);
            around.iter_mut().zip(others).for_each(|(slot, other)| *slot = other as u32);
            let last = (0..tokens).filter_map(|t| place(t).map(|(f, ..)| f)).max();
            let list = if Some(frame) == last { &mut grid.newest } else { &mut grid.older };
            list.push(token as u32);
        }
        grid.neighbours.push(around);
    }
    grid
}

/// Leaves are not made of what is not there.
fn refuses_what_is_missing<E: TokenEngine>(
    engine: &E,
    without: &ObservedLayer<'_, E>,
    asked: usize,
) -> Result<(), CoreError> {
    let smoothing = Pool::None;
    for leaf in [
        ScoreLeaf::MeanLogit { queries: asked },
        ScoreLeaf::SampledAttention { queries: asked },
        ScoreLeaf::ProbeAttention { smoothing },
        ScoreLeaf::ExpectedAttention { future: 5, sink: 0, covariance: true },
    ] {
        assert_refused!(engine.observe(&leaf, without), CoreError::Count { what: "queries", .. });
    }
    let (sums, norms) = (ScoreLeaf::AttentionSums, ScoreLeaf::ProjectedValueNorm);
    assert_refused!(engine.observe(&sums, without), CoreError::Count { what: "sums of attention", .. });
    assert_refused!(engine.observe(&norms, without), CoreError::Count { what: "the output projection", .. });
    for leaf in [ScoreLeaf::FrameSaliency, ScoreLeaf::FrameGate { kept: 1 }] {
        let refused = engine.observe(&leaf, without);
        assert_refused!(refused, CoreError::Count { what: "keys before the rotation", .. });
    }
    let even = ScoreLeaf::WindowAttention { queries: asked, smoothing: Pool::Mean(2) };
    assert_refused!(engine.observe(&even, without), CoreError::Geometry { field: "smoothing", .. });
    let blocks = ScoreLeaf::KeySpread { first: 0, size: 0 };
    assert_refused!(engine.observe(&blocks, without), CoreError::Geometry { field: "size", .. });
    Ok(())
}

/// Rows of lists, and numbers that are read as words.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When a number is wrong.
pub fn tells_rows<E: TokenEngine>(engine: &E) -> Result<(), CoreError> {
    let (lists, tokens, page) = (3, 22, 5);
    let tokens_in_list = tokens;
    let pages: Vec<u32> = (0..15).map(|n| (n * 7) % 15).collect();
    let table = BlockTables {
        page_size: page,
        groups: lists,
        indptr: &[0, 5, 10, 15],
        pages: &pages,
        lengths: &[tokens as u32; 3],
    };
    let rows = engine.list_rows(&engine.upload_tables(&table)?)?;
    let row = |list: usize, t: usize| pages[list * 5 + t / page] * page as u32 + (t % page) as u32;
    let expected: Vec<u32> =
        (0..lists).flat_map(|l| (0..tokens).map(move |t| (l, t))).map(|(l, t)| row(l, t)).collect();
    assert_eq!(engine.read_indices(&rows)?, expected);
    let words = read(engine, &engine.words(&rows)?)?;
    assert_eq!(words.shape(), [lists, tokens]);
    let bits: Vec<u32> = words.to_f32_vec().into_iter().map(f32::to_bits).collect();
    assert_eq!(bits, expected, "words keep their bits");
    for (first, numbers, last) in [(2, vec![0, 4, 5, 1, 8, 15], 3), (0, vec![21, 3, 7], 0), (3, vec![], 4)] {
        let n = numbers.len() / lists;
        poison(engine, 4 * lists * (first + n + last))?;
        let chosen = engine.upload_indices(&[lists, n], &numbers)?;
        let tokens = ChosenTokens { first, chosen: &chosen, last };
        let rows = engine.chosen_rows(&engine.upload_tables(&table)?, &tokens)?;
        let of_list = |list: usize| {
            let between = numbers[list * n..][..n].iter().map(|&t| first + t as usize).collect::<Vec<_>>();
            let all = (0..first).chain(between).chain(tokens_in_list - last..tokens_in_list);
            all.map(move |t| row(list, t)).collect::<Vec<u32>>()
        };
        assert_eq!(engine.read_indices(&rows)?, (0..lists).flat_map(of_list).collect::<Vec<u32>>());
    }
    let beyond = engine.upload_indices(&[lists, 1], &[3, 4, 20])?;
    let all = engine.upload_tables(&table)?;
    assert_refused!(
        engine.chosen_rows(&all, &ChosenTokens { first: 1, chosen: &beyond, last: 1 }),
        CoreError::Count { what: "tokens of a list", .. }
    );
    assert_refused!(
        engine.chosen_rows(&all, &ChosenTokens { first: 23, chosen: &beyond, last: 0 }),
        CoreError::Count { what: "tokens of a list", .. }
    );
    let ragged = BlockTables { lengths: &[22, 22, 21], ..table };
    assert_refused!(
        engine.list_rows(&engine.upload_tables(&ragged)?),
        CoreError::Count { what: "tokens of a list", .. }
    );

    Ok(())
}
