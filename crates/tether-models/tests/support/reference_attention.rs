//! Attention written as plainly as its definition, in double precision.

use std::convert::Infallible;

use tether_core::HostTensor;
use tether_models::ChunkAttention;

const HEADS: usize = 3;
const HEAD_DIM: usize = 64;
const ROW: usize = HEADS * HEAD_DIM;

/// Attends over a context that starts at frame 0, then the chunk itself at frame `first_frame`.
pub(crate) struct ReferenceAttention {
    first_frame: usize,
    /// Unrotated q, k and v of every layer's context; q is not used.
    context: Vec<[Vec<f32>; 3]>,
    /// Unrotated q, k and v of every layer of the chunk.
    pub(crate) seen: Vec<[Vec<f32>; 3]>,
}

impl ReferenceAttention {
    pub(crate) fn new(first_frame: usize, context: Vec<[Vec<f32>; 3]>) -> Self {
        Self { first_frame, context, seen: Vec::new() }
    }

    /// The context with the chunk appended.
    #[allow(dead_code, reason = "not every test that includes this file rolls on")]
    pub(crate) fn into_context(mut self) -> Vec<[Vec<f32>; 3]> {
        self.context.resize(self.seen.len(), Default::default());
        for (layer, seen) in self.context.iter_mut().zip(self.seen) {
            for (all, new) in layer.iter_mut().zip(seen) {
                all.extend(new);
            }
        }
        self.context
    }
}

/// One head's 64 channels rotated to a token's place; token 0 is the first of frame `first_frame`.
///
/// 32 interleaved pairs: 12 turn with the frame, 10 with the row, 10 with the column.
pub(crate) fn rotate(x: &[f32], token: usize, first_frame: usize) -> Vec<f64> {
    let (frame, row, column) = (first_frame + token / 64, token % 64 / 8, token % 8);
    (0..32)
        .flat_map(|pair| {
            let (position, index, channels) = match pair {
                0..12 => (frame, pair, 24.0),
                12..22 => (row, pair - 12, 20.0),
                _ => (column, pair - 22, 20.0),
            };
            let angle = position as f64 * 10_000f64.powf(-2.0 * index as f64 / channels);
            let (a, b) = (f64::from(x[2 * pair]), f64::from(x[2 * pair + 1]));
            [a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()]
        })
        .collect()
}

fn head(x: &[f32], token: usize, head: usize) -> &[f32] {
    &x[token * ROW + head * HEAD_DIM..][..HEAD_DIM]
}

impl ChunkAttention for ReferenceAttention {
    type Error = Infallible;

    fn attend(
        &mut self,
        layer: usize,
        q: &HostTensor,
        k: &HostTensor,
        v: &HostTensor,
        out: &mut HostTensor,
    ) -> Result<(), Infallible> {
        for x in [q, k, v, &*out] {
            assert_eq!(x.shape(), [192, HEADS, HEAD_DIM]);
        }
        let [q, k, v] = [q, k, v].map(HostTensor::to_f32_vec);
        let empty = Default::default();
        let [_, old_k, old_v] = self.context.get(layer).unwrap_or(&empty);
        let (all_k, all_v) = ([&old_k[..], &k[..]].concat(), [&old_v[..], &v[..]].concat());
        let out = out.as_f32_mut().expect("an f32 tensor");
        for h in 0..HEADS {
            let keys: Vec<_> = (0..all_k.len() / ROW).map(|n| rotate(head(&all_k, n, h), n, 0)).collect();
            for n in 0..q.len() / ROW {
                let query = rotate(head(&q, n, h), n, self.first_frame);
                let logits: Vec<f64> = keys
                    .iter()
                    .map(|key| query.iter().zip(key).map(|(a, b)| a * b).sum::<f64>() / 8.0)
                    .collect();
                let max = logits.iter().fold(f64::NEG_INFINITY, |m, x| m.max(*x));
                let weights: Vec<f64> = logits.iter().map(|x| (x - max).exp()).collect();
                let total: f64 = weights.iter().sum();
                let mut sum = [0f64; HEAD_DIM];
                for (m, w) in weights.iter().enumerate() {
                    for (s, x) in sum.iter_mut().zip(head(&all_v, m, h)) {
                        *s += w / total * f64::from(*x);
                    }
                }
                for (o, s) in out[n * ROW + h * HEAD_DIM..][..HEAD_DIM].iter_mut().zip(sum) {
                    *o = s as f32;
                }
            }
        }
        self.seen.truncate(layer);
        self.seen.push([q, k, v]);
        Ok(())
    }
}
