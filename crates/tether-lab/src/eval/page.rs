//! Tables of what was measured, and the page that they are part of.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::ranks::{Measure, RankPoint};
use super::runs::{Contender, evicts_once, is_control};
use crate::chart::Standing;
use crate::estimate::Estimate;
use crate::samples::mean;
use crate::table::{Table, numbers, words};

const BEGIN: &str = "<!-- tether eval all -->";
const END: &str = "<!-- end of tether eval all -->";

/// One recipe at one budget on one measure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) title: String,
    pub(super) recipe: String,
    pub(super) budget: f64,
    /// Losses of runs of tokens, or probabilities of answers, context by context.
    pub(super) samples: Vec<f64>,
    /// Mean rank and share of first ranks, of answers.
    pub(super) ranks: Vec<f64>,
    pub(super) resident: u64,
    /// What the last token read of it.
    pub(super) read: u64,
    pub(super) full: u64,
}

impl Entry {
    fn is_loss(&self) -> bool {
        self.ranks.is_empty()
    }

    fn value(&self) -> f64 {
        let mean = mean(&self.samples);
        if self.is_loss() { mean.exp() } else { mean }
    }
}

/// Entries of some recipes and budgets, by measure.
pub(super) struct Measured<'a> {
    entries: &'a [Entry],
    titles: Vec<&'a str>,
    recipes: Vec<&'a str>,
    budgets: Vec<f64>,
    /// Recipes that evict only once.
    once: Vec<&'a str>,
    /// Recipes that hold what they do not read.
    retains: Vec<&'a str>,
}

impl<'a> Measured<'a> {
    pub(super) fn of(entries: &'a [Entry], contenders: &'a [Contender]) -> Self {
        let mut titles: Vec<&str> = Vec::new();
        for entry in entries {
            if !titles.contains(&entry.title.as_str()) {
                titles.push(&entry.title);
            }
        }
        let (mut recipes, mut budgets) = (Vec::<&str>::new(), Vec::new());
        let (mut once, mut retains) = (Vec::new(), Vec::new());
        for Contender { recipe, budget } in contenders {
            if !recipes.contains(&recipe.name.as_str()) {
                recipes.push(&recipe.name);
                if recipe.score.is_some() && recipe.decode.is_none() {
                    once.push(recipe.name.as_str());
                }
                if recipe.retain {
                    retains.push(recipe.name.as_str());
                }
            }
            if *budget < 1.0 && !budgets.contains(budget) {
                budgets.push(*budget);
            }
        }
        Self { entries, titles, recipes, budgets, once, retains }
    }

    fn entry(&self, title: &str, recipe: &str, budget: f64) -> Option<&'a Entry> {
        self.entries.iter().find(|e| e.title == title && e.recipe == recipe && e.budget == budget)
    }

    /// The control that does best at a budget, of those that evict as often as `recipe` does.
    fn best_control(&self, title: &str, recipe: &str, budget: f64) -> Option<&'a Entry> {
        let like = |name: &str| self.entry(title, name, budget);
        let once = self.once.contains(&recipe);
        let controls = self.recipes.iter().filter(|name| is_control(name) && **name != "full");
        let of_kind =
            |wanted: bool| controls.clone().filter(move |n| evicts_once(n) == wanted).filter_map(|n| like(n));
        // Where there are no controls that evict once, how often they do makes no difference.
        let mut same: Vec<&Entry> = of_kind(once).collect();
        if same.is_empty() {
            same = of_kind(false).collect();
        }
        let worth = |e: &&Entry| if e.is_loss() { -mean(&e.samples) } else { mean(&e.samples) };
        same.into_iter().max_by(|a, b| worth(a).total_cmp(&worth(b)))
    }

    /// Whether a recipe is better (1), worse (-1) or neither than the best control.
    fn verdict(&self, entry: &Entry) -> i8 {
        let Some(control) = self.best_control(&entry.title, &entry.recipe, entry.budget) else { return 0 };
        let sign = Estimate::of_differences(&entry.samples, &control.samples).sign();
        if entry.is_loss() { -sign } else { sign }
    }

    /// All tables.
    pub(super) fn markdown(&self) -> String {
        let mut out = String::new();
        for title in &self.titles {
            self.table(&mut out, title);
        }
        out
    }

    fn table(&self, out: &mut String, title: &str) {
        let of_table: Vec<&Entry> = self.entries.iter().filter(|e| e.title == title).collect();
        let Some(full) = of_table.iter().find(|e| e.budget >= 1.0) else { return };
        let count = full.samples.len();
        let _ = match full.ranks.as_slice() {
            [rank, first] => writeln!(
                out,
                "## {title}\n\nMean probability of the answers' tokens, and their mean rank, over {count} contexts. The full cache: **{:.3}**, rank {rank:.1}, {:.0}% of the tokens first.\n",
                full.value(),
                100.0 * first
            ),
            _ => writeln!(
                out,
                "## {title}\n\nPerplexity over {count} runs of 32 tokens, the mean loss above the full cache's with its standard error, and what is resident at the end. The full cache: **{:.3}**.\n",
                full.value()
            ),
        };
        let budgets = self.budgets.iter().map(|b| numbers(&format!("{b} kept")));
        let mut table = Table::new(std::iter::once(words("recipe")).chain(budgets));
        for recipe in self.recipes.iter().filter(|r| **r != "full") {
            let cells: Vec<String> = self
                .budgets
                .iter()
                .map(|&b| self.entry(title, recipe, b).map_or_else(String::new, |e| self.cell(e, full)))
                .collect();
            if cells.iter().any(|c| !c.is_empty()) {
                table.push(std::iter::once(format!("`{recipe}`")).chain(cells));
            }
        }
        out.push_str(&table.markdown());
        out.push('\n');
        self.conclusion(out, title);
    }

    fn cell(&self, entry: &Entry, full: &Entry) -> String {
        let mark = match (is_control(&entry.recipe), self.verdict(entry)) {
            (false, 1) => " ▲",
            (false, -1) => " ▼",
            _ => "",
        };
        match entry.ranks.first() {
            Some(rank) => format!("{:.3} (rank {rank:.1}){mark}", entry.value()),
            None => {
                let above = above_full(entry, full).signed_with_error(3);
                let share = |bytes: u64| 100.0 * bytes as f64 / entry.full.max(1) as f64;
                let mut held = format!("{:.0}%", share(entry.resident));
                if self.retains.contains(&entry.recipe.as_str()) {
                    held = format!("{held}, reads {:.0}%", share(entry.read));
                }
                format!("{:.2} ({above}, {held}){mark}", entry.value())
            }
        }
    }

    /// What is better and what is worse than the controls.
    fn conclusion(&self, out: &mut String, title: &str) {
        for &budget in &self.budgets {
            let mut named = [Vec::new(), Vec::new(), Vec::new()];
            for recipe in self.recipes.iter().filter(|r| !is_control(r)) {
                if let Some(entry) = self.entry(title, recipe, budget) {
                    named[(1 - self.verdict(entry)) as usize].push(format!("`{recipe}`"));
                }
            }
            let list = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            let _ = writeln!(
                out,
                "* {budget} kept: better than the best control {}; worse {}; not resolved {}.",
                list(&named[0]),
                list(&named[2]),
                list(&named[1])
            );
        }
        out.push('\n');
    }

    /// All numbers, as charts show them.
    pub(super) fn points(&self) -> Vec<RankPoint> {
        let mut points = Vec::new();
        for title in &self.titles {
            let of_title = || self.entries.iter().filter(|e| e.title == *title);
            let Some(full) = of_title().find(|e| e.budget >= 1.0) else { continue };
            for recipe in &self.recipes {
                points
                    .extend(of_title().filter(|e| e.recipe == *recipe).map(|entry| self.point(entry, full)));
            }
        }
        points
    }

    fn point(&self, entry: &Entry, full: &Entry) -> RankPoint {
        let (measure, value) = match entry.is_loss() {
            true => (Measure::LossAboveFull, above_full(entry, full)),
            false => (Measure::Probability, Estimate::of(entry.samples.iter().copied())),
        };
        let standing = match self.verdict(entry) {
            _ if is_control(&entry.recipe) => Standing::Control,
            1 => Standing::Better,
            -1 => Standing::Worse,
            _ => Standing::NotResolved,
        };
        let (title, recipe, budget) = (entry.title.clone(), entry.recipe.clone(), entry.budget);
        RankPoint { title, measure, recipe, budget, value, standing }
    }
}

/// How much worse the losses are than the full cache's.
fn above_full(entry: &Entry, full: &Entry) -> Estimate {
    Estimate::of_differences(&entry.samples, &full.samples)
}

/// Refuses a page that has one of the marks only.
pub(super) fn check(page: &str) -> Result<(), &'static str> {
    match (page.find(BEGIN), page.find(END)) {
        (None, None) => Ok(()),
        (Some(begin), Some(end)) if begin < end => Ok(()),
        _ => Err("the marks of the part that is written do not stand in a pair"),
    }
}

/// `page` with `tables` between the marks, or after it where there are none.
pub(super) fn replaced(page: &str, tables: &str) -> String {
    let part = format!("{BEGIN}\n\n{}\n\n{END}", tables.trim());
    match (page.find(BEGIN), page.find(END)) {
        (Some(begin), Some(end)) => format!("{}{part}{}", &page[..begin], &page[end + END.len()..]),
        _ => format!("{}\n\n{part}\n", page.trim_end()).trim_start().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use tethercache::tokens::TokenRecipe;

    use super::*;

    fn entry(recipe: &str, budget: f64, samples: [f64; 3], ranks: &[f64]) -> Entry {
        let (title, recipe, ranks) = ("T".to_owned(), recipe.to_owned(), ranks.to_vec());
        Entry { title, recipe, budget, samples: samples.to_vec(), ranks, resident: 1, read: 1, full: 2 }
    }

    fn contenders() -> Vec<Contender> {
        let of = |name: &str, budget| Contender { recipe: TokenRecipe::named(name).unwrap(), budget };
        vec![of("full", 1.0), of("window", 0.1), of("sink-recent", 0.1), of("h2o", 0.1), of("knorm", 0.1)]
    }

    #[test]
    fn verdicts_are_against_the_best_control() {
        let contenders = contenders();
        for (loss, ranks) in [(1.0, &[][..]), (-1.0, &[1.0, 1.0][..])] {
            let e = |name, budget, base: f64| {
                let samples = [base, base + 0.01, base + 0.02].map(|x| 5.0 + loss * x);
                entry(name, budget, samples, ranks)
            };
            let mut entries = vec![
                e("full", 1.0, 1.0),
                e("window", 0.1, 3.0),
                e("sink-recent", 0.1, 2.0),
                e("h2o", 0.1, 1.5),
            ];
            entries.push(e("knorm", 0.1, 2.5));
            // Not all by the same amount, or there would be no error to compare with.
            entries[3].samples[0] += 0.02;
            entries[4].samples[1] += 0.03;
            let measured = Measured::of(&entries, &contenders);
            let text = measured.markdown();
            assert!(
                text.contains("better than the best control `h2o`; worse `knorm`; not resolved none"),
                "{text}"
            );
            assert_eq!(text.matches('▲').count(), 1);
            let points = measured.points();
            let standing = |name: &str| points.iter().find(|p| p.recipe == name).unwrap().standing;
            assert_eq!(points.len(), 5);
            assert_eq!(
                ["full", "window", "h2o", "knorm"].map(standing),
                [Standing::Control, Standing::Control, Standing::Better, Standing::Worse]
            );
            assert!(points.iter().all(|p| (p.measure == Measure::LossAboveFull) == ranks.is_empty()));
        }
    }

    #[test]
    fn a_page_keeps_what_stands_around_the_tables() {
        let page = replaced("before\n", "one");
        assert_eq!(page, format!("before\n\n{BEGIN}\n\none\n\n{END}\n"));
        let page = replaced(&format!("{page}after\n"), "two");
        assert_eq!(page, format!("before\n\n{BEGIN}\n\ntwo\n\n{END}\nafter\n"));
        check(&page).unwrap();
        assert!(check(&format!("{END} {BEGIN}")).is_err() && check(BEGIN).is_err());
    }
}
