//! What the device does at most.

use std::time::Instant;

use tether_core::{CoreError, DType};
use tether_kernels::Cube;
use tether_kernels::cubecl::Runtime;

use crate::bench::{Ceilings, time};

/// Measures them. A device that cannot hold the buffers gets smaller ones.
pub(crate) fn measure<R: Runtime>(engine: &Cube<R>) -> Result<Ceilings, CoreError> {
    let len = 64 << 20;
    let from = [engine.noise(&[len], DType::F32, 1)?, engine.noise(&[len], DType::F32, 2)?];
    let to = [engine.noise(&[len], DType::F32, 3)?, engine.noise(&[len], DType::F32, 4)?];
    let bytes = 4.0 * len as f64;
    let copy = time(engine, 2, &mut |i| engine.copy_through(&from[i], &to[i]))?;
    let large = engine.noise(&[4 * len], DType::F32, 6)?;
    let read = time(engine, 1, &mut |_| engine.read_through(&large, &to[0]))?;
    let dtype = if engine.supports(DType::BF16) { DType::BF16 } else { DType::F16 };
    let sums = engine.noise(&[128 * 132 * 16], DType::F32, 5)?;
    let mut flop = None;
    let product = time(engine, 1, &mut |_| {
        flop = engine.multiply_through(&sums, 2048, dtype);
        Ok(())
    })?;
    let launch = time(engine, 1, &mut |_| {
        (0..1000).for_each(|_| engine.launch_nothing(&sums));
        Ok(())
    })?;
    engine.wait()?;
    let start = Instant::now();
    (0..1000).for_each(|_| engine.launch_nothing(&sums));
    let launch_host = start.elapsed();
    engine.wait()?;
    Ok(Ceilings {
        copy: 2.0 * bytes / copy.ms * 1e-6,
        read: 4.0 * bytes / read.ms * 1e-6,
        matmul: flop.map(|f| f / product.ms * 1e-9),
        launch_host_us: launch_host.as_secs_f64() * 1e3,
        launch_us: launch.ms,
    })
}
