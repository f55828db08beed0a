//! TAME, trusted alignment: the statistics of a newly admitted unit are pulled towards those of trusted memory.

use serde::{Deserialize, Serialize};
use tether_core::{AlignJob, ChannelAlignment, Edit, Moments, MomentsView, Region, SlotId};
use tether_part::Settings;

use crate::{EditError, EditFrames};

/// The editor of TetherCache (arXiv:2606.13035): per head and channel, keys and values by themselves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlignMoments {
    /// Strength, 0 (off) to 1.
    pub tau: f32,
    /// Regions whose pooled moments are the target, as they are before the admission.
    pub trusted: Vec<Region>,
}

impl Settings for AlignMoments {
    const KIND: &'static str = "align-moments";
}

impl EditFrames for AlignMoments {
    fn validate(&self) -> Result<(), EditError> {
        Self::validate(self)
    }

    fn plan(&self, sequences: &[SequenceEdit<'_>], mixed: bool) -> Result<Option<Edit>, EditError> {
        Self::plan(self, sequences, mixed)
    }
}

/// What an editor sees of one sequence: slots by region before the admission, and what is admitted.
#[derive(Clone, Copy, Debug, Default)]
pub struct SequenceEdit<'a> {
    /// Sink slots.
    pub sink: &'a [SlotId],
    /// Memory slots before the admission, those that are about to be dropped included.
    pub memory: &'a [SlotId],
    /// Recent slots.
    pub recent: &'a [SlotId],
    /// Slots of newly admitted units.
    pub admitted: &'a [SlotId],
}

impl SequenceEdit<'_> {
    fn region(&self, region: Region) -> &[SlotId] {
        match region {
            Region::Sink => self.sink,
            Region::Memory => self.memory,
            Region::Recent => self.recent,
        }
    }
}

impl AlignMoments {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`EditError::Tau`] outside `[0, 1]`.
    pub fn validate(&self) -> Result<(), EditError> {
        if (0.0..=1.0).contains(&self.tau) { Ok(()) } else { Err(EditError::Tau { tau: self.tau }) }
    }

    /// The edit that admissions need, or `None` when nothing changes: no admissions, a strength of 0, or nobody to trust.
    ///
    /// With `mixed`, the statistics of the n-th admission are pooled over all sequences, and so is the trusted pool.
    ///
    /// # Errors
    /// [`EditError::Tau`]; [`EditError::Ragged`] when `mixed` and sequences admit different numbers of units.
    pub fn plan(&self, sequences: &[SequenceEdit<'_>], mixed: bool) -> Result<Option<Edit>, EditError> {
        self.validate()?;
        let trusted = |s: &SequenceEdit<'_>| -> Vec<SlotId> {
            self.trusted.iter().flat_map(|&r| s.region(r)).copied().collect()
        };
        let jobs: Vec<AlignJob> = if mixed {
            let counts: Vec<usize> = sequences.iter().map(|s| s.admitted.len()).collect();
            if counts.windows(2).any(|w| w[0] != w[1]) {
                return Err(EditError::Ragged { counts });
            }
            let pool: Vec<SlotId> = sequences.iter().flat_map(trusted).collect();
            (0..counts.first().copied().unwrap_or(0))
                .map(|i| AlignJob {
                    slots: sequences.iter().map(|s| s.admitted[i]).collect(),
                    trusted: pool.clone(),
                })
                .collect()
        } else {
            sequences
                .iter()
                .flat_map(|s| {
                    let pool = trusted(s);
                    s.admitted.iter().map(move |&slot| AlignJob { slots: vec![slot], trusted: pool.clone() })
                })
                .collect()
        };
        let jobs: Vec<AlignJob> = jobs.into_iter().filter(|j| !j.trusted.is_empty()).collect();
        Ok((self.tau > 0.0 && !jobs.is_empty()).then_some(Edit::Align { tau: self.tau, jobs }))
    }
}

/// Aligns `tokens` (rows of `own.mean.len()` channels) in place from their moments to the moments of a trusted pool, and returns
/// their moments afterwards, which are computed and not measured. `own` may summarise a larger group than `tokens`; then the result
/// is the group's. An empty pool or a `tau` of 0 changes nothing.
///
/// # Errors
/// [`EditError::Tau`], [`EditError::Channels`], [`EditError::Length`].
pub fn align_tokens(
    tokens: &mut [f32],
    own: MomentsView<'_>,
    trusted: MomentsView<'_>,
    tau: f32,
) -> Result<Moments, EditError> {
    AlignMoments { tau, trusted: Vec::new() }.validate()?;
    let channels = own.mean.len();
    let mut after = Moments { count: own.count, mean: own.mean.to_vec(), m2: own.m2.to_vec() };
    if trusted.count == 0 || tau == 0.0 {
        return Ok(after);
    }
    for (what, got) in [
        ("the tokens' own", own.m2.len()),
        ("the trusted pool", trusted.mean.len()),
        ("the trusted pool", trusted.m2.len()),
    ] {
        if got != channels {
            return Err(EditError::Channels { what, expected: channels, got });
        }
    }
    if channels == 0 || !tokens.len().is_multiple_of(channels) {
        return Err(EditError::Length { got: tokens.len(), channels });
    }
    let alignments: Vec<ChannelAlignment> =
        (0..channels).map(|c| ChannelAlignment::new(tau, own.spread(c), trusted.spread(c))).collect();
    for token in tokens.chunks_exact_mut(channels) {
        token.iter_mut().zip(&alignments).for_each(|(x, a)| *x = a.apply(*x));
    }
    for (c, a) in alignments.iter().enumerate() {
        (after.mean[c], after.m2[c]) = a.moments_after(after.mean[c], after.m2[c]);
    }
    Ok(after)
}
