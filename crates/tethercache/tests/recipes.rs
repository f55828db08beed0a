//! Recipes as text.

use proptest::prelude::*;
use tether_score::tokens::ScoreRequest;
use tethercache::layout::{Archive, Extent};
use tethercache::tokens::TokenRecipe;
use tethercache::{AnyRecipe, Place, Recipe, RecipeError, catalogue};

#[test]
fn every_built_in_recipe_is_valid_and_survives_a_round_trip() {
    assert!(catalogue().len() >= 5);
    for row in catalogue().iter().filter(|c| c.unit == "token") {
        let recipe = TokenRecipe::named(row.name).unwrap();
        assert_eq!(recipe.name, row.name);
        recipe.validate().unwrap();
        assert_eq!(TokenRecipe::from_toml(&recipe.to_toml().unwrap()).unwrap(), recipe, "{}", row.toml);
    }
    for row in catalogue().iter().filter(|c| c.unit == "frame") {
        let recipe = Recipe::named(row.name).unwrap();
        assert_eq!(recipe.name, row.name);
        recipe.regions(3).unwrap();
        assert_eq!(Recipe::from_toml(&recipe.to_toml().unwrap()).unwrap(), recipe, "{}", row.toml);
    }
}

#[test]
fn names_and_keys_that_do_not_exist_get_a_suggestion() {
    let e = Recipe::named("tethercahe").unwrap_err();
    assert!(
        matches!(&e, RecipeError::UnknownRecipe { suggestion: Some(s), .. } if &**s == "tethercache"),
        "{e}"
    );
    for (text, wrong, right) in [
        ("layout.recnt=4", "recnt", "recent"),
        ("scor.temperature=1", "scor", "score"),
        ("score.temprature=1", "temprature", "temperature"),
        ("score.diversity.alhpa=1", "alhpa", "alpha"),
        ("edit.tauu=1", "tauu", "tau"),
        ("select.kind=topk", "topk", "top-k"),
        ("edit.trusted=[\"sinks\"]", "sinks", "sink"),
        ("position.keys=\"post-rope\"", "post-rope", "pre-rope"),
    ] {
        let e = Recipe::tethercache().with_overrides(&[text]).unwrap_err();
        let message = e.to_string();
        match &e {
            RecipeError::Unknown { got, suggestion, .. } => {
                assert_eq!((&**got, suggestion.as_deref()), (wrong, Some(right)), "{message}");
            }
            _ => panic!("{text}: {e:?}"),
        }
        assert!(message.contains(text), "{message} should name {text}");
    }
    assert!(Recipe::uniform_archive().with_overrides(&["select.foo=1"]).is_err());
    assert!(Recipe::fifo().with_overrides(&["layout.recent=4\nname=\"q\""]).is_err());
    let e = Recipe::from_toml("name = \"x\"\nunit = \"frame\"\nlayuot = {}\n").unwrap_err();
    assert!(matches!(&e, RecipeError::Unknown { suggestion: Some(s), .. } if &**s == "layout"), "{e}");
}

#[test]
fn overrides_set_fields_in_order() {
    let recipe = Recipe::tethercache()
        .with_overrides(&[
            "layout.recent=9",
            "layout.memory = 9",
            "score.diversity.alpha=0.5",
            "compat=official",
        ])
        .unwrap();
    assert_eq!((recipe.layout.memory, recipe.layout.recent), (9, Extent::Units(9)));
    assert!(recipe.to_toml().unwrap().contains("alpha = 0.5"));
    assert!(matches!(Recipe::fifo().with_overrides(&["recent"]), Err(RecipeError::Override { .. })));
    assert!(matches!(Recipe::fifo().with_overrides(&["a..b=1"]), Err(RecipeError::Override { .. })));
    let e = Recipe::fifo().with_overrides(&["name.first=1"]).unwrap_err();
    assert!(matches!(e, RecipeError::Malformed { .. }), "{e}");
    let e = Recipe::fifo().with_overrides(&["layout.sink=\"many\""]).unwrap_err();
    assert!(
        matches!(&e, RecipeError::Malformed { place, .. } if place.to_string().contains("layout.sink")),
        "{e}"
    );
    assert!(Recipe::from_toml("name = ").is_err());
    let all = Recipe::fifo().with_overrides(&["layout.recent=all"]).unwrap();
    assert_eq!(all.layout, Recipe::full().layout);
}

#[test]
fn one_name_finds_a_recipe_of_either_unit() {
    for row in catalogue() {
        let recipe = AnyRecipe::named(&format!("{}/{}", row.unit, row.name)).unwrap();
        assert_eq!((recipe.name(), recipe.unit()), (row.name, row.unit));
        assert_eq!(recipe.about(), Some(row.about));
        assert_eq!(AnyRecipe::from_toml(row.toml).unwrap(), recipe);
        assert_eq!(AnyRecipe::from_toml(&recipe.to_toml().unwrap()).unwrap(), recipe);
        let twice = catalogue().iter().filter(|other| other.name == row.name).count() == 2;
        match AnyRecipe::named(row.name) {
            Ok(found) => assert!(!twice && found == recipe),
            Err(e) => assert!(twice && matches!(e, RecipeError::Ambiguous { .. }), "{e}"),
        }
        let other = if row.unit == "frame" {
            TokenRecipe::named(row.name).map(|r| r.name)
        } else {
            Recipe::named(row.name).map(|r| r.name)
        };
        match other {
            Ok(name) => assert!(twice && name == row.name),
            Err(e) => assert!(!twice && matches!(e, RecipeError::OtherUnit { .. }), "{e}"),
        }
    }
    let e = AnyRecipe::named("snapkw").unwrap_err();
    assert!(e.to_string().contains("snapkv"), "{e}");
    let e = AnyRecipe::from_toml("name = \"x\"\nunit = \"tokn\"\n").unwrap_err();
    assert!(e.to_string().contains("line 2, column 8, `unit` (did you mean `token`?)"), "{e}");
}

#[test]
fn what_a_recipe_says_of_itself_fits_what_it_does() {
    for row in catalogue() {
        let about = row.about;
        let frees = match AnyRecipe::from_toml(row.toml).unwrap() {
            AnyRecipe::Frames(r) => r.layout.recent != Extent::All && r.layout.archive != Archive::All,
            AnyRecipe::Tokens(r) => (r.score.is_some() && !r.retain) || r.codec.is_some(),
            _ => panic!("a recipe is for frames or for tokens"),
        };
        assert_eq!(about.frees_memory, frees, "{}", row.name);
        assert_eq!(about.golden.is_some(), about.proof == tethercache::Proof::GoldenData, "{}", row.name);
        assert!(!about.summary.is_empty() && about.paper.as_ref().is_none_or(|p| p.starts_with("arXiv:")));
    }
    assert!(catalogue().iter().filter(|row| row.about.reads_back.is_some()).count() <= 2);
}

/// What a scorer says of itself is what it does: one whose score is data reads nothing back, and the recipe of any other says what it reads. What is read of a
/// retained text is chosen otherwise.
#[test]
fn scorers_without_an_expression_say_what_they_read_back() {
    let mut seen = 0;
    for row in catalogue().iter().filter(|row| row.unit == "token") {
        let recipe = TokenRecipe::from_toml(row.toml).unwrap();
        let Some(scorer) = recipe.score.as_ref().filter(|_| !recipe.retain) else { continue };
        for tokens in [0, 1, 100, 5000] {
            let request = ScoreRequest { layer: 1, kept: tokens / 3 };
            let reads = scorer.expression(request, tokens).is_none_or(|score| score.reads_back());
            assert_eq!(row.about.reads_back.is_some(), reads, "{} of {tokens} tokens", row.name);
        }
        seen += 1;
    }
    assert!(seen > 20, "{seen} recipes");
}

/// A recipe for tokens with these lines after its head, and where it is wrong.
fn wrong(lines: &str) -> (usize, usize, String, RecipeError) {
    let text = format!("name = \"x\"\nunit = \"token\"\n{lines}");
    let e = TokenRecipe::from_toml(&text).expect_err("the recipe should be refused");
    match &e {
        RecipeError::Unknown { place, .. }
        | RecipeError::Malformed { place, .. }
        | RecipeError::OutOfRange { place, .. } => match &**place {
            Place::Text { line, column, key } => (*line, *column, key.clone(), e),
            other => panic!("{other}: {e}"),
        },
        _ => panic!("{e}"),
    }
}

#[test]
fn errors_in_a_text_say_line_column_and_key() {
    for (lines, line, column, key, hint) in [
        ("bugdet = {}\n", 3, 1, "bugdet", "did you mean `budget`?"),
        ("\n[score]\n  windo = 3\nkind = \"snapkv\"\n", 5, 3, "score.windo", "did you mean `window`?"),
        ("score.kind = \"snapkw\"\n", 3, 7, "score.kind", "did you mean `snapkv`?"),
        (
            "[score]\nkind = \"criticalkv\"\nbase = { kind = \"snapkv\", kernl = 3 }\n",
            5,
            27,
            "score.base.kernl",
            "did you mean `kernel`?",
        ),
        ("[score]\nkind = \"snapkv\"\nwindow = \"many\"\n", 5, 1, "score.window", "expected usize"),
        ("[score]\nkind = \"knorm\"\nx = 1\n", 5, 1, "score.x", "there are none"),
        ("[score]\nwindow = 3\n", 3, 2, "score", "missing field `kind`"),
        ("select = \"top-k\"\n", 3, 1, "select", "a part is a table"),
        ("[score]\nkind = \"expected-attention\"\nepsilon = inf\n", 5, 1, "score.epsilon", "finite"),
        ("[budget]\nratio = \"half\"\n", 4, 9, "budget.ratio", "expected f64"),
        ("[budget]\nratio = 1.5\n", 4, 1, "budget.ratio", "at most 1"),
        (
            "[budget]\nheads = { kind = \"adaptive\", safegard = 1 }\n",
            4,
            30,
            "budget.heads.safegard",
            "safeguard",
        ),
        ("\u{e9}t\u{e9} = 1\n", 3, 1, "", ""),
        ("# \u{e9}\nx = \n", 4, 5, "", ""),
    ] {
        let (got_line, got_column, got_key, e) = wrong(lines);
        assert_eq!((got_line, got_column, got_key.as_str()), (line, column, key), "{lines}: {e}");
        let message = e.to_string();
        assert!(
            message.contains(hint) && message.contains(&format!("line {line}, column {column}")),
            "{message}"
        );
    }
}

#[test]
fn a_number_that_toml_cannot_write_is_an_error_and_not_a_panic() {
    for seed in [i64::MAX as u64, 1 << 63, u64::MAX] {
        let json = format!(
            r#"{{"name":"r","unit":"token","score":{{"kind":"random","seed":{seed}}},"select":{{"kind":"top-k"}}}}"#
        );
        let recipe: TokenRecipe = serde_json::from_str(&json).unwrap();
        assert_eq!(
            serde_json::from_str::<TokenRecipe>(&serde_json::to_string(&recipe).unwrap()).unwrap(),
            recipe
        );
        let (text, changed) = (recipe.to_toml(), recipe.with_overrides(&["budget.ratio=0.5"]));
        if seed == i64::MAX as u64 {
            assert_eq!(TokenRecipe::from_toml(&text.unwrap()).unwrap(), recipe);
            changed.unwrap();
            continue;
        }
        for e in [text.unwrap_err(), changed.unwrap_err()] {
            assert!(matches!(&e, RecipeError::NoToml { key, .. } if key == "score.seed"), "{e}");
            assert!(e.to_string().contains(&seed.to_string()), "{e}");
        }
    }
    let frames = r#"{"name":"f","unit":"frame","layout":{"recent":18446744073709551615},
        "position":{"kind":"contiguous","keys":"pre-rope"}}"#;
    let recipe: Recipe = serde_json::from_str(frames).unwrap();
    assert!(matches!(recipe.to_toml(), Err(RecipeError::NoToml { key, .. }) if key == "layout.recent"));
}

proptest! {
    #[test]
    fn a_changed_text_is_a_recipe_or_an_error_with_its_place(
        row in 0..catalogue().len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0usize..4, "[a-z0-9=.\\[\\]{}\"\n \u{e9}-]{0,3}"), 1..4),
    ) {
        let mut text = catalogue()[row].toml.to_owned();
        for (at, removed, put) in changes {
            let places: Vec<usize> = text.char_indices().map(|(i, _)| i).chain([text.len()]).collect();
            let at = at.index(places.len());
            text.replace_range(places[at]..places[(at + removed).min(places.len() - 1)], &put);
        }
        match AnyRecipe::from_toml(&text) {
            Ok(recipe) => {
                recipe.validate().unwrap();
                prop_assert_eq!(AnyRecipe::from_toml(&recipe.to_toml().unwrap()).unwrap(), recipe);
            }
            Err(
                RecipeError::Unknown { place, .. }
                | RecipeError::Malformed { place, .. }
                | RecipeError::OutOfRange { place, .. },
            ) => match *place {
                Place::Text { line, column, .. } => {
                    let of_line = text.split('\n').nth(line - 1).map(|l| l.chars().count());
                    prop_assert!(of_line.is_some_and(|len| column <= len + 1), "{}:{} of {}", line, column, text);
                }
                other => prop_assert!(false, "{}", other),
            },
            Err(RecipeError::Combination { .. }) => {}
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}
