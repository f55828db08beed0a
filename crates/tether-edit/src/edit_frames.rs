//! What an editor of frames is.

use std::sync::{Arc, LazyLock};

use serde::de::DeserializeOwned;
use tether_core::Edit;
use tether_part::{AnySettings, HasKinds, Kinds, Part, Settings};

use crate::{AlignMoments, EditError, SequenceEdit};

/// An editor of admitted frames: settings and a pure function.
pub trait EditFrames: AnySettings {
    /// Checks the settings.
    ///
    /// # Errors
    /// Those of [`EditError`] that concern a setting.
    fn validate(&self) -> Result<(), EditError> {
        Ok(())
    }

    /// The edit that admissions need, or `None` when nothing changes. With `mixed`, sequences share their statistics.
    ///
    /// # Errors
    /// [`EditError::Ragged`] when `mixed` and sequences admit different numbers of frames.
    fn plan(&self, sequences: &[SequenceEdit<'_>], mixed: bool) -> Result<Option<Edit>, EditError>;

    /// As a part of a recipe.
    fn into_part(self) -> FrameEditor
    where
        Self: Sized + Settings + DeserializeOwned,
    {
        let built_in = <dyn EditFrames>::built_in();
        let kinds = built_in.with(Self::KIND, |settings, _| Ok(Arc::new(settings.read::<Self>()?)));
        Part::new(Arc::new(self), kinds)
    }
}

/// An editor of frames, as a recipe holds it.
pub type FrameEditor = Part<dyn EditFrames>;

impl HasKinds for dyn EditFrames {
    fn built_in() -> &'static Kinds<Self> {
        static KINDS: LazyLock<Kinds<dyn EditFrames>> = LazyLock::new(|| {
            Kinds::<dyn EditFrames>::default()
                .with(AlignMoments::KIND, |settings, _| Ok(Arc::new(settings.read::<AlignMoments>()?)))
        });
        &KINDS
    }
}
