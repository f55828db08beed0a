//! Recipes that retain what they do not read: a step attends over what was chosen, and nothing leaves.

use super::*;

fn recipe(name: &str, overrides: &[&str]) -> TokenRecipe {
    TokenRecipe::named(name).unwrap().with_overrides(overrides).unwrap()
}

/// Tensors of a block of new tokens.
struct Block {
    q: HostTensor,
    k: HostTensor,
    v: HostTensor,
    positions: Vec<i32>,
}

impl Block {
    fn new(noise: &mut Noise, from: usize, tokens: usize) -> Self {
        Self {
            q: noise.tensor(&[tokens, QUERY_HEADS, DIM]),
            k: noise.tensor(&[tokens, KV_HEADS, DIM]),
            v: noise.tensor(&[tokens, KV_HEADS, DIM]),
            positions: (from..from + tokens).map(|p| p as i32).collect(),
        }
    }

    fn extend(&self, cache: &mut TokenCache<Host>, sequence: SequenceId, layer: usize) -> Vec<f32> {
        cache.extend(sequence, layer, &self.tokens(Some(&self.q))).unwrap().to_f32_vec()
    }

    fn tokens<'a>(&'a self, raw_q: Option<&'a HostTensor>) -> NewTokens<'a, Host> {
        let Self { q, k, v, positions } = self;
        NewTokens { q, k, v, raw_q, positions, grid: None }
    }

    /// Queries, keys and values of a token.
    fn row(&self, token: usize) -> [Vec<f32>; 3] {
        let of = |x: &HostTensor, heads: usize| x.to_f32_vec()[token * heads * DIM..][..heads * DIM].to_vec();
        [of(&self.q, QUERY_HEADS), of(&self.k, KV_HEADS), of(&self.v, KV_HEADS)]
    }
}

fn near(got: &[f32], expected: &[f32], what: &str) {
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(expected) {
        assert!((got - expected).abs() < 1e-5, "{what}: {got} for {expected}");
    }
}

/// Adds tokens, each of which must attend to what the planner chooses for its own query of the text up to itself. Returns how many of all
/// tokens the last one read in layer 1.
fn extend_by_choice(pair: &mut Pair, sequence: SequenceId, plain: &mut Plain, tokens: usize) -> usize {
    let mut read = 0;
    for layer in 0..LAYERS {
        let block = Block::new(&mut pair.noise, plain.seen, tokens);
        let got = block.extend(&mut pair.cache, sequence, layer);
        for token in 0..tokens {
            let [q, k, v] = block.row(token);
            plain.push(layer, block.positions[token], &q, &k, &v);
            let seen = plain.seen + token + 1;
            let turn = LayerContext { layer, layers: LAYERS, seen, decoding: true };
            let observed = plain.recorded(layer, 4).with_frequencies(frequencies());
            let planner = pair.cache.planner();
            let keep = planner.plan(turn, &observed, &mut SequenceState::default()).unwrap().keep;
            assert!(
                keep.sets().iter().all(|set| set.last() == Some(&(seen as u32 - 1))),
                "a token reads itself"
            );
            let mut expected = Vec::new();
            for head in 0..QUERY_HEADS {
                let of_key_head = head / (QUERY_HEADS / KV_HEADS);
                let chosen = keep.head(of_key_head).iter();
                let chosen = chosen.map(|&t| &plain.heads[layer][of_key_head][t as usize]);
                expected.extend(attention(chosen, &q[head * DIM..][..DIM]));
            }
            let got = &got[token * QUERY_HEADS * DIM..][..QUERY_HEADS * DIM];
            near(got, &expected, &format!("layer {layer}, token {seen}"));
            read = keep.total();
        }
    }
    plain.seen += tokens;
    pair.check_blocks();
    read
}

#[test]
fn each_query_reads_the_pages_that_it_chooses() {
    for (seed, overrides) in [
        // Whole pages of whole blocks, blocks that are cut, a page that is less than a block, and no pages.
        &["score.page=8", "select.size=8", "budget.dense=0"][..],
        &["score.page=4", "select.size=4", "budget.dense=1", "budget.sink=3", "budget.recent=6"],
        &["score.page=6", "select.size=6", "budget.dense=0"],
        &["score.page=3", "select.size=3", "budget.dense=1"],
        &["score.page=4", "select.size=1", "budget.dense=0"],
    ]
    .into_iter()
    .enumerate()
    {
        let recipe = recipe("quest", &[&["budget.ratio=0.4"], overrides].concat());
        let mut pair = Pair::new(recipe, 0x51 + seed as u64);
        let (sequence, mut plain) = (pair.start(), Plain::new());
        for tokens in [17, 24] {
            pair.extend(sequence, &mut plain, tokens);
        }
        assert_eq!(pair.evict(sequence, &mut plain), 0, "nothing leaves");
        let mut read = 0;
        for tokens in [1, 1, 5, 1, 13, 1] {
            read = extend_by_choice(&mut pair, sequence, &mut plain, tokens);
            assert_eq!(pair.evict(sequence, &mut plain), 0);
        }
        assert!(read <= KV_HEADS * (plain.seen * 4 / 10), "{overrides:?}: {read} of {}", plain.seen);
        let bytes = pair.cache.bytes();
        assert!(bytes.in_use >= bytes.full, "everything is held: {bytes:?}");
        assert!(bytes.read - bytes.host < bytes.full * 8 / 10, "{overrides:?}: {bytes:?}");
        assert!(bytes.host > 0, "summaries are counted");
        assert_eq!(pair.cache.bytes_of(sequence).unwrap(), bytes.in_use);

        // A fork has summaries of its own; both go on.
        let copy = pair.cache.fork(sequence).unwrap();
        pair.sequences.push(copy);
        let mut other = plain.clone();
        extend_by_choice(&mut pair, copy, &mut other, 7);
        extend_by_choice(&mut pair, sequence, &mut plain, 2);
        pair.cache.remove(sequence).unwrap();
        extend_by_choice(&mut pair, copy, &mut other, 1);
        pair.cache.remove(copy).unwrap();
        assert_eq!(pair.cache.bytes().in_use, 0);
    }
}

#[test]
fn a_token_that_cannot_choose_leaves_the_cache_as_it_was() {
    let recipe = recipe("quest", &["budget.ratio=0.4", "budget.dense=0", "score.page=4", "select.size=4"]);
    let mut pair = Pair::new(recipe, 0x77);
    let (sequence, mut plain) = (pair.start(), Plain::new());
    pair.extend(sequence, &mut plain, 42);
    pair.evict(sequence, &mut plain);
    extend_by_choice(&mut pair, sequence, &mut plain, 2);
    let before = pair.cache.bytes();
    // The second token's bound is beyond what f32 holds; the first is fine, and changes a page that is open.
    let mut block = Block::new(&mut pair.noise, plain.seen, 2);
    for x in [&mut block.q, &mut block.k] {
        let half = x.len() / 2;
        x.as_f32_mut().unwrap()[half..].iter_mut().for_each(|x| *x = 1e30);
    }
    let new = block.tokens(None);
    let error = pair.cache.extend(sequence, 0, &new).unwrap_err();
    assert!(matches!(error, Error::Score(tether_score::ScoreError::NonFiniteToken { .. })), "{error}");
    let after = pair.cache.bytes();
    assert_eq!((before.in_use, before.host, before.read), (after.in_use, after.host, after.read));
    assert_eq!(pair.cache.seen(sequence, 0).unwrap(), plain.seen);
    extend_by_choice(&mut pair, sequence, &mut plain, 3);
}

/// What each token was given, before its key was rotated.
#[derive(Clone)]
struct Asked {
    came: Came,
    raw: Plain,
}

/// A block whose keys are rotated to their positions, as a model gives them.
fn rotated_block(noise: &mut Noise, asked: &mut Asked, layer: usize, from: usize, tokens: usize) -> Block {
    let mut block = Block::new(noise, from, tokens);
    for token in 0..tokens {
        let [q, k, v] = block.row(token);
        asked.raw.push(layer, block.positions[token], &q, &k, &v);
        for head in 0..KV_HEADS {
            let at = head * DIM..(head + 1) * DIM;
            let key: Vec<f32> =
                turned(&k[at.clone()], block.positions[token]).into_iter().map(|x| x as f32).collect();
            block.k.as_f32_mut().unwrap()[(token * KV_HEADS + head) * DIM..][..DIM].copy_from_slice(&key);
            asked.came[layer][head].push((block.positions[token], key, v[at].to_vec()));
        }
    }
    block
}

/// The sets that a question's blocks make, from keys that were never rotated.
fn recalled(cache: &TokenCache<Host>, asked: &Asked, question: usize) -> Vec<Vec<u32>> {
    let plan = |layer: usize| {
        let tokens = asked.raw.heads[layer][0].len();
        let raw_keys: Vec<f32> = asked.raw.heads[layer].iter().flatten().flat_map(|t| t.1.clone()).collect();
        let observed = asked.raw.recorded(layer, question).with_raw_keys(raw_keys).unwrap();
        let turn = LayerContext { layer, layers: LAYERS, seen: tokens, decoding: true };
        cache.planner().plan(turn, &observed, &mut SequenceState::default()).unwrap().keep.head(0).to_vec()
    };
    (0..LAYERS).map(plan).collect()
}

#[test]
fn a_question_recalls_blocks_without_gaps_until_the_next() {
    let (init, size, top, question) = (4, 8, 2, 5);
    let recipe = recipe(
        "rekv",
        &["score.block=8", "score.init=4", "score.question=5", "select.size=8", "select.top=2"],
    );
    let facts = ModelInfo { rope: Some(turning(&frequencies())), ..ModelInfo::default() };
    let mut cache = TokenCache::new(Host::new(), geometry(), recipe, facts).unwrap();
    let (mut noise, sequence) = (Noise(0x1234), cache.start());
    let mut asked = Asked { came: vec![vec![Head::new(); KV_HEADS]; LAYERS], raw: Plain::new() };
    let mut seen = 0;
    let mut extend = |cache: &mut TokenCache<Host>,
                      asked: &mut Asked,
                      sequence: SequenceId,
                      seen: usize,
                      tokens: usize,
                      chosen: Option<&(Vec<Vec<u32>>, usize)>| {
        for layer in 0..LAYERS {
            let block = rotated_block(&mut noise, asked, layer, seen, tokens);
            let got = block.extend(cache, sequence, layer);
            for token in 0..tokens {
                let [q, ..] = block.row(token);
                for head in 0..QUERY_HEADS {
                    let all = &asked.came[layer][head / (QUERY_HEADS / KV_HEADS)];
                    let upto = seen + token + 1;
                    let read: Vec<Token> = match chosen {
                        None => all[..upto].to_vec(),
                        Some((sets, since)) => {
                            let old = sets[layer].iter().map(|&t| all[t as usize].clone());
                            old.chain(all[*since..upto].iter().cloned()).collect()
                        }
                    };
                    let q = &q[head * DIM..][..DIM];
                    let expected = attention_without_gaps(&read, block.positions[token], q);
                    let expected: Vec<f32> = expected.into_iter().map(|x| x as f32).collect();
                    near(&got[(token * QUERY_HEADS + head) * DIM..][..DIM], &expected, "attention");
                }
            }
        }
    };
    for tokens in [9, 40, 14] {
        extend(&mut cache, &mut asked, sequence, seen, tokens, None);
        seen += tokens;
    }
    let held = cache.bytes();
    let report = cache.evict(sequence).unwrap();
    assert_eq!((report.evicted, report.kept), (0, LAYERS * KV_HEADS * seen), "everything stays");
    let mut chosen = (recalled(&cache, &asked, question), seen);
    let whole = (seen - init - question) / size;
    let left = (seen - init - question) % size;
    assert!(whole > top, "something to choose");
    assert!(chosen.0.iter().all(|set| set.len() == init + top * size + left + question));
    let bytes = cache.bytes();
    assert!(bytes.in_use > held.in_use, "what was moved is held twice, and says so");
    assert_eq!(cache.bytes_of(sequence).unwrap(), bytes.in_use);
    for tokens in [1, 6, 1] {
        extend(&mut cache, &mut asked, sequence, seen, tokens, Some(&chosen));
        seen += tokens;
        assert_eq!(cache.evict(sequence).unwrap().evicted, 0, "nothing is due");
    }
    assert!(cache.bytes().read < cache.bytes().full * 6 / 10, "{:?}", cache.bytes());
    assert_eq!(cache.positions(sequence, 0, 0).unwrap().len(), seen);

    // A fork asks another question; the original still reads what its own found.
    let copy = cache.fork(sequence).unwrap();
    let mut other = asked.clone();
    extend(&mut cache, &mut other, copy, seen, 11, Some(&chosen));
    cache.recall(copy).unwrap();
    let again = (recalled(&cache, &other, question), seen + 11);
    extend(&mut cache, &mut other, copy, seen + 11, 2, Some(&again));
    extend(&mut cache, &mut asked, sequence, seen, 3, Some(&chosen));
    seen += 3;
    cache.remove(copy).unwrap();
    cache.recall(sequence).unwrap();
    chosen = (recalled(&cache, &asked, question), seen);
    extend(&mut cache, &mut asked, sequence, seen, 1, Some(&chosen));
    cache.remove(sequence).unwrap();
    assert_eq!(cache.bytes().in_use, 0);
}

#[test]
fn as_many_blocks_as_there_are_is_everything() {
    let recipe = recipe("rekv", &["score.block=4", "score.init=4", "score.question=4", "select.size=4"]);
    let mut pair = Pair::knowing(recipe, 0x99, turns_by(&frequencies()));
    let (sequence, mut plain) = (pair.start(), Plain::new());
    pair.extend(sequence, &mut plain, 50);
    pair.evict(sequence, &mut plain);
    pair.extend(sequence, &mut plain, 3);
    let bytes = pair.cache.bytes();
    assert_eq!(bytes.read, bytes.full);
}

#[test]
fn what_a_choice_for_every_token_cannot_do_is_refused() {
    for (name, overrides) in [
        ("quest", &["position.kind=contiguous"][..]),
        ("h2o", &["retain=true", "decode.every=1"]),
        ("quest", &["budget.layers.kind=groups", "budget.layers.shared=2", "budget.layers.beta=4"]),
        ("quest", &["prefill.every=8"]),
        ("quest", &["budget.heads.kind=adaptive", "budget.heads.safeguard=0.2"]),
    ] {
        // When it is read, or where it is a session that cannot, when that is made.
        let recipe = TokenRecipe::named(name).unwrap().with_overrides(overrides).map_err(Error::from);
        let refused = recipe
            .and_then(|r| TokenCache::new(Host::new(), geometry(), r, every_recipe::facts()).map(|_| ()));
        assert!(matches!(refused, Err(Error::Recipe(_))), "{overrides:?}: {refused:?}");
    }
    // Blocks are compared before the rotation, which takes the model's frequencies.
    let unknown = TokenCache::new(Host::new(), geometry(), recipe("rekv", &[]), ModelInfo::default());
    let error = unknown.unwrap_err();
    assert!(misses(&error, &[Requirement::Rotation]), "{error}");
}
