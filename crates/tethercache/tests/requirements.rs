//! What recipes must be given, and what is said when it is not there.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use tether_core::{DType, Pairing};
use tether_rope::TokenRope;
use tethercache::score::ScoreError;
use tethercache::score::tokens::{HeadProfile, LayerProfile};
use tethercache::tokens::{KnownFacts, TokenAttention, TokenGeometry, TokenRecipe};
use tethercache::{Error, Recipe, RecipeError, Requirement, catalogue};

const NOTHING: KnownFacts<'_> = KnownFacts { rope: None, output_projections: &[], head_profile: None };

fn geometry() -> TokenGeometry {
    TokenGeometry {
        layers: 2,
        query_heads: 4,
        kv_heads: 2,
        head_dim_k: 8,
        head_dim_v: 6,
        block_size: 4,
        dtype: DType::F32,
        attention: TokenAttention::default(),
    }
}

fn profile(variance: Vec<f32>) -> HeadProfile {
    let layer = LayerProfile { echo: vec![0.5; 2], induction: vec![0.5; 2], variance };
    HeadProfile { layers: vec![layer; 2], ..HeadProfile::default() }
}

fn missing(name: &str, known: KnownFacts<'_>) -> Vec<Requirement> {
    match TokenRecipe::named(name).unwrap().check_facts(known, &geometry()) {
        Ok(()) => Vec::new(),
        Err(Error::Recipe(RecipeError::Missing { recipe, missing })) => {
            assert_eq!(recipe, name);
            missing.into_vec()
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn facts_of_the_model_are_listed_and_missed() {
    for row in catalogue().iter().filter(|row| row.unit == "token") {
        let required = TokenRecipe::named(row.name).unwrap().requires();
        let of_model: Vec<Requirement> = required.into_iter().filter(|r| r.is_of_model()).collect();
        assert_eq!(missing(row.name, NOTHING), of_model, "{}", row.name);
        let expected: &[Requirement] = match row.name {
            "streaming-llm" | "expected-attention" | "rekv" | "st-lite" => &[Requirement::Rotation],
            "criticalkv" => &[Requirement::OutputProjection],
            "razor-attention" => &[Requirement::HeadProfile { variances: false }],
            "hack" => &[Requirement::HeadProfile { variances: true }],
            _ => &[],
        };
        assert_eq!(of_model, expected, "{}", row.name);
    }
    let e = TokenRecipe::named("hack").unwrap().check_facts(NOTHING, &geometry()).unwrap_err();
    assert_eq!(e.to_string(), "recipe \"hack\" needs a head profile with variances");
    assert_eq!(Recipe::tethercache().requires(), [Requirement::CleanQueries]);
    assert_eq!(Recipe::named("int8").unwrap().requires()[1], Requirement::StoredCodes);
    assert!(Recipe::fifo().requires().is_empty() && Recipe::uniform_archive().requires().is_empty());
}

#[test]
fn facts_that_are_there_are_looked_at() {
    let rope = TokenRope::from_frequencies(Pairing::Half, vec![1.0, 0.1]).unwrap();
    assert!(missing("rekv", KnownFacts { rope: Some(&rope), ..NOTHING }).is_empty());
    let projections = vec![vec![0.0; 5 * 4 * 6]; 2];
    assert!(missing("criticalkv", KnownFacts { output_projections: &projections, ..NOTHING }).is_empty());
    let (plain, full) = (profile(Vec::new()), profile(vec![1.0; 2]));
    let with = |profile| KnownFacts { head_profile: Some(profile), ..NOTHING };
    assert!(missing("razor-attention", with(&plain)).is_empty() && missing("hack", with(&full)).is_empty());
    assert_eq!(missing("hack", with(&plain)), [Requirement::HeadProfile { variances: true }]);

    // Facts of another model.
    let count = |name: &str, known: KnownFacts<'_>, what: &str| match TokenRecipe::named(name)
        .unwrap()
        .check_facts(known, &geometry())
        .unwrap_err()
    {
        Error::Score(ScoreError::Count { what: got, .. }) => assert_eq!(got, what),
        other => panic!("{other}"),
    };
    let long = TokenRope::from_frequencies(Pairing::Half, vec![1.0; 5]).unwrap();
    count("rekv", KnownFacts { rope: Some(&long), ..NOTHING }, "rotary frequencies");
    count(
        "criticalkv",
        KnownFacts { output_projections: &projections[..1], ..NOTHING },
        "output projections",
    );
    for odd in [vec![0.0; 5 * 4 * 6 - 1], Vec::new(), vec![0.0; 6 * 4 * 6]] {
        let other = [vec![0.0; 5 * 4 * 6], odd];
        let what = "numbers of an output projection";
        count("criticalkv", KnownFacts { output_projections: &other, ..NOTHING }, what);
    }
    let short = HeadProfile { layers: plain.layers[..1].to_vec(), ..HeadProfile::default() };
    count("razor-attention", with(&short), "layers of the head profile");
}
