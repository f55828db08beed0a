//! `tether replay` of token traces, as a user runs it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/kvpress").join(format!("{name}.safetensors"))
}

fn replay(trace: &Path, out: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tether"));
    command.arg("replay").arg(trace).arg("-o").arg(out).args(args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn floats(view: &TensorView<'_>) -> Vec<f32> {
    assert_eq!(view.dtype(), Dtype::F32);
    view.data().as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

fn integers(view: &TensorView<'_>) -> Vec<i64> {
    match view.dtype() {
        Dtype::I64 => view.data().as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect(),
        Dtype::I32 => view.data().as_chunks().0.iter().map(|&b| i32::from_le_bytes(b).into()).collect(),
        Dtype::U8 => view.data().iter().map(|&b| b.into()).collect(),
        other => panic!("{other:?}"),
    }
}

/// Replays the inputs of `seed`, and compares what the golden case `case` holds.
fn replays(case: &str, seed: usize, args: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    let output = replay(&golden(&format!("inputs_seed{seed}")), &out, args);
    assert!(output.status.success(), "{case}: {}", stderr(&output));
    let (expected, got) =
        (std::fs::read(golden(&format!("{case}_seed{seed}"))).unwrap(), std::fs::read(&out).unwrap());
    let (expected, got) =
        (SafeTensors::deserialize(&expected).unwrap(), SafeTensors::deserialize(&got).unwrap());
    let mut compared = 0;
    for (theirs, ours) in [("scores", "scores"), ("k_compressed", "k"), ("v_compressed", "v")] {
        let Ok(expected) = expected.tensor(theirs) else { continue };
        let got = got.tensor(ours).unwrap();
        assert_eq!(got.shape(), expected.shape(), "{case}: {ours}");
        for (g, e) in floats(&got).iter().zip(&floats(&expected)) {
            let scale = if ours == "scores" { e.abs().max(1e-6) } else { 1.0 };
            assert!((g - e).abs() <= 1e-5 * scale, "{case}: {g} for {e} in {ours}");
        }
        compared += 1;
    }
    if let Ok(kept) = expected.tensor("kept_sorted") {
        let (ours, theirs) = (integers(&got.tensor("kept").unwrap()), integers(&kept));
        let scores = got.tensor("scores").unwrap();
        let (tokens, kept) = (scores.shape()[1], kept.shape()[1]);
        assert_eq!(ours.len(), theirs.len(), "{case}");
        let heads = floats(&scores);
        for ((ours, theirs), row) in ours.chunks(kept).zip(theirs.chunks(kept)).zip(heads.chunks(tokens)) {
            // A swap of tokens whose scores are closer than 1e-6: LagKV's ranks are equal from block to block.
            let only =
                |a: &[i64], b: &[i64]| a.iter().copied().filter(|t| !b.contains(t)).collect::<Vec<_>>();
            for (a, b) in only(ours, theirs).into_iter().zip(only(theirs, ours)) {
                let (a, b) = (row[a as usize], row[b as usize]);
                assert!((a - b).abs() < 1e-6, "{case}: scores {a} and {b}");
            }
        }
        compared += 1;
    }
    if let Ok(mask) = expected.tensor("keep_mask") {
        for (head, row) in integers(&mask).chunks_exact(mask.shape()[1]).enumerate() {
            let expected: Vec<i64> = (0..).zip(row).filter(|(_, m)| **m != 0).map(|(t, _)| t).collect();
            let kept = got.tensor(&format!("kept.{head}")).unwrap();
            assert_eq!(integers(&kept), expected, "{case}");
            let shape = [expected.len(), 64];
            assert_eq!(got.tensor(&format!("k.{head}")).unwrap().shape(), shape);
            assert_eq!(got.tensor(&format!("v.{head}")).unwrap().shape(), shape);
        }
        compared += 1;
    }
    assert!(compared > 0, "{case} was not compared");
}

/// The commands that `golden/kvpress/README.md` lists.
const CASES: &[(&str, &str)] = &[
    ("snapkv_w32_k5_r50", "--recipe snapkv --set score.window=32"),
    ("snapkv_w64_k7_r75", "--recipe snapkv --set score.kernel=7 --set budget.ratio=0.25"),
    ("tova_r50", "--recipe tova"),
    ("streamingllm_r50", "--recipe streaming-llm"),
    ("keydiff_r50", "--recipe keydiff"),
    ("knorm_r50", "--recipe knorm"),
    ("expected_attention_r50", "--recipe expected-attention"),
    (
        "expected_attention_nocov_eps_r50",
        "--recipe expected-attention --set score.covariance=false --set score.epsilon=0.02",
    ),
    ("lagkv_lag32_r50", "--recipe lagkv --set score.lag=32"),
    ("rerotate_streamingllm_r50", "--recipe streaming-llm"),
    ("rerotate_keydiff_r50", "--recipe keydiff --set position.kind=contiguous"),
    ("chunkkv_snapkv_w32_c20_r50", "--recipe chunkkv --set score.window=32"),
    ("adakv_snapkv_w32_a20_r50", "--recipe adakv --set score.window=32"),
    ("merging_knorm_r50", "--recipe merging"),
    ("criticalkv_snapkv_w32_r50", "--recipe criticalkv --set score.base.window=32"),
    ("observed_attention_r50", "--recipe observed-attention"),
    ("pyramidkv_w32_layer0_r50", "--recipe pyramidkv --set score.window=32 --layer 0 --layers 8"),
    ("pyramidkv_w32_layer7_r50", "--recipe pyramidkv --set score.window=32 --layer 7 --layers 8"),
    (
        "official_snapkv_avgpool",
        "--recipe snapkv --set score.window=32 --set score.heads=separate --set score.reduce=sum",
    ),
    (
        "official_snapkv_maxpool",
        "--recipe snapkv --set score.window=32 --set score.heads=separate --set score.reduce=sum --set score.pool=max",
    ),
];

#[test]
fn golden_traces_are_reproduced() {
    let readme = std::fs::read_to_string(golden("x").with_file_name("README.md")).unwrap();
    for (case, args) in CASES {
        assert!(readme.contains(args), "the README should list `{args}` for {case}");
        let args: Vec<&str> = args.split(' ').collect();
        for seed in 0..2 {
            // The attention and the output projection were recorded for seed 0 only.
            if golden(&format!("{case}_seed{seed}")).exists()
                && !(seed == 1 && case.starts_with("criticalkv"))
            {
                replays(case, seed, &args);
            }
        }
    }
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// The repository of Elastic Cache came with keys, values and attention only: a trace needs no queries where attention is recorded.
#[test]
fn recorded_attention_stands_in_for_queries() {
    let folder = tempfile::tempdir().unwrap();
    let (trace, out) = (folder.path().join("trace.safetensors"), folder.path().join("out.safetensors"));
    for (case, [kept, sink], whole) in
        [("r50", ["0.5", "4"], true), ("r50", ["0.5", "4"], false), ("r20", ["0.8", "1"], false)]
    {
        for seed in 0..2 {
            let what = format!("{case} seed {seed}");
            let bytes = std::fs::read(golden(&format!("official_elastic_{case}_seed{seed}"))).unwrap();
            let file = SafeTensors::deserialize(&bytes).unwrap();
            let read = |name: &str| floats(&file.tensor(name).unwrap());
            let mut tensors = Vec::new();
            for layer in 0..2 {
                for (side, name) in [("k_in", "k_post"), ("v_in", "v")] {
                    let data = bytes_of(&read(&format!("{side}.{layer}")));
                    tensors.push((format!("layer{layer}.{name}"), vec![4, 96, 16], data));
                }
                tensors.push(if whole {
                    let attention = bytes_of(&read(&format!("attn.{layer}")));
                    (format!("layer{layer}.attention"), vec![4, 96, 96], attention)
                } else {
                    // Summed over heads too: every head has the sum.
                    let sums = read("score_sum")[layer * 96..][..96].repeat(4);
                    (format!("layer{layer}.attention_sums"), vec![4, 96], bytes_of(&sums))
                });
            }
            let views = tensors.iter().map(|(name, shape, bytes)| {
                (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
            });
            safetensors::serialize_to_file(views, None, &trace).unwrap();
            let (ratio, sink) = (format!("budget.ratio={kept}"), format!("budget.sink={sink}"));
            let fields = [&ratio, &sink, "select.kind=elastic-official", "edit.official=true"];
            let args = ["--recipe", "elastic-cache"]
                .into_iter()
                .chain(fields.into_iter().flat_map(|f| ["--set", f]));
            let output = replay(&trace, &out, &args.collect::<Vec<_>>());
            assert!(output.status.success(), "{what}: {}", stderr(&output));
            let bytes = std::fs::read(&out).unwrap();
            let got = SafeTensors::deserialize(&bytes).unwrap();
            for layer in 0..2 {
                for (theirs, ours) in [("k_out", "k"), ("v_out", "v")] {
                    let expected = read(&format!("{theirs}.{layer}"));
                    let got = floats(&got.tensor(&format!("layer{layer}.{ours}")).unwrap());
                    assert_eq!(got.len(), expected.len(), "{what}");
                    for (g, e) in got.iter().zip(&expected) {
                        assert!((g - e).abs() <= 1e-5, "{what}: {g} for {e} in layer {layer}");
                    }
                }
            }
        }
    }
}

/// Windows and blocks that the methods' own repositories chose.
#[test]
fn repositories_choices_are_reproduced() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    let kept = |seed: usize, args: &str| {
        let args: Vec<&str> = args.split_whitespace().collect();
        let output = replay(&golden(&format!("inputs_seed{seed}")), &out, &args);
        assert!(output.status.success(), "{}", stderr(&output));
        let bytes = std::fs::read(&out).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let kept = file.tensor("kept").unwrap();
        let row = kept.shape()[1];
        integers(&kept).chunks_exact(row).map(<[i64]>::to_vec).collect::<Vec<_>>()
    };
    for seed in 0..2 {
        for (pool, task) in [("max", "question-answering"), ("average", "aggregation")] {
            let bytes = std::fs::read(golden(&format!("official_windowkv_{pool}_seed{seed}"))).unwrap();
            let file = SafeTensors::deserialize(&bytes).unwrap();
            let mut expected = integers(&file.tensor("kept_cache_order.layer0").unwrap());
            expected.sort_unstable();
            let args = "--recipe window-kv --layer 0 --layers 8 --set budget.tokens=128 --set budget.layers.shared=2";
            for head in kept(seed, &format!("{args} --set score.task={task}")) {
                assert_eq!(head, expected, "windows, {pool}, seed {seed}");
            }
        }
        for chunk in 1..=2 {
            let bytes =
                std::fs::read(golden(&format!("official_rekv_topk4_chunk{chunk}_seed{seed}"))).unwrap();
            let file = SafeTensors::deserialize(&bytes).unwrap();
            let tokens = [256, 320][seed];
            let retrieved = integers(&file.tensor("retrieved").unwrap());
            let mut blocks: Vec<i64> = retrieved.iter().flat_map(|b| 16 + 16 * b..32 + 16 * b).collect();
            blocks.sort_unstable();
            let expected: Vec<i64> = (0..16).chain(blocks).chain(tokens - 32..tokens).collect();
            for head in kept(seed, &format!("--recipe rekv --set select.top=4 --set select.chunk={chunk}")) {
                assert_eq!(head, expected, "blocks, chunk {chunk}, seed {seed}");
            }
        }
    }
}

/// A trace of two layers in half precision, as models write them.
fn small(folder: &Path, spoil: impl Fn(&str, &mut Vec<f32>)) -> PathBuf {
    let path = folder.join("trace.safetensors");
    let mut tensors = Vec::new();
    for layer in [0, 12] {
        for (side, heads) in [("q_post", 4), ("q_pre", 4), ("k_post", 2), ("k_pre", 2), ("v", 2)] {
            let name = format!("layer{layer}.{side}");
            let mut data: Vec<f32> =
                (0..heads * 10 * 4).map(|i| ((i * 37 % 41) as f32 - 20.0) / 20.0).collect();
            spoil(&name, &mut data);
            let bytes: Vec<u8> = data.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect();
            tensors.push((name, vec![heads, bytes.len() / 2 / heads / 4, 4], Dtype::F16, bytes));
        }
    }
    let mut frequencies = vec![1f32, 0.1];
    spoil("inv_freq", &mut frequencies);
    let bytes: Vec<u8> = frequencies.iter().flat_map(|x| x.to_le_bytes()).collect();
    tensors.push(("inv_freq".to_owned(), vec![frequencies.len()], Dtype::F32, bytes));
    let views = tensors.iter().map(|(name, shape, dtype, bytes)| {
        (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, &path).unwrap();
    path
}

#[test]
fn layers_keep_their_names_and_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let trace = small(folder.path(), |_, _| {});
    let out = folder.path().join("deep/er/out.safetensors");
    for recipe in ["streaming-llm", "snapkv", "h2o", "keydiff", "merging", "quest", "full"] {
        let output = replay(&trace, &out, &["--recipe", recipe, "--set", "budget.ratio=0.6"]);
        assert!(output.status.success(), "{}", stderr(&output));
        let bytes = std::fs::read(&out).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let kept = if recipe == "full" { 10 } else { 6 };
        for prefix in ["layer0.", "layer12."] {
            let tensor = |side: &str| file.tensor(&format!("{prefix}{side}"));
            // Quest reads everything in the first layers.
            let kept = if recipe == "quest" && prefix == "layer0." { 10 } else { kept };
            assert_eq!(tensor("kept").unwrap().shape(), [2, kept], "{recipe}");
            assert_eq!(tensor("k").unwrap().shape(), [2, kept, 4]);
            assert_eq!(tensor("scores").is_ok(), kept < 10);
            let moved = tensor("positions");
            assert_eq!(moved.is_ok(), recipe == "streaming-llm");
            if let Ok(moved) = moved {
                assert_eq!(integers(&moved)[..6], [0, 1, 2, 3, 4, 5]);
            }
        }
        let log: serde_json::Value =
            serde_json::from_slice(&std::fs::read(out.with_extension("json")).unwrap()).unwrap();
        assert_eq!(log["layers"], 13);
        assert_eq!(log["log"][1]["layer"], 12);
        assert_eq!(log["recipe"]["unit"], "token");
    }
}

#[test]
fn what_cannot_be_replayed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    let refused = |trace: &Path, args: &[&str], code: i32, words: &[&str]| {
        let output = replay(trace, &out, args);
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{message}");
        for word in words {
            assert!(message.contains(word), "{message:?} should say {word:?}");
        }
        assert!(!message.contains("panicked"), "{message}");
        assert!(!out.exists(), "nothing should be written");
    };
    let sound = small(folder.path(), |_, _| {});
    refused(&sound, &["--recipe", "snapkw"], 2, &["did you mean `snapkv`"]);
    refused(&sound, &["--set", "score.widnow=3"], 2, &["did you mean `window`"]);
    refused(&sound, &["--set", "budget.ratio=2"], 2, &["budget.ratio = 2"]);
    refused(&sound, &["--set", "budget.ratio=0.5", "--layer", "3"], 2, &["--layer"]);
    refused(&sound, &["--layers", "5"], 2, &["layer 12"]);
    refused(&sound, &["--recipe", "tethercache"], 2, &["no recipe"]);
    refused(&sound, &["--recipe", "criticalkv", "--set", "score.base.window=3"], 3, &["output projection"]);
    refused(&sound, &["--recipe", "razor-attention", "--set", "budget.ratio=0.5"], 3, &["head profile"]);
    let missing = folder.path().join("profile.json");
    refused(&sound, &["--profile", missing.to_str().unwrap()], 3, &["profile.json"]);
    std::fs::write(&missing, "{\"layers\": 3}").unwrap();
    refused(&sound, &["--profile", missing.to_str().unwrap()], 3, &["profile.json"]);
    std::fs::write(&missing, "{\"layers\": []}").unwrap();
    let args =
        ["--recipe", "razor-attention", "--set", "budget.ratio=0.5", "--profile", missing.to_str().unwrap()];
    refused(&sound, &args, 2, &["layers of the head profile"]);
    let overwrite = replay(&sound, &sound, &[]);
    assert_eq!(overwrite.status.code(), Some(2), "{}", stderr(&overwrite));

    let nan = small(folder.path(), |name, data| {
        if name == "layer12.v" {
            data[7] = f32::NAN;
        }
    });
    refused(&nan, &[], 3, &["layer12.v", "element 7"]);
    let short = small(folder.path(), |name, data| {
        if name == "layer0.v" {
            data.truncate(72);
        }
    });
    refused(&short, &[], 3, &["layer0.v", "shape"]);
    let many = small(folder.path(), |name, data| {
        if name == "inv_freq" {
            data.push(0.01);
        }
    });
    refused(&many, &[], 3, &["inv_freq", "shape"]);
    let without = small(folder.path(), |name, data| {
        if name == "layer0.q_post" {
            data.truncate(16);
        }
    });
    refused(&without, &["--set", "score.window=4", "--set", "budget.ratio=0.5"], 3, &["rotated queries"]);
}

#[test]
fn frames_have_no_layers_to_number() {
    let trace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/tethercache/sim_main.safetensors");
    let folder = tempfile::tempdir().unwrap();
    let output = replay(&trace, &folder.path().join("out"), &["--layers", "3"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}

#[test]
fn recipes_of_one_name_are_told_apart_by_unit() {
    let show = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_tether")).args(["recipes", "show"]).args(args).output();
        let output = output.unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned(), stderr(&output))
    };
    assert!(show(&["full"]).1.contains("unit = \"frame\""));
    assert!(show(&["full", "--unit", "token"]).1.contains("unit = \"token\""));
    assert!(show(&["snapkv"]).1.contains("kind = \"snapkv\""));
    let (code, _, message) = show(&["snapkw"]);
    assert_eq!(code, Some(2));
    assert!(message.contains("did you mean `snapkv`"), "{message}");
    assert_eq!(show(&["snapkv", "--unit", "frame"]).0, Some(2));
}
