//! `tether fetch`, and what a default build says of what it does not have.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::path::Path;
use std::process::{Command, Output};

use tether_models::SMOLLM2;

fn tether(cache: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tether"));
    // Where the cache directory is, on every system.
    command.args(args).env("XDG_CACHE_HOME", cache).env("HOME", cache).env_remove(SMOLLM2.variable);
    command.output().unwrap()
}

fn refused(cache: &Path, args: &[&str], code: i32) -> String {
    let output = tether(cache, args);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
    assert!(output.stdout.is_empty(), "{args:?}");
    error
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("not.gguf"), "GGUF?").unwrap();
    let (not, none) = (at("not.gguf"), at("none.txt"));
    for (args, code, problem) in [
        (vec!["fetch", "smollm3"], 2, "smollm2"),
        (vec!["fetch", "smollm2", "--from", &none], 3, "none.txt"),
        (vec!["fetch", "smollm2", "--from", &not], 3, "sha256"),
    ] {
        let error = refused(folder.path(), &args, code);
        assert!(error.contains(problem), "{args:?}: {error}");
    }
}

#[cfg(not(feature = "download"))]
#[test]
fn without_the_network_it_says_how_to_get_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let error = refused(folder.path(), &["fetch", "smollm2"], 2);
    for part in ["https://", "--from FILE", "--features download -- fetch smollm2"] {
        assert!(error.contains(part), "{error}");
    }
}

#[cfg(not(feature = "lab"))]
#[test]
fn commands_of_another_build_say_which() {
    let folder = tempfile::tempdir().unwrap();
    for args in [vec!["eval", "perplexity", "--text", "x"], vec!["generate", "-h"], vec!["profile"]] {
        let error = refused(folder.path(), &args, 2);
        let how = format!("cargo run --release --features lab -- {}", args.join(" "));
        assert!(error.contains(&how), "{error}");
    }
}
