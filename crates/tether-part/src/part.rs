//! A part, as a recipe holds it.

use std::fmt::{self, Debug, Formatter};
use std::ops::Deref;
use std::sync::Arc;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::{AnySettings, HasKinds, Kinds, Settings};

/// A part of a recipe. It derefs to its trait; two parts are equal when their settings are. It remembers the kinds that it was read among, so
/// that a recipe can be changed and read again.
pub struct Part<P: ?Sized> {
    part: Arc<P>,
    kinds: Kinds<P>,
}

impl<P: AnySettings + ?Sized> Part<P> {
    /// A part that is read again among `kinds`.
    pub fn new(part: Arc<P>, kinds: Kinds<P>) -> Self {
        Self { part, kinds }
    }

    /// The kinds that it was read among.
    pub fn kinds(&self) -> &Kinds<P> {
        &self.kinds
    }

    /// The settings, if they are of type `S`.
    pub fn downcast_ref<S: Settings>(&self) -> Option<&S> {
        self.part.as_any().downcast_ref()
    }

    /// True for settings of type `S`.
    pub fn is<S: Settings>(&self) -> bool {
        self.downcast_ref::<S>().is_some()
    }
}

impl<P: ?Sized> Clone for Part<P> {
    fn clone(&self) -> Self {
        Self { part: self.part.clone(), kinds: self.kinds.clone() }
    }
}

impl<P: ?Sized> Deref for Part<P> {
    type Target = P;

    fn deref(&self) -> &P {
        &self.part
    }
}

impl<P: AnySettings + ?Sized> Debug for Part<P> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.part.fmt(f)
    }
}

impl<P: AnySettings + ?Sized> PartialEq for Part<P> {
    fn eq(&self, other: &Self) -> bool {
        self.part.equals(other.part.as_any())
    }
}

impl<P: AnySettings + ?Sized> Serialize for Part<P> {
    fn serialize<Z: Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
        #[derive(Serialize)]
        struct Tagged<'a> {
            kind: &'static str,
            #[serde(flatten)]
            settings: &'a dyn erased_serde::Serialize,
        }
        Tagged { kind: self.part.kind(), settings: self.part.as_serialize() }.serialize(serializer)
    }
}

/// Reads a part among the built-in kinds.
impl<'de, P: HasKinds + ?Sized> Deserialize<'de> for Part<P> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        P::built_in().read(Value::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
