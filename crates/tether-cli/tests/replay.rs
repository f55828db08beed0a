//! `tether replay`, as a user runs it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};

fn tether(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tether")).args(args).output().unwrap()
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/tethercache").join(name)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn floats(view: &TensorView<'_>) -> Vec<f32> {
    match view.dtype() {
        Dtype::F32 => view.data().as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        Dtype::BF16 => {
            let wide = |&b: &[u8; 2]| half::bf16::from_le_bytes(b).to_f32();
            view.data().as_chunks::<2>().0.iter().map(wide).collect()
        }
        other => panic!("{other:?}"),
    }
}

/// Replays a golden simulation and compares every tensor that it recorded.
fn replays(name: &str, extra: &[&str], tolerance: f32) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    let trace = golden(&format!("{name}.safetensors"));
    let mut args =
        vec!["replay", trace.to_str().unwrap(), "--recipe", "tethercache", "-o", out.to_str().unwrap()];
    args.extend(extra);
    let output = tether(&args);
    assert!(output.status.success(), "{}", stderr(&output));
    let (expected, got) = (std::fs::read(&trace).unwrap(), std::fs::read(&out).unwrap());
    let (expected, got) =
        (SafeTensors::deserialize(&expected).unwrap(), SafeTensors::deserialize(&got).unwrap());
    let mut compared = 0;
    for (name, expected) in expected.tensors() {
        let side = name.rsplit('.').next().unwrap();
        if ["q", "k", "v"].contains(&side) {
            continue;
        }
        let got = got.tensor(&name).unwrap();
        assert_eq!((got.dtype(), got.shape()), (expected.dtype(), expected.shape()), "{name}");
        if side == "mem_index" {
            assert_eq!(got.data(), expected.data(), "{name}");
        } else {
            let limit = if side == "out" { tolerance.max(1e-4) } else { tolerance };
            for (g, e) in floats(&got).iter().zip(&floats(&expected)) {
                assert!((g - e).abs() <= limit, "{name}: {g} for {e}");
            }
        }
        compared += 1;
    }
    assert!(compared >= 4 * 16, "{compared} tensors were compared");
    let log: Value = serde_json::from_slice(&std::fs::read(out.with_extension("json")).unwrap()).unwrap();
    assert_eq!(log["recipe"]["name"], "tethercache");
    output
}

#[test]
fn golden_simulations_are_reproduced() {
    replays("sim_main", &[], 1e-5);
    replays("sim_bf16", &[], 2e-2);
    let plain = replays("sim_misaligned", &[], 1e-5);
    assert!(stderr(&plain).contains("compat = \"official\""), "{}", stderr(&plain));
    let asked = replays("sim_misaligned", &["--set", "compat=official"], 1e-5);
    assert!(!stderr(&asked).contains("warning"), "{}", stderr(&asked));
}

#[test]
fn replaying_twice_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let trace = golden("sim_main.safetensors");
    let run = |name: &str| {
        let out = folder.path().join(name);
        let output = tether(&["replay", trace.to_str().unwrap(), "-o", out.to_str().unwrap()]);
        assert!(output.status.success(), "{}", stderr(&output));
        (std::fs::read(&out).unwrap(), std::fs::read(out.with_extension("json")).unwrap())
    };
    assert_eq!(run("a.safetensors"), run("b.safetensors"));
}

#[test]
fn every_recipe_replays_a_video_trace() {
    let folder = tempfile::tempdir().unwrap();
    let trace = golden("sim_main.safetensors");
    for recipe in ["tethercache", "fifo", "sink-recent", "uniform-archive", "full"] {
        let out = folder.path().join(recipe);
        let args = ["replay", trace.to_str().unwrap(), "--recipe", recipe, "-o", out.to_str().unwrap()];
        let output = tether(&args);
        assert!(output.status.success(), "{recipe}: {}", stderr(&output));
    }
}

/// A small trace in a folder of its own, whose settings and tensors a test may spoil.
struct Spoiled {
    folder: tempfile::TempDir,
    settings: Value,
    tensors: Vec<(String, Vec<usize>, Vec<f32>)>,
}

impl Spoiled {
    fn new() -> Self {
        let settings = json!({
            "S": 1, "M": 1, "R": 1, "K": 3, "C": 1, "h": 1, "w": 2, "F": 2, "H": 1, "D": 6,
            "alpha": 0.35, "tau": 0.35, "temperature": 1.0, "dtype": "float32"
        });
        let tensors = (0..5)
            .flat_map(|chunk| {
                ["q", "k", "v"].map(|side| {
                    let data = (0..12).map(|i| ((i * 7 + chunk * 3) % 11) as f32 * 0.1).collect();
                    (format!("c{chunk:02}.p0.{side}"), vec![1, 2, 1, 6], data)
                })
            })
            .collect();
        Self { folder: tempfile::tempdir().unwrap(), settings, tensors }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("trace.safetensors")
    }

    fn write(&self) {
        let bytes: Vec<Vec<u8>> =
            self.tensors.iter().map(|t| t.2.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
        let views = self.tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
            (name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
        });
        safetensors::serialize_to_file(views, None, &self.path()).unwrap();
        std::fs::write(self.path().with_extension("json"), self.settings.to_string()).unwrap();
    }

    /// Runs the replay as it stands on disk and expects `code` and a message with every one of `words`.
    fn refused(&self, extra: &[&str], code: i32, words: &[&str]) {
        let out = self.folder.path().join("out.safetensors");
        let path = self.path();
        let mut args = vec!["replay", path.to_str().unwrap(), "-o", out.to_str().unwrap()];
        args.extend(extra);
        let output = tether(&args);
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{message}");
        for word in words {
            assert!(message.contains(word), "{message:?} should say {word:?}");
        }
        assert!(!message.contains("panicked"), "{message}");
        assert!(!out.exists(), "nothing should be written");
    }

    fn refused_as_written(&self, extra: &[&str], code: i32, words: &[&str]) {
        self.write();
        self.refused(extra, code, words);
    }
}

#[test]
fn a_sound_trace_is_accepted() {
    let trace = Spoiled::new();
    trace.write();
    let out = trace.folder.path().join("deep/er/out.safetensors");
    let output = tether(&["replay", trace.path().to_str().unwrap(), "-o", out.to_str().unwrap()]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(out.exists());
}

#[test]
fn bad_settings_are_refused() {
    let spoil = |key: &str, value: Value| {
        let mut trace = Spoiled::new();
        trace.settings[key] = value;
        trace
    };
    spoil("K", json!(4)).refused_as_written(&[], 3, &["K = 4", "S + M + R"]);
    spoil("F", json!(3)).refused_as_written(&[], 3, &["F = 3", "h * w"]);
    spoil("dtype", json!("int8")).refused_as_written(&[], 3, &["dtype", "int8"]);
    spoil("H", json!(0)).refused_as_written(&[], 3, &["at least 1"]);
    spoil("H", json!("two")).refused_as_written(&[], 3, &["settings file"]);
    spoil("D", json!(u64::MAX - 1)).refused_as_written(&[], 3, &["overflow"]);
    spoil("S", json!(u64::MAX)).refused_as_written(&[], 3, &["S + M + R"]);
    spoil("tau", json!(1.5)).refused_as_written(&[], 3, &["tau = 1.5", "[0, 1]"]);
    spoil("alpha", json!(-1.0)).refused_as_written(&[], 3, &["alpha = -1"]);
    spoil("temperature", json!(0)).refused_as_written(&[], 3, &["temperature = 0"]);
    spoil("chunk", json!(2)).refused_as_written(&[], 3, &["C = Some(1)", "chunk = Some(2)"]);
    let mut missing = Spoiled::new();
    missing.settings.as_object_mut().unwrap().remove("alpha");
    missing.refused_as_written(&[], 3, &["alpha"]);
    // Two frames of one token a chunk instead of one frame of two.
    let two_frames = |recent: usize| {
        let mut trace = Spoiled::new();
        for (key, value) in [("C", 2), ("F", 1), ("w", 1), ("R", recent), ("K", 2 + recent)] {
            trace.settings[key] = json!(value);
        }
        trace
    };
    two_frames(1).refused_as_written(&[], 3, &["R = 1", "hold a chunk"]);
    let misaligned = two_frames(3);
    misaligned.refused_as_written(&["--set", "compat=per-sample"], 2, &["5", "multiple of the chunk of 2"]);
}

#[test]
fn bad_tensors_are_refused() {
    let spoil = |change: fn(&mut Spoiled)| {
        let mut trace = Spoiled::new();
        change(&mut trace);
        trace
    };
    spoil(|t| t.tensors.retain(|t| t.0 != "c02.p0.v")).refused_as_written(&[], 3, &["c02.p0.v"]);
    spoil(|t| t.tensors.retain(|t| !t.0.starts_with("c01"))).refused_as_written(&[], 3, &["c01.p0.q"]);
    spoil(|t| t.tensors.clear()).refused_as_written(&[], 3, &["no chunked trace"]);
    spoil(|t| t.tensors[0].0 = "c99999999.p0.q".into()).refused_as_written(&[], 3, &["lacks tensor"]);
    spoil(|t| t.tensors[0].0 = "l99999999.c00.p0.q".into()).refused_as_written(&[], 3, &["lacks tensor"]);
    spoil(|t| t.tensors[0].0 = "c00.p4294967295.q".into()).refused_as_written(&[], 3, &["lacks tensor"]);
    spoil(|t| t.tensors[4].1 = vec![1, 1, 2, 6]).refused_as_written(&[], 3, &["c01.p0.k", "shape"]);
    spoil(|t| t.tensors[4].2[5] = f32::NAN).refused_as_written(&[], 3, &["c01.p0", "element 5", "NaN"]);
    spoil(|t| t.tensors[12].2[0] = f32::NAN).refused_as_written(&[], 3, &["c04.p0", "finite"]);
    // Finite, but their squares are not.
    spoil(|t| t.tensors.iter_mut().for_each(|t| t.2.iter_mut().for_each(|x| *x *= 1e20))).refused_as_written(
        &[],
        3,
        &["NaN or infinite"],
    );
    spoil(|t| t.settings["dtype"] = json!("bfloat16")).refused_as_written(&[], 3, &["bf16", "F32"]);
}

#[test]
fn hostile_files_are_refused() {
    let trace = Spoiled::new();
    trace.write();
    let whole = std::fs::read(trace.path()).unwrap();
    for length in [0, 4, 8, 20, whole.len() / 2, whole.len() - 1] {
        std::fs::write(trace.path(), &whole[..length]).unwrap();
        trace.refused(&[], 3, &["not a whole safetensors file"]);
    }
    for header in [u64::MAX, 1 << 40, 0, whole.len() as u64] {
        let mut bytes = whole.clone();
        bytes[..8].copy_from_slice(&header.to_le_bytes());
        std::fs::write(trace.path(), bytes).unwrap();
        trace.refused(&[], 3, &["not a whole safetensors file"]);
    }
    let text = String::from_utf8_lossy(&whole[8..]).into_owned();
    let header = text.split("}}").next().unwrap().to_owned() + "}}";
    for (from, to) in [
        ("[1,2,1,6]", "[4294967296,4294967296,4294967296,6]"),
        ("\"data_offsets\":[0,", "\"data_offsets\":[9,"),
    ] {
        let spoiled = header.replacen(from, to, 1);
        assert_ne!(spoiled, header);
        let mut bytes = (spoiled.len() as u64).to_le_bytes().to_vec();
        bytes.extend(spoiled.as_bytes());
        bytes.extend(&whole[8 + header.len()..]);
        std::fs::write(trace.path(), bytes).unwrap();
        trace.refused(&[], 3, &["not a whole safetensors file"]);
    }
    std::fs::remove_file(trace.path()).unwrap();
    trace.refused(&[], 3, &["cannot read", "trace.safetensors"]);
    std::fs::write(trace.path(), &whole).unwrap();
    std::fs::remove_file(trace.path().with_extension("json")).unwrap();
    trace.refused(&[], 3, &["cannot read", "trace.json"]);
}

#[test]
fn bad_command_lines_are_refused() {
    let trace = Spoiled::new();
    trace.refused_as_written(&["--recipe", "tethercahe"], 2, &["did you mean `tethercache`"]);
    trace.refused_as_written(&["--set", "layout.recnt=4"], 2, &["recnt", "did you mean `recent`"]);
    trace.refused_as_written(&["--set", "layout.recent"], 2, &["key=value"]);
    trace.refused_as_written(&["--set", "layout.recent=-1"], 2, &["a number of units, or \"all\""]);
    trace.refused_as_written(&["--set", "edit.tau=1.5"], 2, &["tau = 1.5"]);
    let log = trace.folder.path().join("log.json");
    let output = tether(&["replay", trace.path().to_str().unwrap(), "-o", log.to_str().unwrap()]);
    assert_eq!((output.status.code(), log.exists()), (Some(2), false));
    let path = trace.path();
    let output = tether(&["replay", path.to_str().unwrap(), "-o", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("overwrite"));
    assert_eq!(tether(&["replay"]).status.code(), Some(2));
}

#[test]
fn recipes_are_listed_and_shown() {
    let list = tether(&["recipes"]);
    let text = String::from_utf8_lossy(&list.stdout).into_owned();
    for name in ["tethercache", "fifo", "sink-recent", "uniform-archive", "full", "arXiv:2606.13035", "proof"]
    {
        assert!(text.contains(name), "{text}");
    }
    let shown = tether(&["recipes", "show", "tethercache"]);
    let recipe = tethercache::Recipe::from_toml(&String::from_utf8_lossy(&shown.stdout)).unwrap();
    assert_eq!(recipe, tethercache::Recipe::tethercache());
    let unknown = tether(&["recipes", "show", "tether-cache"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(stderr(&unknown).contains("did you mean `tethercache`"));
}
