#![doc = include_str!("../README.md")]

mod error;
mod kinds;
mod part;
mod settings;

pub use error::{PartError, PartProblem};
pub use kinds::{HasKinds, Kinds, ReadPart};
pub use part::Part;
pub use serde_json::Value;
pub use settings::{AnySettings, Settings, SettingsTable};
