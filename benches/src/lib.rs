//! Benches, `cargo bench -p tether-benches`, and the numbers that they are fed.

/// Numbers in `-1..1`, the same for the same state.
pub fn random(len: usize, mut state: u64) -> Vec<f32> {
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(len).collect()
}
