//! The forward pass against activations of the reference code.

#[path = "support/golden.rs"]
mod golden;
#[path = "support/reference_attention.rs"]
mod reference_attention;

use golden::{Golden, golden, max_abs_diff};
use reference_attention::{ReferenceAttention, rotate};
use tether_models::{
    ForwardError, ForwardObserver, ModelError, Schedule, TinyVideo, chunk_noise, sample_chunk,
};

/// The reference ran in f32: its own rounding is about a tenth of this.
const TOLERANCE: f32 = 1e-5;

/// Keeps every activation that the golden file has.
#[derive(Default)]
struct Trace(Vec<(String, Vec<f32>)>);

impl ForwardObserver for Trace {
    fn time(&mut self, e: &[f32], e0: &[f32]) {
        self.0.push(("e".into(), e.to_vec()));
        self.0.push(("e0".into(), e0.to_vec()));
    }

    fn embedded(&mut self, h: &[f32]) {
        self.0.push(("embed".into(), h.to_vec()));
    }

    fn block(&mut self, layer: usize, h: &[f32]) {
        self.0.push((format!("block{layer}"), h.to_vec()));
    }
}

/// `[tokens, heads, head_dim]` to the golden file's `[heads, tokens, head_dim]`.
fn heads_first(x: &[f32]) -> Vec<f32> {
    (0..3).flat_map(|h| (0..192).flat_map(move |n| (0..64).map(move |d| x[(n * 3 + h) * 64 + d]))).collect()
}

fn check(chunk: &str, golden: &Golden<'_>, got: &[(String, Vec<f32>)], names: &[&str]) {
    for name in names {
        let (_, got) = got.iter().find(|(n, _)| n == name).expect(name);
        let want = golden.f32(&format!("{chunk}.{name}"));
        let scale = want.iter().fold(1f32, |m, x| m.max(x.abs()));
        let error = max_abs_diff(got, &want) / scale;
        println!("{chunk}.{name}: {error:.2e} of {scale:.2}");
        assert!(error < TOLERANCE, "{chunk}.{name}: relative error {error:e}");
    }
}

fn run(model: &TinyVideo, x: &[f32], t: f32, attention: &mut ReferenceAttention) -> Vec<(String, Vec<f32>)> {
    let mut trace = Trace::default();
    let mut out = vec![0.0; x.len()];
    model
        .forward_observed(&mut model.workspace(), x, t, attention, &mut trace, &mut out)
        .expect("a well-formed chunk");
    let mut all = trace.0;
    all.push(("out".into(), out));
    for (layer, [q, k, v]) in attention.seen.iter().enumerate() {
        for (name, x) in [("q", q), ("k", k), ("v", v)] {
            all.push((format!("{name}{layer}"), heads_first(x)));
        }
    }
    all
}

#[test]
fn activations_match_the_reference() {
    let golden = Golden::open(golden!("golden_forward.safetensors"));
    let model = TinyVideo::bundled().expect("the bundled weights load");

    let mut first = ReferenceAttention::new(0, Vec::new());
    let got = run(&model, &golden.f32("c0.x"), 0.0, &mut first);
    let names = ["embed", "e", "e0", "q0", "k0", "v0", "q7", "k7", "v7", "block0", "block3", "block7", "out"];
    check("c0", &golden, &got, &names);

    let mut second = ReferenceAttention::new(3, first.seen);
    let got = run(&model, &golden.f32("c1.x"), golden.f32("c1.t")[0], &mut second);
    check("c1", &golden, &got, &["e", "e0", "q0", "k0", "v0", "block0", "block3", "block7", "out"]);
}

/// Guards the reference itself, so that two errors cannot cancel.
#[test]
fn reference_rotation_matches_the_golden_tables() {
    let golden = Golden::open(golden!("golden_forward.safetensors"));
    let (cos, sin) = (golden.f32("rope.cos_f0_5"), golden.f32("rope.sin_f0_5"));
    for token in 0..384 {
        for pair in 0..32 {
            let mut unit = vec![0.0; 64];
            unit[2 * pair] = 1.0;
            let rotated = rotate(&unit, token, 0);
            let (c, s) = (f64::from(cos[token * 32 + pair]), f64::from(sin[token * 32 + pair]));
            assert!((rotated[2 * pair] - c).abs() < 1e-6 && (rotated[2 * pair + 1] - s).abs() < 1e-6);
        }
    }
}

#[test]
fn a_pass_leaves_nothing_behind_in_its_workspace() {
    let model = TinyVideo::bundled().expect("the bundled weights load");
    let mut noise = vec![0.0; model.config().chunk_values()];
    chunk_noise(1, 2, 3, &mut noise);
    let pass = |ws: &mut _, t| {
        let mut out = vec![0.0; noise.len()];
        let mut attention = ReferenceAttention::new(0, Vec::new());
        model.forward(ws, &noise, t, &mut attention, &mut out).expect("a well-formed chunk");
        out
    };
    let mut used = model.workspace();
    pass(&mut used, 1.0);
    assert_eq!(pass(&mut used, 0.25), pass(&mut model.workspace(), 0.25));
}

/// The rollout's first generated chunk from the same noise: model, schedule, Euler steps and clamp together.
#[test]
fn a_sampled_chunk_matches_the_reference_rollout() {
    let golden = Golden::open(golden!("golden_rollout.safetensors"));
    let model = TinyVideo::bundled().expect("the bundled weights load");
    let mut ws = model.workspace();
    let frames = |x: Vec<f32>| -> Vec<tether_models::Frame> {
        x.chunks(3072).map(|f| tether_models::Frame::new(f.to_vec()).expect("a frame")).collect()
    };
    let given = tether_models::patchify(&frames(golden.f32("gt")));
    let chunk = model.config().chunk_values();
    let mut context = Vec::new();
    for (i, x) in given.chunks(chunk).enumerate() {
        let mut attention = ReferenceAttention::new(3 * i, context);
        model.forward(&mut ws, x, 0.0, &mut attention, &mut vec![0.0; chunk]).expect("a well-formed chunk");
        context = attention.into_context();
    }
    let noise = &golden.f32("noise")[3 * chunk..4 * chunk];
    let mut attention = ReferenceAttention::new(9, context);
    let got = sample_chunk(&model, &mut ws, noise, &Schedule::default(), &mut attention).expect("a chunk");
    let want = tether_models::patchify(&frames(golden.f32("fifo12.frames"))[9..12]);
    let error = max_abs_diff(&got, &want);
    println!("first generated chunk: {error:.2e}");
    assert!(error < 1e-4, "{error:e}");
}

#[test]
fn bad_arguments_are_errors() {
    let model = TinyVideo::bundled().expect("the bundled weights load");
    let mut ws = model.workspace();
    let n = model.config().chunk_values();
    let mut pass = |x: usize, t: f32, out: usize| {
        let mut attention = ReferenceAttention::new(0, Vec::new());
        model.forward(&mut ws, &vec![0.0; x], t, &mut attention, &mut vec![0.0; out])
    };
    assert!(pass(n, 0.5, n).is_ok());
    assert!(matches!(
        pass(n - 1, 0.5, n),
        Err(ForwardError::Model(ModelError::Length { what: "x", got, .. })) if got == n - 1
    ));
    assert!(matches!(
        pass(n, 0.5, 0),
        Err(ForwardError::Model(ModelError::Length { what: "out", got: 0, .. }))
    ));
    for t in [-0.1, 1.5, f32::NAN] {
        assert!(matches!(pass(n, t, n), Err(ForwardError::Model(ModelError::OutOfRange { what: "t", .. }))));
    }
}
