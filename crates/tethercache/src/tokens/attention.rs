//! How a model's attention makes logits.

use serde::{Deserialize, Serialize};
use tether_core::{AttendOptions, CoreError, checks};

/// Attention beside extents: of the whole model, and what differs between its layers. The default is plain attention.
///
/// What the numbers mean is said at [`AttendOptions`]. Sliding windows and slopes go by positions of the text, which stay a token's own whatever was evicted before it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenAttention {
    /// Multiplies `q.k`; `1 / sqrt(head_dim_k)` where it is not set.
    pub scale: Option<f32>,
    /// Bounds logits (Gemma 2).
    pub softcap: Option<f32>,
    /// `ALiBi` slopes of the query heads (BLOOM); empty for none.
    pub alibi: Vec<f32>,
    /// The sliding window of each layer, none for one that sees everything (Gemma and gpt-oss alternate); empty for none at all.
    pub windows: Vec<Option<u32>>,
    /// Sink logits of each layer's query heads (gpt-oss), none for a layer without; empty for none at all.
    pub sinks: Vec<Vec<f32>>,
}

impl TokenAttention {
    /// Every layer with the same sliding window (Mistral).
    #[must_use]
    pub fn windowed(layers: usize, window: u32) -> Self {
        Self { windows: vec![Some(window); layers], ..Self::default() }
    }

    /// The options of a layer, for keys of `head_dim_k` channels.
    #[must_use]
    pub fn of_layer(&self, layer: usize, head_dim_k: usize) -> AttendOptions {
        AttendOptions {
            scale: self.scale.unwrap_or_else(|| 1.0 / (head_dim_k as f32).sqrt()),
            softcap: self.softcap,
            window: self.windows.get(layer).copied().flatten(),
            alibi: self.alibi.clone(),
            sinks: self.sinks.get(layer).cloned().unwrap_or_default(),
        }
    }

    /// Checks the options of every layer.
    ///
    /// # Errors
    /// [`CoreError::Count`] for settings of other layers or heads than there are, and those of [`AttendOptions::validate`].
    pub fn validate(&self, layers: usize, query_heads: usize) -> Result<(), CoreError> {
        for (what, given) in
            [("windows of layers", self.windows.len()), ("sinks of layers", self.sinks.len())]
        {
            if given > 0 {
                checks::count(what, layers, given)?;
            }
        }
        for layer in 0..layers {
            let options = self.of_layer(layer, 1);
            options.validate()?;
            options.fit(query_heads)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_differ() {
        let attention = TokenAttention {
            softcap: Some(50.0),
            windows: vec![Some(8), None],
            sinks: vec![Vec::new(), vec![0.5; 4]],
            ..TokenAttention::default()
        };
        assert!(attention.validate(2, 4).is_ok());
        let (first, second) = (attention.of_layer(0, 16), attention.of_layer(1, 16));
        assert_eq!((first.scale, first.softcap, first.window), (0.25, Some(50.0), Some(8)));
        assert!(first.sinks.is_empty());
        assert_eq!((second.window, second.sinks), (None, vec![0.5; 4]));
        assert!(TokenAttention::default().of_layer(7, 64).is_plain());
        let scaled = TokenAttention { scale: Some(0.1), ..TokenAttention::default() };
        assert_eq!(scaled.of_layer(0, 64), AttendOptions::scaled(0.1));
        assert_eq!(TokenAttention::windowed(3, 5).of_layer(2, 64).window, Some(5));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let plain = TokenAttention::default;
        let refused = |attention: TokenAttention| attention.validate(2, 4).unwrap_err();
        let count = |what, expected, got| CoreError::Count { what, expected, got };
        let windows = vec![None; 3];
        assert_eq!(refused(TokenAttention { windows, ..plain() }), count("windows of layers", 2, 3));
        let sinks = vec![vec![0.0; 4]];
        assert_eq!(refused(TokenAttention { sinks, ..plain() }), count("sinks of layers", 2, 1));
        let sinks = vec![vec![0.0; 4], vec![0.0; 3]];
        assert_eq!(refused(TokenAttention { sinks, ..plain() }), count("sink logits", 4, 3));
        let alibi = vec![0.5; 2];
        assert_eq!(refused(TokenAttention { alibi, ..plain() }), count("alibi slopes", 4, 2));
        let window = refused(TokenAttention { windows: vec![Some(4), Some(0)], ..plain() });
        assert!(matches!(window, CoreError::Geometry { field: "window", .. }), "{window}");
        let cap = refused(TokenAttention { softcap: Some(0.0), ..plain() });
        assert!(matches!(cap, CoreError::Geometry { field: "softcap", .. }), "{cap}");
        let scale = refused(TokenAttention { scale: Some(f32::INFINITY), ..plain() });
        assert!(matches!(scale, CoreError::NonFinite { what: "scale", .. }), "{scale}");
    }
}
