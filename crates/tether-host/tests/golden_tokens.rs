//! Token operations against what published code computes (`golden/kvpress`, `golden/smollm`).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use tether_core::{
    CoreError, Engine, HostTensor, Pairing, Pool, Rotation, TokenEngine, TokenLayout, WindowSpec,
};
use tether_host::Host;
use tether_testing::{Golden, Tolerance, assert_close};

const TOKENS: usize = 320;
const SCORE: Tolerance = Tolerance { abs: 1e-9, rel: 1e-5 };

fn inputs() -> Golden {
    Golden::load("kvpress/inputs_seed1.safetensors")
}

/// The last `window` queries of each head.
fn window_of(q: &HostTensor, window: usize) -> HostTensor {
    let &[heads, tokens, dim] = q.shape() else { panic!("queries should have heads, tokens and channels") };
    let all = q.to_f32_vec();
    let last = all.chunks_exact(tokens * dim).flat_map(|head| &head[(tokens - window) * dim..]).copied();
    HostTensor::from_f32(&[heads, window, dim], last.collect()).unwrap()
}

/// The prefix's scores and the window's places, chosen by the engine: `[heads, kept]`.
fn chosen(scores: &HostTensor, window: usize, kept: usize) -> Vec<i64> {
    let engine = Host::new();
    let chosen = engine.top_k(scores, kept - window).unwrap();
    let prefix = scores.shape()[1];
    let chosen = engine.read_indices(&chosen).unwrap();
    let rows = chosen.chunks_exact(kept - window);
    rows.flat_map(|row| row.iter().map(|&i| i64::from(i)).chain((prefix..prefix + window).map(|i| i as i64)))
        .collect()
}

/// Frequencies as the reference has them, in `f32`.
fn frequencies(golden: &Golden) -> Vec<f64> {
    golden.f32("inv_freq").into_iter().map(f64::from).collect()
}

fn half_split<'a>(frequencies: &'a [f64], deltas: &'a [&'a [i32]]) -> Rotation<'a> {
    Rotation {
        pairing: Pairing::Half,
        rotary_dim: 64,
        first_pair: 0,
        frequencies,
        axes: &[],
        deltas,
        tokens_per_delta: 1,
        scale: 1.0,
    }
}

#[test]
fn window_scores_and_selections_are_those_of_kvpress() {
    let inputs = inputs();
    let engine = Host::new();
    for (name, window, pool) in
        [("snapkv_w32_k5_r50", 32, Pool::Mean(5)), ("snapkv_w64_k7_r75", 64, Pool::Mean(7))]
    {
        let golden = Golden::load(&format!("kvpress/{name}_seed1.safetensors"));
        let q = window_of(inputs.tensor("q_post"), window);
        let scores =
            engine.window_scores(&q, inputs.tensor("k_post"), &WindowSpec { scale: 0.125, pool }).unwrap();
        let prefix = TOKENS - window;
        let all = golden.f32("scores");
        let expected: Vec<f32> = all.chunks_exact(TOKENS).flat_map(|row| &row[..prefix]).copied().collect();
        assert_close(name, scores.as_f32().unwrap(), &expected, SCORE);

        let kept = golden.integers("kept_sorted");
        assert_eq!(chosen(&scores, window, kept.len() / 2), kept, "{name}");
        // The same with scores that mark the window, as the reference selects.
        let marked = golden.tensor("scores");
        let selected = engine.top_k(marked, kept.len() / 2).unwrap();
        assert_eq!(
            selected.values().iter().map(|&i| i64::from(i)).collect::<Vec<_>>(),
            kept,
            "{name}: marked"
        );

        for (all, compressed) in [("k_post", "k_compressed"), ("v", "v_compressed")] {
            let got = engine.gather_rows(inputs.tensor(all), TokenLayout::Hnd, &selected).unwrap();
            assert_eq!(&got, golden.tensor(compressed), "{name}: {compressed}");
        }
    }
}

#[test]
fn window_scores_and_selections_are_those_of_the_snapkv_repository() {
    let inputs = inputs();
    let engine = Host::new();
    // Keys repeated to the query heads.
    let keys = inputs.f32("k_post");
    let repeated: Vec<f32> = keys.chunks_exact(TOKENS * 64).flat_map(|head| head.repeat(4)).collect();
    let k = HostTensor::from_f32(&[8, TOKENS, 64], repeated).unwrap();
    let q = window_of(inputs.tensor("q_post"), 32);
    for (name, pool) in [("avgpool", Pool::Mean(5)), ("maxpool", Pool::Max(5))] {
        let golden = Golden::load(&format!("kvpress/official_snapkv_{name}_seed1.safetensors"));
        let scores = engine.window_scores(&q, &k, &WindowSpec { scale: 0.125, pool }).unwrap();
        // The repository adds the window's queries up, and does not divide.
        let expected: Vec<f32> = golden.f32("scores_prefix").iter().map(|s| s / 32.0).collect();
        assert_close(name, scores.as_f32().unwrap(), &expected, SCORE);
        let kept = golden.integers("kept_sorted");
        let got = chosen(&scores, 32, kept.len() / 8);
        // A maximum makes neighbours equal, and the reference takes equal ones in any order: what is chosen must be worth the same.
        let worth = |choice: &[i64]| {
            let rows = choice.chunks_exact(kept.len() / 8).zip(expected.chunks_exact(288));
            let sorted = rows.map(|(choice, scores)| {
                let mut worth: Vec<f32> =
                    choice.iter().filter(|&&i| i < 288).map(|&i| scores[i as usize]).collect();
                worth.sort_by(f32::total_cmp);
                worth
            });
            sorted.collect::<Vec<_>>()
        };
        assert_eq!(worth(&got), worth(kept), "{name}");
        assert!(pool == Pool::Max(5) || got == kept, "{name}: means are not equal");
    }
}

#[test]
fn rotations_are_those_of_transformers() -> Result<(), CoreError> {
    let inputs = inputs();
    let positions: Vec<i32> = inputs.integers("positions").iter().map(|&p| p as i32).collect();
    let (frequencies, deltas) = (frequencies(&inputs), [positions.as_slice()]);
    let engine = Host::new();
    let rotation = engine.upload_rotation(&half_split(&frequencies, &deltas))?;
    for (before, after) in [("k_pre", "k_post"), ("q_pre", "q_post")] {
        let got = engine.rotated(inputs.tensor(before), TokenLayout::Hnd, &rotation)?;
        // The reference multiplies positions and frequencies in `f32`: off by up to 2^-16 for 319 radians, times both of a pair.
        let largest = inputs.f32(before).iter().fold(0f32, |m, x| m.max(x.abs()));
        let tolerance = Tolerance { abs: f64::from(largest) * 2f64.powi(-15), rel: 0.0 };
        assert_close(after, got.as_f32().unwrap(), &inputs.f32(after), tolerance);
    }
    Ok(())
}

#[test]
fn kept_keys_move_as_kvpress_moves_them() -> Result<(), CoreError> {
    let (inputs, golden) = (inputs(), Golden::load("kvpress/rerotate_keydiff_r50_seed1.safetensors"));
    let engine = Host::new();
    let frequencies = frequencies(&inputs);
    let kept: Vec<u32> = golden.integers("kept_sorted").iter().map(|&i| i as u32).collect();
    let per_head = kept.len() / 2;
    let indices = engine.upload_indices(&[2, per_head], &kept)?;
    let compact = engine.gather_rows(inputs.tensor("k_post"), TokenLayout::Hnd, &indices)?;
    // Heads keep different tokens and move by deltas of their own: as one head of all their tokens, in the same memory order.
    let mut compact = compact.reshaped(&[2 * per_head, 1, 64])?;
    let deltas: Vec<i32> =
        kept.iter().enumerate().map(|(i, &old)| (i % per_head) as i32 - old as i32).collect();
    let deltas = [deltas.as_slice()];
    let rotation = engine.upload_rotation(&half_split(&frequencies, &deltas))?;
    engine.rotate(&mut compact, TokenLayout::Nhd, &rotation)?;
    let tolerance = Tolerance { abs: 1e-4, rel: 0.0 };
    assert_close("moved keys", compact.as_f32().unwrap(), &golden.f32("k_compressed"), tolerance);
    Ok(())
}

#[test]
fn keys_of_a_real_model_rotate_in_half_precision() -> Result<(), CoreError> {
    let golden = Golden::load("smollm/rope_1024.safetensors");
    let positions: Vec<i32> = (0..1024).collect();
    let (frequencies, deltas) = (frequencies(&golden), [positions.as_slice()]);
    let engine = Host::parallel();
    let rotation = engine.upload_rotation(&half_split(&frequencies, &deltas))?;
    let got = engine.rotated(golden.tensor("k_pre"), TokenLayout::Hnd, &rotation)?;
    // Both keys were rounded to `f16` (2^-11 of the larger of a pair), and the reference's angles to `f32`.
    let largest = golden.f32("k_pre").iter().fold(0f32, |m, x| m.max(x.abs()));
    let tolerance = Tolerance { abs: f64::from(largest) * 2f64.powi(-10), rel: 1e-3 };
    assert_close("k_post", &got.to_f32_vec(), &golden.f32("k_post"), tolerance);
    Ok(())
}
