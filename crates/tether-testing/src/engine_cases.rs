//! The same cases for every engine, against `f64` oracles: odd shapes, grouped heads, unequal head sizes, several sequences, slots out
//! of order. Outputs are poisoned with NaN where the engine takes them.

mod attend;

use tether_core::{
    AlignJob, AttendTable, CoreError, DType, Engine, HostTensor, LogitQuery, Readback, Side, SlotId,
    StoreSpec, Summaries,
};

use attend::rotation;
pub use attend::{
    attends_over_tables, attends_to_what_is_there_now, reads_what_was_there_when_asked, rotates_as_models_do,
    rotates_keys_on_the_way_out,
};

use crate::tensors::{random, read};
use crate::{Op, Tolerance, assert_close, literal_mean_logits, token_moments, tolerance};

/// A store and who asks it.
#[derive(Clone, Copy, Debug)]
pub struct EngineShape {
    /// Key and value heads.
    pub kv_heads: usize,
    /// Query heads of a key head.
    pub group: usize,
    /// Channels of a key head.
    pub head_dim_k: usize,
    /// Channels of a value head.
    pub head_dim_v: usize,
    /// Token rows and columns of a unit.
    pub grid: (usize, usize),
    /// Sequences.
    pub sequences: usize,
    /// Units attended to, per sequence.
    pub units: usize,
    /// Units of a chunk of queries.
    pub chunk: usize,
}

impl EngineShape {
    /// Small and not round, then the head sizes that models have, then longer tables than an engine carries in its pocket.
    pub const ALL: [Self; 8] = [
        Self::new(1, 1, (6, 6), (1, 1), 1, 1, 1),
        Self::new(2, 1, (12, 4), (2, 3), 1, 5, 2),
        Self::new(3, 4, (10, 7), (1, 3), 2, 4, 1),
        Self::new(3, 1, (64, 64), (8, 8), 1, 6, 3),
        Self::new(2, 3, (80, 96), (3, 5), 2, 3, 1),
        Self::new(1, 8, (128, 128), (5, 7), 1, 9, 2),
        Self::new(1, 1, (256, 256), (2, 2), 1, 3, 3),
        Self::new(2, 2, (12, 4), (2, 2), 2, 40, 1),
    ];

    /// So many tokens that a device may cut a query's keys into parts.
    pub const LONG: Self = Self::new(2, 2, (64, 128), (10, 11), 2, 8, 3);

    const fn new(
        kv_heads: usize,
        group: usize,
        (head_dim_k, head_dim_v): (usize, usize),
        grid: (usize, usize),
        sequences: usize,
        units: usize,
        chunk: usize,
    ) -> Self {
        Self { kv_heads, group, head_dim_k, head_dim_v, grid, sequences, units, chunk }
    }

    fn tokens(&self) -> usize {
        self.grid.0 * self.grid.1
    }

    fn query_heads(&self) -> usize {
        self.kv_heads * self.group
    }

    /// More slots than units, so that some stay untouched.
    fn spec(&self, dtype: DType) -> StoreSpec {
        StoreSpec {
            slots: self.sequences * self.units + 3,
            tokens_per_unit: self.tokens(),
            kv_heads: self.kv_heads,
            head_dim_k: self.head_dim_k,
            head_dim_v: self.head_dim_v,
            dtype,
        }
    }

    /// Every unit's slot, sequence after sequence, in an order that no copy preserves by accident.
    fn slots(&self) -> Vec<SlotId> {
        let count = self.sequences * self.units;
        (0..count).map(|i| SlotId((count - 1 - i) as u32 + 1)).collect()
    }

    fn shape(&self, units: usize, heads: usize, dim: usize) -> Vec<usize> {
        if self.sequences == 1 {
            vec![units * self.tokens(), heads, dim]
        } else {
            vec![self.sequences, units * self.tokens(), heads, dim]
        }
    }
}

/// A store with K and V written to [`EngineShape::slots`], and the same in host memory.
struct Written<E: Engine> {
    store: E::Store,
    k: HostTensor,
    v: HostTensor,
}

fn written<E: Engine>(engine: &E, shape: &EngineShape, dtype: DType) -> Result<Written<E>, CoreError> {
    let mut store = engine.create_store(&shape.spec(dtype))?;
    let k = random(1, &shape.shape(shape.units, shape.kv_heads, shape.head_dim_k), dtype, 0.25);
    let v = random(2, &shape.shape(shape.units, shape.kv_heads, shape.head_dim_v), dtype, -0.5);
    engine.write(&mut store, &shape.slots(), &engine.upload(&k)?, &engine.upload(&v)?, Summaries::Moments)?;
    Ok(Written { store, k, v })
}

/// Units of `tensor`, widened.
fn units(tensor: &HostTensor, shape: &EngineShape) -> Vec<Vec<f32>> {
    let all = tensor.to_f32_vec();
    all.chunks_exact(all.len() / (shape.sequences * shape.units)).map(<[f32]>::to_vec).collect()
}

/// Mean and sum of squared deviations of each unit, as engines return them.
fn moment_rows(units: &[Vec<f32>], channels: usize) -> Vec<f32> {
    let rows = units.iter().flat_map(|unit| {
        let (mean, m2) = token_moments(unit, channels);
        mean.into_iter().chain(m2)
    });
    rows.map(|x| x as f32).collect()
}

/// What is written can be read back bit by bit, slots beside it stay zero, and the moments are those of the tokens.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When the engine's result is out of tolerance, as in every case here.
pub fn writes_units_and_their_moments<E: Engine>(
    engine: &E,
    shape: &EngineShape,
    dtype: DType,
) -> Result<(), CoreError> {
    let Written { store, k, v } = written(engine, shape, dtype)?;
    let slots = shape.slots();
    for (side, tensor, dim) in [(Side::Keys, &k, shape.head_dim_k), (Side::Values, &v, shape.head_dim_v)] {
        let stored = read(engine, &engine.gather(&store, side, &slots, None)?)?;
        assert_eq!(stored.data(), tensor.data(), "{shape:?} {dtype}: {side:?} should be stored as they are");
        let beside = [SlotId(0), SlotId(slots.len() as u32 + 1)];
        let beside = read(engine, &engine.gather(&store, side, &beside, None)?)?;
        assert!(
            beside.to_f32_vec().iter().all(|&x| x == 0.0),
            "{shape:?} {dtype}: other slots should stay zero"
        );
        let channels = shape.kv_heads * dim;
        let got = read(engine, &engine.moments(&store, side, &slots)?)?.to_f32_vec();
        let expected = moment_rows(&units(tensor, shape), channels);
        let what = format!("{shape:?} {dtype}: moments of {side:?}");
        assert_close(&what, &got, &expected, tolerance(Op::Moments, DType::F32));
    }
    Ok(())
}

/// Mean logits from stored means are the mean of all logits.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When the result is out of tolerance.
pub fn scores_units_by_their_means<E: Engine>(
    engine: &E,
    shape: &EngineShape,
    dtype: DType,
) -> Result<(), CoreError> {
    let Written { store, k, .. } = written(engine, shape, dtype)?;
    let q = random(3, &shape.shape(shape.chunk, shape.query_heads(), shape.head_dim_k), dtype, 0.1);
    let slots = shape.slots();
    // Ragged: each sequence leaves out another number of its units.
    let per_sequence = slots.chunks_exact(shape.units).enumerate();
    let candidates: Vec<Vec<SlotId>> =
        per_sequence.map(|(s, slots)| slots[s % shape.units..].to_vec()).collect();
    let got = read(engine, &engine.mean_logits(&store, &engine.upload(&q)?, &candidates)?)?.to_f32_vec();
    let (units, q) = (units(&k, shape), q.to_f32_vec());
    let mut expected = Vec::new();
    for (s, q) in q.chunks_exact(q.len() / shape.sequences).enumerate() {
        let views: Vec<&[f32]> =
            units[s * shape.units..][..shape.units].iter().skip(s % shape.units).map(Vec::as_slice).collect();
        let literal = literal_mean_logits(q, &views, shape.query_heads(), shape.kv_heads, shape.head_dim_k);
        expected.extend(literal.into_iter().map(|x| x as f32));
    }
    assert_close(&format!("{shape:?} {dtype}: mean logits"), &got, &expected, tolerance(Op::Score, dtype));
    Ok(())
}

/// The units at `own`, aligned to those at `trusted`, both as they are in `before`.
fn align_in(
    units: &mut [Vec<f32>],
    before: &[Vec<f32>],
    (own, trusted): (&[usize], &[usize]),
    tau: f32,
    channels: usize,
) {
    let statistics = |of: &[usize]| {
        let tokens = of.iter().flat_map(|&u| before[u].iter().copied()).collect::<Vec<f32>>();
        let (mean, m2) = token_moments(&tokens, channels);
        let count = (tokens.len() / channels) as f64;
        let sd: Vec<f64> = m2.iter().map(|m2| (m2 / count).sqrt().max(1e-6)).collect();
        (mean, sd)
    };
    let ((mean, sd), (target, target_sd)) = (statistics(own), statistics(trusted));
    let tau = f64::from(tau);
    for &unit in own {
        for (i, (x, &was)) in units[unit].iter_mut().zip(&before[unit]).enumerate() {
            let c = i % channels;
            let pulled = (f64::from(was) - mean[c]) / sd[c] * target_sd[c] + target[c];
            *x = ((1.0 - tau) * f64::from(was) + tau * pulled) as f32;
        }
    }
}

/// Alignments of many units to many, again and again, with a store that grows between them: targets are always what was there before the
/// call, units may be aligned together, and of several edits of one the last one stands.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When the result is out of tolerance.
pub fn aligns_the_same_units_again<E: Engine>(engine: &E, shape: &EngineShape) -> Result<(), CoreError> {
    let dtype = DType::F32;
    if shape.units < 3 || shape.tokens() < 4 {
        return Ok(());
    }
    let Written { mut store, .. } = written(engine, shape, dtype)?;
    let slots = shape.slots();
    let count = slots.len();
    for round in 0..4 {
        let others =
            |u: usize| (0..count).filter(|&o| o != u && (o + round) % 3 != 0).collect::<Vec<usize>>();
        let mut jobs: Vec<(Vec<usize>, Vec<usize>)> = (0..count).map(|u| (vec![u], others(u))).collect();
        jobs.push((vec![round % count], vec![(round + 1) % count]));
        jobs.push((vec![0, 2], vec![1, 2]));
        let named = |units: &[usize]| units.iter().map(|&u| slots[u]).collect::<Vec<SlotId>>();
        let as_jobs: Vec<AlignJob> = jobs
            .iter()
            .map(|(own, trusted)| AlignJob { slots: named(own), trusted: named(trusted) })
            .collect();
        let sides = [(Side::Keys, shape.head_dim_k), (Side::Values, shape.head_dim_v)];
        let stored = |store: &E::Store, side| -> Result<Vec<Vec<f32>>, CoreError> {
            Ok(units(&read(engine, &engine.gather(store, side, &slots, None)?)?, shape))
        };
        let before = [stored(&store, Side::Keys)?, stored(&store, Side::Values)?];
        engine.align(&mut store, 0.2, &as_jobs)?;
        engine.grow_store(&mut store, shape.spec(dtype).slots + round)?;
        for ((side, dim), before) in sides.into_iter().zip(before) {
            let channels = shape.kv_heads * dim;
            let mut expected = before.clone();
            for (own, trusted) in &jobs {
                align_in(&mut expected, &before, (own, trusted), 0.2, channels);
            }
            let what = format!("{shape:?} round {round}: {side:?}");
            let bound = Tolerance { abs: 1e-4, rel: 1e-4 };
            assert_close(&what, &stored(&store, side)?.concat(), &expected.concat(), bound);
            let moments = read(engine, &engine.moments(&store, side, &slots)?)?.to_f32_vec();
            assert_close(&format!("{what}: moments"), &moments, &moment_rows(&expected, channels), bound);
        }
    }
    Ok(())
}

/// A channel far from 0 keeps its small spread, and a constant one has none.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When the moments are out of tolerance.
pub fn keeps_small_spreads_far_from_zero<E: Engine>(engine: &E) -> Result<(), CoreError> {
    let shape = EngineShape::new(2, 1, (64, 32), (20, 39), 1, 2, 1);
    let mut store = engine.create_store(&shape.spec(DType::F32))?;
    let far = |seed, dim: usize| {
        let noise = random(seed, &shape.shape(shape.units, shape.kv_heads, dim), DType::F32, 0.0);
        let values = noise.to_f32_vec().into_iter().enumerate().map(|(i, x)| match i % dim {
            0 => 1000.1,
            c if c % 2 == 1 => 1000.0 + x * 0.01,
            _ => x - 20.0,
        });
        HostTensor::from_f32(noise.shape(), values.collect())
    };
    let (k, v) = (far(1, shape.head_dim_k)?, far(2, shape.head_dim_v)?);
    let slots = shape.slots();
    engine.write(&mut store, &slots, &engine.upload(&k)?, &engine.upload(&v)?, Summaries::Moments)?;
    for (side, tensor, dim) in [(Side::Keys, &k, shape.head_dim_k), (Side::Values, &v, shape.head_dim_v)] {
        let channels = shape.kv_heads * dim;
        let got = read(engine, &engine.moments(&store, side, &slots)?)?.to_f32_vec();
        let expected = moment_rows(&units(tensor, &shape), channels);
        assert_close(&format!("{side:?}"), &got, &expected, tolerance(Op::Moments, DType::F32));
        assert_eq!(got[0], 1000.1, "{side:?}: the mean of a constant");
        assert_eq!(got[channels], 0.0, "{side:?}: the spread of a constant");
    }
    Ok(())
}

/// Several stores answer in one row, each as it would alone, and one without candidates not at all.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When an answer differs.
pub fn scores_several_stores_at_once<E: Engine>(engine: &E) -> Result<(), CoreError> {
    let shapes = [1, 3, 1, 7, 2].map(|i| EngineShape::ALL[i]);
    let mut parts = Vec::new();
    for (i, shape) in shapes.iter().enumerate() {
        let Written { store, .. } = written(engine, shape, DType::F32)?;
        let q = shape.shape(shape.chunk, shape.query_heads(), shape.head_dim_k);
        let q = engine.upload(&random(10 + i as u64, &q, DType::F32, 0.1))?;
        let per_sequence = shape.slots().chunks_exact(shape.units).map(<[SlotId]>::to_vec).collect();
        let candidates: Vec<Vec<SlotId>> = if i == 2 { vec![Vec::new()] } else { per_sequence };
        parts.push((store, q, candidates));
    }
    let queries: Vec<LogitQuery<'_, E>> =
        parts.iter().map(|(store, q, candidates)| LogitQuery { store, q, candidates }).collect();
    let together = read(engine, &engine.mean_logits_of(&queries)?)?;
    let mut alone = Vec::new();
    for (store, q, candidates) in &parts {
        alone.extend(read(engine, &engine.mean_logits(store, q, candidates)?)?.to_f32_vec());
    }
    assert_eq!(together.to_f32_vec(), alone);
    let none = read(engine, &engine.mean_logits_of(&[])?)?;
    assert_eq!(none.shape(), [0]);
    Ok(())
}

/// Alignment changes the units of its jobs as the formula says, their moments as the units, and nothing else.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When the result is out of tolerance.
pub fn aligns_units_in_place<E: Engine>(
    engine: &E,
    shape: &EngineShape,
    dtype: DType,
) -> Result<(), CoreError> {
    // One token has no spread to align, and a job needs somebody else to trust.
    if shape.units < 3 || shape.tokens() < 4 {
        return Ok(());
    }
    let Written { mut store, k, v } = written(engine, shape, dtype)?;
    let slots = shape.slots();
    let tau = 0.35f32;
    // Two jobs; the second trusts what the first edits, as it was before.
    let jobs = [
        AlignJob { slots: vec![slots[0]], trusted: vec![slots[1], slots[2]] },
        AlignJob { slots: vec![slots[1]], trusted: vec![slots[0], slots[2]] },
        AlignJob { slots: vec![slots[2]], trusted: Vec::new() },
    ];
    engine.align(&mut store, tau, &jobs)?;
    for (side, tensor, dim) in [(Side::Keys, &k, shape.head_dim_k), (Side::Values, &v, shape.head_dim_v)] {
        let channels = shape.kv_heads * dim;
        let before = units(tensor, shape);
        let mut expected = before.clone();
        for (edited, trusted) in [(0usize, [1usize, 2]), (1, [0, 2])] {
            align_in(&mut expected, &before, (&[edited], &trusted), tau, channels);
        }
        let got = units(&read(engine, &engine.gather(&store, side, &slots, None)?)?, shape);
        // Four tokens may lie close together, and then their rounding is amplified.
        let op = tolerance(Op::Align, dtype);
        let op = Tolerance { abs: op.abs * 10.0, rel: op.rel * 10.0 };
        for (unit, (got, expected)) in got.iter().zip(&expected).enumerate() {
            let what = format!("{shape:?} {dtype}: {side:?} of unit {unit}");
            if unit < 2 {
                assert_close(&what, got, expected, op);
            } else {
                assert_eq!(got, expected, "{what} should be untouched");
            }
        }
        let moments = read(engine, &engine.moments(&store, side, &slots[..2])?)?.to_f32_vec();
        let expected = moment_rows(&expected[..2], channels);
        assert_close(
            &format!("{shape:?} {dtype}: moments after"),
            &moments,
            &expected,
            Tolerance { abs: 1e-4, rel: 1e-4 },
        );
    }
    Ok(())
}

/// Calls that make no sense are refused before anything is queued.
///
/// # Errors
/// What the engine refuses and should not.
///
/// # Panics
/// When it accepts one of the calls.
pub fn refuses_what_makes_no_sense<E: Engine>(engine: &E) -> Result<(), CoreError> {
    let shape = EngineShape::ALL[1];
    let Written { mut store, k, v } = written(engine, &shape, DType::F32)?;
    let (k, v) = (engine.upload(&k)?, engine.upload(&v)?);
    let slots = shape.slots();
    let beyond = SlotId(shape.spec(DType::F32).slots as u32);
    let outside = [&slots[1..], &[beyond]].concat();
    let e = engine.write(&mut store, &outside, &k, &v, Summaries::Moments);
    assert!(matches!(e, Err(CoreError::NoSuchSlot { .. })), "{e:?}");
    let e = engine.write(&mut store, &slots[1..], &k, &v, Summaries::Moments);
    assert!(matches!(e, Err(CoreError::ShapeMismatch { .. })), "{e:?}");
    let e = engine.write(&mut store, &slots, &v, &v, Summaries::Skip);
    assert!(matches!(e, Err(CoreError::ShapeMismatch { .. })), "{e:?}");
    let e = engine.gather(&store, Side::Keys, &[beyond], None).map(|_| ());
    assert!(matches!(e, Err(CoreError::NoSuchSlot { .. })), "{e:?}");
    let e = engine.moments(&store, Side::Keys, &[beyond]).map(|_| ());
    assert!(matches!(e, Err(CoreError::NoSuchSlot { .. })), "{e:?}");
    let job = AlignJob { slots: vec![beyond], trusted: slots.clone() };
    let e = engine.align(&mut store, 0.5, &[job]);
    assert!(matches!(e, Err(CoreError::NoSuchSlot { .. })), "{e:?}");
    let q = random(5, &shape.shape(shape.chunk, shape.query_heads(), shape.head_dim_k), DType::F32, 0.0);
    let q = engine.upload(&q)?;
    let e = engine.mean_logits(&store, &q, &[]).map(|_| ());
    assert!(matches!(e, Err(CoreError::Count { .. })), "{e:?}");
    let e = engine.mean_logits(&store, &q, &[vec![beyond]]).map(|_| ());
    assert!(matches!(e, Err(CoreError::NoSuchSlot { .. })), "{e:?}");
    let out_shape = shape.shape(shape.chunk, shape.query_heads(), shape.head_dim_v);
    let mut out = engine.upload(&HostTensor::zeros(&out_shape, DType::F32)?)?;
    let uploaded = rotation(engine, &shape, 2)?;
    let table = |slots, positions| AttendTable { slots, positions, query_position: 0 };
    for (table, rotation) in [
        (table(&slots[..0], &[]), None),
        (table(&slots[..2], &[0]), None),
        (table(std::slice::from_ref(&beyond), &[0]), None),
        (table(&slots[..2], &[0, 2]), Some(&uploaded)),
    ] {
        let e = engine.attend(&mut store, rotation, &q, &[table], &mut out);
        assert!(e.is_err(), "{table:?}");
    }
    let e = engine.attend(&mut store, None, &q, &[], &mut out);
    assert!(matches!(e, Err(CoreError::Count { .. })), "{e:?}");
    let mut wrong = engine.upload(&HostTensor::zeros(&[1], DType::F32)?)?;
    let e = engine.attend(&mut store, None, &q, &[table(&slots, &[0, 1, 2, 3, 4])], &mut wrong);
    assert!(matches!(e, Err(CoreError::ShapeMismatch { .. })), "{e:?}");
    let huge = StoreSpec { slots: usize::MAX / 2, ..shape.spec(DType::F32) };
    let e = engine.create_store(&huge).map(|_| ());
    assert!(matches!(e, Err(CoreError::SizeOverflow { .. })), "{e:?}");
    Ok(())
}

/// Results of many megabytes, of which none is as large as another, come back whole and in order.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When a number is another one.
pub fn reads_what_is_large<E: Engine>(engine: &E) -> Result<(), CoreError> {
    let numbers = |n: usize| (0..n * 65_537).map(|i| (i % 8_191) as f32 + n as f32).collect::<Vec<f32>>();
    let tensors = (0..11)
        .map(|n| engine.upload(&HostTensor::from_f32(&[n, 65_537], numbers(n))?))
        .collect::<Result<Vec<_>, CoreError>>()?;
    let read = engine.read(&tensors.iter().collect::<Vec<_>>())?.wait()?;
    assert_eq!(read.len(), tensors.len());
    for (n, tensor) in read.iter().enumerate() {
        assert_eq!(tensor.shape(), [n, 65_537]);
        assert!(tensor.as_f32() == Some(&numbers(n)), "result {n} is another one");
    }
    Ok(())
}

/// A store that grows keeps what it holds, and what is new is zero.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When a byte is lost.
pub fn grows_without_losing_anything<E: Engine>(
    engine: &E,
    shape: &EngineShape,
    dtype: DType,
) -> Result<(), CoreError> {
    let Written { mut store, k, .. } = written(engine, shape, dtype)?;
    let (slots, before) =
        (shape.slots(), read(engine, &engine.moments(&store, Side::Keys, &shape.slots())?)?);
    let more = shape.spec(dtype).slots + 5;
    engine.grow_store(&mut store, more)?;
    assert_eq!(read(engine, &engine.gather(&store, Side::Keys, &slots, None)?)?.data(), k.data());
    assert_eq!(read(engine, &engine.moments(&store, Side::Keys, &slots)?)?, before);
    let last = [SlotId(more as u32 - 1)];
    let fresh = read(engine, &engine.gather(&store, Side::Values, &last, None)?)?;
    assert!(fresh.to_f32_vec().iter().all(|&x| x == 0.0));
    Ok(())
}
