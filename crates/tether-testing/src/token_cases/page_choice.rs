//! Bounds of pages, and a choice among pages by them.

use std::ops::Range;

use tether_core::{CoreError, DType, HostTensor, PageChoice, PageLists, TokenEngine};

use super::assert_refused;
use crate::tensors::{assert_same_bits, poison, random, read, tensor};
use crate::{Op, assert_close, tolerance};

/// Bounds of parts of pages are the lowest and highest numbers, bit by bit; others stay.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When a bit is wrong.
pub fn writes_page_bounds<E: TokenEngine>(engine: &E, dtype: DType) -> Result<(), CoreError> {
    let shapes = [(5, 4, 6, 1), (7, 16, 128, 1), (3, 1, 80, 1), (2, 3, 1, 3), (4, 12, 32, 4)];
    for (i, (pages, page, dim, parts)) in shapes.into_iter().enumerate() {
        let seed = 2_201 + 10 * i as u64;
        let (size, all) = (page / parts, pages * parts);
        let keys = random(seed, &[pages, page, 1, dim], dtype, 0.0);
        let before = random(seed + 1, &[pages, parts, 2, dim], dtype, 0.0);
        let named: Vec<u32> = (0..all as u32).rev().step_by(2).collect();
        let (numbers, mut expected) = (keys.to_f32_vec(), before.to_f32_vec());
        for &part in &named {
            for channel in 0..dim {
                let of = (0..size).map(|row| numbers[(part as usize * size + row) * dim + channel]);
                let at = part as usize * 2 * dim + channel;
                expected[at] = of.clone().fold(f32::INFINITY, f32::min);
                expected[at + dim] = of.fold(f32::NEG_INFINITY, f32::max);
            }
        }
        let (keys, mut bounds) = (engine.upload(&keys)?, engine.upload(&before)?);
        for which in [&[][..], &named] {
            engine.write_page_bounds(&mut bounds, &keys, &engine.upload_indices(&[which.len()], which)?)?;
            let expected =
                if which.is_empty() { before.clone() } else { tensor(before.shape(), dtype, &expected) };
            let what = format!("bounds of {which:?} of {pages} pages of {parts} parts of {size}, {dtype}");
            assert_same_bits(&what, &read(engine, &bounds)?, &expected);
        }
        let beyond = engine.upload_indices(&[1], &[all as u32])?;
        assert_refused!(
            engine.write_page_bounds(&mut bounds, &keys, &beyond),
            CoreError::Count { what: "parts of pages", .. }
        );
        let mut uneven = engine.upload(&HostTensor::zeros(&[pages, page + 1, 2, dim], dtype)?)?;
        let none = engine.upload_indices(&[0], &[])?;
        assert_refused!(
            engine.write_page_bounds(&mut uneven, &keys, &none),
            CoreError::Geometry { field: "parts", .. }
        );
    }
    Ok(())
}

/// A choice: key heads, query heads of each, channels, tokens of a page, tokens of a list, pages of a run, runs to choose from and how many.
struct Choice {
    heads: (usize, usize),
    dim: usize,
    page: usize,
    tokens: usize,
    run: usize,
    between: Range<usize>,
    count: usize,
}

const fn choice(
    heads: (usize, usize),
    dim: usize,
    (page, tokens): (usize, usize),
    run: usize,
    between: Range<usize>,
    count: usize,
) -> Choice {
    Choice { heads, dim, page, tokens, run, between, count }
}

const CHOICES: [Choice; 8] = [
    choice((1, 1), 64, (4, 3), 1, 0..0, 0),
    choice((2, 2), 32, (4, 33), 1, 0..8, 3),
    choice((2, 3), 10, (3, 50), 2, 1..7, 2),
    choice((3, 1), 80, (4, 64), 1, 2..15, 12),
    // All of them, and none.
    choice((2, 1), 64, (4, 33), 1, 1..8, 7),
    choice((2, 4), 64, (4, 33), 1, 1..8, 0),
    choice((8, 4), 128, (16, 1_000), 1, 0..62, 20),
    choice((4, 2), 64, (4, 4_411), 4, 1..275, 100),
];

/// What is read are the runs with the largest bounds, and all that are not chosen from: attention to what was chosen says which they are.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When another page is read.
pub fn chooses_pages<E: TokenEngine>(engine: &E, dtype: DType) -> Result<(), CoreError> {
    for (i, case) in CHOICES.into_iter().enumerate() {
        let Choice { heads: (kv_heads, group), dim, page, tokens, run, ref between, count } = case;
        let seed = 2_301 + 10 * i as u64;
        let pages = tokens.div_ceil(page);
        let pool_pages = kv_heads * pages + 2;
        let shape = [pool_pages, page, 1, dim];
        let (k, v) = (random(seed, &shape, dtype, 0.0), random(seed + 1, &shape, dtype, 0.0));
        let q = random(seed + 2, &[1, kv_heads * group, dim], dtype, 0.0);
        let on = |x: &HostTensor| engine.upload(x);
        let (k_on, v_on, q_on) = (on(&k)?, on(&v)?, on(&q)?);
        let mut bounds = on(&HostTensor::zeros(&[pool_pages, 1, 2, dim], dtype)?)?;
        let every: Vec<u32> = (0..pool_pages as u32).collect();
        engine.write_page_bounds(&mut bounds, &k_on, &engine.upload_indices(&[pool_pages], &every)?)?;
        // Pages in no order, and lists with room between them.
        let room = pages + 3;
        let page_of = |head: usize, n: usize| (pool_pages - 1 - (n * kv_heads + head)) as u32;
        let mut table = engine.create_page_table(kv_heads * room)?;
        let entries = (0..kv_heads).flat_map(|h| (0..pages).map(move |n| (h, n)));
        let (at, named): (Vec<u32>, Vec<u32>) =
            entries.map(|(h, n)| ((h * room + n) as u32, page_of(h, n))).unzip();
        engine.write_page_table(&mut table, &at, &named)?;
        let starts: Vec<u32> = (0..kv_heads).map(|h| (h * room) as u32).collect();
        let lengths = vec![tokens as u32; kv_heads];
        let lists = PageLists { page_size: page, groups: kv_heads, starts: &starts, lengths: &lengths };
        let asked = || PageChoice {
            q: &q_on,
            bounds: &bounds,
            table: &table,
            lists: &lists,
            run,
            between: between.clone(),
            count,
        };
        if !engine.chooses_pages() {
            assert_refused!(engine.choose_pages(&asked()), CoreError::Unsupported { .. });
            continue;
        }
        poison(engine, kv_heads * pages)?;
        let tables = engine.choose_pages(&asked())?;
        let (out, _) = engine.decode(&q_on, &k_on, &v_on, &tables, 0.2)?;
        let expected = expected(&case, (&k, &v, &q), page_of);
        let what = format!("{count} of runs {between:?} of {run} pages of {page}, {tokens} tokens, {dtype}");
        assert_close(&what, &read(engine, &out)?.to_f32_vec(), &expected, tolerance(Op::Attend, dtype));
        let more = PageChoice { count: between.len() + 1, ..asked() };
        assert_refused!(engine.choose_pages(&more), CoreError::Count { what: "candidates", .. });
        let beyond = PageChoice { between: 0..pages + 1, ..asked() };
        assert_refused!(engine.choose_pages(&beyond), CoreError::Count { what: "whole runs of pages", .. });
    }
    Ok(())
}

/// Attention of each query head to what its key head chooses.
fn expected(
    case: &Choice,
    (k, v, q): (&HostTensor, &HostTensor, &HostTensor),
    page_of: impl Fn(usize, usize) -> u32,
) -> Vec<f32> {
    let &Choice { heads: (kv_heads, group), dim, page, tokens, run, ref between, count } = case;
    let wide = |x: &HostTensor| x.to_f32_vec().into_iter().map(f64::from).collect::<Vec<_>>();
    let (k, v, q) = (wide(k), wide(v), wide(q));
    let row = |head: usize, t: usize| page_of(head, t / page) as usize * page + t % page;
    let mut out = Vec::new();
    for head in 0..kv_heads {
        let of_run = |n: usize| (n * run * page..(n + 1) * run * page).map(|t| row(head, t));
        let score = |n: usize| -> f64 {
            let of_channel = |c: usize| {
                let of = of_run(n).map(|r| k[r * dim + c]);
                let (low, high) =
                    (of.clone().fold(f64::INFINITY, f64::min), of.fold(f64::NEG_INFINITY, f64::max));
                let queries = (head * group..(head + 1) * group).map(|h| q[h * dim + c]);
                queries.map(|q| (q * low).max(q * high)).sum::<f64>()
            };
            (0..dim).map(of_channel).sum()
        };
        let mut order: Vec<(f64, usize)> = between.clone().map(|n| (score(n), n)).collect();
        order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let chosen: Vec<usize> = order[..count].iter().map(|c| c.1).collect();
        let is_read = |t: &usize| {
            let n = t / (run * page);
            !between.contains(&n) || chosen.contains(&n)
        };
        let read: Vec<usize> = (0..tokens).filter(is_read).map(|t| row(head, t)).collect();
        for query in q[head * group * dim..].chunks_exact(dim).take(group) {
            let dot = |r: &usize| query.iter().zip(&k[r * dim..]).map(|(a, b)| a * b).sum::<f64>() * 0.2;
            let weights: Vec<f64> = read.iter().map(|r| dot(r).exp()).collect();
            let total: f64 = weights.iter().sum();
            let of = |c: usize| read.iter().zip(&weights).map(|(r, w)| w * v[r * dim + c]).sum::<f64>();
            out.extend((0..dim).map(|c| (of(c) / total) as f32));
        }
    }
    out
}
