//! Leaves of score expressions.

use tether_core::{
    BlockTables, CoreError, DType, HostTensor, ObservedLayer, Pool, ScoreLeaf, TokenEngine, WindowProblem,
    WindowSpec,
};

use super::assert_refused;
use crate::oracle::literal_window_scores;
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

/// One head's rows, as `f64`.
fn of_head(x: &[f32], head: usize, tokens: usize, dim: usize) -> Vec<Vec<f64>> {
    let rows = x[head * tokens * dim..][..tokens * dim].chunks_exact(dim);
    rows.map(|row| row.iter().map(|&x| f64::from(x)).collect()).collect()
}

fn length(row: &[f64]) -> f64 {
    row.iter().map(|x| x * x).sum::<f64>().sqrt()
}

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
        let queries = random(seed + 3, &[heads * group, asked, dk], dtype, 0.0);
        // Rows in no order, none twice.
        let all = pages * PAGE;
        let rows: Vec<u32> = (0..heads * tokens).map(|n| (all - 1 - n) as u32).collect();
        let scale = 0.3f32;
        let (keys, values) = (gathered(&k, &rows), gathered(&v, &rows));
        let of_sums = gathered(&sums, &rows);
        let (on_k, on_v, on_sums) = (engine.upload(&k)?, engine.upload(&v)?, engine.upload(&sums)?);
        let on_queries = engine.upload(&queries)?;
        let on_rows = engine.upload_indices(&[heads, tokens], &rows)?;
        let layer = ObservedLayer {
            k: &on_k,
            v: &on_v,
            sums: Some(&on_sums),
            rows: &on_rows,
            queries: Some(&on_queries),
            scale,
        };
        let lengths = |x: &[f32], dim: usize| -> Vec<f32> {
            (0..heads).flat_map(|h| of_head(x, h, tokens, dim)).map(|row| length(&row) as f32).collect()
        };
        let cosines = || -> Vec<f32> {
            let of = |head: usize| {
                let rows = of_head(&keys, head, tokens, dk);
                let mut mean = vec![0.0; dk];
                for row in &rows {
                    mean.iter_mut().zip(row).for_each(|(m, x)| *m += x / length(row).max(1e-12));
                }
                let dot = |row: &[f64]| row.iter().zip(&mean).map(|(a, b)| a * b).sum::<f64>();
                let cosine = |row: &Vec<f64>| dot(row) / (length(row).max(1e-12) * length(&mean).max(1e-12));
                rows.iter().map(|row| cosine(row) as f32).collect::<Vec<_>>()
            };
            (0..heads).flat_map(of).collect()
        };
        let logits = || -> Vec<f32> {
            let asked_of = queries.to_f32_vec();
            let of = |head: usize| {
                let own = of_head(&asked_of, head, group * asked, dk);
                let mean: Vec<f64> =
                    (0..dk).map(|c| own.iter().map(|q| q[c]).sum::<f64>() / own.len() as f64).collect();
                let dot = |row: &[f64]| row.iter().zip(&mean).map(|(a, b)| a * b).sum::<f64>();
                let rows = of_head(&keys, head, tokens, dk);
                rows.iter().map(|row| (dot(row) * f64::from(scale)) as f32).collect::<Vec<_>>()
            };
            (0..heads).flat_map(of).collect()
        };
        let window = |smoothing| -> Vec<f32> {
            let spec = WindowSpec { scale, pool: smoothing };
            let problem = WindowProblem::new(queries.shape(), &[heads, tokens, dk], &spec);
            literal_window_scores(&queries.to_f32_vec(), &keys, &problem.expect("they fit"), &spec)
        };
        let mean_sums =
            || of_sums.chunks_exact(group).map(|row| row.iter().sum::<f32>() / group as f32).collect();
        for (leaf, expected) in [
            (ScoreLeaf::KeyNorm, lengths(&keys, dk)),
            (ScoreLeaf::ValueNorm, lengths(&values, dv)),
            (ScoreLeaf::AttentionSums, mean_sums()),
            (ScoreLeaf::KeyMeanCosine, cosines()),
            (ScoreLeaf::MeanLogit { queries: asked }, logits()),
            (ScoreLeaf::WindowAttention { queries: asked, smoothing: Pool::None }, window(Pool::None)),
            (ScoreLeaf::WindowAttention { queries: asked, smoothing: Pool::Mean(5) }, window(Pool::Mean(5))),
        ] {
            let what = format!("{leaf:?} of {heads} heads of {tokens} tokens, {dtype}");
            if !engine.observes(&leaf) {
                assert_refused!(engine.observe(&leaf, &layer), CoreError::Unsupported { .. });
                continue;
            }
            poison(engine, expected.len())?;
            let got = read(engine, &engine.observe(&leaf, &layer)?)?;
            assert_eq!(got.shape(), [heads, leaf.columns(tokens)], "{what}");
            let op = match leaf {
                ScoreLeaf::WindowAttention { .. } => Op::WindowScore,
                _ => Op::LogSumExp,
            };
            assert_close(&what, &got.to_f32_vec(), &expected, tolerance(op, dtype));
        }
        if engine.observes(&ScoreLeaf::MeanLogit { queries: 1 }) {
            let without = ObservedLayer { queries: None, sums: None, ..layer };
            let logit = ScoreLeaf::MeanLogit { queries: asked };
            assert_refused!(engine.observe(&logit, &without), CoreError::Count { what: "queries", .. });
            let sums = ScoreLeaf::AttentionSums;
            assert_refused!(
                engine.observe(&sums, &without),
                CoreError::Count { what: "sums of attention", .. }
            );
        }
    }
    Ok(())
}

/// Rows of lists, columns of scores and their means, and numbers that are read as words.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When a number is wrong.
pub fn tells_rows_and_columns<E: TokenEngine>(engine: &E) -> Result<(), CoreError> {
    let (lists, tokens, page) = (3, 22, 5);
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
    let ragged = BlockTables { lengths: &[22, 22, 21], ..table };
    assert_refused!(
        engine.list_rows(&engine.upload_tables(&ragged)?),
        CoreError::Count { what: "tokens of a list", .. }
    );

    let scores = random(77, &[4, 301], DType::F32, 0.0);
    let on_device = engine.upload(&scores)?;
    for (columns, factor) in [(0..301, 1.0), (3..290, -2.0), (7..8, 0.5)] {
        poison(engine, 4 * columns.len())?;
        let (chosen, means) = engine.score_columns(&on_device, columns.clone(), factor)?;
        let numbers = scores.to_f32_vec();
        let expected: Vec<f32> =
            (0..4).flat_map(|h| numbers[h * 301..][columns.clone()].to_vec()).map(|x| x * factor).collect();
        assert_eq!(read(engine, &chosen)?.to_f32_vec(), expected);
        let mean = |row: &[f32]| row.iter().map(|&x| f64::from(x)).sum::<f64>() / row.len() as f64;
        let expected: Vec<f32> = expected.chunks_exact(columns.len()).map(|row| mean(row) as f32).collect();
        let means = read(engine, &means)?;
        assert_eq!(means.shape(), [4, 1]);
        assert_close("means", &means.to_f32_vec(), &expected, tolerance(Op::Score, DType::F32));
    }
    let mut numbers = scores.to_f32_vec();
    numbers[301 + 40] = f32::NAN;
    let with_nan = engine.upload(&HostTensor::from_f32(&[4, 301], numbers)?)?;
    let (_, means) = engine.score_columns(&with_nan, 0..301, 1.0)?;
    let finite: Vec<bool> = read(engine, &means)?.to_f32_vec().iter().map(|x| x.is_finite()).collect();
    assert_eq!(finite, [true, false, true, true], "what is no number shows");
    assert_refused!(
        engine.score_columns(&on_device, 0..302, 1.0),
        CoreError::Count { what: "columns of scores", .. }
    );
    Ok(())
}
