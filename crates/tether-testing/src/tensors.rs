//! Tensors that cases are made of.

use half::{bf16, f16};
use tether_core::{CoreError, DType, Engine, HostTensor, Readback, TensorData};

/// Numbers in `-1..1`, the same for the same seed.
pub(crate) fn numbers(seed: u64) -> impl Iterator<Item = f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    })
}

/// Numbers below `bound`, the same for the same seed.
pub(crate) fn indices(seed: u64, bound: usize) -> impl Iterator<Item = u32> {
    numbers(seed).map(move |x| (((f64::from(x) + 1.0) / 2.0 * bound as f64) as usize).min(bound - 1) as u32)
}

pub(crate) fn random(seed: u64, shape: &[usize], dtype: DType, offset: f32) -> HostTensor {
    let values = numbers(seed).map(|x| x + offset).take(shape.iter().product());
    let data = match dtype {
        DType::F32 => TensorData::F32(values.collect()),
        DType::F16 => TensorData::F16(values.map(f16::from_f32).collect()),
        DType::BF16 => TensorData::BF16(values.map(bf16::from_f32).collect()),
    };
    HostTensor::new(shape, data).expect("shape and data should fit")
}

pub(crate) fn tensor(shape: &[usize], dtype: DType, values: &[f32]) -> HostTensor {
    HostTensor::new(shape, TensorData::narrowed(dtype, values)).expect("shape and data should fit")
}

pub(crate) fn read<E: Engine>(engine: &E, tensor: &E::Tensor) -> Result<HostTensor, CoreError> {
    Ok(engine.read(&[tensor])?.wait()?.remove(0))
}

/// Leaves NaN in the memory that the engine is likely to give out next, so that a result that nobody writes does not look right by
/// accident.
pub(crate) fn poison<E: Engine>(engine: &E, elements: usize) -> Result<(), CoreError> {
    let spoilt = HostTensor::from_f32(&[elements.max(1)], vec![f32::NAN; elements.max(1)])?;
    let held = [engine.upload(&spoilt)?, engine.upload(&spoilt)?];
    drop(held);
    Ok(())
}

/// The same bits, by which -0 is not 0.
pub(crate) fn assert_same_bits(what: &str, got: &HostTensor, expected: &HostTensor) {
    assert_eq!((got.shape(), got.dtype()), (expected.shape(), expected.dtype()), "{what}: shape and dtype");
    let width = got.dtype().bytes();
    let different = got
        .data()
        .as_bytes()
        .chunks(width)
        .zip(expected.data().as_bytes().chunks(width))
        .position(|(a, b)| a != b);
    if let Some(i) = different {
        let (got, expected) = (got.to_f32_vec()[i], expected.to_f32_vec()[i]);
        panic!("{what}: element {i} is {got} and should be {expected}, bit by bit");
    }
}
