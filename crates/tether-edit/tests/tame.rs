//! Trusted alignment against the published code, its hand-worked examples, and statistics taken anew.

use proptest::prelude::*;
use tether_core::{
    DType, Edit, Engine, Moments, Readback, Region, Side, SlotId, StoreSpec, Summaries, TensorData,
};
use tether_edit::{AlignMoments, EditError, SequenceEdit, align_tokens};
use tether_host::Host;
use tether_testing::{Golden, Op, Tolerance, assert_close, golden_json, token_moments, tolerance};

#[test]
fn matches_the_published_code() {
    let cases = golden_json("tethercache/unit_cases.json");
    let golden = Golden::load("tethercache/tame_unit.safetensors");
    let tame = cases["tame"].as_object().unwrap();
    assert_eq!(tame.len(), 6);
    for (name, case) in tame {
        let x = golden.tensor(&format!("{name}.x"));
        let channels = x.shape()[2] * x.shape()[3];
        // The published statistics run over the batch as well: all of it is one group.
        let own = Moments::of_tokens(&x.to_f32_vec(), channels);
        let trusted = Moments::of_tokens(&golden.f32(&format!("{name}.trusted")), channels);
        let tau = case["tau"].as_f64().unwrap() as f32;
        let mut tokens = x.to_f32_vec();
        align_tokens(&mut tokens, own.view(), trusted.view(), tau).unwrap();
        if let TensorData::BF16(_) = x.data() {
            tokens.iter_mut().for_each(|t| *t = half::bf16::from_f32(*t).to_f32());
        }
        let expected = golden.f32(&format!("{name}.y"));
        assert_close(name, &tokens, &expected, tolerance(Op::Align, x.dtype()));
        if !case["edited"].as_bool().unwrap() {
            assert_eq!(tokens, x.to_f32_vec(), "{name} should be untouched");
        }
    }
}

#[test]
fn matches_the_examples_worked_by_hand() {
    let aligned = |tau: f32, mut x: [f32; 2]| {
        let own = Moments::of_tokens(&x, 1);
        let trusted = Moments::of_tokens(&[10.0, 14.0], 1);
        align_tokens(&mut x, own.view(), trusted.view(), tau).unwrap();
        x
    };
    let close = |got: [f32; 2], expected: [f32; 2]| {
        assert_close("hand", &got, &expected, Tolerance { abs: 1e-5, rel: 0.0 });
    };
    close(aligned(0.35, [1.0, 3.0]), [4.15, 6.85]);
    close(aligned(1.0, [1.0, 3.0]), [10.0, 14.0]);
    close(aligned(0.35, [2.0, 2.0]), [5.5, 5.5]);
}

#[test]
fn refuses_what_it_cannot_do() {
    let m = Moments::of_tokens(&[1.0, 2.0], 1);
    let two = Moments::of_tokens(&[1.0, 2.0], 2);
    let mut x = [1.0, 2.0];
    assert!(matches!(align_tokens(&mut x, m.view(), m.view(), 1.5), Err(EditError::Tau { .. })));
    assert!(matches!(align_tokens(&mut x, m.view(), m.view(), f32::NAN), Err(EditError::Tau { .. })));
    assert!(matches!(align_tokens(&mut x, m.view(), two.view(), 0.5), Err(EditError::Channels { .. })));
    assert!(matches!(
        align_tokens(&mut [1.0; 3], two.view(), two.view(), 0.5),
        Err(EditError::Length { .. })
    ));
    assert_eq!(x, [1.0, 2.0]);
    // Nobody to trust.
    align_tokens(&mut x, m.view(), Moments::default().view(), 0.5).unwrap();
    assert_eq!(x, [1.0, 2.0]);
}

#[test]
fn plans_one_job_per_admission_or_one_over_the_batch() {
    let [a, b, c, d] = [0, 1, 2, 3].map(SlotId);
    let first = SequenceEdit { sink: &[a], admitted: &[b], ..SequenceEdit::default() };
    let second = SequenceEdit { sink: &[c], admitted: &[d], ..SequenceEdit::default() };
    let editor = AlignMoments { tau: 0.35, trusted: vec![Region::Sink, Region::Memory] };
    let Some(Edit::Align { jobs, .. }) = editor.plan(&[first, second], false).unwrap() else { panic!() };
    assert_eq!(
        jobs.iter().map(|j| (&j.slots[..], &j.trusted[..])).collect::<Vec<_>>(),
        [(&[b][..], &[a][..]), (&[d][..], &[c][..])]
    );
    let Some(Edit::Align { jobs, .. }) = editor.plan(&[first, second], true).unwrap() else { panic!() };
    assert_eq!((jobs.len(), &jobs[0].slots[..], &jobs[0].trusted[..]), (1, &[b, d][..], &[a, c][..]));
    let nothing = SequenceEdit { sink: &[c], ..SequenceEdit::default() };
    assert!(matches!(editor.plan(&[first, nothing], true), Err(EditError::Ragged { .. })));
    assert_eq!(AlignMoments { tau: 0.0, ..editor.clone() }.plan(&[first], false).unwrap(), None);
    let nobody = SequenceEdit { admitted: &[a], ..SequenceEdit::default() };
    assert_eq!(editor.plan(&[nobody], false).unwrap(), None);
}

fn tokens(channels: usize) -> impl Strategy<Value = Vec<f32>> {
    (1usize..12).prop_flat_map(move |rows| prop::collection::vec(-4.0f32..4.0, rows * channels))
}

proptest! {
    #[test]
    fn merged_moments_are_those_of_the_union(parts in prop::collection::vec(tokens(3), 1..6)) {
        let own: Vec<Moments> = parts.iter().map(|p| Moments::of_tokens(p, 3)).collect();
        let merged = Moments::merge(own.iter().map(Moments::view)).unwrap();
        let all: Vec<f32> = parts.concat();
        let (mean, m2) = token_moments(&all, 3);
        prop_assert_eq!(merged.count, all.len() as u64 / 3);
        for c in 0..3 {
            prop_assert!((f64::from(merged.mean[c]) - mean[c]).abs() < 1e-5);
            prop_assert!((f64::from(merged.m2[c]) - m2[c]).abs() < 1e-5 * (1.0 + m2[c]));
        }
    }

    #[test]
    fn moments_after_an_edit_equal_moments_taken_anew(x in tokens(3), t in tokens(3), tau in 0.0f32..=1.0) {
        let (own, trusted) = (Moments::of_tokens(&x, 3), Moments::of_tokens(&t, 3));
        let mut edited = x.clone();
        let after = align_tokens(&mut edited, own.view(), trusted.view(), tau).unwrap();
        let (mean, m2) = token_moments(&edited, 3);
        for c in 0..3 {
            // Channels with nearly no spread are amplified up to a million times, and their rounding with them.
            let amplified = f64::from(trusted.view().sd(c)) / f64::from(own.view().sd(c).max(1e-6)) * 1e-6;
            prop_assert!((f64::from(after.mean[c]) - mean[c]).abs() < 1e-5 + amplified, "mean {} for {}", after.mean[c], mean[c]);
            prop_assert!((f64::from(after.m2[c]) - m2[c]).abs() < 1e-5 * (1.0 + m2[c]) + amplified * (1.0 + m2[c]), "m2 {} for {}", after.m2[c], m2[c]);
        }
    }

    #[test]
    fn the_engine_edits_as_the_editor_does(
        frame in prop::collection::vec(-4.0f32..4.0, 8), pool in prop::collection::vec(-4.0f32..4.0, 16), tau in 0.0f32..=1.0,
    ) {
        let engine = Host::new();
        let spec = StoreSpec { slots: 3, tokens_per_unit: 4, kv_heads: 1, head_dim_k: 2, head_dim_v: 2, dtype: DType::F32 };
        let mut store = engine.create_store(&spec).unwrap();
        let all = tether_core::HostTensor::from_f32(&[12, 1, 2], [pool.clone(), frame.clone()].concat()).unwrap();
        engine.write(&mut store, &[SlotId(0), SlotId(1), SlotId(2)], &all, &all, Summaries::Moments).unwrap();
        let job = tether_core::AlignJob { slots: vec![SlotId(2)], trusted: vec![SlotId(0), SlotId(1)] };
        engine.align(&mut store, tau, &[job]).unwrap();
        let got = engine.gather(&store, Side::Values, &[SlotId(2)], None).unwrap().to_f32_vec();
        let (own, trusted) = (Moments::of_tokens(&frame, 2), Moments::of_tokens(&pool, 2));
        let mut expected = frame.clone();
        let after = align_tokens(&mut expected, own.view(), trusted.view(), tau).unwrap();
        let tol = Tolerance { abs: 1e-4, rel: 1e-4 };
        assert_close("edited", &got, &expected, tol);
        let moments = engine.moments(&store, Side::Values, &[SlotId(2)]).unwrap();
        let moments = engine.read(&[&moments]).unwrap().wait().unwrap().remove(0).to_f32_vec();
        assert_close("moments", &moments, &[after.mean, after.m2].concat(), tol);
        // The trusted frames are as they were.
        let trusted = engine.gather(&store, Side::Keys, &[SlotId(0), SlotId(1)], None).unwrap().to_f32_vec();
        prop_assert_eq!(trusted, pool);
    }
}
