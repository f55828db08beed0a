//! Spherical codes: coding, and decode attention over pages of codes.

use tether_codec::{HostSpherical, SphericalBits, SphericalEngine, SphericalFormat, SphericalFrame};
use tether_core::{CoreError, DType, Side, TokenEngine};
use tether_kernels::cubecl::Runtime;

use crate::Bench;
use crate::bench::{CLOSE, Work};
use crate::pages::{DIM, HEADS, KV_HEADS, Pages};
use crate::reference::{attention_of_heads, relative};

/// Tokens of a page that all heads share, and of one that is a head's own.
const PAGES: [(&str, usize, usize); 2] = [("page 16 of 8 heads", 16, KV_HEADS), ("page 64 of a head", 64, 1)];

/// Decode attention with keys and values of so many bits.
pub(crate) fn run_decode<R: Runtime>(bench: &mut Bench<'_, R>) -> Result<(), CoreError> {
    use SphericalBits::{Four, Two};
    for (batch, context) in [(1usize, 131_072usize), (8, 32_768)] {
        let (engine, dtype) = (bench.engine, bench.half());
        let q = engine.noise(&[batch, HEADS, DIM], dtype, 1)?;
        let dense = [batch * context, KV_HEADS, DIM];
        let x = [engine.noise(&dense, dtype, 2)?, engine.noise(&dense, dtype, 3)?];
        let frames = frames(bench)?;
        let scale = 1.0 / (DIM as f32).sqrt();
        for (bits_k, bits_v) in [(Four, Four), (Two, Four), (Two, Two)] {
            let bits = [bits_k, bits_v];
            let formats =
                [(Side::Keys, bits_k), (Side::Values, bits_v)].map(|(s, b)| SphericalFormat::of(s, b));
            let mut numbers = Vec::new();
            for i in 0..2 {
                let codes = engine.quantise_spherical(&x[i], &frames[i], formats[i])?;
                numbers.push(bench.read(&engine.dequantise_spherical(&codes, &frames[i], DType::F32)?)?);
            }
            let expected = attention_of_heads(
                &bench.read(&q)?,
                (&numbers[0], &numbers[1]),
                (batch, context),
                (HEADS, KV_HEADS, DIM),
            );
            drop(numbers);
            for (name, size, heads) in PAGES {
                let pages = Pages::new(batch, context, size, heads);
                let rows = engine.upload_indices(&[batch * context, KV_HEADS], &pages.rows())?;
                let shape = [batch * context / size * (KV_HEADS / heads), size, heads, DIM];
                let mut pools = Vec::new();
                for i in 0..2 {
                    let zeros = HostSpherical::zeros(&shape, formats[i])?;
                    let mut pool = engine.upload_spherical(&zeros)?;
                    engine.write_spherical(&mut pool, &rows, &x[i], &frames[i])?;
                    pools.push(pool);
                }
                let tables = engine.upload_tables(&pages.tables())?;
                let attend = || {
                    engine.decode_spherical(
                        &q,
                        (&pools[0], &frames[0]),
                        (&pools[1], &frames[1]),
                        &tables,
                        scale,
                    )
                };
                let out = bench.read(&attend()?.0)?;
                let err = relative(out.into_iter().map(f64::from), expected.iter().copied());
                let timing = bench.time(1, |_| attend().map(drop))?;
                let bytes =
                    pools.iter().map(|pool| pool.bytes()).sum::<usize>() + 2 * 2 * batch * HEADS * DIM;
                let [k, v] = bits.map(SphericalBits::bits);
                bench.record(
                    "decode_spherical",
                    format!("b{batch}_ctx{context}_q32kv8d128_skv{k}_skv{v}"),
                    timing,
                    (err, CLOSE),
                    Work::Read(bytes as f64),
                    &format!("{name}; queries {dtype}"),
                );
            }
        }
    }
    Ok(())
}

/// Coding keys and values, of a prompt and of a batch's new tokens, beside a copy of them.
pub(crate) fn run_codes<R: Runtime>(bench: &mut Bench<'_, R>) -> Result<(), CoreError> {
    for tokens in [64usize, 131_072] {
        let dtype = bench.half();
        let engine = bench.engine;
        let shape = [tokens, KV_HEADS, DIM];
        let x = [engine.noise(&shape, dtype, 1)?, engine.noise(&shape, dtype, 2)?];
        let frames = frames(bench)?;
        let copies = [engine.noise(&shape, dtype, 3)?, engine.noise(&shape, dtype, 4)?];
        let copy = bench.time(1, |_| {
            engine.copy_through(&x[0], &copies[0])?;
            engine.copy_through(&x[1], &copies[1])
        })?;
        let host = bench.read(&x[0])?;
        let rows: Vec<u32> = (0..(tokens * KV_HEADS) as u32).collect();
        let rows = engine.upload_indices(&shape[..2], &rows)?;
        for bits in SphericalBits::ALL {
            let formats = [Side::Keys, Side::Values].map(|side| SphericalFormat::of(side, bits));
            let mut pools = Vec::new();
            for format in formats {
                pools.push(engine.upload_spherical(&HostSpherical::zeros(&shape, format)?)?);
            }
            let timing = bench.time(1, |_| {
                let [k, v] = pools.as_mut_slice() else { return Ok(()) };
                engine.write_spherical_pair([k, v], &rows, [&x[0], &x[1]], [&frames[0], &frames[1]])
            })?;
            let back = bench.read(&engine.dequantise_spherical(&pools[0], &frames[0], DType::F32)?)?;
            let err = relative(back.into_iter().map(f64::from), host.iter().map(|&x| f64::from(x)));
            let bytes = 2 * (pools[0].bytes() + tokens * KV_HEADS * DIM * dtype.bytes());
            let of_copy = timing.ms / copy.ms;
            // What a normal number loses, and what fitting its radius to it costs.
            let tol = 1.25 * bits.distortion().sqrt();
            bench.record(
                "write_spherical",
                format!("t{tokens}_h8d128_kv_skv{}", bits.bits()),
                timing,
                (err, tol),
                Work::Copy(bytes as f64),
                &format!("{dtype}; err is the format's own; {of_copy:.2} times a copy of the numbers"),
            );
        }
    }
    Ok(())
}

/// Frames of keys and of values, not centred: noise has no mean.
fn frames<R: Runtime>(
    bench: &Bench<'_, R>,
) -> Result<[<tether_kernels::Cube<R> as SphericalEngine>::Frame; 2], CoreError> {
    let frame = |seed| bench.engine.upload_frame(&SphericalFrame::uncentred(KV_HEADS, DIM, seed)?);
    Ok([frame(1)?, frame(2)?])
}
