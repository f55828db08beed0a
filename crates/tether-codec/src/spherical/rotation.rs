//! The rotation that makes coordinates of any vector look normal.

/// `R = H diag(s)`: a sign for each channel, then an orthonormal Walsh-Hadamard transform.
///
/// Channels of a head that are no power of two are transformed in blocks: the largest power of two that fits, from the first channel on, then the same of the
/// rest (80 is 64 and 16). A butterfly of distance `h` so concerns the first `head_dim / 2h * 2h` channels.
///
/// The sign of channel `j` is minus where bit `j % 64` of `splitmix64(seed + (j / 64 + 1) * 0x9e3779b97f4a7c15)` is set, `splitmix64` being the finaliser
/// alone (wrapping arithmetic).
#[derive(Clone, Debug, PartialEq)]
pub struct HadamardRotation {
    seed: u64,
    signs: Vec<f32>,
    /// `1 / sqrt(size of its block)` of each channel.
    scales: Vec<f32>,
}

/// The finaliser of `SplitMix64`.
fn splitmix64(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl HadamardRotation {
    /// For heads of `head_dim` channels.
    pub fn new(head_dim: usize, seed: u64) -> Self {
        let sign = |channel: usize| {
            let word =
                splitmix64(seed.wrapping_add((channel as u64 / 64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
            if word >> (channel % 64) & 1 == 1 { -1.0 } else { 1.0 }
        };
        let mut scales = Vec::with_capacity(head_dim);
        while scales.len() < head_dim {
            let block = 1usize << (head_dim - scales.len()).ilog2();
            scales.extend(std::iter::repeat_n(1.0 / (block as f32).sqrt(), block));
        }
        Self { seed, signs: (0..head_dim).map(sign).collect(), scales }
    }

    /// Channels.
    pub fn head_dim(&self) -> usize {
        self.signs.len()
    }

    /// Where the signs come from.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The sign of each channel, 1 or -1.
    pub fn signs(&self) -> &[f32] {
        &self.signs
    }

    /// `1 / sqrt(size)` of the block that each channel is in.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// `x = R x`. Only as many channels are looked at as the rotation has.
    pub fn rotate(&self, x: &mut [f32]) {
        x.iter_mut().zip(&self.signs).for_each(|(x, s)| *x *= s);
        transform(x);
        x.iter_mut().zip(&self.scales).for_each(|(x, s)| *x *= s);
    }

    /// `x = R^T x`.
    pub fn rotate_back(&self, x: &mut [f32]) {
        transform(x);
        x.iter_mut().zip(self.signs.iter().zip(&self.scales)).for_each(|(x, (a, b))| *x *= a * b);
    }
}

/// The transform without its scale.
fn transform(x: &mut [f32]) {
    let mut half = 1;
    while 2 * half <= x.len() {
        for pair in x.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::HadamardRotation;

    #[test]
    fn blocks_are_the_largest_powers_of_two() {
        let rotation = HadamardRotation::new(12, 0);
        let expected: Vec<f32> = (0..12).map(|i| if i < 8 { 1.0 / 8f32.sqrt() } else { 0.5 }).collect();
        assert_eq!(rotation.scales(), expected);
        // A unit vector spreads over its own block.
        for channel in 0..12 {
            let mut x = [0f32; 12];
            x[channel] = 1.0;
            rotation.rotate(&mut x);
            for (i, x) in x.iter().enumerate() {
                let within = (i < 8) == (channel < 8);
                assert!(
                    (x.abs() - if within { expected[channel] } else { 0.0 }).abs() < 1e-6,
                    "{channel} {i} {x}"
                );
            }
            rotation.rotate_back(&mut x);
            let unit = |i| if i == channel { 1.0 } else { 0.0 };
            assert!(x.iter().enumerate().all(|(i, x)| (x - unit(i)).abs() < 1e-6), "{x:?}");
        }
    }

    #[test]
    fn signs_depend_on_the_seed_and_not_on_the_head() {
        let (a, b) = (HadamardRotation::new(128, 1), HadamardRotation::new(96, 1));
        assert_eq!(a.signs()[..96], *b.signs());
        assert_ne!(a.signs(), HadamardRotation::new(128, 2).signs());
        let minus = a.signs().iter().filter(|s| **s < 0.0).count();
        assert!((40..=88).contains(&minus), "{minus} of 128");
        // Written down, for those who make them elsewhere.
        assert_eq!(HadamardRotation::new(8, 0).signs(), SIGNS_OF_SEED_0);
    }

    const SIGNS_OF_SEED_0: [f32; 8] = [-1.0, -1.0, -1.0, -1.0, 1.0, -1.0, 1.0, -1.0];
}
