//! `tether video`, short.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn tether(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tether")).args(args).output().unwrap()
}

fn video(out: &Path, extra: &[&str]) -> Output {
    video_of_steps("2", out, extra)
}

fn video_of_steps(steps: &str, out: &Path, extra: &[&str]) -> Output {
    let mut args =
        vec!["video", "--frames", "27", "--budget", "12", "--steps", steps, "--out", out.to_str().unwrap()];
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

#[test]
fn step_reuse_and_a_cache_recipe_share_a_run_and_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("reuse");
    video_of_steps(
        "6",
        &out,
        &["--recipe", "fifo,tethercache", "--reuse", "fora:interval=2", "--no-timings"],
    );
    let report = report(&out);
    assert_eq!(report["experiment"]["reuse"], "fora:interval=2");
    let reuse = report["reuse"].as_array().unwrap();
    assert_eq!((&reuse[0]["name"], &reuse[1]["name"]), (&"fifo".into(), &"tethercache".into()));
    // 6 steps, 3 of them reused, in 16 modules of 6 chunks.
    assert_eq!(reuse[0]["stats"]["reused"], 2 * 16 * 6);
    assert_eq!(reuse[0]["stats"]["computed"], 4 * 16 * 6);
    let text = std::fs::read_to_string(out.join("report.md")).unwrap();
    assert!(text.contains("## Step reuse") && text.contains("`fora:interval=2`"), "{text}");
}

#[test]
fn a_profile_serves_the_run_that_it_was_measured_for_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let profile = folder.path().join("mag");
    let path = profile.to_str().unwrap();
    let made = tether(&[
        "reuse", "profile", "magcache", "--steps", "6", "--scenes", "1", "--frames", "12", "-o", path,
    ]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let out = folder.path().join("video");
    let reuse = ["--recipe", "tethercache", "--reuse", "magcache", "--reuse-profile", path];
    video_of_steps("6", &out, &reuse);
    assert!(report(&out)["reuse"][0]["stats"]["reused"].as_u64().unwrap() > 0);
    let other =
        [&["video", "--frames", "27", "--budget", "12", "--steps", "5", "--out", path][..], &reuse].concat();
    let refused = tether(&other);
    assert_eq!(refused.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("made for steps 6, this run has 5"));
    let without =
        tether(&["video", "--frames", "27", "--budget", "12", "--reuse", "magcache", "--out", path]);
    assert_eq!(without.status.code(), Some(3));
    let unknown =
        tether(&["video", "--frames", "27", "--budget", "12", "--reuse", "easycash", "--out", path]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("easycache"));
}

#[test]
fn policies_are_listed_and_shown() {
    let list = String::from_utf8(tether(&["reuse"]).stdout).unwrap();
    assert_eq!(list.lines().count(), 13);
    let shown = String::from_utf8(tether(&["reuse", "show", "easycache:threshold=0.2"]).stdout).unwrap();
    assert!(shown.contains("threshold = 0.2"), "{shown}");
}
