//! Recipes: a method as a composition of parts, as plain TOML.

mod catalogue;
pub(crate) mod parse;

use serde::{Deserialize, Serialize};
use tether_codec::UnitCodec;
use tether_edit::AlignMoments;
use tether_layout::{RegionSpec, Regions, Rounding};
use tether_score::{BatchStatistics, GatedRecall, Selector};

pub(crate) use catalogue::toml_text;
pub use catalogue::{Catalogued, Proof, catalogue};
pub use parse::{RecipeError, unknown_recipe};

use crate::Error;

/// What is evicted as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnitKind {
    /// A latent frame of a video.
    Frame,
}

/// How closely to follow published code where it departs from its own description.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compat {
    /// Every sequence by itself; windows of whole chunks.
    #[default]
    PerSample,
    /// The published code's remaining quirks: statistics and scores mixed over the batch, windows that are not whole chunks.
    Official,
}

/// A part that scores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ScorePart {
    /// Attention mass of the current chunk's queries, with an optional diversity gate (GRAB).
    AttentionMass(GatedRecall),
}

/// A part that edits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum EditPart {
    /// Statistics alignment of newly admitted units (TAME).
    AlignMoments(AlignMoments),
}

/// Which positions units are read at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Positions {
    /// Places in the window, `0, 1, ..`, whatever the units' age.
    Contiguous,
}

/// How keys are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
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
    /// Fidelity to published code.
    #[serde(default, skip_serializing_if = "is_default")]
    pub compat: Compat,
    /// Region sizes.
    pub layout: RegionSpec,
    /// Scorer of memory candidates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<ScorePart>,
    /// Selector of memory members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select: Option<Selector>,
    /// Editor of admitted units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edit: Option<EditPart>,
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
        if let Some(ScorePart::AttentionMass(scorer)) = &self.score {
            scorer.validate()?;
        }
        if let Some(EditPart::AlignMoments(editor)) = &self.edit {
            editor.validate()?;
        }
        let refuse = |problem| Err(RecipeError::Combination { recipe: self.name.clone(), problem }.into());
        if regions.memory() > 0 {
            match (&self.select, &self.score) {
                (None, _) => return refuse("a memory region needs a [select] part"),
                (Some(Selector::TopK { .. }), None) => {
                    return refuse("select = \"top-k\" needs a [score] part");
                }
                (Some(Selector::TopK { .. }), _) if regions.archives() => {
                    return refuse(
                        "an archive is chosen from before the chunk's queries exist: use \"evenly-spaced\"",
                    );
                }
                _ if regions.archives() && self.edit.is_some() => {
                    return refuse("an [edit] part works on admissions, and an archive admits nothing");
                }
                _ => {}
            }
        }
        Ok(regions)
    }

    pub(crate) fn statistics(&self) -> BatchStatistics {
        match self.compat {
            Compat::PerSample => BatchStatistics::PerSample,
            Compat::Official => BatchStatistics::Mixed,
        }
    }
}
