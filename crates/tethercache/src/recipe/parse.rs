//! Reading recipes and overriding their fields, with errors that say where, and what was probably meant.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Number;
use tether_part::{HasKinds, Kinds, Part, PartError, PartProblem};
use toml::de::DeTable;
use toml::{Table, Value};

use super::error::{nearest, setting_of};
use super::place::Source;
use super::{Place, RecipeError};
use crate::{Error, Registry};

/// Sections of a recipe whose form is for the registry to say.
const OPEN: [&str; 3] = ["score", "select", "edit"];

/// A recipe of either unit: fields that serde reads, and parts that a registry does.
pub(crate) trait OpenRecipe: Serialize + DeserializeOwned {
    /// Fills the parts in.
    fn read_parts(&mut self, parts: &mut OpenParts<'_, '_>, registry: &Registry) -> Result<(), RecipeError>;

    /// The kinds that its parts were read among.
    fn registry(&self) -> Registry;

    /// Refuses what can never work.
    fn check(&self) -> Result<(), Error>;
}

/// The sections of a recipe that are parts.
pub(crate) struct OpenParts<'s, 't> {
    tables: Table,
    source: &'s Source<'t>,
}

impl OpenParts<'_, '_> {
    /// The part in a section, where there is one.
    pub(crate) fn read<P: HasKinds + ?Sized>(
        &mut self,
        section: &str,
        kinds: &Kinds<P>,
    ) -> Result<Option<Part<P>>, RecipeError> {
        let Some(value) = self.tables.remove(section) else { return Ok(None) };
        let mut path = vec![section.to_owned()];
        let value = json(value, &mut path).map_err(|message| {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            RecipeError::Malformed { place: Box::new(self.source.at_key(&path)), message }
        })?;
        kinds.read(value).map(Some).map_err(|e| explain_part(e, section, self.source))
    }
}

/// What a recipe is for, as its text says.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Unit {
    Frame,
    Token,
}

/// Reads what a recipe is for.
pub(super) fn unit(text: &str) -> Result<Unit, RecipeError> {
    #[derive(Deserialize)]
    struct Head {
        unit: Unit,
    }
    let root = DeTable::parse(text).map_err(|e| syntax(&e, text))?;
    let source = Source::Text { text, root: root.clone() };
    let head = Head::deserialize(toml::Deserializer::from(root)).map_err(|e| explain(&e, &source))?;
    Ok(head.unit)
}

/// The error of a text that is not TOML.
fn syntax(error: &toml::de::Error, text: &str) -> RecipeError {
    explain(error, &Source::Text { text, root: toml::Spanned::new(0..0, DeTable::new()) })
}

/// Reads a recipe of either unit.
pub(crate) fn read<R: OpenRecipe>(text: &str, registry: &Registry) -> Result<R, RecipeError> {
    let root = DeTable::parse(text).map_err(|e| syntax(&e, text))?;
    let tables: Table = toml::from_str(text).map_err(|e| syntax(&e, text))?;
    let mut rest = root.clone();
    OPEN.iter().for_each(|&section| drop(rest.get_mut().remove(section)));
    let source = Source::Text { text, root };
    let recipe = R::deserialize(toml::Deserializer::from(rest)).map_err(|e| explain(&e, &source))?;
    let recipe = with_parts(recipe, tables, registry, &source)?;
    checked(recipe, &source)
}

fn with_parts<R: OpenRecipe>(
    mut recipe: R,
    mut tables: Table,
    registry: &Registry,
    source: &Source<'_>,
) -> Result<R, RecipeError> {
    tables.retain(|key, _| OPEN.contains(&key));
    recipe.read_parts(&mut OpenParts { tables, source }, registry)?;
    Ok(recipe)
}

/// A recipe that may work, or where it cannot.
fn checked<R: OpenRecipe>(recipe: R, source: &Source<'_>) -> Result<R, RecipeError> {
    match recipe.check() {
        Ok(()) => Ok(recipe),
        Err(Error::Recipe(e)) => Err(e),
        Err(problem) => {
            let path: Vec<&str> = setting_of(&problem).into_iter().flat_map(|s| s.split('.')).collect();
            let place = match source {
                // What an override makes wrong may be another key's fault.
                Source::Override { text } if !path.is_empty() => {
                    let set: Vec<&str> = text.split('=').next().unwrap_or("").trim().split('.').collect();
                    if set == path { source.at_key(&path) } else { Source::Data.at_key(&path) }
                }
                _ => source.at_key(&path),
            };
            Err(RecipeError::OutOfRange { place: Box::new(place), problem: Box::new(problem) })
        }
    }
}

/// A recipe as TOML.
pub(crate) fn written<R: Serialize>(recipe: &R) -> Result<String, RecipeError> {
    writable(recipe)?;
    toml::to_string(recipe).map_err(no_form)
}

/// The error of a recipe that TOML has no form for, whatever its numbers are.
fn no_form(error: toml::ser::Error) -> RecipeError {
    RecipeError::NoToml { key: String::new(), message: error.to_string() }
}

/// Refuses whole numbers of 2^63 and more, where those of TOML end.
fn writable<R: Serialize>(recipe: &R) -> Result<(), RecipeError> {
    fn too_large(value: &serde_json::Value, path: &mut Vec<String>) -> Option<Number> {
        match value {
            serde_json::Value::Number(n) => (n.is_u64() && !n.is_i64()).then(|| n.clone()),
            serde_json::Value::Object(fields) => fields.iter().find_map(|(key, value)| {
                path.push(key.clone());
                too_large(value, path).or_else(|| {
                    path.pop();
                    None
                })
            }),
            serde_json::Value::Array(items) => items.iter().find_map(|item| too_large(item, path)),
            _ => None,
        }
    }
    let mut path = Vec::new();
    let number = serde_json::to_value(recipe).ok().and_then(|v| too_large(&v, &mut path));
    let Some(number) = number else { return Ok(()) };
    let message = format!("{number} is above {}, the largest whole number of TOML", i64::MAX);
    Err(RecipeError::NoToml { key: path.join("."), message })
}

/// A recipe of either unit with fields replaced.
pub(crate) fn overridden<R: OpenRecipe, S: AsRef<str>>(
    recipe: &R,
    overrides: &[S],
    registry: &Registry,
) -> Result<R, RecipeError> {
    writable(recipe)?;
    let mut table = Table::try_from(recipe).map_err(no_form)?;
    let from_table = |table: &Table, source: &Source<'_>| -> Result<R, RecipeError> {
        let mut rest = table.clone();
        rest.retain(|key, _| !OPEN.contains(&key));
        let recipe: R = rest.try_into().map_err(|e| explain(&e, source))?;
        with_parts(recipe, table.clone(), registry, source)
    };
    let mut source = Source::Data;
    for text in overrides.iter().map(AsRef::as_ref) {
        let malformed = || RecipeError::Override { text: text.to_owned() };
        let (key, value) = text.split_once('=').ok_or_else(malformed)?;
        let (key, value) = (key.trim(), value.trim());
        let mut path = key.split('.').collect::<Vec<_>>();
        if path.iter().any(|p| p.is_empty()) {
            return Err(malformed());
        }
        source = Source::Override { text };
        let last = path.pop().ok_or_else(malformed)?;
        let mut section = &mut table;
        for part in path {
            let entry = section.entry(part).or_insert_with(|| Value::Table(Table::new()));
            section = entry.as_table_mut().ok_or_else(|| RecipeError::Malformed {
                place: Box::new(Place::Override { text: text.to_owned() }),
                message: format!("`{part}` is a value, not a section"),
            })?;
        }
        section.insert(last.to_owned(), parse_value(value));
        // One at a time, so that an error can name its override; parts that need two are checked together at the end.
        if overrides.len() > 1
            && let Err(error @ RecipeError::Unknown { .. }) = from_table(&table, &source)
        {
            return Err(error);
        }
    }
    checked(from_table(&table, &source)?, &source)
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

/// Settings in the form that parts are read from. `path` leads to what cannot be said in it.
fn json(value: Value, path: &mut Vec<String>) -> Result<serde_json::Value, String> {
    Ok(match value {
        Value::String(text) => text.into(),
        Value::Integer(n) => n.into(),
        Value::Boolean(flag) => flag.into(),
        Value::Float(x) => Number::from_f64(x).ok_or_else(|| format!("{x} is not a finite number"))?.into(),
        Value::Datetime(date) => return Err(format!("no setting is a date, such as {date}")),
        Value::Array(items) => {
            items.into_iter().map(|item| json(item, path)).collect::<Result<Vec<_>, _>>()?.into()
        }
        Value::Table(fields) => {
            let mut out = serde_json::Map::new();
            for (key, value) in fields {
                path.push(key.clone());
                out.insert(key, json(value, path)?);
                path.pop();
            }
            out.into()
        }
    })
}

/// Reads the key and the alternatives back out of serde's message, which is where it puts them.
fn explain(error: &toml::de::Error, source: &Source<'_>) -> RecipeError {
    let unknown = unknown_in(error.message());
    let key = unknown.as_ref().filter(|u| u.what == "field").map(|u| u.got.as_str());
    let place = Box::new(source.at_span(error.span(), key));
    refused(unknown, place, error.message())
}

fn explain_part(error: PartError, section: &str, source: &Source<'_>) -> RecipeError {
    let mut path: Vec<&str> = std::iter::once(section).chain(error.path.iter().map(String::as_str)).collect();
    let message = error.problem.clone();
    match error.problem {
        PartProblem::UnknownKind { got, expected } => {
            path.push("kind");
            let place = Box::new(source.at_key(&path));
            refused(Some(UnknownWord { what: "kind", got, expected }), place, "")
        }
        PartProblem::Settings { message } => {
            let unknown = unknown_in(&message);
            if let Some(unknown) = unknown.as_ref().filter(|u| u.what == "field")
                && path.last() != Some(&unknown.got.as_str())
            {
                path.push(&unknown.got);
            }
            let place = Box::new(source.at_key(&path));
            refused(unknown.clone(), place, &message)
        }
        _ => refused(None, Box::new(source.at_key(&path)), &PartError::from(message).to_string()),
    }
}

#[derive(Clone)]
struct UnknownWord {
    what: &'static str,
    got: String,
    expected: Vec<String>,
}

fn unknown_in(message: &str) -> Option<UnknownWord> {
    let what =
        ["field", "variant"].into_iter().find(|what| message.starts_with(&format!("unknown {what}")))?;
    let mut quoted = message.split('`').skip(1).step_by(2).map(str::to_owned);
    Some(UnknownWord { what, got: quoted.next()?, expected: quoted.collect() })
}

fn refused(unknown: Option<UnknownWord>, place: Box<Place>, message: &str) -> RecipeError {
    match unknown {
        Some(UnknownWord { what, got, expected }) => RecipeError::Unknown {
            what,
            place,
            suggestion: nearest(&got, expected.iter().map(String::as_str)),
            got: got.into(),
            expected: expected.into(),
        },
        None => RecipeError::Malformed { place, message: message.trim_end().to_owned() },
    }
}
