//! Causal block attention of pieces of a prompt over pages.

use tether_core::{AttendOptions, CoreError, NewQueries, PagedKv, TokenEngine};
use tether_kernels::CubeTensor;
use tether_kernels::cubecl::Runtime;

use crate::Bench;
use crate::bench::{CLOSE, Work};
use crate::pages::{DIM, HEADS, KV_HEADS, Pages};
use crate::reference::{attention, relative};

const PAGE: usize = 16;
/// Tokens of a piece.
const PIECE: usize = 2048;
/// Tokens and heads whose results are checked.
const SAMPLE: [(usize, usize); 5] = [(0, 0), (63, 31), (777, 5), (1500, 18), (PIECE - 1, 12)];

pub(crate) fn run<R: Runtime>(bench: &mut Bench<'_, R>) -> Result<(), CoreError> {
    let pieces = [(PIECE, PIECE), (PIECE, 16_384), (PIECE, 32_768), (128, 32_768), (16, 32_768)];
    for (new, context) in pieces {
        // Pages of all heads, and of one, as token sessions have them.
        for page_heads in [KV_HEADS, 1] {
            let (engine, dtype) = (bench.engine, bench.half());
            let pool = [KV_HEADS / page_heads * context / PAGE, PAGE, page_heads, DIM];
            let q = engine.noise(&[new, HEADS, DIM], dtype, 1)?;
            let (k, v) = (engine.noise(&pool, dtype, 2)?, engine.noise(&pool, dtype, 3)?);
            let pages = Pages::new(1, context, PAGE, page_heads);
            let tables = engine.upload_tables(&pages.tables())?;
            let options = AttendOptions::scaled(1.0 / (DIM as f32).sqrt());
            let attention = engine.upload_attention(&options)?;
            let starts = [0, new as u32];
            let attend = || {
                let queries = NewQueries { q: &q, starts: &starts, positions: None };
                let kv = PagedKv { k: &k, v: &v, positions: None };
                engine.attend_paged(&queries, &kv, &tables, &attention)
            };
            let err = error(bench, &pages, (new, context, page_heads), &q, (&k, &v), &attend()?.0)?;
            let timing = bench.time(1, |_| attend().map(drop))?;
            let seen = new * (context - new) + new * (new + 1) / 2;
            bench.record(
                "prefill",
                format!("q{new}_kv{context}_q32kv8d128_bf16"),
                timing,
                (err, CLOSE),
                Work::Product(4.0 * (seen * HEADS * DIM) as f64),
                &format!("causal; page {PAGE} of {page_heads} heads; {dtype}"),
            );
        }
    }
    Ok(())
}

/// Relative error of some tokens and heads.
fn error<R: Runtime>(
    bench: &Bench<'_, R>,
    pages: &Pages,
    (new, context, page_heads): (usize, usize, usize),
    q: &CubeTensor,
    (k, v): (&CubeTensor, &CubeTensor),
    out: &CubeTensor,
) -> Result<f64, CoreError> {
    let (q, k, v, out) = (bench.read(q)?, bench.read(k)?, bench.read(v)?, bench.read(out)?);
    let (mut got, mut expected) = (Vec::new(), Vec::new());
    for (token, head) in SAMPLE.into_iter().filter(|&(token, _)| token < new) {
        let kv_head = head / (HEADS / KV_HEADS);
        let of = pages.of_list(kv_head / page_heads);
        let row = |t: usize| {
            let slot = of[t / PAGE] as usize * PAGE + t % PAGE;
            (slot * page_heads + kv_head % page_heads) * DIM
        };
        let at = (token * HEADS + head) * DIM;
        let seen = context - new + token + 1;
        let scale = 1.0 / (DIM as f64).sqrt();
        let (key, value) = (|t: usize| &k[row(t)..][..DIM], |t: usize| &v[row(t)..][..DIM]);
        expected.extend(attention(&q[at..][..DIM], seen, scale, key, value));
        got.extend(out[at..][..DIM].iter().map(|&x| f64::from(x)));
    }
    Ok(relative(got, expected))
}
