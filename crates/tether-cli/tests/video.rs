//! `tether video`, short.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn tether(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tether")).args(args).output().unwrap()
}

fn video(out: &Path, extra: &[&str]) -> Output {
    let mut args =
        vec!["video", "--frames", "27", "--budget", "12", "--steps", "2", "--out", out.to_str().unwrap()];
    args.extend(extra);
    let output = tether(&args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn report(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("report.json")).unwrap()).unwrap()
}

#[test]
fn the_same_seed_gives_the_same_bytes_whatever_the_number_of_jobs() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    video(&a, &["--no-timings", "--jobs", "1", "--scenes", "2", "--recipe", "fifo,tethercache"]);
    video(&b, &["--no-timings", "--jobs", "2", "--scenes", "2", "--recipe", "fifo,tethercache"]);
    let mut names: Vec<_> = std::fs::read_dir(&a).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["quality.svg", "report.json", "report.md", "sheet.png", "video-0.gif", "video-1.gif"]);
    for name in names {
        assert!(
            std::fs::read(a.join(&name)).unwrap() == std::fs::read(b.join(&name)).unwrap(),
            "{name:?} differs"
        );
    }
    assert!(report(&a).get("timings").is_none());
    // Another seed is another video.
    let c = folder.path().join("c");
    video(&c, &["--no-timings", "--scenes", "2", "--recipe", "fifo,tethercache", "--seed", "2"]);
    assert_ne!(std::fs::read(a.join("video-0.gif")).unwrap(), std::fs::read(c.join("video-0.gif")).unwrap());
}

#[test]
fn reports_are_the_same_but_for_the_measured_times() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str| {
        let out = folder.path().join(name);
        let output = video(&out, &["--recipe", "tethercache", "--json"]);
        let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
        let mut report = report(&out);
        assert_eq!(printed, report);
        assert!(report["timings"].is_object() || report["timings"].is_array(), "{report}");
        report.as_object_mut().unwrap().remove("timings");
        report
    };
    assert_eq!(run("a"), run("b"));
}

#[test]
fn recipes_share_the_budget_and_an_override_shows_the_difference() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, extra: &[&str]| {
        let out = folder.path().join(name);
        video(&out, extra);
        std::fs::read_to_string(out.join("report.json")).unwrap()
    };
    let own = run("own", &["--recipe", "tethercache"]);
    assert!(own.contains("memory = 3") && own.contains("recent = 6"), "{own}");
    let published = run("published", &["--recipe", "tethercache", "--set", "layout.recent=4"]);
    assert!(published.contains("memory = 5") && published.contains("recent = 4"), "{published}");
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let refused = |args: &[&str], word: &str| {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("none");
        let mut all = vec!["video", "--out", out.to_str().unwrap()];
        all.extend(args);
        let output = tether(&all);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(word), "{message:?} should say {word:?}");
        assert!(!out.exists());
    };
    refused(&["--frames", "28"], "multiple of 3");
    refused(&["--frames", "9"], "above 9");
    refused(&["--frames", "12"], "at least 13");
    refused(&["--scenes", "0"], "between 1 and 1000");
    refused(&["--budget", "20"], "multiple");
    refused(&["--budget", "2"], "smaller than the chunk");
    refused(&["--budget", "2", "--recipe", "tethercache"], "does not fit");
    refused(&["--steps", "0"], "steps");
    refused(&["--jobs", "0"], "jobs");
    refused(&["--budget", "3000000000"], "at most 100000");
    if !cfg!(feature = "rocm") {
        refused(&["--device", "rocm"], "--features rocm");
    }
    refused(&["--device", "abacus"], "possible values");
    refused(&["--recipe", "fifo,fifo"], "twice");
    refused(&["--recipe", "fifo,full", "--set", "name=x"], "twice");
    refused(&["--recipe", "full", "--set", "layout.archive=true"], "archive");
    refused(&["--recipe", "tethercache", "--set", "edit.tau=2"], "tau");
    refused(&["--recipe", "fifi"], "did you mean `fifo`");
    refused(&["--set", "layout.recnt=4"], "did you mean `recent`");
}
