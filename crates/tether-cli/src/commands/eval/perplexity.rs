//! `tether eval perplexity`.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use tether_models::{CachedAttention, LlamaSession};
use tethercache::core::{DType, TokenEngine};
use tethercache::tokens::TokenRecipe;

use crate::cli::PerplexityArgs;
use crate::device::{self, OnEngine};
use crate::exit::Usage;
use crate::language::{Language, read_text};

/// Recipes that stand beside those that were asked for.
const CONTROLS: [&str; 4] = ["full", "window", "sink-recent", "random"];
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
    tokens_per_second: f64,
    /// Part of the time that attention and the cache took.
    attention_share: f64,
    /// Bytes that the cache holds at the end, and what a cache of every token would.
    resident_bytes: u64,
    full_bytes: u64,
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
    let runs = runs(args)?;
    let texts = args.text.iter().map(|path| read_text(path)).collect::<Result<Vec<_>>>()?;
    let language = Language::open(&args.model)?;
    let most = args.tokens.unwrap_or(usize::MAX).min(language.model.config().context);
    let mut out = std::io::stdout().lock();
    if !args.json {
        writeln!(
            out,
            "| text | recipe | kept | prompt | scored | perplexity | loss above full | resident | tokens/s | attention |"
        )?;
        writeln!(out, "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|")?;
    }
    for (path, text) in args.text.iter().zip(&texts) {
        let mut ids = language.tokenizer.encode_start(text)?;
        ids.truncate(most);
        if ids.len() < 2 {
            return Err(Usage(format!("{} has no token to predict", path.display())).into());
        }
        // Without a recipe nothing is evicted, and all of the text is scored.
        let prompt = match (args.recipe.is_empty(), args.prompt) {
            (true, _) => 0,
            (false, None) => ids.len() / 2,
            (false, Some(prompt)) if prompt < ids.len() - 1 => prompt,
            (false, Some(prompt)) => {
                let problem = format!("--prompt: {prompt} of {} tokens leaves none to predict", ids.len());
                return Err(Usage(problem).into());
            }
        };
        let mut full: Vec<f64> = Vec::new();
        for (recipe, budget) in &runs {
            let scoring = Scoring { language: &language, recipe, ids: &ids, prompt, block: args.block };
            let scored = device::run(args.device, scoring)
                .with_context(|| format!("recipe {} on {}", recipe.name, path.display()))?;
            if recipe.score.is_none() {
                full.clone_from(&scored.losses);
            }
            let row = scored.row(name(path), &recipe.name, *budget, prompt, &full);
            if args.json {
                writeln!(out, "{}", serde_json::to_string(&row)?)?;
            } else {
                writeln!(
                    out,
                    "| {} | {} | {} | {} | {} | {:.4} | {:+.4} ± {:.4} | {:.0}% | {:.1} | {:.0}% |",
                    row.text,
                    row.recipe,
                    row.budget,
                    row.prompt,
                    row.scored,
                    row.perplexity,
                    row.worse_by,
                    row.standard_error,
                    100.0 * row.resident_bytes as f64 / row.full_bytes as f64,
                    row.tokens_per_second,
                    100.0 * row.attention_share,
                )?;
            }
            out.flush()?;
        }
    }
    Ok(())
}

/// Recipes and budgets in the order in which they run: the full cache first, which the others are compared with.
fn runs(args: &PerplexityArgs) -> Result<Vec<(TokenRecipe, f64)>> {
    let full = TokenRecipe::named("full").context("the full cache")?;
    let mut runs = vec![(full, 1.0)];
    if args.recipe.is_empty() {
        return Ok(runs);
    }
    let mut names: Vec<&str> = CONTROLS.to_vec();
    names.extend(args.recipe.iter().map(String::as_str).filter(|n| !CONTROLS.contains(n)));
    for name in names {
        let recipe = TokenRecipe::named(name)?;
        if recipe.score.is_none() {
            continue;
        }
        for &budget in &args.budget {
            if !(budget > 0.0 && budget <= 1.0) {
                let problem = format!("--budget: {budget} is not a share of the tokens, above 0 and up to 1");
                return Err(Usage(problem).into());
            }
            let mut overrides = vec![format!("budget.ratio={budget:?}")];
            if args.recipe.iter().any(|asked| asked == name) {
                overrides.extend(args.overrides.iter().cloned());
            }
            runs.push((recipe.with_overrides(&overrides)?, budget));
        }
    }
    Ok(runs)
}

/// A text under one recipe: a prompt, an eviction, and then blocks that are scored, with an eviction after each where the recipe has one.
struct Scoring<'a> {
    language: &'a Language,
    recipe: &'a TokenRecipe,
    ids: &'a [u32],
    prompt: usize,
    block: usize,
}

struct Scored {
    losses: Vec<f64>,
    tokens: usize,
    seconds: f64,
    attention: f64,
    resident: u64,
    full: u64,
}

impl OnEngine for Scoring<'_> {
    type Out = Scored;

    fn run<E>(self, engine: E) -> Result<Scored>
    where
        E: TokenEngine + std::fmt::Debug,
    {
        let model = &self.language.model;
        let attention = CachedAttention::new(engine, model, self.recipe.clone(), DType::F32)?;
        let mut session = LlamaSession::new(model, attention);
        let bar = ProgressBar::with_draw_target(Some(self.ids.len() as u64), ProgressDrawTarget::stderr());
        bar.set_style(ProgressStyle::with_template("{msg:24} {bar:40} {pos}/{len} tokens, {eta} left")?);
        bar.set_message(self.recipe.name.clone());
        let started = Instant::now();
        if self.prompt > 0 {
            session.read(&self.ids[..self.prompt]).context("cannot read the prompt")?;
            bar.inc(self.prompt as u64);
            session.attention_mut().evict()?;
        }
        let mut losses = Vec::with_capacity(self.ids.len() - self.prompt);
        let rest = &self.ids[self.prompt..];
        // A cache that evicts nothing on the way reads as much at a time as the model likes.
        let block = if self.recipe.decode.is_some() { self.block } else { rest.len() };
        for (number, tokens) in rest.chunks(block).enumerate() {
            let targets = rest.get(number * block + 1..).unwrap_or_default();
            let scored = session.score(tokens, targets, |read| bar.inc(read as u64));
            losses.extend(scored.context("cannot score the text")?);
            if self.recipe.decode.is_some() {
                session.attention_mut().evict()?;
            }
        }
        bar.finish_and_clear();
        let bytes = session.attention().bytes();
        Ok(Scored {
            losses,
            tokens: self.ids.len(),
            seconds: started.elapsed().as_secs_f64(),
            attention: session.timing().attention.as_secs_f64(),
            resident: bytes.resident,
            full: bytes.full,
        })
    }
}

impl Scored {
    fn row(self, text: String, recipe: &str, budget: f64, prompt: usize, full: &[f64]) -> Row {
        let mean_nll = self.losses.iter().sum::<f64>() / self.losses.len() as f64;
        let above: Vec<f64> = self.losses.iter().zip(full).map(|(own, full)| own - full).collect();
        let (worse_by, standard_error) = paired(&above);
        Row {
            text,
            recipe: recipe.to_owned(),
            budget,
            prompt,
            scored: self.losses.len(),
            perplexity: mean_nll.exp(),
            mean_nll,
            worse_by,
            standard_error,
            tokens_per_second: self.tokens as f64 / self.seconds,
            attention_share: self.attention / self.seconds,
            resident_bytes: self.resident,
            full_bytes: self.full,
        }
    }
}

/// Mean of differences, and its standard error from the means of runs of [`SAMPLE`] tokens; 0 where there are not two of them.
fn paired(differences: &[f64]) -> (f64, f64) {
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len().max(1) as f64;
    let samples: Vec<f64> = differences.chunks_exact(SAMPLE).map(mean).collect();
    let (middle, count) = (mean(&samples), samples.len() as f64);
    let variance = samples.iter().map(|s| (s - middle).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    (mean(differences), if samples.len() < 2 { 0.0 } else { (variance / count).sqrt() })
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::paired;

    #[test]
    fn neighbours_are_one_sample() {
        let differences: Vec<f64> = [1.0, 3.0, 2.0].iter().flat_map(|&x| [x; 32]).collect();
        let (mean, error) = paired(&differences);
        assert!((mean - 2.0).abs() < 1e-12);
        assert!((error - (1.0f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(paired(&[0.5; 20]), (0.5, 0.0));
    }
}
