use std::fmt::{self, Display, Formatter};

/// Why a part cannot be read, or a kind not be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartError {
    /// Keys that lead to the part from the outermost one, which has none.
    pub path: Vec<String>,
    /// What is wrong there.
    pub problem: PartProblem,
}

/// What is wrong with a part.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PartProblem {
    /// Not a table.
    NoTable,
    /// A table without a `kind`.
    NoKind {
        /// The kinds there are.
        expected: Vec<String>,
    },
    /// A `kind` that nobody added.
    UnknownKind {
        /// What was written.
        got: String,
        /// The kinds there are.
        expected: Vec<String>,
    },
    /// Settings that the part cannot be made of.
    Settings {
        /// The reader's message, as serde words it.
        message: String,
    },
    /// A kind that is added although there is one of this name.
    Taken {
        /// The name.
        kind: &'static str,
    },
}

impl PartError {
    /// The error of a part that lies at `key` of the one that is read.
    #[must_use]
    pub fn below(mut self, key: &str) -> Self {
        self.path.insert(0, key.to_owned());
        self
    }
}

impl From<PartProblem> for PartError {
    fn from(problem: PartProblem) -> Self {
        Self { path: Vec::new(), problem }
    }
}

impl Display for PartError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "`{}`: ", self.path.join("."))?;
        }
        let listed = |kinds: &[String]| kinds.iter().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ");
        match &self.problem {
            PartProblem::NoTable => f.write_str("a part is a table with a `kind`"),
            PartProblem::NoKind { expected } => {
                write!(f, "missing field `kind`, one of {}", listed(expected))
            }
            PartProblem::UnknownKind { got, expected } => {
                write!(f, "unknown kind `{got}`, expected one of {}", listed(expected))
            }
            PartProblem::Settings { message } => f.write_str(message),
            PartProblem::Taken { kind } => write!(f, "there is a part of kind `{kind}` already"),
        }
    }
}

impl std::error::Error for PartError {}
