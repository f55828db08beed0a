//! Model files that must be refused.

use std::collections::BTreeMap;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors, serialize};
use tether_models::{ModelError, TinyVideo};

static PUBLISHED: &[u8] =
    include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/tinyvideo/tinyvideo.safetensors"));

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// What loading says of the published file after `change`.
fn load_changed(change: impl FnOnce(&mut Tensors)) -> Result<TinyVideo, ModelError> {
    let file = SafeTensors::deserialize(PUBLISHED).expect("the published file");
    let mut tensors: Tensors = file
        .tensors()
        .into_iter()
        .map(|(name, t)| (name, (t.dtype(), t.shape().to_vec(), t.data().to_vec())))
        .collect();
    change(&mut tensors);
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name, TensorView::new(*dtype, shape.clone(), data).expect("sizes fit"))
    });
    TinyVideo::from_safetensors(&serialize(views, None).expect("a file"))
}

#[test]
fn a_rewritten_copy_loads() {
    assert!(load_changed(|_| ()).is_ok());
}

#[test]
fn truncated_files_are_refused() {
    for len in [0, 7, 8, 1000, PUBLISHED.len() / 2, PUBLISHED.len() - 1] {
        let got = TinyVideo::from_safetensors(&PUBLISHED[..len]);
        assert!(matches!(got, Err(ModelError::Format(_))), "{len} bytes: {got:?}");
    }
}

#[test]
fn a_header_that_claims_more_than_the_file_is_refused() {
    let mut bytes = PUBLISHED.to_vec();
    for claim in [u64::MAX, 1 << 40, bytes.len() as u64] {
        bytes[..8].copy_from_slice(&claim.to_le_bytes());
        assert!(matches!(TinyVideo::from_safetensors(&bytes), Err(ModelError::Format(_))));
    }
}

#[test]
fn a_missing_tensor_is_named() {
    let got = load_changed(|t| assert!(t.remove("blocks.5.nk.weight").is_some()));
    assert!(matches!(got, Err(ModelError::MissingTensor { name }) if name == "blocks.5.nk.weight"));
}

#[test]
fn an_additional_tensor_is_named() {
    let got = load_changed(|t| {
        let extra = t["blocks.7.mod"].clone();
        t.insert("blocks.8.mod".into(), extra);
    });
    assert!(matches!(got, Err(ModelError::UnexpectedTensor { name }) if name == "blocks.8.mod"));
}

#[test]
fn a_wrong_shape_is_reported_with_both_shapes() {
    let got = load_changed(|t| t.get_mut("blocks.0.f1.weight").expect("a tensor").1 = vec![192, 768]);
    assert!(matches!(
        got,
        Err(ModelError::TensorShape { name, expected, got })
            if name == "blocks.0.f1.weight" && expected == [768, 192] && got == [192, 768]
    ));
}

#[test]
fn a_wrong_dtype_is_reported() {
    let got = load_changed(|t| t.get_mut("head.bias").expect("a tensor").0 = Dtype::I16);
    assert!(matches!(got, Err(ModelError::TensorDType { name, got: Dtype::I16 }) if name == "head.bias"));
}

#[test]
fn a_weight_that_is_not_a_number_is_located() {
    let got = load_changed(|t| t.get_mut("hmod").expect("a tensor").2[2 * 100 + 1] = 0x7e);
    assert!(matches!(got, Err(ModelError::NonFiniteWeight { name, index: 100 }) if name == "hmod"));
}
