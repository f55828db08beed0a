//! `tether replay` of a token trace: what a recipe keeps of each recorded layer.

use anyhow::{Context, Result};
use safetensors::Dtype;
use serde_json::{Value, json};
use tethercache::core::Pairing;
use tethercache::edit::tokens::Compensation;
use tethercache::rope::{Angles, TokenRope};
use tethercache::score::tokens::TokenObservation;
use tethercache::tokens::{
    LayerContext, SequenceState, StoredKeys, TokenPlan, TokenPlanner, TokenRecipe, kept_heads,
};

use super::replay::{Output, write};
use crate::cli::ReplayArgs;
use crate::token_trace::{RecordedLayer, TokenTrace};
use tether_lab::head_profile;
use tether_lab::usage::Usage;

/// Replays `trace`.
pub(crate) fn run(args: &ReplayArgs, mut trace: TokenTrace) -> Result<()> {
    let recipe = args.recipe.as_deref().unwrap_or("snapkv");
    let recipe = TokenRecipe::named(recipe)?.with_overrides(&args.overrides)?;
    if recipe.codec.is_some() {
        let problem = format!(
            "recipe {} stores codes, which a replay does not show: see `tether eval codec`",
            recipe.name
        );
        return Err(Usage(problem).into());
    }
    if let Some(layer) = args.layer {
        match trace.layers.as_mut_slice() {
            [only] if only.prefix.is_empty() => only.layer = layer,
            _ => {
                return Err(
                    Usage("--layer is for traces whose tensors do not name their layer".into()).into()
                );
            }
        }
    }
    let highest = trace.layers.iter().map(|l| l.layer + 1).max().unwrap_or(1);
    let layers = args.layers.unwrap_or(highest);
    if layers < highest {
        return Err(Usage(format!("the trace has layer {}, but --layers says {layers}", highest - 1)).into());
    }
    let stored = recipe.position.keys;
    let angles = if args.exact_angles { Angles::Exact } else { Angles::Rounded };
    let mut planner = TokenPlanner::new(recipe)?;
    if let Some(path) = &args.profile {
        planner = planner.with_profile(head_profile::read(path)?);
    }
    let mut state = SequenceState::default();
    let mut tensors = Vec::new();
    let mut log = Vec::new();
    for layer in &trace.layers {
        let turn = LayerContext { layer: layer.layer, layers, seen: layer.seen.tokens(), decoding: false };
        let plan = planner.plan(turn, &layer.seen, &mut state).with_context(|| {
            format!("recipe {} on layer {} of {}", planner.recipe().name, layer.layer, args.trace.display())
        })?;
        record(&mut tensors, layer, &plan, (stored, angles))?;
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
fn record(
    tensors: &mut Vec<(String, Output)>,
    layer: &RecordedLayer,
    plan: &TokenPlan,
    (stored, angles): (StoredKeys, Angles),
) -> Result<()> {
    let mut push = |name: &str, shape: Vec<usize>, dtype, bytes| {
        tensors.push((format!("{}{name}", layer.prefix), Output { shape, dtype, bytes }));
    };
    let integers = |values: &[i64]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let floats = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    if let Some(scores) = &plan.scores {
        push("scores", vec![scores.heads(), scores.tokens()], Dtype::F32, floats(scores.values()));
    }
    let rope = match layer.seen.frequencies() {
        Ok(frequencies) => Some(TokenRope::from_frequencies(Pairing::Half, frequencies.to_vec())?),
        Err(_) => None,
    };
    let kept = kept_heads(plan, &layer.seen, rope.as_ref(), stored, angles)?;
    let dims = [layer.seen.head_dim_k(), layer.seen.head_dim_v()];
    let heads = plan.keep.heads();
    // Heads of one length make one tensor; heads of several make one each.
    let parts: Vec<(String, std::ops::Range<usize>, Vec<usize>)> = match plan.keep.uniform_len() {
        Some(len) => vec![(String::new(), 0..heads, vec![heads, len])],
        None => (0..heads).map(|h| (format!(".{h}"), h..h + 1, vec![plan.keep.head(h).len()])).collect(),
    };
    for (suffix, heads, shape) in parts {
        let sets = &plan.keep.sets()[heads.clone()];
        let set: Vec<i64> = sets.iter().flatten().map(|&t| t.into()).collect();
        push(&format!("kept{suffix}"), shape.clone(), Dtype::I64, integers(&set));
        let kept = &kept[heads];
        if plan.positions.is_some() {
            let row: Vec<i64> = kept.iter().flat_map(|k| &k.positions).map(|&p| p.into()).collect();
            push(&format!("positions{suffix}"), shape.clone(), Dtype::I64, integers(&row));
        }
        let keys: Vec<f32> = kept.iter().flat_map(|k| &k.keys).copied().collect();
        let values: Vec<f32> = kept.iter().flat_map(|k| &k.values).copied().collect();
        for (name, dim, rows) in [("k", dims[0], keys), ("v", dims[1], values)] {
            push(&format!("{name}{suffix}"), [shape.as_slice(), &[dim]].concat(), Dtype::F32, floats(&rows));
        }
    }
    if kept.iter().any(|k| k.compensation.is_some()) {
        let counts: Vec<i64> =
            kept.iter().map(|k| k.compensation.as_ref().map_or(0, |c| c.count.cast_signed())).collect();
        push("compensation_count", vec![heads], Dtype::I64, integers(&counts));
        let side = |dim: usize, of: fn(&Compensation) -> &Vec<f32>| -> Vec<f32> {
            kept.iter()
                .flat_map(|k| k.compensation.as_ref().map_or(vec![0.0; dim], |c| of(c).clone()))
                .collect()
        };
        push("compensation_k", vec![heads, dims[0]], Dtype::F32, floats(&side(dims[0], |c| &c.key)));
        push("compensation_v", vec![heads, dims[1]], Dtype::F32, floats(&side(dims[1], |c| &c.value)));
    }
    Ok(())
}
