//! Quantisation.

use tether_codec::{Bits, CodecEngine, Format, Grouping};
use tether_core::CoreError;
use tether_kernels::cubecl::Runtime;

use crate::Bench;
use crate::bench::Work;
use crate::reference::relative;

pub(crate) fn run<R: Runtime>(bench: &mut Bench<'_, R>) -> Result<(), CoreError> {
    let (tokens, heads, dim) = (131_072usize, 8usize, 128usize);
    let rows = (tokens * heads) as f64;
    let width = dim as f64;
    let (engine, dtype) = (bench.engine, bench.half());
    let k = engine.noise(&[tokens, heads, dim], dtype, 1)?;
    let v = engine.noise(&[tokens, heads, dim], dtype, 2)?;
    let host = bench.read(&k)?;
    for (op, shape, bits, grouping, sides, bytes) in [
        ("quant_int8_token", "t131072_h8d128_kv", Bits::Eight, Grouping::Token, 2, width * 3.0 + 4.0),
        ("quant_int4_token", "t131072_h8d128_kv", Bits::Four, Grouping::Token, 2, width * 2.5 + 4.0),
        (
            "quant_int4_channel_g64",
            "t131072_h8d128_k",
            Bits::Four,
            Grouping::Channel(64),
            1,
            width * (2.5 + 8.0 / 64.0),
        ),
    ] {
        let format = Format { bits, grouping };
        let codes = engine.quantise(&k, format)?;
        let back = bench.read(&engine.dequantise(&codes, tether_core::DType::F32)?)?;
        let err = relative(back.into_iter().map(f64::from), host.iter().map(|&x| f64::from(x)));
        let timing = bench.time(1, |_| {
            engine.quantise(&k, format)?;
            if sides == 2 {
                engine.quantise(&v, format)?;
            }
            Ok(())
        })?;
        let note = format!("{dtype}; err is the format's own");
        let tol = if bits == Bits::Four { 0.2 } else { 1.2e-2 };
        bench.record(op, shape, timing, (err, tol), Work::Copy(f64::from(sides) * rows * bytes), &note);
    }
    Ok(())
}
