//! Evicted values join the kept token whose key is most like theirs.

use serde::{Deserialize, Serialize};
use tether_part::Settings;

use super::merge::grouped;
use super::nearest::nearest;
use super::{EditTokens, HeadEdit, Merge, TokenEdit};
use crate::EditError;

/// Merging of values by likeness of keys, as kvpress does it: an evicted value joins the kept token with the highest cosine, weighted by
/// `max(cos, 0) |v_e| / (|v_e| + |v_k| + 1e-6)`. Keys stay as they are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MergeSimilar {
    /// Evicted tokens that are less like any kept one are gone, -1 to 1.
    pub threshold: f32,
    /// Share of the evicted tokens that merges, the most alike first.
    pub fraction: f64,
}

impl Default for MergeSimilar {
    fn default() -> Self {
        Self { threshold: 0.0, fraction: 1.0 }
    }
}

impl Settings for MergeSimilar {
    const KIND: &'static str = "merge-similar";
}

impl EditTokens for MergeSimilar {
    fn validate(&self) -> Result<(), EditError> {
        Self::validate(self)
    }

    fn reads_rows(&self) -> bool {
        false
    }

    fn plan(&self, head: HeadEdit<'_>) -> Result<Vec<TokenEdit>, EditError> {
        self.validate()?;
        let HeadEdit { head, tokens, kept, .. } = head;
        if let Some(&token) = kept.iter().find(|&&token| token as usize >= tokens) {
            return Err(EditError::NoSuchToken { head, token, tokens });
        }
        let merge = !kept.is_empty() && kept.len() < tokens;
        Ok(merge.then_some(TokenEdit::MergeSimilar { head, by: *self }).into_iter().collect())
    }
}

impl MergeSimilar {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`EditError::Setting`].
    pub fn validate(&self) -> Result<(), EditError> {
        if !(-1.0..=1.0).contains(&self.threshold) {
            let (setting, value) = ("edit.threshold", self.threshold);
            return Err(EditError::Setting { setting, value, requirement: "must lie in [-1, 1]" });
        }
        if !(0.0..=1.0).contains(&self.fraction) {
            let (setting, value) = ("edit.fraction", self.fraction as f32);
            return Err(EditError::Setting { setting, value, requirement: "must lie in [0, 1]" });
        }
        Ok(())
    }

    /// Tokens that merge at most, of `evicted`.
    pub fn most(&self, evicted: usize) -> usize {
        (evicted as f64 * self.fraction + 1e-9) as usize
    }

    /// The merges of head `head`, whose keys are `keys` `[tokens, dims.0]` and values `values` `[tokens, dims.1]`; `kept` is ascending.
    ///
    /// # Errors
    /// [`EditError::Setting`], [`EditError::Length`], [`EditError::NoSuchToken`].
    pub fn plan(
        &self,
        head: usize,
        keys: &[f32],
        values: &[f32],
        dims: (usize, usize),
        kept: &[u32],
    ) -> Result<Vec<Merge>, EditError> {
        self.validate()?;
        if dims.0 == 0 || dims.1 == 0 || !keys.len().is_multiple_of(dims.0) {
            return Err(EditError::Length { got: keys.len(), channels: dims.0 });
        }
        let tokens = keys.len() / dims.0;
        if values.len() != tokens * dims.1 {
            return Err(EditError::Length { got: values.len(), channels: dims.1 });
        }
        if let Some(&token) = kept.iter().find(|&&t| t as usize >= tokens) {
            return Err(EditError::NoSuchToken { head, token, tokens });
        }
        if kept.is_empty() {
            return Ok(Vec::new());
        }
        let mut stays = vec![false; tokens];
        kept.iter().for_each(|&t| stays[t as usize] = true);
        let evicted: Vec<u32> = (0..tokens as u32).filter(|&t| !stays[t as usize]).collect();
        let length = |row: &[f32]| row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
        let unit = |set: &[u32]| -> Vec<f32> {
            let rows = set.iter().map(|&t| &keys[t as usize * dims.0..][..dims.0]);
            rows.flat_map(|row| {
                let length = length(row).max(1e-12);
                row.iter().map(move |&x| (f64::from(x) / length) as f32)
            })
            .collect()
        };
        let (theirs, ours) = (unit(&evicted), unit(kept));
        let most_like = nearest(&theirs, &ours, dims.0);
        let mut pairs: Vec<(u32, u32, f32)> = evicted
            .iter()
            .zip(most_like)
            .map(|(&token, (place, cosine))| (kept[place], token, cosine))
            .collect();
        pairs.retain(|p| p.2 >= self.threshold);
        let most = self.most(evicted.len());
        if pairs.len() > most {
            pairs.sort_by(|a, b| b.2.total_cmp(&a.2).then(a.1.cmp(&b.1)));
            pairs.truncate(most);
        }
        let norm = |t: u32| length(&values[t as usize * dims.1..][..dims.1]);
        let weighed = pairs.into_iter().map(|(into, from, cosine)| {
            let (own, other) = (norm(from), norm(into));
            (into, from, (f64::from(cosine.max(0.0)) * own / (own + other + 1e-6)) as f32)
        });
        Ok(grouped(head, false, weighed.filter(|p| p.2 > 0.0)))
    }
}
