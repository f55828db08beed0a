//! Single rows of a pool.

use tether_core::{CoreError, DType, HostTensor, TokenEngine};

use super::assert_refused;
use crate::tensors::{assert_same_bits, indices, poison, random, read, tensor};

/// Shapes of a pool, and of the row numbers.
const POOLS: [(&[usize], &[usize]); 8] = [
    (&[5, 16, 1, 64], &[3, 7]),
    (&[4, 5, 3, 10], &[11]),
    (&[9, 7], &[2, 2, 2]),
    (&[3, 4, 1, 80], &[12]),
    (&[6, 2, 1, 1], &[5]),
    (&[2, 16, 2, 128], &[0]),
    (&[0, 16, 1, 8], &[0, 3]),
    // More rows than a grid has cubes along one axis.
    (&[70_001, 6], &[70_000]),
];

/// Rows come and go bit by bit, and those that are not named stay.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When a bit is wrong.
pub fn reads_and_writes_rows<E: TokenEngine>(engine: &E, dtype: DType) -> Result<(), CoreError> {
    for (i, (shape, rows)) in POOLS.into_iter().enumerate() {
        let what = format!("{shape:?}, rows {rows:?}, {dtype}");
        let (len, count): (usize, usize) = (shape[shape.len() - 1], rows.iter().product());
        let pool_rows: usize = shape[..shape.len() - 1].iter().product();
        let pool = random(71 + i as u64, shape, dtype, 0.0);
        let mut numbers = pool.to_f32_vec();
        // Every third row and so on, which never meets itself.
        let step = (3..).find(|s| pool_rows == 0 || gcd(*s, pool_rows) == 1).unwrap_or(1);
        let named: Vec<u32> = (0..count).map(|n| ((n * step + i) % pool_rows.max(1)) as u32).collect();
        let named = engine.upload_indices(rows, &named).map(|uploaded| (uploaded, named))?;
        let mut on_device = engine.upload(&pool)?;
        let to: Vec<usize> = rows.iter().copied().chain([len]).collect();
        poison(engine, count * len)?;
        let got = read(engine, &engine.read_rows(&on_device, &named.0)?)?;
        let row_of = |n: &u32| *n as usize * len..(*n as usize + 1) * len;
        let expected: Vec<f32> = named.1.iter().flat_map(|n| numbers[row_of(n)].to_vec()).collect();
        assert_same_bits(&format!("{what}, read"), &got, &tensor(&to, dtype, &expected));
        let x = random(81 + i as u64, &to, dtype, 0.5);
        engine.write_rows(&mut on_device, &named.0, &engine.upload(&x)?)?;
        for (n, row) in named.1.iter().zip(x.to_f32_vec().chunks_exact(len)) {
            numbers[row_of(n)].copy_from_slice(row);
        }
        assert_same_bits(
            &format!("{what}, written"),
            &read(engine, &on_device)?,
            &tensor(shape, dtype, &numbers),
        );
        writes_two(engine, &on_device, &named, &x, (&what, dtype))?;
    }
    Ok(())
}

/// The same rows of two pools, of equal rows and of unequal ones.
fn writes_two<E: TokenEngine>(
    engine: &E,
    pool: &E::Tensor,
    (rows, named): &(E::Indices, Vec<u32>),
    x: &HostTensor,
    (what, dtype): (&str, DType),
) -> Result<(), CoreError> {
    let shape = engine.describe(pool).0.to_vec();
    let (&len, outer) = shape.split_last().expect("pools have rows");
    for other_len in [len, len + 3] {
        let (mut first, mut second) = (
            engine.upload(&random(91, &shape, dtype, 0.0))?,
            engine.upload(&random(92, &[outer, &[other_len]].concat(), dtype, 0.0))?,
        );
        let y = random(93, &[&x.shape()[..x.shape().len() - 1], &[other_len]].concat(), dtype, 0.25);
        let expected = [(&first, x, len), (&second, &y, other_len)].map(|(pool, x, len)| {
            let pool = read(engine, pool)?;
            let mut numbers = pool.to_f32_vec();
            for (n, row) in named.iter().zip(x.to_f32_vec().chunks_exact(len)) {
                numbers[*n as usize * len..][..len].copy_from_slice(row);
            }
            Ok::<_, CoreError>(tensor(pool.shape(), dtype, &numbers))
        });
        let (x, y) = (engine.upload(x)?, engine.upload(&y)?);
        engine.write_rows_together(&mut [(&mut first, &x), (&mut second, &y)], rows)?;
        let odd = engine.upload(&random(94, &[outer, &[other_len + 1]].concat(), dtype, 0.0))?;
        let refused = engine.write_rows_together(&mut [(&mut first, &y), (&mut odd.clone(), &y)], rows);
        assert!(refused.is_err(), "{what}: nothing is written where one does not fit");
        for (pool, expected) in [&first, &second].into_iter().zip(expected) {
            assert_same_bits(&format!("{what}, two pools"), &read(engine, pool)?, &expected?);
        }
    }
    Ok(())
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Rows that are not there, rows of another length and another dtype are refused, and nothing is written.
///
/// # Errors
/// What the engine refuses and should not.
///
/// # Panics
/// When it accepts one of the calls.
pub fn refuses_rows_that_are_not_there<E: TokenEngine>(engine: &E) -> Result<(), CoreError> {
    let numbers = random(91, &[2, 3, 1, 4], DType::F32, 0.0);
    let mut pool = engine.upload(&numbers)?;
    let x = engine.upload(&random(92, &[2, 4], DType::F32, 0.0))?;
    let beyond = engine.upload_indices(&[2], &[0, 6])?;
    assert_refused!(engine.read_rows(&pool, &beyond), CoreError::Count { what: "rows", expected: 7, got: 6 });
    assert_refused!(
        engine.write_rows(&mut pool, &beyond, &x),
        CoreError::Count { what: "rows", expected: 7, got: 6 }
    );
    let three = engine.upload_indices(&[3], &[0, 1, 2])?;
    assert_refused!(engine.write_rows(&mut pool, &three, &x), CoreError::ShapeMismatch { what: "x", .. });
    let chosen: Vec<u32> = indices(93, 6).take(2).collect();
    let two = engine.upload_indices(&[2], &chosen)?;
    let wide = engine.upload(&random(94, &[1, 8], DType::F32, 0.0))?;
    assert_refused!(engine.write_rows(&mut pool, &two, &wide), CoreError::ShapeMismatch { what: "x", .. });
    if let Ok(half) = engine.upload(&random(95, &[2, 4], DType::F16, 0.0)) {
        assert_refused!(
            engine.write_rows(&mut pool, &two, &half),
            CoreError::DTypeMismatch { what: "x", expected: DType::F32, got: DType::F16 }
        );
    }
    assert_same_bits("a pool that nobody wrote to", &read(engine, &pool)?, &numbers);
    Ok(())
}
