//! What is known of a recipe, beside its parts.

use serde::{Deserialize, Serialize};

/// How far a recipe is known to do what its source does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Proof {
    /// Compared number by number with outputs of the published code.
    GoldenData,
    /// Checked against its definition on numbers worked by hand: there is no published code, or it does something else.
    HandWorked,
    /// A control whose definition is its own test.
    Control,
}

/// A recipe's row in a table of recipes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// What stays, in a line.
    pub summary: String,
    /// Source; none for a control.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paper: Option<String>,
    /// Whether memory is given back for whatever is evicted or coded.
    pub frees_memory: bool,
    /// What is read back from a device, whatever the backend, beside scores and indices of what stays; none is nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads_back: Option<String>,
    /// State of proof.
    pub proof: Proof,
    /// Whose outputs the golden data are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub golden: Option<String>,
}

impl About {
    /// The state of proof in words.
    pub fn proof_in_words(&self) -> String {
        match (self.proof, &self.golden) {
            (Proof::GoldenData, Some(source)) => format!("golden data of {source}"),
            (Proof::GoldenData, None) => "golden data".to_owned(),
            (Proof::HandWorked, _) => "worked by hand".to_owned(),
            (Proof::Control, _) => "control".to_owned(),
        }
    }
}
