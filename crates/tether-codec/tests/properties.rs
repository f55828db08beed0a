//! What quantisation promises, for any numbers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use proptest::prelude::*;
use tether_codec::{Bits, CodeProblem, CodecEngine, Format, Grouping, HostCodes, MIN_SCALE_RANGE};
use tether_core::{CoreError, DType, HostTensor};
use tether_host::Host;

fn formats() -> impl Strategy<Value = Format> {
    let bits = prop_oneof![Just(Bits::Four), Just(Bits::Eight)];
    let grouping = prop_oneof![Just(Grouping::Token), (1usize..9).prop_map(Grouping::Channel)];
    (bits, grouping).prop_map(|(bits, grouping)| Format { bits, grouping })
}

/// Numbers of very different sizes, next to each other.
fn numbers() -> impl Strategy<Value = f32> {
    prop_oneof![4 => -2f32..2.0, 1 => -1e5f32..1e5, 1 => -1e-6f32..1e-6, 1 => -1e-9f32..1e-9, 1 => Just(0.0)]
}

fn tensors() -> impl Strategy<Value = HostTensor> {
    (0usize..12, 1usize..4, 1usize..4).prop_flat_map(|(tokens, heads, eighths)| {
        let shape = [tokens, heads, 8 * eighths];
        prop::collection::vec(numbers(), shape.iter().product::<usize>())
            .prop_map(move |values| HostTensor::from_f32(&shape, values).unwrap())
    })
}

/// The number of the scale of each element, by counting.
fn scales_of(problem: &CodeProblem) -> Vec<usize> {
    let mut scales = Vec::new();
    for token in 0..problem.tokens {
        for head in 0..problem.heads {
            for channel in 0..problem.head_dim {
                scales.push(match problem.format.grouping {
                    Grouping::Token => token * problem.heads + head,
                    Grouping::Channel(size) => {
                        (token / size * problem.heads + head) * problem.head_dim + channel
                    }
                });
            }
        }
    }
    scales
}

proptest! {
    #[test]
    fn numbers_come_back_within_half_a_scale(x in tensors(), format in formats()) {
        let engine = Host::new();
        let codes = engine.quantise(&x, format).unwrap();
        let problem = codes.check().unwrap();
        let back = engine.dequantise(&codes, DType::F32).unwrap();
        for ((x, got), scale) in x.to_f32_vec().iter().zip(back.to_f32_vec()).zip(scales_of(&problem)) {
            let zero = codes.zeros.get(scale).copied().unwrap_or(0.0);
            let scale = codes.scales[scale];
            // The second term is what rounding the sum costs.
            let bound = 0.5001 * f64::from(scale) + 2f64.powi(-22) * f64::from(x.abs().max(zero.abs()));
            prop_assert!((f64::from(*x) - f64::from(got)).abs() <= bound, "{x} came back as {got}, scale {scale}");
        }
    }

    #[test]
    fn what_codes_stand_for_has_the_same_codes(x in tensors(), bits in prop_oneof![Just(Bits::Four), Just(Bits::Eight)]) {
        // Channels far from zero and narrow lose digits in the sum, tokens do not.
        let format = Format { bits, grouping: Grouping::Token };
        let engine = Host::new();
        let first = engine.quantise(&x, format).unwrap();
        let again = engine.quantise(&engine.dequantise(&first, DType::F32).unwrap(), format).unwrap();
        let small = MIN_SCALE_RANGE / bits.signed_max() as f32;
        prop_assert!(first.codes == again.codes);
        for (a, b) in first.scales.iter().zip(&again.scales) {
            prop_assert!((a - b).abs() <= 1e-6 * a || *a == small, "{a} {b}");
        }
    }

    #[test]
    fn threads_do_not_change_a_bit(x in tensors(), format in formats()) {
        let (one, many) = (Host::new(), Host::parallel());
        let codes = one.quantise(&x, format).unwrap();
        prop_assert_eq!(&codes, &many.quantise(&x, format).unwrap());
        let numbers = |engine: &Host| engine.dequantise(&codes, DType::F16).unwrap();
        prop_assert_eq!(numbers(&one), numbers(&many));
    }

    #[test]
    fn a_channel_of_one_value_comes_back_exactly(value in numbers(), size in 1usize..9) {
        let x = HostTensor::from_f32(&[7, 1, 8], vec![value; 56]).unwrap();
        for bits in [Bits::Four, Bits::Eight] {
            let format = Format { bits, grouping: Grouping::Channel(size) };
            let codes = Host::new().quantise(&x, format).unwrap();
            let back = Host::new().dequantise(&codes, DType::F32).unwrap();
            prop_assert_eq!(back.to_f32_vec(), vec![value; 56]);
            prop_assert!(codes.scales.iter().all(|&s| s > 0.0));
        }
    }
}

fn quantised(values: &[f32], shape: &[usize], bits: Bits, grouping: Grouping) -> HostCodes {
    let x = HostTensor::from_f32(shape, values.to_vec()).unwrap();
    Host::new().quantise(&x, Format { bits, grouping }).unwrap()
}

#[test]
fn eight_bits_per_token() {
    // The largest magnitude makes the scale 1.
    let codes =
        quantised(&[127.0, -127.0, 0.5, -0.5, 1.4, -1.5, 2.5, 0.0], &[1, 1, 8], Bits::Eight, Grouping::Token);
    assert_eq!(codes.scales, [1.0]);
    assert_eq!(codes.codes, [127, 129, 1, 255, 1, 254, 3, 0]);
    assert!(codes.zeros.is_empty());
}

#[test]
fn four_bits_per_token() {
    let codes =
        quantised(&[7.0, -7.0, 0.5, -0.5, 1.0, 2.0, 3.0, 0.0], &[1, 1, 8], Bits::Four, Grouping::Token);
    assert_eq!(codes.scales, [1.0]);
    // 7 with 1, -7 with 2, 1 with 3, -1 with 0, plus 8 each.
    assert_eq!(codes.codes, [0x9f, 0xa1, 0xb9, 0x87]);
}

#[test]
fn four_bits_per_channel_with_a_last_group_of_fewer_tokens() {
    // Three tokens in groups of two; in every channel 0 and 15, then what is alone in its group.
    let values: Vec<f32> =
        (0..24).map(|i| [0.0, 15.0, 4.0][i / 8] + (i % 8) as f32 * if i < 16 { 1.0 } else { 0.5 }).collect();
    let codes = quantised(&values, &[3, 1, 8], Bits::Four, Grouping::Channel(2));
    assert_eq!(codes.scales[..8], [1.0; 8]);
    assert_eq!(codes.scales[8..], [MIN_SCALE_RANGE / 15.0; 8]);
    assert_eq!(codes.zeros[..8], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    assert_eq!(codes.zeros[8..], [4.0, 4.5, 5.0, 5.5, 6.0, 6.5, 7.0, 7.5]);
    assert_eq!(codes.codes, [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    let back = Host::new().dequantise(&codes, DType::F32).unwrap();
    assert_eq!(back.to_f32_vec(), values);
}

#[test]
fn what_is_not_finite_is_named() {
    let quantise = |values: Vec<f32>, grouping| {
        let x = HostTensor::from_f32(&[values.len() / 8, 1, 8], values).unwrap();
        Host::new().quantise(&x, Format { bits: Bits::Eight, grouping })
    };
    let mut values = vec![1.0; 32];
    values[9] = f32::NEG_INFINITY;
    let e = quantise(values, Grouping::Token);
    assert!(matches!(e, Err(CoreError::NonFinite { what: "x", index: 9 })), "{e:?}");
    // A range that no f32 holds, in the second group.
    let mut values = vec![0.0; 32];
    (values[19], values[27]) = (f32::MAX, f32::MIN);
    assert!(quantise(values.clone(), Grouping::Token).is_ok(), "a token's scale needs no range");
    let e = quantise(values, Grouping::Channel(2));
    assert!(matches!(e, Err(CoreError::NonFinite { what: "range of a group of x", index: 19 })), "{e:?}");
}
