//! What a video cache does to whole frames: write with moments, score, align.

use tether_core::{AlignJob, CoreError, Engine, SlotId, StoreSpec, Summaries};
use tether_kernels::cubecl::Runtime;

use crate::Bench;
use crate::bench::{CLOSE, Work};
use crate::reference::relative;

const HEADS: usize = 12;
const DIM: usize = 128;
const FRAME: usize = 1560;
const CHANNELS: usize = HEADS * DIM;

pub(crate) fn run<R: Runtime>(bench: &mut Bench<'_, R>) -> Result<(), CoreError> {
    write(bench)?;
    align(bench, 1)?;
    align(bench, 21)?;
    score(bench)
}

fn spec<R: Runtime>(bench: &Bench<'_, R>, slots: usize) -> StoreSpec {
    let dtype = bench.half();
    StoreSpec { slots, tokens_per_unit: FRAME, kv_heads: HEADS, head_dim_k: DIM, head_dim_v: DIM, dtype }
}

fn slots(range: std::ops::Range<usize>) -> Vec<SlotId> {
    range.map(|i| SlotId(i as u32)).collect()
}

/// Writing a frame with its moments, beside a plain copy of its bytes.
fn write<R: Runtime>(bench: &mut Bench<'_, R>) -> Result<(), CoreError> {
    let (engine, dtype) = (bench.engine, bench.half());
    for frames in [1usize, 3] {
        let shape = [frames * FRAME, HEADS, DIM];
        let bytes = frames * FRAME * CHANNELS * dtype.bytes();
        let sets = Bench::<R>::sets(2 * bytes).min(16);
        let sides = |seed: usize| {
            (0..sets).map(|i| engine.noise(&shape, dtype, (seed + i) as u32)).collect::<Result<Vec<_>, _>>()
        };
        let (k, v) = (sides(100)?, sides(200)?);
        let mut store = engine.create_store(&spec(bench, sets * frames))?;
        let targets: Vec<Vec<SlotId>> = (0..sets).map(|i| slots(i * frames..(i + 1) * frames)).collect();
        let work = Work::Copy(4.0 * bytes as f64);
        let (ck, cv) = (sides(300)?, sides(400)?);
        let plain = bench.time(sets, |i| {
            engine.copy_through(&k[i], &ck[i])?;
            engine.copy_through(&v[i], &cv[i])
        })?;
        bench.record(
            "write_copy",
            format!("f{frames}x1560_h12d128_kv"),
            plain,
            (0.0, 0.0),
            work,
            "two plain copies, to compare with",
        );
        let skip =
            bench.time(sets, |i| engine.write(&mut store, &targets[i], &k[i], &v[i], Summaries::Skip))?;
        bench.record(
            "write",
            format!("f{frames}x1560_h12d128_kv"),
            skip,
            (0.0, 0.0),
            work,
            "without moments",
        );
        let with =
            bench.time(sets, |i| engine.write(&mut store, &targets[i], &k[i], &v[i], Summaries::Moments))?;
        let moments = bench.read(&engine.moments(&store, tether_core::Side::Keys, &targets[0])?)?;
        let host = bench.read(&k[0])?;
        let mut expected = vec![0.0f64; 2 * CHANNELS];
        for channel in 0..CHANNELS {
            let values =
                || host[..FRAME * CHANNELS].iter().skip(channel).step_by(CHANNELS).map(|&x| f64::from(x));
            let mean = values().sum::<f64>() / FRAME as f64;
            expected[channel] = mean;
            expected[CHANNELS + channel] = values().map(|x| (x - mean) * (x - mean)).sum();
        }
        let err = relative(moments[..2 * CHANNELS].iter().map(|&x| f64::from(x)), expected);
        bench.record(
            "write_moments",
            format!("f{frames}x1560_h12d128_kv"),
            with,
            (err, CLOSE),
            work,
            &dtype.to_string(),
        );
    }
    Ok(())
}

/// Aligning frames one by one to the statistics of three others.
fn align<R: Runtime>(bench: &mut Bench<'_, R>, frames: usize) -> Result<(), CoreError> {
    let (engine, dtype) = (bench.engine, bench.half());
    let bytes = 2 * frames * FRAME * CHANNELS * dtype.bytes();
    let sets = Bench::<R>::sets(bytes);
    let trusted = 3;
    let total = sets * frames + trusted;
    let mut store = engine.create_store(&spec(bench, total))?;
    for first in (0..total).step_by(8) {
        let some = slots(first..(first + 8).min(total));
        let shape = [some.len() * FRAME, HEADS, DIM];
        let (k, v) =
            (engine.noise(&shape, dtype, first as u32)?, engine.noise(&shape, dtype, 77 + first as u32)?);
        engine.write(&mut store, &some, &k, &v, Summaries::Moments)?;
    }
    let jobs: Vec<Vec<AlignJob>> = (0..sets)
        .map(|s| {
            let own = (0..frames).map(|f| SlotId((trusted + s * frames + f) as u32));
            own.map(|slot| AlignJob { slots: vec![slot], trusted: slots(0..trusted) }).collect()
        })
        .collect();
    let tau = 0.35f32;
    let before = bench.read(&engine.gather(&store, tether_core::Side::Keys, &jobs[0][0].slots, None)?)?;
    let target = bench.read(&engine.gather(&store, tether_core::Side::Keys, &slots(0..trusted), None)?)?;
    engine.align(&mut store, tau, &jobs[0])?;
    let after = bench.read(&engine.gather(&store, tether_core::Side::Keys, &jobs[0][0].slots, None)?)?;
    let statistics = |x: &[f32], channel: usize| {
        let values = || x.iter().skip(channel).step_by(CHANNELS).map(|&x| f64::from(x));
        let count = (x.len() / CHANNELS) as f64;
        let mean = values().sum::<f64>() / count;
        (mean, (values().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count).sqrt())
    };
    let t = f64::from(tau);
    let (mut got, mut expected) = (Vec::new(), Vec::new());
    for channel in [0, 1, 130, 777, CHANNELS - 1] {
        let ((mean, sd), (to, to_sd)) = (statistics(&before, channel), statistics(&target, channel));
        for token in 0..FRAME {
            let x = f64::from(before[token * CHANNELS + channel]);
            expected.push((1.0 - t) * x + t * ((x - mean) / sd * to_sd + to));
            got.push(f64::from(after[token * CHANNELS + channel]));
        }
    }
    let err = relative(got, expected);
    let timing = bench.time(sets, |i| engine.align(&mut store, tau, &jobs[i]))?;
    let work = Work::Copy(2.0 * bytes as f64);
    bench.record(
        "adain",
        format!("f{frames}x1560_h12d128_kv"),
        timing,
        (err, CLOSE),
        work,
        "moments stored; moments updated too",
    );
    Ok(())
}

/// GRAB's scores: the chunk's queries against the stored means of frames.
fn score<R: Runtime>(bench: &mut Bench<'_, R>) -> Result<(), CoreError> {
    let (engine, dtype) = (bench.engine, bench.half());
    let tokens = 3 * FRAME;
    let sets = Bench::<R>::sets(tokens * CHANNELS * dtype.bytes());
    let q = (0..sets)
        .map(|i| engine.noise(&[tokens, HEADS, DIM], dtype, 50 + i as u32))
        .collect::<Result<Vec<_>, _>>()?;
    for frames in [17usize, 21] {
        let mut store = engine.create_store(&spec(bench, frames))?;
        let shape = [frames * FRAME, HEADS, DIM];
        let (k, v) = (engine.noise(&shape, dtype, 1)?, engine.noise(&shape, dtype, 2)?);
        engine.write(&mut store, &slots(0..frames), &k, &v, Summaries::Moments)?;
        let candidates = [slots(0..frames)];
        let got = bench.read(&engine.mean_logits(&store, &q[0], &candidates)?)?;
        let mean = |x: &[f32]| {
            let mut sum = vec![0.0f64; CHANNELS];
            for row in x.chunks_exact(CHANNELS) {
                sum.iter_mut().zip(row).for_each(|(s, &x)| *s += f64::from(x));
            }
            let count = (x.len() / CHANNELS) as f64;
            sum.into_iter().map(move |s| s / count).collect::<Vec<f64>>()
        };
        let query = mean(&bench.read(&q[0])?);
        let host = bench.read(&k)?;
        let expected = host.chunks_exact(FRAME * CHANNELS).map(|frame| {
            let dot: f64 = mean(frame).iter().zip(&query).map(|(a, b)| a * b).sum();
            dot / HEADS as f64 / (DIM as f64).sqrt()
        });
        let err = relative(got.iter().map(|&x| f64::from(x)), expected);
        let timing = bench.time(sets, |i| engine.mean_logits(&store, &q[i], &candidates).map(drop))?;
        let work = Work::Read((tokens * CHANNELS * dtype.bytes()) as f64);
        let note = "means stored; the query is read once";
        if frames == 21 {
            bench.record("frame_score_pooled", "q4680_f21x1560_h12d128", timing, (err, CLOSE), work, note);
        } else {
            bench.record("mean_logits", "q4680_f17x1560_h12d128", timing, (err, CLOSE), work, note);
        }
    }
    Ok(())
}
