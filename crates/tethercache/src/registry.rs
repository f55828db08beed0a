//! The kinds of part that recipes can be made of.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use tether_edit::EditFrames;
use tether_edit::tokens::EditTokens;
use tether_part::{HasKinds, Kinds, Part, PartError, Settings, SettingsTable};
use tether_score::tokens::{ScoreTokens, SelectTokens};
use tether_score::{ScoreFrames, SelectFrames};

/// The kinds of part that a recipe's text may name. The built-in ones are added as anybody else's are.
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// use tethercache::part::Settings;
/// use tethercache::score::tokens::{HeadScores, Needs, ScoreRequest, ScoreTokens, TokenObservation};
/// use tethercache::score::ScoreError;
/// use tethercache::tokens::TokenRecipe;
/// use tethercache::Registry;
///
/// /// Every n-th token.
/// #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Comb {
///     every: usize,
/// }
///
/// impl Settings for Comb {
///     const KIND: &'static str = "comb";
/// }
///
/// impl ScoreTokens for Comb {
///     fn needs(&self) -> Needs {
///         Needs::default()
///     }
///
///     fn score(&self, seen: &dyn TokenObservation, _: ScoreRequest) -> Result<HeadScores, ScoreError> {
///         let row = (0..seen.tokens()).map(|t| f32::from(u8::from(t % self.every == 0)));
///         HeadScores::new(seen.kv_heads(), seen.tokens(), row.collect::<Vec<_>>().repeat(seen.kv_heads()))
///     }
/// }
///
/// let registry = Registry::default().token_scorer::<Comb>()?;
/// let text = r#"
///     name = "every-fourth"
///     unit = "token"
///     score = { kind = "comb", every = 4 }
///     select = { kind = "top-k" }
///     budget = { ratio = 0.25 }
/// "#;
/// let recipe = TokenRecipe::from_toml_with(text, &registry)?;
/// let recipe = recipe.with_overrides(&["score.every=8", "budget.ratio=0.125"])?;
/// assert_eq!(recipe.score.unwrap().downcast_ref(), Some(&Comb { every: 8 }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Registry {
    pub(crate) token_scorers: Kinds<dyn ScoreTokens>,
    pub(crate) token_selectors: Kinds<dyn SelectTokens>,
    pub(crate) token_editors: Kinds<dyn EditTokens>,
    pub(crate) frame_scorers: Kinds<dyn ScoreFrames>,
    pub(crate) frame_selectors: Kinds<dyn SelectFrames>,
    pub(crate) frame_editors: Kinds<dyn EditFrames>,
}

/// The built-in kinds.
impl Default for Registry {
    fn default() -> Self {
        Self {
            token_scorers: <dyn ScoreTokens>::built_in().clone(),
            token_selectors: <dyn SelectTokens>::built_in().clone(),
            token_editors: <dyn EditTokens>::built_in().clone(),
            frame_scorers: <dyn ScoreFrames>::built_in().clone(),
            frame_selectors: <dyn SelectFrames>::built_in().clone(),
            frame_editors: <dyn EditFrames>::built_in().clone(),
        }
    }
}

macro_rules! additions {
    ($($(#[doc = $doc:literal])* $name:ident($kinds:ident: $part:ident, $read:expr);)*) => {
        impl Registry {
            $(
                $(#[doc = $doc])*
                ///
                /// # Errors
                /// [`tether_part::PartProblem::Taken`] where there is a part of this name.
                pub fn $name<S>(mut self) -> Result<Self, PartError>
                where
                    S: $part + Settings + DeserializeOwned,
                {
                    self.$kinds.add(S::KIND, |settings, kinds| {
                        let read: fn(SettingsTable, &Kinds<dyn $part>) -> Result<S, PartError> = $read;
                        Ok(Arc::new(read(settings, kinds)?))
                    })?;
                    Ok(self)
                }
            )*
        }
    };
}

additions! {
    /// With a scorer of tokens.
    token_scorer(token_scorers: ScoreTokens, S::read);
    /// With a selector of tokens.
    token_selector(token_selectors: SelectTokens, |settings, _| settings.read());
    /// With an editor of tokens.
    token_editor(token_editors: EditTokens, |settings, _| settings.read());
    /// With a scorer of frames.
    frame_scorer(frame_scorers: ScoreFrames, |settings, _| settings.read());
    /// With a selector of frames.
    frame_selector(frame_selectors: SelectFrames, |settings, _| settings.read());
    /// With an editor of frames.
    frame_editor(frame_editors: EditFrames, |settings, _| settings.read());
}

/// The kinds that `part` was read among, or the built-in ones.
pub(crate) fn kinds_of<P: HasKinds + ?Sized>(part: Option<&Part<P>>) -> Kinds<P> {
    part.map_or_else(|| P::built_in().clone(), |part| part.kinds().clone())
}
