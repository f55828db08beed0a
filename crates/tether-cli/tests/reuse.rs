//! `tether eval reuse`, short.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::process::{Command, Output};

fn tether(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tether")).args(args).output().unwrap()
}

#[test]
fn policies_are_evaluated() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let eval = tether(&[
        "eval",
        "reuse",
        "--steps",
        "3",
        "--scenes",
        "2",
        "--frames",
        "15",
        "--policy",
        "fora:interval=2",
        "--policy",
        "none",
        "--out",
        out,
    ]);
    assert!(eval.status.success(), "{}", String::from_utf8_lossy(&eval.stderr));
    let table = String::from_utf8(eval.stdout).unwrap();
    // A run that reuses nothing is the full run.
    let none = table.lines().filter(|l| l.starts_with("| `none`")).nth(1).unwrap();
    assert!(none.contains("| 0% | 100.0% | 1.00 |") && none.contains("100.0 ± 0.0"), "{none}");
    assert!(folder.path().join("pareto-3.svg").exists());
    assert_eq!(std::fs::read_to_string(folder.path().join("points.jsonl")).unwrap().lines().count(), 2);
    assert!(table.contains("| seconds a video | speed-up by time |"), "{table}");
    let lines = std::fs::read_to_string(folder.path().join("numbers.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 3);
    let files = || {
        let untimed = tempfile::tempdir().unwrap();
        let out = untimed.path().to_str().unwrap();
        let run = ["--steps", "3", "--scenes", "2", "--frames", "15", "--policy", "fora:interval=2"];
        let eval = tether(&[&["eval", "reuse", "--no-timings", "--out", out][..], &run].concat());
        assert!(eval.status.success(), "{}", String::from_utf8_lossy(&eval.stderr));
        ["table.md", "numbers.jsonl", "pareto-3.svg"]
            .map(|file| std::fs::read_to_string(untimed.path().join(file)).unwrap())
    };
    let first = files();
    assert!(!first[0].contains("seconds") && !first[1].contains("seconds"), "{}", first[0]);
    assert_eq!(first, files());
}
