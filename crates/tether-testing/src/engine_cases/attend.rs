//! Rotations on read, and attention over tables of units.

use tether_core::{
    AlignJob, AttendTable, CoreError, DType, Engine, HostTensor, Pairing, Readback, Rotation, Side, SlotId,
    Summaries,
};

use super::{EngineShape, Written, units, written};
use crate::tensors::{random, read};
use crate::{Op, assert_close, dense_attention, rotate_3d, tolerance};

/// Wan's rotation of units at positions `0, 1, ..`, as many as `positions`.
pub(super) fn rotation<E: Engine>(
    engine: &E,
    shape: &EngineShape,
    positions: usize,
) -> Result<E::Rotation, CoreError> {
    let pairs = shape.head_dim_k / 2;
    let third = pairs / 3;
    let parts = [pairs - 2 * third, third, third];
    let frequency = |i: usize, of: usize| 10_000f64.powf(-(i as f64) / of as f64);
    let frequencies: Vec<f64> = parts.iter().flat_map(|&of| (0..of).map(move |i| frequency(i, of))).collect();
    let axes: Vec<u8> = (0..).zip(parts).flat_map(|(axis, n)| std::iter::repeat_n(axis, n)).collect();
    let places = Places::new(shape, positions);
    engine.upload_rotation(&Rotation {
        frequencies: &frequencies,
        axes: &axes,
        ..places.rotation(&places.lists())
    })
}

/// Unit position, row and column of every token of units at positions `0, 1, ..`.
struct Places {
    lists: [Vec<i32>; 3],
    rotary_dim: usize,
}

impl Places {
    fn new(shape: &EngineShape, positions: usize) -> Self {
        let tokens = shape.tokens();
        let list = |of: &dyn Fn(usize) -> usize| (0..positions * tokens).map(|i| of(i) as i32).collect();
        let width = shape.grid.1;
        let lists = [list(&|i| i / tokens), list(&|i| i % tokens / width), list(&|i| i % tokens % width)];
        Self { lists, rotary_dim: 2 * (shape.head_dim_k / 2) }
    }

    fn lists(&self) -> [&[i32]; 3] {
        self.lists.each_ref().map(Vec::as_slice)
    }

    /// Of interleaved pairs of a head, which do not turn yet.
    fn rotation<'a>(&self, deltas: &'a [&'a [i32]]) -> Rotation<'a> {
        Rotation {
            pairing: Pairing::Interleaved,
            rotary_dim: self.rotary_dim,
            first_pair: 0,
            frequencies: &[],
            axes: &[],
            deltas,
            tokens_per_delta: 1,
            scale: 1.0,
        }
    }
}

/// Keys copied out rotated are the oracle's, and values are not rotated.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When the result is out of tolerance.
pub fn rotates_keys_on_the_way_out<E: Engine>(
    engine: &E,
    shape: &EngineShape,
    dtype: DType,
) -> Result<(), CoreError> {
    let Written { store, k, v } = written(engine, shape, dtype)?;
    let slots = shape.slots();
    let uploaded = rotation(engine, shape, slots.len() + 4)?;
    let positions: Vec<u32> =
        (0..slots.len() as u32).map(|i| (i * 3 + 1) % (slots.len() as u32 + 4)).collect();
    let to = Some((&uploaded, positions.as_slice()));
    let got = read(engine, &engine.gather(&store, Side::Keys, &slots, to)?)?.to_f32_vec();
    let wide: Vec<i64> = positions.iter().map(|&p| i64::from(p)).collect();
    let expected = rotate_3d(&k.to_f32_vec(), &wide, shape.grid, shape.head_dim_k, 10_000.0);
    assert_close(&format!("{shape:?} {dtype}: rotated keys"), &got, &expected, tolerance(Op::Rotate, dtype));
    let got = read(engine, &engine.gather(&store, Side::Values, &slots, to)?)?;
    assert_eq!(got.data(), v.data(), "{shape:?} {dtype}: values");
    Ok(())
}

/// Attention over a table is dense attention over what the table names, with and without rotation.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When the result is out of tolerance.
pub fn attends_over_tables<E: Engine>(
    engine: &E,
    shape: &EngineShape,
    dtype: DType,
) -> Result<(), CoreError> {
    let Written { mut store, k, v } = written(engine, shape, dtype)?;
    let heads = shape.query_heads();
    let q = random(4, &shape.shape(shape.chunk, heads, shape.head_dim_k), dtype, 0.0);
    let slots = shape.slots();
    let positions: Vec<u32> = (0..shape.units as u32).collect();
    let query_position = (shape.units + 1) as u32;
    let uploaded = rotation(engine, shape, shape.units + 1 + shape.chunk)?;
    // Ragged tables, as above.
    let tables: Vec<AttendTable<'_>> = slots
        .chunks_exact(shape.units)
        .enumerate()
        .map(|(s, slots)| {
            let skip = s % shape.units;
            AttendTable { slots: &slots[skip..], positions: &positions[skip..], query_position }
        })
        .collect();
    let out_shape = shape.shape(shape.chunk, heads, shape.head_dim_v);
    let poison = HostTensor::from_f32(&out_shape, vec![f32::NAN; out_shape.iter().product()])?;
    for rotated in [true, false] {
        let mut out = engine.upload(&poison)?;
        engine.attend(&mut store, rotated.then_some(&uploaded), &engine.upload(&q)?, &tables, &mut out)?;
        let got = read(engine, &out)?.to_f32_vec();
        let (q, k, v) = (q.to_f32_vec(), units(&k, shape), units(&v, shape));
        let mut expected = Vec::new();
        for (s, q) in q.chunks_exact(q.len() / shape.sequences).enumerate() {
            let skip = s % shape.units;
            let of_sequence =
                |units: &[Vec<f32>]| units[s * shape.units + skip..(s + 1) * shape.units].concat();
            let (mut q, mut k, v) = (q.to_vec(), of_sequence(&k), of_sequence(&v));
            if rotated {
                let asked: Vec<i64> =
                    (0..shape.chunk).map(|i| i64::from(query_position) + i as i64).collect();
                let stored: Vec<i64> = positions[skip..].iter().map(|&p| i64::from(p)).collect();
                q = rotate_3d(&q, &asked, shape.grid, shape.head_dim_k, 10_000.0);
                k = rotate_3d(&k, &stored, shape.grid, shape.head_dim_k, 10_000.0);
            }
            let dims = (shape.head_dim_k, shape.head_dim_v);
            expected.extend(dense_attention(&q, &k, &v, (heads, shape.kv_heads), dims));
        }
        let what = format!("{shape:?} {dtype}: attention, rotated: {rotated}");
        assert_close(&what, &got, &expected, tolerance(Op::Attend, dtype));
    }
    Ok(())
}

/// What is attended to is what is there now: keys that were rotated for an earlier call are rotated again when they are written or edited, stand
/// elsewhere, or are asked for by another rotation, and only then.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When the result is not that of a store that nobody attended to before.
pub fn attends_to_what_is_there_now<E: Engine>(
    engine: &E,
    shape: &EngineShape,
    dtype: DType,
) -> Result<(), CoreError> {
    let Written { mut store, .. } = written(engine, shape, dtype)?;
    let (heads, slots, units) = (shape.query_heads(), shape.slots(), shape.units);
    let q = random(8, &shape.shape(shape.chunk, heads, shape.head_dim_k), dtype, 0.0);
    let q = engine.upload(&q)?;
    let rotations = [rotation(engine, shape, 2 * units + shape.chunk)?, rotation(engine, shape, 90)?];
    let one = EngineShape { sequences: 1, ..*shape };
    let unit_bytes = (shape.tokens() * shape.kv_heads * shape.head_dim_k * dtype.bytes()) as u64;
    let mut order: Vec<usize> = (0..units).collect();
    let mut first_position = 0u32;
    // What happens, and how many units of how many sequences are rotated for it.
    let all = shape.sequences * units;
    for (step, expected) in [all, 0, 1, 0, all, all, 0, all, all].into_iter().enumerate() {
        match step {
            2 => {
                let [k, v] = [(9, shape.head_dim_k), (10, shape.head_dim_v)]
                    .map(|(seed, dim)| random(seed, &one.shape(1, shape.kv_heads, dim), dtype, 0.1));
                let slot = [slots[units / 2]];
                engine.write(
                    &mut store,
                    &slot,
                    &engine.upload(&k)?,
                    &engine.upload(&v)?,
                    Summaries::Moments,
                )?;
            }
            4 => {
                let jobs: Vec<AlignJob> = slots
                    .iter()
                    .map(|&slot| AlignJob { slots: vec![slot], trusted: vec![slots[0], slots[units - 1]] })
                    .collect();
                engine.align(&mut store, 0.5, &jobs)?;
            }
            5 => first_position = 1,
            6 => engine.grow_store(&mut store, shape.spec(dtype).slots + 4)?,
            7 => order.reverse(),
            _ => {}
        }
        let uploaded = &rotations[usize::from(step == 8)];
        let positions: Vec<u32> = (first_position..).take(units).collect();
        let mut tables = Vec::new();
        for slots in slots.chunks_exact(units) {
            tables.push(order.iter().map(|&i| slots[i]).collect::<Vec<SlotId>>());
        }
        let tables: Vec<AttendTable<'_>> = tables
            .iter()
            .map(|slots| AttendTable { slots, positions: &positions, query_position: units as u32 })
            .collect();
        let out_shape = shape.shape(shape.chunk, heads, shape.head_dim_v);
        let poison = HostTensor::from_f32(&out_shape, vec![f32::NAN; out_shape.iter().product()])?;
        let mut out = engine.upload(&poison)?;
        let before = engine.traffic();
        engine.attend(&mut store, Some(uploaded), &q, &tables, &mut out)?;
        let rotated = engine.traffic().since(&before).rotated;
        let moved = match step {
            // One place is the middle of either order.
            7 if units % 2 == 1 => all - shape.sequences,
            _ => expected,
        };
        if !engine.stores_codes() {
            assert_eq!(rotated, moved as u64 * unit_bytes, "{shape:?} {dtype}: rotated in step {step}");
            let kept = engine.rotated_bytes(&store);
            assert!(kept >= all as u64 * unit_bytes, "{shape:?} {dtype}: {kept} bytes are kept");
        }
        let got = read(engine, &out)?;
        // The same units in a store that knows of no earlier call.
        let mut fresh = engine.create_store(&shape.spec(dtype))?;
        let k = engine.gather(&store, Side::Keys, &slots, None)?;
        let v = engine.gather(&store, Side::Values, &slots, None)?;
        engine.write(&mut fresh, &slots, &k, &v, Summaries::Skip)?;
        let mut out = engine.upload(&poison)?;
        engine.attend(&mut fresh, Some(uploaded), &q, &tables, &mut out)?;
        assert_eq!(got, read(engine, &out)?, "{shape:?} {dtype}: step {step}");
    }
    engine.forget_rotated(&mut store);
    assert_eq!(engine.rotated_bytes(&store), 0);
    Ok(())
}

/// Pairings, parts of a head, orders of axes, and an embedding that is laid over all heads of a token.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When a rotated key is out of tolerance, or attention is not that of queries and keys that were rotated one by one.
pub fn rotates_as_models_do<E: Engine>(engine: &E, dtype: DType) -> Result<(), CoreError> {
    let shape = EngineShape::new(3, 1, (20, 8), (3, 4), 2, 3, 2);
    let Written { mut store, k, v } = written(engine, &shape, dtype)?;
    let slots = shape.slots();
    let places = Places::new(&shape, 7);
    let lists = places.lists();
    let frequencies: Vec<f64> = (0..30).map(|i| 0.9f64.powi(i) * 1.3).collect();
    let in_turns: Vec<u8> = (0..30).map(|i| (i % 3) as u8).collect();
    let blocks: Vec<u8> = (0..30).map(|i| [2, 0, 1][i * 3 / 30]).collect();
    let whole = shape.kv_heads * shape.head_dim_k;
    let base = Rotation { rotary_dim: 20, ..places.rotation(&lists) };
    for (pairing, rotary_dim, first_pair, pairs, axes) in [
        (Pairing::Interleaved, 20, 0, 10, &in_turns),
        (Pairing::Half, 20, 0, 10, &in_turns),
        (Pairing::Half, 20, 0, 10, &blocks),
        (Pairing::Interleaved, 14, 0, 7, &blocks),
        (Pairing::Half, 14, 0, 7, &in_turns),
        (Pairing::Interleaved, 20, 3, 5, &blocks),
        (Pairing::Interleaved, whole, 0, 30, &in_turns),
        (Pairing::Interleaved, whole, 1, 28, &blocks),
        (Pairing::Half, whole, 0, 30, &blocks),
    ] {
        let what = format!("{dtype}, {pairing:?}, {pairs} pairs of {rotary_dim} channels from {first_pair}");
        let rotation = Rotation {
            pairing,
            rotary_dim,
            first_pair,
            frequencies: &frequencies[..pairs],
            axes: &axes[..pairs],
            ..base
        };
        let heads = if rotary_dim > shape.head_dim_k { 1 } else { shape.kv_heads };
        let turned = |x: &[f32], positions: &[u32]| -> Vec<f32> {
            let mut out = x.to_vec();
            let dim = whole / heads;
            for (t, token) in out.chunks_exact_mut(whole).enumerate() {
                let entry = positions[t / shape.tokens()] as usize * shape.tokens() + t % shape.tokens();
                for head in token.chunks_exact_mut(dim) {
                    for pair in 0..pairs {
                        let (i, j) = pairing.channels(first_pair + pair, rotary_dim / 2);
                        let position = f64::from(lists[usize::from(axes[pair])][entry]);
                        let (sin, cos) = (position * frequencies[pair]).sin_cos();
                        let (a, b) = (f64::from(head[i]), f64::from(head[j]));
                        (head[i], head[j]) = ((a * cos - b * sin) as f32, (a * sin + b * cos) as f32);
                    }
                }
            }
            out
        };
        let uploaded = engine.upload_rotation(&rotation)?;
        let positions: Vec<u32> = (0..slots.len() as u32).rev().collect();
        let got = engine.gather(&store, Side::Keys, &slots, Some((&uploaded, &positions)))?;
        let expected = turned(&k.to_f32_vec(), &positions);
        let got = read(engine, &got)?.to_f32_vec();
        assert_close(&format!("{what}: keys"), &got, &expected, tolerance(Op::Rotate, dtype));

        let q = random(4, &shape.shape(shape.chunk, shape.kv_heads, shape.head_dim_k), dtype, 0.0);
        let out_shape = shape.shape(shape.chunk, shape.kv_heads, shape.head_dim_v);
        let poison = HostTensor::from_f32(&out_shape, vec![f32::NAN; out_shape.iter().product()])?;
        let mut out = engine.upload(&poison)?;
        let positions = [4u32, 0, 2];
        let tables: Vec<AttendTable<'_>> = slots
            .chunks_exact(shape.units)
            .map(|slots| AttendTable { slots, positions: &positions, query_position: 3 })
            .collect();
        engine.attend(&mut store, Some(&uploaded), &engine.upload(&q)?, &tables, &mut out)?;
        let got = read(engine, &out)?.to_f32_vec();
        let (q, k, v) = (q.to_f32_vec(), units(&k, &shape), units(&v, &shape));
        let mut expected = Vec::new();
        for (s, q) in q.chunks_exact(q.len() / shape.sequences).enumerate() {
            let of_sequence = |units: &[Vec<f32>]| units[s * shape.units..][..shape.units].concat();
            let (q, k) = (turned(q, &[3, 4]), turned(&of_sequence(&k), &positions));
            let (heads, dims) = ((shape.kv_heads, shape.kv_heads), (shape.head_dim_k, shape.head_dim_v));
            expected.extend(dense_attention(&q, &k, &of_sequence(&v), heads, dims));
        }
        assert_close(&format!("{what}: attention"), &got, &expected, tolerance(Op::Attend, dtype));
    }
    // More query heads than key heads have no pairs of their own in an embedding over whole tokens.
    let rotation = Rotation { rotary_dim: whole, frequencies: &frequencies, axes: &in_turns, ..base };
    let uploaded = engine.upload_rotation(&rotation)?;
    let q = engine.upload(&random(4, &[2, 12, 6, 20], dtype, 0.0))?;
    let mut out = engine.upload(&HostTensor::zeros(&[2, 12, 6, 8], DType::F32)?)?;
    let tables = [AttendTable { slots: &slots[..1], positions: &[0], query_position: 0 }; 2];
    let e = engine.attend(&mut store, Some(&uploaded), &q, &tables, &mut out);
    assert!(matches!(e, Err(CoreError::Count { .. })), "{e:?}");
    Ok(())
}

/// A read returns what was there when it was asked for, whatever is queued before the wait.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When later work shows in the result.
pub fn reads_what_was_there_when_asked<E: Engine>(
    engine: &E,
    shape: &EngineShape,
    dtype: DType,
) -> Result<(), CoreError> {
    let Written { mut store, .. } = written(engine, shape, dtype)?;
    let (heads, slots) = (shape.query_heads(), shape.slots());
    let positions: Vec<u32> = (0..shape.units as u32).collect();
    let tables: Vec<AttendTable<'_>> = slots
        .chunks_exact(shape.units)
        .map(|slots| AttendTable { slots, positions: &positions, query_position: 0 })
        .collect();
    let out_shape = shape.shape(shape.chunk, heads, shape.head_dim_v);
    let mut out = engine.upload(&HostTensor::zeros(&out_shape, DType::F32)?)?;
    let queries =
        [6, 7].map(|seed| random(seed, &shape.shape(shape.chunk, heads, shape.head_dim_k), dtype, 0.0));
    engine.attend(&mut store, None, &engine.upload(&queries[0])?, &tables, &mut out)?;
    let first = engine.read(&[&out])?;
    engine.attend(&mut store, None, &engine.upload(&queries[1])?, &tables, &mut out)?;
    let second = engine.read(&[&out])?.wait()?.remove(0);
    let first = first.wait()?.remove(0);
    // One key makes every answer the same.
    if shape.units * shape.tokens() > 1 {
        assert_ne!(first, second, "{shape:?} {dtype}: other queries should have other answers");
    }
    engine.attend(&mut store, None, &engine.upload(&queries[0])?, &tables, &mut out)?;
    let again = engine.read(&[&out])?.wait()?.remove(0);
    assert_eq!(first, again, "{shape:?} {dtype}: a read should not see what came after it");
    Ok(())
}
