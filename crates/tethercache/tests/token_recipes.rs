//! What every recipe for tokens promises, whatever the text.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use proptest::prelude::*;
use tether_score::tokens::{
    Blocks, Budget, ExpectedAttention, GridPlace, HeadProfile, KeptIndices, LayerProfile, Pages,
    RecordedTokens, TokenObservation,
};
use tether_score::{ScoreError, tokens::HeadBudget};
use tethercache::tokens::{
    LayerContext, SequenceState, StoredKeys, TokenPlan, TokenPlanner, TokenRecipe, kept_heads,
};
use tethercache::{Error, RecipeError, catalogue};

const DIM: usize = 8;
const LAYERS: usize = 4;

/// Deterministic numbers between -1 and 1.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn rows(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.next()).collect()
    }
}

/// Head-major arrays of a text, so that heads can change places.
#[derive(Clone)]
struct Text {
    kv_heads: usize,
    group: usize,
    tokens: usize,
    /// For each key head: keys, values, raw keys, and keys of probes.
    kv: Vec<[Vec<f32>; 4]>,
    /// For each query head: queries, raw queries, queries of probes, and its columns of the output projection (`[hidden, DIM]`).
    q: Vec<[Vec<f32>; 4]>,
}

const HIDDEN: usize = 6;
const PROBES: usize = 3;

impl Text {
    fn new(kv_heads: usize, group: usize, tokens: usize, seed: u64) -> Self {
        let mut noise = Noise(seed);
        let mut sized = |a: usize, b: usize| {
            [noise.rows(tokens * DIM), noise.rows(tokens * DIM), noise.rows(a * DIM), noise.rows(b * DIM)]
        };
        let kv = (0..kv_heads).map(|_| sized(tokens, PROBES)).collect();
        let q = (0..kv_heads * group).map(|_| sized(PROBES, HIDDEN)).collect();
        Self { kv_heads, group, tokens, kv, q }
    }

    fn swapped(&self, a: usize, b: usize) -> Self {
        let mut other = self.clone();
        other.kv.swap(a, b);
        (0..self.group).for_each(|i| other.q.swap(a * self.group + i, b * self.group + i));
        other
    }

    fn scaled(mut self, by: f32) -> Self {
        self.kv.iter_mut().flat_map(|h| h[..3].iter_mut()).flatten().for_each(|x| *x *= by);
        self
    }

    fn seen(&self) -> RecordedTokens {
        let all =
            |of: &[[Vec<f32>; 4]], i: usize| -> Vec<f32> { of.iter().flat_map(|h| h[i].clone()).collect() };
        let heads = self.kv_heads * self.group;
        let mut projection = vec![0.0; HIDDEN * heads * DIM];
        for (head, of_head) in self.q.iter().enumerate() {
            for (row, columns) in of_head[3].chunks_exact(DIM).enumerate() {
                projection[(row * heads + head) * DIM..][..DIM].copy_from_slice(columns);
            }
        }
        // A third of the text is a picture of two frames.
        let picture = self.tokens / 3 / 4 * 4;
        let place = |t: usize| {
            (t < picture).then(|| GridPlace {
                frame: (2 * t / picture.max(1)) as u32,
                row: (t / 2) as u32,
                column: (t % 2) as u32,
            })
        };
        RecordedTokens::new(
            (heads, self.kv_heads),
            self.tokens,
            (DIM, DIM),
            all(&self.kv, 0),
            all(&self.kv, 1),
        )
        .and_then(|s| s.with_raw_keys(all(&self.kv, 2)))
        .and_then(|s| s.with_queries(all(&self.q, 0)))
        .and_then(|s| s.with_raw_queries(all(&self.q, 1)))
        .and_then(|s| s.with_probes(all(&self.q, 2), all(&self.kv, 3)))
        .and_then(|s| s.with_output_projection(projection))
        .and_then(|s| s.with_grid((0..self.tokens).map(place).collect()))
        .unwrap()
        .with_frequencies(vec![1.0, 0.3, 0.1, 0.03])
    }
}

fn profile(kv_heads: usize, seed: u64) -> HeadProfile {
    let mut noise = Noise(seed);
    let mut layer = || LayerProfile {
        echo: noise.rows(kv_heads),
        induction: noise.rows(kv_heads),
        variance: noise.rows(kv_heads),
    };
    HeadProfile { layers: (0..LAYERS).map(|_| layer()).collect(), ..HeadProfile::default() }
}

fn swapped(mut profile: HeadProfile, a: usize, b: usize) -> HeadProfile {
    for layer in &mut profile.layers {
        [&mut layer.echo, &mut layer.induction, &mut layer.variance].into_iter().for_each(|l| l.swap(a, b));
    }
    profile
}

/// Every built-in recipe, with windows that fit short texts.
fn recipes() -> Vec<TokenRecipe> {
    catalogue()
        .iter()
        .filter(|c| c.unit == "token")
        .map(|row| {
            let recipe = TokenRecipe::named(row.name).unwrap();
            let fitted: &[&str] = match row.name {
                "snapkv" | "pyramidkv" | "adakv" | "chunkkv" | "flowcache" => &["score.window=6"],
                "criticalkv" => &["score.base.window=6"],
                "lagkv" => &["score.lag=6"],
                "window-kv" => &["score.suffix=6", "budget.layers.shared=2"],
                "rekv" => {
                    &["score.block=4", "score.init=4", "score.question=4", "select.size=4", "select.top=3"]
                }
                "st-lite" => &["score.base.window=6"],
                "question-guided" => &["score.question=6"],
                "quest" => &["budget.dense=0"],
                _ => &[],
            };
            recipe.with_overrides(fitted).unwrap()
        })
        .collect()
}

fn turn(layer: usize, seen: usize) -> LayerContext {
    LayerContext { layer, layers: LAYERS, seen, decoding: false }
}

fn planner(recipe: &TokenRecipe, profile: &HeadProfile) -> TokenPlanner {
    TokenPlanner::new(recipe.clone()).unwrap().with_profile(profile.clone())
}

fn plans(recipe: &TokenRecipe, text: &Text, profile: &HeadProfile) -> Result<Vec<TokenPlan>, Error> {
    let (planner, seen, mut state) = (planner(recipe, profile), text.seen(), SequenceState::default());
    (0..LAYERS).map(|layer| planner.plan(turn(layer, text.tokens), &seen, &mut state)).collect()
}

/// First tokens that stay even where the budget is smaller.
fn sinks(recipe: &TokenRecipe, kept: usize) -> usize {
    let score = recipe.score.as_ref().unwrap();
    score.protects(kept).or(recipe.budget.protects()).sink
}

/// What a recipe protects of a head that keeps `kept`.
fn is_protected(recipe: &TokenRecipe, kept: usize, tokens: usize) -> impl Fn(usize) -> bool {
    let score = recipe.score.as_ref().unwrap();
    let protected = score.protects(kept).or(recipe.budget.protects()).within(kept, tokens);
    move |t| protected.holds(t, tokens)
}

fn with_budget(recipe: &TokenRecipe, ratio: f64) -> TokenRecipe {
    let mut recipe = recipe.clone();
    // A number of blocks is a budget of its own.
    if recipe.select.as_ref().is_some_and(|select| !select.is::<Blocks>()) {
        recipe.budget = Budget { ratio: Some(ratio), ..recipe.budget };
    }
    recipe
}

proptest! {
    #[test]
    fn budgets_hold_and_ends_stay(tokens in 1usize..90, group in 1usize..4, ratio in 0.05f64..1.0, seed in 0u64..1 << 40) {
        let kv_heads = 3;
        let text = Text::new(kv_heads, group, tokens, seed);
        let profile = profile(kv_heads, seed);
        for recipe in recipes() {
            let recipe = with_budget(&recipe, ratio);
            let plans = plans(&recipe, &text, &profile).unwrap();
            let planner = planner(&recipe, &profile);
            let mut of_model = 0;
            for plan in &plans {
                let name = format!("{} layer {}: {:?}", recipe.name, plan.layer, plan.keep);
                prop_assert_eq!(plan.keep.heads(), kv_heads);
                of_model += plan.keep.total();
                for set in plan.keep.sets() {
                    prop_assert!(set.is_sorted_by(|a, b| a < b), "{}", name);
                    prop_assert!(set.iter().all(|&t| (t as usize) < tokens), "{}", name);
                }
                let Some(kept) = planner.kept(turn(plan.layer, tokens)) else { continue };
                let kept = kept.max(sinks(&recipe, kept).min(tokens));
                match recipe.budget.heads {
                    HeadBudget::Uniform {} => {
                        for set in plan.keep.sets() {
                            prop_assert!(set.len() <= kept, "{} keeps {} of {}", name, set.len(), kept);
                            let holds = is_protected(&recipe, kept, tokens);
                            let missing = (0..tokens).find(|&t| holds(t) && !set.contains(&(t as u32)));
                            prop_assert_eq!(missing, None, "{}", name);
                        }
                    }
                    HeadBudget::Adaptive { .. } => {
                        prop_assert!(plan.keep.total() <= kv_heads * kept, "{}", name);
                        let holds = is_protected(&recipe, kept, tokens);
                        for set in plan.keep.sets() {
                            prop_assert!((0..tokens).all(|t| !holds(t) || set.contains(&(t as u32))), "{}", name);
                        }
                    }
                    // Heads of a kind share the budget of the whole model.
                    _ => {}
                }
            }
            if recipe.budget.heads.needs_profile() {
                let kept = planner.kept(turn(0, tokens)).unwrap();
                let kept = kept.max(sinks(&recipe, kept).min(tokens));
                prop_assert!(of_model <= LAYERS * kv_heads * kept, "{}: {} of {} a head", recipe.name, of_model, kept);
            }
        }
    }

    #[test]
    fn a_plan_is_the_same_twice_and_its_result_needs_none(tokens in 1usize..60, ratio in 0.1f64..1.0, seed in 0u64..1 << 40) {
        let (kv_heads, group) = (1, 2);
        let text = Text::new(kv_heads, group, tokens, seed);
        let profile = profile(kv_heads, seed);
        for recipe in recipes() {
            let recipe = with_budget(&recipe, ratio);
            let once = plans(&recipe, &text, &profile).unwrap();
            prop_assert_eq!(&once, &plans(&recipe, &text, &profile).unwrap());
            for plan in once {
                let keep = plan.keep.head(0);
                let rows = |data: &[f32]| keep.iter().flat_map(|&t| data[t as usize * DIM..][..DIM].to_vec()).collect::<Vec<f32>>();
                let mut after = text.clone();
                after.tokens = keep.len();
                after.kv.iter_mut().for_each(|h| h[..3].iter_mut().for_each(|side| *side = rows(side)));
                after.q.iter_mut().for_each(|h| h[..2].iter_mut().for_each(|side| *side = rows(side)));
                let planner = planner(&recipe, &profile);
                let again = planner.plan(turn(plan.layer, tokens), &after.seen(), &mut SequenceState::default()).unwrap();
                prop_assert_eq!(again.keep, KeptIndices::all(1, keep.len()), "{} layer {}", recipe.name, plan.layer);
            }
        }
    }

    #[test]
    fn heads_may_change_places(tokens in 2usize..70, group in 1usize..3, ratio in 0.1f64..0.9, seed in 0u64..1 << 40) {
        let (text, profile) = (Text::new(3, group, tokens, seed), profile(3, seed));
        for recipe in recipes() {
            let recipe = with_budget(&recipe, ratio);
            let plans_of = |text: &Text, profile: &HeadProfile| plans(&recipe, text, profile).unwrap();
            let straight = plans_of(&text, &profile);
            let crossed = plans_of(&text.swapped(0, 2), &swapped(profile.clone(), 0, 2));
            for (a, b) in straight.iter().zip(&crossed) {
                for (head, other) in [(0, 2), (1, 1), (2, 0)] {
                    prop_assert_eq!(a.keep.head(head), b.keep.head(other), "{} layer {}", &recipe.name, a.layer);
                }
            }
        }
    }

    #[test]
    fn extreme_numbers_are_ranked_or_refused(tokens in 2usize..50, exponent in -38i32..39, seed in 0u64..1 << 40) {
        let (text, profile) = (Text::new(2, 2, tokens, seed).scaled(10f32.powi(exponent)), profile(2, seed));
        for recipe in recipes() {
            match plans(&recipe, &text, &profile) {
                Ok(plans) => {
                    let scores = plans.iter().filter_map(|p| p.scores.as_ref());
                    prop_assert!(scores.flat_map(|s| s.values()).all(|s| s.is_finite()), "{}", recipe.name);
                }
                Err(Error::Score(ScoreError::NonFiniteToken { .. })) => {}
                Err(other) => prop_assert!(false, "{}: {}", recipe.name, other),
            }
        }
    }
}

/// A text that grows by a token at a time, one key head.
struct Growing {
    noise: Noise,
    text: Text,
    seen: usize,
}

impl Growing {
    fn grow(&mut self) {
        let Self { noise, text, .. } = self;
        let rows = text
            .kv
            .iter_mut()
            .flat_map(|h| h[..3].iter_mut())
            .chain(text.q.iter_mut().flat_map(|h| h[..2].iter_mut()));
        rows.for_each(|side| side.extend(noise.rows(DIM)));
        text.tokens += 1;
        self.seen += 1;
    }

    fn keep(&mut self, plan: &TokenPlan) {
        let keep = plan.keep.head(0);
        let rows =
            |data: &[f32]| keep.iter().flat_map(|&t| data[t as usize * DIM..][..DIM].to_vec()).collect();
        self.text.kv.iter_mut().for_each(|h| h[..3].iter_mut().for_each(|side| *side = rows(side)));
        self.text.q.iter_mut().for_each(|h| h[..2].iter_mut().for_each(|side| *side = rows(side)));
        self.text.tokens = keep.len();
    }
}

#[test]
fn ten_thousand_steps_stay_within_the_budget() {
    for recipe in recipes().into_iter().filter(|r| r.score.is_some() && !r.retain) {
        let mut recipe = recipe.with_overrides(&["budget.ratio=1.0", "budget.tokens=24"]).unwrap();
        if recipe.decode.is_none() {
            recipe = recipe.with_overrides(&["decode.every=16"]).unwrap();
        }
        if recipe.score.as_ref().is_some_and(|score| score.is::<ExpectedAttention>()) {
            recipe = recipe.with_overrides(&["score.future=16"]).unwrap();
        }
        let every = recipe.decode.unwrap().every;
        let profile = profile(1, 7);
        let planner = planner(&recipe, &profile);
        let mut state = SequenceState::default();
        let mut text = Growing { noise: Noise(1), text: Text::new(1, 2, 40, 3), seen: 40 };
        let mut most = 0;
        for step in 0..10_000 {
            if step % every == 0 {
                let turn = LayerContext { layer: 1, layers: LAYERS, seen: text.seen, decoding: step > 0 };
                let plan = planner.plan(turn, &text.text.seen(), &mut state).unwrap();
                text.keep(&plan);
                let kept = match recipe.budget.heads {
                    // The budget is the whole model's, and this head may be one of those that keep much.
                    HeadBudget::Hack { .. } | HeadBudget::Razor { .. } => 24 * LAYERS,
                    _ => planner.kept(turn).unwrap(),
                };
                assert!(text.text.tokens <= kept, "{}: {} at step {step}", recipe.name, text.text.tokens);
            }
            text.grow();
            most = most.max(text.text.tokens);
        }
        assert!(most < 40 + 24 * LAYERS + every, "{}: {most}", recipe.name);
        assert_eq!(text.seen, 10_040);
    }
}

#[test]
fn followers_of_a_group_keep_what_its_leader_kept_of_their_own_request() {
    let recipe = recipes().into_iter().find(|r| r.name == "window-kv").unwrap();
    let planner = TokenPlanner::new(recipe.with_overrides(&["budget.ratio=0.3"]).unwrap()).unwrap();
    let long = Text::new(2, 1, 80, 1).seen();
    let other = Text::new(2, 1, 80, 2).seen();
    let mut state = SequenceState::default();
    let leader = planner.plan(turn(0, 80), &long, &mut state).unwrap();
    // The follower's own text is another one, and is not looked at.
    assert_eq!(planner.plan(turn(1, 80), &other, &mut state).unwrap().keep, leader.keep);
    let fresh = planner.plan(turn(1, 80), &other, &mut SequenceState::default()).unwrap();
    assert_ne!(fresh.keep, leader.keep, "another request has another state");
    // The same state with a text of another length: the old choice does not count.
    let short = Text::new(2, 1, 30, 2).seen();
    let plan = planner.plan(turn(1, 30), &short, &mut state).unwrap();
    assert!(plan.keep.sets().iter().flatten().all(|&t| t < 30));
}

#[test]
fn a_compensation_token_stands_for_what_left() {
    let recipe =
        TokenRecipe::named("razor-attention").unwrap().with_overrides(&["budget.ratio=0.4"]).unwrap();
    let text = Text::new(3, 1, 60, 11);
    let seen = text.seen();
    let profile = profile(3, 5);
    let planner = TokenPlanner::new(recipe).unwrap().with_profile(profile);
    let plan = planner.plan(turn(2, 60), &seen, &mut SequenceState::default()).unwrap();
    let heads = kept_heads(&plan, &seen, None, StoredKeys::PostRope, tether_rope::Angles::Exact).unwrap();
    let mut compensated = 0;
    for (head, kept) in heads.iter().enumerate() {
        let left = 60 - plan.keep.head(head).len();
        assert_eq!(kept.compensation.as_ref().map_or(0, |c| c.count as usize), left);
        compensated += usize::from(left > 0);
        if let Some(token) = &kept.compensation {
            let values = seen.values().unwrap();
            let evicted = plan.keep.evicted(head, 60);
            let sum: f32 = evicted.iter().map(|&t| values[(head * 60 + t as usize) * DIM]).sum();
            assert!((token.value[0] - sum / left as f32).abs() < 1e-5);
        }
    }
    assert!(compensated > 0);
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    for (name, overrides) in [
        (
            "snapkv",
            &[
                "select.kind=chunks",
                "select.length=4",
                "budget.heads.kind=adaptive",
                "budget.heads.safeguard=0.2",
            ][..],
        ),
        ("snapkv", &["decode.every=0"]),
        ("merging", &["retain=true"]),
        ("merging", &["prefill.every=8"]),
        ("adakv", &["prefill.every=8"]),
        ("snapkv", &["prefill.every=0"]),
        ("adakv", &["edit.kind=compensate", "score.heads=separate"]),
    ] {
        let refused = TokenRecipe::named(name).unwrap().with_overrides(overrides);
        assert!(matches!(refused, Err(RecipeError::Combination { .. })), "{name} {overrides:?}");
    }
    let mut recipe = TokenRecipe::named("snapkv").unwrap();
    let refused = recipe.with_overrides(&["budget.ratio=1.5"]).unwrap_err();
    assert!(matches!(&refused, RecipeError::OutOfRange { .. }), "{refused}");
    recipe.budget.ratio = Some(1.5);
    assert!(matches!(TokenPlanner::new(recipe), Err(Error::Score(_))));
    let mut recipe = TokenRecipe::named("snapkv").unwrap();
    recipe.select = None;
    assert!(matches!(TokenPlanner::new(recipe), Err(Error::Recipe(RecipeError::Combination { .. }))));
    let e = TokenRecipe::named("snapkw").unwrap_err().to_string();
    assert!(e.contains("snapkv"), "{e}");
    let e =
        TokenRecipe::named("snapkv").unwrap().with_overrides(&["score.widnow=3"]).unwrap_err().to_string();
    assert!(e.contains("did you mean `window`"), "{e}");
    let e = TokenRecipe::named("tethercache").unwrap_err().to_string();
    assert!(e.contains("no recipe"), "{e}");
}

#[test]
fn a_prompt_in_pieces_keeps_the_best_of_what_was_there() {
    let text = Text::new(2, 2, 64, 21);
    let seen = text.seen();
    for (name, every) in
        [("keydiff", 8), ("snapkv", 16), ("lagkv", 30), ("tova", 5), ("knorm", 7), ("expected-attention", 9)]
    {
        let recipe = recipes().into_iter().find(|r| r.name == name).unwrap();
        let every = format!("prefill.every={every}");
        let whole = recipe.with_overrides(&["budget.ratio=0.3"]).unwrap();
        let pieces = whole.with_overrides(&[&every]).unwrap();
        let plan = |recipe: &TokenRecipe| {
            let planner = TokenPlanner::new(recipe.clone()).unwrap();
            planner.plan(turn(0, 64), &seen, &mut SequenceState::default()).unwrap()
        };
        let (whole, plan) = (plan(&whole), plan(&pieces));
        assert_eq!(plan.keep.uniform_len(), Some(19), "{name}");
        // A token's norm does not depend on what else is there; everything else does.
        assert_eq!(plan.keep == whole.keep, name == "knorm", "{name}");
    }
    // One piece is the whole prompt.
    let recipe = TokenRecipe::named("keydiff").unwrap();
    let at_once =
        planner(&recipe, &profile(2, 0)).plan(turn(0, 64), &seen, &mut SequenceState::default()).unwrap();
    let recipe = recipe.with_overrides(&["prefill.every=32"]).unwrap();
    let piece =
        planner(&recipe, &profile(2, 0)).plan(turn(0, 64), &seen, &mut SequenceState::default()).unwrap();
    assert_eq!(at_once, piece);
}

#[test]
fn heads_of_different_lengths_are_planned_one_by_one() {
    let profile = profile(3, 5);
    let heads: Vec<RecordedTokens> =
        [80, 30, 45].iter().map(|&n| Text::new(1, 2, n, n as u64).seen()).collect();
    let views: Vec<&dyn TokenObservation> = heads.iter().map(|h| h as &dyn TokenObservation).collect();
    for recipe in recipes().into_iter().filter(|r| r.score.is_some()) {
        let recipe = with_budget(&recipe, 0.5).with_overrides(&["budget.ratio=0.25"]).unwrap_or(recipe);
        let planner = planner(&recipe, &profile);
        let turn = LayerContext { decoding: true, ..turn(1, 160) };
        let plan = match planner.plan_heads(turn, &views) {
            Ok(plan) => plan,
            Err(Error::Recipe(_)) => {
                let shared = recipe.select.is_some_and(|s| s.is_shared());
                assert!(shared || recipe.name == "elastic-cache", "{}", recipe.name);
                continue;
            }
            Err(other) => panic!("{}: {other}", recipe.name),
        };
        assert_eq!((plan.keep.heads(), plan.tokens, plan.total), (3, 80, 155), "{}", recipe.name);
        for (set, head) in plan.keep.sets().iter().zip(&heads) {
            assert!(set.iter().all(|&t| (t as usize) < head.tokens()));
        }
        if let (Some(kept), HeadBudget::Uniform {}) = (planner.kept(turn), recipe.budget.heads) {
            let lengths: Vec<usize> = plan.keep.sets().iter().map(Vec::len).collect();
            let expected = [80, 30, 45].map(|n| kept.min(n));
            // Whole pages may leave less than a page of a share unused.
            let pages = recipe.select.as_ref().and_then(|select| select.downcast_ref::<Pages>());
            let page = pages.map_or(1, |pages| pages.size);
            let fits = |(&got, &most): (&usize, &usize)| got <= most && got + page > most;
            assert!(lengths.iter().zip(&expected).all(fits), "{}: {lengths:?}", recipe.name);
        }
        if let HeadBudget::Adaptive { .. } = recipe.budget.heads {
            assert_eq!(plan.keep.total(), 3 * 40, "{}", recipe.name);
        }
        // Planned together, heads of one length come to the same.
        let whole = Text::new(2, 2, 60, 9);
        let parts: Vec<RecordedTokens> = (0..2)
            .map(|h| {
                let mut one = whole.clone();
                (one.kv_heads, one.kv, one.q) =
                    (1, vec![whole.kv[h].clone()], whole.q[2 * h..2 * h + 2].to_vec());
                one.seen()
            })
            .collect();
        // Scores that average over heads differ, and so do those of pictures.
        if !["tova", "st-lite", "hack", "razor-attention"].contains(&recipe.name.as_str()) {
            let views: Vec<&dyn TokenObservation> =
                parts.iter().map(|h| h as &dyn TokenObservation).collect();
            let turn = LayerContext { seen: 60, ..turn };
            let one_by_one = planner.plan_heads(turn, &views).unwrap();
            let together = planner.plan(turn, &whole.seen(), &mut SequenceState::default()).unwrap();
            assert_eq!(one_by_one.keep, together.keep, "{}", recipe.name);
            assert_eq!(one_by_one.edits, together.edits, "{}", recipe.name);
        }
    }
}

#[test]
fn a_prompt_in_pieces_is_carried_out_or_refused_when_it_is_read() {
    let (text, profile) = (Text::new(2, 2, 64, 5), profile(2, 5));
    let (mut carried_out, mut refused) = (Vec::new(), Vec::new());
    for recipe in recipes().into_iter().filter(|r| r.score.is_some()) {
        let recipe = with_budget(&recipe, 0.3);
        match recipe.with_overrides(&["prefill.every=8"]) {
            Ok(pieces) => {
                let plans =
                    plans(&pieces, &text, &profile).unwrap_or_else(|e| panic!("{}: {e}", recipe.name));
                assert_eq!(plans[0].keep.heads(), 2);
                carried_out.push(recipe.name);
            }
            Err(RecipeError::Combination { .. }) => refused.push(recipe.name),
            Err(other) => panic!("{}: {other}", recipe.name),
        }
    }
    for name in ["h2o", "observed-attention", "dapq", "st-lite"] {
        assert!(refused.iter().any(|r| r == name), "{name}");
    }
    for name in ["snapkv", "keydiff", "lagkv", "tova", "knorm", "expected-attention", "criticalkv"] {
        assert!(carried_out.iter().any(|r| r == name), "{name}");
    }
}
