//! What a recipe for tokens must be given, and whether a model's facts hold it.

use tether_rope::TokenRope;
use tether_score::ScoreError;
use tether_score::tokens::{HeadBudget, HeadProfile};

use super::{TokenGeometry, TokenPositions, TokenRecipe};
use crate::{Error, RecipeError, Requirement};

/// What is known of a model before it has read anything.
#[derive(Clone, Copy, Debug)]
pub struct KnownFacts<'a> {
    /// How keys are rotated to their positions.
    pub rope: Option<&'a TokenRope>,
    /// The output projection of each layer, `[hidden, query_heads * head_dim_v]`, row-major.
    pub output_projections: &'a [Vec<f32>],
    /// Which heads are of which kind.
    pub head_profile: Option<&'a HeadProfile>,
}

impl TokenRecipe {
    /// What it must be given beside keys and values.
    pub fn requires(&self) -> Vec<Requirement> {
        let needs = self.needs();
        let last = |count: usize| (count != usize::MAX).then_some(count);
        let contiguous = self.position.kind == TokenPositions::Contiguous;
        let unrotates = needs.frequencies || needs.raw_keys || needs.block_means.is_some();
        let variances = matches!(self.budget.heads, HeadBudget::Hack { .. });
        let all = [
            (needs.last_queries > 0, Requirement::Queries { last: last(needs.last_queries) }),
            (needs.raw_queries > 0, Requirement::RawQueries { last: last(needs.raw_queries) }),
            (needs.accumulated_attention, Requirement::AttentionSums),
            (
                needs.probe_first + needs.probe_last > 0,
                Requirement::Probes { first: needs.probe_first, last: needs.probe_last },
            ),
            (needs.grid, Requirement::Grid),
            (contiguous || unrotates, Requirement::Rotation),
            (needs.output_projection, Requirement::OutputProjection),
            (needs.head_profile, Requirement::HeadProfile { variances }),
        ];
        all.into_iter().filter_map(|(needed, requirement)| needed.then_some(requirement)).collect()
    }

    /// Checks that a model's facts hold what the recipe asks of them.
    ///
    /// # Errors
    /// [`RecipeError::Missing`] names everything that is not there; [`ScoreError::Axes`] for a rotation of several axes where keys are rotated
    /// back or moved; [`ScoreError::Count`] for facts of another model.
    pub fn check_facts(&self, known: KnownFacts<'_>, geometry: &TokenGeometry) -> Result<(), Error> {
        let missing = |requirement: &Requirement| match requirement {
            Requirement::Rotation => known.rope.is_none(),
            Requirement::OutputProjection => known.output_projections.is_empty(),
            Requirement::HeadProfile { variances } => known
                .head_profile
                .is_none_or(|p| *variances && p.layers.iter().any(|layer| layer.variance.is_empty())),
            _ => false,
        };
        let required = self.requires();
        let absent: Box<[Requirement]> = required.iter().copied().filter(missing).collect();
        if !absent.is_empty() {
            return Err(RecipeError::Missing { recipe: self.name.clone(), missing: absent }.into());
        }
        for requirement in required {
            match requirement {
                Requirement::Rotation => known.rope.map_or(Ok(()), |rope| rotates(rope, geometry))?,
                Requirement::OutputProjection => projects(known.output_projections, geometry)?,
                Requirement::HeadProfile { .. } => {
                    known.head_profile.map_or(Ok(()), |p| p.check(geometry.layers, geometry.kv_heads))?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn rotates(rope: &TokenRope, geometry: &TokenGeometry) -> Result<(), ScoreError> {
    if rope.axes() > 1 {
        return Err(ScoreError::Axes { axes: rope.axes() });
    }
    let (most, pairs) = (geometry.head_dim_k / 2, rope.frequencies().len());
    if pairs > most {
        return Err(ScoreError::Count { what: "rotary frequencies", expected: most, got: pairs });
    }
    Ok(())
}

fn projects(projections: &[Vec<f32>], geometry: &TokenGeometry) -> Result<(), ScoreError> {
    let count = |what, expected, got| Err(ScoreError::Count { what, expected, got });
    if projections.len() != geometry.layers {
        return count("output projections", geometry.layers, projections.len());
    }
    let inner = geometry.query_heads * geometry.head_dim_v;
    let hidden = projections.first().map_or(0, |p| p.len() / inner).max(1);
    match projections.iter().find(|p| p.len() != hidden * inner) {
        Some(other) => count("numbers of an output projection", hidden * inner, other.len()),
        None => Ok(()),
    }
}
