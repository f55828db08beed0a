//! SmolLM2 against what transformers computes from the same file.
//!
//! The file, 98 MB, is not part of the repository: `tether fetch smollm2` gets it, or `TETHER_SMOLLM2` names a copy. Without it these
//! tests are skipped, unless `TETHER_REQUIRE` names smollm2.

use std::sync::OnceLock;

use tether_core::{CoreError, HostTensor};
use tether_models::{
    DenseAttention, GgufFile, Llama, LlamaSession, SMOLLM2, TextTokenizer, TokenAttention, TokenBlock, greedy,
};
use tether_testing::{Golden, golden_json, golden_path, or_skip};

fn smollm() -> Option<&'static (Llama, TextTokenizer)> {
    static MODEL: OnceLock<Result<(Llama, TextTokenizer), String>> = OnceLock::new();
    let found = MODEL.get_or_init(|| {
        let path = SMOLLM2.path().ok_or("there is no cache directory and TETHER_SMOLLM2 is not set")?;
        if !path.is_file() {
            let path = path.display();
            return Err(format!("{path} is not there: run `tether fetch smollm2`, or set TETHER_SMOLLM2"));
        }
        // What is there must load: only an absent file is a reason to skip.
        let file = GgufFile::open(&path).expect("a GGUF file");
        Ok((Llama::load(&file).expect("a Llama"), TextTokenizer::load(&file).expect("a tokenizer")))
    });
    or_skip("smollm2", found.as_ref())
}

fn text(name: &str) -> String {
    std::fs::read_to_string(golden_path(name)).expect(name)
}

fn ids(golden: &Golden) -> Vec<u32> {
    golden.integers("input_ids").iter().map(|id| *id as u32).collect()
}

#[test]
fn texts_are_tokenised_as_the_reference_does() {
    let Some((_, tokenizer)) = smollm() else { return };
    for name in ["prose", "repeat"] {
        let golden = ids(&Golden::load(&format!("smollm/{name}.safetensors")));
        let text = text(&format!("smollm/{name}.txt"));
        let got = tokenizer.encode_start(&text).expect("a text");
        if let Some(i) = (0..got.len().max(golden.len())).find(|&i| got.get(i) != golden.get(i)) {
            let around = |ids: &[u32]| tokenizer.decode(&ids[i.saturating_sub(3)..ids.len().min(i + 3)]);
            panic!("{name}: token {i} differs: {:?} for {:?}", around(&got), around(&golden));
        }
        assert!(tokenizer.decode(&golden).expect("ids") == text, "{name}: decoded");
        let mut stream = tokenizer.stream();
        let streamed: String = golden.iter().map(|id| stream.push(*id).expect("an id")).collect();
        assert!(streamed == text, "{name}: streamed");
    }
}

#[test]
fn control_tokens_in_a_text_are_text() {
    let Some((_, tokenizer)) = smollm() else { return };
    let spelt = "<|im_end|>";
    let ids = tokenizer.encode(spelt).expect("a text");
    assert!(ids.len() > 1 && !ids.contains(&tokenizer.eos().expect("an end")), "{ids:?}");
    assert_eq!(tokenizer.decode(&ids).expect("ids"), spelt);
    let turn = tokenizer.encode_turn(spelt).expect("a text").expect("a template");
    assert_eq!(turn.iter().filter(|id| Some(**id) == tokenizer.eos()).count(), 1, "{turn:?}");
}

#[test]
fn perplexity_is_the_references() {
    let Some((model, _)) = smollm() else { return };
    let reference = golden_json("smollm/reference.json");
    for name in ["prose", "repeat"] {
        let golden = Golden::load(&format!("smollm/{name}.safetensors"));
        let mut session = LlamaSession::new(model, DenseAttention::new());
        let losses = session.losses(&ids(&golden), |_| ()).expect("a text");
        let mean = losses.iter().sum::<f64>() / losses.len() as f64;
        let want = reference[format!("{name}_text")]["ppl"].as_f64().expect("a number");
        let worst = losses
            .iter()
            .zip(golden.f32("nll"))
            .map(|(got, want)| (got - f64::from(want)).abs())
            .fold(0.0, f64::max);
        println!(
            "{name}: perplexity {:.5} for {want:.5}; largest difference of a loss {worst:.1e}",
            mean.exp()
        );
        assert!((mean.exp() - want).abs() < 1e-3, "{name}: {} for {want}", mean.exp());
        assert!(worst < 2e-2, "{name}: {worst}");
        assert_eq!(session.attention().tokens(), 4096);
        assert_eq!(session.attention().bytes(), 4096 * 30 * 3 * 64 * 2 * 4);
    }
}

/// Keeps what the golden file has of the tensors that pass by.
struct Recorder {
    attention: DenseAttention,
    tensors: Vec<(String, Vec<f32>)>,
}

impl TokenAttention for Recorder {
    type Error = CoreError;

    fn attend(&mut self, block: &TokenBlock<'_>, out: &mut HostTensor) -> Result<(), CoreError> {
        let layer = block.layer;
        let tensors = [
            ("q_pre", block.q_pre),
            ("q_post", block.q),
            ("k_pre", block.k_pre),
            ("k_post", block.k),
            ("v", block.v),
        ];
        for (name, x) in tensors {
            self.tensors.push((format!("layer{layer}.{name}"), x.to_f32_vec()));
        }
        self.attention.attend(block, out)
    }
}

#[test]
fn queries_keys_and_values_are_the_references() {
    let Some((model, _)) = smollm() else { return };
    let golden = Golden::load("smollm/trace.safetensors");
    let kept = golden.integers("tokens");
    let ids = ids(&golden);
    let mut recorder = Recorder { attention: DenseAttention::new(), tensors: Vec::new() };
    let positions: Vec<i32> = (0..1024).collect();
    let mut ws = model.workspace();
    model.forward(&mut ws, &ids, &positions, &mut recorder).expect("a pass");
    for layer in [0, 10, 20, 29] {
        for part in ["q_pre", "q_post", "k_pre", "k_post", "v"] {
            let name = format!("layer{layer}.{part}");
            let (_, got) = recorder.tensors.iter().find(|(n, _)| *n == name).expect("a layer");
            let (want, heads) = (golden.f32(&name), if part.starts_with('q') { 9 } else { 3 });
            let scale = want.iter().fold(0f32, |m, x| m.max(x.abs()));
            let mut worst = 0f32;
            for (head, rows) in want.chunks(kept.len() * 64).enumerate() {
                for (row, token) in rows.chunks(64).zip(kept) {
                    let got = &got[(*token as usize * heads + head) * 64..][..64];
                    for (got, want) in got.iter().zip(row) {
                        // Half a step of an f16, and what two ways to sum 30 layers in f32 differ by.
                        let rounding = want.abs() / 2048.0;
                        worst = worst.max(((got - want).abs() - rounding) / scale);
                    }
                }
            }
            println!("{name}: {worst:.1e} of {scale:.2} beyond rounding");
            assert!(worst < 1e-4, "{name}: {worst:e}");
        }
    }
    let mut logits = vec![0.0; model.config().vocabulary];
    let last = ws.hidden()[1023 * 576..].to_vec();
    model.logits(&mut ws, &last, &mut logits).expect("a row");
    for (got, want) in logits.iter().zip(golden.f32("logits_last")) {
        assert!((got - want).abs() < want.abs() / 2048.0 + 5e-3, "{got} for {want}");
    }
}

#[test]
fn the_greedy_continuation_is_the_references() {
    let Some((model, tokenizer)) = smollm() else { return };
    let want = golden_json("smollm/reference.json");
    let want = want["greedy64_after_trace"].as_str().expect("a text");
    let mut session = LlamaSession::new(model, DenseAttention::new());
    let prompt = ids(&Golden::load("smollm/trace.safetensors"));
    // The reference's list begins after the token that the prompt's own pass predicts.
    let mut next = greedy(session.read(&prompt).expect("a prompt"));
    let mut made = Vec::new();
    for _ in 0..64 {
        next = greedy(session.read(&[next]).expect("a step"));
        made.push(next);
    }
    assert_eq!(tokenizer.decode(&made).expect("ids"), want);
}
