//! Pages of codes: written, restored, attended to, and merged with other tokens.

use tether_core::{
    BlockTables, CodeFrames, CodeSpec, CoreError, DType, DecodeProblem, EMPTY_LSE, HostTensor, MeanOf,
    PublishedTier, RowCodec, Side, TokenEngine, merge_partial,
};

use crate::oracle::{literal_decode, literal_rows};
use crate::tensors::{poison, random, read};
use crate::token_cases::assert_refused;
use crate::{Op, assert_close, tolerance};

const SPHERICAL: [usize; 5] = [1, 2, 3, 4, 6];

/// Formats of keys and of values, their channels, and tokens of a page.
fn specs() -> Vec<CodeSpec> {
    let spec = |keys, values, head_dims, page_size| CodeSpec { keys, values, head_dims, page_size, pages: 7 };
    let int = |bits, group| RowCodec::Int { bits, group };
    let mean = |bits, mean| RowCodec::Spherical { bits, mean };
    let published = |tier| RowCodec::SphericalPublished { tier };
    let half = RowCodec::Half {};
    let mut specs = vec![
        spec(half, half, (32, 24), 4),
        spec(half, half, (5, 3), 3),
        spec(int(8, 64), int(8, 64), (128, 128), 32),
        spec(int(4, 64), int(4, 64), (128, 96), 8),
        spec(int(2, 5), int(1, 7), (32, 24), 5),
        spec(int(3, 4), int(7, 100), (20, 12), 5),
        spec(int(4, 8), int(4, 8), (36, 7), 6),
        spec(RowCodec::Kivi { bits: 4 }, RowCodec::Kivi { bits: 2 }, (64, 64), 8),
        spec(RowCodec::Kivi { bits: 5 }, RowCodec::Kivi { bits: 8 }, (24, 40), 3),
        spec(mean(4, MeanOf::Page), mean(2, MeanOf::Page), (64, 32), 8),
        spec(mean(3, MeanOf::Head), int(4, 16), (32, 32), 8),
        spec(int(8, 16), mean(4, MeanOf::Head), (32, 32), 4),
        spec(published(PublishedTier::High), half, (64, 32), 8),
        spec(published(PublishedTier::Mid), int(4, 32), (32, 32), 8),
        spec(published(PublishedTier::Low), published(PublishedTier::High), (64, 64), 5),
    ];
    specs
        .extend(SPHERICAL.map(|bits| spec(mean(bits, MeanOf::Head), mean(bits, MeanOf::Head), (128, 64), 8)));
    specs
}

/// The pages that a case writes, of which the first two are of one head.
const PAGES: [u32; 4] = [5, 0, 3, 6];
/// Heads of those pages, and how many heads there are.
const HEADS: [usize; 4] = [0, 0, 1, 1];
const KV_HEADS: usize = 2;

/// Pages that were written, and what is in them.
struct Written<E: TokenEngine> {
    codes: E::CodePages,
    /// Of each head.
    frames: [Option<E::Tensor>; 2],
    /// Of each page.
    page_frames: [Option<E::Tensor>; 2],
    /// What was written, `[page_size, pages, head_dim]`.
    rows: [Vec<f32>; 2],
}

fn frames_of<T>(frames: &[Option<T>; 2]) -> [Option<&T>; 2] {
    [frames[0].as_ref(), frames[1].as_ref()]
}

fn written<E: TokenEngine>(
    engine: &E,
    spec: &CodeSpec,
    dtype: DType,
    seed: u64,
) -> Result<Written<E>, CoreError> {
    let mut codes = engine.create_codes(spec)?;
    let sides = [Side::Keys, Side::Values];
    let n = PAGES.len();
    let x = sides.map(|side| {
        let shape = [spec.page_size, n, spec.head_dim(side)];
        random(seed + side as u64, &shape, dtype, 0.3)
    });
    let uploaded = [engine.upload(&x[0])?, engine.upload(&x[1])?];
    let mut frames = [None, None];
    let mut page_frames = [None, None];
    for side in sides {
        let dim = spec.head_dim(side);
        let numbers = x[side as usize].to_f32_vec();
        // The rows of each head's pages, `[rows, heads, dim]`.
        let row = |t: usize, page: usize| &numbers[(t * n + page) * dim..][..dim];
        let mut of_heads = Vec::new();
        for i in 0..2 * spec.page_size {
            for head in 0..KV_HEADS {
                of_heads.extend(row(i % spec.page_size, 2 * head + i / spec.page_size));
            }
        }
        let shape = [2 * spec.page_size, KV_HEADS, dim];
        let of_heads = engine.upload(&crate::tensors::tensor(&shape, dtype, &of_heads))?;
        let made = engine.code_frames(&codes, side, &of_heads)?;
        if let Some(made) = &made {
            let heads = HEADS.map(|head| head as u32);
            let heads = engine.upload_indices(&[heads.len()], &heads)?;
            page_frames[side as usize] = Some(engine.read_rows(made, &heads)?);
        }
        frames[side as usize] = made;
    }
    {
        let [keys, values] = frames_of(&page_frames);
        let given = CodeFrames { keys, values };
        engine.write_codes(&mut codes, &PAGES, [&uploaded[0], &uploaded[1]], &given)?;
    }
    Ok(Written { codes, frames, page_frames, rows: x.map(|x| x.to_f32_vec()) })
}

/// What pages stand for in `f32`, keys and values, `[page_size, pages, head_dim]`.
fn restored<E: TokenEngine>(
    engine: &E,
    spec: &CodeSpec,
    of: &Written<E>,
) -> Result<[Vec<f32>; 2], CoreError> {
    poison(engine, spec.page_size * PAGES.len() * spec.head_dims.0.max(spec.head_dims.1))?;
    let [keys, values] = frames_of(&of.page_frames);
    let [k, v] = engine.restore_codes(&of.codes, &PAGES, &CodeFrames { keys, values }, DType::F32)?;
    for (side, x) in [(Side::Keys, &k), (Side::Values, &v)] {
        assert_eq!(engine.describe(x).0, [spec.page_size, PAGES.len(), spec.head_dim(side)]);
    }
    Ok([read(engine, &k)?.to_f32_vec(), read(engine, &v)?.to_f32_vec()])
}

/// Pages come back as what their codes stand for: whole numbers and half precision as the oracle has them, directions
/// no further off than their bits allow.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When a number is another one.
pub fn writes_and_restores_pages<E: TokenEngine>(engine: &E, dtype: DType) -> Result<(), CoreError> {
    for (i, spec) in specs().iter().enumerate() {
        let of = written(engine, spec, dtype, 500 + 10 * i as u64)?;
        let got = restored(engine, spec, &of)?;
        for side in [Side::Keys, Side::Values] {
            let (dim, n) = (spec.head_dim(side), PAGES.len());
            for page in 0..n {
                let what = format!("{spec:?}, {side:?} of page {page}, {dtype}");
                let rows = |x: &[f32]| -> Vec<f32> {
                    (0..spec.page_size).flat_map(|t| &x[(t * n + page) * dim..][..dim]).copied().collect()
                };
                let (x, got) = (rows(&of.rows[side as usize]), rows(&got[side as usize]));
                match literal_rows(spec.codec(side), side, &x, dim) {
                    Some(expected) => {
                        for (got, e) in got.iter().zip(expected) {
                            let apart = (f64::from(*got) - e.number).abs();
                            let allowed =
                                1e-6 * (1.0 + e.number.abs()) + if e.between { e.step } else { 0.0 };
                            assert!(apart <= allowed, "{what}: {got} for {e:?}");
                        }
                    }
                    None => assert_near_rows(&what, spec.codec(side), &x, &got),
                }
            }
        }
    }
    Ok(())
}

/// Rows that come back with about the error that codes of so many bits have.
fn assert_near_rows(what: &str, codec: &RowCodec, x: &[f32], got: &[f32]) {
    let most = match *codec {
        // Of the variance: numbers are uniform and not normal, and some pages' means are those of two pages.
        RowCodec::Spherical { bits, .. } => [1.0, 0.75, 0.3, 0.12, 0.05, 0.05, 0.01][bits],
        _ => 0.9,
    };
    let energy: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
    let error: f64 = x.iter().zip(got).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    assert!(error <= most * energy, "{what}: {error} of {energy}");
}

/// Attention over codes is attention over what they stand for, whoever asks: lists of different lengths, one of them
/// empty, and several query tokens.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When a result is out of tolerance.
pub fn attends_over_pages_of_codes<E: TokenEngine>(engine: &E, dtype: DType) -> Result<(), CoreError> {
    for (i, spec) in specs().iter().enumerate() {
        // Bits of spherical codes have cases of their own.
        if matches!(spec.keys, RowCodec::Spherical { bits: 1 | 2 | 3 | 6, mean: MeanOf::Head })
            && spec.keys == spec.values
        {
            continue;
        }
        for (tokens, group) in [(1, 3), (3, 1)] {
            let what = format!("{spec:?}, {tokens} tokens, {group} queries a key, {dtype}");
            let of = written(engine, spec, dtype, 700 + 10 * i as u64)?;
            let numbers = restored(engine, spec, &of)?;
            let size = spec.page_size as u32;
            // Lists of head 0 and of head 1, of each token: all of one and nothing of the other, or parts of both.
            let lengths: Vec<u32> = [[2 * size, size + 1, 1], [0, 2 * size, size]]
                .iter()
                .flat_map(|of_head| &of_head[..tokens])
                .copied()
                .collect();
            let pages: Vec<u32> =
                (0..2 * tokens).flat_map(|list| PAGES[list / tokens * 2..][..2].to_vec()).collect();
            let indptr: Vec<u32> = (0..=2 * tokens as u32).map(|list| 2 * list).collect();
            let tables = BlockTables {
                page_size: spec.page_size,
                groups: KV_HEADS,
                indptr: &indptr,
                pages: &pages,
                lengths: &lengths,
            };
            let q = random(800 + i as u64, &[tokens, KV_HEADS * group, spec.head_dims.0], dtype, 0.0);
            let scale = 1.0 / (spec.head_dims.0 as f32).sqrt();
            let [keys, values] = frames_of(&of.frames);
            poison(engine, tokens * KV_HEADS * group * spec.head_dims.1)?;
            let (out, lse) = engine.attend_codes(
                &engine.upload(&q)?,
                &of.codes,
                &CodeFrames { keys, values },
                &engine.upload_tables(&tables)?,
                scale,
            )?;
            let (out, lse) = (read(engine, &out)?, read(engine, &lse)?);
            assert_eq!(
                (out.shape(), out.dtype()),
                (&[tokens, KV_HEADS * group, spec.head_dims.1][..], dtype)
            );
            // The pool as numbers.
            let pool = |side: Side| -> Vec<f32> {
                let (dim, n) = (spec.head_dim(side), PAGES.len());
                let mut pool = vec![0f32; spec.pages * spec.page_size * dim];
                for (place, &page) in PAGES.iter().enumerate() {
                    for t in 0..spec.page_size {
                        let row = &numbers[side as usize][(t * n + place) * dim..][..dim];
                        pool[(page as usize * spec.page_size + t) * dim..][..dim].copy_from_slice(row);
                    }
                }
                pool
            };
            let shape = |dim| [spec.pages, spec.page_size, 1, dim];
            let (k, v) = (shape(spec.head_dims.0), shape(spec.head_dims.1));
            let problem = DecodeProblem::new(
                q.shape(),
                &k,
                &v,
                (spec.page_size, KV_HEADS, tokens),
                tables.page_bound(),
            )?;
            let (expected, expected_lse) = literal_decode(
                &q.to_f32_vec(),
                &pool(Side::Keys),
                &pool(Side::Values),
                &problem,
                &tables,
                scale,
            );
            assert_close(&what, &out.to_f32_vec(), &expected, tolerance(Op::Attend, dtype));
            // What is restored for as long as it takes may be restored in the queries' dtype.
            let within = tolerance(Op::LogSumExp, dtype);
            let within = if spec.keys.frame_len(8) == spec.values.frame_len(8) {
                within
            } else {
                crate::Tolerance { abs: within.abs.max(tolerance(Op::Attend, dtype).abs), ..within }
            };
            assert_close(&format!("{what}: log-sum-exp"), &lse.to_f32_vec(), &expected_lse, within);
        }
    }
    Ok(())
}

/// Gathered pages hold what the old ones did, and copied rows are those that they are copies of, bit by bit.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When a number is another one.
pub fn copies_codes_unchanged<E: TokenEngine>(engine: &E) -> Result<(), CoreError> {
    for (i, spec) in specs().iter().enumerate() {
        let mut of = written(engine, spec, DType::F32, 900 + 10 * i as u64)?;
        let before = restored(engine, spec, &of)?;
        // More pages than there were, in another order: those that were written are at the same places again.
        let places: Vec<u32> = [5, 5, 5, 3, 5, 5, 6, 0, 5].to_vec();
        let gathered = engine.gather_codes(&of.codes, &places)?;
        let [keys, values] = frames_of(&of.page_frames);
        let frames = CodeFrames { keys, values };
        let [k, v] = engine.restore_codes(&gathered, &[0, 7, 3, 6], &frames, DType::F32)?;
        let after = [read(engine, &k)?.to_f32_vec(), read(engine, &v)?.to_f32_vec()];
        assert_eq!(before, after, "{spec:?}");
        let by_row = |codec: &RowCodec| matches!(codec, RowCodec::Spherical { mean: MeanOf::Head, .. });
        if !(by_row(&spec.keys) && by_row(&spec.values)) {
            continue;
        }
        // The second page's rows go to the first one's, which is of the same head, in reverse.
        let size = spec.page_size as u32;
        let from: Vec<u32> = (0..size).collect();
        let to: Vec<u32> = (0..size).map(|row| 5 * size + size - 1 - row).collect();
        engine.copy_code_rows(&mut of.codes, &from, &to)?;
        let after = restored(engine, spec, &of)?;
        for side in [Side::Keys, Side::Values] {
            let (dim, n) = (spec.head_dim(side), PAGES.len());
            let row = |x: &[f32], t: usize, page: usize| x[(t * n + page) * dim..][..dim].to_vec();
            for t in 0..spec.page_size {
                let expected = row(&before[side as usize], spec.page_size - 1 - t, 1);
                assert_eq!(row(&after[side as usize], t, 0), expected, "{spec:?} {side:?} {t}");
                for page in 1..n {
                    assert_eq!(row(&after[side as usize], t, page), row(&before[side as usize], t, page));
                }
            }
        }
    }
    Ok(())
}

/// Two results are merged as if all tokens had been attended to at once; a row without tokens is the other one's.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When a result is out of tolerance.
pub fn merges_segments<E: TokenEngine>(engine: &E, dtype: DType) -> Result<(), CoreError> {
    for (rows, dim) in [(1, 8), (7, 3), (300, 128)] {
        let lse = |seed: u64| -> Vec<f32> {
            let numbers = random(seed, &[rows], DType::F32, 0.0).to_f32_vec();
            let empty = |i: usize| (i + seed as usize).is_multiple_of(3) || i.is_multiple_of(7);
            numbers.iter().enumerate().map(|(i, x)| if empty(i) { EMPTY_LSE } else { 20.0 * x }).collect()
        };
        // What saw nothing holds anything.
        let out = |seed: u64, lse: &[f32]| {
            let mut x = random(seed, &[rows, 1, dim], dtype, 0.0).to_f32_vec();
            for (row, lse) in x.chunks_exact_mut(dim).zip(lse) {
                if *lse <= EMPTY_LSE {
                    row.fill(f32::NAN);
                }
            }
            crate::tensors::tensor(&[rows, 1, dim], dtype, &x)
        };
        let (a_lse, b_lse) = (lse(1), lse(2));
        let (a, b) = (out(3, &a_lse), out(4, &b_lse));
        let lse_of = |lse: &[f32]| engine.upload(&HostTensor::from_f32(&[rows, 1], lse.to_vec())?);
        poison(engine, rows * dim)?;
        let (got, got_lse) = engine.merge_attention(
            (&engine.upload(&a)?, &lse_of(&a_lse)?),
            (&engine.upload(&b)?, &lse_of(&b_lse)?),
        )?;
        let (got, got_lse) = (read(engine, &got)?, read(engine, &got_lse)?);
        let (mut expected, mut expected_lse) = (a.to_f32_vec(), a_lse);
        merge_partial((&mut expected, &mut expected_lse), (&b.to_f32_vec(), &b_lse))?;
        for (row, (got, expected)) in
            got.to_f32_vec().chunks_exact(dim).zip(expected.chunks_exact(dim)).enumerate()
        {
            if expected_lse[row] > EMPTY_LSE {
                assert_close(&format!("row {row}"), got, expected, tolerance(Op::Attend, dtype));
            }
        }
        assert_close("log-sum-exp", &got_lse.to_f32_vec(), &expected_lse, tolerance(Op::LogSumExp, dtype));
    }
    Ok(())
}

/// Pages that are not there, rows and frames of other sizes, and settings out of range are refused.
///
/// # Errors
/// What the engine refuses and should not.
///
/// # Panics
/// When it accepts one of the calls.
pub fn refuses_pages_of_codes_that_do_not_fit<E: TokenEngine>(engine: &E) -> Result<(), CoreError> {
    let spec = specs()[3];
    for bad in [
        CodeSpec { page_size: 0, ..spec },
        CodeSpec { keys: RowCodec::Int { bits: 9, group: 4 }, ..spec },
        CodeSpec { values: RowCodec::Spherical { bits: 5, mean: MeanOf::Head }, ..spec },
    ] {
        assert_refused!(engine.create_codes(&bad), CoreError::Geometry { .. });
    }
    let mut of = written(engine, &spec, DType::F32, 1)?;
    let none = || CodeFrames { keys: None, values: None };
    let rows = |n: usize, dim: usize| engine.upload(&random(2, &[spec.page_size, n, dim], DType::F32, 0.0));
    let (k, v) = (rows(1, spec.head_dims.0)?, rows(1, spec.head_dims.1)?);
    assert_refused!(engine.write_codes(&mut of.codes, &[7], [&k, &v], &none()), CoreError::Count { .. });
    assert_refused!(
        engine.write_codes(&mut of.codes, &[1, 2], [&k, &v], &none()),
        CoreError::ShapeMismatch { .. }
    );
    assert_refused!(
        engine.write_codes(&mut of.codes, &[1], [&k, &k], &none()),
        CoreError::ShapeMismatch { what: "v", .. }
    );
    assert_refused!(engine.restore_codes(&of.codes, &[7], &none(), DType::F32), CoreError::Count { .. });
    assert_refused!(engine.gather_codes(&of.codes, &[7]), CoreError::Count { .. });
    assert_refused!(engine.copy_code_rows(&mut of.codes, &[0], &[1]), CoreError::Unsupported { .. });
    // Codes about a mean want to be given it.
    let mean = RowCodec::Spherical { bits: 4, mean: MeanOf::Head };
    let about = CodeSpec { keys: mean, values: mean, ..spec };
    let mut codes = engine.create_codes(&about)?;
    assert_refused!(
        engine.write_codes(&mut codes, &[1], [&k, &v], &none()),
        CoreError::ShapeMismatch { what: "frame of keys", .. }
    );
    let (a, b) = (rows(1, 8)?, rows(2, 8)?);
    let lse = engine.upload(&HostTensor::from_f32(&[spec.page_size, 1], vec![0.0; spec.page_size])?)?;
    assert_refused!(engine.merge_attention((&a, &lse), (&b, &lse)), CoreError::ShapeMismatch { .. });
    Ok(())
}
