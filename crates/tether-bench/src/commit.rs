//! A whole commit of the headline recipe: score, select, align, tables, for every layer of a model, with one wait.

use std::time::Instant;

use tether_core::{CoreError, Engine, Geometry, LayerId, RopeKind};
use tether_kernels::Cube;
use tether_kernels::cubecl::Runtime;
use tethercache::{Error, KvCache, Pass, Recipe};

use crate::Bench;
use crate::bench::{Timing, Work};

const LAYERS: usize = 30;
/// Chunks until memory is full, and those that are timed.
const WARM: u64 = 9;
const TIMED: u64 = 9;

pub(crate) fn run<R: Runtime>(bench: &mut Bench<'_, R>) -> Result<(), CoreError> {
    let engine = Cube::new(bench.engine.client().clone());
    let geometry = Geometry {
        layers: LAYERS,
        query_heads: 12,
        kv_heads: 12,
        head_dim_k: 128,
        head_dim_v: 128,
        tokens_per_unit: 1560,
        units_per_chunk: 3,
        sequences: 1,
        dtype: bench.half(),
        rope: RopeKind::wan(30, 52),
    };
    let shape = geometry.key_shape();
    let dtype = geometry.dtype;
    let noise = |seed: u64| bench.engine.noise(&shape, dtype, seed as u32);
    let q = noise(1000)?;
    let core = |error: Error| match error {
        Error::Core(error) => error,
        other => CoreError::Device { engine: bench.engine.name(), message: other.to_string() },
    };
    let mut cache = KvCache::new(engine, geometry, Recipe::tethercache()).map_err(core)?;
    let queries: Vec<_> = (0..LAYERS).map(|l| (LayerId(l as u32), &q)).collect();
    let mut times = Vec::new();
    let (mut edited, mut other) = (0, 0);
    for chunk in 0..WARM + TIMED {
        let (k, v) = (noise(2 * chunk)?, noise(2 * chunk + 1)?);
        for layer in 0..LAYERS {
            cache.stage(LayerId(layer as u32), Pass::clean(chunk), &k, &v).map_err(core)?;
        }
        bench.engine.wait()?;
        let before = cache.engine().traffic();
        let start = Instant::now();
        cache.commit_layers(chunk, &queries).map_err(core)?;
        bench.engine.wait()?;
        let elapsed = start.elapsed().as_secs_f64() * 1e3;
        if chunk >= WARM {
            let after = cache.engine().traffic();
            times.push(elapsed);
            edited += after.edited - before.edited;
            other += (after.gathered - before.gathered)
                + (after.grown - before.grown)
                + (after.written - before.written);
        }
    }
    times.sort_by(f64::total_cmp);
    let timing = Timing { ms: times[times.len() / 2] };
    let note = format!(
        "{dtype}; from the call to a device at rest, one wait; worst {:.2} ms; {} bytes aligned a commit, {other} copied",
        times[times.len() - 1],
        edited / TIMED,
    );
    // What is aligned is read and written.
    let work = Work::Copy(2.0 * edited as f64 / TIMED as f64);
    bench.record("commit", "l30_f17x1560_h12d128", timing, (0.0, 0.0), work, &note);
    Ok(())
}
