//! Recipes as text.

use tethercache::layout::Extent;
use tethercache::tokens::TokenRecipe;
use tethercache::{Recipe, RecipeError, catalogue};

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
