//! GGUF files that must be refused.

#[path = "support/gguf_file.rs"]
mod gguf_file;
#[path = "support/small_llama.rs"]
mod small_llama;

use gguf_file::Stored;
use small_llama::{DIM, FFN, LAYERS, SmallLlama};
use tether_models::{BlockFormat, GgufError, GgufFile, GgufValue as Value, Llama, ModelError, TextTokenizer};

fn load(bytes: Vec<u8>) -> Result<Llama, ModelError> {
    Llama::load(&GgufFile::parse(bytes)?)
}

fn load_changed(change: impl FnOnce(&mut SmallLlama)) -> Result<Llama, ModelError> {
    let mut small = SmallLlama::new();
    change(&mut small);
    load(small.bytes())
}

fn tensor(shape: &[usize], value: f32, format: BlockFormat) -> Stored {
    Stored::new(shape, format, &vec![value; shape.iter().product()])
}

#[test]
fn the_file_itself_loads() {
    assert!(load_changed(|_| ()).is_ok());
}

#[test]
fn truncated_files_are_refused() {
    let bytes = SmallLlama::new().bytes();
    for len in [0, 3, 4, 8, 23, 100, 1000, 2000, bytes.len() / 2] {
        let got = load(bytes[..len].to_vec());
        assert!(
            matches!(got, Err(ModelError::Gguf { .. } | ModelError::TensorBytes { .. })),
            "{len}: {got:?}"
        );
    }
}

#[test]
fn settings_out_of_range_are_named() {
    let most = Value::U64(u64::MAX);
    for (key, value) in [
        ("llama.embedding_length", most.clone()),
        ("llama.embedding_length", Value::U32(0)),
        ("llama.embedding_length", Value::I32(-64)),
        ("llama.embedding_length", Value::String("64".into())),
        ("llama.block_count", most.clone()),
        ("llama.attention.head_count", Value::U32(0)),
        ("llama.attention.head_count", Value::U32(3)),
        ("llama.attention.head_count_kv", Value::Array(vec![Value::U32(2)])),
        ("llama.attention.key_length", Value::U32(7)),
        ("llama.attention.value_length", Value::U32(8)),
        ("llama.rope.dimension_count", Value::U32(8)),
        ("llama.rope.freq_base", Value::F32(f32::NAN)),
        ("llama.rope.freq_base", Value::F32(0.5)),
        // Without a factor.
        ("llama.rope.scaling.type", Value::String("yarn".into())),
        ("llama.rope.scaling.type", Value::String("linear".into())),
        ("llama.expert_count", Value::U32(8)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(f32::INFINITY)),
        ("llama.context_length", Value::F32(64.0)),
        ("llama.vocab_size", most),
    ] {
        let got = load_changed(|s| drop(s.metadata.insert(key.into(), value.clone())));
        assert!(matches!(got, Err(ModelError::Metadata { .. })), "{key} = {value:?}: {got:?}");
    }
    for (kind, key, value) in [
        ("linear", "factor", Value::F32(0.5)),
        ("linear", "factor", Value::F32(f32::NAN)),
        ("longrope", "factor", Value::F32(4.0)),
        ("yarn", "factor", Value::F32(f32::INFINITY)),
        ("yarn", "original_context_length", Value::U32(0)),
        ("yarn", "attn_factor", Value::F32(0.5)),
        ("yarn", "yarn_beta_fast", Value::F32(0.5)),
        ("yarn", "yarn_beta_slow", Value::F32(0.0)),
    ] {
        let got = load_changed(|s| {
            for (key, value) in
                [("type", Value::String(kind.into())), ("factor", Value::F32(4.0)), (key, value)]
            {
                s.metadata.insert(format!("llama.rope.scaling.{key}"), value);
            }
        });
        assert!(matches!(got, Err(ModelError::Metadata { .. })), "{kind} {key}: {got:?}");
    }
    let got = load_changed(|s| {
        s.metadata.insert("llama.rope.scaling.type".into(), Value::String("linear".into()));
        s.metadata.insert("llama.rope.scaling.factor".into(), Value::F32(4.0));
        s.tensors.insert("rope_freqs.weight".into(), tensor(&[8], 1.0, BlockFormat::F32));
    });
    assert!(matches!(got, Err(ModelError::Metadata { key, .. }) if key == "rope_freqs.weight"));
    let got = load_changed(|s| drop(s.metadata.remove("llama.feed_forward_length")));
    assert!(matches!(got, Err(ModelError::Metadata { key, .. }) if key == "llama.feed_forward_length"));
    let other = Value::String("mamba".into());
    let got = load_changed(|s| drop(s.metadata.insert("general.architecture".into(), other)));
    assert!(matches!(got, Err(ModelError::Architecture { got }) if got == "mamba"));
}

#[test]
fn sizes_that_the_tensors_do_not_have_are_refused() {
    for (key, value) in [
        ("llama.block_count", LAYERS as u32 + 1),
        ("llama.block_count", LAYERS as u32 - 1),
        ("llama.embedding_length", DIM as u32 * 2),
        ("llama.feed_forward_length", FFN as u32 - 1),
        ("llama.vocab_size", 1 << 24),
        ("llama.attention.head_count_kv", 4),
    ] {
        let got = load_changed(|s| drop(s.metadata.insert(key.into(), Value::U32(value))));
        assert!(
            matches!(
                got,
                Err(ModelError::TensorShape { .. }
                    | ModelError::MissingTensor { .. }
                    | ModelError::UnexpectedTensor { .. })
            ),
            "{key} = {value}: {got:?}"
        );
    }
}

#[test]
fn an_alignment_of_zero_does_not_reach_the_reader() {
    // Some files end their texts with zeros, and a name may be one of those texts.
    for key in ["general.alignment", "general.alignment\0\0"] {
        for zero in [Value::U32(0), Value::U8(0), Value::I16(0), Value::U64(0), Value::I32(-32)] {
            let got = load_changed(|s| drop(s.metadata.insert(key.into(), zero)));
            assert!(matches!(got, Err(ModelError::Metadata { key, .. }) if key == "general.alignment"));
        }
    }
    let got = load_changed(|s| drop(s.metadata.insert("general.alignment".into(), Value::U64(u64::MAX))));
    assert!(matches!(got, Err(ModelError::Metadata { .. } | ModelError::TensorBytes { .. })), "{got:?}");
    assert!(load_changed(|s| drop(s.metadata.insert("general.alignment".into(), Value::U32(32)))).is_ok());
}

fn parse(bytes: &[u8]) -> GgufError {
    match GgufFile::parse(bytes.to_vec()) {
        Err(ModelError::Gguf { source }) => source,
        other => panic!("{other:?}"),
    }
}

/// A file of version 3 without tensors whose only setting is `x`, with these bytes for its type and its value.
fn one_setting(value: &[u8]) -> Vec<u8> {
    let head = [&b"GGUF"[..], &3u32.to_le_bytes(), &0u64.to_le_bytes(), &1u64.to_le_bytes()].concat();
    [&head[..], &1u64.to_le_bytes(), b"x", value].concat()
}

#[test]
fn what_a_head_announces_is_not_believed() {
    let number = |x: u32| x.to_le_bytes();
    let length = |x: u64| x.to_le_bytes();
    // Lists longer than the file, than any vocabulary, and in each other without end.
    let long = one_setting(&[&number(9)[..], &number(0), &length(1 << 20)].concat());
    assert!(matches!(parse(&long), GgufError::End { what: "the value of a setting", .. }));
    let longer = one_setting(&[&number(9)[..], &number(0), &length(u64::MAX)].concat());
    assert!(matches!(parse(&longer), GgufError::TooMany { what: "values of settings", .. }));
    let deep = one_setting(&[&number(9)[..], &[&number(9)[..], &length(1)].concat().repeat(70)].concat());
    assert!(matches!(parse(&deep), GgufError::TooMany { what: "lists in lists", .. }));
    let text = one_setting(&[&number(8)[..], &length(1 << 40)].concat());
    assert!(matches!(parse(&text), GgufError::End { .. }));
    assert_eq!(parse(&one_setting(&number(13))), GgufError::ValueType { key: "x".into(), number: 13 });
    let neither = one_setting(&[&number(7)[..], &[2]].concat());
    assert_eq!(parse(&neither), GgufError::Bool { key: "x".into(), got: 2 });

    let bytes = SmallLlama::new().bytes();
    let with = |at: usize, bytes_there: &[u8]| {
        let mut other = bytes.clone();
        other[at..at + bytes_there.len()].copy_from_slice(bytes_there);
        other
    };
    assert_eq!(parse(&with(0, b"GGML")), GgufError::Magic);
    assert_eq!(parse(&with(4, &number(4))), GgufError::Version { version: 4 });
    for count in [8, 16] {
        // What comes after the last one is read as another, and is none.
        println!("{}", parse(&with(count, &length(u64::MAX))));
    }
    let named = |name: &[u8]| bytes.windows(name.len()).position(|w| w == name).expect("a name");
    let at = named(b"blk.0.attn_k.weight") + 19;
    let many = GgufError::TooMany { what: "dimensions of a tensor", got: 5, most: 4 };
    assert_eq!(parse(&with(at, &number(5))), many);
    let unknown = parse(&with(at + 20, &number(4)));
    assert_eq!(unknown, GgufError::BlockFormat { name: "blk.0.attn_k.weight".into(), number: 4 });
    let twice = parse(&with(named(b"blk.0.attn_q.weight"), b"blk.0.attn_k.weight"));
    assert_eq!(twice, GgufError::Twice { name: "blk.0.attn_k.weight".into() });
}

/// The first version has lengths of 32 bits.
#[test]
fn files_of_the_first_version_are_read() {
    let number = |x: u32| x.to_le_bytes();
    let head = [&b"GGUF"[..], &number(1), &number(0), &number(1), &number(1), b"x"].concat();
    let list = [&number(9)[..], &number(5), &number(2), &7i32.to_le_bytes(), &(-7i32).to_le_bytes()].concat();
    let file = GgufFile::parse([head, list].concat()).expect("a file");
    assert_eq!(file.setting("x"), Some(&Value::Array(vec![Value::I32(7), Value::I32(-7)])));
}

#[test]
fn tensors_of_another_shape_or_too_many_or_too_few_are_named() {
    let got = load_changed(|s| drop(s.tensors.remove("blk.1.ffn_up.weight")));
    assert!(matches!(got, Err(ModelError::MissingTensor { name }) if name == "blk.1.ffn_up.weight"));
    let bias = || tensor(&[DIM], 0.5, BlockFormat::F32);
    let got = load_changed(|s| drop(s.tensors.insert("blk.0.attn_q.bias".into(), bias())));
    assert!(matches!(got, Err(ModelError::UnexpectedTensor { name }) if name == "blk.0.attn_q.bias"));
    let got = load_changed(|s| {
        drop(s.tensors.insert("output_norm.weight".into(), tensor(&[DIM, 1], 1.0, BlockFormat::F32)));
    });
    assert!(matches!(got, Err(ModelError::TensorShape { name, .. }) if name == "output_norm.weight"));
}

#[test]
fn weights_that_are_not_numbers_are_located() {
    for (name, shape, dtype) in [
        ("blk.0.attn_q.weight", vec![DIM, DIM], BlockFormat::F32),
        ("blk.1.ffn_norm.weight", vec![DIM], BlockFormat::F32),
        ("blk.1.attn_output.weight", vec![DIM, DIM], BlockFormat::F16),
        ("blk.0.attn_output.weight", vec![DIM, DIM], BlockFormat::Q8_0),
        ("blk.0.ffn_down.weight", vec![DIM, FFN], BlockFormat::Q4_1),
    ] {
        // A block's scale overflows where its numbers do.
        let got = load_changed(|s| drop(s.tensors.insert(name.into(), tensor(&shape, f32::INFINITY, dtype))));
        assert!(
            matches!(&got, Err(ModelError::NonFiniteWeight { name: n, index: 0 }) if n == name),
            "{name}: {got:?}"
        );
    }
}

#[test]
fn damaged_files_never_panic() {
    let bytes = SmallLlama::new().bytes();
    // Settings and the list of tensors, where every byte matters; weights are numbers whatever they are.
    let head = bytes.len().min(4096);
    let mut seed = 7u64;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    for _ in 0..4000 {
        let mut damaged = bytes.clone();
        for _ in 0..=random(3) {
            damaged[random(head)] = [0, 1, 0x7f, 0x80, 0xff, random(256) as u8][random(6)];
        }
        if let Ok(file) = GgufFile::parse(damaged) {
            let _ = Llama::load(&file);
            let _ = TextTokenizer::load(&file);
        }
    }
}
