//! From observations of tokens to plans, without a device.

use std::collections::BTreeMap;
use std::ops::Range;

use tether_edit::tokens::{HeadEdit, TokenEdit, TokenEditor};
use tether_score::ScoreError;
use tether_score::tokens::{
    BudgetPlace, HeadProfile, HeadScores, HeadShare, HeadShares, KeptIndices, Needs, PartialText, Protected,
    ScoreExpr, ScoreRequest, ScoreSpans, ShareRequest, TokenObservation, TokenScorer,
};

use super::{FixedPlace, PrefillPart, TokenPlan, TokenPositions, TokenRecipe};
use crate::{Error, RecipeError};

/// Which layer a plan is for, and how far its sequence is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerContext {
    /// The layer.
    pub layer: usize,
    /// Layers of the model.
    pub layers: usize,
    /// Tokens that the sequence has had so far, evicted ones included; the share of a budget is a share of these.
    pub seen: usize,
    /// False for the plan that follows the prompt, true for those while the text grows.
    pub decoding: bool,
}

/// What a recipe remembers of one sequence from layer to layer. Layers of one pass come in ascending order; a state that meets a layer again
/// begins another pass.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SequenceState {
    /// What the first layer of each group chose: the layer, the tokens there were, and the choice.
    groups: BTreeMap<usize, (usize, usize, KeptIndices)>,
    /// Where each layer evicts while the text grows.
    places: BTreeMap<usize, usize>,
}

/// What a layer's scores are made of, as data.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreAsked {
    /// The score of each key head's tokens.
    pub expressions: Vec<ScoreExpr>,
    /// What is chosen by them, where they are all that it depends on, or their means over spans.
    pub choice: Option<ScoreChoice>,
}

/// What is chosen by scores of heads that hold equally many tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ScoreChoice {
    /// Each head keeps the highest of its scores beside what is protected, and all equally many.
    Each(HeadShare),
    /// The highest of all heads' scores stay.
    Together {
        /// Tokens of a head, on average.
        kept: usize,
        /// Tokens of a head, at least.
        least: usize,
        /// Tokens at either end that every head keeps.
        protected: Protected,
    },
    /// All heads keep the same, as the mean scores of spans over all heads say.
    Spans(ScoreSpans),
}

/// Pages that a token reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PagesRead {
    /// Tokens of a page.
    pub page: usize,
    /// Pages of which the best are read; all others are, whatever they hold.
    pub between: Range<usize>,
    /// How many of them are read.
    pub count: usize,
}

/// Turns a recipe for tokens into decisions.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenPlanner {
    recipe: TokenRecipe,
    profile: Option<HeadProfile>,
}

impl TokenPlanner {
    /// A planner of `recipe`.
    ///
    /// # Errors
    /// As [`TokenRecipe::validate`].
    pub fn new(recipe: TokenRecipe) -> Result<Self, Error> {
        recipe.validate()?;
        Ok(Self { recipe, profile: None })
    }

    /// With the profile of the model's heads.
    #[must_use]
    pub fn with_profile(self, profile: HeadProfile) -> Self {
        Self { profile: Some(profile), ..self }
    }

    /// The recipe.
    pub fn recipe(&self) -> &TokenRecipe {
        &self.recipe
    }

    /// What a session must record.
    pub fn needs(&self) -> Needs {
        self.recipe.needs()
    }

    /// True when some pass may find tokens to evict.
    pub fn evicts(&self) -> bool {
        self.recipe.score.is_some()
    }

    /// Tokens that a head of a layer keeps on average, sinks and last ones included; `None` when that is for the heads' shares to say.
    pub fn kept(&self, turn: LayerContext) -> Option<usize> {
        let budget = &self.recipe.budget;
        budget.is_given().then(|| {
            let protected = |kept| self.recipe.score.as_ref().map_or(0, |s| s.protects(kept).recent);
            let window = protected(budget.average(turn.seen));
            let LayerContext { layer, layers, seen, .. } = turn;
            budget.kept(BudgetPlace { layer, layers, seen, window })
        })
    }

    /// Decides what stays of one layer of one sequence. Nothing is scored when all of it fits, and nothing but the first layer of a group
    /// whose layers keep the same tokens.
    ///
    /// # Errors
    /// [`Error::Score`] for observations that are missing or scores that cannot be ranked, [`Error::Edit`].
    pub fn plan(
        &self,
        turn: LayerContext,
        seen: &dyn TokenObservation,
        state: &mut SequenceState,
    ) -> Result<TokenPlan, Error> {
        let tokens = seen.tokens();
        let mut plan = self.nothing(turn, &vec![tokens; seen.kv_heads()]);
        if let Some(gone) = self.fixed_place(turn, tokens, state) {
            let stays = (0..tokens).filter(|t| !gone.contains(t)).map(|t| t as u32).collect();
            plan.keep = KeptIndices::shared(seen.kv_heads(), stays);
        } else {
            self.choose_or_follow(turn, seen, state, &mut plan)?;
        }
        self.place(&mut plan);
        Ok(plan)
    }

    /// [`TokenPlanner::plan`] of a layer whose key heads hold different numbers of tokens: an observation of each, of one key head and its query
    /// heads.
    ///
    /// # Errors
    /// As [`TokenPlanner::plan`]; [`RecipeError::Combination`] for a recipe that keeps the same tokens in all heads.
    pub fn plan_heads(
        &self,
        turn: LayerContext,
        heads: &[&dyn TokenObservation],
    ) -> Result<TokenPlan, Error> {
        let lengths: Vec<usize> = heads.iter().map(|h| h.tokens()).collect();
        let mut plan = self.nothing(turn, &lengths);
        let (Some(scorer), Some(selector)) = (&self.recipe.score, &self.recipe.select) else {
            self.place(&mut plan);
            return Ok(plan);
        };
        if selector.is_shared() || self.recipe.decode.is_some_and(|d| d.place.is_some()) {
            let problem = "it keeps the same tokens in all heads, which then hold equally many";
            return Err(RecipeError::Combination { recipe: self.recipe.name.clone(), problem }.into());
        }
        let (shares, protected) = self.shares(scorer, turn, &lengths, None)?;
        if !shares.keep_all(&lengths) {
            let scores = heads
                .iter()
                .enumerate()
                .map(|(head, seen)| {
                    if seen.kv_heads() != 1 {
                        let (what, got) = ("key heads of a head's observation", seen.kv_heads());
                        return Err(ScoreError::Count { what, expected: 1, got });
                    }
                    let kept = match &shares {
                        HeadShares::Each(shares) => shares[head].kept,
                        HeadShares::Together { kept, .. } => *kept,
                    };
                    scorer.score(*seen, ScoreRequest { layer: turn.layer, kept: kept.min(seen.tokens()) })
                })
                .collect::<Result<Vec<_>, _>>()?;
            plan.keep = selector.select_ragged(&scores, &shares)?;
            if let Some(part) = &self.recipe.edit {
                for (head, seen) in heads.iter().enumerate().filter(|(h, _)| merges(&shares, *h)) {
                    plan.edits.extend(edits(part, *seen, (0, head), plan.keep.head(head), protected)?);
                }
            }
        }
        self.place(&mut plan);
        Ok(plan)
    }

    /// What is asked of heads of `lengths` tokens before [`TokenPlanner::plan`] or [`TokenPlanner::plan_heads`] decides, as far as it is data: a device can work it out
    /// for all layers before anything is waited for. `None` where nothing is scored, or by a scorer that asks keys themselves.
    ///
    /// # Errors
    /// [`Error::Score`] for shares that cannot be made.
    pub fn asks(&self, turn: LayerContext, lengths: &[usize]) -> Result<Option<ScoreAsked>, Error> {
        let (Some(scorer), Some(selector)) = (&self.recipe.score, &self.recipe.select) else {
            return Ok(None);
        };
        if turn.decoding && self.recipe.decode.is_some_and(|d| d.place.is_some()) {
            return Ok(None);
        }
        if self.recipe.prefill.is_some() && !turn.decoding {
            return Ok(None);
        }
        let (shares, _) = self.shares(scorer, turn, lengths, None)?;
        if shares.keep_all(lengths) {
            return Ok(None);
        }
        let tokens = lengths.iter().copied().max().unwrap_or(0);
        let kept = match &shares {
            HeadShares::Each(shares) => shares.iter().map(|s| s.kept).min().unwrap_or(tokens),
            HeadShares::Together { kept, .. } => *kept,
        };
        let request = ScoreRequest { layer: turn.layer, kept };
        let expressions: Option<Vec<ScoreExpr>> =
            lengths.iter().map(|&tokens| scorer.expression(request, tokens)).collect();
        let Some(expressions) = expressions.filter(|all| !all.iter().any(ScoreExpr::reads_back)) else {
            return Ok(None);
        };
        // Nothing that depends on what leaves.
        let alone = self.recipe.edit.is_none() && lengths.iter().all(|&len| len == tokens);
        let choice = match &shares {
            _ if !alone => None,
            &HeadShares::Together { kept, least, protected } if selector.keeps_highest() => {
                Some(ScoreChoice::Together { kept, least, protected })
            }
            HeadShares::Each(shares) if shares.iter().all(|share| *share == shares[0]) => {
                let share = HeadShare { kept: kept.min(tokens), ..shares[0] };
                let spans = || selector.spans(share, tokens).filter(|_| selector.is_shared());
                match selector.keeps_highest() {
                    true => Some(ScoreChoice::Each(share)),
                    false => spans().map(ScoreChoice::Spans),
                }
            }
            _ => None,
        };
        Ok(Some(ScoreAsked { expressions, choice }))
    }

    /// True when a layer keeps what an earlier one of `lengths`, tokens of each layer's heads, chooses: nothing is asked for it.
    pub fn follows(&self, layer: usize, lengths: &[Vec<usize>]) -> bool {
        let groups = &self.recipe.budget.layers;
        let Some(group) = groups.group(layer) else { return false };
        let first = (0..layer).rev().take_while(|&l| groups.group(l) == Some(group)).last();
        let uniform = lengths[layer].iter().all(|len| *len == lengths[layer][0]);
        uniform && first.is_some_and(|first| lengths[first] == lengths[layer])
    }

    /// What stays of heads of `lengths` tokens by the mean scores of spans ([`ScoreChoice::Spans`]).
    ///
    /// # Errors
    /// [`Error::Score`] for means that cannot be ranked, or of other spans.
    pub fn choose_spans(
        &self,
        turn: LayerContext,
        lengths: &[usize],
        spans: ScoreSpans,
        means: &[f32],
    ) -> Result<KeptIndices, Error> {
        let (Some(scorer), Some(selector)) = (&self.recipe.score, &self.recipe.select) else {
            return Ok(KeptIndices::all(lengths.len(), lengths.first().copied().unwrap_or(0)));
        };
        let (shares, _) = self.shares(scorer, turn, lengths, None)?;
        let ScoreSpans { first, size, end } = spans;
        let of_token = |token: usize| match (first..end).contains(&token) {
            true => means.get((token - first) / size).copied().unwrap_or(f32::NAN),
            false => 0.0,
        };
        let row: Vec<f32> = (0..lengths.first().copied().unwrap_or(0)).map(of_token).collect();
        Ok(selector.select(&HeadScores::shared(lengths.len(), &row)?, &shares)?)
    }

    /// Which pages the newest of `tokens` tokens of `heads` heads reads, where that is for the bounds of pages to
    /// say: what [`TokenPlanner::plan`] would keep. `None` where something else decides.
    ///
    /// # Errors
    /// [`Error::Score`] for shares that cannot be made.
    pub fn reads_pages(
        &self,
        turn: LayerContext,
        heads: usize,
        tokens: usize,
    ) -> Result<Option<PagesRead>, Error> {
        let (Some(scorer), Some(selector)) = (&self.recipe.score, &self.recipe.select) else {
            return Ok(None);
        };
        let Some(page) = scorer.page_bounds().filter(|page| selector.whole_pages() == Some(*page)) else {
            return Ok(None);
        };
        if self.recipe.edit.is_some() || self.recipe.budget.layers.group(turn.layer).is_some() {
            return Ok(None);
        }
        let lengths = vec![tokens; heads];
        let (shares, _) = self.shares(scorer, turn, &lengths, None)?;
        if shares.keep_all(&lengths) {
            return Ok(Some(PagesRead { page, between: 0..0, count: 0 }));
        }
        let share = match &shares {
            HeadShares::Each(shares) if shares.iter().all(|s| *s == shares[0]) => shares.first(),
            _ => None,
        };
        let Some(&HeadShare { kept, protected, .. }) = share else { return Ok(None) };
        let protected = protected.within(kept, tokens);
        // Pages that are read whatever they hold: those of sinks and of the newest tokens, which the last page is
        // among.
        let first = protected.sink.div_ceil(page);
        let last = (tokens - protected.recent) / page;
        let always = first * page + tokens - last * page;
        if page > kept || protected.recent == 0 || first > last || always > kept {
            return Ok(None);
        }
        let count = ((kept - always) / page).min(last - first);
        Ok(Some(PagesRead { page, between: first..last, count }))
    }

    /// The plan that keeps `keep` of heads of `lengths` tokens, which was chosen as [`TokenPlanner::plan`] would have.
    pub fn plan_chosen(
        &self,
        turn: LayerContext,
        lengths: &[usize],
        keep: KeptIndices,
        state: &mut SequenceState,
    ) -> TokenPlan {
        let retain = self.recipe.retain;
        let mut plan = TokenPlan { retain, ..TokenPlan::keeping(turn.layer, lengths, keep) };
        if let Some(group) = self.recipe.budget.layers.group(turn.layer) {
            state.groups.insert(group, (turn.layer, plan.tokens, plan.keep.clone()));
        }
        self.place(&mut plan);
        plan
    }

    /// A plan that keeps everything.
    fn nothing(&self, turn: LayerContext, lengths: &[usize]) -> TokenPlan {
        TokenPlan { retain: self.recipe.retain, ..TokenPlan::nothing(turn.layer, lengths) }
    }

    /// New positions, where the recipe moves tokens.
    fn place(&self, plan: &mut TokenPlan) {
        if self.recipe.position.kind == TokenPositions::Contiguous {
            let moved = plan.keep.sets().iter().map(|set| (0..set.len() as i32).collect()).collect();
            plan.positions = Some(moved);
        }
    }

    /// Places that are evicted whatever their scores, where the recipe says so and the text grows.
    fn fixed_place(
        &self,
        turn: LayerContext,
        tokens: usize,
        state: &mut SequenceState,
    ) -> Option<Range<usize>> {
        let FixedPlace { distance } = self.recipe.decode?.place?;
        let kept = self.kept(turn).unwrap_or(tokens).min(tokens);
        // The published place counts from the budget of the prompt.
        let place = if distance > 0 { distance } else { (kept as i64).saturating_add(distance).max(0) };
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        if !turn.decoding {
            state.places.insert(turn.layer, place);
            return None;
        }
        let place = (*state.places.entry(turn.layer).or_insert(place)).min(kept);
        Some(place..place + tokens - kept)
    }

    /// Keeps what the first layer of the group chose, or chooses.
    fn choose_or_follow(
        &self,
        turn: LayerContext,
        seen: &dyn TokenObservation,
        state: &mut SequenceState,
        plan: &mut TokenPlan,
    ) -> Result<(), Error> {
        let group = self.recipe.budget.layers.group(turn.layer);
        if let Some((layer, tokens, keep)) = group.and_then(|g| state.groups.get(&g))
            && *layer < turn.layer
            && *tokens == plan.tokens
        {
            plan.keep = keep.clone();
            return Ok(());
        }
        if let Some(scorer) = &self.recipe.score {
            self.choose(scorer, turn, seen, plan)?;
        }
        if let Some(group) = group {
            state.groups.insert(group, (turn.layer, plan.tokens, plan.keep.clone()));
        }
        Ok(())
    }

    fn choose(
        &self,
        scorer: &TokenScorer,
        turn: LayerContext,
        seen: &dyn TokenObservation,
        plan: &mut TokenPlan,
    ) -> Result<(), Error> {
        let lengths = vec![plan.tokens; seen.kv_heads()];
        let (shares, protected) = self.shares(scorer, turn, &lengths, frames(seen))?;
        let (Some(selector), false) = (&self.recipe.select, shares.keep_all(&lengths)) else { return Ok(()) };
        let kept = match &shares {
            HeadShares::Each(shares) => shares.iter().map(|s| s.kept).min().unwrap_or(plan.tokens),
            HeadShares::Together { kept, .. } => *kept,
        };
        let request = ScoreRequest { layer: turn.layer, kept };
        let prefill = self.recipe.prefill.filter(|p| !turn.decoding && kept + p.every < plan.tokens);
        if let Some(PrefillPart { every }) = prefill {
            // As if the prompt came in pieces: what is kept of a piece and what was there compete with the next one.
            let mut held = KeptIndices::all(seen.kv_heads(), kept);
            for start in (kept..plan.tokens).step_by(every) {
                let piece = start as u32..plan.tokens.min(start + every) as u32;
                let with_piece = |set: &Vec<u32>| set.iter().copied().chain(piece.clone()).collect();
                let there = KeptIndices::new(held.sets().iter().map(with_piece).collect());
                let scores = scorer.score(&PartialText::new(seen, &there)?, request)?;
                let chosen = selector.select(&scores, &shares)?;
                let numbers =
                    |(set, there): (&Vec<u32>, &Vec<u32>)| set.iter().map(|&i| there[i as usize]).collect();
                held = KeptIndices::new(chosen.sets().iter().zip(there.sets()).map(numbers).collect());
            }
            plan.keep = held;
            return Ok(());
        }
        let scores = scorer.score(seen, request)?;
        // Query heads that keep tokens of their own share as their key heads do.
        let shares = match shares {
            HeadShares::Each(shares) if scores.heads() > shares.len() => {
                let repeat = scores.heads() / shares.len();
                plan.total *= repeat;
                HeadShares::Each(shares.iter().flat_map(|&s| std::iter::repeat_n(s, repeat)).collect())
            }
            shares => shares,
        };
        plan.keep = selector.select(&scores, &shares)?;
        plan.scores = Some(scores);
        if let Some(part) = &self.recipe.edit {
            for head in (0..plan.keep.heads()).filter(|&h| merges(&shares, h)) {
                plan.edits.extend(edits(part, seen, (head, head), plan.keep.head(head), protected)?);
            }
        }
        Ok(())
    }

    /// What the heads of a layer share, and what is protected in each.
    fn shares(
        &self,
        scorer: &TokenScorer,
        turn: LayerContext,
        lengths: &[usize],
        frames: Option<[usize; 3]>,
    ) -> Result<(HeadShares, Protected), Error> {
        let tokens = lengths.iter().copied().max().unwrap_or(0);
        let budget = &self.recipe.budget;
        let kept = self.kept(turn);
        let protected = scorer.protects(kept.unwrap_or(tokens).min(tokens)).or(budget.protects());
        let shares = budget.heads.shares(ShareRequest {
            layer: turn.layer,
            layers: turn.layers,
            heads: lengths.len(),
            tokens,
            seen: turn.seen,
            // A budget below the sinks is the sinks: they stay, however short the text.
            kept: kept
                .map(|kept| kept.max(protected.sink.min(tokens)))
                .or_else(|| self.recipe.select.as_ref().and_then(|s| s.tokens(protected, tokens))),
            protected,
            frames,
            profile: self.profile.as_ref(),
        })?;
        Ok((shares, protected))
    }
}

/// Whether what leaves a head may change what stays.
fn merges(shares: &HeadShares, head: usize) -> bool {
    match shares {
        HeadShares::Each(shares) => shares.get(head).is_none_or(|s| s.merges),
        HeadShares::Together { .. } => true,
    }
}

/// The edits of one head: number `of.0` of what is seen, number `of.1` of the layer.
fn edits(
    part: &TokenEditor,
    seen: &dyn TokenObservation,
    of: (usize, usize),
    kept: &[u32],
    protected: Protected,
) -> Result<Vec<TokenEdit>, Error> {
    let (tokens, head_dim_k, head_dim_v) = (seen.tokens(), seen.head_dim_k(), seen.head_dim_v());
    if kept.len() == tokens {
        return Ok(Vec::new());
    }
    let Protected { sink, recent } = protected;
    let (keys, values, head) = (&[][..], &[][..], of.1);
    let of_head = HeadEdit { head, tokens, keys, values, head_dim_k, head_dim_v, kept, sink, recent };
    if !part.reads_rows() {
        return Ok(part.plan(of_head)?);
    }
    let (keys, values) = (seen.keys()?, seen.values()?);
    let keys = &keys[of.0 * tokens * head_dim_k..][..tokens * head_dim_k];
    let values = &values[of.0 * tokens * head_dim_v..][..tokens * head_dim_v];
    Ok(part.plan(HeadEdit { keys, values, ..of_head })?)
}

/// Tokens up to the end of the first frame, up to the end of the second, and from the start of the last frame on.
fn frames(seen: &dyn TokenObservation) -> Option<[usize; 3]> {
    let grid = seen.grid().ok()?;
    let frame = |t: usize| grid[t].map(|place| place.frame);
    let numbers: Vec<u32> = (0..grid.len()).filter_map(frame).collect();
    let (&first, &last) = (numbers.first()?, numbers.last()?);
    let second = numbers.iter().copied().find(|&n| n != first).unwrap_or(first);
    let end = |n: u32| (0..grid.len()).rposition(|t| frame(t) == Some(n)).map_or(0, |t| t + 1);
    let start = (0..grid.len()).position(|t| frame(t) == Some(last)).unwrap_or(0);
    Some([end(first), end(second), grid.len() - start])
}
