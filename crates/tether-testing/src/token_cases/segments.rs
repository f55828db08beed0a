//! Rows that are made of others, and attention to rows that stand for many.

use tether_core::{CoreError, DType, EMPTY_LSE, RowLists, StandIns, TokenEngine};

use super::assert_refused;
use crate::tensors::{indices, poison, random, read, tensor};
use crate::{Op, assert_close, tolerance};

/// Rows of the pool, numbers of a row, and entries of each list: none, one, and more than a device adds up at once.
const LISTS: [(usize, usize, &[usize]); 6] = [
    (12, 6, &[3, 0, 1, 7]),
    (40, 128, &[64, 65, 1, 2, 5_000]),
    (9, 80, &[2; 70]),
    (300, 1, &[9_000]),
    (5, 64, &[]),
    (5, 64, &[0]),
];

/// Weighted means of rows are those of the definition, in the pool's dtype and in `f32`.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When a number is wrong.
pub fn averages_rows<E: TokenEngine>(engine: &E, dtype: DType) -> Result<(), CoreError> {
    for (i, (rows, dim, lengths)) in LISTS.into_iter().enumerate() {
        let seed = 2_001 + 10 * i as u64;
        let pool = random(seed, &[rows, dim], dtype, 0.5);
        let numbers = pool.to_f32_vec();
        let starts: Vec<u32> = std::iter::once(0)
            .chain(lengths.iter().scan(0, |end, &n| {
                *end += n as u32;
                Some(*end)
            }))
            .collect();
        let count: usize = lengths.iter().sum();
        let named: Vec<u32> = indices(seed + 1, rows).take(count).collect();
        let weights: Vec<f32> =
            random(seed + 2, &[count], DType::F32, 1.25).to_f32_vec().into_iter().collect();
        let mut expected = Vec::new();
        for bounds in starts.windows(2) {
            let entries = bounds[0] as usize..bounds[1] as usize;
            let total: f64 = weights[entries.clone()].iter().map(|&w| f64::from(w)).sum();
            for channel in 0..dim {
                let of =
                    |e: usize| f64::from(weights[e]) * f64::from(numbers[named[e] as usize * dim + channel]);
                let sum: f64 = entries.clone().map(of).sum();
                expected.push(if total == 0.0 { 0.0 } else { (sum / total) as f32 });
            }
        }
        let pool = engine.upload(&pool)?;
        let lists = RowLists { starts: &starts, rows: &named, weights: &weights };
        for to in [dtype, DType::F32] {
            poison(engine, lengths.len() * dim)?;
            let got = read(engine, &engine.weighted_rows(&pool, &lists, to)?)?;
            assert_eq!((got.shape(), got.dtype()), (&[lengths.len(), dim][..], to));
            let what = format!("means of {lengths:?} of {rows} rows of {dim}, {dtype} to {to}");
            assert_close(&what, &got.to_f32_vec(), &expected, tolerance(Op::Moments, to));
        }
    }
    let pool = engine.upload(&random(2_090, &[4, 6], dtype, 0.0))?;
    let lists = RowLists { starts: &[0, 1], rows: &[4], weights: &[1.0] };
    assert_refused!(
        engine.weighted_rows(&pool, &lists, dtype),
        CoreError::Count { what: "rows", expected: 5, got: 4 }
    );
    Ok(())
}

/// Tokens, key heads, query heads of each, and channels of keys and values.
const STAND_INS: [(usize, usize, usize, (usize, usize)); 4] =
    [(1, 1, 1, (64, 64)), (3, 2, 3, (6, 10)), (5, 8, 4, (128, 128)), (2, 3, 1, (80, 96))];

/// Attention to stand-ins is as if they had been among the tokens: of the queries that are named, and of heads that have one.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When a number is wrong.
pub fn attends_to_stand_ins<E: TokenEngine>(engine: &E, dtype: DType) -> Result<(), CoreError> {
    for (i, (tokens, kv_heads, group, (dk, dv))) in STAND_INS.into_iter().enumerate() {
        let seed = 2_101 + 10 * i as u64;
        let query_heads = kv_heads * group;
        let q = random(seed, &[tokens, query_heads, dk], dtype, 0.0);
        let keys = random(seed + 1, &[kv_heads, dk], DType::F32, 0.0);
        let values = random(seed + 2, &[kv_heads, dv], DType::F32, 0.0);
        let out = random(seed + 3, &[tokens, query_heads, dv], dtype, 0.0);
        let mut lses = random(seed + 4, &[tokens, query_heads], DType::F32, 0.0).to_f32_vec();
        // One that has attended to nothing yet, whose output is 0.
        let mut outs = out.to_f32_vec();
        lses[0] = EMPTY_LSE;
        outs[..dv].fill(0.0);
        // The last head stands for nothing, where there is another.
        let biases: Vec<f32> = (0..kv_heads)
            .map(|h| if h > 0 && h + 1 == kv_heads { EMPTY_LSE } else { (h as f32 + 2.0).ln() })
            .collect();
        let scale = 0.3;
        let on = |x: &tether_core::HostTensor| engine.upload(x);
        let (q_on, keys_on, values_on) = (on(&q)?, on(&keys)?, on(&values)?);
        let biases_on = on(&tensor(&[kv_heads], DType::F32, &biases))?;
        let stand_ins = StandIns { keys: &keys_on, values: &values_on, biases: &biases_on };
        for range in [0..tokens, tokens - 1..tokens, 1.min(tokens)..tokens, 0..0] {
            let (mut expected, mut expected_lse) = (outs.clone(), lses.clone());
            let (queries, k, v) = (q.to_f32_vec(), keys.to_f32_vec(), values.to_f32_vec());
            for row in range.start * query_heads..range.end * query_heads {
                let head = row % query_heads / group;
                if biases[head] <= EMPTY_LSE {
                    continue;
                }
                let channels = queries[row * dk..][..dk].iter().zip(&k[head * dk..]);
                let dot: f64 = channels.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                let other = dot * f64::from(scale) + f64::from(biases[head]);
                let own = f64::from(lses[row]);
                let top = own.max(other);
                let (a, b) = ((own - top).exp(), (other - top).exp());
                expected_lse[row] = (top + (a + b).ln()) as f32;
                for channel in 0..dv {
                    let (x, y) = (f64::from(outs[row * dv + channel]), f64::from(v[head * dv + channel]));
                    expected[row * dv + channel] = ((a * x + b * y) / (a + b)) as f32;
                }
            }
            let mut out_on = on(&tensor(&[tokens, query_heads, dv], dtype, &outs))?;
            let mut lse_on = on(&tensor(&[tokens, query_heads], DType::F32, &lses))?;
            let results = (&mut out_on, &mut lse_on);
            engine.attend_stand_ins(&q_on, &stand_ins, range.clone(), scale, results)?;
            let what = format!("stand-ins of {kv_heads} heads, tokens {range:?} of {tokens}, {dtype}");
            let got = read(engine, &out_on)?;
            assert_close(&what, &got.to_f32_vec(), &expected, tolerance(Op::Attend, dtype));
            let got = read(engine, &lse_on)?.to_f32_vec();
            assert_close(&what, &got, &expected_lse, tolerance(Op::LogSumExp, DType::F32));
        }
        let mut out_on = on(&out)?;
        let mut lse_on = on(&tensor(&[tokens, query_heads], DType::F32, &lses))?;
        assert_refused!(
            engine.attend_stand_ins(&q_on, &stand_ins, 0..tokens + 1, scale, (&mut out_on, &mut lse_on)),
            CoreError::Count { what: "tokens of queries", .. }
        );
    }
    Ok(())
}
