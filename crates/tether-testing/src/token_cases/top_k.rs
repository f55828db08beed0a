//! Exact selection.

use tether_core::{CoreError, DType, TokenEngine, TokenLayout, TokenShape};

use super::assert_refused;
use crate::oracle::{gather_token_rows, sorted_top_k};
use crate::tensors::{assert_same_bits, numbers, poison, random, read, tensor};

/// What scores look like.
#[derive(Clone, Copy, Debug)]
enum Scores {
    /// Attention: positive and mostly small.
    Attention,
    /// Below 0.
    Negative,
    /// Either sign, the smaller magnitude not always the better one.
    Mixed,
    /// 0 or 1: most of them are equal.
    ZeroOrOne,
    /// One number.
    Equal,
    /// 0, -0 and a few others.
    SignedZeros,
    /// Some places set to be kept, as methods mark a window, and some set never to be.
    Marked,
    /// In the last digit of a large number: the order is in the low bits.
    Close,
}

impl Scores {
    const ALL: [Self; 8] = [
        Self::Attention,
        Self::Negative,
        Self::Mixed,
        Self::ZeroOrOne,
        Self::Equal,
        Self::SignedZeros,
        Self::Marked,
        Self::Close,
    ];

    fn values(self, seed: u64, len: usize) -> Vec<f32> {
        let score = |(i, x): (usize, f32)| match self {
            Self::Attention => (x * 12.0).exp() * 1e-4,
            Self::Negative => -1.5 - x,
            Self::Mixed => x * 100.0,
            Self::ZeroOrOne => f32::from(x > 0.3),
            Self::Equal => 0.25,
            Self::SignedZeros => [0.0, -0.0, -0.0, 0.0, x][((x + 1.0) * 2.5) as usize % 5],
            Self::Marked => match i % 7 {
                3 => f32::MAX,
                5 => f32::MIN,
                _ => x,
            },
            Self::Close => f32::from_bits(1e6f32.to_bits() + ((x + 1.0) * 300.0) as u32),
        };
        numbers(seed).take(len).enumerate().map(score).collect()
    }
}

/// Rows, columns, and how many are chosen.
const SIZES: [(usize, usize, usize); 15] = [
    (1, 1, 1),
    (2, 5, 5),
    (3, 7, 0),
    (0, 9, 4),
    (4, 0, 0),
    (8, 63, 62),
    (3, 64, 1),
    (5, 257, 128),
    (2, 1000, 17),
    (2, 1023, 500),
    (4, 4097, 4096),
    (2, 4096, 4096),
    (3, 10_000, 2048),
    (1, 65_537, 300),
    (2, 131_072, 2048),
];

/// Selections are the oracle's exactly, whatever is equal.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When a selection is wrong.
pub fn selects_the_best<E: TokenEngine>(engine: &E) -> Result<(), CoreError> {
    for (i, &(rows, columns, k)) in SIZES.iter().enumerate() {
        for kind in Scores::ALL {
            let what = format!("{kind:?}, {rows} rows of {columns}, {k} chosen");
            let scores = kind.values(71 + i as u64, rows * columns);
            let on_device = engine.upload(&tensor(&[rows, columns], DType::F32, &scores))?;
            poison(engine, rows * k)?;
            let got = engine.read_indices(&engine.top_k(&on_device, k)?)?;
            let expected = sorted_top_k(&scores, columns, k);
            assert_eq!(got.len(), expected.len(), "{what}");
            if let Some(i) = got.iter().zip(&expected).position(|(a, b)| a != b) {
                panic!("{what}: choice {i} is {} and should be {}", got[i], expected[i]);
            }
        }
    }
    // NaN: refused by name, or never preferred to a number.
    let mut scores = Scores::Mixed.values(72, 3 * 50);
    for bad in [54, 60, 149] {
        scores[bad] = f32::NAN;
    }
    for k in [10, 48, 50] {
        let on_device = engine.upload(&tensor(&[3, 50], DType::F32, &scores))?;
        match engine.top_k(&on_device, k) {
            Err(CoreError::NonFinite { what: "scores", index: 54 }) => {}
            Err(other) => panic!("{other}"),
            Ok(got) => {
                assert_eq!(engine.read_indices(&got)?, sorted_top_k(&scores, 50, k), "NaN, {k} chosen");
            }
        }
    }
    Ok(())
}

/// What was selected on the device can be compacted there.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When a bit is wrong.
pub fn compacts_what_it_selects<E: TokenEngine>(engine: &E, dtype: DType) -> Result<(), CoreError> {
    for (tokens, heads, head_dim, kept) in [(37, 3, 80, 11), (300, 2, 128, 299), (5, 2, 6, 0)] {
        let shape = TokenShape { tokens, heads, head_dim, layout: TokenLayout::Nhd };
        let x = random(73, &shape.dims(), dtype, 0.0);
        let scores = Scores::Attention.values(74, heads * tokens);
        let on_device = engine.upload(&x)?;
        let chosen = engine.top_k(&engine.upload(&tensor(&[heads, tokens], DType::F32, &scores))?, kept)?;
        poison(engine, heads * kept * head_dim)?;
        let got = read(engine, &engine.gather_rows(&on_device, shape.layout, &chosen)?)?;
        let chosen = sorted_top_k(&scores, tokens, kept);
        let expected = gather_token_rows(&x.to_f32_vec(), &shape, &chosen);
        let expected = tensor(&[kept, heads, head_dim], dtype, &expected);
        assert_same_bits(&format!("{shape:?}, {kept} kept, {dtype}"), &got, &expected);
    }
    Ok(())
}

/// More than there are, and scores of another shape or type, are refused.
///
/// # Errors
/// What the engine refuses and should not.
///
/// # Panics
/// When it accepts one of the calls.
pub fn refuses_selections_that_do_not_fit<E: TokenEngine>(engine: &E) -> Result<(), CoreError> {
    let scores = engine.upload(&random(75, &[3, 8], DType::F32, 0.0))?;
    assert_refused!(engine.top_k(&scores, 9), CoreError::Count { what: "candidates", expected: 9, got: 8 });
    let flat = engine.upload(&random(75, &[24], DType::F32, 0.0))?;
    assert_refused!(engine.top_k(&flat, 2), CoreError::ShapeMismatch { what: "scores", .. });
    if let Ok(half) = engine.upload(&random(75, &[3, 8], DType::F16, 0.0)) {
        assert_refused!(engine.top_k(&half, 2), CoreError::DTypeMismatch { what: "scores", .. });
    }
    Ok(())
}
