//! Why a recipe is refused.

use tether_edit::EditError;
use tether_score::ScoreError;

use super::Place;
use crate::{Error, Requirement};

/// Why a recipe is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// No recipe has this name.
    #[error("there is no recipe {name:?}{}", hint(suggestion))]
    UnknownRecipe {
        /// The name asked for.
        name: String,
        /// The nearest one there is.
        suggestion: Option<Box<str>>,
    },
    /// A recipe of this name is for something else.
    #[error("there is no recipe {name:?} for {asked}s: it is one for {unit}s")]
    OtherUnit {
        /// The name asked for.
        name: String,
        /// What it was to be for.
        asked: &'static str,
        /// What it is for.
        unit: &'static str,
    },
    /// Two recipes have this name.
    #[error("there are two recipes {name:?}: ask for \"frame/{name}\" or \"token/{name}\"")]
    Ambiguous {
        /// The name asked for.
        name: String,
    },
    /// A key or a word that a recipe does not know.
    #[error("unknown {what} `{got}` in {place}{}; {}", hint(suggestion), listed(expected))]
    Unknown {
        /// `field`, `variant` or `kind`.
        what: &'static str,
        /// What was written.
        got: Box<str>,
        /// Where.
        place: Box<Place>,
        /// What may stand there.
        expected: Box<[String]>,
        /// The nearest of those.
        suggestion: Option<Box<str>>,
    },
    /// Not TOML, or a value of the wrong type.
    #[error("{place}: {message}")]
    Malformed {
        /// Where.
        place: Box<Place>,
        /// The reader's message.
        message: String,
    },
    /// A setting out of range.
    #[error("{place}: {problem}")]
    OutOfRange {
        /// Where.
        place: Box<Place>,
        /// What the part says of it.
        problem: Box<Error>,
    },
    /// An override that is not `key=value`.
    #[error("`{text}` is not of the form key=value, such as layout.recent=4")]
    Override {
        /// The text.
        text: String,
    },
    /// A value that TOML has no form for.
    #[error("`{key}` cannot be written as TOML: {message}")]
    NoToml {
        /// The key; empty where nobody knows.
        key: String,
        /// Why.
        message: String,
    },
    /// Parts that do not fit each other.
    #[error("recipe {recipe:?}: {problem}")]
    Combination {
        /// The recipe's name.
        recipe: String,
        /// What does not fit.
        problem: &'static str,
    },
    /// What the recipe must know of the model, and was not told.
    #[error("recipe {recipe:?} needs {}", crate::requirement::list(missing))]
    Missing {
        /// The recipe's name.
        recipe: String,
        /// What is missing.
        missing: Box<[Requirement]>,
    },
}

fn hint(suggestion: &Option<Box<str>>) -> String {
    suggestion.as_ref().map(|s| format!(" (did you mean `{s}`?)")).unwrap_or_default()
}

fn listed(expected: &[String]) -> String {
    if expected.is_empty() {
        "there are none".into()
    } else {
        format!("expected one of: {}", expected.join(", "))
    }
}

/// The word of `among` that is most like `word`, if one is.
pub(super) fn nearest<'a>(word: &str, among: impl IntoIterator<Item = &'a str>) -> Option<Box<str>> {
    let scored = among.into_iter().map(|a| (strsim::jaro_winkler(word, a), a));
    let (likeness, best) = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (likeness > 0.7).then(|| best.into())
}

/// The key that a part complains of.
pub(super) fn setting_of(error: &Error) -> Option<&'static str> {
    match error {
        Error::Score(ScoreError::Setting { setting, .. } | ScoreError::Nested { part: setting, .. })
        | Error::Edit(EditError::Setting { setting, .. }) => Some(setting),
        Error::Edit(EditError::Tau { .. }) => Some("edit.tau"),
        Error::Core(tether_core::CoreError::Geometry { field, .. }) => Some(field),
        Error::Layout(_) => Some("layout"),
        _ => None,
    }
}
