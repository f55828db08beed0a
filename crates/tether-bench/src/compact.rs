//! Compaction: a quarter of the tokens is kept.

use tether_core::{CoreError, TokenEngine, TokenLayout, TokenShape};
use tether_kernels::cubecl::Runtime;
use tether_testing::oracle::gather_token_rows;

use crate::Bench;
use crate::bench::Work;

/// One of every four in a row, which one varies.
fn kept(count: usize, seed: usize) -> Vec<u32> {
    (0..count / 4).map(|i| (4 * i + (i * 2_654_435_761 + seed * 97) / 64 % 4) as u32).collect()
}

pub(crate) fn run<R: Runtime>(bench: &mut Bench<'_, R>) -> Result<(), CoreError> {
    let (tokens, heads, dim, page) = (131_072usize, 8usize, 128usize, 16usize);
    let (engine, dtype) = (bench.engine, bench.half());
    let row_bytes = dim * dtype.bytes();
    let k = engine.noise(&[heads, tokens, dim], dtype, 1)?;
    let v = engine.noise(&[heads, tokens, dim], dtype, 2)?;
    let rows: Vec<u32> = (0..heads).flat_map(|h| kept(tokens, h)).collect();
    let indices = engine.upload_indices(&[heads, tokens / 4], &rows)?;
    let got = bench.read(&engine.gather_rows_of_two((&v, &k), TokenLayout::Hnd, &indices)?.1)?;
    let host = bench.read(&k)?;
    let from = TokenShape { tokens, heads, head_dim: dim, layout: TokenLayout::Hnd };
    let same = got == gather_token_rows(&host, &from, &rows);
    let timing =
        bench.time(1, |_| engine.gather_rows_of_two((&k, &v), TokenLayout::Hnd, &indices).map(drop))?;
    let bytes = (2 * 2 * (tokens / 4) * heads * row_bytes + 4 * (tokens / 4) * heads) as f64;
    let wrong = |same: bool| if same { 0.0 } else { f64::INFINITY };
    let note = dtype.to_string();
    bench.record(
        "gather_heads",
        "t131072_keep25_h8d128_kv",
        timing,
        (wrong(same), 1e-9),
        Work::Copy(bytes),
        &note,
    );

    let shape = [tokens / page, page, heads, dim];
    let (k, v) = (engine.noise(&shape, dtype, 1)?, engine.noise(&shape, dtype, 2)?);
    let pages = kept(tokens / page, 0);
    let indices = engine.upload_indices(&[pages.len()], &pages)?;
    let got = bench.read(&engine.gather_pages_of_two((&v, &k), &indices)?.1)?;
    let host = bench.read(&k)?;
    let page_len = page * heads * dim;
    let same = got
        .chunks_exact(page_len)
        .zip(&pages)
        .all(|(got, &p)| got == &host[p as usize * page_len..][..page_len]);
    let timing = bench.time(1, |_| engine.gather_pages_of_two((&k, &v), &indices).map(drop))?;
    let bytes = (2 * 2 * (tokens / 4) * heads * row_bytes) as f64;
    let shape = "t131072_keep25_page16_h8d128_kv";
    bench.record("gather_pages", shape, timing, (wrong(same), 1e-9), Work::Copy(bytes), &note);
    Ok(())
}
