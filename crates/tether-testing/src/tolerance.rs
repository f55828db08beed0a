//! One table of tolerances, by operation and storage type.

use tether_core::DType;

/// An operation that is compared with an oracle or a golden file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Attention output.
    Attend,
    /// Keys and values after statistics alignment.
    Align,
    /// Moments: written, merged, or updated after an edit.
    Moments,
    /// Mean logits, attention mass, diversity and scores.
    Score,
    /// Rotated keys.
    Rotate,
    /// Log-sum-exp of attention logits.
    LogSumExp,
    /// Attention that tokens get from an observation window: probabilities, often far below one.
    WindowScore,
    /// Numbers that codes stand for, by the size of what they are sums of: `|code * scale| + |zero|`.
    Dequantise,
    /// Scales of codes.
    CodeScale,
    /// Signals of step reuse: sums over whole tensors, relative.
    Signal,
    /// Differences, ladders and corrected sums of step reuse.
    Correct,
}

/// Largest error allowed: `abs + rel * |expected|`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Absolute part.
    pub abs: f64,
    /// Relative part.
    pub rel: f64,
}

/// The table.
pub fn tolerance(op: Op, dtype: DType) -> Tolerance {
    let (abs, rel) = match (op, dtype) {
        (Op::Attend, DType::F32) => (1e-4, 0.0),
        (Op::Attend, DType::F16) => (2e-3, 0.0),
        (Op::Attend, DType::BF16) => (2e-2, 0.0),
        (Op::Align | Op::Moments | Op::Rotate | Op::Correct, DType::F32) => (1e-5, 1e-5),
        (Op::Align | Op::Moments | Op::Rotate | Op::Correct, DType::F16) => (1e-3, 1e-3),
        // One step of the last place of a bfloat16 is 2^-8 of the value.
        (Op::Align | Op::Moments | Op::Rotate | Op::Correct, DType::BF16) => (1e-3, 8e-3),
        (Op::Score, _) => (1e-5, 0.0),
        (Op::LogSumExp, _) => (1e-4, 1e-6),
        (Op::WindowScore, _) => (1e-7, 1e-4),
        (Op::Dequantise, DType::F32) => (1e-14, 1e-6),
        // The absolute part is a step of the smallest half floats.
        (Op::Dequantise, DType::F16) => (1e-7, 1e-3),
        (Op::Dequantise, DType::BF16) => (1e-14, 8e-3),
        (Op::CodeScale, _) => (0.0, 1e-6),
        (Op::Signal, _) => (0.0, 1e-5),
    };
    Tolerance { abs, rel }
}

/// Compares element by element. NaN never agrees.
///
/// # Panics
/// With the number of mismatches, the worst and the first, when any element is out of tolerance.
pub fn assert_close(what: &str, got: &[f32], expected: &[f32], tolerance: Tolerance) {
    assert_eq!(got.len(), expected.len(), "{what}: lengths differ");
    let excess = |g: f32, e: f32| {
        let (g, e) = (f64::from(g), f64::from(e));
        let over = (g - e).abs() - tolerance.abs - tolerance.rel * e.abs();
        if over.is_nan() { f64::INFINITY } else { over }
    };
    let bad: Vec<usize> = (0..got.len()).filter(|&i| excess(got[i], expected[i]) > 0.0).collect();
    if let Some(&first) = bad.first() {
        let at = |i: usize| excess(got[i], expected[i]);
        let worst = bad.iter().copied().max_by(|&a, &b| at(a).total_cmp(&at(b))).unwrap_or(first);
        panic!(
            "{what}: {} of {} elements differ; first [{first}] {} for {}, worst [{worst}] {} for {}",
            bad.len(),
            got.len(),
            got[first],
            expected[first],
            got[worst],
            expected[worst],
        );
    }
}
