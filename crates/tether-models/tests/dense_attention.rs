//! The dense cache against the definition of attention.

use tether_core::{CoreError, DType, HostTensor};
use tether_models::{DenseAttention, TokenAttention, TokenBlock};

const QUERY_HEADS: usize = 6;
const KV_HEADS: usize = 2;
const DIM: usize = 8;

fn series(n: usize, a: f32, scale: f32) -> Vec<f32> {
    (0..n).map(|i| (i as f32 * a).sin() * scale).collect()
}

fn tensor(tokens: usize, heads: usize, data: &[f32]) -> HostTensor {
    HostTensor::from_f32(&[tokens, heads, DIM], data.to_vec()).expect("a tensor")
}

fn attend(
    cache: &mut DenseAttention,
    q: &HostTensor,
    k: &HostTensor,
    v: &HostTensor,
) -> Result<Vec<f32>, CoreError> {
    let positions: Vec<i32> = (0..q.shape()[0] as i32).collect();
    let block = TokenBlock { layer: 1, positions: &positions, q, k, v, q_pre: q, k_pre: k, hidden: &[] };
    let mut out = HostTensor::from_f32(q.shape(), vec![f32::NAN; q.len()])?;
    cache.attend(&block, &mut out)?;
    Ok(out.to_f32_vec())
}

#[test]
fn blocks_of_any_size_attend_causally_over_all_that_came_before() {
    // More keys than any task or block of scores holds, and logits that are far apart.
    let sizes = [700, 1, 33, 400, 4, 1, 5, 1000, 3, 2];
    let total = sizes.iter().sum::<usize>();
    let (row, kv_row) = (QUERY_HEADS * DIM, KV_HEADS * DIM);
    let q = series(total * row, 0.73, 4.0);
    let (k, v) = (series(total * kv_row, 1.31, 4.0), series(total * kv_row, 0.37, 2.0));
    let mut cache = DenseAttention::new();
    let mut got = Vec::new();
    let mut first = 0;
    for n in sizes {
        let end = first + n;
        let part = attend(
            &mut cache,
            &tensor(n, QUERY_HEADS, &q[first * row..end * row]),
            &tensor(n, KV_HEADS, &k[first * kv_row..end * kv_row]),
            &tensor(n, KV_HEADS, &v[first * kv_row..end * kv_row]),
        );
        got.extend(part.expect("a block"));
        first = end;
    }
    let head = |x: &[f32], token: usize, head: usize| -> Vec<f64> {
        x[token * kv_row + head * DIM..][..DIM].iter().map(|x| f64::from(*x)).collect()
    };
    for token in (0..total).step_by(7).chain(total - 12..total) {
        for h in 0..QUERY_HEADS {
            let kv = h / (QUERY_HEADS / KV_HEADS);
            let q = &q[token * row + h * DIM..][..DIM];
            let logits: Vec<f64> = (0..=token)
                .map(|t| {
                    head(&k, t, kv).iter().zip(q).map(|(k, q)| k * f64::from(*q)).sum::<f64>() / 8f64.sqrt()
                })
                .collect();
            let highest = logits.iter().fold(f64::NEG_INFINITY, |m, x| m.max(*x));
            let weights: Vec<f64> = logits.iter().map(|x| (x - highest).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for d in 0..DIM {
                let want: f64 = (0..=token).map(|t| weights[t] * head(&v, t, kv)[d]).sum::<f64>() / sum;
                let got = f64::from(got[token * row + h * DIM + d]);
                assert!((got - want).abs() < 2e-5, "token {token}, head {h}: {got} for {want}");
            }
        }
    }
    cache.clear();
    assert_eq!((cache.tokens(), cache.bytes()), (0, 0));
}

#[test]
fn blocks_that_do_not_fit_are_refused_and_leave_the_cache_as_it_was() {
    let mut cache = DenseAttention::new();
    let ones = |heads, tokens| tensor(tokens, heads, &vec![1.0; tokens * heads * DIM]);
    let (q, kv) = (ones(QUERY_HEADS, 2), ones(KV_HEADS, 2));
    attend(&mut cache, &q, &kv, &kv).expect("a block");
    let bytes = cache.bytes();
    let half = HostTensor::zeros(&[2, KV_HEADS, DIM], DType::F16).expect("a tensor");
    let flat = HostTensor::zeros(&[2, KV_HEADS * DIM], DType::F32).expect("a tensor");
    for (q, k, v) in [
        (&q, &ones(KV_HEADS, 3), &kv),
        (&q, &kv, &ones(1, 2)),
        (&q, &flat, &kv),
        (&flat, &kv, &kv),
        (&q, &half, &kv),
        (&ones(5, 2), &kv, &kv),
        // Another model's heads.
        (&q, &ones(3, 2), &ones(3, 2)),
    ] {
        assert!(attend(&mut cache, q, k, v).is_err());
        assert_eq!(cache.bytes(), bytes);
    }
    let out = attend(&mut cache, &q, &kv, &kv).expect("a block");
    assert!(out.iter().all(|x| (x - 1.0).abs() < 1e-6));
}
