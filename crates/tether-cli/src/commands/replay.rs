//! `tether replay`: a recipe over a recorded trace.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use safetensors::{Dtype, View};
use serde_json::json;
use tethercache::core::{DType, HostTensor};
use tethercache::edit::AlignMoments;
use tethercache::host::Host;
use tethercache::layout::Extent;
use tethercache::score::GatedRecall;
use tethercache::{Compat, KvCache, Pass, Recipe};

use crate::cli::ReplayArgs;
use crate::token_trace::TokenTrace;
use crate::trace::{self, Settings, Trace};
use tether_lab::budget::is_set;
use tether_lab::progress;
use tether_lab::usage::Usage;

/// Runs the subcommand.
pub(crate) fn run(args: &ReplayArgs) -> Result<()> {
    let bytes = trace::read(&args.trace)?;
    let file = trace::container(&args.trace, &bytes)?;
    if TokenTrace::is_one(&file) {
        check_out(args)?;
        let trace = TokenTrace::read(&args.trace, &file)?;
        return super::replay_tokens::run(args, trace);
    }
    if args.layer.is_some() || args.layers.is_some() || args.profile.is_some() {
        return Err(Usage("--layer, --layers and --profile are for traces of tokens".into()).into());
    }
    let trace = Trace::read(&args.trace, &file)?;
    check_out(args)?;
    let recipe = recipe_for(args, &trace.settings)?;
    let cache = KvCache::new(Host::parallel(), trace.geometry.clone(), recipe)
        .with_context(|| format!("recipe {} on {}", name_of(args), args.trace.display()))?;
    let (tensors, log, cache) = replay(&trace, cache)?;
    let report = json!({
        "trace": args.trace.file_name().map(|n| n.to_string_lossy()),
        "recipe": cache.recipe(),
        "geometry": cache.geometry(),
        "bytes": cache.bytes(),
        "log": log,
    });
    write(args, tensors, &report)?;
    eprintln!(
        "{} chunks, {} passes, {} layers under {}: {} and {}",
        trace.passes.len(),
        trace.passes.iter().map(Vec::len).sum::<usize>(),
        trace.prefixes.len(),
        cache.recipe().name,
        args.out.display(),
        args.out.with_extension("json").display()
    );
    Ok(())
}

fn name_of(args: &ReplayArgs) -> &str {
    args.recipe.as_deref().unwrap_or("tethercache")
}

/// The tensors and the log have files of their own, neither of which is the trace.
fn check_out(args: &ReplayArgs) -> Result<(), Usage> {
    let out_json = args.out.with_extension("json");
    let is_trace =
        |path: &Path| same_file(path, &args.trace) || same_file(path, &args.trace.with_extension("json"));
    if args.out == out_json {
        return Err(Usage(format!("{} would hold both the tensors and the log", args.out.display())));
    }
    if is_trace(&args.out) || is_trace(&out_json) {
        return Err(Usage(format!("{} would overwrite the trace", args.out.display())));
    }
    Ok(())
}

/// Writes the tensors, and the report beside them.
pub(super) fn write(
    args: &ReplayArgs,
    tensors: Vec<(String, Output)>,
    report: &serde_json::Value,
) -> Result<()> {
    if let Some(parent) = args.out.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    }
    safetensors::serialize_to_file(tensors, None, &args.out)
        .with_context(|| format!("cannot write {}", args.out.display()))?;
    let out_json = args.out.with_extension("json");
    let text = serde_json::to_string_pretty(report).context("the report should have a JSON form")?;
    std::fs::write(&out_json, text + "\n").with_context(|| format!("cannot write {}", out_json.display()))
}

fn same_file(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

/// The recipe with the trace's sizes and strengths, and the command line's overrides on top.
fn recipe_for(args: &ReplayArgs, settings: &Settings) -> Result<Recipe> {
    let mut recipe = Recipe::named(name_of(args))?;
    let &Settings { sink, memory, recent, capacity, .. } = settings;
    // What a recipe has none of goes to its recent frames, so that every recipe has the trace's budget.
    if let Extent::Units(own) = &mut recipe.layout.recent {
        let has = |own: &mut usize, traced: usize| {
            if *own > 0 {
                *own = traced;
            }
            *own
        };
        *own = capacity - has(&mut recipe.layout.sink, sink) - has(&mut recipe.layout.memory, memory);
        debug_assert!(*own >= recent);
    }
    let mut strengths = Vec::new();
    if let Some(scorer) = recipe.score.as_ref().and_then(|part| part.downcast_ref::<GatedRecall>()) {
        strengths.push(format!("score.temperature={:?}", settings.temperature));
        if scorer.diversity.is_some() {
            strengths.push(format!("score.diversity.alpha={:?}", settings.alpha));
        }
    }
    if recipe.edit.as_ref().is_some_and(|part| part.is::<AlignMoments>()) {
        strengths.push(format!("edit.tau={:?}", settings.tau));
    }
    let mut recipe = recipe.with_overrides(&strengths)?.with_overrides(&args.overrides)?;
    if !is_set(&args.overrides, "compat") && !capacity.is_multiple_of(settings.chunk()) {
        eprintln!(
            "warning: the trace's window of {capacity} frames is not a multiple of its chunk of {}: replayed with \
             compat = \"official\", labels and zero frames included (--set compat=per-sample refuses it)",
            settings.chunk()
        );
        recipe.compat = Compat::Official;
    }
    Ok(recipe)
}

/// A tensor to be written, as the little-endian bytes of the format.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) shape: Vec<usize>,
    pub(super) dtype: Dtype,
    pub(super) bytes: Vec<u8>,
}

impl View for Output {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        (&self.bytes).into()
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

type Replayed = (Vec<(String, Output)>, Vec<serde_json::Value>, KvCache<Host>);

fn replay(trace: &Trace, mut cache: KvCache<Host>) -> Result<Replayed> {
    let total: usize = trace.passes.iter().map(Vec::len).sum();
    let bar = progress::bar(total as u64, "replay {bar:40} {pos}/{len} passes, {eta} left", "")?;
    let mut tensors = Vec::new();
    let mut log = Vec::new();
    let g = cache.geometry().clone();
    for (chunk, passes) in trace.passes.iter().enumerate() {
        for (pass, layers) in passes.iter().enumerate() {
            let clean = pass + 1 == passes.len();
            for (layer, recorded) in layers.iter().enumerate() {
                let stem = format!("{}c{chunk:02}.p{pass}", trace.prefixes[layer]);
                let kind = if clean { Pass::clean(chunk as u64) } else { Pass::denoise(chunk as u64) };
                let step = || format!("replaying {stem}");
                let staged = cache.stage(layer, kind, &recorded.k, &recorded.v).with_context(step)?;
                let recalled = if staged.began_chunk {
                    Some(cache.recall(layer, &recorded.q).with_context(step)?)
                } else {
                    None
                };
                let recalled = recalled.filter(|plan| !plan.memory.is_empty());
                let committed = if clean {
                    let report = cache.commit(layer, chunk as u64, &recorded.q).with_context(step)?;
                    // A measured time would make two replays differ.
                    Some(tethercache::Report { planning: Duration::ZERO, ..report })
                } else {
                    None
                };
                let mut out = HostTensor::zeros(&g.output_shape(), DType::F32)?;
                cache.attend(layer, &recorded.q, &mut out).with_context(step)?;
                record(&mut tensors, &cache, layer, &stem, out).with_context(step)?;
                let mut row =
                    json!({ "pass": stem, "clean": clean, "staged": staged, "committed": committed });
                if let Some(plan) = recalled {
                    row["recalled"] = json!(plan);
                }
                log.push(row);
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok((tensors, log, cache))
}

/// The state of a layer after a pass, under the names that a trace gives it.
fn record(
    tensors: &mut Vec<(String, Output)>,
    cache: &KvCache<Host>,
    layer: usize,
    stem: &str,
    out: HostTensor,
) -> Result<()> {
    let g = cache.geometry();
    let windows = cache.tables(layer)?.windows();
    let longest = windows.iter().map(|w| w.slots().len()).max().unwrap_or(0);
    // A bounded window is written whole, as the published buffer is.
    let places = windows.first().and_then(|w| w.regions().capacity()).unwrap_or(longest);
    let mut sides = [Vec::new(), Vec::new()];
    let mut memory = Vec::new();
    for (sequence, window) in windows.iter().enumerate() {
        let (k, v) = cache.contiguous_unrotated(layer, sequence)?;
        for (all, side) in sides.iter_mut().zip([k, v]) {
            let bytes = side.data().to_le_bytes();
            let end = all.len() + bytes.len() / window.slots().len() * places;
            all.extend(bytes);
            all.resize(end, 0u8);
        }
        let indices = window.memory_units();
        memory.extend(indices.iter().flat_map(|u| u.map_or(-1, |u| u.0.cast_signed()).to_le_bytes()));
    }
    let mut push = |name: &str, dtype, shape, bytes| {
        tensors.push((format!("{stem}.{name}"), Output { shape, dtype, bytes }));
    };
    let stored = match g.dtype {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
    };
    let shape = |dim| vec![g.sequences, places * g.tokens_per_unit, g.kv_heads, dim];
    let [k, v] = sides;
    push("cache_k", stored, shape(g.head_dim_k), k);
    push("cache_v", stored, shape(g.head_dim_v), v);
    let members = windows.first().map_or(0, |w| w.regions().memory());
    let shape = if g.sequences == 1 { vec![members] } else { vec![g.sequences, members] };
    push("mem_index", Dtype::I64, shape, memory);
    let shape = vec![g.sequences, g.tokens_per_chunk(), g.query_heads * g.head_dim_v];
    push("out", Dtype::F32, shape, out.data().to_le_bytes());
    Ok(())
}
