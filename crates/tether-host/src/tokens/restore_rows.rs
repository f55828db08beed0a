//! Rows of codes to numbers, with the vector instructions that there are.

use tether_codec::{AffineCodes, CodedRows, RowFrame};
use tether_core::CoreError;

/// Writes rows from `first` on to `into`, as many as fit, in the coordinates of their frame: [`CodedRows::read`],
/// sooner.
///
/// # Errors
/// Those of [`CodedRows::read`].
pub(super) fn restore(
    rows: &CodedRows,
    frame: &RowFrame,
    first: usize,
    into: &mut [f32],
) -> Result<(), CoreError> {
    let dim = frame.head_dim();
    let there = first + into.len() / dim.max(1) <= rows.rows();
    match rows {
        CodedRows::Affine(codes) if there && codes.head_dim() == dim => {
            pulp::Arch::new().dispatch(Integers { codes, first, into });
            Ok(())
        }
        #[cfg(target_arch = "x86_64")]
        CodedRows::Spherical(codes) if there => {
            let problem = codes.check()?;
            let Some(simd) = pulp::x86::V3::try_new().filter(|_| problem.head_dim == dim) else {
                return rows.read(frame, first, into);
            };
            let bytes = problem.row_bytes();
            let run = first..first + into.len() / dim;
            let directions = x86::Directions {
                simd,
                codes: &codes.codes[run.start * bytes..run.end * bytes],
                radii: &codes.radii[run],
                levels: codes.format.bits.levels(),
                dim,
                into,
            };
            directions.restore(codes.format.bits);
            Ok(())
        }
        _ => rows.read(frame, first, into),
    }
}

/// Whole numbers: plain loops, for the compiler to make vectors of.
struct Integers<'a> {
    codes: &'a AffineCodes,
    first: usize,
    into: &'a mut [f32],
}

impl pulp::WithSimd for Integers<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        self.codes.read_rows(self.first, self.into);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use half::f16;
    use pulp::x86::V3;
    use tether_codec::{SphericalBits, widened};

    /// Codes as levels times the radii of their rows.
    pub(super) struct Directions<'a> {
        pub simd: V3,
        pub codes: &'a [u8],
        pub radii: &'a [f16],
        /// Ascending; those below 0 mirror those above.
        pub levels: &'a [f32],
        pub dim: usize,
        pub into: &'a mut [f32],
    }

    /// Channels of a step: their codes are as many bytes as a code has bits.
    const STEP: usize = 8;

    impl Directions<'_> {
        pub(super) fn restore(self, bits: SphericalBits) {
            match bits {
                SphericalBits::One => self.simd.vectorize(Rows::<1, 1>(self)),
                SphericalBits::Two => self.simd.vectorize(Rows::<2, 1>(self)),
                SphericalBits::Three => self.simd.vectorize(Rows::<3, 1>(self)),
                SphericalBits::Four => self.simd.vectorize(Rows::<4, 1>(self)),
                SphericalBits::Six => self.simd.vectorize(Rows::<6, 4>(self)),
            }
        }
    }

    /// Rows of codes of `BITS` bits, whose levels above 0 fill `TABLES` registers.
    struct Rows<'a, const BITS: usize, const TABLES: usize>(Directions<'a>);

    impl<const BITS: usize, const TABLES: usize> pulp::NullaryFnOnce for Rows<'_, BITS, TABLES> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let Directions { simd, codes, radii, levels, dim, into } = self.0;
            let half = levels.len() / 2;
            let table = |number: usize| {
                let level = |i: usize| levels.get(half + STEP * number + i).copied().unwrap_or(0.0);
                pulp::cast(std::array::from_fn::<f32, STEP, _>(level))
            };
            let tables: [_; TABLES] = std::array::from_fn(table);
            // Where a lane's code begins in its word; the upper four have a word of their own where eight codes are
            // more than one.
            let split = BITS * STEP > 32;
            let place = |i: usize| if split { i % 4 * BITS } else { i * BITS } as u32;
            let places = pulp::cast(std::array::from_fn::<u32, STEP, _>(place));
            let (avx, avx2) = (simd.avx, simd.avx2);
            let mask = avx._mm256_set1_epi32(half as i32 - 1);
            let sign = avx._mm256_set1_epi32(half as i32);
            let zero = avx._mm256_setzero_si256();
            let minus = avx._mm256_set1_epi32(i32::MIN);
            let row_bytes = codes.len() / radii.len().max(1);
            let rows = codes.chunks_exact(row_bytes.max(1)).zip(radii);
            for (into, (codes, radius)) in into.chunks_exact_mut(dim).zip(rows) {
                let radius = avx._mm256_set1_ps(widened(*radius));
                let steps = into.as_chunks_mut::<STEP>().0.iter_mut().zip(codes.as_chunks::<BITS>().0);
                for (into, codes) in steps {
                    let mut word = 0u64;
                    for (i, &byte) in codes.iter().enumerate() {
                        word |= u64::from(byte) << (8 * i);
                    }
                    let words = if split {
                        let (low, high) = (word as u32, (word >> (4 * BITS)) as u32);
                        pulp::cast([low, low, low, low, high, high, high, high])
                    } else {
                        avx._mm256_set1_epi32((word as u32).cast_signed())
                    };
                    let code = avx2._mm256_srlv_epi32(words, places);
                    // All bits where the code is of a level below 0, which mirrors the one above.
                    let below = avx2._mm256_cmpeq_epi32(avx2._mm256_and_si256(code, sign), zero);
                    let place = avx2._mm256_and_si256(avx2._mm256_xor_si256(code, below), mask);
                    let mut level = avx2._mm256_permutevar8x32_ps(tables[0], place);
                    if TABLES == 4 {
                        let other = |table| avx2._mm256_permutevar8x32_ps(table, place);
                        let odd = pulp::cast(avx2._mm256_slli_epi32::<28>(place));
                        let upper = pulp::cast(avx2._mm256_slli_epi32::<27>(place));
                        let low = avx._mm256_blendv_ps(level, other(tables[1]), odd);
                        let high = avx._mm256_blendv_ps(other(tables[2]), other(tables[3]), odd);
                        level = avx._mm256_blendv_ps(low, high, upper);
                    }
                    let signs = pulp::cast(avx2._mm256_and_si256(below, minus));
                    *into = pulp::cast(avx._mm256_mul_ps(avx._mm256_xor_ps(level, signs), radius));
                }
            }
        }
    }
}
