//! A sequence that a model reads and continues.

use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::{Llama, LlamaWorkspace};
use crate::{ForwardError, ModelError, TokenAttention, TokenBlock};

/// Tokens that are read at a time: enough for the weights to be widened once for many, few enough for the buffers to stay small.
const BATCH: usize = 512;
/// Tokens whose logits are held at a time while a text is scored.
const SCORED: usize = 128;

/// A model, one sequence's cache, and where they are in the sequence.
#[derive(Debug)]
pub struct LlamaSession<'m, A> {
    model: &'m Llama,
    workspace: LlamaWorkspace,
    attention: A,
    next: i32,
    timing: TokenTiming,
    logits: Vec<f32>,
}

/// Where the time of a session went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenTiming {
    /// All of it.
    pub total: Duration,
    /// Attention, and the cache with it.
    pub attention: Duration,
}

/// Counts the time that an attention takes.
struct Timed<'a, A> {
    attention: &'a mut A,
    spent: &'a mut Duration,
}

impl<A: TokenAttention> TokenAttention for Timed<'_, A> {
    type Error = A::Error;

    fn attend(&mut self, block: &TokenBlock<'_>, out: &mut tether_core::HostTensor) -> Result<(), A::Error> {
        let started = Instant::now();
        let result = self.attention.attend(block, out);
        *self.spent += started.elapsed();
        result
    }
}

impl<'m, A: TokenAttention> LlamaSession<'m, A> {
    /// A sequence without tokens, cached by `attention`.
    pub fn new(model: &'m Llama, attention: A) -> Self {
        Self {
            model,
            workspace: model.workspace(),
            attention,
            next: 0,
            timing: TokenTiming::default(),
            logits: Vec::new(),
        }
    }

    /// The cache.
    pub fn attention(&self) -> &A {
        &self.attention
    }

    /// The cache, to be changed between tokens.
    pub fn attention_mut(&mut self) -> &mut A {
        &mut self.attention
    }

    /// The cache, without the session.
    pub fn into_attention(self) -> A {
        self.attention
    }

    /// Position of the next token.
    pub fn next_position(&self) -> i32 {
        self.next
    }

    /// Puts the next token elsewhere, for caches that give what they keep new positions.
    pub fn set_next_position(&mut self, position: i32) {
        self.next = position;
    }

    /// Time spent so far.
    pub fn timing(&self) -> TokenTiming {
        self.timing
    }

    /// Reads tokens, and returns the logits of what follows the last, `[vocabulary]`.
    ///
    /// # Errors
    /// [`ModelError::Length`] when there are none, and those of [`Llama::forward`]; the cache may then have taken some of the tokens.
    pub fn read(&mut self, tokens: &[u32]) -> Result<&[f32], ForwardError<A::Error>> {
        let started = Instant::now();
        if tokens.is_empty() {
            return Err(ModelError::Length { what: "tokens", expected: 1, got: 0 }.into());
        }
        self.model.check_tokens(tokens)?;
        for batch in tokens.chunks(BATCH) {
            self.forward(batch)?;
        }
        let dim = self.model.config().dim;
        let hidden = self.workspace.hidden();
        let last = hidden[hidden.len() - dim..].to_vec();
        self.logits.resize(self.model.config().vocabulary, 0.0);
        self.model.logits(&mut self.workspace, &last, &mut self.logits)?;
        self.timing.total += started.elapsed();
        Ok(&self.logits)
    }

    /// Reads tokens, and returns for each but the first what it cost: minus the natural logarithm of the probability that the model gave
    /// it. `progress` is called with the number of tokens read since the last call.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn losses(
        &mut self,
        tokens: &[u32],
        mut progress: impl FnMut(usize),
    ) -> Result<Vec<f64>, ForwardError<A::Error>> {
        self.score(tokens, tokens.get(1..).unwrap_or_default(), &mut progress)
    }

    /// Reads tokens, and returns what `targets` cost, of which the first follows the first token, and so on; as many as there are tokens at
    /// most.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn score(
        &mut self,
        tokens: &[u32],
        targets: &[u32],
        progress: impl FnMut(usize),
    ) -> Result<Vec<f64>, ForwardError<A::Error>> {
        self.each_target(tokens, targets, progress, loss)
    }

    /// Reads tokens, and returns how well the model predicted `targets`, of which the first follows the first token, and so on; as many as
    /// there are tokens at most.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn predict(
        &mut self,
        tokens: &[u32],
        targets: &[u32],
    ) -> Result<Vec<Prediction>, ForwardError<A::Error>> {
        self.each_target(tokens, targets, |_| (), prediction)
    }

    fn each_target<T: Send>(
        &mut self,
        tokens: &[u32],
        targets: &[u32],
        mut progress: impl FnMut(usize),
        judge: impl Fn(&[f32], u32) -> T + Sync,
    ) -> Result<Vec<T>, ForwardError<A::Error>> {
        let started = Instant::now();
        self.model.check_tokens(tokens)?;
        self.model.check_tokens(targets)?;
        let (dim, vocabulary) = (self.model.config().dim, self.model.config().vocabulary);
        let targets = &targets[..targets.len().min(tokens.len())];
        let mut judged = Vec::with_capacity(targets.len());
        // Tokens without targets are read all the same.
        let targets = targets.chunks(BATCH).chain(std::iter::repeat(&[][..]));
        for (batch, targets) in tokens.chunks(BATCH).zip(targets) {
            self.forward(batch)?;
            let hidden = self.workspace.hidden()[..targets.len() * dim].to_vec();
            for (hidden, targets) in hidden.chunks(SCORED * dim).zip(targets.chunks(SCORED)) {
                self.logits.resize(targets.len() * vocabulary, 0.0);
                self.model.logits(&mut self.workspace, hidden, &mut self.logits)?;
                let rows = self.logits.par_chunks(vocabulary).zip(targets);
                judged.par_extend(rows.map(|(logits, target)| judge(logits, *target)));
            }
            progress(batch.len());
        }
        self.timing.total += started.elapsed();
        Ok(judged)
    }

    fn forward(&mut self, tokens: &[u32]) -> Result<(), ForwardError<A::Error>> {
        let positions: Vec<i32> = (self.next..).take(tokens.len()).collect();
        let mut timed = Timed { attention: &mut self.attention, spent: &mut self.timing.attention };
        self.model.forward(&mut self.workspace, tokens, &positions, &mut timed)?;
        self.next += tokens.len() as i32;
        Ok(())
    }
}

/// Minus the logarithm of the probability of `target`.
fn loss(logits: &[f32], target: u32) -> f64 {
    let highest = logits.iter().fold(f32::NEG_INFINITY, |m, x| m.max(*x));
    let total: f64 = logits.iter().map(|x| f64::from((x - highest).exp())).sum();
    total.ln() + f64::from(highest) - f64::from(logits[target as usize])
}

/// What a model gave a token that it was to predict.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// Minus the natural logarithm of its probability.
    pub loss: f64,
    /// Its place among all tokens, the likeliest being 1; of equals the lower id comes first.
    pub rank: usize,
}

fn prediction(logits: &[f32], target: u32) -> Prediction {
    let own = logits[target as usize];
    let before = |&(id, x): &(usize, &f32)| *x > own || (*x == own && id < target as usize);
    Prediction { loss: loss(logits, target), rank: logits.iter().enumerate().filter(before).count() + 1 }
}

/// The likeliest token; of equals the lower.
pub fn greedy(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, x) in logits.iter().enumerate() {
        if *x > logits[best] {
            best = i;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::{greedy, loss, prediction};

    #[test]
    fn equals_go_to_the_lower() {
        assert_eq!(greedy(&[0.5, 2.0, -1.0, 2.0]), 1);
    }

    #[test]
    fn ranks_count_from_the_likeliest() {
        let logits = [0.5f32, 2.0, -1.0, 2.0];
        assert_eq!([0, 1, 2, 3].map(|t| prediction(&logits, t).rank), [3, 1, 4, 2]);
        assert_eq!(prediction(&logits, 2).loss, loss(&logits, 2));
    }

    #[test]
    fn losses_are_those_of_the_definition() {
        let logits = [0.5f32, 2.0, -1.0];
        let total: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
        for (i, x) in logits.iter().enumerate() {
            let want = -(f64::from(*x).exp() / total).ln();
            assert!((loss(&logits, i as u32) - want).abs() < 1e-6);
        }
        assert!((loss(&[900.0, 900.0], 1) - 2f64.ln()).abs() < 1e-6);
    }
}
