//! Texts with questions: what a model with a good memory of them can answer.

use tether_models::{ModelError, TextTokenizer};

/// Tokens that are asked with, and tokens of an answer, where a passage is recalled.
const PASSAGE: (usize, usize) = (16, 16);
/// Tokens of a question that must lead to one place of the text only.
const UNIQUE: usize = 6;
/// What comes between the text and a question.
const BREAK: &str = "\n\n";

/// Things that have passwords, and the passwords: a word each, which nobody could guess.
const PLACES: [&str; 16] = [
    "harbour",
    "library",
    "bakery",
    "museum",
    "orchard",
    "station",
    "theatre",
    "lighthouse",
    "garden",
    "castle",
    "market",
    "school",
    "bridge",
    "tower",
    "factory",
    "island",
];
const WORDS: [&str; 16] = [
    "marble", "copper", "river", "silver", "winter", "golden", "mirror", "purple", "wooden", "mountain",
    "yellow", "button", "window", "hammer", "velvet", "anchor",
];

/// A question and its answer, as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// Comes after the text. The answer follows its last token.
    pub(super) cue: Vec<u32>,
    pub(super) answer: Vec<u32>,
}

/// A text, and what is asked about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Quiz {
    pub(super) context: Vec<u32>,
    pub(super) questions: Vec<Question>,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// How a passage of the text goes on.
    Recall,
    /// A password that was put into the text.
    Needle,
}

impl Task {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Recall => "recall",
            Self::Needle => "needle",
        }
    }

    /// Quizzes over `length` tokens of a text, `ids`, whose first token begins a sequence: the stretch number `seed` of `seeds`, and `count`
    /// questions at equal distances. Passages are all asked for in one quiz; of needles each has a context of its own. `None` where the
    /// text is shorter.
    pub(super) fn of_place(
        self,
        tokenizer: &TextTokenizer,
        ids: &[u32],
        length: usize,
        (seed, seeds): (usize, usize),
        count: usize,
    ) -> Result<Option<Vec<Quiz>>, ModelError> {
        if ids.len() < length || length < 16 * PASSAGE.0 {
            return Ok(None);
        }
        // Stretches at equal distances over the text, which may overlap.
        let offset = (ids.len() - length) * seed / (seeds.max(2) - 1);
        let mut context = vec![ids[0]];
        context.extend_from_slice(&ids[offset + 1..offset + length]);
        let lead = tokenizer.encode(BREAK)?;
        Ok(Some(match self {
            Self::Recall => vec![passages(context, &lead, count)],
            Self::Needle => (0..count)
                .map(|depth| needle(tokenizer, &context, &lead, seed, (depth, count)))
                .collect::<Result<_, _>>()?,
        }))
    }
}

/// Places at equal distances: the middles of `count` parts of `length`.
fn depths(length: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |i| (2 * i + 1) * length / (2 * count))
}

fn passages(context: Vec<u32>, lead: &[u32], count: usize) -> Quiz {
    let (cue, answer) = PASSAGE;
    let last = context.len() - cue - answer;
    let unique = |at: usize| {
        let end = &context[at + cue - UNIQUE..at + cue];
        context.windows(UNIQUE).filter(|w| *w == end).count() == 1
    };
    let question = |depth: usize| {
        let at = (depth.min(last)..=last).chain((0..depth.min(last)).rev()).find(|&at| unique(at))?;
        let cue_of = lead.iter().chain(&context[at..at + cue]).copied().collect();
        Some(Question { cue: cue_of, answer: context[at + cue..at + cue + answer].to_vec() })
    };
    let questions = depths(context.len(), count).filter_map(question).collect();
    Quiz { context, questions }
}

/// A password in the text at depth number `depth` of `count`.
fn needle(
    tokenizer: &TextTokenizer,
    context: &[u32],
    lead: &[u32],
    seed: usize,
    (depth, count): (usize, usize),
) -> Result<Quiz, ModelError> {
    let number = seed * count + depth;
    let place = PLACES[5 * number % PLACES.len()];
    let word = format!(" {}", WORDS[(7 * number + 3 * (number / WORDS.len())) % WORDS.len()]);
    let asked = format!("Remember this: the password of the {place} is");
    let sentence = tokenizer.encode(&format!("{BREAK}{asked}{word}.{BREAK}"))?;
    let cue = lead.iter().copied().chain(tokenizer.encode(&asked)?).collect();
    // The text gives way, so that the length is what was asked for.
    let mut text = context[..context.len().saturating_sub(sentence.len())].to_vec();
    let at = depths(text.len(), count).nth(depth).unwrap_or_default();
    text.splice(at..at, sentence);
    Ok(Quiz { context: text, questions: vec![Question { cue, answer: tokenizer.encode(&word)? }] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passages_are_asked_for_where_they_are_unique() {
        // A text that says the same thing twice in its first half.
        let mut context: Vec<u32> = (0..100).chain(0..100).chain(500..800).collect();
        context[0] = 9999;
        let quiz = passages(context.clone(), &[7, 8], 5);
        assert_eq!(quiz.questions.len(), 5);
        for question in &quiz.questions {
            assert_eq!(question.cue[..2], [7, 8]);
            let whole: Vec<u32> = question.cue[2..].iter().chain(&question.answer).copied().collect();
            let places = context.windows(whole.len()).filter(|w| *w == whole).count();
            assert_eq!(places, 1, "{whole:?}");
        }
        assert!(quiz.questions[4].cue[2] > 700, "the last part");
    }

    #[test]
    fn needles_of_a_place_differ() {
        let of = |number: usize| (PLACES[5 * number % 16], WORDS[(7 * number + 3 * (number / 16)) % 16]);
        let all: std::collections::BTreeSet<_> = (0..64).map(of).collect();
        assert_eq!(all.len(), 64, "no place has one password twice");
    }

    #[test]
    fn depths_are_the_middles_of_equal_parts() {
        assert_eq!(depths(100, 5).collect::<Vec<_>>(), [10, 30, 50, 70, 90]);
    }
}
