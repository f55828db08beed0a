//! From observations of tokens to plans, without a device.

use tether_score::tokens::{KeepSets, Needs, ScoreRequest, ScoreTokens, TokenObservation};

use super::{TokenPlan, TokenPositions, TokenRecipe};
use crate::Error;

/// Which layer a plan is for, and how far its sequence is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerTurn {
    /// The layer.
    pub layer: usize,
    /// Layers of the model.
    pub layers: usize,
    /// Tokens that the sequence has had so far, evicted ones included; the share of a budget is a share of these.
    pub seen: usize,
}

/// What a recipe remembers of one sequence from layer to layer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SequenceState {}

/// Turns a recipe for tokens into decisions.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenPlanner {
    recipe: TokenRecipe,
}

impl TokenPlanner {
    /// A planner of `recipe`.
    ///
    /// # Errors
    /// As [`TokenRecipe::validate`].
    pub fn new(recipe: TokenRecipe) -> Result<Self, Error> {
        recipe.validate()?;
        Ok(Self { recipe })
    }

    /// The recipe.
    pub fn recipe(&self) -> &TokenRecipe {
        &self.recipe
    }

    /// What a session must record.
    pub fn needs(&self) -> Needs {
        self.recipe.score.as_ref().map(ScoreTokens::needs).unwrap_or_default()
    }

    /// Tokens that a head of a layer keeps.
    pub fn kept(&self, turn: LayerTurn) -> usize {
        self.recipe.budget.kept(turn.seen)
    }

    /// Decides what stays of one layer of one sequence. Nothing is scored when all of it fits.
    ///
    /// # Errors
    /// [`Error::Score`] for observations that are missing or scores that cannot be ranked.
    pub fn plan(
        &self,
        turn: LayerTurn,
        seen: &dyn TokenObservation,
        _state: &mut SequenceState,
    ) -> Result<TokenPlan, Error> {
        let tokens = seen.tokens();
        let kept = self.kept(turn).min(tokens);
        let mut plan = TokenPlan {
            layer: turn.layer,
            tokens,
            keep: KeepSets::all(seen.kv_heads(), tokens),
            positions: None,
            scores: None,
        };
        if let (Some(scorer), Some(selector)) = (&self.recipe.score, &self.recipe.select)
            && kept < tokens
        {
            let scores = scorer.score(seen, ScoreRequest { layer: turn.layer, kept })?;
            let protected = scorer.protects(tokens).or(self.recipe.budget.protects());
            plan.keep = selector.select(&scores, kept, protected)?;
            plan.scores = Some(scores);
        }
        if self.recipe.position.kind == TokenPositions::Contiguous {
            let moved = plan.keep.sets().iter().map(|set| (0..set.len() as i32).collect()).collect();
            plan.positions = Some(moved);
        }
        Ok(plan)
    }
}
