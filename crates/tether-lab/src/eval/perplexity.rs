//! `tether eval perplexity`.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use serde::Serialize;
use tether_models::{CachedAttention, LlamaSession, RecordedPass};
use tethercache::core::TokenEngine;
use tethercache::score::tokens::HeadProfile;
use tethercache::tokens::TokenRecipe;

use super::args::{PerplexityArgs, Stored};
use super::page::{Entry, Measured};
use super::ranks::{Measure, ranking};
use super::runs::{Asked, Contender};
use crate::device::Device;
use crate::device::{self, OnEngine};
use crate::estimate::Estimate;
use crate::head_profile;
use crate::input::read_text;
use crate::language::Language;
use crate::progress;
use crate::samples::{mean, runs_of};
use crate::table::{Table, numbers, words};
use crate::usage::Usage;

/// Tokens whose mean losses are one sample of a comparison: losses of neighbours depend on each other.
const SAMPLE: usize = 32;

/// What a model made of a text under one cache.
#[derive(Debug, Serialize)]
struct Row {
    text: String,
    recipe: String,
    /// Share of the tokens that is kept; 1 for a cache that keeps all.
    budget: f64,
    /// Tokens that were read before the first eviction, and tokens that were predicted.
    prompt: usize,
    scored: usize,
    perplexity: f64,
    mean_nll: f64,
    /// Mean loss above the full cache's, and the standard error of that mean.
    worse_by: f64,
    standard_error: f64,
    /// Tokens after the prompt, evictions included.
    tokens_per_second: f64,
    /// Part of that time that attention and the cache took.
    attention_share: f64,
    /// Bytes that the cache holds at the end, and what a cache of every token would.
    resident_bytes: u64,
    full_bytes: u64,
    /// Bytes that the last token's attention read.
    read_bytes: u64,
}

/// Runs the subcommand.
pub(crate) fn run(args: &PerplexityArgs) -> Result<()> {
    if args.tokens.is_some_and(|n| n < 2) {
        return Err(Usage("--tokens: must be at least 2, one to predict another from".to_owned()).into());
    }
    if args.block == 0 {
        return Err(Usage("--block: must be at least 1".to_owned()).into());
    }
    device::check(args.device)?;
    let asked =
        Asked { recipes: &args.recipe, budgets: &args.budget, overrides: &args.overrides, once: false };
    let contenders = asked.contenders()?;
    let texts = args.text.iter().map(|path| read_text(path)).collect::<Result<Vec<_>>>()?;
    let (language, profile) = head_profile::open(&args.model, args.profile.as_deref())?;
    let most = args.tokens.unwrap_or(usize::MAX).min(language.model.config().context);
    let mut out = std::io::stdout().lock();
    let table = table();
    if !args.json {
        out.write_all(table.head().as_bytes())?;
    }
    let mut entries = Vec::new();
    for (path, text) in args.text.iter().zip(&texts) {
        // Without a recipe nothing is evicted, and all of the text is scored.
        let prompt = if args.recipe.is_empty() { Some(0) } else { args.prompt };
        let reading = Reading {
            language: &language,
            profile: profile.as_ref(),
            ids: ids(&language, path, text, most)?,
            block: args.block,
            device: args.device,
            stored: args.stored,
        };
        let reading = reading.with_prompt(prompt)?;
        let mut full: Vec<f64> = Vec::new();
        for contender in &contenders {
            let scored = reading.score(contender).with_context(|| format!("on {}", path.display()))?;
            if full.is_empty() {
                full.clone_from(&scored.losses);
            }
            entries.push(scored.entry(&name(path), contender));
            let row = scored.row(name(path), contender, reading.prompt, &full);
            if args.json {
                writeln!(out, "{}", serde_json::to_string(&row)?)?;
            } else {
                out.write_all(table.line(row.cells()).as_bytes())?;
            }
            out.flush()?;
        }
    }
    let points = Measured::of(&entries, &contenders).points();
    match (&args.svg, ranking(&points, Measure::LossAboveFull)) {
        (Some(path), Some(figure)) => figure.write(path),
        _ => Ok(()),
    }
}

fn table() -> Table {
    let words = ["text", "recipe"].map(words);
    let measured =
        ["kept", "prompt", "scored", "perplexity", "loss above full", "resident", "read", "tokens/s"];
    Table::new(words.into_iter().chain(measured.map(numbers)).chain([numbers("attention")]))
}

impl Row {
    fn cells(&self) -> [String; 11] {
        let share = |bytes: u64| format!("{:.0}%", 100.0 * bytes as f64 / self.full_bytes as f64);
        [
            self.text.clone(),
            self.recipe.clone(),
            self.budget.to_string(),
            self.prompt.to_string(),
            self.scored.to_string(),
            format!("{:.4}", self.perplexity),
            format!("{:+.4} ± {:.4}", self.worse_by, self.standard_error),
            share(self.resident_bytes),
            share(self.read_bytes),
            format!("{:.1}", self.tokens_per_second),
            format!("{:.0}%", 100.0 * self.attention_share),
        ]
    }
}

/// The first `most` tokens of a text.
pub(super) fn ids(language: &Language, path: &Path, text: &str, most: usize) -> Result<Vec<u32>> {
    let mut ids = language.tokenizer.encode_start(text)?;
    ids.truncate(most);
    if ids.len() < 2 {
        return Err(Usage(format!("{} has no token to predict", path.display())).into());
    }
    Ok(ids)
}

/// A text that is to be scored: a prompt, an eviction, and then blocks that are scored, with an eviction after each where the recipe has one.
#[derive(Debug)]
pub(super) struct Reading<'a> {
    pub(super) language: &'a Language,
    pub(super) profile: Option<&'a HeadProfile>,
    pub(super) ids: Vec<u32>,
    /// Tokens of a block.
    pub(super) block: usize,
    pub(super) device: Device,
    /// What is stored as it came.
    pub(super) stored: Stored,
}

impl<'a> Reading<'a> {
    /// Reads the prompt, half of the text where nothing else is asked for.
    pub(super) fn with_prompt(self, prompt: Option<usize>) -> Result<Prompted<'a>> {
        let prompt = match prompt {
            None => self.ids.len() / 2,
            Some(prompt) if prompt < self.ids.len() - 1 => prompt,
            Some(prompt) => {
                let problem =
                    format!("--prompt: {prompt} of {} tokens leaves none to predict", self.ids.len());
                return Err(Usage(problem).into());
            }
        };
        let bar = bar("the prompt", prompt)?;
        let recorded = RecordedPass::record(&self.language.model, &self.ids[..prompt], |n| bar.inc(n as u64));
        bar.finish_and_clear();
        Ok(Prompted { reading: self, prompt, recorded: recorded.context("cannot read the prompt")? })
    }
}

/// A text whose prompt was read once for all recipes: none evicts before its end.
#[derive(Debug)]
pub(super) struct Prompted<'a> {
    reading: Reading<'a>,
    prompt: usize,
    recorded: RecordedPass,
}

impl Prompted<'_> {
    /// Scores what follows the prompt.
    pub(super) fn score(&self, contender: &Contender) -> Result<Scored> {
        let task = Scoring { text: self, recipe: &contender.recipe };
        device::run(self.reading.device, task)
            .with_context(|| format!("recipe {} at {}", contender.recipe.name, contender.budget))
    }
}

struct Scoring<'a> {
    text: &'a Prompted<'a>,
    recipe: &'a TokenRecipe,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Scored {
    pub(super) losses: Vec<f64>,
    seconds: f64,
    attention: f64,
    pub(super) resident: u64,
    pub(super) full: u64,
    /// Bytes of codes.
    pub(super) coded: u64,
    /// Tokens that are not stored as they came, summed over layers and key heads, and those among them that have left.
    pub(super) out: u64,
    pub(super) left: u64,
    pub(super) read: u64,
}

impl OnEngine for Scoring<'_> {
    type Out = Scored;

    fn run<E>(self, engine: E) -> Result<Scored>
    where
        E: TokenEngine + std::fmt::Debug,
    {
        let Self { text: Prompted { reading, prompt, recorded }, recipe } = self;
        let model = &reading.language.model;
        let profile = reading.profile.cloned();
        let mut attention =
            CachedAttention::with_profile(engine, model, recipe.clone(), reading.stored.into(), profile)?;
        recorded.replay(&mut attention).context("cannot read the prompt")?;
        let mut session = LlamaSession::new(model, attention);
        session.set_next_position(*prompt as i32);
        let rest = &reading.ids[*prompt..];
        let bar = bar(&recipe.name, rest.len())?;
        let started = Instant::now();
        if *prompt > 0 {
            session.evict(&reading.ids[..*prompt])?;
        }
        let mut losses = Vec::with_capacity(rest.len());
        // A cache that evicts and codes nothing on the way reads as much at a time as the model likes.
        let steps = recipe.decode.is_some() || recipe.codec.is_some();
        let block = if steps { reading.block } else { rest.len() };
        for (number, tokens) in rest.chunks(block).enumerate() {
            let targets = rest.get(number * block + 1..).unwrap_or_default();
            let scored = session.score(tokens, targets, |read| bar.inc(read as u64));
            losses.extend(scored.context("cannot score the text")?);
            if steps {
                session.evict(&reading.ids[..*prompt + number * block + tokens.len()])?;
            }
        }
        bar.finish_and_clear();
        let bytes = session.attention().bytes();
        let (cache, sequence) = (session.attention().cache(), session.attention().sequence());
        let (mut out, mut left) = (0, 0);
        for layer in 0..cache.geometry().layers {
            let seen = cache.seen(sequence, layer)?;
            for (head, held) in cache.head_lengths(sequence, layer)?.into_iter().enumerate() {
                out += (seen - cache.slot_mapping(sequence, layer, head)?.len()) as u64;
                left += (seen - held) as u64;
            }
        }
        Ok(Scored {
            losses,
            seconds: started.elapsed().as_secs_f64(),
            attention: session.timing().attention.as_secs_f64(),
            resident: bytes.held(),
            full: bytes.full,
            coded: bytes.coded,
            out,
            left,
            read: bytes.read,
        })
    }
}

impl Scored {
    /// Perplexity, and the mean loss above another's with its standard error.
    pub(super) fn beside(&self, other: &Self) -> (f64, Estimate) {
        let above = Estimate::of_differences(&self.samples(), &other.samples());
        let differences: Vec<f64> = self.losses.iter().zip(&other.losses).map(|(a, b)| a - b).collect();
        (mean(&self.losses).exp(), Estimate { mean: mean(&differences), ..above })
    }

    /// Mean losses of runs of tokens.
    pub(super) fn samples(&self) -> Vec<f64> {
        runs_of(&self.losses, SAMPLE)
    }

    /// As a chart shows it.
    fn entry(&self, title: &str, contender: &Contender) -> Entry {
        let (recipe, budget) = (contender.recipe.name.clone(), contender.budget);
        let &Self { resident, read, full, .. } = self;
        let (title, samples, ranks) = (title.to_owned(), self.samples(), Vec::new());
        Entry { title, recipe, budget, samples, ranks, resident, read, full }
    }

    fn row(self, text: String, contender: &Contender, prompt: usize, full: &[f64]) -> Row {
        let mean_nll = mean(&self.losses);
        let above = Estimate::of_differences(&self.samples(), &runs_of(full, SAMPLE));
        let differences: Vec<f64> = self.losses.iter().zip(full).map(|(own, full)| own - full).collect();
        Row {
            text,
            recipe: contender.recipe.name.clone(),
            budget: contender.budget,
            prompt,
            scored: self.losses.len(),
            perplexity: mean_nll.exp(),
            mean_nll,
            worse_by: mean(&differences),
            standard_error: above.se.unwrap_or(0.0),
            tokens_per_second: (self.losses.len() + 1) as f64 / self.seconds,
            attention_share: self.attention / self.seconds,
            resident_bytes: self.resident,
            full_bytes: self.full,
            read_bytes: self.read,
        }
    }
}

/// A bar of tokens on standard error.
pub(super) fn bar(what: &str, tokens: usize) -> Result<ProgressBar> {
    progress::bar(tokens as u64, "{msg:24} {bar:40} {pos}/{len} tokens, {eta} left", what)
}

/// A file's name without its folder.
pub(super) fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
