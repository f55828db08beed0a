//! A recipe of either unit.

use serde::Serialize;

use super::catalogue::{by_name, unknown_recipe};
use super::parse::{Unit, unit};
use super::{About, Recipe, RecipeError};
use crate::tokens::TokenRecipe;
use crate::{Error, Registry, Requirement};

/// A recipe, for frames or for tokens.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum AnyRecipe {
    /// For frames.
    Frames(Recipe),
    /// For tokens.
    Tokens(TokenRecipe),
}

impl AnyRecipe {
    /// The built-in recipe `name`, or, where there are two of that name, `frame/name` or `token/name`.
    ///
    /// # Errors
    /// [`RecipeError::UnknownRecipe`], with the nearest name, and [`RecipeError::Ambiguous`].
    pub fn named(name: &str) -> Result<Self, RecipeError> {
        for unit in ["frame", "token"] {
            if let Some(name) = name.strip_prefix(unit).and_then(|rest| rest.strip_prefix('/')) {
                return Self::for_unit(name, unit);
            }
        }
        let mut rows = by_name(name);
        let first = rows.next().ok_or_else(|| unknown_recipe(name, ""))?;
        match rows.next() {
            None => Ok(first.clone()),
            Some(_) => Err(RecipeError::Ambiguous { name: name.to_owned() }),
        }
    }

    /// The built-in recipe `name` for `unit`.
    pub(crate) fn for_unit(name: &str, unit: &'static str) -> Result<Self, RecipeError> {
        if let Some(recipe) = by_name(name).find(|r| r.unit() == unit) {
            return Ok(recipe.clone());
        }
        Err(match by_name(name).next() {
            Some(other) => RecipeError::OtherUnit { name: name.to_owned(), asked: unit, unit: other.unit() },
            None => unknown_recipe(name, unit),
        })
    }

    /// Reads a recipe whose parts are built in; its `unit` says for what it is.
    ///
    /// # Errors
    /// As [`Recipe::from_toml`].
    pub fn from_toml(text: &str) -> Result<Self, RecipeError> {
        Self::from_toml_with(text, &Registry::default())
    }

    /// Reads a recipe whose parts a registry knows.
    ///
    /// # Errors
    /// As [`Recipe::from_toml`].
    pub fn from_toml_with(text: &str, registry: &Registry) -> Result<Self, RecipeError> {
        match unit(text)? {
            Unit::Frame => Recipe::from_toml_with(text, registry).map(Self::Frames),
            Unit::Token => TokenRecipe::from_toml_with(text, registry).map(Self::Tokens),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::Frames(recipe) => &recipe.name,
            Self::Tokens(recipe) => &recipe.name,
        }
    }

    /// What it evicts as one: `frame` or `token`.
    pub fn unit(&self) -> &'static str {
        match self {
            Self::Frames(_) => "frame",
            Self::Tokens(_) => "token",
        }
    }

    /// What is known of it.
    pub fn about(&self) -> Option<&About> {
        match self {
            Self::Frames(recipe) => recipe.about.as_ref(),
            Self::Tokens(recipe) => recipe.about.as_ref(),
        }
    }

    /// What it must be given beside keys and values.
    pub fn requires(&self) -> Vec<Requirement> {
        match self {
            Self::Frames(recipe) => recipe.requires(),
            Self::Tokens(recipe) => recipe.requires(),
        }
    }

    /// Checks the parts, by themselves and together.
    ///
    /// # Errors
    /// As [`Recipe::validate`] and [`TokenRecipe::validate`].
    pub fn validate(&self) -> Result<(), Error> {
        match self {
            Self::Frames(recipe) => recipe.validate(),
            Self::Tokens(recipe) => recipe.validate(),
        }
    }

    /// The recipe as TOML.
    ///
    /// # Errors
    /// As [`Recipe::to_toml`].
    pub fn to_toml(&self) -> Result<String, RecipeError> {
        match self {
            Self::Frames(recipe) => recipe.to_toml(),
            Self::Tokens(recipe) => recipe.to_toml(),
        }
    }

    /// This recipe with fields replaced.
    ///
    /// # Errors
    /// As [`Recipe::with_overrides`].
    pub fn with_overrides<S: AsRef<str>>(&self, overrides: &[S]) -> Result<Self, RecipeError> {
        match self {
            Self::Frames(recipe) => recipe.with_overrides(overrides).map(Self::Frames),
            Self::Tokens(recipe) => recipe.with_overrides(overrides).map(Self::Tokens),
        }
    }

    /// The recipe, if it is for frames.
    ///
    /// # Errors
    /// [`RecipeError::OtherUnit`].
    pub fn frames(self) -> Result<Recipe, RecipeError> {
        match self {
            Self::Frames(recipe) => Ok(recipe),
            Self::Tokens(other) => {
                Err(RecipeError::OtherUnit { name: other.name, asked: "frame", unit: "token" })
            }
        }
    }

    /// The recipe, if it is for tokens.
    ///
    /// # Errors
    /// [`RecipeError::OtherUnit`].
    pub fn tokens(self) -> Result<TokenRecipe, RecipeError> {
        match self {
            Self::Tokens(recipe) => Ok(recipe),
            Self::Frames(other) => {
                Err(RecipeError::OtherUnit { name: other.name, asked: "token", unit: "frame" })
            }
        }
    }
}
