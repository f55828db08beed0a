//! `tether eval speed`.

use std::io::Write;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;
use tether_models::{CachedAttention, LlamaSession};
use tethercache::core::{DType, TokenEngine};
use tethercache::score::tokens::HeadProfile;
use tethercache::tokens::TokenRecipe;

use super::args::SpeedArgs;
use super::perplexity::{bar, ids, name};
use super::quiz::too_short;
use super::runs::Asked;
use crate::device::{self, OnEngine};
use crate::head_profile;
use crate::input::read_text;
use crate::language::Language;
use crate::table::{Table, numbers, words};
use crate::usage::Usage;

/// How fast a context was read and continued.
#[derive(Clone, Debug, Serialize)]
struct Row {
    recipe: String,
    budget: f64,
    length: usize,
    /// Tokens of the context a second.
    prefill: f64,
    /// Milliseconds of the eviction after it.
    evict_ms: f64,
    /// Tokens a second after that, one at a time, evictions included.
    decode: f64,
    /// Milliseconds of a token that attention and the cache took, and that evictions did.
    attention_ms: f64,
    decode_evict_ms: f64,
    /// Tokens that a head holds after the eviction, on average.
    held: f64,
    resident_bytes: u64,
    /// Bytes that the last token's attention read.
    read_bytes: u64,
    full_bytes: u64,
}

/// Runs the subcommand.
pub(crate) fn run(args: &SpeedArgs) -> Result<()> {
    let c = &args.comparison;
    if args.steps == 0 || args.length.contains(&0) {
        return Err(Usage("--steps, --length: must be at least 1".to_owned()).into());
    }
    device::check(c.device)?;
    let control = ["sink-recent".to_owned()];
    let recipes = if c.recipe.is_empty() { &control[..] } else { &c.recipe };
    let asked = Asked { recipes, budgets: &c.budget, overrides: &c.overrides, once: false };
    let contenders = asked.contenders()?;
    let texts = c.text.iter().map(|path| read_text(path)).collect::<Result<Vec<_>>>()?;
    let (language, profile) = head_profile::open(&c.model, c.profile.as_deref())?;
    let mut out = std::io::stdout().lock();
    let table = table();
    if !args.json {
        out.write_all(table.head().as_bytes())?;
    }
    let ids = ids(&language, &c.text[0], &texts[0], usize::MAX)?;
    for &length in &args.length {
        if ids.len() < length + args.steps {
            return Err(too_short(&name(&c.text[0]), ids.len(), length + args.steps).into());
        }
        for contender in &contenders {
            let task = Timing {
                language: &language,
                profile: profile.as_ref(),
                recipe: &contender.recipe,
                ids: &ids[..length + args.steps],
                length,
            };
            let row =
                device::run(c.device, task).with_context(|| format!("recipe {}", contender.recipe.name))?;
            let row = Row { budget: contender.budget, ..row };
            if args.json {
                writeln!(out, "{}", serde_json::to_string(&row)?)?;
            } else {
                out.write_all(table.line(row.cells()).as_bytes())?;
            }
            out.flush()?;
        }
    }
    Ok(())
}

fn table() -> Table {
    let measured = [
        "kept",
        "held",
        "prefill tokens/s",
        "evict ms",
        "decode tokens/s",
        "attention ms/token",
        "evict ms/token",
        "resident",
        "read",
    ];
    Table::new([numbers("length"), words("recipe")].into_iter().chain(measured.map(numbers)))
}

impl Row {
    fn cells(&self) -> [String; 11] {
        let share = |bytes: u64| format!("{:.0}%", 100.0 * bytes as f64 / self.full_bytes as f64);
        [
            self.length.to_string(),
            self.recipe.clone(),
            self.budget.to_string(),
            format!("{:.0}", self.held),
            format!("{:.0}", self.prefill),
            format!("{:.1}", self.evict_ms),
            format!("{:.1}", self.decode),
            format!("{:.2}", self.attention_ms),
            format!("{:.2}", self.decode_evict_ms),
            share(self.resident_bytes),
            share(self.read_bytes),
        ]
    }
}

/// A context that is read at once, and tokens that are read one by one.
struct Timing<'a> {
    language: &'a Language,
    profile: Option<&'a HeadProfile>,
    recipe: &'a TokenRecipe,
    ids: &'a [u32],
    length: usize,
}

impl OnEngine for Timing<'_> {
    type Out = Row;

    fn run<E>(self, engine: E) -> Result<Row>
    where
        E: TokenEngine + std::fmt::Debug,
    {
        let Self { language, profile, recipe, ids, length } = self;
        let model = &language.model;
        let attention =
            CachedAttention::with_profile(engine, model, recipe.clone(), DType::F32, profile.cloned())?;
        let mut session = LlamaSession::new(model, attention);
        let bar = bar(&recipe.name, ids.len())?;
        let started = Instant::now();
        session.read(&ids[..length]).context("cannot read the context")?;
        let prefill = started.elapsed().as_secs_f64();
        bar.inc(length as u64);
        let started = Instant::now();
        let kept = session.evict(&ids[..length])?.kept;
        let evict = started.elapsed().as_secs_f64();
        let heads = model.config().layers * model.config().kv_heads;
        let held = if kept == 0 { length as f64 } else { kept as f64 / heads as f64 };
        let (before, mut evicting, steps) = (session.timing().attention, 0.0, ids.len() - length);
        let started = Instant::now();
        for (number, token) in ids[length..].iter().enumerate() {
            session.read(&[*token]).context("cannot continue")?;
            let evict = Instant::now();
            session.evict(&ids[..=length + number])?;
            evicting += evict.elapsed().as_secs_f64();
            bar.inc(1);
        }
        let decode = started.elapsed().as_secs_f64();
        bar.finish_and_clear();
        let attention = (session.timing().attention - before).as_secs_f64();
        let (per_token, bytes) = (1000.0 / steps as f64, session.attention().bytes());
        Ok(Row {
            recipe: recipe.name.clone(),
            budget: 1.0,
            length,
            prefill: length as f64 / prefill,
            evict_ms: 1000.0 * evict,
            decode: steps as f64 / decode,
            attention_ms: per_token * attention,
            decode_evict_ms: per_token * evicting,
            held,
            resident_bytes: bytes.held(),
            read_bytes: bytes.read,
            full_bytes: bytes.full,
        })
    }
}
