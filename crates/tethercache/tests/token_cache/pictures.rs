//! Recipes that look at where a token stands in a picture.

use super::*;
use tether_score::ScoreError;

/// What a session was given: keys as they came and before they were rotated.
#[derive(Clone)]
struct Given {
    plain: Plain,
    raw: Plain,
}

/// Extends a session whose tokens stand where [`places`] says; those of a piece without pictures are said to be text, or nothing is said.
fn extend(
    cache: &mut TokenCache<Host>,
    sequence: SequenceId,
    given: &mut Given,
    noise: &mut Noise,
    tokens: usize,
) {
    let from = given.plain.seen;
    let (positions, places): (Vec<i32>, _) =
        ((from..from + tokens).map(|p| p as i32).collect(), places(from..from + tokens));
    let grid =
        Some(&places[..]).filter(|places| from.is_multiple_of(2) || places.iter().any(Option::is_some));
    for layer in 0..LAYERS {
        let q = noise.tensor(&[tokens, QUERY_HEADS, DIM]);
        let (raw, v) = (noise.tensor(&[tokens, KV_HEADS, DIM]), noise.tensor(&[tokens, KV_HEADS, DIM]));
        let raw_rows = raw.to_f32_vec();
        let rotated = raw_rows.chunks_exact(DIM).enumerate();
        let rotated = rotated.flat_map(|(row, key)| turned(key, positions[row / KV_HEADS]));
        let k: Vec<f32> = rotated.map(|x| x as f32).collect();
        let k = HostTensor::from_f32(&[tokens, KV_HEADS, DIM], k).unwrap();
        let new = NewTokens { q: &q, k: &k, v: &v, raw_q: None, positions: &positions, grid };
        cache.extend(sequence, layer, &new).unwrap();
        let (q, k, v) = (q.to_f32_vec(), k.to_f32_vec(), v.to_f32_vec());
        for (i, &position) in positions.iter().enumerate() {
            let row = |x: &[f32], heads: usize| x[i * heads * DIM..][..heads * DIM].to_vec();
            let (q, v) = (row(&q, QUERY_HEADS), row(&v, KV_HEADS));
            given.plain.push(layer, position, &q, &row(&k, KV_HEADS), &v);
            given.raw.push(layer, position, &q, &row(&raw_rows, KV_HEADS), &v);
        }
    }
    given.plain.seen += tokens;
}

fn read(recipe: TokenRecipe) -> (TokenCache<Host>, SequenceId, Given, Noise) {
    let facts = ModelInfo { head_profile: Some(profile()), ..turns_by(&frequencies()) };
    let mut cache = TokenCache::new(Host::new(), geometry(), recipe, facts).unwrap();
    let (sequence, mut noise) = (cache.start(), Noise(0x617));
    let mut given = Given { plain: Plain::new(), raw: Plain::new() };
    // The text before the first picture, a picture, words, and pieces that end within pictures.
    for tokens in [5, 12, 2, 19, 30, 1] {
        extend(&mut cache, sequence, &mut given, &mut noise, tokens);
    }
    (cache, sequence, given, noise)
}

/// All of a layer, as long as every head holds all of it.
fn whole(given: &Given, layer: usize) -> RecordedTokens {
    let raw_keys = given.raw.heads[layer].iter().flatten().flat_map(|t| t.1.clone()).collect();
    let tokens = given.plain.seen;
    let seen = given.plain.recorded(layer, tokens).with_raw_keys(raw_keys).unwrap();
    seen.with_grid(places(0..tokens)).unwrap()
}

/// What one head holds, given the positions.
fn of_head(given: &Given, layer: usize, head: usize, held: &[i32]) -> RecordedTokens {
    let group = QUERY_HEADS / KV_HEADS;
    let of = |plain: &Plain, pick: fn(&Token) -> &Vec<f32>| -> Vec<f32> {
        held.iter().flat_map(|&p| pick(&plain.heads[layer][head][p as usize]).clone()).collect()
    };
    let count = held.len();
    let queries = by_head(&given.plain.queries[layer], count);
    let queries = queries[head * group * count * DIM..][..group * count * DIM].to_vec();
    let place = |&p: &i32| places(p as usize..p as usize + 1)[0];
    RecordedTokens::new((group, 1), count, (DIM, DIM), of(&given.plain, |t| &t.1), of(&given.plain, |t| &t.2))
        .and_then(|s| s.with_raw_keys(of(&given.raw, |t| &t.1)))
        .and_then(|s| s.with_queries(queries))
        .and_then(|s| s.with_grid(held.iter().map(place).collect()))
        .unwrap()
}

/// Evicts a sequence whose heads hold all of the text, and checks what stays.
fn evict_all(cache: &mut TokenCache<Host>, sequence: SequenceId, given: &Given) {
    let planner = cache.planner().clone();
    cache.evict(sequence).unwrap();
    let mut state = SequenceState::default();
    for layer in 0..LAYERS {
        let turn = LayerContext { layer, layers: LAYERS, seen: given.plain.seen, decoding: false };
        let plan = planner.plan(turn, &whole(given, layer), &mut state).unwrap();
        assert!(plan.keep.total() < plan.total);
        for (head, set) in plan.keep.sets().iter().enumerate() {
            let expected: Vec<i32> = set.iter().map(|&t| t as i32).collect();
            assert_eq!(
                cache.positions(sequence, layer, head).unwrap(),
                expected,
                "layer {layer}, head {head}"
            );
        }
    }
}

/// Adds tokens, evicts, and checks what stays of what each head held by then.
fn grow_and_evict(
    cache: &mut TokenCache<Host>,
    sequence: SequenceId,
    given: &mut Given,
    noise: &mut Noise,
    tokens: usize,
) {
    extend(cache, sequence, given, noise, tokens);
    let heads = |cache: &TokenCache<Host>, layer: usize| -> Vec<Vec<i32>> {
        (0..KV_HEADS).map(|head| cache.positions(sequence, layer, head).unwrap().to_vec()).collect()
    };
    let expected: Vec<Vec<Vec<i32>>> = (0..LAYERS)
        .map(|layer| {
            let held = heads(cache, layer);
            assert_ne!(held[0], held[1], "heads hold different tokens");
            let seen: Vec<RecordedTokens> =
                held.iter().enumerate().map(|(head, held)| of_head(given, layer, head, held)).collect();
            let seen: Vec<&dyn TokenObservation> = seen.iter().map(|s| s as _).collect();
            let turn = LayerContext { layer, layers: LAYERS, seen: given.plain.seen, decoding: true };
            let keep = cache.planner().plan_heads(turn, &seen).unwrap().keep;
            let positions =
                |(set, held): (&Vec<u32>, &Vec<i32>)| set.iter().map(|&t| held[t as usize]).collect();
            keep.sets().iter().zip(&held).map(positions).collect()
        })
        .collect();
    assert!(cache.evict(sequence).unwrap().evicted > 0);
    let kept: Vec<Vec<Vec<i32>>> = (0..LAYERS).map(|layer| heads(cache, layer)).collect();
    assert_eq!(kept, expected);
}

fn st_lite() -> TokenRecipe {
    let overrides = ["budget.ratio=0.4", "score.base.window=6", "decode.every=9"];
    TokenRecipe::named("st-lite").unwrap().with_overrides(&overrides).unwrap()
}

#[test]
fn screenshots_are_chosen_from_as_the_planner_does_of_the_whole_text() {
    let (mut cache, sequence, mut given, mut noise) = read(st_lite());
    let copy = cache.fork(sequence).unwrap();
    let mut other = given.clone();
    evict_all(&mut cache, sequence, &given);
    for tokens in [9, 14] {
        grow_and_evict(&mut cache, sequence, &mut given, &mut noise, tokens);
    }
    // The fork sees another picture before it chooses.
    extend(&mut cache, copy, &mut other, &mut noise, 17);
    evict_all(&mut cache, copy, &other);
    let third = cache.fork(copy).unwrap();
    cache.remove(copy).unwrap();
    grow_and_evict(&mut cache, third, &mut other, &mut noise, 20);
}

#[test]
fn heads_of_a_kind_keep_the_first_and_last_pictures() {
    let overrides = ["budget.ratio=0.7", "budget.heads.contextual=0.25", "edit.threshold=0"];
    let recipe = TokenRecipe::named("hack").unwrap().with_overrides(&overrides).unwrap();
    let (mut cache, sequence, given, _) = read(recipe);
    evict_all(&mut cache, sequence, &given);
    // The first pictures end at 17 and 31, the last one begins at 61.
    let ends: Vec<i32> = (0..31).chain(61..69).collect();
    let keeps_them = |layer: usize, head: usize| {
        let stay = cache.positions(sequence, layer, head).unwrap();
        ends.iter().all(|position| stay.contains(position))
    };
    let heads = (0..LAYERS).flat_map(|layer| (0..KV_HEADS).map(move |head| (layer, head)));
    assert_eq!(
        heads.filter(|&(layer, head)| keeps_them(layer, head)).count(),
        3,
        "all heads but the contextual one"
    );
}

#[test]
fn a_text_without_pictures_and_places_that_are_not_its_own_are_refused() {
    let facts = ModelInfo { rope: Some(turning(&frequencies())), ..ModelInfo::default() };
    let mut cache = TokenCache::new(Host::new(), geometry(), st_lite(), facts).unwrap();
    let (sequence, mut noise) = (cache.start(), Noise(0x618));
    let (q, k) = (noise.tensor(&[30, QUERY_HEADS, DIM]), noise.tensor(&[30, KV_HEADS, DIM]));
    let positions: Vec<i32> = (0..30).collect();
    let new = NewTokens { q: &q, k: &k, v: &k, raw_q: None, positions: &positions, grid: None };
    let places = places(0..29);
    let error = cache.extend(sequence, 0, &NewTokens { grid: Some(&places), ..new }).unwrap_err();
    assert!(matches!(error, Error::Core(CoreError::Count { expected: 30, got: 29, .. })), "{error}");
    assert_eq!((cache.seen(sequence, 0).unwrap(), cache.bytes().in_use), (0, 0));
    let new = NewTokens { q: &q, k: &k, v: &k, raw_q: None, positions: &positions, grid: None };
    (0..LAYERS).for_each(|layer| drop(cache.extend(sequence, layer, &new).unwrap()));
    let before = cache.bytes();
    let error = cache.evict(sequence).unwrap_err();
    assert!(matches!(error, Error::Score(ScoreError::Missing { .. })), "{error}");
    assert_eq!((cache.bytes(), cache.seen(sequence, 1).unwrap()), (before, 30));
}
