//! The ladder of backward differences.

use cubecl::prelude::*;

#[cube]
fn put<F: Numeric, N: Size>(to: &mut Array<Vector<F, N>>, at: usize, value: Vector<F, N>) {
    to[at] = value;
}

/// A value enters the ladder: `D0' = value`, and `D(j+1)' = (Dj' - Dj) * inverse_gap` for the rungs that are given. One vector a thread; all old
/// rungs are read before the first is written, and differences are of what is widened, not of what is rounded in between.
#[cube(launch_unchecked)]
pub(crate) fn climb<F: Float, N: Size>(
    value: &Array<Vector<F, N>>,
    ladder: &mut Sequence<Array<Vector<F, N>>>,
    len: u32,
    inverse_gap: f32,
) {
    let at = ABSOLUTE_POS;
    if (at as u32) < len {
        let rungs = ladder.len();
        let mut old = Array::<Vector<F, N>>::new(rungs);
        #[unroll]
        for j in 1..rungs {
            old[j - 1] = ladder.index(j - 1)[at];
        }
        let value = value[at];
        let mut new = Vector::<f32, N>::cast_from(value);
        put(ladder.index_mut(0usize), at, value);
        #[unroll]
        for j in 1..rungs {
            new = (new - Vector::cast_from(old[j - 1])) * Vector::new(inverse_gap);
            put(ladder.index_mut(j), at, Vector::cast_from(new));
        }
    }
}
