//! Attention mass: how much of the attention a candidate would get among the candidates.

use crate::ScoreError;
use crate::error::all_finite;

/// Softmax of `logits / temperature` over the candidates.
///
/// # Errors
/// [`ScoreError::NonFinite`] names the first logit that is NaN or infinite, [`ScoreError::Setting`] a temperature that is not
/// above 0.
pub fn attention_mass(logits: &[f32], temperature: f32) -> Result<Vec<f32>, ScoreError> {
    if !(temperature > 0.0 && temperature.is_finite()) {
        let requirement = "must be finite and greater than 0";
        return Err(ScoreError::Setting { setting: "temperature", value: temperature, requirement });
    }
    all_finite("logit", logits)?;
    let temperature = temperature.max(1e-6);
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f32> = logits.iter().map(|l| ((l - highest) / temperature).exp()).collect();
    let total: f32 = weights.iter().sum();
    Ok(weights.into_iter().map(|w| w / total).collect())
}
