//! The kinds of part that can be read.

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Formatter};
use std::sync::Arc;

use serde_json::Value;

use crate::{AnySettings, Part, PartError, PartProblem, SettingsTable};

/// Makes a part of its settings. Gets the kinds that it is read among, for parts that hold others.
pub type ReadPart<P> = dyn Fn(SettingsTable, &Kinds<P>) -> Result<Arc<P>, PartError> + Send + Sync;

/// A trait of parts, as `dyn Trait`, with the kinds that come with it.
pub trait HasKinds: AnySettings {
    /// The built-in kinds.
    fn built_in() -> &'static Kinds<Self>;
}

/// The kinds of part that can be read, by name. A clone shares them until one of the two is added to.
pub struct Kinds<P: ?Sized> {
    readers: Arc<BTreeMap<&'static str, Arc<ReadPart<P>>>>,
}

impl<P: ?Sized> Clone for Kinds<P> {
    fn clone(&self) -> Self {
        Self { readers: self.readers.clone() }
    }
}

impl<P: ?Sized> Default for Kinds<P> {
    fn default() -> Self {
        Self { readers: Arc::default() }
    }
}

impl<P: ?Sized> Debug for Kinds<P> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.readers.keys()).finish()
    }
}

impl<P: AnySettings + ?Sized> Kinds<P> {
    /// Adds a kind.
    ///
    /// # Errors
    /// [`PartProblem::Taken`] where there is one of this name.
    pub fn add(
        &mut self,
        kind: &'static str,
        read: impl Fn(SettingsTable, &Self) -> Result<Arc<P>, PartError> + Send + Sync + 'static,
    ) -> Result<(), PartError> {
        if self.contains(kind) {
            return Err(PartProblem::Taken { kind }.into());
        }
        Arc::make_mut(&mut self.readers).insert(kind, Arc::new(read));
        Ok(())
    }

    /// These kinds and one more, unless there is one of this name.
    #[must_use]
    pub fn with(
        &self,
        kind: &'static str,
        read: impl Fn(SettingsTable, &Self) -> Result<Arc<P>, PartError> + Send + Sync + 'static,
    ) -> Self {
        let mut kinds = self.clone();
        if !kinds.contains(kind) {
            Arc::make_mut(&mut kinds.readers).insert(kind, Arc::new(read));
        }
        kinds
    }

    /// True where there is a kind of this name.
    pub fn contains(&self, kind: &str) -> bool {
        self.readers.contains_key(kind)
    }

    /// The names, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.readers.keys().copied()
    }

    /// Reads a part: a table with its `kind` and its settings.
    ///
    /// # Errors
    /// Every [`PartProblem`] but the last.
    pub fn read(&self, part: Value) -> Result<Part<P>, PartError> {
        let Value::Object(mut settings) = part else { return Err(PartProblem::NoTable.into()) };
        let expected = || self.names().map(str::to_owned).collect();
        let Some(Value::String(kind)) = settings.shift_remove("kind") else {
            return Err(PartProblem::NoKind { expected: expected() }.into());
        };
        let Some(read) = self.readers.get(kind.as_str()) else {
            return Err(PartProblem::UnknownKind { got: kind, expected: expected() }.into());
        };
        Ok(Part::new(read(SettingsTable(settings), self)?, self.clone()))
    }
}
