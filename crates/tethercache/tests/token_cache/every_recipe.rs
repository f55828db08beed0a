//! What every recipe of the catalogue promises holds in a session, too.

use super::*;
use tether_score::ScoreError;
use tether_score::tokens::{Blocks, HeadBudget};

/// A session with all that recipes ask of a model.
pub(super) fn session(recipe: TokenRecipe, seed: u64) -> Pair {
    let mut noise = Noise(seed);
    let facts = facts_of(&mut noise);
    Pair { noise, ..Pair::knowing(recipe, seed, facts) }
}

fn facts_of(noise: &mut Noise) -> ModelInfo {
    let projection: Vec<f32> = (0..6 * QUERY_HEADS * DIM).map(|_| noise.next()).collect();
    ModelInfo {
        rope: Some(turning(&frequencies())),
        output_projections: vec![projection; LAYERS],
        head_profile: Some(profile()),
    }
}

/// All that recipes ask of a model.
pub(super) fn facts() -> ModelInfo {
    facts_of(&mut Noise(0xFAC7))
}

/// Every recipe that keeps tokens as they come (`coded_tokens.rs` is about the others), with windows and blocks that fit a short text, at two fifths of it.
pub(super) fn recipes() -> Vec<TokenRecipe> {
    let of_row = |name: &str| {
        let mut recipe = TokenRecipe::named(name).unwrap();
        let fitted: &[&str] = match name {
            "full" => &[],
            "snapkv" | "pyramidkv" | "adakv" | "chunkkv" | "flowcache" => &["score.window=6"],
            "criticalkv" => &["score.base.window=6"],
            "st-lite" => &["score.base.window=6"],
            "question-guided" => &["score.question=6"],
            "lagkv" => &["score.lag=6"],
            "window-kv" => &["score.suffix=6", "budget.layers.shared=2"],
            "razor-attention" => &["budget.heads.induction=0.25"],
            "elastic-cache" => &["decode.place.distance=-4"],
            "dapq" => &["score.first=1", "score.last=3", "score.recent=4"],
            "quest" => &["score.page=4", "select.size=4", "budget.dense=0"],
            "rekv" => &["score.block=4", "score.init=4", "score.question=4", "select.size=4", "select.top=4"],
            _ => &[],
        };
        recipe = recipe.with_overrides(fitted).unwrap();
        match &recipe.select {
            Some(select) if !select.is::<Blocks>() => recipe.with_overrides(&["budget.ratio=0.4"]).unwrap(),
            _ => recipe,
        }
    };
    let rows = catalogue().iter().filter(|c| c.unit == "token").map(|c| of_row(c.name));
    rows.filter(|recipe| recipe.codec.is_none()).collect()
}

fn extend(
    pair: &mut Pair,
    sequence: SequenceId,
    from: usize,
    tokens: usize,
    scale: f32,
) -> Result<(), Error> {
    let positions: Vec<i32> = (from..from + tokens).map(|p| p as i32).collect();
    let places = pair.cache.planner().needs().grid.then(|| places(from..from + tokens));
    for layer in 0..LAYERS {
        let mut tensor = |heads: usize| {
            let mut x = pair.noise.tensor(&[tokens, heads, DIM]);
            x.as_f32_mut().unwrap().iter_mut().for_each(|x| *x *= scale);
            x
        };
        let (q, k, v) = (tensor(QUERY_HEADS), tensor(KV_HEADS), tensor(KV_HEADS));
        let new = NewTokens {
            q: &q,
            k: &k,
            v: &v,
            raw_q: Some(&q),
            positions: &positions,
            grid: places.as_deref(),
        };
        let out = pair.cache.extend(sequence, layer, &new)?.to_f32_vec();
        assert!(out.iter().all(|x| x.is_finite()), "{}", pair.cache.planner().recipe().name);
    }
    pair.check_blocks();
    Ok(())
}

/// Evicts, and runs the probes that the recipe asks for.
pub(super) fn evict(pair: &mut Pair, sequence: SequenceId, seen: usize, scale: f32) -> Result<usize, Error> {
    let needs = pair.cache.planner().needs();
    let probes = needs.probe_first + needs.probe_last;
    if probes > 0 && pair.cache.evict_is_due(sequence)? {
        let probe = pair.cache.fork(sequence)?;
        pair.sequences.push(probe);
        extend(pair, probe, seen, probes, scale)?;
        pair.cache.probed(sequence, probe)?;
        pair.sequences.pop();
    }
    Ok(pair.evicted(sequence)?.evicted)
}

#[test]
fn budgets_hold_and_ends_stay_while_a_text_grows() {
    let rows = recipes();
    for (seed, recipe) in rows.iter().enumerate() {
        let name = recipe.name.as_str();
        let mut pair = session(recipe.clone(), 0xE0 + seed as u64);
        let sequence = pair.start();
        let mut seen = 0;
        for tokens in [31, 29] {
            extend(&mut pair, sequence, seen, tokens, 1.0).unwrap();
            seen += tokens;
        }
        evict(&mut pair, sequence, seen, 1.0).unwrap_or_else(|e| panic!("{name}: {e}"));
        let lengths = |pair: &Pair| -> Vec<Vec<i32>> {
            let heads = (0..LAYERS).flat_map(|l| (0..KV_HEADS).map(move |h| (l, h)));
            heads.map(|(l, h)| pair.cache.positions(sequence, l, h).unwrap().to_vec()).collect()
        };
        let once = lengths(&pair);
        assert_eq!(evict(&mut pair, sequence, seen, 1.0).unwrap(), 0, "{name}: nothing more is to leave");
        assert_eq!(lengths(&pair), once, "{name}");
        for step in 0..200 {
            extend(&mut pair, sequence, seen, 1, 1.0).unwrap();
            seen += 1;
            evict(&mut pair, sequence, seen, 1.0).unwrap_or_else(|e| panic!("{name}, step {step}: {e}"));
            let planner = pair.cache.planner();
            let turn = LayerContext { layer: LAYERS - 1, layers: LAYERS, seen, decoding: true };
            let held: usize = lengths(&pair)[(LAYERS - 1) * KV_HEADS..].iter().map(Vec::len).sum();
            if recipe.retain || recipe.score.is_none() {
                assert_eq!(held, KV_HEADS * seen, "{name} retains everything");
                continue;
            }
            let (Some(kept), Some(decode)) = (planner.kept(turn), recipe.decode) else { continue };
            let heads = if let HeadBudget::Uniform {} | HeadBudget::Adaptive { .. } = recipe.budget.heads {
                KV_HEADS
            } else {
                LAYERS * KV_HEADS
            };
            assert!(held <= heads * (kept + decode.every), "{name}: {held} at step {step}");
            let score = recipe.score.as_ref().unwrap();
            let protected = score.protects(kept).or(recipe.budget.protects()).within(kept, seen);
            let moves = recipe.position.kind == TokenPositions::Contiguous;
            for positions in lengths(&pair) {
                let sinks = if moves { 0 } else { protected.sink };
                assert!(positions.iter().take(sinks).map(|&p| p as usize).eq(0..sinks), "{name}: sinks");
                // Since the last eviction more has come, and nothing gone.
                let recent = protected.recent.min(positions.len());
                let last = (seen - recent..seen).map(|p| p as i32);
                assert!(
                    positions[positions.len() - recent..].iter().copied().eq(last),
                    "{name}: last tokens"
                );
            }
        }
        if recipe.retain {
            let bytes = pair.cache.bytes();
            assert!(bytes.read < bytes.full, "{name} reads a part: {bytes:?}");
        }
        pair.cache.remove(sequence).unwrap();
        assert_eq!(pair.cache.bytes().in_use, 0, "{name} leaves nothing behind");
    }
}

/// Tokens of the long text.
const LONG: usize = 10_000;

#[test]
fn ten_thousand_tokens_stay_within_the_budget_of_every_recipe() {
    use rayon::prelude::*;
    let recipes = recipes().into_iter().filter(|r| r.score.is_some());
    let carried_out: Vec<String> = recipes.collect::<Vec<_>>().par_iter().map(long_text).collect();
    assert!(carried_out.len() >= 25, "{carried_out:?}");
}

/// Grows a text to [`LONG`] tokens, one at a time.
fn long_text(recipe: &TokenRecipe) -> String {
    let name = &recipe.name;
    let budget: &[&str] = match &recipe.select {
        Some(select) if select.is::<Blocks>() => &["select.top=4"],
        // What is reserved for the ratio of a longer text is replaced by a number.
        _ => &["budget.ratio=1.0", "budget.tokens=24"],
    };
    let mut recipe = recipe.with_overrides(budget).unwrap();
    if recipe.decode.is_none() {
        recipe = recipe.with_overrides(&["decode.every=16"]).unwrap();
    }
    let every = recipe.decode.unwrap().every;
    let mut pair = session(recipe.clone(), 0x10E);
    let sequence = pair.start();
    extend(&mut pair, sequence, 0, 40, 1.0).unwrap();
    evict(&mut pair, sequence, 40, 1.0).unwrap();
    let (mut held, mut resident, mut observed, mut read) = (0, 0, 0, 0);
    for seen in 40..40 + LONG {
        extend(&mut pair, sequence, seen, 1, 1.0).unwrap();
        let bytes = pair.cache.bytes();
        evict(&mut pair, sequence, seen + 1, 1.0).unwrap_or_else(|e| panic!("{name}, token {seen}: {e}"));
        let of_layer = |layer| pair.cache.head_lengths(sequence, layer).unwrap();
        held = held.max((0..LAYERS).flat_map(of_layer).sum());
        resident = resident.max(bytes.resident);
        observed = observed.max(bytes.observed);
        if seen >= 40 + every {
            // Less what the choice was made by.
            read = read.max(bytes.read - if every == 1 { bytes.host } else { 0 });
        }
    }
    let heads = LAYERS * KV_HEADS;
    let row = 2 * DIM * size_of::<f32>();
    // What a head keeps on average, ReKV the blocks, both ends and what fills no block; and what comes until the next eviction.
    let kept = |layer| {
        let turn = LayerContext { layer, layers: LAYERS, seen: 40 + LONG, decoding: true };
        pair.cache.planner().kept(turn).unwrap_or(4 * 4 + 4 + 4 + 3)
    };
    let most = (0..LAYERS).map(|layer| KV_HEADS * (kept(layer) + every)).sum::<usize>();
    if recipe.retain {
        assert_eq!(held, heads * (40 + LONG), "{name}");
        assert!(read as usize <= most * row, "{name} reads {read} bytes of {} tokens", most);
    } else {
        assert!(held <= most, "{name} holds {held} tokens, not {most}");
        // Whole blocks, an eighth more and a third that may be free.
        let blocks = (most.div_ceil(4) + heads) * 9 / 8 * 3 / 2 + heads;
        assert!(resident as usize <= blocks * 4 * row, "{name}: {resident} bytes");
    }
    // Twice the queries of what is in blocks, rotated and raw, or sums of attention.
    let queries = if recipe.retain { 0 } else { 4 * (most + 64 * LAYERS) * QUERY_HEADS / KV_HEADS * DIM * 4 };
    assert!(recipe.retain || observed as usize <= queries, "{name} looks at {observed} bytes of {queries}");
    pair.cache.remove(sequence).unwrap();
    assert_eq!(pair.cache.bytes().in_use, 0, "{name} leaves nothing behind");
    name.clone()
}

#[test]
fn extreme_numbers_are_ranked_or_refused() {
    for (seed, recipe) in recipes().into_iter().enumerate() {
        for exponent in [-38, -20, 12, 18] {
            let name = recipe.name.clone();
            let mut pair = session(recipe.clone(), 0xF00 + seed as u64);
            let (sequence, scale) = (pair.start(), 10f32.powi(exponent));
            extend(&mut pair, sequence, 0, 50, scale).unwrap();
            let refused = |result: Result<(), Error>| match result {
                Ok(()) => false,
                Err(Error::Score(ScoreError::NonFiniteToken { .. } | ScoreError::Missing { .. })) => true,
                Err(other) => panic!("{name} at 1e{exponent}: {other}"),
            };
            let before = pair.cache.bytes().in_use;
            if refused(evict(&mut pair, sequence, 50, scale).map(|_| ())) {
                assert!(pair.cache.bytes().in_use == before || name == "dapq", "{name} at 1e{exponent}");
                continue;
            }
            for step in 50..56 {
                if refused(extend(&mut pair, sequence, step, 1, scale)) {
                    break;
                }
            }
        }
    }
}
