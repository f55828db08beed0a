//! The Llama forward pass and the dense cache against plain double precision, on a model that the test makes itself.

#[path = "support/gguf_file.rs"]
mod gguf_file;
#[path = "support/small_llama.rs"]
mod small_llama;

use std::convert::Infallible;

use gguf_file::Stored;
use small_llama::{DIM, HEAD_DIM, KV_HEADS, LAYERS, QUERY_HEADS, SmallLlama, VOCABULARY};
use tether_core::{CoreError, DType, HostTensor};
use tether_host::Host;
use tether_models::{
    BlockFormat, CachedAttention, DenseAttention, ForwardError, GgufFile, GgufValue as Value, HeadProbe,
    Llama, LlamaSession, ModelError, RecordedPass, TextTokenizer, TokenAttention, TokenBlock, greedy,
};
use tethercache::tokens::TokenRecipe;

fn model(small: &SmallLlama) -> Llama {
    Llama::load(&GgufFile::parse(small.bytes()).expect("a file")).expect("a model")
}

fn tokens(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * i * 7 + 3 * i + 11) % VOCABULARY as u32).collect()
}

/// Logits after each token, read in blocks of `block`.
fn logits<A: TokenAttention>(
    model: &Llama,
    mut attention: A,
    tokens: &[u32],
    first: i32,
    block: usize,
) -> Vec<f32> {
    let mut ws = model.workspace();
    let mut all = Vec::new();
    let positions: Vec<i32> = (first..).take(tokens.len()).collect();
    for (tokens, positions) in tokens.chunks(block).zip(positions.chunks(block)) {
        model.forward(&mut ws, tokens, positions, &mut attention).expect("a pass");
        let hidden = ws.hidden().to_vec();
        let mut logits = vec![f32::NAN; tokens.len() * VOCABULARY];
        model.logits(&mut ws, &hidden, &mut logits).expect("rows");
        all.extend(logits);
    }
    all
}

fn assert_near(what: &str, got: &[f32], want: &[Vec<f64>]) {
    let want: Vec<f64> = want.concat();
    assert_eq!(got.len(), want.len());
    let scale = want.iter().fold(0f64, |m, x| m.max(x.abs()));
    let worst = got.iter().zip(&want).map(|(g, w)| (f64::from(*g) - w).abs() / scale).fold(0.0, f64::max);
    println!("{what}: {worst:.1e} of {scale:.2}");
    assert!(worst < 2e-5, "{what}: {worst:e}");
}

#[test]
fn logits_are_the_oracles_however_the_tokens_are_cut_into_blocks() {
    let small = SmallLlama::new();
    let model = model(&small);
    assert_eq!((model.config().layers, model.config().head_dim), (LAYERS, HEAD_DIM));
    let tokens = tokens(75);
    for first in [0, 1000] {
        let want = small.logits(&tokens, first);
        for block in [75, 33, 7, 5, 1] {
            let got = logits(&model, DenseAttention::new(), &tokens, first, block);
            assert_near(&format!("from {first}, blocks of {block}"), &got, &want);
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let model = model(&SmallLlama::new());
    let tokens = tokens(75);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| [75, 1].map(|block| logits(&model, DenseAttention::new(), &tokens, 0, block)))
    };
    assert!(run(1) == run(3));
}

#[test]
fn a_session_reads_and_scores_as_the_forward_pass_does() {
    let small = SmallLlama::new();
    let model = model(&small);
    let tokens = tokens(600);
    let all = logits(&model, DenseAttention::new(), &tokens, 0, 600);
    let row = |i: usize| &all[i * VOCABULARY..(i + 1) * VOCABULARY];

    let mut session = LlamaSession::new(&model, DenseAttention::new());
    let read = session.read(&tokens).expect("tokens").to_vec();
    assert_eq!(session.next_position(), 600);
    assert_eq!(session.attention().tokens(), 600);
    assert_eq!(session.attention().bytes(), 600 * LAYERS * KV_HEADS * HEAD_DIM * 2 * 4);
    assert_eq!(greedy(&read), greedy(row(599)));
    assert!(session.timing().attention <= session.timing().total);

    let mut session = LlamaSession::new(&model, DenseAttention::new());
    let mut progress = 0;
    let losses = session.losses(&tokens, |n| progress += n).expect("tokens");
    assert_eq!((losses.len(), progress), (599, 600));
    for (i, loss) in losses.iter().enumerate() {
        let total: f64 = row(i).iter().map(|x| f64::from(*x).exp()).sum();
        let want = total.ln() - f64::from(row(i)[tokens[i + 1] as usize]);
        assert!((loss - want).abs() < 1e-3, "{i}: {loss} for {want}");
    }
    assert!(session.losses(&[], |_| ()).expect("nothing").is_empty());
    assert!(LlamaSession::new(&model, DenseAttention::new()).losses(&[1], |_| ()).expect("one").is_empty());
}

/// Sees what a cache is given.
#[derive(Default)]
struct Looking {
    attention: DenseAttention,
    blocks: Vec<(usize, Vec<f32>, Vec<f32>)>,
}

impl TokenAttention for Looking {
    type Error = CoreError;

    fn attend(&mut self, block: &TokenBlock<'_>, out: &mut HostTensor) -> Result<(), CoreError> {
        for (x, heads) in [
            (block.q, QUERY_HEADS),
            (block.q_pre, QUERY_HEADS),
            (block.k, KV_HEADS),
            (block.k_pre, KV_HEADS),
            (block.v, KV_HEADS),
        ] {
            assert_eq!(x.shape(), [block.positions.len(), heads, HEAD_DIM]);
        }
        assert_eq!(block.hidden.len(), block.positions.len() * DIM);
        // Half-split pairs, `i` and `i + 8`, turned by the token's position.
        let (pre, post) = (block.k_pre.to_f32_vec(), block.k.to_f32_vec());
        for (row, (pre, post)) in pre.chunks(HEAD_DIM).zip(post.chunks(HEAD_DIM)).enumerate() {
            let position = f64::from(block.positions[row / KV_HEADS]);
            for i in 0..HEAD_DIM / 2 {
                let (sin, cos) = (position * 500f64.powf(-(i as f64) / 8.0)).sin_cos();
                let (a, b) = (f64::from(pre[i]), f64::from(pre[i + 8]));
                assert!((f64::from(post[i]) - (a * cos - b * sin)).abs() < 1e-5);
                assert!((f64::from(post[i + 8]) - (a * sin + b * cos)).abs() < 1e-5);
            }
        }
        self.blocks.push((block.layer, block.hidden.to_vec(), block.q_pre.to_f32_vec()));
        self.attention.attend(block, out)
    }
}

#[test]
fn a_cache_is_given_raw_and_rotated_heads_and_what_they_were_made_of() {
    let model = model(&SmallLlama::new());
    let mut looking = Looking::default();
    logits(&model, &mut looking, &tokens(10), 5, 10);
    let layers: Vec<usize> = looking.blocks.iter().map(|b| b.0).collect();
    assert_eq!(layers, [0, 1]);
    assert_eq!(model.rope().frequencies().len(), HEAD_DIM / 2);
    assert!((model.rope().frequencies()[4] - 500f64.powf(-0.5)).abs() < 1e-12);
    let projection = model.output_projection(1).expect("a layer");
    assert_eq!(projection.len(), DIM * QUERY_HEADS * HEAD_DIM);
    assert!(model.output_projection(2).is_none());
}

#[derive(Debug, thiserror::Error)]
#[error("no")]
struct No;

/// Refuses layer 1.
struct Refusing;

impl TokenAttention for Refusing {
    type Error = No;

    fn attend(&mut self, block: &TokenBlock<'_>, _: &mut HostTensor) -> Result<(), No> {
        if block.layer == 1 { Err(No) } else { Ok(()) }
    }
}

/// Puts a tensor of another shape in the place of its result.
struct Swapping;

impl TokenAttention for Swapping {
    type Error = Infallible;

    fn attend(&mut self, _: &TokenBlock<'_>, out: &mut HostTensor) -> Result<(), Infallible> {
        *out = HostTensor::from_f32(&[1], vec![0.0]).expect("a tensor");
        Ok(())
    }
}

#[test]
fn wrong_arguments_are_errors() {
    let model = model(&SmallLlama::new());
    let mut ws = model.workspace();
    let mut pass = |tokens: &[u32], positions: &[i32]| {
        model.forward(&mut ws, tokens, positions, &mut DenseAttention::new())
    };
    assert!(pass(&[1, 2], &[0, 1]).is_ok());
    assert!(matches!(pass(&[], &[]), Err(ForwardError::Model(ModelError::Length { what: "tokens", .. }))));
    assert!(matches!(
        pass(&[1], &[]),
        Err(ForwardError::Model(ModelError::Length { what: "positions", .. }))
    ));
    let unknown = pass(&[1, VOCABULARY as u32], &[0, 1]);
    assert!(matches!(unknown, Err(ForwardError::Model(ModelError::TokenId { index: 1, id: 48, .. }))));

    let refused = model.forward(&mut ws, &[1], &[0], &mut Refusing);
    assert!(matches!(refused, Err(ForwardError::Attention { layer: 1, .. })));
    let swapped = model.forward(&mut ws, &[1, 2], &[0, 1], &mut Swapping);
    assert!(matches!(swapped, Err(ForwardError::Model(ModelError::WorkTensor { .. }))));
    // The next pass has its tensors again.
    let mut out = vec![0.0; VOCABULARY];
    model.forward(&mut ws, &[1, 2], &[0, 1], &mut DenseAttention::new()).expect("a pass");
    let hidden = ws.hidden()[..DIM].to_vec();
    model.logits(&mut ws, &hidden, &mut out).expect("a row");
    assert!(matches!(model.logits(&mut ws, &hidden[1..], &mut out), Err(ModelError::NotAMultiple { .. })));
    assert!(matches!(model.logits(&mut ws, &hidden, &mut out[1..]), Err(ModelError::Length { .. })));

    let mut session = LlamaSession::new(&model, DenseAttention::new());
    assert!(matches!(session.read(&[]), Err(ForwardError::Model(ModelError::Length { .. }))));
    assert!(matches!(session.read(&[0, 99]), Err(ForwardError::Model(ModelError::TokenId { index: 1, .. }))));
    assert_eq!(session.attention().tokens(), 0, "a refused block should not reach the cache");
}

#[test]
fn frequencies_can_be_stretched_and_the_embedding_can_be_the_output_layer() {
    let mut small = SmallLlama::new();
    small.tensors.remove("output.weight");
    let factors = Stored::new(&[8], BlockFormat::F32, &[1.0, 1.0, 1.0, 1.0, 2.0, 4.0, 8.0, 8.0]);
    small.tensors.insert("rope_freqs.weight".into(), factors);
    let model = model(&small);
    let frequency = |i: usize, factor: f64| 500f64.powf(-(i as f64) / 8.0) / factor;
    assert!((model.rope().frequencies()[3] - frequency(3, 1.0)).abs() < 1e-12);
    assert!((model.rope().frequencies()[5] - frequency(5, 4.0)).abs() < 1e-12);

    let mut ws = model.workspace();
    let hidden: Vec<f32> = (0..DIM).map(|i| (i as f32).sin()).collect();
    let mut out = vec![0.0; VOCABULARY];
    model.logits(&mut ws, &hidden, &mut out).expect("a row");
    let embedding = &small.tensors["token_embd.weight"].weights;
    for (row, got) in embedding.chunks(DIM).zip(&out) {
        let want: f64 = row.iter().zip(&hidden).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        assert!((f64::from(*got) - want).abs() < 1e-4, "{got} for {want}");
    }
}

/// Models that were stretched for longer texts turn by their own frequencies.
#[test]
fn scaled_frequencies_are_the_files() {
    let number = |x: f32| Value::F32(x);
    let key = |name: &str| format!("llama.rope.scaling.{name}");
    let tokens = tokens(60);

    let mut linear = SmallLlama::new();
    linear.metadata.insert(key("type"), Value::String("linear".into()));
    linear.metadata.insert(key("factor"), number(4.0));
    linear.turns.0.iter_mut().for_each(|f| *f /= 4.0);

    // 32 tokens in training. A pair that turned twice in those stays, one that turned half of a time is divided by 4; pairs between them are mixed
    // by their number: floor and ceiling of 8 ln(32 / (2 pi turns)) / ln 500 are 1 and 3.
    let mut yarn = SmallLlama::new();
    yarn.metadata.insert(key("type"), Value::String("yarn".into()));
    yarn.metadata.insert(key("factor"), number(4.0));
    yarn.metadata.insert(key("original_context_length"), Value::U32(32));
    yarn.metadata.insert(key("yarn_beta_fast"), number(2.0));
    yarn.metadata.insert(key("yarn_beta_slow"), number(0.5));
    for (pair, f) in yarn.turns.0.iter_mut().enumerate() {
        let slow = ((pair as f64 - 1.0) / 2.0).clamp(0.0, 1.0);
        *f = *f * (1.0 - slow) + *f / 4.0 * slow;
    }
    yarn.turns.1 = 0.1 * 4f64.ln() + 1.0;

    for (name, small) in [("linear", linear), ("yarn", yarn)] {
        let model = model(&small);
        let want = small.logits(&tokens, 0);
        assert_near(name, &logits(&model, DenseAttention::new(), &tokens, 0, 60), &want);
        // Every key is turned again, to the place that it has already.
        let recipe = TokenRecipe::named("full").expect("a recipe");
        let cache = CachedAttention::new(Host::new(), &model, recipe, DType::F32).expect("a cache");
        assert_near(name, &logits(&model, cache, &tokens, 0, 7), &want);
    }
}

#[test]
fn texts_become_tokens_and_come_back() {
    let mut small = SmallLlama::new();
    let load = |small: &SmallLlama| TextTokenizer::load(&GgufFile::parse(small.bytes()).expect("a file"));
    let tokenizer = load(&small).expect("a tokenizer");
    assert_eq!(tokenizer.encode("ab a").expect("a text"), [2, 4]);
    // The first merge of the list comes first, wherever it is in the text.
    assert_eq!(tokenizer.encode("ab aba").expect("a text"), [2, 3, 2, 0]);
    assert_eq!(tokenizer.decode(&[2, 4, 1, 0, 5]).expect("ids"), "ab aba");
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (None, Some(5)));
    assert_eq!(tokenizer.encode_start("a").expect("a text"), [0]);
    assert_eq!(tokenizer.encode_turn("a").expect("a text"), None);
    // Nothing comes out inside a character.
    let mut stream = tokenizer.stream();
    let parts = [0, 6, 7, 1].map(|id| stream.push(id).expect("an id"));
    assert_eq!(parts, ["a", "", "é", "b"]);

    small.metadata.insert("tokenizer.ggml.bos_token_id".into(), Value::U32(3));
    assert_eq!(load(&small).expect("a tokenizer").encode_start("ab").expect("a text"), [3, 2]);
    for (key, value) in [
        ("tokenizer.ggml.model", Value::String("llama".into())),
        ("tokenizer.ggml.pre", Value::String("no such".into())),
        ("tokenizer.ggml.eos_token_id", Value::U32(8)),
        ("tokenizer.ggml.merges", Value::Array(vec![Value::String("a a".into())])),
        ("tokenizer.ggml.merges", Value::Array(vec![Value::String("ab".into())])),
        ("tokenizer.ggml.merges", Value::Array(vec![Value::U32(1)])),
        ("tokenizer.ggml.tokens", Value::Array(Vec::new())),
        ("tokenizer.ggml.token_type", Value::Array(vec![Value::F32(1.0)])),
    ] {
        let mut small = SmallLlama::new();
        small.metadata.insert(key.into(), value);
        assert!(load(&small).is_err(), "{key}");
    }
}

#[test]
fn tokens_without_targets_are_read_all_the_same() {
    let model = model(&SmallLlama::new());
    let tokens = tokens(1100);
    let mut session = LlamaSession::new(&model, DenseAttention::new());
    assert!(session.score(&tokens, &[], |_| ()).expect("tokens").is_empty());
    assert_eq!((session.next_position(), session.attention().tokens()), (1100, 1100));
}

/// A recipe's cache over a Host engine.
fn cached(model: &Llama, recipe: &str) -> CachedAttention<Host> {
    let recipe = TokenRecipe::named(recipe).expect("a recipe");
    let recipe = recipe.with_overrides(&["budget.ratio=0.5"]).expect("a budget");
    CachedAttention::new(Host::new(), model, recipe, DType::F32).expect("a cache")
}

#[test]
fn a_recorded_pass_leaves_a_cache_as_a_pass_of_its_own_does() {
    let model = model(&SmallLlama::new());
    let (all, prompt) = (tokens(60), 44);
    let recorded = RecordedPass::record(&model, &all[..prompt], |_| ()).expect("a pass");
    for recipe in ["full", "h2o", "expected-attention", "sink-recent", "quest", "rekv", "dapq"] {
        let mut own = LlamaSession::new(&model, cached(&model, recipe));
        own.read(&all[..prompt]).expect("a prompt");
        let mut attention = cached(&model, recipe);
        recorded.replay(&mut attention).expect("a replay");
        let mut replayed = LlamaSession::new(&model, attention);
        replayed.set_next_position(recorded.tokens() as i32);
        let results: Vec<Vec<f32>> = [&mut own, &mut replayed]
            .map(|session| {
                session.evict(&all[..prompt]).expect("an eviction");
                session.read(&all[prompt..]).expect("the rest").to_vec()
            })
            .into();
        for (a, b) in results[0].iter().zip(&results[1]) {
            assert!((a - b).abs() < 1e-4, "{recipe}: {a} and {b}");
        }
    }
}

#[test]
fn probes_choose_and_are_gone() {
    let model = model(&SmallLlama::new());
    let all = tokens(80);
    let mut session = LlamaSession::new(&model, cached(&model, "dapq"));
    session.read(&all[..64]).expect("a prompt");
    let full = session.attention().bytes().in_use;
    session.evict(&all[..64]).expect("an eviction");
    assert_eq!(session.next_position(), 64, "the answer begins where the probes stood");
    let cache = session.attention().cache();
    let sequence = session.attention().sequence();
    for layer in 0..model.config().layers {
        for head in 0..model.config().kv_heads {
            let kept = cache.positions(sequence, layer, head).expect("a layer");
            assert_eq!(kept.len(), 32);
            assert!(kept.starts_with(&[0, 1, 2, 3]) && kept.iter().all(|&p| p < 64), "{kept:?}");
        }
    }
    assert!(session.attention().bytes().in_use * 10 <= full * 6);
    // A probe that the model cannot run leaves the session as it was.
    let mut other = LlamaSession::new(&model, cached(&model, "dapq"));
    other.read(&all[..64]).expect("a prompt");
    let before = other.attention().bytes().in_use;
    let unknown = [u32::MAX; 64];
    assert!(matches!(other.evict(&unknown), Err(ForwardError::Model(ModelError::TokenId { .. }))));
    assert_eq!((other.next_position(), other.attention().bytes().in_use), (64, before));
}

#[test]
fn a_branch_leaves_the_original_as_it_was() {
    let model = model(&SmallLlama::new());
    let all = tokens(50);
    let mut session = LlamaSession::new(&model, cached(&model, "sink-recent"));
    session.read(&all[..40]).expect("a prompt");
    let bytes = session.attention().bytes().in_use;
    let want = {
        let mut other = LlamaSession::new(&model, cached(&model, "sink-recent"));
        other.read(&all[..40]).expect("a prompt");
        other.predict(&all[40..45], &all[41..46]).expect("tokens")
    };
    for _ in 0..2 {
        let original = session.attention_mut().branch().expect("a branch");
        session.set_next_position(40);
        assert_eq!(session.predict(&all[40..45], &all[41..46]).expect("tokens"), want);
        session.attention_mut().evict().expect("an eviction");
        session.attention_mut().back_to(original).expect("the original");
        assert_eq!(session.attention().bytes().in_use, bytes);
    }
}

#[test]
fn probes_measure_every_key_head() {
    let model = model(&SmallLlama::new());
    let probe = HeadProbe { period: 10, repeats: 4, queries: 8, seed: 3 };
    let mut layers = 0;
    let profile = probe.measure(&model, 1, &tokens(40), || layers += 1).expect("a profile");
    assert_eq!(layers, 2 * LAYERS);
    profile.check(LAYERS, KV_HEADS).expect("the model's sizes");
    for layer in &profile.layers {
        assert!(layer.echo.iter().chain(&layer.induction).all(|x| (0.0..=1.0).contains(x)), "{layer:?}");
        assert!(layer.variance.iter().all(|x| *x > 0.0), "{layer:?}");
    }
    assert_eq!(probe.measure(&model, 1, &tokens(40), || ()).expect("a profile"), profile);
    let once = HeadProbe { repeats: 1, ..probe };
    assert!(matches!(once.measure(&model, 1, &tokens(9), || ()), Err(ForwardError::Attention { .. })));
    let long = HeadProbe { period: 64, ..probe };
    let e = long.measure(&model, 1, &tokens(9), || ());
    assert!(matches!(e, Err(ForwardError::Model(ModelError::Length { .. }))), "{e:?}");
}
