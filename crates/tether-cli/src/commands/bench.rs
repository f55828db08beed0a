//! `tether bench`.

#[cfg(feature = "bench")]
mod device;

use anyhow::Result;
#[cfg(feature = "bench")]
use tether_lab::table::{Table, numbers, words};
use tether_lab::usage::Usage;

use crate::cli::BenchArgs;

/// Runs the subcommand.
#[cfg(not(feature = "bench"))]
pub(crate) fn run(_: &BenchArgs) -> Result<()> {
    let how = "build it with --features cuda, vulkan, wgpu, metal or rocm, or run `cargo xtask bench`";
    Err(Usage(format!("this build has no GPU runtime to time: {how}")).into())
}

/// Runs the subcommand.
#[cfg(feature = "bench")]
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    let names = tether_bench::GROUPS;
    if let Some(unknown) = args.ops.iter().find(|op| !names.contains(&op.as_str())) {
        return Err(Usage(format!("no group of operations is called {unknown}: {}", names.join(", "))).into());
    }
    let device = args.device.unwrap_or(device::FIRST_GPU);
    tether_lab::device::check(device)?;
    let mut rows = Vec::new();
    let mut each = |record: &tether_bench::Record| {
        if args.json {
            println!("{}", serde_json::to_string(record).unwrap_or_default());
        } else {
            eprintln!("{:<22} {:<36} {:9.4} ms", record.op, record.shape, record.ms);
            rows.push(record.clone());
        }
    };
    let ceilings = device::bench(device, &args.ops, &mut each, &mut |line| eprintln!("{line}"))?;
    if args.json {
        eprintln!("{}", serde_json::to_string(&ceilings)?);
        return Ok(());
    }
    let matmul = ceilings.matmul.map_or("none".to_owned(), |m| format!("{m:.0} TFLOP/s"));
    println!(
        "ceilings of this device: copy {:.0} GB/s, read {:.0} GB/s, matrix products {matmul}; a launch {:.1} us of host \
         time, {:.1} us from end to end\n",
        ceilings.copy, ceilings.read, ceilings.launch_host_us, ceilings.launch_us,
    );
    let columns = [words("operation"), words("shape")].into_iter();
    let measured = ["ms", "rate", "% of ceiling", "error"].map(numbers);
    let mut table = Table::new(columns.chain(measured).chain([words("note")]));
    for r in &rows {
        let rate = r.gbps.map(|g| format!("{g:.0} GB/s"));
        let rate = rate.or_else(|| r.tflops.map(|t| format!("{t:.0} TFLOP/s"))).unwrap_or_default();
        let share = r.percent_of_ceiling.map_or(String::new(), |p| format!("{p:.0}"));
        let (ms, error) = (format!("{:.4}", r.ms), format!("{:.1e}", r.err));
        table.push([r.op.to_owned(), r.shape.to_string(), ms, rate, share, error, r.note.to_string()]);
    }
    print!("{}", table.markdown());
    let wrong: Vec<&str> = rows.iter().filter(|r| r.err > r.tol || r.err.is_nan()).map(|r| r.op).collect();
    anyhow::ensure!(wrong.is_empty(), "wrong results: {}", wrong.join(", "));
    Ok(())
}
