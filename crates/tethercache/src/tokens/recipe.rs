//! Recipes for tokens.

use serde::{Deserialize, Serialize};
use tether_edit::tokens::TokenEditor;
use tether_score::tokens::{Budget, HeadBudget, Needs, TokenScorer, TokenSelector};

use super::CodecPart;
use crate::recipe::parse::{OpenParts, OpenRecipe, overridden, read, written};
use crate::registry::kinds_of;
use crate::{About, AnyRecipe, Error, RecipeError, Registry};

/// What is evicted as one: tells a recipe for tokens from one for frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum TokenUnit {
    /// A token of a text.
    #[default]
    Token,
}

/// Which positions kept tokens have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum TokenPositions {
    /// Their own.
    #[default]
    Keep,
    /// Places in the cache, `0, 1, ..`, without gaps.
    Contiguous,
}

/// How keys are stored where positions change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum StoredKeys {
    /// Rotated; a key that moves turns by the difference, always from the key as it was first written.
    #[default]
    PostRope,
    /// Un-rotated, and rotated to the new position when it is known: for replays of traces, which have raw keys. A session is given rotated keys
    /// and stores those, so [`super::TokenCache::new`] refuses it.
    PreRope,
}

/// The part that says where tokens stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenPositionPart {
    /// Positions of kept tokens.
    pub kind: TokenPositions,
    /// Form of the stored keys.
    pub keys: StoredKeys,
}

/// The part that says when to evict again while a text grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecodePart {
    /// Tokens between evictions, at least 1. A cache exceeds its budget by at most so many tokens.
    pub every: usize,
    /// What is evicted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<FixedPlace>,
}

/// The part that says what of a prompt is chosen from what: not all of it at once, but each piece of it with what was kept of those before.
///
/// It decides which tokens are kept, as a cache would that evicts while it reads a prompt; it saves no memory while one is read. A session holds the
/// whole prompt until it evicts for the first time, and its queries attend to all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrefillPart {
    /// Tokens of a piece, at least 1: what is kept is chosen from the budget's tokens and so many more.
    pub every: usize,
}

/// Eviction at a place of the cache whatever the scores (Elastic Cache, arXiv:2407.18121): what stands before it and the newest tokens survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FixedPlace {
    /// The place, counted from the first token, or, below 1, from the end of the cache as it was after the prompt.
    pub distance: i64,
}

/// A method for tokens, as a composition of parts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRecipe {
    /// Name, in kebab case.
    pub name: String,
    /// `token`.
    pub unit: TokenUnit,
    /// What is known of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<About>,
    /// Scorer; none keeps everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<TokenScorer>,
    /// How many tokens stay.
    #[serde(default)]
    pub budget: Budget,
    /// Selector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select: Option<TokenSelector>,
    /// What is not chosen stays in memory, for later queries to choose from: a method of reading, which frees nothing. A session chooses for
    /// every token, by its own query, where `decode.every` is 1; otherwise a choice holds until the next.
    #[serde(default, skip_serializing_if = "is_false")]
    pub retain: bool,
    /// Editor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edit: Option<TokenEditor>,
    /// Positions.
    #[serde(default)]
    pub position: TokenPositionPart,
    /// What is kept of a prompt, as if it came in pieces; without it all of the prompt is there when the first eviction is decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefill: Option<PrefillPart>,
    /// Eviction while a text grows; without it only what was there after the prompt is ever evicted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decode: Option<DecodePart>,
    /// How tokens are stored that are no longer new; without it all are stored as they came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codec: Option<CodecPart>,
}

impl TokenRecipe {
    /// The built-in recipe `name`. [`AnyRecipe::named`] knows recipes for frames too.
    ///
    /// # Errors
    /// [`RecipeError::UnknownRecipe`], with the nearest name, and [`RecipeError::OtherUnit`].
    pub fn named(name: &str) -> Result<Self, RecipeError> {
        AnyRecipe::for_unit(name, "token")?.tokens()
    }

    /// Reads a recipe whose parts are built in.
    ///
    /// # Errors
    /// As [`crate::Recipe::from_toml`].
    pub fn from_toml(text: &str) -> Result<Self, RecipeError> {
        Self::from_toml_with(text, &Registry::default())
    }

    /// Reads a recipe whose parts a registry knows.
    ///
    /// # Errors
    /// As [`crate::Recipe::from_toml`].
    pub fn from_toml_with(text: &str, registry: &Registry) -> Result<Self, RecipeError> {
        read(text, registry)
    }

    /// The recipe as TOML.
    ///
    /// # Errors
    /// As [`crate::Recipe::to_toml`].
    pub fn to_toml(&self) -> Result<String, RecipeError> {
        written(self)
    }

    /// This recipe with fields replaced, as [`crate::Recipe::with_overrides`].
    ///
    /// # Errors
    /// As [`crate::Recipe::with_overrides`].
    pub fn with_overrides<S: AsRef<str>>(&self, overrides: &[S]) -> Result<Self, RecipeError> {
        overridden(self, overrides, &self.registry())
    }

    /// What a session must record.
    pub(crate) fn needs(&self) -> Needs {
        let retention = self.codec.and_then(|c| c.retention);
        let own = Needs {
            head_profile: self.budget.heads.needs_profile(),
            last_queries: retention.map_or(0, |r| r.window),
            ..Needs::default()
        };
        self.score.as_ref().map(|part| part.needs()).unwrap_or_default().and(own)
    }

    /// True when query heads keep tokens of their own.
    pub fn separates_query_heads(&self) -> bool {
        self.score.as_ref().is_some_and(|part| part.separates_query_heads())
    }

    /// Checks the parts, by themselves and together.
    ///
    /// # Errors
    /// [`Error::Score`] for a part by itself, [`RecipeError::Combination`] for parts that do not fit each other.
    pub fn validate(&self) -> Result<(), Error> {
        self.budget.validate()?;
        self.score.iter().try_for_each(|part| part.validate())?;
        self.select.iter().try_for_each(|part| part.validate())?;
        self.edit.iter().try_for_each(|part| part.validate())?;
        self.codec.iter().try_for_each(CodecPart::validate)?;
        let refuse = |problem| Err(RecipeError::Combination { recipe: self.name.clone(), problem }.into());
        match (&self.score, &self.select) {
            (Some(_), None) => refuse("a [score] part needs a [select] part"),
            (None, Some(_)) => refuse("a [select] part needs a [score] part"),
            (Some(_), Some(select)) if select.is_shared() && self.budget.heads != HeadBudget::default() => {
                refuse(
                    "this [select] part keeps the same tokens in all heads, so budget.heads must be \"uniform\"",
                )
            }
            _ if self.budget.heads.needs_profile() && self.separates_query_heads() => {
                refuse("head profiles are of key heads, so score.heads must be \"grouped\"")
            }
            _ if self.edit.is_some() && self.separates_query_heads() => {
                refuse("an [edit] part works on key heads, so score.heads must be \"grouped\"")
            }
            _ if self.retain && self.edit.is_some() => {
                refuse("an [edit] part works on what leaves, and with retain nothing does")
            }
            _ if self.retain && self.prefill.is_some() => {
                refuse("a [prefill] part evicts while the prompt is read, and with retain nothing leaves")
            }
            (_, Some(select))
                if !select.is_joint() && matches!(self.budget.heads, HeadBudget::Adaptive { .. }) =>
            {
                refuse(
                    "heads compete token by token, so budget.heads = \"adaptive\" needs select.kind = \"top-k\"",
                )
            }
            _ if self.prefill.is_some_and(|p| p.every == 0) => refuse("prefill.every must be at least 1"),
            _ if self.prefill.is_some() && self.budget.heads != HeadBudget::default() => refuse(
                "a [prefill] part holds equally many tokens of all heads, so budget.heads must be \"uniform\"",
            ),
            _ if self.prefill.is_some() && (self.edit.is_some() || self.separates_query_heads()) => refuse(
                "a [prefill] part goes neither with an [edit] part nor with score.heads = \"separate\"",
            ),
            _ if self.prefill.is_some() && !in_pieces(self.needs()) => refuse(
                "a [prefill] part scores pieces of a prompt, for which there are no sums of attention, no probes and no grid",
            ),
            _ if self.codec.is_some() && self.decode.is_some() => {
                refuse("a [codec] part does not go with a [decode] part: what is coded is not scored again")
            }
            _ if self.codec.is_some() && (self.edit.is_some() || self.retain) => {
                refuse("a [codec] part goes neither with an [edit] part nor with retain")
            }
            _ if self.codec.is_some_and(|c| c.retention.is_some() && c.widths().is_none()) => refuse(
                "codec.retention needs spherical keys and values, of equal bits and with the mean of a head",
            ),
            _ if self.codec.is_some_and(|c| c.retention.is_some()) && self.score.is_some() => {
                refuse("codec.retention decides what leaves, so there is no [score] part beside it")
            }
            _ if self.codec.is_some() && self.position.kind == TokenPositions::Contiguous => {
                refuse("a [codec] part needs position.kind = \"keep\": keys that are coded do not turn")
            }
            _ if self.decode.is_some_and(|d| d.every == 0) => refuse("decode.every must be at least 1"),
            _ => Ok(()),
        }
    }
}

fn is_false(x: &bool) -> bool {
    !x
}

/// True where a part of a text can be scored as if it were all of it.
fn in_pieces(needs: Needs) -> bool {
    !needs.accumulated_attention && !needs.grid && needs.probe_first + needs.probe_last == 0
}

impl OpenRecipe for TokenRecipe {
    fn read_parts(&mut self, parts: &mut OpenParts<'_, '_>, registry: &Registry) -> Result<(), RecipeError> {
        self.score = parts.read("score", &registry.token_scorers)?;
        self.select = parts.read("select", &registry.token_selectors)?;
        self.edit = parts.read("edit", &registry.token_editors)?;
        Ok(())
    }

    fn registry(&self) -> Registry {
        Registry {
            token_scorers: kinds_of(self.score.as_ref()),
            token_selectors: kinds_of(self.select.as_ref()),
            token_editors: kinds_of(self.edit.as_ref()),
            ..Registry::default()
        }
    }

    fn check(&self) -> Result<(), Error> {
        self.validate()
    }
}
