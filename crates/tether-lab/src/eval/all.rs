//! `tether eval all`: perplexity, recall and needles of every recipe, as a page.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

use super::args::{AllArgs, Asking, Stored};
use super::draw::{self, Line};
use super::page::{self, Entry, Measured};
use super::perplexity::{Reading, ids, name};
use super::questions::Task;
use super::quiz::{Test, when};
use super::runs::{Asked, Contender, every, evicts_once};
use crate::device;
use crate::head_profile;
use crate::input::read_text;
use crate::progress;
use crate::samples::mean;
use crate::usage::Usage;

/// Runs the subcommand.
pub(crate) fn run(args: &AllArgs) -> Result<()> {
    let c = &args.comparison;
    if args.block == 0 {
        return Err(Usage("--block: must be at least 1".to_owned()).into());
    }
    device::check(c.device)?;
    let texts = c.text.iter().map(|path| read_text(path)).collect::<Result<Vec<_>>>()?;
    let before = fs::read_to_string(&args.out).unwrap_or_default();
    page::check(&before).map_err(|problem| Usage(format!("{}: {problem}", args.out.display())))?;
    let (language, profile) = head_profile::open(&c.model, c.profile.as_deref())?;
    let all = every(&language.model, profile.as_ref())?;
    let recipes = if c.recipe.is_empty() { &all } else { &c.recipe };
    let asked = Asked { recipes, budgets: &c.budget, overrides: &c.overrides, once: true };
    let contenders = asked.contenders()?;
    // What evicts once more is of no account where nothing is read after the eviction.
    let quizzed: Vec<&Contender> = contenders.iter().filter(|c| !evicts_once(&c.recipe.name)).collect();
    let mut rows = Rows::open(args.rows.as_deref())?;

    for (path, text) in c.text.iter().zip(&texts) {
        let reading = Reading {
            language: &language,
            profile: profile.as_ref(),
            ids: ids(&language, path, text, args.tokens.min(language.model.config().context))?,
            block: args.block,
            device: c.device,
            stored: Stored::F32,
        };
        let title = format!("Perplexity, {}", name(path));
        if rows.has_all(&title, contenders.iter()) {
            continue;
        }
        let prompted = reading.with_prompt(Some(args.prompt))?;
        rows.measure(&title, contenders.iter(), |contender| {
            let scored = prompted.score(contender)?;
            let samples = scored.samples();
            Ok((samples, Vec::new(), [scored.resident, scored.read, scored.full]))
        })?;
    }
    for (task, question) in [(Task::Recall, Asking::Unseen), (Task::Needle, Asking::Seen)] {
        for &length in &args.length {
            let title = format!("{}, {length} tokens, question {}", capital(task.name()), when(question));
            if rows.has_all(&title, quizzed.iter().copied()) {
                continue;
            }
            let quizzes = task.quizzes(&language, &c.text, &texts, (length, args.seeds, args.depths))?;
            let missing: Vec<&Contender> = quizzed.iter().copied().filter(|c| !rows.has(&title, c)).collect();
            let template = "{msg} {bar:30} {pos}/{len} contexts under a recipe, {eta} left";
            let bar = progress::bar((missing.len() * quizzes.len()) as u64, template, &title)?;
            let test = Test { language: &language, profile: profile.as_ref(), question, device: c.device };
            let all = test.ask(&quizzes, missing.iter().copied(), || bar.inc(1))?;
            bar.finish_and_clear();
            for (contender, answers) in missing.into_iter().zip(all) {
                let ranks = [mean(&answers.ranks), mean(&answers.first)];
                let bytes = [answers.resident, answers.resident, answers.full];
                rows.add(&title, contender, (answers.probabilities, ranks.to_vec(), bytes))?;
            }
        }
    }
    let measured = Measured::of(&rows.entries, &contenders);
    if let Some(folder) = &args.svg {
        let lines: Vec<Line> = measured.points().into_iter().map(Line::Rank).collect();
        draw::leave(&lines, folder, "evaluation.jsonl")?;
    }
    let page = page::replaced(&before, &measured.markdown());
    fs::write(&args.out, page).with_context(|| format!("cannot write {}", args.out.display()))
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// Samples, ranks of answers, and bytes: resident, read and of a cache that keeps everything.
type Samples = (Vec<f64>, Vec<f64>, [u64; 3]);

/// What was measured, in a file where one was named.
struct Rows {
    entries: Vec<Entry>,
    file: Option<fs::File>,
}

impl Rows {
    fn open(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else { return Ok(Self { entries: Vec::new(), file: None }) };
        let there = if path.exists() { read_text(path)? } else { String::new() };
        let entries = there.lines().map(serde_json::from_str).collect::<Result<_, _>>();
        let entries = entries.map_err(|e| Usage(format!("--rows: {}: {e}", path.display())))?;
        let file = OpenOptions::new().create(true).append(true).open(path);
        Ok(Self { entries, file: Some(file.with_context(|| format!("cannot write {}", path.display()))?) })
    }

    fn has(&self, title: &str, contender: &Contender) -> bool {
        self.entries
            .iter()
            .any(|e| e.title == title && e.recipe == contender.recipe.name && e.budget == contender.budget)
    }

    fn has_all<'a>(&self, title: &str, mut contenders: impl Iterator<Item = &'a Contender>) -> bool {
        contenders.all(|c| self.has(title, c))
    }

    /// Measures what is not there.
    fn measure<'a>(
        &mut self,
        title: &str,
        contenders: impl Iterator<Item = &'a Contender>,
        mut of: impl FnMut(&Contender) -> Result<Samples>,
    ) -> Result<()> {
        let missing: Vec<&Contender> = contenders.filter(|c| !self.has(title, c)).collect();
        let template = "{msg} {bar:30} {pos}/{len} recipes and budgets, {eta} left";
        let bar = progress::bar(missing.len() as u64, template, title)?;
        for contender in missing {
            self.add(title, contender, of(contender)?)?;
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn add(
        &mut self,
        title: &str,
        contender: &Contender,
        (samples, ranks, [resident, read, full]): Samples,
    ) -> Result<()> {
        let (title, recipe, budget) = (title.to_owned(), contender.recipe.name.clone(), contender.budget);
        let entry = Entry { title, recipe, budget, samples, ranks, resident, read, full };
        if let Some(file) = &mut self.file {
            writeln!(file, "{}", serde_json::to_string(&entry)?)?;
        }
        self.entries.push(entry);
        Ok(())
    }
}
