//! `tether replay` of a token trace: what a recipe keeps of each recorded layer.

use anyhow::{Context, Result};
use safetensors::Dtype;
use serde_json::{Value, json};
use tethercache::core::{Host, HostTensor, Pairing, Rotation, TokenEngine, TokenLayout};
use tethercache::score::ScoreError;
use tethercache::score::tokens::{KeepSets, RecordedTokens, TokenObservation};
use tethercache::tokens::{LayerTurn, SequenceState, TokenPlan, TokenPlanner, TokenRecipe};

use super::replay::{Output, write};
use crate::cli::ReplayArgs;
use crate::exit::Usage;
use crate::token_trace::{RecordedLayer, TokenTrace};

/// Replays `trace`.
pub(crate) fn run(args: &ReplayArgs, mut trace: TokenTrace) -> Result<()> {
    let recipe = args.recipe.as_deref().unwrap_or("snapkv");
    let recipe = TokenRecipe::named(recipe)?.with_overrides(&args.overrides)?;
    if let Some(layer) = args.layer {
        match trace.layers.as_mut_slice() {
            [only] if only.prefix.is_empty() => only.layer = layer,
            _ => {
                return Err(Usage("--layer is for traces whose tensors do not name their layer".into()).into());
            }
        }
    }
    let highest = trace.layers.iter().map(|l| l.layer + 1).max().unwrap_or(1);
    let layers = args.layers.unwrap_or(highest);
    if layers < highest {
        return Err(Usage(format!("the trace has layer {}, but --layers says {layers}", highest - 1)).into());
    }
    let planner = TokenPlanner::new(recipe)?;
    let mut state = SequenceState::default();
    let mut tensors = Vec::new();
    let mut log = Vec::new();
    for layer in &trace.layers {
        let turn = LayerTurn { layer: layer.layer, layers, seen: layer.seen.tokens() };
        let plan = planner.plan(turn, &layer.seen, &mut state).with_context(|| {
            format!("recipe {} on layer {} of {}", planner.recipe().name, layer.layer, args.trace.display())
        })?;
        record(&mut tensors, layer, &plan)?;
        log.push(entry(layer, &plan));
    }
    let report = json!({
        "trace": args.trace.file_name().map(|n| n.to_string_lossy()),
        "recipe": planner.recipe(),
        "layers": layers,
        "log": log,
    });
    write(args, tensors, &report)?;
    eprintln!(
        "{} layers under {}: {} and {}",
        trace.layers.len(),
        planner.recipe().name,
        args.out.display(),
        args.out.with_extension("json").display()
    );
    Ok(())
}

fn entry(layer: &RecordedLayer, plan: &TokenPlan) -> Value {
    let kept: Vec<usize> = plan.keep.sets().iter().map(Vec::len).collect();
    json!({ "layer": layer.layer, "tokens": plan.tokens, "kept": kept })
}

/// What is kept of one layer, as tensors.
fn record(tensors: &mut Vec<(String, Output)>, layer: &RecordedLayer, plan: &TokenPlan) -> Result<()> {
    let mut push = |name: &str, shape: Vec<usize>, dtype, bytes| {
        tensors.push((format!("{}{name}", layer.prefix), Output { shape, dtype, bytes }));
    };
    if let Some(scores) = &plan.scores {
        let bytes = scores.values().iter().flat_map(|x| x.to_le_bytes()).collect();
        push("scores", vec![scores.heads(), scores.tokens()], Dtype::F32, bytes);
    }
    let kept = kept_of(&layer.seen, plan)?;
    let dims = [layer.seen.head_dim_k(), layer.seen.head_dim_v()];
    let integers = |values: &[i64]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let floats = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let indices = |set: &[u32]| set.iter().map(|&t| i64::from(t)).collect::<Vec<_>>();
    // Heads of one length make one tensor; heads of several make one each.
    let parts: Vec<(String, std::ops::Range<usize>, Vec<usize>)> = match plan.keep.uniform_len() {
        Some(len) => vec![(String::new(), 0..plan.keep.heads(), vec![plan.keep.heads(), len])],
        None => (0..plan.keep.heads())
            .map(|h| (format!(".{h}"), h..h + 1, vec![plan.keep.head(h).len()]))
            .collect(),
    };
    for (suffix, heads, shape) in parts {
        let set: Vec<i64> = heads.clone().flat_map(|h| indices(plan.keep.head(h))).collect();
        push(&format!("kept{suffix}"), shape.clone(), Dtype::I64, integers(&set));
        if let Some(positions) = &plan.positions {
            let row: Vec<i64> = positions[heads.clone()].iter().flatten().map(|&p| p.into()).collect();
            push(&format!("positions{suffix}"), shape.clone(), Dtype::I64, integers(&row));
        }
        for (side, name) in ["k", "v"].into_iter().enumerate() {
            let rows: Vec<f32> = kept[heads.clone()].iter().flat_map(|kv| kv[side].iter().copied()).collect();
            let shape = [shape.as_slice(), &[dims[side]]].concat();
            push(&format!("{name}{suffix}"), shape, Dtype::F32, floats(&rows));
        }
    }
    Ok(())
}

/// Keys and values of each head's kept tokens, at their new positions.
fn kept_of(seen: &RecordedTokens, plan: &TokenPlan) -> Result<Vec<[Vec<f32>; 2]>> {
    let (keys, values) = (seen.keys()?, seen.values()?);
    let tokens = seen.tokens();
    // Heads of the plan are query heads where a recipe repeats keys for them.
    let repeat = (plan.keep.heads() / seen.kv_heads()).max(1);
    let gather = |keep: &KeepSets, head: usize, data: &[f32], dim: usize| -> Vec<f32> {
        let data = &data[head / repeat * tokens * dim..][..tokens * dim];
        keep.head(head).iter().flat_map(|&t| &data[t as usize * dim..][..dim]).copied().collect()
    };
    let mut kept = Vec::with_capacity(plan.keep.heads());
    for head in 0..plan.keep.heads() {
        let mut k = gather(&plan.keep, head, &keys, seen.head_dim_k());
        let v = gather(&plan.keep, head, &values, seen.head_dim_v());
        if let Some(positions) = &plan.positions {
            let old = seen.positions(head / repeat);
            let deltas: Vec<i32> = plan
                .keep
                .head(head)
                .iter()
                .zip(&positions[head])
                .map(|(&t, new)| new - old[t as usize])
                .collect();
            k = turned(k, seen.head_dim_k(), seen.frequencies()?, &deltas)?;
        }
        kept.push([k, v]);
    }
    Ok(kept)
}

/// Keys `[n, dim]` turned by `deltas` positions each.
fn turned(keys: Vec<f32>, dim: usize, frequencies: &[f64], deltas: &[i32]) -> Result<Vec<f32>> {
    let host = Host::new();
    let rotation = Rotation {
        pairing: Pairing::Half,
        rotary_dim: 2 * frequencies.len(),
        first_pair: 0,
        frequencies,
        axes: &[],
        deltas: &[deltas],
        tokens_per_delta: 1,
        scale: 1.0,
    };
    let mut keys = HostTensor::from_f32(&[1, deltas.len(), dim], keys)?;
    host.rotate(&mut keys, TokenLayout::Hnd, &host.upload_rotation(&rotation)?)?;
    keys.as_f32().map(<[f32]>::to_vec).ok_or_else(|| ScoreError::Missing { what: "keys" }.into())
}
