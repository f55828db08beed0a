//! `tether eval perplexity`.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use tether_models::{DenseAttention, LlamaSession, TokenAttention};

use crate::cli::PerplexityArgs;
use crate::exit::Usage;
use crate::language::{Language, read_text};

/// What a model made of a text under one cache.
#[derive(Debug, Serialize)]
struct Row {
    text: String,
    cache: &'static str,
    /// Tokens read; one fewer are predicted.
    tokens: usize,
    perplexity: f64,
    mean_nll: f64,
    tokens_per_second: f64,
    /// Part of the time that attention and the cache took.
    attention_share: f64,
    /// Bytes of keys and values at the end.
    cache_bytes: usize,
}

/// Runs the subcommand.
pub(crate) fn run(args: &PerplexityArgs) -> Result<()> {
    if args.tokens.is_some_and(|n| n < 2) {
        return Err(Usage("--tokens: must be at least 2, one to predict another from".to_owned()).into());
    }
    let texts = args.text.iter().map(|path| read_text(path)).collect::<Result<Vec<_>>>()?;
    let language = Language::open(&args.model)?;
    let most = args.tokens.unwrap_or(usize::MAX).min(language.model.config().context);
    let mut out = std::io::stdout().lock();
    if !args.json {
        writeln!(
            out,
            "{:<24} {:<8} {:>7} {:>11} {:>9} {:>9} {:>9}",
            "text", "cache", "tokens", "perplexity", "tokens/s", "attention", "cache MiB"
        )?;
    }
    for (path, text) in args.text.iter().zip(&texts) {
        let mut ids = language.tokenizer.encode_start(text)?;
        ids.truncate(most);
        if ids.len() < 2 {
            return Err(Usage(format!("{} has no token to predict", path.display())).into());
        }
        let mut session = LlamaSession::new(&language.model, DenseAttention::new());
        let mean_nll = mean_loss(&mut session, &ids)?;
        let timing = session.timing();
        let seconds = timing.total.as_secs_f64();
        let row = Row {
            text: name(path),
            cache: "full",
            tokens: ids.len(),
            perplexity: mean_nll.exp(),
            mean_nll,
            tokens_per_second: ids.len() as f64 / seconds,
            attention_share: timing.attention.as_secs_f64() / seconds,
            cache_bytes: session.attention().bytes(),
        };
        if args.json {
            writeln!(out, "{}", serde_json::to_string(&row)?)?;
        } else {
            writeln!(
                out,
                "{:<24} {:<8} {:>7} {:>11.4} {:>9.1} {:>8.0}% {:>9.1}",
                row.text,
                row.cache,
                row.tokens,
                row.perplexity,
                row.tokens_per_second,
                100.0 * row.attention_share,
                row.cache_bytes as f64 / f64::from(1 << 20)
            )?;
        }
    }
    Ok(())
}

/// Mean loss of all tokens but the first, with progress on standard error.
fn mean_loss<A: TokenAttention>(session: &mut LlamaSession<'_, A>, ids: &[u32]) -> Result<f64>
where
    A::Error: Send + Sync,
{
    let bar = ProgressBar::with_draw_target(Some(ids.len() as u64), ProgressDrawTarget::stderr());
    bar.set_style(ProgressStyle::with_template("{bar:40} {pos}/{len} tokens, {eta} left")?);
    let losses = session.losses(ids, |tokens| bar.inc(tokens as u64)).context("cannot score the text")?;
    bar.finish_and_clear();
    Ok(losses.iter().sum::<f64>() / losses.len() as f64)
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
