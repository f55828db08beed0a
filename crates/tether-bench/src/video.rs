//! Block attention of a chunk of video over its window.

use tether_core::{AttendTable, CoreError, DType, Engine, SlotId, StoreSpec, Summaries};
use tether_kernels::cubecl::Runtime;

use crate::Bench;
use crate::bench::{CLOSE, Work};
use crate::reference::{attention, relative};

const HEADS: usize = 12;
const DIM: usize = 128;
const FRAME: usize = 1560;

pub(crate) fn run<R: Runtime>(bench: &mut Bench<'_, R>) -> Result<(), CoreError> {
    for frames in [21usize, 24, 12, 9] {
        let (engine, dtype) = (bench.engine, bench.half());
        let tokens = 3 * FRAME;
        let spec = StoreSpec {
            slots: frames,
            tokens_per_unit: FRAME,
            kv_heads: HEADS,
            head_dim_k: DIM,
            head_dim_v: DIM,
            dtype,
        };
        let mut store = engine.create_store(&spec)?;
        let slots: Vec<SlotId> = (0..frames).map(|i| SlotId((i * 5 % frames) as u32)).collect();
        let slots: Vec<SlotId> =
            if frames.is_multiple_of(5) { (0..frames as u32).map(SlotId).collect() } else { slots };
        let k = engine.noise(&[frames * FRAME, HEADS, DIM], dtype, 1)?;
        let v = engine.noise(&[frames * FRAME, HEADS, DIM], dtype, 2)?;
        engine.write(&mut store, &slots, &k, &v, Summaries::Skip)?;
        let q = engine.noise(&[tokens, HEADS, DIM], dtype, 3)?;
        let mut out = engine.noise(&[tokens, HEADS, DIM], DType::F32, 4)?;
        let positions: Vec<u32> = (0..frames as u32).collect();
        let table = [AttendTable { slots: &slots, positions: &positions, query_position: 0 }];
        engine.attend(&mut store, None, &q, &table, &mut out)?;
        let (hq, hk, hv, got) = (bench.read(&q)?, bench.read(&k)?, bench.read(&v)?, bench.read(&out)?);
        let (mut samples, mut expected) = (Vec::new(), Vec::new());
        for (token, head) in [(0usize, 0usize), (777, 5), (3001, 11), (4679, 7)] {
            let at = (token * HEADS + head) * DIM;
            let row = |t: usize| (t * HEADS + head) * DIM;
            let scale = 1.0 / (DIM as f64).sqrt();
            let query = &hq[at..at + DIM];
            expected.extend(attention(
                query,
                frames * FRAME,
                scale,
                |t| &hk[row(t)..][..DIM],
                |t| &hv[row(t)..][..DIM],
            ));
            samples.extend(got[at..at + DIM].iter().map(|&x| f64::from(x)));
        }
        let err = relative(samples, expected);
        let timing = bench.time(1, |_| engine.attend(&mut store, None, &q, &table, &mut out))?;
        let flop = 4.0 * (tokens * frames * FRAME * HEADS * DIM) as f64;
        let shape = format!("q{tokens}_kv{}_h12d128_bf16", frames * FRAME);
        bench.record(
            "ar_attn",
            shape,
            timing,
            (err, CLOSE),
            Work::Product(flop),
            &format!("frames in slots; {dtype}; out f32"),
        );
    }
    Ok(())
}
