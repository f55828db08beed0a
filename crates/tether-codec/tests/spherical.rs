//! What spherical codes promise.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use proptest::prelude::*;
use tether_codec::{
    HostSpherical, RadiusFit, SphericalBits, SphericalEngine, SphericalFormat, SphericalFrame,
};
use tether_core::{CoreError, DType, HostTensor, Side};
use tether_host::Host;
use tether_testing::oracle::{literal_radius, literal_spherical, unpacked_spherical};

/// Normal numbers from uniform ones.
fn normal(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed | 1;
    let mut uniform = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    };
    (0..count)
        .map(|_| ((-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()) as f32)
        .collect()
}

fn coded(x: &HostTensor, frame: &SphericalFrame, bits: SphericalBits, fit: RadiusFit) -> HostSpherical {
    Host::new().quantise_spherical(x, frame, SphericalFormat { bits, fit }).unwrap()
}

#[test]
fn a_constant_on_all_keys_changes_no_code_and_no_attention() {
    // Numbers and constants of few digits, so that sums and means are exact and what differs is the codec's.
    let x: Vec<f32> = normal(1, 64 * 80).iter().map(|x| (x * 64.0).round() / 64.0).collect();
    let shift: Vec<f32> = normal(2, 80).iter().map(|x| (x * 16.0).round()).collect();
    let moved: Vec<f32> = x.iter().enumerate().map(|(i, x)| x + shift[i % 80]).collect();
    let tensor = |x: &[f32]| HostTensor::from_f32(&[64, 1, 80], x.to_vec()).unwrap();
    // Means of 64 numbers in steps of a 64th are in steps of a 4096th: more than an f16 has beside 16. They are rounded alike here.
    let means: Vec<f32> =
        (0..80).map(|c| (x.iter().skip(c).step_by(80).sum::<f32>() / 64.0 * 64.0).round() / 64.0).collect();
    let moved_means: Vec<f32> = means.iter().zip(&shift).map(|(m, s)| m + s).collect();
    let frames = [means, moved_means].map(|m| SphericalFrame::new(1, 80, &m, 5).unwrap());
    let q = normal(3, 80);
    for bits in SphericalBits::ALL {
        let format = SphericalFormat::of(Side::Keys, bits);
        let a = coded(&tensor(&x), &frames[0], bits, format.fit);
        let b = coded(&tensor(&moved), &frames[1], bits, format.fit);
        assert_eq!(a, b, "{bits:?}");
        let mut rotated = q.clone();
        frames[0].rotation().rotate(&mut rotated);
        assert_eq!(a.logits(&rotated, 0..64).unwrap(), b.logits(&rotated, 0..64).unwrap());
    }
}

#[test]
fn an_unbiased_radius_keeps_the_component_along_the_key() {
    let x = HostTensor::from_f32(&[200, 1, 64], normal(4, 200 * 64)).unwrap();
    let frame = SphericalFrame::centred(&x, 9).unwrap();
    for bits in &SphericalBits::ALL[1..] {
        let codes = coded(&x, &frame, *bits, RadiusFit::Unbiased);
        let literal = literal_spherical(&x.to_f32_vec(), &frame, *bits);
        for (row, unpacked) in unpacked_spherical(&codes).chunks_exact(64).enumerate() {
            let y = &literal.rotated[row * 64..][..64];
            let z: Vec<f64> = unpacked.iter().map(|&c| f64::from(bits.levels()[c])).collect();
            let squared: f64 = y.iter().map(|y| y * y).sum();
            let along: f64 = y.iter().zip(&z).map(|(y, z)| y * z).sum();
            let exact = literal_radius(y, unpacked, codes.format);
            assert!((exact * along / squared - 1.0).abs() < 1e-12);
            // Stored as f16: half a step of its last place.
            let stored = codes.radii[row].to_f64() * along / squared;
            assert!((stored - 1.0).abs() < 2f64.powi(-11) + 1e-6, "{bits:?} row {row}: {stored}");
        }
    }
}

#[test]
fn normal_numbers_come_back_with_the_distortion_of_their_bits() {
    // 100 352 numbers. A radius of its own saves a row about its share of one number in all, so heads are large here.
    let x = HostTensor::from_f32(&[98, 1, 1024], normal(6, 98 * 1024)).unwrap();
    let frame = SphericalFrame::uncentred(1, 1024, 3).unwrap();
    let squared = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
    for bits in SphericalBits::ALL {
        let codes = coded(&x, &frame, bits, RadiusFit::LeastSquares);
        let back = Host::new().dequantise_spherical(&codes, &frame, DType::F32).unwrap().to_f32_vec();
        let numbers = x.to_f32_vec();
        let error: Vec<f32> = back.iter().zip(&numbers).map(|(a, b)| a - b).collect();
        let relative = squared(&error) / squared(&numbers);
        assert!((relative / bits.distortion() - 1.0).abs() < 0.02, "{bits:?}: {relative}");
    }
}

#[test]
fn more_bits_come_closer_to_exact_logits() {
    let x = HostTensor::from_f32(&[64, 1, 96], normal(7, 64 * 96)).unwrap();
    let frame = SphericalFrame::centred(&x, 3).unwrap();
    let mut q = normal(8, 96);
    let mut last = f64::INFINITY;
    let exact: Vec<f64> = x
        .to_f32_vec()
        .chunks_exact(96)
        .map(|k| {
            q.iter()
                .zip(k.iter().zip(frame.mean(0)))
                .map(|(q, (k, m))| f64::from(*q) * f64::from(k - m))
                .sum()
        })
        .collect();
    frame.rotation().rotate(&mut q);
    for bits in SphericalBits::ALL {
        let codes = coded(&x, &frame, bits, SphericalFormat::of(Side::Keys, bits).fit);
        let logits = codes.logits(&q, 0..64).unwrap();
        let error: f64 = logits.iter().zip(&exact).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
        // The variance of a logit is eta |q|^2 |k|^2 / d, and an unbiased radius adds little from 2 bits on.
        let squared: f64 = q.iter().map(|q| f64::from(*q).powi(2)).sum();
        assert!(error / 64.0 < 2.0 * bits.distortion() * squared, "{bits:?}: {error}");
        assert!(error < last);
        last = error;
    }
    assert!(last / 64.0 < 0.15, "6 bits: {last}");
}

#[test]
fn values_are_summed_rotated_and_rotated_back_once() {
    let x = HostTensor::from_f32(&[10, 2, 64], normal(9, 10 * 2 * 64)).unwrap();
    let frame = SphericalFrame::centred(&x, 4).unwrap();
    let codes = coded(&x, &frame, SphericalBits::Three, RadiusFit::LeastSquares);
    let back = Host::new().dequantise_spherical(&codes, &frame, DType::F32).unwrap().to_f32_vec();
    let weights: Vec<(usize, f32)> = (0..10).map(|token| (2 * token + 1, 0.05 * token as f32)).collect();
    let got = codes.values(&frame, 1, &weights).unwrap();
    for (c, got) in got.iter().enumerate() {
        let expected: f32 = weights.iter().map(|(row, w)| w * back[row * 64 + c]).sum();
        assert!((got - expected).abs() < 1e-4, "{got} {expected}");
    }
    assert!(codes.logits(&[0.0; 63], [0]).is_err() && codes.logits(&[0.0; 64], [20]).is_err());
    assert!(codes.values(&frame, 2, &weights).is_err());
}

#[test]
fn bytes_are_those_of_the_documentation() {
    // One row of 8 channels that is its own rotation's image: the rotated row is 1 4 -1 -4 1 1 -1 -1 before scaling.
    let frame = SphericalFrame::uncentred(1, 8, 0).unwrap();
    let mut row = [1.0f32, 4.0, -1.0, -4.0, 1.0, 1.0, -1.0, -1.0];
    frame.rotation().rotate_back(&mut row);
    let x = HostTensor::from_f32(&[1, 1, 8], row.to_vec()).unwrap();
    // |y|^2 = 38, so units are 0.459 and 1.835 of either sign.
    for (bits, codes) in [
        (SphericalBits::One, [0b0011_0011u8, 0, 0, 0]),
        (SphericalBits::Two, [0b0001_1110, 0b0101_1010, 0, 0]),
        // 4 7 3 0 4 4 3 3, three bits each.
        (SphericalBits::Three, [0xfc, 0x40, 0x6e, 0]),
        (SphericalBits::Four, [0xd9, 0x26, 0x99, 0x66]),
    ] {
        assert_eq!(coded(&x, &frame, bits, RadiusFit::LeastSquares).codes, codes, "{bits:?}");
    }
}

#[test]
fn what_no_f16_holds_is_named() {
    let x = HostTensor::from_f32(&[2, 1, 8], [vec![1.0; 8], vec![3e5; 8]].concat()).unwrap();
    let frame = SphericalFrame::uncentred(1, 8, 0).unwrap();
    let e = Host::new().quantise_spherical(&x, &frame, SphericalFormat::of(Side::Values, SphericalBits::Two));
    assert!(matches!(e, Err(CoreError::NonFinite { what: "radius of a row of x", index: 1 })), "{e:?}");
    let e = SphericalFrame::new(1, 8, &[7e4; 8], 0);
    assert!(matches!(e, Err(CoreError::NonFinite { what: "means", index: 0 })), "{e:?}");
    let e = SphericalFrame::uncentred(usize::MAX, 16, 0);
    assert!(matches!(e, Err(CoreError::SizeOverflow { .. })), "{e:?}");
}

fn bits() -> impl Strategy<Value = SphericalBits> {
    (0usize..5).prop_map(|i| SphericalBits::ALL[i])
}

fn tensors() -> impl Strategy<Value = HostTensor> {
    (0usize..6, 1usize..4, 1usize..6).prop_flat_map(|(tokens, heads, eighths)| {
        let shape = [tokens, heads, 8 * eighths];
        let number = prop_oneof![4 => -2f32..2.0, 1 => -1e4f32..1e4, 1 => -1e-6f32..1e-6, 1 => Just(0.0)];
        prop::collection::vec(number, shape.iter().product::<usize>())
            .prop_map(move |values| HostTensor::from_f32(&shape, values).unwrap())
    })
}

proptest! {
    #[test]
    fn rows_come_back_closer_than_their_mean(x in tensors(), bits in bits(), seed in any::<u64>()) {
        let frame = SphericalFrame::centred(&x, seed).unwrap();
        let codes = coded(&x, &frame, bits, RadiusFit::LeastSquares);
        let many = Host::parallel().quantise_spherical(&x, &frame, codes.format).unwrap();
        prop_assert_eq!(&many, &codes);
        // A row never comes back further off than it is from the mean.
        let back = Host::new().dequantise_spherical(&codes, &frame, DType::F32).unwrap().to_f32_vec();
        let dim = frame.head_dim();
        for (row, (x, back)) in x.to_f32_vec().chunks_exact(dim).zip(back.chunks_exact(dim)).enumerate() {
            let (mut error, mut size, mut digits) = (0f64, 0f64, 0f64);
            for ((x, b), m) in x.iter().zip(back).zip(frame.mean(row % frame.heads())) {
                error += f64::from(x - b).powi(2);
                size += f64::from(x - m).powi(2);
                digits += f64::from(x.abs() + m.abs() + 1e-6) * 1e-6;
            }
            prop_assert!(error.sqrt() <= size.sqrt() * 1.001 + digits, "{} of {}", error.sqrt(), size.sqrt());
        }
    }
}

#[test]
fn impossible_shapes_are_named() {
    let format = SphericalFormat::of(Side::Values, SphericalBits::One);
    for shape in [[usize::MAX / 16, 2, 16], [0, 2, usize::MAX - 7]] {
        assert!(matches!(HostSpherical::zeros(&shape, format), Err(CoreError::SizeOverflow { .. })));
    }
}
