//! Reading recipes and overriding their fields, with errors that name the key and what was probably meant.

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::{Recipe, catalogue};

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
    /// A key or a word that a recipe does not know.
    #[error("unknown {what} `{got}` in {place}{}; expected one of: {}", hint(suggestion), expected.join(", "))]
    Unknown {
        /// `field` or `variant`.
        what: &'static str,
        /// What was written.
        got: Box<str>,
        /// Where.
        place: Box<str>,
        /// What may stand there.
        expected: Box<[String]>,
        /// The nearest of those.
        suggestion: Option<Box<str>>,
    },
    /// Not TOML, or a value of the wrong type.
    #[error("{place}: {message}")]
    Malformed {
        /// Where.
        place: String,
        /// The reader's message.
        message: String,
    },
    /// An override that is not `key=value`.
    #[error("`{text}` is not of the form key=value, such as layout.recent=4")]
    Override {
        /// The text.
        text: String,
    },
    /// Parts that do not fit each other.
    #[error("recipe {recipe:?}: {problem}")]
    Combination {
        /// The recipe's name.
        recipe: String,
        /// What does not fit.
        problem: &'static str,
    },
}

fn hint(suggestion: &Option<Box<str>>) -> String {
    suggestion.as_ref().map(|s| format!(" (did you mean `{s}`?)")).unwrap_or_default()
}

fn nearest<'a>(word: &str, among: impl IntoIterator<Item = &'a str>) -> Option<Box<str>> {
    let scored = among.into_iter().map(|a| (strsim::jaro_winkler(word, a), a));
    let (likeness, best) = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (likeness > 0.7).then(|| best.into())
}

/// The name of the catalogue's recipe `name` for `unit`.
///
/// # Errors
/// [`RecipeError::UnknownRecipe`], with the nearest name.
pub(crate) fn known(name: &str, unit: &str) -> Result<&'static str, RecipeError> {
    let mut rows = catalogue().iter().filter(|c| c.unit == unit);
    rows.find(|c| c.name == name).map(|c| c.name).ok_or_else(|| unknown_recipe(name, unit))
}

/// The error for a name that no recipe for `unit` (`frame`, `token`, or whatever else for both) has.
pub fn unknown_recipe(name: &str, unit: &str) -> RecipeError {
    let both = !catalogue().iter().any(|c| c.unit == unit);
    let rows = catalogue().iter().filter(|c| both || c.unit == unit);
    RecipeError::UnknownRecipe { name: name.to_owned(), suggestion: nearest(name, rows.map(|c| c.name)) }
}

/// Reads a recipe of either kind.
pub(crate) fn read<R: DeserializeOwned>(text: &str) -> Result<R, RecipeError> {
    toml::from_str(text).map_err(|e| explain(&e, "the recipe"))
}

/// A recipe as TOML.
pub(crate) fn written<R: Serialize>(recipe: &R) -> String {
    toml::to_string(recipe).expect("a recipe should have a TOML form")
}

/// A recipe of either kind with fields replaced.
pub(crate) fn overridden<R: Serialize + DeserializeOwned, S: AsRef<str>>(
    recipe: &R,
    overrides: &[S],
) -> Result<R, RecipeError> {
    let mut table = Table::try_from(recipe).expect("a recipe should have a TOML form");
    let try_from_table = |table: &Table| -> Result<R, toml::de::Error> { table.clone().try_into() };
    let mut place = String::from("the recipe");
    for text in overrides.iter().map(AsRef::as_ref) {
        let malformed = || RecipeError::Override { text: text.to_owned() };
        let (key, value) = text.split_once('=').ok_or_else(malformed)?;
        let (key, value) = (key.trim(), value.trim());
        let mut path = key.split('.').collect::<Vec<_>>();
        if path.iter().any(|p| p.is_empty()) {
            return Err(malformed());
        }
        let last = path.pop().ok_or_else(malformed)?;
        let mut section = &mut table;
        for part in path {
            let entry = section.entry(part).or_insert_with(|| Value::Table(Table::new()));
            section = entry.as_table_mut().ok_or_else(|| RecipeError::Malformed {
                place: format!("`{text}`"),
                message: format!("`{part}` is a value, not a section"),
            })?;
        }
        section.insert(last.to_owned(), parse_value(value));
        place = format!("`{text}`");
        // One at a time, so that an error can name its override; parts that need two are checked together at the end.
        if overrides.len() > 1
            && let Err(e) = try_from_table(&table)
            && let error @ RecipeError::Unknown { .. } = explain(&e, &place)
        {
            return Err(error);
        }
    }
    try_from_table(&table).map_err(|e| explain(&e, &place))
}

impl Recipe {
    /// The built-in recipe `name`.
    ///
    /// # Errors
    /// [`RecipeError::UnknownRecipe`], with the nearest name.
    pub fn named(name: &str) -> Result<Self, RecipeError> {
        known(name, "frame").map(catalogue::built_in)
    }

    /// Reads a recipe.
    ///
    /// # Errors
    /// [`RecipeError::Unknown`] for a key or word that does not exist, [`RecipeError::Malformed`] for everything else.
    pub fn from_toml(text: &str) -> Result<Self, RecipeError> {
        read(text)
    }

    /// The recipe as TOML.
    pub fn to_toml(&self) -> String {
        written(self)
    }

    /// This recipe with fields replaced: each override is `section.field=value`, the value in TOML (quotes around a single word may
    /// be left out).
    ///
    /// # Errors
    /// [`RecipeError::Override`] for text without `=`, else as [`Recipe::from_toml`].
    pub fn with_overrides<S: AsRef<str>>(&self, overrides: &[S]) -> Result<Self, RecipeError> {
        overridden(self, overrides)
    }
}

/// A TOML value, or the text itself when it is not one.
fn parse_value(text: &str) -> Value {
    toml::from_str::<Table>(&format!("v = {text}"))
        .ok()
        // Exactly one key, or the text held a line break and more.
        .filter(|t| t.len() == 1)
        .and_then(|mut t| t.remove("v"))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Reads the key and the alternatives back out of serde's message, which is where it puts them.
fn explain(error: &toml::de::Error, place: &str) -> RecipeError {
    let message = error.message();
    let quoted: Vec<String> = message.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    for what in ["field", "variant"] {
        if message.starts_with(&format!("unknown {what}"))
            && let [got, expected @ ..] = quoted.as_slice()
        {
            return RecipeError::Unknown {
                what,
                got: got.as_str().into(),
                place: place.into(),
                expected: expected.into(),
                suggestion: nearest(got, expected.iter().map(String::as_str)),
            };
        }
    }
    RecipeError::Malformed { place: place.to_owned(), message: message.to_owned() }
}
