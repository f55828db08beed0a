//! Attention with options: scale, soft cap, sliding window, `ALiBi` slopes and sink logits, each alone and all together.

use tether_core::{
    AttendOptions, BlockTables, CoreError, DType, DecodeProblem, EMPTY_LSE, NewQueries, PagedKv, TokenEngine,
};

use super::assert_refused;
use super::decode::{DecodeShape, PagedTokens, shape};
use super::extend::{TokenLists, starts};
use crate::oracle::literal_attention;
use crate::tensors::{indices, poison, random, read, tensor};
use crate::{Op, assert_close, tolerance};

/// Lists, and how many of the last tokens of each sequence are new.
const BATCHES: [(DecodeShape, &[u32]); 11] = [
    (shape((1, 1), (1, 1), (64, 64), 16, &[1]), &[1]),
    (shape((2, 3), (2, 3), (6, 10), 5, &[37, 41, 2, 35]), &[1, 1]),
    (shape((2, 8), (1, 2), (128, 128), 16, &[100, 64]), &[1, 1]),
    (shape((2, 4), (2, 1), (80, 80), 5, &[60, 33, 1, 48]), &[1, 1]),
    // Long enough to be split, unevenly.
    (shape((1, 4), (1, 1), (64, 64), 16, &[3001]), &[1]),
    (shape((2, 1), (1, 2), (128, 128), 16, &[1500, 3]), &[1, 1]),
    // Blocks: a whole text, and pieces of prompts beside single tokens.
    (shape((1, 3), (3, 1), (64, 64), 16, &[97, 41, 40]), &[40]),
    (shape((3, 2), (2, 1), (64, 64), 16, &[75, 40, 17, 96, 33, 18]), &[1, 33, 4]),
    (shape((2, 3), (1, 2), (80, 96), 5, &[150, 7]), &[20, 7]),
    // More query heads of a key head than the rows of half a matrix unit, and pages of one token.
    (shape((1, 12), (1, 1), (64, 64), 1, &[90]), &[2]),
    (shape((2, 5), (1, 1), (256, 6), 4, &[50, 21]), &[3, 1]),
];

/// Where tokens stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Places {
    /// Nothing is said: where they are in their lists.
    Unsaid,
    /// In order, with gaps that differ between heads.
    Gaps,
    /// Older tokens in any order, as evictions leave them.
    AnyOrder,
    /// So far behind that a window holds none of them, not even a query's own.
    Behind,
}

impl Places {
    /// Positions of the pool's rows and of the new tokens.
    pub(super) fn positions(
        self,
        made: &PagedTokens,
        page_heads: usize,
        starts: &[u32],
    ) -> Option<(Vec<i32>, Vec<i32>)> {
        if self == Self::Unsaid {
            return None;
        }
        let tables = made.tables();
        let sequences = tables.sequences();
        // Whoever reads a row that is nobody's sees what is to come.
        let mut rows = vec![1 << 30; made.pool[0][..3].iter().product()];
        let mut tokens = vec![0; starts[sequences] as usize];
        for (list, &length) in tables.lengths.iter().enumerate() {
            let sequence = list % sequences;
            let new = starts[sequence] as usize..starts[sequence + 1] as usize;
            let first = 4 * tables.longest() as i32 + 10 + sequence as i32;
            for (i, token) in tokens[new.clone()].iter_mut().enumerate() {
                *token = first + (i + i / 2) as i32;
            }
            let older = length as usize - new.len();
            for head in 0..page_heads {
                let mut places: Vec<i32> = (0..older)
                    .scan(first, |at, i| {
                        *at -= 1 + ((i * 7 + list + head) % 4) as i32;
                        Some(*at)
                    })
                    .collect();
                places.reverse();
                if self == Self::AnyOrder {
                    for (i, j) in (1..older).zip(indices((900 + list * 7 + head) as u64, usize::MAX >> 33)) {
                        places.swap(i, j as usize % (i + 1));
                    }
                }
                places.extend(&tokens[new.clone()]);
                for (token, place) in places.into_iter().enumerate() {
                    rows[row_of(&tables, list, token) * page_heads + head] = place;
                }
            }
        }
        if self == Self::Behind {
            tokens.iter_mut().for_each(|token| *token += 2_000_000);
        }
        Some((rows, tokens))
    }
}

/// The row of a list's token, of pages with one head.
fn row_of(tables: &BlockTables<'_>, list: usize, token: usize) -> usize {
    let page = tables.pages[tables.indptr[list] as usize + token / tables.page_size] as usize;
    page * tables.page_size + token % tables.page_size
}

/// Options with what they are for.
pub(super) fn all_options(of: &DecodeShape) -> Vec<(&'static str, AttendOptions)> {
    let (heads, scale) = (of.query_heads(), of.scale());
    let plain = AttendOptions::scaled(scale);
    let slopes = || (1..=heads).map(|head| (-8.0 * head as f32 / heads as f32).exp2()).collect();
    let sinks = || (0..heads).map(|head| (head as f32 * 0.7) % 4.0 - 1.5).collect();
    let window = |window| AttendOptions { window: Some(window), ..plain.clone() };
    let together = |window| AttendOptions {
        scale: 20.0 * scale,
        softcap: Some(5.0),
        window: Some(window),
        alibi: slopes(),
        sinks: sinks(),
    };
    vec![
        ("scale", AttendOptions::scaled(0.31)),
        ("soft cap", AttendOptions { scale: 20.0 * scale, softcap: Some(5.0), ..plain.clone() }),
        ("window of itself", window(1)),
        ("window shorter than a page", window(3)),
        ("window of some pages", window(40)),
        ("window longer than the text", window(u32::MAX)),
        ("slopes", AttendOptions { alibi: slopes(), ..plain.clone() }),
        ("sinks", AttendOptions { sinks: sinks(), ..plain.clone() }),
        ("window and sinks", AttendOptions { sinks: sinks(), ..window(20) }),
        ("all, short window", together(3)),
        ("all", together(40)),
    ]
}

/// Makes keys and values NaN of which nobody has a use: those that no query of their sequence sees, with all tokens of their page and of the 16
/// tokens that they are among. Tokens are in order.
fn spoil(
    made: &mut PagedTokens,
    (page_heads, starts): (usize, &[u32]),
    positions: Option<&(Vec<i32>, Vec<i32>)>,
    window: u32,
) {
    let mut spoilt = Vec::new();
    let tables = made.tables();
    for (list, &length) in tables.lengths.iter().enumerate() {
        let sequence = list % tables.sequences();
        let (first, end) = (starts[sequence], starts[sequence + 1]);
        for head in 0..page_heads {
            let row = |token| row_of(&tables, list, token) * page_heads + head;
            let place = |token| positions.map_or(token as i64, |(rows, _)| i64::from(rows[row(token)]));
            let own = (length - (end - first)) as usize;
            let query = positions.map_or(own as i64, |(_, tokens)| i64::from(tokens[first as usize]));
            for token in 0..length as usize {
                let last = |of: usize| token / of * of + of - 1;
                let last = last(16).max(last(tables.page_size));
                if last < own && query - place(last) >= i64::from(window) {
                    spoilt.push(row(token));
                }
            }
        }
    }
    let dims = [made.pool[0][3], made.pool[1][3]];
    for row in spoilt {
        made.k[row * dims[0]..][..dims[0]].fill(f32::NAN);
        made.v[row * dims[1]..][..dims[1]].fill(f32::NAN);
    }
}

/// Attention with each option, and with all of them, of single tokens, blocks and batches, whose positions are given or not, is the oracle's; what lies
/// wholly outside a window is not looked at where tokens are in order.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When an output or a log-sum-exp is wrong.
pub fn attends_with_options<E: TokenEngine>(engine: &E, dtype: DType) -> Result<(), CoreError> {
    for (i, (of, new)) in BATCHES.iter().enumerate() {
        for (name, options) in all_options(of) {
            for places in [Places::Unsaid, Places::Gaps, Places::AnyOrder, Places::Behind] {
                let asked = match places {
                    Places::Unsaid => true,
                    Places::Gaps => !options.alibi.is_empty() || matches!(options.window, Some(3..=40)),
                    Places::AnyOrder => options.window == Some(40),
                    Places::Behind => matches!(options.window, Some(20..=40)) && options.alibi.is_empty(),
                };
                if asked {
                    let what = format!("{of:?}, {new:?} new, {dtype}, {name}, {places:?}");
                    attends_with(engine, dtype, (i as u64, of, new), &what, &options, places)?;
                }
            }
        }
    }
    Ok(())
}

fn attends_with<E: TokenEngine>(
    engine: &E,
    dtype: DType,
    (seed, of, new): (u64, &DecodeShape, &[u32]),
    what: &str,
    options: &AttendOptions,
    places: Places,
) -> Result<(), CoreError> {
    let mut made = PagedTokens::of(of, 801 + 10 * seed);
    let starts = starts(new);
    let block = starts[new.len()] as usize;
    let page_heads = made.pool[0][2];
    let positions = places.positions(&made, page_heads, &starts);
    if let Some(window) = options.window.filter(|_| matches!(places, Places::Unsaid | Places::Gaps)) {
        spoil(&mut made, (page_heads, &starts), positions.as_ref(), window);
    }
    let [k, v] = [(&made.pool[0], &made.k), (&made.pool[1], &made.v)]
        .map(|(shape, values)| tensor(shape, dtype, values));
    let tables = made.tables();
    let q = random(851 + seed, &[block, of.query_heads(), of.head_dims.0], dtype, 0.0);
    let token_lists = TokenLists::of(&tables, &starts);
    let extents = (tables.page_size, tables.groups, block);
    let problem = DecodeProblem::new(q.shape(), &made.pool[0], &made.pool[1], extents, tables.page_bound())?;
    let numbers = [&q, &k, &v].map(|x| x.to_f32_vec());
    let (expected, expected_lse) = literal_attention(
        [&numbers[0], &numbers[1], &numbers[2]],
        &problem,
        &token_lists.tables(&tables),
        positions.as_ref().map(|(rows, tokens)| (&rows[..], &tokens[..])),
        options,
    );
    let upload = |shape: &[usize], positions: &[i32]| {
        let bits: Vec<u32> = positions.iter().map(|p| p.cast_unsigned()).collect();
        engine.upload_indices(shape, &bits)
    };
    let positions = match &positions {
        Some((rows, tokens)) => Some((upload(&made.pool[0][..3], rows)?, upload(&[block], tokens)?)),
        None => None,
    };
    let (q, k, v) = (engine.upload(&q)?, engine.upload(&k)?, engine.upload(&v)?);
    let queries = NewQueries { q: &q, starts: &starts, positions: positions.as_ref().map(|p| &p.1) };
    let kv = PagedKv { k: &k, v: &v, positions: positions.as_ref().map(|p| &p.0) };
    let (tables, attention) = (engine.upload_tables(&tables)?, engine.upload_attention(options)?);
    poison(engine, block * of.query_heads() * of.head_dims.1)?;
    let (out, lse) = engine.attend_paged(&queries, &kv, &tables, &attention)?;
    let (out, lse) = (read(engine, &out)?, read(engine, &lse)?.to_f32_vec());
    assert_eq!(out.shape(), [block, of.query_heads(), of.head_dims.1], "{what}");
    assert_close(what, &out.to_f32_vec(), &expected, tolerance(Op::Attend, dtype));
    let what = format!("{what}: log-sum-exp");
    assert_close(&what, &lse, &expected_lse, tolerance(Op::LogSumExp, dtype));
    for (lse, expected) in lse.iter().zip(&expected_lse).filter(|(_, e)| **e <= EMPTY_LSE) {
        assert_eq!(lse, expected, "{what} of nothing");
    }
    let empty = expected_lse.iter().filter(|&&lse| lse <= EMPTY_LSE).count();
    let all = options.sinks.is_empty() && options.window.is_some_and(|w| w < 1 << 20);
    assert_eq!(empty > 0, places == Places::Behind && all, "{what}: queries that see nothing");
    Ok(())
}

/// Options that are no options, numbers for other heads, and positions that are not those of the pool and the tokens, are refused.
///
/// # Errors
/// What the engine refuses and should not.
///
/// # Panics
/// When it accepts one of the calls.
pub fn refuses_options_that_do_not_fit<E: TokenEngine>(engine: &E) -> Result<(), CoreError> {
    let plain = AttendOptions::scaled(1.0);
    let upload = |options| engine.upload_attention(&options);
    assert_refused!(
        upload(AttendOptions::scaled(f32::NAN)),
        CoreError::NonFinite { what: "scale", index: 0 }
    );
    assert_refused!(
        upload(AttendOptions { sinks: vec![0.0, f32::NAN], ..plain.clone() }),
        CoreError::NonFinite { what: "sink logits", index: 1 }
    );
    assert_refused!(
        upload(AttendOptions { softcap: Some(-1.0), ..plain.clone() }),
        CoreError::Geometry { field: "softcap", .. }
    );
    assert_refused!(
        upload(AttendOptions { window: Some(0), ..plain.clone() }),
        CoreError::Geometry { field: "window", .. }
    );

    let pool = engine.upload(&random(871, &[2, 4, 1, 8], DType::F32, 0.0))?;
    let q = engine.upload(&random(872, &[3, 2, 8], DType::F32, 0.0))?;
    let lists = BlockTables { page_size: 4, groups: 1, indptr: &[0, 2], pages: &[0, 1], lengths: &[5] };
    let tables = engine.upload_tables(&lists)?;
    let attend = |options: AttendOptions, rows: Option<&E::Indices>, tokens: Option<&E::Indices>| {
        let queries = NewQueries { q: &q, starts: &[0, 3], positions: tokens };
        let kv = PagedKv { k: &pool, v: &pool, positions: rows };
        engine.attend_paged(&queries, &kv, &tables, &engine.upload_attention(&options)?)
    };
    assert_refused!(
        attend(AttendOptions { alibi: vec![0.5; 3], ..plain.clone() }, None, None),
        CoreError::Count { what: "alibi slopes", expected: 2, got: 3 }
    );
    assert_refused!(
        attend(AttendOptions { sinks: vec![0.5], ..plain.clone() }, None, None),
        CoreError::Count { what: "sink logits", expected: 2, got: 1 }
    );
    let positions = |shape: &[usize]| engine.upload_indices(shape, &vec![1; shape.iter().product()]);
    let (rows, tokens) = (positions(&[2, 4, 1])?, positions(&[3])?);
    let windowed = AttendOptions { window: Some(2), ..plain };
    assert!(attend(windowed.clone(), Some(&rows), Some(&tokens)).is_ok(), "a position for each");
    for (rows, tokens) in [(Some(&rows), None), (None, Some(&tokens))] {
        assert_refused!(
            attend(windowed.clone(), rows, tokens),
            CoreError::Count { what: "positions of new tokens", .. }
        );
    }
    assert_refused!(
        attend(windowed.clone(), Some(&positions(&[2, 4])?), Some(&tokens)),
        CoreError::ShapeMismatch { what: "positions of rows", .. }
    );
    assert_refused!(
        attend(windowed, Some(&rows), Some(&positions(&[4])?)),
        CoreError::ShapeMismatch { what: "positions of tokens", .. }
    );
    Ok(())
}
