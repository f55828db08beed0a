//! Texts with questions: what a model with a good memory of them can answer.

use tether_models::{ModelError, TextTokenizer};

/// Tokens that are asked with, and tokens of an answer, where a passage is recalled.
const PASSAGE: (usize, usize) = (16, 16);
/// Tokens of a question that must lead to one place of the text only.
const UNIQUE: usize = 6;
/// What comes between the text and a question.
const BREAK: &str = "\n\n";

/// Things that have passwords, and the passwords: two words each, which nobody could guess.
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
const WORDS: [&str; 32] = [
    "marble", "lantern", "copper", "river", "velvet", "thunder", "silver", "pencil", "winter", "basket",
    "golden", "mirror", "purple", "anchor", "wooden", "candle", "bitter", "feather", "hollow", "mountain",
    "yellow", "hammer", "gentle", "button", "frozen", "window", "broken", "whistle", "empty", "kettle",
    "hidden", "ribbon",
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

    /// A quiz over `length` tokens of a text, `ids`, whose first token begins a sequence: the stretch number `seed` of `seeds`, and `count`
    /// questions at equal distances. `None` where the text is shorter.
    pub(super) fn quiz(
        self,
        tokenizer: &TextTokenizer,
        ids: &[u32],
        length: usize,
        (seed, seeds): (usize, usize),
        count: usize,
    ) -> Result<Option<Quiz>, ModelError> {
        if ids.len() < length || length < 16 * PASSAGE.0 {
            return Ok(None);
        }
        // Stretches at equal distances over the text, which may overlap.
        let offset = (ids.len() - length) * seed / (seeds.max(2) - 1);
        let mut context = vec![ids[0]];
        context.extend_from_slice(&ids[offset + 1..offset + length]);
        let lead = tokenizer.encode(BREAK)?;
        Ok(Some(match self {
            Self::Recall => passages(context, &lead, count),
            Self::Needle => needles(tokenizer, context, &lead, seed, count)?,
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

fn needles(
    tokenizer: &TextTokenizer,
    mut context: Vec<u32>,
    lead: &[u32],
    seed: usize,
    count: usize,
) -> Result<Quiz, ModelError> {
    let length = context.len();
    let count = count.min(PLACES.len());
    let (mut sentences, mut questions) = (Vec::new(), Vec::new());
    for i in 0..count {
        let place = PLACES[(5 * seed + i) % PLACES.len()];
        let pair = (7 * seed + i) % (WORDS.len() / 2);
        let words =
            format!(" {} {}", WORDS[2 * pair], WORDS[2 * ((pair + 3 * seed + 1) % (WORDS.len() / 2)) + 1]);
        let asked = format!("The password of the {place} is");
        sentences.push(tokenizer.encode(&format!("{BREAK}{asked}{words}.{BREAK}"))?);
        let cue = lead.iter().copied().chain(tokenizer.encode(&asked)?).collect();
        questions.push(Question { cue, answer: tokenizer.encode(&words)? });
    }
    // The text gives way, so that the length is what was asked for.
    context.truncate(length - sentences.iter().map(Vec::len).sum::<usize>());
    let places: Vec<usize> = depths(context.len(), count).collect();
    for (place, sentence) in places.into_iter().zip(sentences).rev() {
        context.splice(place..place, sentence);
    }
    Ok(Quiz { context, questions })
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
    fn depths_are_the_middles_of_equal_parts() {
        assert_eq!(depths(100, 5).collect::<Vec<_>>(), [10, 30, 50, 70, 90]);
    }
}
