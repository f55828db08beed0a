//! Recipes: a method as a composition of parts, as plain TOML.

mod about;
mod any;
mod catalogue;
mod error;
pub(crate) mod parse;
mod place;

use serde::{Deserialize, Serialize};
use tether_codec::UnitCodec;
use tether_edit::FrameEditor;
use tether_layout::{RegionSpec, Regions, Rounding};
use tether_score::{BatchStatistics, FrameScorer, FrameSelector};

pub use about::{About, Proof};
pub use any::AnyRecipe;
pub use catalogue::{Catalogued, catalogue, unknown_recipe};
pub use error::RecipeError;
pub use place::Place;

use crate::registry::kinds_of;
use crate::{Error, Registry, Requirement};
use parse::{OpenParts, OpenRecipe};

/// What is evicted as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum UnitKind {
    /// A latent frame of a video.
    Frame,
}

/// How closely to follow published code where it departs from its own description.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Compat {
    /// Every sequence by itself; windows of whole chunks.
    #[default]
    PerSample,
    /// The published code's remaining quirks: statistics and scores mixed over the batch, windows that are not whole chunks.
    Official,
}

/// Which positions units are read at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Positions {
    /// Places in the window, `0, 1, ..`, whatever the units' age.
    Contiguous,
}

/// How keys are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Keys {
    /// Un-rotated; rotated on every read.
    PreRope,
}

/// The part that says where units stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PositionPart {
    /// Positions on read.
    pub kind: Positions,
    /// Form of the stored keys.
    pub keys: Keys,
}

/// A method, as a composition of layout, scorer, selector, editor, positions and codec.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name, in kebab case.
    pub name: String,
    /// What is evicted as one.
    pub unit: UnitKind,
    /// What is known of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<About>,
    /// Fidelity to published code.
    #[serde(default, skip_serializing_if = "is_default")]
    pub compat: Compat,
    /// Region sizes.
    pub layout: RegionSpec,
    /// Scorer of memory candidates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<FrameScorer>,
    /// Selector of memory members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select: Option<FrameSelector>,
    /// Editor of admitted units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edit: Option<FrameEditor>,
    /// Positions.
    pub position: PositionPart,
    /// How frames are stored; without it, as they came. An engine whose stores hold codes carries it out (`tether_host::CodedHost`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codec: Option<UnitCodec>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Recipe {
    /// The built-in recipe `name`. [`AnyRecipe::named`] knows recipes for tokens too.
    ///
    /// # Errors
    /// [`RecipeError::UnknownRecipe`], with the nearest name, and [`RecipeError::OtherUnit`].
    pub fn named(name: &str) -> Result<Self, RecipeError> {
        AnyRecipe::for_unit(name, "frame")?.frames()
    }

    /// Reads a recipe whose parts are built in.
    ///
    /// # Errors
    /// [`RecipeError::Unknown`] for a key, word or kind of part that does not exist, [`RecipeError::Malformed`] for what is no recipe,
    /// [`RecipeError::OutOfRange`] and [`RecipeError::Combination`] for what can never work.
    pub fn from_toml(text: &str) -> Result<Self, RecipeError> {
        Self::from_toml_with(text, &Registry::default())
    }

    /// Reads a recipe whose parts a registry knows.
    ///
    /// # Errors
    /// As [`Recipe::from_toml`].
    pub fn from_toml_with(text: &str, registry: &Registry) -> Result<Self, RecipeError> {
        parse::read(text, registry)
    }

    /// The recipe as TOML.
    ///
    /// # Errors
    /// [`RecipeError::NoToml`] for a whole number that TOML cannot write.
    pub fn to_toml(&self) -> Result<String, RecipeError> {
        parse::written(self)
    }

    /// This recipe with fields replaced: each override is `section.field=value`, the value in TOML (quotes around a single word may
    /// be left out). Parts are read among the kinds that the recipe's own parts were.
    ///
    /// # Errors
    /// [`RecipeError::Override`] for text without `=`, [`RecipeError::NoToml`] as [`Recipe::to_toml`], else as [`Recipe::from_toml`].
    pub fn with_overrides<S: AsRef<str>>(&self, overrides: &[S]) -> Result<Self, RecipeError> {
        parse::overridden(self, overrides, &self.registry())
    }

    /// TetherCache as published (arXiv:2606.13035): 3 sink, 14 memory and 4 recent frames.
    pub fn tethercache() -> Self {
        catalogue::built_in("tethercache")
    }

    /// A window of the last 21 frames.
    pub fn fifo() -> Self {
        catalogue::built_in("fifo")
    }

    /// The first 3 and the last 18 frames.
    pub fn sink_recent() -> Self {
        catalogue::built_in("sink-recent")
    }

    /// The first 3, 9 evenly spaced old and the last 9 frames, from an archive of all.
    pub fn uniform_archive() -> Self {
        catalogue::built_in("uniform-archive")
    }

    /// Every frame.
    pub fn full() -> Self {
        catalogue::built_in("full")
    }

    /// Checks the parts, by themselves and together, for chunks of `units_per_chunk`.
    ///
    /// # Errors
    /// [`Error::Layout`], [`Error::Score`], [`Error::Edit`] for a part by itself, [`RecipeError::Combination`] for parts that do not
    /// fit each other.
    pub fn regions(&self, units_per_chunk: usize) -> Result<Regions, Error> {
        let rounding = match self.compat {
            Compat::PerSample => Rounding::WholeChunks,
            Compat::Official => Rounding::Official,
        };
        let regions = Regions::try_new(&self.layout, units_per_chunk, rounding)?;
        self.score.iter().try_for_each(|part| part.validate())?;
        self.select.iter().try_for_each(|part| part.validate())?;
        self.edit.iter().try_for_each(|part| part.validate())?;
        let refuse = |problem| Err(RecipeError::Combination { recipe: self.name.clone(), problem }.into());
        if regions.memory() > 0 {
            let Some(select) = &self.select else { return refuse("a memory region needs a [select] part") };
            if select.needs_scores() && self.score.is_none() {
                return refuse("this [select] part chooses by scores, so it needs a [score] part");
            }
            if regions.archives() && self.edit.is_some() {
                return refuse("an [edit] part works on admissions, and an archive admits nothing");
            }
        }
        Ok(regions)
    }

    /// Checks the parts, by themselves and together, for chunks of any length: what is refused can never work.
    ///
    /// # Errors
    /// As [`Recipe::regions`], which also knows the chunk.
    pub fn validate(&self) -> Result<(), Error> {
        self.regions(1).map(drop)
    }

    /// True when choosing among candidates needs their logits.
    pub(crate) fn needs_logits(&self) -> bool {
        let by_scores = self.select.as_ref().is_some_and(|part| part.needs_scores());
        by_scores && self.score.as_ref().is_some_and(|part| part.needs_logits())
    }

    /// True when memory is chosen from an archive by the chunk's own queries.
    pub(crate) fn recalls(&self) -> bool {
        !self.layout.archive.is_none() && self.select.as_ref().is_some_and(|part| part.needs_scores())
    }

    /// What it must be given beside keys and values.
    pub fn requires(&self) -> Vec<Requirement> {
        let all = [
            (self.recalls() && self.needs_logits(), Requirement::ChunkQueries),
            (!self.recalls() && self.needs_logits(), Requirement::CleanQueries),
            (self.codec.is_some(), Requirement::StoredCodes),
        ];
        all.into_iter().filter_map(|(needed, requirement)| needed.then_some(requirement)).collect()
    }

    pub(crate) fn statistics(&self) -> BatchStatistics {
        match self.compat {
            Compat::PerSample => BatchStatistics::PerSample,
            Compat::Official => BatchStatistics::Mixed,
        }
    }
}

impl OpenRecipe for Recipe {
    fn read_parts(&mut self, parts: &mut OpenParts<'_, '_>, registry: &Registry) -> Result<(), RecipeError> {
        self.score = parts.read("score", &registry.frame_scorers)?;
        self.select = parts.read("select", &registry.frame_selectors)?;
        self.edit = parts.read("edit", &registry.frame_editors)?;
        Ok(())
    }

    fn registry(&self) -> Registry {
        Registry {
            frame_scorers: kinds_of(self.score.as_ref()),
            frame_selectors: kinds_of(self.select.as_ref()),
            frame_editors: kinds_of(self.edit.as_ref()),
            ..Registry::default()
        }
    }

    fn check(&self) -> Result<(), Error> {
        self.validate()
    }
}
