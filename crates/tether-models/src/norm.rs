//! Normalisations, fused with the element-wise work next to them so that every row is touched once.

use pulp::{Arch, Simd, WithSimd};

const EPS: f32 = 1e-6;
const LANES: usize = 16;

/// Sum of `f(x)`, in independent lanes: a single accumulator would forbid vector code.
#[inline(always)]
pub(crate) fn lane_sum(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let mut blocks = row.chunks_exact(LANES);
    for block in &mut blocks {
        for (lane, x) in lanes.iter_mut().zip(block) {
            *lane += f(*x);
        }
    }
    let rest: f32 = blocks.remainder().iter().map(|x| f(*x)).sum();
    lanes.iter().sum::<f32>() + rest
}

/// Per-channel scale and shift that follow a layer norm.
#[derive(Clone, Copy)]
pub(crate) struct Affine<'a> {
    /// Multiplies the normalised value after 1 is added, `[dim]`.
    pub(crate) scale: &'a [f32],
    /// Added last, `[dim]`.
    pub(crate) shift: &'a [f32],
}

/// A projection that is added to the residual stream through a gate.
#[derive(Clone, Copy)]
pub(crate) struct Gated<'a> {
    /// The projection without its bias, `[rows, dim]`.
    pub(crate) delta: &'a [f32],
    /// The projection's bias, `[dim]`.
    pub(crate) bias: &'a [f32],
    /// Multiplies `delta + bias`, `[dim]`.
    pub(crate) gate: &'a [f32],
}

#[inline(always)]
fn layer_norm_row(h: &[f32], affine: Affine<'_>, out: &mut [f32]) {
    let inv_n = 1.0 / h.len() as f32;
    let mean = lane_sum(h, |x| x) * inv_n;
    // Two passes over a row that sits in L1: the one-pass form cancels when the mean is large.
    let variance = lane_sum(h, |x| (x - mean) * (x - mean)) * inv_n;
    let inv_std = 1.0 / (variance + EPS).sqrt();
    for (((o, x), scale), shift) in out.iter_mut().zip(h).zip(affine.scale).zip(affine.shift) {
        *o = ((x - mean) * inv_std).mul_add(1.0 + scale, *shift);
    }
}

/// `out = LN(h) * (1 + scale) + shift`, row by row.
pub(crate) fn layer_norm(arch: Arch, h: &[f32], affine: Affine<'_>, out: &mut [f32]) {
    arch.dispatch(LayerNorm { h, affine, out });
}

struct LayerNorm<'a> {
    h: &'a [f32],
    affine: Affine<'a>,
    out: &'a mut [f32],
}

impl WithSimd for LayerNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let dim = self.affine.scale.len();
        for (h, out) in self.h.chunks_exact(dim).zip(self.out.chunks_exact_mut(dim)) {
            layer_norm_row(h, self.affine, out);
        }
    }
}

/// `h += (delta + bias) * gate`, then [`layer_norm`] of the new `h` into `out`.
pub(crate) fn add_gated_layer_norm(
    arch: Arch,
    h: &mut [f32],
    gated: Gated<'_>,
    affine: Affine<'_>,
    out: &mut [f32],
) {
    arch.dispatch(AddGatedLayerNorm { h, gated, affine, out });
}

struct AddGatedLayerNorm<'a> {
    h: &'a mut [f32],
    gated: Gated<'a>,
    affine: Affine<'a>,
    out: &'a mut [f32],
}

impl WithSimd for AddGatedLayerNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Gated { delta, bias, gate } = self.gated;
        let dim = self.affine.scale.len();
        let rows = self.h.chunks_exact_mut(dim).zip(delta.chunks_exact(dim));
        for ((h, delta), out) in rows.zip(self.out.chunks_exact_mut(dim)) {
            for (((x, d), b), g) in h.iter_mut().zip(delta).zip(bias).zip(gate) {
                *x = (d + b).mul_add(*g, *x);
            }
            layer_norm_row(h, self.affine, out);
        }
    }
}

#[inline(always)]
fn rms_norm_row(row: &[f32], bias: &[f32], weight: &[f32], out: &mut [f32]) {
    for ((o, x), b) in out.iter_mut().zip(row).zip(bias) {
        *o = x + b;
    }
    let inv_rms = 1.0 / (lane_sum(out, |x| x * x) / out.len() as f32 + EPS).sqrt();
    for (o, w) in out.iter_mut().zip(weight) {
        *o *= inv_rms * w;
    }
}

/// What turns a row of the fused projection `[q | k | v]` into the three tensors.
#[derive(Clone, Copy)]
pub(crate) struct QkvNorm<'a> {
    /// Bias of the fused projection, `[3 * dim]`.
    pub(crate) bias: &'a [f32],
    /// RMS weight of the queries, `[dim]`.
    pub(crate) q: &'a [f32],
    /// RMS weight of the keys, `[dim]`.
    pub(crate) k: &'a [f32],
}

/// Splits rows of `[q | k | v]`, adds the bias, and RMS-normalises q and k over all channels.
pub(crate) fn split_qkv(
    arch: Arch,
    fused: &[f32],
    norm: QkvNorm<'_>,
    q: &mut [f32],
    k: &mut [f32],
    v: &mut [f32],
) {
    arch.dispatch(SplitQkv { fused, norm, q, k, v });
}

struct SplitQkv<'a> {
    fused: &'a [f32],
    norm: QkvNorm<'a>,
    q: &'a mut [f32],
    k: &'a mut [f32],
    v: &'a mut [f32],
}

impl WithSimd for SplitQkv<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let norm = self.norm;
        let dim = norm.q.len();
        let (q_bias, rest) = norm.bias.split_at(dim);
        let (k_bias, v_bias) = rest.split_at(dim);
        let out =
            self.q.chunks_exact_mut(dim).zip(self.k.chunks_exact_mut(dim)).zip(self.v.chunks_exact_mut(dim));
        for (row, ((q, k), v)) in self.fused.chunks_exact(3 * dim).zip(out) {
            rms_norm_row(&row[..dim], q_bias, norm.q, q);
            rms_norm_row(&row[dim..2 * dim], k_bias, norm.k, k);
            for ((o, x), b) in v.iter_mut().zip(&row[2 * dim..]).zip(v_bias) {
                *o = x + b;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIM: usize = 37;

    fn series(n: usize, a: f32, b: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * a + b).sin() * 1.5 + 0.3).collect()
    }

    fn layer_norm_f64(row: &[f32], scale: &[f32], shift: &[f32]) -> Vec<f64> {
        let n = row.len() as f64;
        let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
        let variance = row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
        row.iter()
            .zip(scale.iter().zip(shift))
            .map(|(x, (a, b))| {
                (f64::from(*x) - mean) / (variance + 1e-6).sqrt() * (1.0 + f64::from(*a)) + f64::from(*b)
            })
            .collect()
    }

    #[test]
    fn gated_layer_norm_matches_double_precision() {
        let (delta, bias, gate) = (series(2 * DIM, 0.7, 0.1), series(DIM, 1.1, 0.2), series(DIM, 0.4, 0.9));
        let (scale, shift) = (series(DIM, 2.1, 0.4), series(DIM, 1.7, 0.6));
        let mut h = series(2 * DIM, 0.31, 0.0);
        let expected_h: Vec<f32> =
            (0..2 * DIM).map(|i| h[i] + (delta[i] + bias[i % DIM]) * gate[i % DIM]).collect();
        let mut out = vec![0.0; 2 * DIM];
        let affine = Affine { scale: &scale, shift: &shift };
        add_gated_layer_norm(
            Arch::new(),
            &mut h,
            Gated { delta: &delta, bias: &bias, gate: &gate },
            affine,
            &mut out,
        );
        let mut plain = vec![0.0; 2 * DIM];
        layer_norm(Arch::new(), &h, affine, &mut plain);
        assert_eq!(plain, out);
        for (got, want) in h.iter().zip(&expected_h) {
            assert!((got - want).abs() < 1e-6);
        }
        for (got, want) in out.chunks(DIM).zip(expected_h.chunks(DIM)) {
            for (x, y) in got.iter().zip(layer_norm_f64(want, &scale, &shift)) {
                assert!((f64::from(*x) - y).abs() < 5e-6, "{x} {y}");
            }
        }
    }

    #[test]
    fn split_qkv_normalises_q_and_k_only() {
        let fused = series(2 * 3 * DIM, 0.77, 0.5);
        let bias = series(3 * DIM, 0.9, 0.8);
        let (nq, nk) = (series(DIM, 0.2, 0.1), series(DIM, 0.3, 0.7));
        let (mut q, mut k, mut v) = (vec![0.0; 2 * DIM], vec![0.0; 2 * DIM], vec![0.0; 2 * DIM]);
        let norm = QkvNorm { bias: &bias, q: &nq, k: &nk };
        split_qkv(Arch::new(), &fused, norm, &mut q, &mut k, &mut v);
        for row in 0..2 {
            for (part, (got, weight)) in
                [(&q, Some(&nq)), (&k, Some(&nk)), (&v, None)].into_iter().enumerate()
            {
                let biased: Vec<f64> = (0..DIM)
                    .map(|i| {
                        f64::from(fused[row * 3 * DIM + part * DIM + i]) + f64::from(bias[part * DIM + i])
                    })
                    .collect();
                let rms = (biased.iter().map(|x| x * x).sum::<f64>() / DIM as f64 + 1e-6).sqrt();
                for i in 0..DIM {
                    let want = weight.map_or(biased[i], |w| biased[i] / rms * f64::from(w[i]));
                    assert!((f64::from(got[row * DIM + i]) - want).abs() < 2e-6);
                }
            }
        }
    }
}
