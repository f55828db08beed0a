//! `tether generate`.

mod args;

use std::io::Write;
use std::time::Instant;

use anyhow::{Context, Result};
use tether_models::{CachedAttention, LlamaSession, greedy};
use tethercache::core::{DType, TokenEngine};
use tethercache::score::tokens::HeadProfile;
use tethercache::tokens::{TokenBytes, TokenRecipe};

pub use self::args::GenerateArgs;
use crate::device::{self, OnEngine};
use crate::head_profile;
use crate::input::read_text;
use crate::language::Language;
use crate::usage::Usage;

/// How fast it went.
struct Speed {
    /// Tokens of the prompt, and seconds.
    prompt: (usize, f64),
    /// Tokens after the first of the continuation, and seconds.
    steps: (usize, f64),
}

/// Runs the subcommand.
///
/// # Errors
/// What cannot be read, made or written.
pub fn run(args: &GenerateArgs) -> Result<()> {
    let prompt = match (&args.prompt, &args.file) {
        (Some(prompt), _) => prompt.clone(),
        (None, Some(file)) => read_text(file)?,
        (None, None) => return Err(Usage("a prompt or --file is needed".to_owned()).into()),
    };
    device::check(args.device)?;
    let mut overrides: Vec<String> = args.budget.iter().map(|b| format!("budget.ratio={b:?}")).collect();
    overrides.extend(args.overrides.iter().cloned());
    let recipe = TokenRecipe::named(&args.recipe)?.with_overrides(&overrides)?;
    let (language, profile) = head_profile::open(&args.model, args.profile.as_deref())?;
    let ids = if args.chat {
        let turn = language.tokenizer.encode_turn(&prompt)?;
        turn.ok_or_else(|| Usage("--chat: the model's template has no turns that are known".to_owned()))?
    } else {
        language.tokenizer.encode_start(&prompt)?
    };
    let context = language.model.config().context;
    if ids.is_empty() || ids.len() >= context {
        let problem = format!("the prompt has {} tokens: it must have 1 to {}", ids.len(), context - 1);
        return Err(Usage(problem).into());
    }
    let most = args.max_tokens.min(context - ids.len());
    let (speed, bytes) =
        device::run(args.device, Continuation { language: &language, recipe, profile, ids: &ids, most })?;
    let rate =
        |(tokens, seconds): (usize, f64)| format!("{tokens} tokens, {:.1} tokens/s", tokens as f64 / seconds);
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    eprintln!(
        "prompt {}; after it {}; cache {:.1} MiB of {:.1}, of which a token reads {:.1}",
        rate(speed.prompt),
        rate(speed.steps),
        mib(bytes.held()),
        mib(bytes.full),
        mib(bytes.read)
    );
    Ok(())
}

/// A prompt and its continuation under one recipe.
struct Continuation<'a> {
    language: &'a Language,
    recipe: TokenRecipe,
    profile: Option<HeadProfile>,
    ids: &'a [u32],
    most: usize,
}

impl OnEngine for Continuation<'_> {
    type Out = (Speed, TokenBytes);

    fn run<E>(self, engine: E) -> Result<Self::Out>
    where
        E: TokenEngine + std::fmt::Debug,
    {
        let attention = CachedAttention::with_profile(
            engine,
            &self.language.model,
            self.recipe,
            DType::F32,
            self.profile,
        )?;
        let mut session = LlamaSession::new(&self.language.model, attention);
        let mut out = std::io::stdout().lock();
        let speed = stream(self.language, &mut session, self.ids, self.most, &mut out)?;
        Ok((speed, session.attention().bytes()))
    }
}

/// Writes the likeliest continuation of `ids` as it comes, to its end or to `most` tokens.
fn stream<E: TokenEngine>(
    language: &Language,
    session: &mut LlamaSession<'_, CachedAttention<E>>,
    ids: &[u32],
    most: usize,
    out: &mut impl Write,
) -> Result<Speed> {
    let started = Instant::now();
    let mut next = greedy(session.read(ids).context("cannot read the prompt")?);
    session.evict(ids)?;
    let read = Instant::now();
    let mut all = ids.to_vec();
    let mut text = language.tokenizer.stream();
    let mut steps = 0;
    for made in 0..most {
        if Some(next) == language.tokenizer.eos() {
            break;
        }
        out.write_all(text.push(next)?.as_bytes())?;
        out.flush()?;
        if made + 1 < most {
            all.push(next);
            next = greedy(session.read(&[next]).context("cannot continue")?);
            session.evict(&all)?;
            steps += 1;
        }
    }
    writeln!(out)?;
    let prompt = (ids.len(), (read - started).as_secs_f64());
    Ok(Speed { prompt, steps: (steps, read.elapsed().as_secs_f64()) })
}
