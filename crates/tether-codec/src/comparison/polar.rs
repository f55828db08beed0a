//! Radius and angle of pairs of channels (in the manner of arXiv:2502.00527).

/// Channels `i` and `i + head_dim / 2` (a pair of the rotary embedding) as a radius and an angle. Radii are uniform between 0 and the token's largest, which is an `f16`
/// beside the codes; angles are uniform, each coded as the middle of its sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairPolar {
    /// Bits of a radius.
    pub radius_bits: u32,
    /// Bits of an angle.
    pub angle_bits: u32,
    /// Whether the mean of all tokens is taken off first, as spherical codes do.
    pub centred: bool,
}

impl PairPolar {
    /// Bits of a channel, of heads of `dim`.
    pub fn bits_per_channel(self, dim: usize) -> f64 {
        f64::from(self.radius_bits + self.angle_bits) / 2.0 + 16.0 / dim as f64
    }

    /// What tokens `x` `[tokens, dim]` come back as.
    pub fn restored(self, x: &[f32], dim: usize) -> Vec<f32> {
        let tokens = x.len() / dim.max(1);
        let mut mean = vec![0f32; dim];
        if self.centred {
            for row in x.chunks_exact(dim) {
                mean.iter_mut().zip(row).for_each(|(m, x)| *m += x / tokens as f32);
            }
            mean.iter_mut().for_each(|m| *m = half::f16::from_f32(*m).to_f32());
        }
        let steps = ((1u32 << self.radius_bits) - 1) as f32;
        let sectors = (1u32 << self.angle_bits) as f32;
        let mut out = Vec::with_capacity(x.len());
        for row in x.chunks_exact(dim) {
            let centred: Vec<f32> = row.iter().zip(&mean).map(|(x, m)| x - m).collect();
            let (low, high) = centred.split_at(dim / 2);
            let radii: Vec<f32> = low.iter().zip(high).map(|(a, b)| a.hypot(*b)).collect();
            let longest = half::f16::from_f32(radii.iter().fold(0f32, |m, r| m.max(*r))).to_f32();
            let start = out.len();
            out.extend_from_slice(&mean);
            for (i, (radius, (a, b))) in radii.iter().zip(low.iter().zip(high)).enumerate() {
                let radius = if longest > 0.0 {
                    (radius / longest * steps).round().min(steps) * longest / steps
                } else {
                    0.0
                };
                let turn = b.atan2(*a) / std::f32::consts::TAU;
                let sector = ((turn - turn.floor()) * sectors).floor().min(sectors - 1.0);
                let angle = (sector + 0.5) / sectors * std::f32::consts::TAU;
                out[start + i] += radius * angle.cos();
                out[start + i + dim / 2] += radius * angle.sin();
            }
        }
        out
    }
}
