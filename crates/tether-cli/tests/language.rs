//! `tether eval` and `tether generate`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
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
    std::fs::write(at("text"), "a text").unwrap();
    std::fs::write(at("not.gguf"), "GGUF?").unwrap();
    let (text, not, none) = (at("text"), at("not.gguf"), at("none.txt"));
    let cache = folder.path();
    for (args, code, problem) in [
        (vec!["generate", "--model", "smollm3", "x"], 2, "smollm2"),
        (vec!["generate", "x"], 3, "tether fetch smollm2"),
        (vec!["generate", "--model", &not, "x"], 3, "not.gguf"),
        (vec!["generate", "--file", &none], 3, "none.txt"),
        (vec!["generate"], 2, "PROMPT"),
        (vec!["eval", "codec"], 2, "--text"),
        (vec!["eval", "codec", "--text", &text, "--end-to-end", "--block", "0"], 2, "--block"),
        (vec!["eval", "codec", "--text", &text, "--video", "1"], 2, "--video"),
        (vec!["eval", "perplexity"], 2, "--text"),
        (vec!["eval", "needle"], 2, "--text"),
        (vec!["eval", "recall", "--text", &text, "--recipe", "snapkv", "--budget", "2"], 2, "--budget"),
        (vec!["eval", "recall", "--text", &text], 3, "tether fetch smollm2"),
        (vec!["eval", "speed", "--text", &text, "--steps", "0"], 2, "--steps"),
        (vec!["eval", "all", "--text", &text], 2, "--out"),
        (vec!["eval", "draw", &text], 2, "--out"),
        (vec!["eval", "draw", &text, "--out", &none], 2, "text"),
        (vec!["profile", "heads", "--text", &text], 2, "--out"),
        (vec!["profile", "heads", "--text", &none, "-o", &none], 3, "none.txt"),
        (vec!["eval", "perplexity", "--text", &text, "--tokens", "1"], 2, "--tokens"),
        (vec!["eval", "perplexity", "--text", &text], 3, "tether fetch smollm2"),
        (vec!["eval", "perplexity", "--text", &text, &none], 3, "none.txt"),
    ] {
        let error = refused(cache, &args, code);
        assert!(error.contains(problem), "{args:?}: {error}");
    }
}

#[test]
fn a_model_that_is_there_answers_and_reads() {
    let Some(model) = model_or_skip() else { return };
    let folder = tempfile::tempdir().unwrap();
    let model = model.to_str().unwrap();
    let prompt = "The capital of France is";
    let output = tether(folder.path(), &["generate", "--model", model, "--max-tokens", "4", prompt]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8(output.stdout).unwrap().starts_with(" Paris"));
    // Speeds are of what was read and of what was made apart, however long the continuation.
    let speeds = String::from_utf8(output.stderr).unwrap();
    assert!(speeds.contains("prompt 6 tokens, ") && speeds.contains("after it 3 tokens, "), "{speeds}");

    let text = folder.path().join("text");
    std::fs::write(&text, "The quick brown fox jumps over the lazy dog. ".repeat(8)).unwrap();
    let args = ["eval", "perplexity", "--model", model, "--json", "--tokens", "60", "--text"];
    let output = tether(folder.path(), &[&args[..], &[text.to_str().unwrap()]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let row: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&row["scored"], &row["recipe"]), (&Value::from(59), &Value::from("full")));
    assert!((1.0..8.0).contains(&row["perplexity"].as_f64().unwrap()), "{row}");
    assert_eq!(row["full_bytes"], 60 * 30 * 3 * 64 * 2 * 4);
    let recipes = ["--recipe", "adakv", "--budget", "0.3", "--set", "score.window=8", "--prompt", "50"];
    let output = tether(folder.path(), &[&args[..], &[text.to_str().unwrap()], &recipes].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: Vec<Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let names: Vec<&str> = rows.iter().map(|r| r["recipe"].as_str().unwrap()).collect();
    assert_eq!(names, ["full", "window", "sink-recent", "random", "adakv"]);
    assert_eq!(rows[0]["worse_by"], 0.0);
    assert!(rows[4]["resident_bytes"].as_u64().unwrap() < rows[0]["resident_bytes"].as_u64().unwrap());

    // As codes, tokens take less memory, and the model hardly notices.
    for (recipe, set) in [("spherical", "name=spherical"), ("spherical-rdr", "codec.retention.window=8")] {
        let coded = ["--recipe", recipe, "--prompt", "50", "--block", "4", "--stored", "f16", "--set", set];
        let small = ["--set", "codec.recent=8", "--set", "codec.page=8"];
        let coded = [&args[..], &[text.to_str().unwrap()], &coded, &small].concat();
        let output = tether(folder.path(), &coded);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let rows = String::from_utf8(output.stdout).unwrap();
        let rows: Vec<Value> = rows.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let row = rows.iter().find(|r| r["recipe"] == recipe).unwrap();
        assert!(row["worse_by"].as_f64().unwrap().abs() < 0.5, "{row}");
        assert!(row["resident_bytes"].as_u64() < rows[0]["resident_bytes"].as_u64(), "{row}");
    }

    // It can be installed from where it is.
    let output = tether(folder.path(), &["fetch", "smollm2", "--from", model]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let installed = String::from_utf8(output.stdout).unwrap();
    assert!(Path::new(installed.trim()).starts_with(folder.path()), "{installed}");
    let output = tether(folder.path(), &["generate", "--max-tokens", "1", prompt]);
    assert_eq!(output.stdout, b" Paris\n");
}

#[test]
fn a_profile_is_of_one_model_and_questions_are_answered() {
    let Some(model) = model_or_skip() else { return };
    let (folder, model) = (tempfile::tempdir().unwrap(), model.to_str().unwrap().to_owned());
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (text, heads, svg) = (at("text"), at("heads.json"), at("curves.svg"));
    let numbers: Vec<String> =
        (0..260).map(|i| format!("item {} is {}", i * 7919 % 997, i * 31 % 89)).collect();
    std::fs::write(&text, numbers.join(", ")).unwrap();
    let run = |args: &[&str]| {
        let output = tether(folder.path(), args);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), error)
    };
    let probe =
        ["profile", "heads", "--model", &model, "--text", &text, "--tokens", "64", "--period", "24", "-o"];
    let (code, _, error) = run(&[&probe[..], &[&heads]].concat());
    assert_eq!(code, Some(0), "{error}");
    let mut written: Value = serde_json::from_slice(&std::fs::read(&heads).unwrap()).unwrap();
    assert_eq!(written["sha256"], SMOLLM2.sha256);
    assert_eq!(written["layers"].as_array().unwrap().len(), 30);

    let quiz =
        ["--model", &model, "--text", &text, "--length", "256", "--seeds", "1", "--depths", "2", "--json"];
    let under = ["--recipe", "razor-attention", "--budget", "0.3", "--profile", &heads, "--svg", &svg];
    let (code, rows, error) = run(&[&["eval", "recall"], &quiz[..], &under].concat());
    assert_eq!(code, Some(0), "{error}");
    let rows: Vec<Value> = rows.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(rows.len(), 2 * 5);
    assert!(rows[0]["probability"].as_f64().unwrap() > 0.2, "{}", rows[0]);
    assert!(rows[4]["resident_bytes"].as_u64() < rows[0]["resident_bytes"].as_u64(), "{}", rows[4]);
    assert!(std::fs::read_to_string(&svg).unwrap().contains("razor-attention"));

    written["sha256"] = "0".repeat(64).into();
    std::fs::write(&heads, written.to_string()).unwrap();
    let (code, _, error) = run(&[&["eval", "needle"], &quiz[..], &under].concat());
    assert!(code == Some(3) && error.contains("tether profile heads"), "{error}");
}

/// The model's file; `None` after saying why the test is skipped.
fn model_or_skip() -> Option<std::path::PathBuf> {
    let path = SMOLLM2.path().filter(|p| p.is_file());
    if path.is_none() {
        let required = std::env::var("TETHER_REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|r| r.trim() == "smollm2"), "TETHER_REQUIRE names smollm2");
        eprintln!("skipped: no SmolLM2: run `tether fetch smollm2`, or set {}", SMOLLM2.variable);
    }
    path
}
