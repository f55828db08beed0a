//! Settings as data, with and without their type.

use std::any::Any;
use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use serde_path_to_error::Segment;

use crate::{HasKinds, Kinds, Part, PartError, PartProblem};

/// The settings of a part: what a recipe says beside its `kind`.
pub trait Settings: Debug + PartialEq + Serialize + Send + Sync + 'static {
    /// The part's name in recipes, in kebab case.
    const KIND: &'static str;
}

/// [`Settings`] whose type is not known: what the trait of a kind of part builds on. All settings have it.
pub trait AnySettings: Debug + Send + Sync + 'static {
    /// The part's name in recipes.
    fn kind(&self) -> &'static str;

    /// True for settings of the same type and the same values.
    fn equals(&self, other: &dyn Any) -> bool;

    /// The settings, to be written.
    fn as_serialize(&self) -> &dyn erased_serde::Serialize;

    /// The settings, to be asked for their type.
    fn as_any(&self) -> &dyn Any;
}

impl<S: Settings> AnySettings for S {
    fn kind(&self) -> &'static str {
        S::KIND
    }

    fn equals(&self, other: &dyn Any) -> bool {
        other.downcast_ref::<S>().is_some_and(|other| self == other)
    }

    fn as_serialize(&self) -> &dyn erased_serde::Serialize {
        self
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// What stands in a recipe beside a part's `kind`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SettingsTable(pub(crate) Map<String, Value>);

impl SettingsTable {
    /// Settings of type `S`.
    ///
    /// # Errors
    /// [`PartProblem::Settings`] with serde's message and the key that it is about.
    pub fn read<S: DeserializeOwned>(self) -> Result<S, PartError> {
        serde_path_to_error::deserialize(Value::Object(self.0)).map_err(|e| {
            let key = |segment: &Segment| match segment {
                Segment::Seq { index } => Some(index.to_string()),
                Segment::Map { key } => Some(key.clone()),
                _ => None,
            };
            let path = e.path().iter().filter_map(key).collect();
            PartError { path, problem: PartProblem::Settings { message: e.into_inner().to_string() } }
        })
    }

    /// Takes the part out that is written at `key`, for parts that hold others; `None` where there is none.
    ///
    /// # Errors
    /// As [`Kinds::read`], with `key` in the error's path.
    pub fn take_part<P: HasKinds + ?Sized>(
        &mut self,
        key: &str,
        kinds: &Kinds<P>,
    ) -> Result<Option<Part<P>>, PartError> {
        self.0.shift_remove(key).map(|value| kinds.read(value).map_err(|e| e.below(key))).transpose()
    }
}
