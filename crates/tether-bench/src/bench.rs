//! Timing and records.

use std::time::Instant;

use serde::Serialize;
use tether_core::{CoreError, DType, Engine, HostTensor, Readback};
use tether_kernels::cubecl::Runtime;
use tether_kernels::{Cube, CubeTensor};

/// Bytes that the buffers of a timing pass through before one comes round again: four times the largest cache.
const ROTATION: u64 = 200_000_000;

/// What the device does at most, measured in this run.
#[derive(Clone, Debug, Serialize)]
pub struct Ceilings {
    /// Bytes read and written by a plain copy of 256 MiB, in GB/s.
    pub copy: f64,
    /// Bytes read by a plain read of 1 GiB, in GB/s.
    pub read: f64,
    /// Matrix products out of registers, in TFLOP/s; none without matrix units.
    pub matmul: Option<f64>,
    /// Host time of a launch, in microseconds: a thousand in a row, without waiting for them.
    pub launch_host_us: f64,
    /// Time of a launch from end to end in a row of a thousand, in microseconds.
    pub launch_us: f64,
}

/// Milliseconds of one call.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Of one call among many in a row: the device's time, or the host's where that is longer.
    pub ms: f64,
}

/// One operation at one shape.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// The operation.
    pub op: &'static str,
    /// Its shape.
    pub shape: String,
    /// What ran it.
    #[serde(rename = "impl")]
    pub implementation: String,
    /// Milliseconds, with launches in a row.
    pub ms: f64,
    /// The same: there is no graph of launches to replay.
    pub ms_stream: f64,
    /// Relative error against a reference in double precision.
    pub err: f64,
    /// Largest error that counts as right.
    pub tol: f64,
    /// The fewest bytes that the operation moves over its time, in GB/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gbps: Option<f64>,
    /// Operations over its time, in TFLOP/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tflops: Option<f64>,
    /// Share of the ceiling, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent_of_ceiling: Option<f64>,
    /// What else to know.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// Largest relative error of 16-bit results.
pub(crate) const CLOSE: f64 = 2e-2;

/// What bounds an operation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    /// Bytes read and written.
    Copy(f64),
    /// Bytes read.
    Read(f64),
    /// Operations of matrix products.
    Product(f64),
}

/// A run on one device.
pub struct Bench<'a, R: Runtime> {
    pub(crate) engine: &'a Cube<R>,
    ceilings: Ceilings,
    each: &'a mut dyn FnMut(&Record),
    note: &'a mut dyn FnMut(&str),
}

impl<R: Runtime> std::fmt::Debug for Bench<'_, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bench").field("engine", &self.engine).finish_non_exhaustive()
    }
}

impl<'a, R: Runtime> Bench<'a, R> {
    pub(crate) fn new(
        engine: &'a Cube<R>,
        ceilings: Ceilings,
        each: &'a mut dyn FnMut(&Record),
        note: &'a mut dyn FnMut(&str),
    ) -> Self {
        Self { engine, ceilings, each, note }
    }

    /// A line for whoever watches.
    pub(crate) fn say(&mut self, line: &str) {
        (self.note)(line);
    }

    /// The 16-bit type that the device has: bf16 where it can, else f16.
    pub(crate) fn half(&self) -> DType {
        if self.engine.supports(DType::BF16) { DType::BF16 } else { DType::F16 }
    }

    /// Buffers that a timing needs, so that none is in a cache when it comes round again.
    pub(crate) fn sets(bytes: usize) -> usize {
        usize::try_from(ROTATION.div_ceil(bytes.max(1) as u64)).unwrap_or(1).clamp(1, 32)
    }

    /// Times `call(set)`, set 0 to `sets - 1` in turn.
    pub(crate) fn time(
        &self,
        sets: usize,
        mut call: impl FnMut(usize) -> Result<(), CoreError>,
    ) -> Result<Timing, CoreError> {
        time(self.engine, sets, &mut call)
    }

    /// Hands a record on. `work` gives its rate and its share of the ceiling.
    pub(crate) fn record(
        &mut self,
        op: &'static str,
        shape: impl Into<String>,
        timing: Timing,
        (err, tol): (f64, f64),
        work: Work,
        note: &str,
    ) {
        let seconds = timing.ms * 1e-3;
        let rate = |amount: f64| amount / seconds;
        let (gbps, tflops, ceiling) = match work {
            Work::Copy(bytes) => (Some(rate(bytes) * 1e-9), None, Some(self.ceilings.copy)),
            Work::Read(bytes) => (Some(rate(bytes) * 1e-9), None, Some(self.ceilings.read)),
            Work::Product(flop) => (None, Some(rate(flop) * 1e-12), self.ceilings.matmul),
        };
        let percent_of_ceiling = ceiling.and_then(|c| gbps.or(tflops).map(|r| 100.0 * r / c));
        (self.each)(&Record {
            op,
            shape: shape.into(),
            implementation: format!("tethercache {}", self.engine.name()),
            ms: timing.ms,
            ms_stream: timing.ms,
            err,
            tol,
            gbps,
            tflops,
            percent_of_ceiling,
            note: note.into(),
        });
    }

    /// A tensor on the host, widened.
    pub(crate) fn read(&self, tensor: &CubeTensor) -> Result<Vec<f32>, CoreError> {
        let data = host(self.engine, tensor)?;
        Ok(data.data().widened(0..data.data().len()).into_owned())
    }
}

/// A tensor on the host.
pub(crate) fn host<R: Runtime>(engine: &Cube<R>, tensor: &CubeTensor) -> Result<HostTensor, CoreError> {
    let mut all = engine.read(&[tensor])?.wait()?;
    all.pop().ok_or(CoreError::Count { what: "tensors read", expected: 1, got: 0 })
}

/// Milliseconds of a call: twice as many calls less as many, so that what waiting costs falls out; the median of five.
pub(crate) fn time<R: Runtime>(
    engine: &Cube<R>,
    sets: usize,
    call: &mut dyn FnMut(usize) -> Result<(), CoreError>,
) -> Result<Timing, CoreError> {
    let mut batch = |count: usize| -> Result<f64, CoreError> {
        engine.wait()?;
        let start = Instant::now();
        for i in 0..count {
            call(i % sets)?;
        }
        engine.wait()?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    };
    // The first calls compile.
    batch(sets.max(2))?;
    let estimate = (batch(sets.max(2))? / sets.max(2) as f64).max(1e-3);
    // About 8 ms, whole rotations, at least 3 calls.
    let count = ((8.0 / estimate).ceil() as usize).clamp(3, 512).next_multiple_of(sets);
    let mut all: Vec<f64> = (0..5)
        .map(|_| Ok((batch(2 * count)? - batch(count)?) / count as f64))
        .collect::<Result<_, CoreError>>()?;
    all.sort_by(f64::total_cmp);
    Ok(Timing { ms: all[2] })
}
