//! The recipes that come with the library.

use std::sync::LazyLock;

use super::error::nearest;
use super::{About, AnyRecipe, Recipe, RecipeError};
use crate::requirement;

const TEXTS: &[&str] = &[
    include_str!("../../recipes/tethercache.toml"),
    include_str!("../../recipes/fifo.toml"),
    include_str!("../../recipes/sink-recent.toml"),
    include_str!("../../recipes/uniform-archive.toml"),
    include_str!("../../recipes/retrieval.toml"),
    include_str!("../../recipes/int8.toml"),
    include_str!("../../recipes/spherical.toml"),
    include_str!("../../recipes/full.toml"),
    include_str!("../../recipes/tokens/full.toml"),
    include_str!("../../recipes/tokens/window.toml"),
    include_str!("../../recipes/tokens/sink-recent.toml"),
    include_str!("../../recipes/tokens/random.toml"),
    include_str!("../../recipes/tokens/snapkv.toml"),
    include_str!("../../recipes/tokens/streaming-llm.toml"),
    include_str!("../../recipes/tokens/tova.toml"),
    include_str!("../../recipes/tokens/knorm.toml"),
    include_str!("../../recipes/tokens/h2o.toml"),
    include_str!("../../recipes/tokens/observed-attention.toml"),
    include_str!("../../recipes/tokens/keydiff.toml"),
    include_str!("../../recipes/tokens/expected-attention.toml"),
    include_str!("../../recipes/tokens/lagkv.toml"),
    include_str!("../../recipes/tokens/flowcache.toml"),
    include_str!("../../recipes/tokens/pyramidkv.toml"),
    include_str!("../../recipes/tokens/adakv.toml"),
    include_str!("../../recipes/tokens/criticalkv.toml"),
    include_str!("../../recipes/tokens/chunkkv.toml"),
    include_str!("../../recipes/tokens/merging.toml"),
    include_str!("../../recipes/tokens/window-kv.toml"),
    include_str!("../../recipes/tokens/elastic-cache.toml"),
    include_str!("../../recipes/tokens/razor-attention.toml"),
    include_str!("../../recipes/tokens/dapq.toml"),
    include_str!("../../recipes/tokens/hack.toml"),
    include_str!("../../recipes/tokens/st-lite.toml"),
    include_str!("../../recipes/tokens/rekv.toml"),
    include_str!("../../recipes/tokens/quest.toml"),
    include_str!("../../recipes/tokens/question-guided.toml"),
    include_str!("../../recipes/tokens/int8.toml"),
    include_str!("../../recipes/tokens/int4.toml"),
    include_str!("../../recipes/tokens/kivi.toml"),
    include_str!("../../recipes/tokens/spherical.toml"),
    include_str!("../../recipes/tokens/spherical-published.toml"),
    include_str!("../../recipes/tokens/spherical-rdr.toml"),
];

/// One row of the recipe table.
#[derive(Clone, Debug)]
pub struct Catalogued {
    /// Name.
    pub name: &'static str,
    /// What it evicts as one.
    pub unit: &'static str,
    /// What it says of itself.
    pub about: &'static About,
    /// What a model must hand over beside K and V.
    pub needs: String,
    /// The recipe, as it was written.
    pub toml: &'static str,
}

static RECIPES: LazyLock<Vec<AnyRecipe>> = LazyLock::new(|| {
    let read = |text| AnyRecipe::from_toml(text).expect("built-in recipes should be well-formed");
    TEXTS.iter().map(|text| read(text)).collect()
});

static CATALOGUE: LazyLock<Vec<Catalogued>> = LazyLock::new(|| {
    let row = |(recipe, &toml): (&'static AnyRecipe, &&'static str)| Catalogued {
        name: recipe.name(),
        unit: recipe.unit(),
        about: recipe.about().expect("built-in recipes should say what they are"),
        needs: requirement::list(&recipe.requires()),
        toml,
    };
    RECIPES.iter().zip(TEXTS).map(row).collect()
});

/// All built-in recipes.
pub fn catalogue() -> &'static [Catalogued] {
    &CATALOGUE
}

/// The built-in recipes of a name.
pub(super) fn by_name(name: &str) -> impl Iterator<Item = &'static AnyRecipe> {
    RECIPES.iter().filter(move |recipe| recipe.name() == name)
}

/// The error for a name that no recipe for `unit` (`frame`, `token`, or whatever else for both) has.
pub fn unknown_recipe(name: &str, unit: &str) -> RecipeError {
    let both = !RECIPES.iter().any(|r| r.unit() == unit);
    let names = RECIPES.iter().filter(|r| both || r.unit() == unit).map(AnyRecipe::name);
    RecipeError::UnknownRecipe { name: name.to_owned(), suggestion: nearest(name, names) }
}

/// A recipe for frames of the catalogue; its name must be there.
pub(super) fn built_in(name: &str) -> Recipe {
    Recipe::named(name).expect("the name should be in the catalogue")
}
