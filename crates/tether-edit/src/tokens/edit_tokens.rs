//! What an editor of tokens is.

use std::sync::{Arc, LazyLock};

use serde::de::DeserializeOwned;
use tether_part::{AnySettings, HasKinds, Kinds, Part, Settings};

use super::{Compensate, MergeNearest, MergeSimilar, TokenEdit};
use crate::EditError;

/// One head whose tokens are about to leave, as an editor sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadEdit<'a> {
    /// The head's number in its layer.
    pub head: usize,
    /// Tokens that it holds.
    pub tokens: usize,
    /// Keys, `[tokens, head_dim_k]`; empty for an editor that reads no rows.
    pub keys: &'a [f32],
    /// Values, `[tokens, head_dim_v]`; empty for an editor that reads no rows.
    pub values: &'a [f32],
    /// Channels of a key.
    pub head_dim_k: usize,
    /// Channels of a value.
    pub head_dim_v: usize,
    /// Tokens that stay, ascending.
    pub kept: &'a [u32],
    /// First tokens that are protected.
    pub sink: usize,
    /// Last tokens that are.
    pub recent: usize,
}

/// An editor of tokens: settings and a pure function.
pub trait EditTokens: AnySettings {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`EditError::Setting`] for the first one out of range.
    fn validate(&self) -> Result<(), EditError> {
        Ok(())
    }

    /// True when it looks at keys and values, which a session then reads back.
    fn reads_rows(&self) -> bool {
        true
    }

    /// What becomes of a head's tokens that leave.
    ///
    /// # Errors
    /// [`EditError::Length`] and [`EditError::NoSuchToken`] for a head that contradicts itself.
    fn plan(&self, head: HeadEdit<'_>) -> Result<Vec<TokenEdit>, EditError>;

    /// As a part of a recipe.
    fn into_part(self) -> TokenEditor
    where
        Self: Sized + Settings + DeserializeOwned,
    {
        let built_in = <dyn EditTokens>::built_in();
        let kinds = built_in.with(Self::KIND, |settings, _| Ok(Arc::new(settings.read::<Self>()?)));
        Part::new(Arc::new(self), kinds)
    }
}

/// An editor of tokens, as a recipe holds it.
pub type TokenEditor = Part<dyn EditTokens>;

impl HasKinds for dyn EditTokens {
    fn built_in() -> &'static Kinds<Self> {
        static KINDS: LazyLock<Kinds<dyn EditTokens>> = LazyLock::new(|| {
            Kinds::<dyn EditTokens>::default()
                .with(MergeSimilar::KIND, |settings, _| Ok(Arc::new(settings.read::<MergeSimilar>()?)))
                .with(MergeNearest::KIND, |settings, _| Ok(Arc::new(settings.read::<MergeNearest>()?)))
                .with(Compensate::KIND, |settings, _| Ok(Arc::new(settings.read::<Compensate>()?)))
        });
        &KINDS
    }
}
