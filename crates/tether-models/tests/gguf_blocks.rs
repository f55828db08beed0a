//! Blocks of weights against what the format's own library makes of them; see `golden/gguf`.

use tether_models::BlockFormat;
use tether_testing::Golden;

#[test]
fn weights_are_bit_by_bit_those_of_the_formats_library() {
    let golden = Golden::load("gguf/blocks.safetensors");
    let mut seen = 0;
    for format in BlockFormat::ALL {
        let name = format!("{format:?}");
        if !golden.has(&format!("{name}.blocks")) {
            continue;
        }
        let bytes: Vec<u8> = golden.integers(&format!("{name}.blocks")).iter().map(|b| *b as u8).collect();
        let want = golden.f32(&format!("{name}.values"));
        let got = format.dequantise(&bytes);
        assert_eq!(got.len(), want.len(), "{name}");
        assert_eq!(format.bytes_of(want.len()), Some(bytes.len()), "{name}");
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_eq!(got.to_bits(), want.to_bits(), "{name}, weight {i}: {got} for {want}");
        }
        seen += 1;
    }
    // All but plain numbers, and the two formats that only products make.
    assert_eq!(seen, BlockFormat::ALL.len() - 3);
}

#[test]
fn plain_numbers_and_the_formats_that_products_make_by_hand() {
    let numbers: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    assert_eq!(BlockFormat::F32.dequantise(&numbers), [1.5, -2.0]);
    let codes: Vec<u8> = (0..32u8).map(|i| (i as i8 - 16).cast_unsigned()).collect();
    // 0.5 as an f16, and a sum that is not looked at.
    let block = [&[0x00, 0x38, 0xff, 0xff][..], &codes].concat();
    let weights: Vec<f32> = (0..32i8).map(|i| 0.5 * f32::from(i - 16)).collect();
    assert_eq!(BlockFormat::Q8_1.dequantise(&block), weights);
    let block = [&0.25f32.to_le_bytes()[..], &codes.repeat(8), &[0xff; 32]].concat();
    let weights: Vec<f32> = weights.iter().map(|x| x / 2.0).collect();
    assert_eq!(BlockFormat::Q8_K.dequantise(&block), weights.repeat(8));
}

#[test]
fn formats_have_the_numbers_and_sizes_that_they_say() {
    for format in BlockFormat::ALL {
        assert_eq!(BlockFormat::of_number(format.number()), Some(format));
        assert_eq!(format.dequantise(&vec![0; 2 * format.bytes()]).len(), 2 * format.weights());
    }
    assert_eq!(BlockFormat::F32.bytes_of(usize::MAX), None);
    assert_eq!(BlockFormat::of_number(4), None);
    assert_eq!(BlockFormat::Q4_K.bytes_of(255), None);
}
