//! Paged decode attention.

use tether_codec::{Bits, CodecEngine, Format, Grouping};
use tether_core::{CoreError, TokenEngine};
use tether_kernels::CubeTensor;
use tether_kernels::cubecl::Runtime;

use crate::Bench;
use crate::bench::{CLOSE, Work};
use crate::pages::{DIM, HEADS, KV_HEADS, Pages};
use crate::reference::{attention_of_heads, relative};

const PAGE: usize = 16;

pub(crate) fn run<R: Runtime>(bench: &mut Bench<'_, R>) -> Result<(), CoreError> {
    for batch in [1usize, 8, 64] {
        for context in [4096usize, 32_768, 131_072] {
            let (engine, dtype) = (bench.engine, bench.half());
            let bytes = 2 * batch * context * KV_HEADS * DIM * dtype.bytes();
            if bytes as u64 > 40_000_000_000 {
                continue;
            }
            let sets = Bench::<R>::sets(bytes);
            let pool = [batch * context / PAGE, PAGE, KV_HEADS, DIM];
            let noise = |shape: &[usize], seed: usize| engine.noise(shape, dtype, seed as u32);
            let q = (0..sets).map(|i| noise(&[batch, HEADS, DIM], i)).collect::<Result<Vec<_>, _>>()?;
            let k = (0..sets).map(|i| noise(&pool, 100 + i)).collect::<Result<Vec<_>, _>>()?;
            let v = (0..sets).map(|i| noise(&pool, 200 + i)).collect::<Result<Vec<_>, _>>()?;
            let pages = Pages::new(batch, context, PAGE, KV_HEADS);
            let tables = engine.upload_tables(&pages.tables())?;
            let scale = 1.0 / (DIM as f32).sqrt();
            let (out, _) = engine.decode(&q[0], &k[0], &v[0], &tables, scale)?;
            let err = error(bench, &pages, context, &q[0], &k[0], &v[0], &out)?;
            let timing =
                bench.time(sets, |i| engine.decode(&q[i], &k[i], &v[i], &tables, scale).map(drop))?;
            let bytes = bytes + 2 * batch * HEADS * DIM * 2;
            let shape = format!("b{batch}_ctx{context}_q32kv8d128_bf16");
            bench.record(
                "decode",
                shape,
                timing,
                (err, CLOSE),
                Work::Read(bytes as f64),
                &format!("page 16; {dtype}"),
            );
        }
    }
    Ok(())
}

pub(crate) fn run_codes<R: Runtime>(bench: &mut Bench<'_, R>) -> Result<(), CoreError> {
    for (batch, context) in [(1usize, 131_072usize), (8, 32_768)] {
        let (engine, dtype) = (bench.engine, bench.half());
        let q = engine.noise(&[batch, HEADS, DIM], dtype, 1)?;
        let pool = [batch * context / PAGE, PAGE, KV_HEADS, DIM];
        let (k, v) = (engine.noise(&pool, dtype, 2)?, engine.noise(&pool, dtype, 3)?);
        let pages = Pages::new(batch, context, PAGE, KV_HEADS);
        let tables = engine.upload_tables(&pages.tables())?;
        let scale = 1.0 / (DIM as f32).sqrt();
        for (op, name, bits, width) in
            [("decode_int8", "int8", Bits::Eight, 1.0), ("decode_int4", "int4", Bits::Four, 0.5)]
        {
            let format = Format { bits, grouping: Grouping::Token };
            let (kc, vc) = (engine.quantise(&k, format)?, engine.quantise(&v, format)?);
            let (out, _) = engine.decode_codes(&q, &kc, &vc, &tables, scale)?;
            let (kd, vd) = (engine.dequantise(&kc, dtype)?, engine.dequantise(&vc, dtype)?);
            let err = error(bench, &pages, context, &q, &kd, &vd, &out)?;
            let timing = bench.time(1, |_| engine.decode_codes(&q, &kc, &vc, &tables, scale).map(drop))?;
            let rows = 2.0 * (batch * context * KV_HEADS) as f64;
            let bytes = rows * (DIM as f64 * width + 4.0) + (2 * batch * HEADS * DIM * 2) as f64;
            let shape = format!("b{batch}_ctx{context}_q32kv8d128_{name}");
            bench.record(
                op,
                shape,
                timing,
                (err, CLOSE),
                Work::Read(bytes),
                &format!("page 16; queries {dtype}"),
            );
        }
    }
    Ok(())
}

/// Relative error of the first and the last sequence.
fn error<R: Runtime>(
    bench: &Bench<'_, R>,
    pages: &Pages,
    context: usize,
    q: &CubeTensor,
    k: &CubeTensor,
    v: &CubeTensor,
    out: &CubeTensor,
) -> Result<f64, CoreError> {
    let engine = bench.engine;
    let (q, out) = (bench.read(q)?, bench.read(out)?);
    let mut worst = 0.0f64;
    let last = q.len() / (HEADS * DIM) - 1;
    for sequence in if last == 0 { vec![0] } else { vec![0, last] } {
        let of = pages.of_list(sequence);
        let indices = engine.upload_indices(&[of.len()], of)?;
        let k = bench.read(&engine.gather_pages(k, &indices)?)?;
        let v = bench.read(&engine.gather_pages(v, &indices)?)?;
        let query = &q[sequence * HEADS * DIM..][..HEADS * DIM];
        let expected = attention_of_heads(query, (&k, &v), (1, context), (HEADS, KV_HEADS, DIM));
        let got = &out[sequence * HEADS * DIM..][..HEADS * DIM];
        worst = worst.max(relative(got.iter().map(|&x| f64::from(x)), expected));
    }
    Ok(worst)
}
