//! The source of every kernel for every target, compiled where there is no device: what `cargo xtask codegen` runs.
//!
//! The engine runs a list of operations (`cases`) on a CubeCL runtime that only compiles (`recorder`) and has the properties of a target's
//! devices (`target`). So what is emitted is what such a device would be given, in the variants that the engine chooses for it.
//!
//! CubeCL 0.10 orders some declarations differently from run to run, so registers differ a little between runs as well.

mod case;
mod cases;
mod compiler;
mod recorder;
mod target;
mod wgsl;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cubecl::Runtime;
use tether_core::DType;

use crate::Cube;
use case::{Cases, Done, Event};
use recorder::{Recorder, Source};
use target::Target;

/// What an operation did on a target.
#[derive(Clone, Debug)]
pub struct Record {
    /// `cuda`, `hip-wave32`, `hip-wave64`, `spirv`, `wgsl` or `msl`.
    pub target: &'static str,
    /// The operation, and what is fixed at compile time.
    pub case: String,
    /// Of the operation's tensors; none where there is no choice.
    pub dtype: Option<DType>,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of an operation on a target: one of these for each kernel that it launched.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// A source file, perhaps the same as of another case.
    Emitted {
        /// Module and function below `kernels`: `copy::fill_zero`.
        kernel: String,
        /// Below the folder that sources are written to.
        file: PathBuf,
        /// The name of the entry point.
        entry: String,
        /// Shared memory of a cube.
        shared_bytes: usize,
        /// What has validated it already.
        checked: Option<&'static str>,
    },
    /// The engine refuses the operation on the target.
    Refused {
        /// What is missing there.
        feature: &'static str,
    },
    /// A kernel that is launched but cannot be compiled, or a case that asks for something impossible.
    Failed {
        /// What the compiler, the validation or the engine said.
        reason: String,
    },
}

/// Writes the source of every kernel and target below `folder`. WGSL is parsed and validated by naga, as wgpu does before it takes a shader.
///
/// # Errors
/// A file that cannot be written. What cannot be compiled is in the records.
pub fn emit(folder: &Path) -> io::Result<Vec<Record>> {
    let mut records = Vec::new();
    for target in Target::ALL {
        emit_for(target, folder, &mut records)?;
    }
    Ok(records)
}

fn emit_for(target: Target, folder: &Path, records: &mut Vec<Record>) -> io::Result<()> {
    let cases = Cases::new(Cube::new(Recorder::client(&target)));
    cases::run_all(&cases);
    let mut files = Files { target, folder, written: HashMap::new() };
    for event in cases.into_events() {
        let outcome = match &event.done {
            Done::Kernel { name, compiled } => match &**compiled {
                Ok(source) => files.outcome(&event, name, source)?,
                Err(reason) => Outcome::Failed { reason: format!("{name}: {reason}") },
            },
            Done::Refused(feature) => Outcome::Refused { feature },
            Done::Wrong(reason) => Outcome::Failed { reason: reason.clone() },
        };
        records.push(Record { target: target.name(), case: event.case, dtype: event.dtype, outcome });
    }
    Ok(())
}

/// A file, and what checked it or what is wrong with it.
type Written = (PathBuf, Result<Option<&'static str>, String>);

/// The sources of a target: each is written and checked once.
struct Files<'a> {
    target: Target,
    folder: &'a Path,
    /// By kernel and code.
    written: HashMap<(String, Vec<u8>), Written>,
}

impl Files<'_> {
    fn outcome(&mut self, event: &Event, kernel: &str, source: &Source) -> io::Result<Outcome> {
        let key = (kernel.to_owned(), source.code.bytes.clone());
        let (file, checked) = match self.written.get(&key) {
            Some(known) => known.clone(),
            None => {
                let file = self.free_name(event, kernel);
                let path = self.folder.join(&file);
                fs::create_dir_all(path.parent().unwrap_or(self.folder))?;
                fs::write(&path, &source.code.bytes)?;
                let fresh = (file, self.target.check(&source.code.bytes));
                self.written.insert(key, fresh.clone());
                fresh
            }
        };
        Ok(match checked {
            Ok(checked) => Outcome::Emitted {
                kernel: kernel.to_owned(),
                file,
                entry: source.entry.clone(),
                shared_bytes: source.code.shared_bytes,
                checked,
            },
            Err(reason) => Outcome::Failed { reason: format!("{}: {reason}", file.display()) },
        })
    }

    /// `cuda/copy/fill_zero/align-f16.cu`, numbered where a case has several variants of the kernel.
    fn free_name(&self, event: &Event, kernel: &str) -> PathBuf {
        let dtype = event.dtype.map(|dtype| format!("-{dtype}")).unwrap_or_default();
        let mut case = String::new();
        for c in event.case.chars() {
            if c.is_ascii_alphanumeric() {
                case.push(c.to_ascii_lowercase());
            } else if !case.ends_with('-') {
                case.push('-');
            }
        }
        let folder = Path::new(self.target.name()).join(kernel.replace("::", "/"));
        let name = |number: usize| {
            let number = if number == 1 { String::new() } else { format!("-{number}") };
            folder.join(format!("{case}{dtype}{number}.{}", self.target.file_extension()))
        };
        let taken = |file: &PathBuf| self.written.values().any(|(written, _)| written == file);
        (1..).map(name).find(|file| !taken(file)).unwrap_or_else(|| name(0))
    }
}
