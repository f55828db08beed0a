//! Parts that a user brings: the example, and what registries and recipes make of them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[path = "../examples/own_parts.rs"]
mod example;

use example::{BestOfEach, LargeValues};
use tethercache::part::{PartProblem, Settings};
use tethercache::prelude::*;
use tethercache::score::tokens::{
    CriticalKv, HeadScores, HeadShare, HeadShares, Protected, ScoreTokens, SelectTokens, SnapKv, StLite,
};
use tethercache::score::{FrameChoice, ScoreError, SelectFrames};
use tethercache::tokens::TokenRecipe;
use tethercache::{AnyRecipe, RecipeError};

#[test]
fn the_example_runs() {
    example::main().unwrap();
}

fn registry() -> Registry {
    Registry::default().token_scorer::<LargeValues>().unwrap().token_selector::<BestOfEach>().unwrap()
}

const NESTED: &str = r#"
name = "nested"
unit = "token"
[score]
kind = "st-lite"
base = { kind = "criticalkv", base = { kind = "large-values", power = 2.0 }, first_stage = 0.25 }
[budget]
ratio = 0.5
[select]
kind = "best-of-each"
"#;

#[test]
fn a_scorer_inside_another_one_is_found_by_the_same_registry() {
    let recipe = TokenRecipe::from_toml_with(NESTED, &registry()).unwrap();
    let inner = CriticalKv {
        base: LargeValues { power: 2.0 }.into_part(),
        first_stage: 0.25,
        ..CriticalKv::default()
    };
    assert_eq!(recipe.score, Some(StLite { base: inner.into_part() }.into_part()));
    // Changed, written and read again.
    let changed = recipe.with_overrides(&["score.base.base.power=3", "budget.ratio=0.25"]).unwrap();
    let base = |r: &TokenRecipe| {
        let outer = r.score.as_ref().unwrap().downcast_ref::<StLite>().unwrap().clone();
        let inner = outer.base.downcast_ref::<CriticalKv>().unwrap().clone();
        inner.base.downcast_ref::<LargeValues>().unwrap().clone()
    };
    assert_eq!((base(&recipe), base(&changed)), (LargeValues { power: 2.0 }, LargeValues { power: 3.0 }));
    let text = changed.to_toml().unwrap();
    assert_eq!(TokenRecipe::from_toml_with(&text, &registry()).unwrap(), changed, "{text}");
    assert_eq!(AnyRecipe::from_toml_with(&text, &registry()).unwrap().tokens().unwrap(), changed);
    assert!(serde_json::to_string(&changed).unwrap().contains(r#"{"kind":"large-values","power":3.0}"#));
    // Another kind of the registry, by an override.
    let simple = changed.with_overrides(&["score={kind=\"large-values\",power=1}"]).unwrap();
    assert_eq!(simple.score.unwrap().kind(), "large-values");
}

#[test]
fn a_kind_that_nobody_registered_is_an_error_with_its_place() {
    let e = TokenRecipe::from_toml(NESTED).unwrap_err();
    let message = e.to_string();
    assert!(message.contains("line 6, column 40, `score.base.base.kind`"), "{message}");
    assert!(message.contains("unknown kind `large-values`"), "{message}");
    // Parts check themselves where they are read.
    let text = NESTED.replace("power = 2.0", "power = 0.5");
    let e = TokenRecipe::from_toml_with(&text, &registry()).unwrap_err();
    assert!(matches!(&e, RecipeError::OutOfRange { .. }), "{e}");
    assert!(e.to_string().contains("score.power = 0.5: must be at least 1"), "{e}");
}

#[test]
fn a_name_is_taken_once() {
    let again = registry().token_scorer::<LargeValues>().unwrap_err();
    assert_eq!(again.problem, PartProblem::Taken { kind: LargeValues::KIND });
    let built_in = Registry::default().token_scorer::<SnapKv>().unwrap_err();
    assert_eq!(built_in.problem, PartProblem::Taken { kind: "snapkv" });
}

#[test]
fn a_part_made_in_code_can_be_changed() {
    let recipe = TokenRecipe {
        score: Some(LargeValues { power: 2.0 }.into_part()),
        ..TokenRecipe::named("knorm").unwrap()
    };
    let changed = recipe.with_overrides(&["score.power=4"]).unwrap();
    assert_eq!(changed.score, Some(LargeValues { power: 4.0 }.into_part()));
    assert_ne!(changed.score, recipe.score);
    assert_ne!(changed.score, Some(SnapKv::default().into_part()));
    let e = recipe.with_overrides(&["score.powr=4"]).unwrap_err();
    assert!(e.to_string().contains("did you mean `power`"), "{e}");
    let e = recipe.with_overrides(&["score.power=much"]).unwrap_err();
    assert!(matches!(&e, RecipeError::Malformed { .. }), "{e}");
}

/// Keeps what it was made with, whatever it is asked.
#[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Stubborn {
    keeps: Vec<u32>,
}

impl Settings for Stubborn {
    const KIND: &'static str = "stubborn";
}

impl SelectTokens for Stubborn {
    fn choose(&self, _: &[&[f32]], _: HeadShare) -> Result<Vec<u32>, ScoreError> {
        Ok(self.keeps.clone())
    }
}

impl SelectFrames for Stubborn {
    fn needs_scores(&self) -> bool {
        false
    }

    fn select(&self, _: FrameChoice<'_>) -> Result<Vec<usize>, ScoreError> {
        Ok(self.keeps.iter().map(|&k| k as usize).collect())
    }
}

#[test]
fn what_is_protected_stays_whatever_a_selector_says() {
    let scores = HeadScores::new(1, 6, vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
    let select = |keeps: &[u32], kept, sink, recent| {
        let share = HeadShare { kept, protected: Protected { sink, recent }, merges: true };
        let part = SelectTokens::into_part(Stubborn { keeps: keeps.to_vec() });
        part.select(&scores, &HeadShares::Each(vec![share]))
    };
    assert_eq!(select(&[3], 4, 1, 1).unwrap().head(0), [0, 3, 5]);
    assert_eq!(select(&[5, 3, 0, 3], 4, 1, 1).unwrap().head(0), [0, 3, 5]);
    // More than its share, protected tokens included; and tokens that there are not.
    assert!(matches!(select(&[1, 2, 3], 4, 1, 1), Err(ScoreError::Count { expected: 4, got: 5, .. })));
    assert!(matches!(select(&[6], 4, 0, 0), Err(ScoreError::Count { expected: 6, got: 7, .. })));
}

#[test]
fn a_window_of_frames_refuses_a_selection_that_does_not_fill_it() {
    let registry = Registry::default().frame_selector::<Stubborn>().unwrap();
    let text = |keeps: &str| {
        format!(
            "name = \"stubborn\"\nunit = \"frame\"\nlayout = {{ sink = 1, memory = 2, recent = 1 }}\n\
             select = {{ kind = \"stubborn\", keeps = {keeps} }}\n\
             position = {{ kind = \"contiguous\", keys = \"pre-rope\" }}\n"
        )
    };
    let run = |keeps: &str| -> Result<Vec<u64>, Error> {
        let recipe = Recipe::from_toml_with(&text(keeps), &registry)?;
        let geometry = Geometry {
            layers: 1,
            query_heads: 1,
            kv_heads: 1,
            head_dim_k: 4,
            head_dim_v: 4,
            tokens_per_unit: 1,
            units_per_chunk: 1,
            sequences: 1,
            dtype: DType::F32,
            rope: RopeKind::None,
        };
        let mut cache = KvCache::new(Host::new(), geometry, recipe)?;
        let row = HostTensor::from_f32(&[1, 1, 4], vec![1.0; 4])?;
        for chunk in 0..8 {
            cache.stage(0, Pass::clean(chunk), &row, &row)?;
            cache.commit(0, chunk, &row)?;
        }
        let members = cache.tables(0)?.windows()[0].memory_units();
        Ok(members.iter().flatten().map(|unit| unit.0).collect())
    };
    // The first two of three candidates: memory stays as it was when it was first full.
    assert_eq!(run("[0, 1]").unwrap(), [1, 2]);
    assert_eq!(run("[1, 2]").unwrap(), [5, 6]);
    for keeps in ["[0]", "[0, 1, 2]", "[1, 0]", "[0, 3]"] {
        assert!(matches!(run(keeps), Err(Error::Layout(_))), "{keeps}");
    }
}
