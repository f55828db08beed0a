//! The published TetherCache code's own simulations, pass by pass.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::collections::BTreeSet;

use tether_testing::{Golden, Op, assert_close, golden_json, tolerance};
use tethercache::core::Readback;
use tethercache::layout::RegionSpec;
use tethercache::prelude::*;

struct Settings {
    recipe: Recipe,
    geometry: Geometry,
    capacity: usize,
    memory: usize,
}

fn settings(json: &serde_json::Value) -> Settings {
    let n = |key: &str| json[key].as_u64().unwrap_or_else(|| panic!("{key}")) as usize;
    let dtype = match json["dtype"].as_str() {
        Some("torch.float32") => DType::F32,
        Some("torch.bfloat16") => DType::BF16,
        other => panic!("dtype {other:?}"),
    };
    let mut recipe = Recipe::tethercache()
        .with_overrides(&[
            format!("score.diversity.alpha={}", json["alpha"]),
            format!("score.temperature={}", json["temperature"]),
            format!("edit.tau={}", json["tau"]),
            "compat=official".to_owned(),
        ])
        .unwrap();
    recipe.layout = RegionSpec {
        sink: n("S"),
        memory: n("M"),
        recent: tethercache::layout::Extent::Units(n("R")),
        archive: tethercache::layout::Archive::None,
    };
    let geometry = Geometry {
        layers: 1,
        query_heads: n("H"),
        kv_heads: n("H"),
        head_dim_k: n("D"),
        head_dim_v: n("D"),
        tokens_per_unit: n("F"),
        units_per_chunk: n("chunk"),
        sequences: 1,
        dtype,
        rope: RopeKind::wan(n("h"), n("w")),
    };
    Settings { recipe, geometry, capacity: n("K"), memory: n("M") }
}

/// Replays a simulation on `engine` and returns how many frames were edited.
fn replay<E: Engine>(engine: E, name: &str) -> u64 {
    let json = golden_json(&format!("tethercache/{name}.json"));
    let golden = Golden::load(&format!("tethercache/{name}.safetensors"));
    let Settings { recipe, geometry, capacity, memory } = settings(&json);
    let unit = geometry.tokens_per_unit * geometry.kv_heads * geometry.head_dim_k;
    let out_shape = geometry.output_shape();
    let dtype = geometry.dtype;
    let mut cache = KvCache::new(engine, geometry, recipe).unwrap();
    let mut edits = 0;
    // Slots whose frame was edited, until they are written again.
    let mut edited = BTreeSet::new();
    for row in json["log"].as_array().unwrap() {
        let (chunk, pass) = (row["chunk"].as_u64().unwrap(), row["pas"].as_u64().unwrap());
        let stem = format!("c{chunk:02}.p{pass}");
        let part = |side: &str| golden.tensor(&format!("{stem}.{side}")).clone();
        let drop_batch = |t: HostTensor| {
            let shape = t.shape()[1..].to_vec();
            t.reshaped(&shape).unwrap()
        };
        let up = |side: &str, cache: &KvCache<E>| cache.engine().upload(&drop_batch(part(side))).unwrap();
        let (q, k, v) = (up("q", &cache), up("k", &cache), up("v", &cache));
        let clean = row["context"].as_bool().unwrap();
        let kind = if clean { Pass::clean(chunk) } else { Pass::denoise(chunk) };
        cache.stage(0, kind, &k, &v).unwrap();
        if clean {
            let report = cache.commit(0, chunk, &q).unwrap();
            let admitted: Vec<_> = report.plan.memory.iter().flat_map(|m| &m.admit).map(|m| m.slot).collect();
            edits += admitted.len() as u64;
            edited.extend(admitted);
            assert_eq!(edits, row["edits"].as_u64().unwrap(), "{stem}: edits so far");
        }
        let window = &cache.tables(0).unwrap().windows()[0];
        let indices: Vec<i64> =
            window.memory_units().iter().map(|u| u.map_or(-1, |u| i64::try_from(u.0).unwrap())).collect();
        assert_eq!(indices.len(), memory);
        assert_eq!(indices, golden.integers(&format!("{stem}.mem_index")), "{stem}: memory indices");

        window.chunk_slots().iter().for_each(|s| {
            edited.remove(s);
        });
        let (keys, values) = cache.contiguous_unrotated(0, 0).unwrap();
        let stored = cache.engine().read(&[&keys, &values]).unwrap().wait().unwrap();
        for (side, got) in [("cache_k", stored[0].to_f32_vec()), ("cache_v", stored[1].to_f32_vec())] {
            let expected = golden.f32(&format!("{stem}.{side}"));
            assert_eq!(expected.len(), capacity * unit);
            for (place, expected) in expected.chunks_exact(unit).enumerate() {
                let what = format!("{name} {stem}: {side} at place {place}");
                let Some(got) = got.get(place * unit..(place + 1) * unit) else {
                    assert!(expected.iter().all(|&x| x == 0.0), "{what} should be unused");
                    continue;
                };
                if edited.contains(&window.slots()[place]) {
                    assert_close(&what, got, expected, tolerance(Op::Align, dtype));
                } else {
                    assert_eq!(got, expected, "{what}");
                }
            }
        }
        let poison = HostTensor::from_f32(&out_shape, vec![f32::NAN; out_shape.iter().product()]).unwrap();
        let mut out = cache.engine().upload(&poison).unwrap();
        cache.attend(0, &q, &mut out).unwrap();
        let expected = golden.f32(&format!("{stem}.out"));
        assert_close(
            &format!("{name} {stem}: out"),
            &cache.engine().read(&[&out]).unwrap().wait().unwrap()[0].to_f32_vec(),
            &expected,
            tolerance(Op::Attend, dtype),
        );
    }
    edits
}

fn main_simulation<E: Engine>(engine: E) {
    assert!(replay(engine, "sim_main") > 5, "the simulation should edit frames");
}

fn bf16_simulation<E: Engine>(engine: E) {
    assert!(replay(engine, "sim_bf16") > 3, "the simulation should edit frames");
}

fn misaligned_simulation<E: Engine>(engine: E) {
    assert!(replay(engine, "sim_misaligned") > 0, "the simulation should edit frames");
}

#[test]
fn the_main_simulation_is_reproduced() {
    main_simulation(Host::new());
}

#[test]
fn the_bf16_simulation_is_reproduced() {
    bf16_simulation(Host::new());
}

#[test]
fn the_misaligned_simulation_is_reproduced_with_its_labels_and_zero_frames() {
    misaligned_simulation(Host::new());
}

/// The same on a GPU. A runtime that is not there is skipped, with the reason, unless `TETHER_REQUIRE` names it.
#[cfg(any(feature = "wgpu", feature = "cuda", feature = "rocm"))]
mod on_a_device {
    use tether_testing::or_skip;
    use tethercache::kernels::{Cube, ProbeError, cubecl::Runtime};

    use super::*;

    fn simulations<R: Runtime>(name: &str, probe: fn() -> Result<Cube<R>, ProbeError>) {
        let Some(engine) = or_skip(name, probe()) else { return };
        let stores_bf16 = engine.supports(DType::BF16);
        main_simulation(engine);
        misaligned_simulation(probe().unwrap());
        if stores_bf16 {
            bf16_simulation(probe().unwrap());
        } else {
            eprintln!("skipped: {name} does not store bf16 here");
        }
    }

    #[cfg(feature = "wgpu")]
    #[test]
    fn wgpu_reproduces_the_simulations() {
        // As `TETHER_REQUIRE` names what wgpu compiles to.
        let name = match (cfg!(feature = "vulkan"), cfg!(feature = "metal")) {
            (true, _) => "vulkan",
            (_, true) => "metal",
            _ => "wgpu",
        };
        simulations(name, tethercache::kernels::wgpu);
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn cuda_reproduces_the_simulations() {
        simulations("cuda", tethercache::kernels::cuda);
    }

    #[cfg(feature = "rocm")]
    #[test]
    fn rocm_reproduces_the_simulations() {
        simulations("rocm", tethercache::kernels::rocm);
    }
}
