//! Attention that tokens get, added up in pools.

use tether_core::{AttendOptions, CoreError, DType, NewQueries, PagedKv, TokenEngine};

use super::assert_refused;
use super::decode::{DecodeShape, PagedTokens, shape};
use super::options::{Places, all_options};
use crate::tensors::{random, read, tensor};
use crate::{Op, assert_close, tolerance};

/// Lists, and how many of the last tokens of each sequence are new.
const SUMMED: [(DecodeShape, &[u32]); 6] = [
    (shape((1, 1), (1, 1), (64, 64), 16, &[1]), &[1]),
    (shape((1, 3), (3, 1), (64, 64), 16, &[97, 41, 40]), &[40]),
    (shape((1, 2), (1, 3), (6, 10), 5, &[23]), &[9]),
    (shape((1, 8), (1, 1), (128, 128), 16, &[500]), &[1]),
    (shape((2, 12), (1, 1), (80, 64), 5, &[33, 1]), &[2, 1]),
    (shape((3, 2), (2, 1), (256, 64), 16, &[5, 40, 17, 6, 33, 18]), &[1, 33, 4]),
];

/// Tokens get what the new queries that see them give, beside what they had; new ones begin at 0, and rows of no list stay as they are.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When a sum is wrong.
pub fn adds_attention_up<E: TokenEngine>(engine: &E, dtype: DType) -> Result<(), CoreError> {
    for (i, case) in SUMMED.iter().enumerate() {
        let plain = AttendOptions::scaled(case.0.scale());
        adds_up(engine, dtype, (i as u64, &case.0, case.1), &plain, Places::Unsaid)?;
    }
    Ok(())
}

/// The same with each option of attention, and with all of them.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When a sum is wrong.
pub fn adds_attention_with_options_up<E: TokenEngine>(engine: &E, dtype: DType) -> Result<(), CoreError> {
    for (i, case) in SUMMED.iter().enumerate().skip(1).step_by(2) {
        let options = all_options(&case.0).into_iter();
        let asked = ["soft cap", "slopes", "window of some pages", "window and sinks", "all"];
        for (_, options) in options.filter(|(name, _)| asked.contains(name)) {
            let by_position = [Places::Unsaid, Places::Gaps, Places::AnyOrder, Places::Behind];
            // Slopes over that far leave logits no digits.
            let far = if options.alibi.is_empty() { 4 } else { 3 };
            for &places in &by_position[..if options.uses_positions() { far } else { 1 }] {
                adds_up(engine, dtype, (i as u64, &case.0, case.1), &options, places)?;
            }
        }
    }
    Ok(())
}

fn adds_up<E: TokenEngine>(
    engine: &E,
    dtype: DType,
    (i, of, new): (u64, &DecodeShape, &[u32]),
    options: &AttendOptions,
    places: Places,
) -> Result<(), CoreError> {
    let what = format!("{of:?}, {new:?} new, {dtype}, {options:?}, {places:?}");
    let made = PagedTokens::of(of, 901 + 10 * i);
    let [k, v] = [(&made.pool[0], &made.k), (&made.pool[1], &made.v)]
        .map(|(shape, values)| tensor(shape, dtype, values));
    let tables = made.tables();
    let starts: Vec<u32> = (0..=new.len()).map(|n| new[..n].iter().sum()).collect();
    let block = starts[new.len()] as usize;
    let q = random(951 + i, &[block, of.query_heads(), of.head_dims.0], dtype, 0.0);
    let kv_heads = tables.groups * k.shape()[2];
    let (page_heads, group, dim) = (k.shape()[2], of.query_heads() / kv_heads, of.head_dims.0);
    let shape = [k.shape()[0], k.shape()[1], page_heads, group];
    let positions = places.positions(&made, page_heads, &starts);
    let before = random(971 + i, &shape, DType::F32, 1.0);

    let (queries, keys, mut expected) = (q.to_f32_vec(), k.to_f32_vec(), before.to_f32_vec());
    for list in 0..tables.lengths.len() {
        let (sequence, length) = (list % new.len(), tables.lengths[list] as usize);
        let pages = &tables.pages[tables.indptr[list] as usize..];
        let past = length - new[sequence] as usize;
        for head in 0..page_heads {
            let row = |t: usize| {
                (pages[t / tables.page_size] as usize * tables.page_size + t % tables.page_size) * page_heads
                    + head
            };
            for of_group in 0..group {
                let query_head = (list / new.len() * page_heads + head) * group + of_group;
                (past..length).for_each(|t| expected[row(t) * group + of_group] = 0.0);
                for token in past..length {
                    let at = (starts[sequence] as usize + token - past) * of.query_heads() + query_head;
                    let dot = |t: usize| -> f64 {
                        let key = &keys[row(t) * dim..][..dim];
                        let query = &queries[at * dim..][..dim];
                        let sum: f64 =
                            key.iter().zip(query).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                        let scaled = sum * f64::from(options.scale);
                        let cap = options.softcap.map(f64::from);
                        let capped = cap.map_or(scaled, |cap| cap * (scaled / cap).tanh());
                        let before = match &positions {
                            Some((rows, tokens)) => {
                                let query = tokens[starts[sequence] as usize + token - past];
                                i64::from(query) - i64::from(rows[row(t)])
                            }
                            None => token as i64 - t as i64,
                        };
                        if options.window.is_some_and(|window| before >= i64::from(window)) {
                            return f64::NEG_INFINITY;
                        }
                        let slope = options.alibi.get(query_head).copied().unwrap_or(0.0);
                        capped - f64::from(slope) * before as f64
                    };
                    let logits: Vec<f64> = (0..=token).map(dot).collect();
                    let sink = options.sinks.get(query_head).map(|&sink| f64::from(sink));
                    let top = logits.iter().copied().chain(sink).fold(f64::MIN, f64::max);
                    let total: f64 = logits.iter().copied().chain(sink).map(|l| (l - top).exp()).sum();
                    if total == 0.0 {
                        continue;
                    }
                    for (t, logit) in logits.iter().enumerate() {
                        expected[row(t) * group + of_group] += ((logit - top).exp() / total) as f32;
                    }
                }
            }
        }
    }

    let (q, k, v) = (engine.upload(&q)?, engine.upload(&k)?, engine.upload(&v)?);
    let tables = engine.upload_tables(&tables)?;
    let attention = engine.upload_attention(options)?;
    let upload = |shape: &[usize], positions: &[i32]| {
        engine.upload_indices(shape, &positions.iter().map(|p| p.cast_unsigned()).collect::<Vec<_>>())
    };
    let positions = match &positions {
        Some((rows, tokens)) => Some((upload(&made.pool[0][..3], rows)?, upload(&[block], tokens)?)),
        None => None,
    };
    let queries = NewQueries { q: &q, starts: &starts, positions: positions.as_ref().map(|p| &p.1) };
    let kv = PagedKv { k: &k, v: &v, positions: positions.as_ref().map(|p| &p.0) };
    let (_, lse) = engine.attend_paged(&queries, &kv, &tables, &attention)?;
    let mut sums = engine.upload(&before)?;
    engine.add_attention(&mut sums, &queries, &kv, &tables, &attention, &lse)?;
    let got = read(engine, &sums)?.to_f32_vec();
    assert_close(&what, &got, &expected, tolerance(Op::LogSumExp, dtype));
    let mut other = engine.upload(&random(1, &[2, 2], DType::F32, 0.0))?;
    assert_refused!(
        engine.add_attention(&mut other, &queries, &kv, &tables, &attention, &lse),
        CoreError::ShapeMismatch { what: "sums of attention", .. }
    );
    Ok(())
}
