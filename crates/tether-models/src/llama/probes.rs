//! Probe tokens, which a recipe may ask a model to run before it evicts.

use tether_core::TokenEngine;
use tethercache::Error;
use tethercache::tokens::EvictReport;

use super::LlamaSession;
use crate::{CachedAttention, ForwardError};

/// The probe tokens of a text: its first `first` tokens again, and then its last `last` ones.
fn probes(text: &[u32], first: usize, last: usize) -> Vec<u32> {
    let (first, last) = (first.min(text.len()), last.min(text.len()));
    [&text[..first], &text[text.len() - last..]].concat()
}

impl<E: TokenEngine> LlamaSession<'_, CachedAttention<E>> {
    /// Carries the recipe out where something is due, as [`CachedAttention::evict`] does. A recipe that asks for probe tokens (`DapQ`,
    /// arXiv:2603.11564) gets them: `text`, all that the session has read, gives their content, and the model runs them at the positions that
    /// come next, on a copy of the sequence that is forgotten before anything leaves.
    ///
    /// # Errors
    /// Those of [`CachedAttention::evict`] and of [`LlamaSession::read`]; the session is as it was then.
    pub fn evict(&mut self, text: &[u32]) -> Result<EvictReport, ForwardError<Error>> {
        let failed = |source| ForwardError::Cache { source };
        let cache = self.attention().cache();
        let needs = cache.planner().needs();
        let probes = probes(text, needs.probe_first, needs.probe_last);
        if !probes.is_empty() && cache.evict_is_due(self.attention().sequence()).map_err(failed)? {
            let position = self.next_position();
            let original = self.attention_mut().branch().map_err(failed)?;
            let run = self.score(&probes, &[], |_| ());
            self.set_next_position(position);
            let back = match run {
                Ok(_) => self.attention_mut().back_from_probes(original),
                Err(_) => self.attention_mut().back_to(original),
            };
            run?;
            back.map_err(failed)?;
        }
        self.attention_mut().evict().map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::probes;

    #[test]
    fn probes_are_both_ends_of_the_text() {
        assert_eq!(probes(&[1, 2, 3, 4, 5], 2, 3), [1, 2, 3, 4, 5]);
        assert_eq!(probes(&[1, 2, 3, 4, 5], 1, 2), [1, 4, 5]);
        assert_eq!(probes(&[1, 2], 4, 28), [1, 2, 1, 2]);
        assert_eq!(probes(&[1, 2, 3], 0, 0), [0u32; 0]);
    }
}
