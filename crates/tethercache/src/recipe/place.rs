//! Where in a recipe an error is.

use std::fmt::{self, Display, Formatter};
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where in a recipe something is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// In a text, lines and columns counted from 1.
    Text {
        /// Line.
        line: usize,
        /// Column, in characters.
        column: usize,
        /// The key, with those that lead to it; empty where the text is not TOML.
        key: String,
    },
    /// In an override.
    Override {
        /// The override, as it was given.
        text: String,
    },
    /// In a recipe that was not read from a text; without a key, somewhere in it.
    Key {
        /// The key, with those that lead to it.
        key: String,
    },
}

impl Display for Place {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text { line, column, key } if key.is_empty() => write!(f, "line {line}, column {column}"),
            Self::Text { line, column, key } => write!(f, "line {line}, column {column}, `{key}`"),
            Self::Override { text } => write!(f, "`{text}`"),
            Self::Key { key } if key.is_empty() => f.write_str("the recipe"),
            Self::Key { key } => write!(f, "`{key}`"),
        }
    }
}

/// What a recipe is read from, so that errors can say where.
#[derive(Debug)]
pub(super) enum Source<'t> {
    Text { text: &'t str, root: Spanned<DeTable<'t>> },
    Override { text: &'t str },
    Data,
}

impl Source<'_> {
    /// The place of a key; of the nearest one around it where there is no such key.
    pub(super) fn at_key(&self, path: &[&str]) -> Place {
        let key = path.join(".");
        match self {
            Self::Override { text } => Place::Override { text: (*text).to_owned() },
            Self::Data => Place::Key { key },
            Self::Text { text, root } => {
                let mut span = root.span();
                let mut table = Some(root.get_ref());
                for part in path {
                    let Some((key, value)) = table.and_then(|t| t.get_key_value(*part)) else { break };
                    span = key.span();
                    table = value.get_ref().as_table();
                }
                text_place(text, span.start, key)
            }
        }
    }

    /// The place of what lies at `span`, or, inside of it, of the key `unknown`.
    pub(super) fn at_span(&self, span: Option<Range<usize>>, unknown: Option<&str>) -> Place {
        let (Self::Text { text, root }, Some(span)) = (self, span) else { return self.at_key(&[]) };
        let mut path = Vec::new();
        deepest(root.get_ref(), span.start, &mut Vec::new(), &mut path);
        if let Some(unknown) = unknown
            && path.last().is_none_or(|last| last != unknown)
        {
            let inside: Vec<&str> = path.iter().map(String::as_str).chain([unknown]).collect();
            if holds(root.get_ref(), &inside) {
                return self.at_key(&inside);
            }
        }
        text_place(text, span.start, path.join("."))
    }
}

fn text_place(text: &str, offset: usize, key: String) -> Place {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let column = before[line_start..].chars().count() + 1;
    Place::Text { line: before.matches('\n').count() + 1, column, key }
}

fn holds(table: &DeTable<'_>, path: &[&str]) -> bool {
    let Some((first, rest)) = path.split_first() else { return true };
    match table.get(*first).map(Spanned::get_ref) {
        Some(DeValue::Table(inner)) => holds(inner, rest),
        Some(_) => rest.is_empty(),
        None => false,
    }
}

/// The longest path to an entry whose key or value covers `offset`. A table's own span may be that of its header alone, so all are looked at.
fn deepest(table: &DeTable<'_>, offset: usize, at: &mut Vec<String>, best: &mut Vec<String>) {
    for (key, value) in table {
        at.push(key.get_ref().to_string());
        if (key.span().contains(&offset) || value.span().contains(&offset)) && at.len() > best.len() {
            best.clone_from(at);
        }
        if let DeValue::Table(inner) = value.get_ref() {
            deepest(inner, offset, at, best);
        }
        at.pop();
    }
}
