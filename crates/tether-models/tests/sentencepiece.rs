//! Tokenizers of the kind "llama" against `SentencePiece` itself; see `golden/sentencepiece`.

#[path = "support/gguf_file.rs"]
mod gguf_file;
#[path = "support/small_llama.rs"]
mod small_llama;

use serde_json::Value as Json;
use small_llama::SmallLlama;
use tether_models::{GgufFile, GgufValue as Value, ModelError, TextTokenizer};

struct Golden {
    file: SmallLlama,
    texts: Vec<(String, Vec<u32>, String)>,
}

fn golden() -> Golden {
    let json = include_str!("../../../golden/sentencepiece/bpe.json");
    let json: Json = serde_json::from_str(json).expect("a golden file");
    let text = |json: &Json| json.as_str().expect("a text").to_owned();
    let list = |key: &str, item: &dyn Fn(&Json) -> Value| {
        Value::Array(json[key].as_array().expect("a list").iter().map(item).collect())
    };
    let mut file = SmallLlama::new();
    file.metadata.remove("tokenizer.ggml.merges");
    for (key, value) in [
        ("tokenizer.ggml.model", Value::String("llama".into())),
        ("tokenizer.ggml.tokens", list("pieces", &|x| Value::String(text(x)))),
        ("tokenizer.ggml.scores", list("scores", &|x| Value::F32(x.as_f64().expect("a number") as f32))),
        ("tokenizer.ggml.token_type", list("types", &|x| Value::I32(x.as_i64().expect("a number") as i32))),
        ("tokenizer.ggml.bos_token_id", Value::U32(1)),
        ("tokenizer.ggml.eos_token_id", Value::U32(2)),
    ] {
        file.metadata.insert(key.into(), value);
    }
    let of_text = |t: &Json| {
        let ids = t["ids"].as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id") as u32);
        (text(&t["text"]), ids.collect(), text(&t["decoded"]))
    };
    let texts = json["texts"].as_array().expect("texts").iter().map(of_text).collect();
    Golden { file, texts }
}

fn load(file: &SmallLlama) -> Result<TextTokenizer, ModelError> {
    TextTokenizer::load(&GgufFile::parse(file.bytes())?)
}

#[test]
fn texts_become_the_pieces_that_sentencepiece_cuts() {
    let golden = golden();
    let tokenizer = load(&golden.file).expect("a tokenizer");
    assert!(golden.texts.len() > 15);
    for (text, ids, decoded) in &golden.texts {
        assert_eq!(&tokenizer.encode(text).expect("a text"), ids, "{text:?}");
        assert_eq!(&tokenizer.decode(ids).expect("pieces"), decoded, "{text:?}");
    }
    let start = tokenizer.encode_start("a").expect("a text");
    assert_eq!(start, [1, 263]);
    assert_eq!(tokenizer.decode(&start).expect("pieces"), "a", "a control token is no text");
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), Some(2)));
}

#[test]
fn text_comes_as_its_pieces_do() {
    let golden = golden();
    let tokenizer = load(&golden.file).expect("a tokenizer");
    for (_, ids, decoded) in golden.texts.iter().filter(|(text, ..)| !text.starts_with(' ')) {
        let mut stream = tokenizer.stream();
        let text: String = ids.iter().map(|id| stream.push(*id).expect("a piece")).collect();
        assert_eq!(&text, decoded);
    }
}

#[test]
fn a_file_may_do_without_the_space_before_a_text() {
    let mut golden = golden();
    golden.file.metadata.insert("tokenizer.ggml.add_space_prefix".into(), Value::Bool(false));
    let tokenizer = load(&golden.file).expect("a tokenizer");
    for (text, ids, _) in golden.texts.iter().filter(|(text, ..)| !text.is_empty()) {
        // What the space would have been is the caller's now.
        let ids_of_spaced = tokenizer.encode(&format!(" {text}")).expect("a text");
        assert_eq!(&ids_of_spaced, ids, "{text:?}");
        if !text.contains('\u{2581}') {
            assert_eq!(tokenizer.decode(ids).expect("pieces"), format!(" {text}"));
        }
    }
}

#[test]
fn pieces_without_scores_or_types_are_refused() {
    for (key, value) in [
        ("tokenizer.ggml.scores", None),
        ("tokenizer.ggml.scores", Some(Value::Array(vec![Value::F32(0.0); 599]))),
        ("tokenizer.ggml.scores", Some(Value::Array(vec![Value::F32(f32::NAN); 600]))),
        ("tokenizer.ggml.scores", Some(Value::Array(vec![Value::U32(0); 600]))),
        ("tokenizer.ggml.token_type", None),
        ("tokenizer.ggml.add_space_prefix", Some(Value::U32(1))),
    ] {
        let mut file = golden().file;
        file.metadata.remove(key);
        file.metadata.extend(value.map(|value| (key.to_owned(), value)));
        let got = load(&file).map(drop);
        assert!(matches!(&got, Err(ModelError::Metadata { key: k, .. }) if k == key), "{key}: {got:?}");
    }
    let mut file = golden().file;
    file.metadata.insert("tokenizer.ggml.model".into(), Value::String("t5".into()));
    assert!(matches!(load(&file), Err(ModelError::Tokenizer { .. })));
}
