//! Weighted sums of cached tensors, corrected.

use cubecl::prelude::*;

/// `out = slope * y - offset` of `y = sum_j weights_j terms_j`, on top of `out` itself where `onto`. One vector a thread.
///
/// Slope and offset are the scalars, or those of a vector's channels where `rows` has an array: `channels` vectors of slopes and as many of
/// offsets, and vector `i` takes those of `i % channels`. What is cached is widened, and rounded once.
#[cube(launch_unchecked)]
pub(crate) fn weighted_sum<F: Float, N: Size, M: Size>(
    terms: &Sequence<Array<Vector<F, N>>>,
    weights: &Sequence<f32>,
    rows: &Sequence<Array<Vector<f32, M>>>,
    out: &mut Array<Vector<F, N>>,
    len: u32,
    slope: f32,
    offset: f32,
    channels: u32,
    #[comptime] onto: bool,
) {
    let at = ABSOLUTE_POS;
    if (at as u32) < len {
        let mut sum = Vector::<f32, N>::new(0.0f32);
        if comptime!(onto) {
            sum = Vector::cast_from(out[at]);
        }
        let count = terms.len();
        #[unroll]
        for j in 0..count {
            let term = Vector::<f32, N>::cast_from(terms.index(j)[at]);
            sum += term * Vector::new(*weights.index(j));
        }
        let mut slopes = Vector::<f32, N>::new(slope);
        let mut offsets = Vector::<f32, N>::new(offset);
        let correctors = rows.len();
        if comptime!(correctors > 0) {
            let rows = rows.index(0usize);
            let size = N::value();
            let wide = M::value();
            let parts = comptime!((size / wide) as u32);
            let column = (at as u32 % channels) * parts;
            #[unroll]
            for part in 0..parts {
                let slope = rows[(column + part) as usize];
                let offset = rows[(channels * parts + column + part) as usize];
                #[unroll]
                for i in 0..wide {
                    slopes[comptime!(part as usize * wide + i)] = slope[i];
                    offsets[comptime!(part as usize * wide + i)] = offset[i];
                }
            }
        }
        out[at] = Vector::cast_from(sum * slopes - offsets);
    }
}
