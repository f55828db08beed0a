//! Reproducible random numbers.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// A generator of its own for every (purpose, seed, a, b): the four are the cipher's key, so streams never overlap.
pub(crate) fn stream(purpose: [u8; 8], seed: u64, a: u64, b: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    for (part, value) in
        key.chunks_exact_mut(8).zip([purpose, seed.to_le_bytes(), a.to_le_bytes(), b.to_le_bytes()])
    {
        part.copy_from_slice(&value);
    }
    ChaCha8Rng::from_seed(key)
}

/// Fills `out` with the standard normals of chunk `chunk` of scene `scene`.
///
/// They depend on nothing else: cache recipes that are compared on the same `seed` start from the same noise.
pub fn chunk_noise(seed: u64, scene: u64, chunk: u64, out: &mut [f32]) {
    let mut rng = stream(*b"tv-noise", seed, scene, chunk);
    for x in out {
        *x = StandardNormal.sample(&mut rng);
    }
}

#[cfg(test)]
mod tests {
    use super::chunk_noise;

    #[test]
    fn noise_is_standard_normal_and_reproducible() {
        let mut noise = vec![0.0; 100_000];
        chunk_noise(7, 3, 5, &mut noise);
        let n = noise.len() as f64;
        let mean = noise.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
        let variance = noise.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
        assert!(mean.abs() < 0.015 && (variance - 1.0).abs() < 0.02, "mean {mean}, variance {variance}");
        let mut again = vec![0.0; 100];
        chunk_noise(7, 3, 5, &mut again);
        assert_eq!(again, noise[..100]);
    }

    #[test]
    fn seeds_scenes_and_chunks_have_their_own_streams() {
        let first = |seed, scene, chunk| {
            let mut x = [0f32; 1];
            chunk_noise(seed, scene, chunk, &mut x);
            x[0].to_bits()
        };
        let all = [first(0, 0, 0), first(1, 0, 0), first(0, 1, 0), first(0, 0, 1), first(1, 1, 1)];
        for (i, a) in all.iter().enumerate() {
            assert!(!all[..i].contains(a));
        }
    }
}
