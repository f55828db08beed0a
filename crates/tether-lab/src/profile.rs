//! `tether profile`.

mod args;

use anyhow::{Context, Result};
use tether_models::{HeadProbe, Llama};
use tethercache::score::tokens::HeadProfile;

pub use self::args::ProfileArgs;
use self::args::{HeadsArgs, Profiled};
use crate::input::read_text;
use crate::language::Language;
use crate::progress;
use crate::usage::Usage;

/// Runs the subcommand.
///
/// # Errors
/// What cannot be read, made or written.
pub fn run(args: &ProfileArgs) -> Result<()> {
    match &args.what {
        Profiled::Heads(args) => heads(args),
    }
}

fn heads(args: &HeadsArgs) -> Result<()> {
    let text = read_text(&args.text)?;
    let language = Language::open(&args.model)?;
    let config = language.model.config();
    if args.period == 0 || args.repeats < 2 || args.period.saturating_mul(args.repeats) >= config.context {
        let problem = format!(
            "--period, --repeats: {} tokens {} times must be repeated, and shorter than the model's context of {}",
            args.period, args.repeats, config.context
        );
        return Err(Usage(problem).into());
    }
    let mut ids = language.tokenizer.encode_start(&text)?;
    ids.truncate(args.tokens.min(config.context));
    if ids.is_empty() {
        return Err(Usage(format!("{} has no token", args.text.display())).into());
    }
    let start = language.tokenizer.bos().unwrap_or(ids[0]);
    let probe =
        HeadProbe { period: args.period, repeats: args.repeats, seed: args.seed, ..HeadProbe::default() };
    let mut profile = measure(&language.model, &probe, start, &ids)?;
    profile.model.clone_from(&language.name);
    profile.sha256 = language.sha256()?;
    std::fs::write(&args.out, written(&profile)?)
        .with_context(|| format!("cannot write {}", args.out.display()))?;
    let retrieval = profile.retrieval_heads(0.14, 0.01);
    let named: Vec<String> =
        retrieval.iter().take(5).map(|(layer, head)| format!("{layer}.{head}")).collect();
    eprintln!(
        "{}: {} layers of {} key heads; strongest retrieval heads {}",
        args.out.display(),
        config.layers,
        config.kv_heads,
        named.join(", ")
    );
    Ok(())
}

fn measure(model: &Llama, probe: &HeadProbe, start: u32, ids: &[u32]) -> Result<HeadProfile> {
    let layers = 2 * model.config().layers as u64;
    let bar = progress::bar(layers, "{bar:40} {pos}/{len} layers, {eta} left", "")?;
    let profile = probe.measure(model, start, ids, || bar.inc(1)).context("cannot probe the model")?;
    bar.finish_and_clear();
    Ok(profile)
}

/// A profile as JSON, a list a line.
fn written(profile: &HeadProfile) -> Result<String> {
    let number = |x: &f32| format!("{x:.5}");
    let list = |x: &[f32]| format!("[{}]", x.iter().map(number).collect::<Vec<_>>().join(", "));
    let layer = |l: &tethercache::score::tokens::LayerProfile| {
        let (echo, induction, variance) = (list(&l.echo), list(&l.induction), variances(&l.variance));
        format!("    {{ \"echo\": {echo}, \"induction\": {induction}, \"variance\": {variance} }}")
    };
    let text = |x: &str| serde_json::to_string(x);
    let layers: Vec<String> = profile.layers.iter().map(layer).collect();
    Ok(format!(
        "{{\n  \"version\": {},\n  \"model\": {},\n  \"sha256\": {},\n  \"probe\": {},\n  \"layers\": [\n{}\n  ]\n}}\n",
        profile.version,
        text(&profile.model)?,
        text(&profile.sha256)?,
        text(&profile.probe)?,
        layers.join(",\n")
    ))
}

/// Variances are far below 1: significant digits, not places.
fn variances(x: &[f32]) -> String {
    format!("[{}]", x.iter().map(|x| format!("{x:.4e}")).collect::<Vec<_>>().join(", "))
}
