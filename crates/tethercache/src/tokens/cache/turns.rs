//! Turns of a conversation, and tokens that are taken back.

use tether_core::TokenEngine;

use super::recorded::DRAFTS;
use super::{SequenceId, TokenCache, unknown};
use crate::{Error, RecipeError};

impl<E: TokenEngine> TokenCache<E> {
    /// Begins another turn of a conversation: the tokens that come next are a prompt, and the recipe holds for the whole text once
    /// [`TokenCache::evict`] is called after them, as it did after the first prompt. Without it, a recipe without `[decode]` evicts nothing of what comes later.
    ///
    /// # Errors
    /// [`Error::UnknownSequence`].
    pub fn begin_turn(&mut self, sequence: SequenceId) -> Result<(), Error> {
        self.sequences.get_mut(&sequence).ok_or(unknown(sequence))?.decoding = false;
        Ok(())
    }

    /// Tokens that [`TokenCache::truncate`] can take back: those that have come since lists were last changed by an eviction, a choice or a coding, and 32 at most under a recipe that looks at queries of the last tokens.
    ///
    /// # Errors
    /// [`Error::UnknownSequence`].
    pub fn newest(&self, sequence: SequenceId) -> Result<usize, Error> {
        let held = self.sequence(sequence)?;
        let needs = self.planner.needs();
        let records = needs.last_queries > 0 || needs.raw_queries > 0 || self.probes_wanted() > 0;
        let most = if records { DRAFTS } else { usize::MAX };
        Ok(if held.pending.is_some() { 0 } else { (held.layers[0].seen - held.settled).min(most) })
    }

    /// Takes the newest `tokens` tokens back, in all layers, as if they had never come: drafts that a verification refused. No row is moved.
    ///
    /// # Errors
    /// [`Error::UnknownSequence`], [`Error::LayerTokens`] while layers hold different tokens, [`Error::Settled`] for more tokens than [`TokenCache::newest`],
    /// [`RecipeError::Combination`] for a recipe that adds up what tokens leave behind (sums of attention). Nothing
    /// has changed then.
    pub fn truncate(&mut self, sequence: SequenceId, tokens: usize) -> Result<(), Error> {
        let newest = self.newest(sequence)?;
        self.sequence(sequence)?.check_layers()?;
        if tokens > newest {
            return Err(Error::Settled { sequence: sequence.0, tokens, newest });
        }
        if self.planner.needs().accumulated_attention {
            let problem = "what it adds up of tokens, sums of attention, is not taken back";
            let recipe = self.planner.recipe().name.clone();
            return Err(RecipeError::Combination { recipe, problem }.into());
        }
        self.stamps += 1;
        let stamp = self.stamps;
        let held = self.sequences.get_mut(&sequence).ok_or(unknown(sequence))?;
        for (layer, held) in held.layers.iter_mut().enumerate() {
            for list in held.lists_mut() {
                for page in list.forget_newest(tokens, self.geometry.block_size) {
                    self.layers[layer].pool.release(page)?;
                }
            }
            held.recorded.queries.forget_newest(tokens);
            held.recorded.raw_queries.forget_newest(tokens);
            held.seen -= tokens;
            // Pages that are taken again are not what they were.
            held.stamp = stamp;
            held.attended = 0;
        }
        Ok(())
    }
}
