//! A Llama of two small layers, written as a GGUF file, and its forward pass in plain `f64`.

use std::collections::BTreeMap;

use tether_models::{BlockFormat, GgufValue as Value};

use super::gguf_file::{Stored, written};

pub(crate) const VOCABULARY: usize = 48;
pub(crate) const DIM: usize = 64;
pub(crate) const LAYERS: usize = 2;
pub(crate) const QUERY_HEADS: usize = 4;
pub(crate) const KV_HEADS: usize = 2;
pub(crate) const HEAD_DIM: usize = 16;
pub(crate) const FFN: usize = 96;
const THETA: f64 = 500.0;
const EPS: f64 = 1e-3;

pub(crate) struct SmallLlama {
    pub(crate) metadata: BTreeMap<String, Value>,
    pub(crate) tensors: BTreeMap<String, Stored>,
    /// What the oracle turns pairs by, and how much longer heads then are.
    #[allow(dead_code, reason = "only one of the tests that include this file has an oracle")]
    pub(crate) turns: (Vec<f64>, f64),
}

fn tensor(seed: &mut u32, shape: &[usize], format: BlockFormat, centre: f32, spread: f32) -> Stored {
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_| {
            *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            centre + spread * ((*seed >> 8) as f32 / (1 << 23) as f32 - 1.0)
        })
        .collect();
    Stored::new(shape, format, &values)
}

impl SmallLlama {
    /// Every type of block: those with kernels, and others that are widened; layers whose parts have different types.
    pub(crate) fn new() -> Self {
        use BlockFormat::{BF16, F16, F32, Q4_1, Q5_0, Q8_0};
        let mut seed = 1;
        let mut tensors = BTreeMap::new();
        let mut put = |name: String, shape: &[usize], dtype, centre, spread| {
            tensors.insert(name, tensor(&mut seed, shape, dtype, centre, spread));
        };
        put("token_embd.weight".into(), &[VOCABULARY, DIM], Q8_0, 0.0, 1.0);
        put("output.weight".into(), &[VOCABULARY, DIM], Q5_0, 0.0, 0.5);
        put("output_norm.weight".into(), &[DIM], F32, 1.0, 0.3);
        let (q, kv) = (QUERY_HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM);
        let types = [[Q4_1, Q4_1, Q4_1, Q8_0, Q4_1, Q4_1, Q4_1], [Q8_0, Q4_1, F16, F32, F32, F32, BF16]];
        for (layer, types) in types.into_iter().enumerate() {
            let parts = [
                ("attn_q", q, DIM),
                ("attn_k", kv, DIM),
                ("attn_v", kv, DIM),
                ("attn_output", DIM, q),
                ("ffn_gate", FFN, DIM),
                ("ffn_up", FFN, DIM),
                ("ffn_down", DIM, FFN),
            ];
            for ((part, outputs, inputs), dtype) in parts.into_iter().zip(types) {
                put(format!("blk.{layer}.{part}.weight"), &[outputs, inputs], dtype, 0.02, 0.3);
            }
            put(format!("blk.{layer}.attn_norm.weight"), &[DIM], F32, 1.0, 0.3);
            put(format!("blk.{layer}.ffn_norm.weight"), &[DIM], F32, 1.0, 0.3);
        }
        let count = |n: usize| Value::U32(n as u32);
        let texts = |texts: &[&str]| Value::Array(texts.iter().map(|t| Value::String((*t).into())).collect());
        let metadata = [
            ("general.architecture", Value::String("llama".into())),
            ("llama.vocab_size", count(VOCABULARY)),
            ("llama.embedding_length", count(DIM)),
            ("llama.block_count", count(LAYERS)),
            ("llama.attention.head_count", count(QUERY_HEADS)),
            ("llama.attention.head_count_kv", count(KV_HEADS)),
            ("llama.feed_forward_length", count(FFN)),
            ("llama.context_length", count(64)),
            ("llama.rope.freq_base", Value::F32(THETA as f32)),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(EPS as f32)),
            ("tokenizer.ggml.model", Value::String("gpt2".into())),
            ("tokenizer.ggml.tokens", texts(&["a", "b", "ab", "Ġ", "Ġa", "<end>", "Ã", "©"])),
            ("tokenizer.ggml.merges", texts(&["a b", "Ġ a"])),
            ("tokenizer.ggml.token_type", Value::Array([1, 1, 1, 1, 1, 3, 1, 1].map(Value::I32).to_vec())),
            ("tokenizer.ggml.eos_token_id", count(5)),
        ];
        let pairs = HEAD_DIM / 2;
        let turns = (0..pairs).map(|pair| THETA.powf(-(pair as f64) / pairs as f64)).collect();
        let metadata = metadata.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        Self { metadata, tensors, turns: (turns, 1.0) }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        written(&self.metadata, &self.tensors)
    }

    #[allow(dead_code, reason = "only one of the tests that include this file has an oracle")]
    fn weights(&self, name: &str) -> Vec<f64> {
        self.tensors[name].weights.iter().copied().map(f64::from).collect()
    }

    /// Logits after each of `tokens`, in double precision. The rotation is that of the file's own order of channels.
    #[allow(dead_code, reason = "only one of the tests that include this file has an oracle")]
    pub(crate) fn logits(&self, tokens: &[u32], first_position: i32) -> Vec<Vec<f64>> {
        let embedding = self.weights("token_embd.weight");
        let mut h: Vec<Vec<f64>> =
            tokens.iter().map(|t| embedding[*t as usize * DIM..][..DIM].to_vec()).collect();
        for layer in 0..LAYERS {
            let w = |part: &str| self.weights(&format!("blk.{layer}.{part}.weight"));
            let normed: Vec<Vec<f64>> = h.iter().map(|h| norm(h, &w("attn_norm"))).collect();
            let all = |part: &str| -> Vec<Vec<f64>> { normed.iter().map(|x| product(&w(part), x)).collect() };
            let (mut q, mut k, v) = (all("attn_q"), all("attn_k"), all("attn_v"));
            for (token, row) in q.iter_mut().chain(&mut k).enumerate() {
                let position = f64::from(first_position) + (token % tokens.len()) as f64;
                row.chunks_mut(HEAD_DIM).for_each(|head| rotate(head, position, &self.turns));
            }
            for token in 0..tokens.len() {
                let mut out = vec![0.0; QUERY_HEADS * HEAD_DIM];
                for (head, out) in out.chunks_mut(HEAD_DIM).enumerate() {
                    let kv = head / (QUERY_HEADS / KV_HEADS) * HEAD_DIM;
                    let q = &q[token][head * HEAD_DIM..][..HEAD_DIM];
                    let weights: Vec<f64> = (0..=token)
                        .map(|t| (dot(q, &k[t][kv..][..HEAD_DIM]) / (HEAD_DIM as f64).sqrt()).exp())
                        .collect();
                    let total: f64 = weights.iter().sum();
                    for (t, weight) in weights.iter().enumerate() {
                        let v = &v[t][kv..][..HEAD_DIM];
                        out.iter_mut().zip(v).for_each(|(o, v)| *o += weight / total * v);
                    }
                }
                add(&mut h[token], &product(&w("attn_output"), &out));
            }
            for h in &mut h {
                let x = norm(h, &w("ffn_norm"));
                let gate = product(&w("ffn_gate"), &x);
                let up = product(&w("ffn_up"), &x);
                let gated: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                add(h, &product(&w("ffn_down"), &gated));
            }
        }
        let head = self.weights("output.weight");
        h.iter().map(|h| product(&head, &norm(h, &self.weights("output_norm.weight")))).collect()
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn product(weights: &[f64], x: &[f64]) -> Vec<f64> {
    weights.chunks(x.len()).map(|row| dot(row, x)).collect()
}

fn norm(x: &[f64], weight: &[f64]) -> Vec<f64> {
    // The file has the number in single precision.
    let rms = (dot(x, x) / x.len() as f64 + f64::from(EPS as f32)).sqrt();
    x.iter().zip(weight).map(|(x, w)| x / rms * w).collect()
}

fn rotate(head: &mut [f64], position: f64, (frequencies, longer): &(Vec<f64>, f64)) {
    for (pair, frequency) in frequencies.iter().enumerate() {
        let (sin, cos) = (position * frequency).sin_cos();
        let (a, b) = (head[2 * pair], head[2 * pair + 1]);
        head[2 * pair] = longer * (a * cos - b * sin);
        head[2 * pair + 1] = longer * (a * sin + b * cos);
    }
}

fn add(h: &mut [f64], delta: &[f64]) {
    h.iter_mut().zip(delta).for_each(|(h, d)| *h += d);
}
