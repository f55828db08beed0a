//! `tether eval needle` and `tether eval recall`.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tether_models::{CachedAttention, LlamaSession, Prediction, RecordedPass};
use tethercache::core::{DType, TokenEngine};
use tethercache::score::tokens::HeadProfile;
use tethercache::tokens::{TokenBytes, TokenRecipe};

use super::args::{Asking, QuizArgs};
use super::page::{Entry, Measured};
use super::perplexity::{bar, ids, name};
use super::questions::{Quiz, Task};
use super::ranks::{Measure, ranking};
use super::runs::{Asked, CONTROLS, Contender};
use crate::device::Device;
use crate::device::{self, OnEngine};
use crate::estimate::Estimate;
use crate::head_profile;
use crate::input::read_text;
use crate::language::Language;
use crate::progress;
use crate::samples::mean;
use crate::table::{Table, numbers, words};
use crate::usage::Usage;

/// How one recipe at one budget answered.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Answers {
    /// Mean probability of the answers' tokens, a number for each context: questions about one are not independent.
    pub(super) probabilities: Vec<f64>,
    /// Mean place of the answers' tokens among all.
    pub(super) ranks: Vec<f64>,
    /// Share of the answers' tokens that were the likeliest.
    pub(super) first: Vec<f64>,
    /// Questions, of all contexts.
    pub(super) questions: usize,
    /// Bytes that the cache holds after the eviction, and what a cache of every token would, of all contexts.
    pub(super) resident: u64,
    pub(super) full: u64,
}

impl Answers {
    fn extend(&mut self, more: Self) {
        self.probabilities.extend(more.probabilities);
        self.ranks.extend(more.ranks);
        self.first.extend(more.first);
        self.questions += more.questions;
        self.resident += more.resident;
        self.full += more.full;
    }

    /// Of one context: what was predicted of the answer to each question.
    fn of_context(questions: &[Vec<Prediction>]) -> Self {
        let each = |of: fn(&Prediction) -> f64| -> Vec<f64> {
            let of_question = |answer: &Vec<Prediction>| mean(&answer.iter().map(of).collect::<Vec<_>>());
            vec![mean(&questions.iter().map(of_question).collect::<Vec<_>>())]
        };
        Self {
            probabilities: each(|p| (-p.loss).exp()),
            ranks: each(|p| p.rank as f64),
            first: each(|p| if p.rank == 1 { 1.0 } else { 0.0 }),
            questions: questions.len(),
            ..Self::default()
        }
    }

    /// As pages and charts show them.
    pub(super) fn entry(&self, title: &str, contender: &Contender) -> Entry {
        let (recipe, budget) = (contender.recipe.name.clone(), contender.budget);
        let (title, samples) = (title.to_owned(), self.probabilities.clone());
        let ranks = vec![mean(&self.ranks), mean(&self.first)];
        let &Self { resident, full, .. } = self;
        Entry { title, recipe, budget, samples, ranks, resident, read: resident, full }
    }

    fn count(&mut self, bytes: TokenBytes) {
        self.resident += bytes.held();
        self.full += bytes.full;
    }
}

/// A row of the table.
#[derive(Debug, Serialize)]
struct Row<'a> {
    task: &'static str,
    length: usize,
    question: &'static str,
    recipe: &'a str,
    budget: f64,
    contexts: usize,
    questions: usize,
    probability: f64,
    standard_error: f64,
    rank: f64,
    first: f64,
    /// Probability above the full cache's, and above those of the controls.
    above_full: f64,
    above_sink_recent: f64,
    above_sink_recent_error: f64,
    above_random: f64,
    above_random_error: f64,
    resident_bytes: u64,
    full_bytes: u64,
}

/// Runs either subcommand.
pub(crate) fn run(args: &QuizArgs, task: Task) -> Result<()> {
    let c = &args.comparison;
    device::check(c.device)?;
    let asked = Asked { recipes: &c.recipe, budgets: &c.budget, overrides: &c.overrides, once: false };
    let contenders = asked.contenders()?;
    let texts = c.text.iter().map(|path| read_text(path)).collect::<Result<Vec<_>>>()?;
    let (language, profile) = head_profile::open(&c.model, c.profile.as_deref())?;
    let mut out = std::io::stdout().lock();
    let table = table();
    if !args.json {
        out.write_all(table.head().as_bytes())?;
    }
    let mut entries = Vec::new();
    for &length in &args.length {
        let quizzes = task.quizzes(&language, &c.text, &texts, (length, args.seeds, args.depths))?;
        for &question in &args.question {
            let title = format!("{} from {length} tokens, question {}", task.name(), when(question));
            let mut there: Vec<(String, f64, Answers)> = Vec::new();
            let asked = (contenders.len() * quizzes.len()) as u64;
            let progress = progress::bar(asked, "{msg} {bar:40} {pos}/{len} contexts, {eta} left", &title)?;
            let test = Test { language: &language, profile: profile.as_ref(), question, device: c.device };
            let all = test.ask(&quizzes, contenders.iter(), || progress.inc(1))?;
            progress.finish_and_clear();
            for (contender, answers) in contenders.iter().zip(all) {
                let recipe = &contender.recipe.name;
                entries.push(answers.entry(&title, contender));
                there.push((recipe.clone(), contender.budget, answers));
                let row = row(task, length, question, &there);
                if args.json {
                    writeln!(out, "{}", serde_json::to_string(&row)?)?;
                } else {
                    out.write_all(table.line(row.cells()).as_bytes())?;
                }
            }
            out.flush()?;
        }
    }
    let points = Measured::of(&entries, &contenders).points();
    match (&args.svg, ranking(&points, Measure::Probability)) {
        (Some(path), Some(figure)) => figure.write(path),
        _ => Ok(()),
    }
}

pub(super) fn too_short(text: &str, tokens: usize, length: usize) -> Usage {
    Usage(format!(
        "--length: {text} has {tokens} tokens, and {length} were asked for; they must be at least 256"
    ))
}

pub(super) fn when(question: Asking) -> &'static str {
    match question {
        Asking::Seen => "seen",
        Asking::Unseen => "unseen",
    }
}

/// The row of the last answers, beside those before.
fn row<'a>(task: Task, length: usize, question: Asking, there: &'a [(String, f64, Answers)]) -> Row<'a> {
    let (recipe, budget, answers) = &there[there.len() - 1];
    let own = &answers.probabilities;
    let of = |control: &str| -> Estimate {
        let same = |(name, b, _): &&(String, f64, Answers)| name == control && (b == budget || *b >= 1.0);
        let other = there.iter().find(same).map_or(own, |(_, _, a)| &a.probabilities);
        Estimate::of_differences(own, other)
    };
    let (full, sink, random, all) =
        (of(CONTROLS[0]), of(CONTROLS[2]), of(CONTROLS[3]), Estimate::of(own.iter().copied()));
    Row {
        task: task.name(),
        length,
        question: when(question),
        recipe,
        budget: *budget,
        contexts: own.len(),
        questions: answers.questions,
        probability: all.mean,
        standard_error: all.se.unwrap_or(0.0),
        rank: mean(&answers.ranks),
        first: mean(&answers.first),
        above_full: full.mean,
        above_sink_recent: sink.mean,
        above_sink_recent_error: sink.se.unwrap_or(0.0),
        above_random: random.mean,
        above_random_error: random.se.unwrap_or(0.0),
        resident_bytes: answers.resident,
        full_bytes: answers.full,
    }
}

fn table() -> Table {
    let who = [words("task"), numbers("length"), words("question"), words("recipe")];
    let measured =
        ["kept", "probability", "rank", "first", "above full", "above sink-recent", "above random"];
    Table::new(who.into_iter().chain(measured.map(numbers)).chain([numbers("resident")]))
}

impl Row<'_> {
    fn cells(&self) -> [String; 12] {
        let above = |mean: f64, error: f64| format!("{mean:+.3} ± {error:.3}");
        [
            self.task.to_owned(),
            self.length.to_string(),
            self.question.to_owned(),
            self.recipe.to_owned(),
            self.budget.to_string(),
            format!("{:.3} ± {:.3}", self.probability, self.standard_error),
            format!("{:.1}", self.rank),
            format!("{:.0}%", 100.0 * self.first),
            format!("{:+.3}", self.above_full),
            above(self.above_sink_recent, self.above_sink_recent_error),
            above(self.above_random, self.above_random_error),
            format!("{:.0}%", 100.0 * self.resident_bytes as f64 / self.full_bytes.max(1) as f64),
        ]
    }
}

/// A quiz whose context was read once for all recipes.
#[derive(Debug)]
struct Prepared<'a> {
    quiz: &'a Quiz,
    recorded: RecordedPass,
}

impl<'a> Prepared<'a> {
    fn read(language: &Language, quiz: &'a Quiz) -> Result<Self> {
        let bar = bar("a context", quiz.context.len())?;
        let recorded = RecordedPass::record(&language.model, &quiz.context, |n| bar.inc(n as u64));
        bar.finish_and_clear();
        Ok(Self { quiz, recorded: recorded.context("cannot read the context")? })
    }
}

impl Task {
    /// Contexts of `length` tokens from `seeds` places of each text, with questions at `depths` depths.
    pub(super) fn quizzes(
        self,
        language: &Language,
        paths: &[PathBuf],
        texts: &[String],
        (length, seeds, depths): (usize, usize, usize),
    ) -> Result<Vec<Quiz>> {
        let mut quizzes = Vec::new();
        for (path, text) in paths.iter().zip(texts) {
            let ids = ids(language, path, text, usize::MAX)?;
            for seed in 0..seeds {
                let of_place = self.of_place(&language.tokenizer, &ids, length, (seed, seeds), depths)?;
                quizzes.extend(of_place.ok_or_else(|| too_short(&name(path), ids.len(), length))?);
            }
        }
        Ok(quizzes)
    }
}

/// How questions are answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Test<'a> {
    pub(super) language: &'a Language,
    pub(super) profile: Option<&'a HeadProfile>,
    pub(super) question: Asking,
    pub(super) device: Device,
}

impl Test<'_> {
    /// Answers all questions under each recipe. `each` is called for each context and recipe. One context is held at a time: what a pass records
    /// of a long one is large.
    pub(super) fn ask<'c>(
        self,
        quizzes: &[Quiz],
        contenders: impl Iterator<Item = &'c Contender> + Clone,
        mut each: impl FnMut(),
    ) -> Result<Vec<Answers>> {
        let mut all = vec![Answers::default(); contenders.clone().count()];
        for quiz in quizzes {
            let context = Prepared::read(self.language, quiz)?;
            for (contender, answers) in contenders.clone().zip(&mut all) {
                let asking = TestUnder { test: self, context: &context, recipe: &contender.recipe };
                let more = device::run(self.device, asking)
                    .with_context(|| format!("recipe {} at {}", contender.recipe.name, contender.budget))?;
                answers.extend(more);
                each();
            }
        }
        Ok(all)
    }
}

struct TestUnder<'a> {
    test: Test<'a>,
    context: &'a Prepared<'a>,
    recipe: &'a TokenRecipe,
}

impl OnEngine for TestUnder<'_> {
    type Out = Answers;

    fn run<E>(self, engine: E) -> Result<Answers>
    where
        E: TokenEngine + std::fmt::Debug,
    {
        let Self { test: Test { language, profile, question, .. }, context, recipe } = self;
        let model = &language.model;
        let mut attention =
            CachedAttention::with_profile(engine, model, recipe.clone(), DType::F32, profile.cloned())?;
        context.recorded.replay(&mut attention).context("cannot read the context")?;
        let mut session = LlamaSession::new(model, attention);
        let (mut answered, mut counted) = (Vec::new(), Answers::default());
        let position = context.recorded.tokens() as i32;
        session.set_next_position(position);
        if question == Asking::Unseen {
            session.evict(&context.quiz.context)?;
            counted.count(session.attention().bytes());
        }
        for asked in &context.quiz.questions {
            let original = session.attention_mut().branch()?;
            session.set_next_position(position);
            let (mut cue, last) = match asked.cue.split_last() {
                Some((last, cue)) => (cue.to_vec(), *last),
                None => continue,
            };
            if question == Asking::Seen || recipe.retain {
                // What is evicted cannot depend on the answer, nor can the answer's first token on what is evicted after it.
                session.score(&cue, &[], |_| ()).context("cannot read a question")?;
                if question == Asking::Seen {
                    session.evict(&[&context.quiz.context[..], &cue].concat())?;
                } else {
                    // What was retained is there for any question.
                    session.attention_mut().recall()?;
                }
                cue.clear();
            }
            let skipped = cue.len();
            let tokens: Vec<u32> = cue
                .into_iter()
                .chain([last])
                .chain(asked.answer[..asked.answer.len() - 1].iter().copied())
                .collect();
            let targets = [&tokens[1..=skipped], &asked.answer].concat();
            let predictions = session.predict(&tokens, &targets).context("cannot answer")?;
            answered.push(predictions[skipped..].to_vec());
            session.attention_mut().back_to(original)?;
        }
        if question == Asking::Seen {
            // Every question has a cache of its own; the share of one stands for all.
            let original = session.attention_mut().branch()?;
            session.set_next_position(position);
            session.evict(&context.quiz.context)?;
            let copy = session.attention().sequence();
            counted.count(share(session.attention(), copy)?);
            session.attention_mut().back_to(original)?;
        }
        counted.extend(Answers::of_context(&answered));
        Ok(counted)
    }
}

/// Bytes of what a sequence refers to, whoever shares it.
fn share<E: TokenEngine>(
    attention: &CachedAttention<E>,
    of: tethercache::tokens::SequenceId,
) -> Result<TokenBytes> {
    let (cache, geometry) = (attention.cache(), attention.cache().geometry());
    let full = cache.seen(of, 0usize)? as u64 * geometry.layers as u64 * geometry.kv_heads as u64;
    Ok(TokenBytes {
        resident: cache.bytes_of(of)?,
        full: full * geometry.block_bytes() / geometry.block_size as u64,
        coded: cache.coded_bytes(of)?,
        ..TokenBytes::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_beside_the_controls_of_their_budget() {
        let answers = |p: f64| Answers { probabilities: vec![p, p + 0.1], ..Answers::default() };
        let there: Vec<(String, f64, Answers)> = [
            ("full", 1.0, 0.8),
            ("sink-recent", 0.5, 0.6),
            ("sink-recent", 0.1, 0.2),
            ("random", 0.1, 0.1),
            ("snapkv", 0.1, 0.5),
        ]
        .map(|(name, budget, p)| (name.to_owned(), budget, answers(p)))
        .into();
        let row = row(Task::Recall, 1024, Asking::Seen, &there);
        assert!((row.above_full + 0.3).abs() < 1e-9, "{row:?}");
        assert!((row.above_sink_recent - 0.3).abs() < 1e-9 && row.above_sink_recent_error < 1e-9, "{row:?}");
        assert!((row.above_random - 0.4).abs() < 1e-9, "{row:?}");
        let line = table().line(row.cells());
        assert!(line.contains("| recall | 1024 | seen | snapkv | 0.1 | 0.550"), "{line}");
    }

    #[test]
    fn answers_are_means_over_their_tokens() {
        let sure = Prediction { loss: 0.0, rank: 1 };
        let half = Prediction { loss: 2f64.ln(), rank: 4 };
        let mut answers = Answers::of_context(&[vec![sure, half]]);
        assert_eq!((answers.ranks[0], answers.first[0]), (2.5, 0.5));
        assert!((answers.probabilities[0] - 0.75).abs() < 1e-12);
        // A context is one sample, however many questions are asked about it.
        answers.extend(Answers::of_context(&[vec![sure], vec![half, half]]));
        assert_eq!((answers.ranks.as_slice(), answers.questions), (&[2.5, 2.5][..], 3));
    }
}
