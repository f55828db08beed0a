//! From observations to plans: everything a policy decides, without a device.

use tether_core::{
    ChunkIndex, CommitPlan, CoreError, LayerId, Member, MemoryPlan, RecallPlan, RecalledUnits, Region, SlotId,
};
use tether_edit::SequenceEdit;
use tether_layout::{BlockPool, LayoutError, Regions, Window};
use tether_score::{BatchStatistics, FrameCandidates, FrameChoice, FrameSelector, UnitScores};

use crate::{Error, Recipe, RecipeError};

/// One layer's tables: a window per sequence over one pool of slots.
#[derive(Clone, Debug)]
pub struct LayerTables {
    pub(crate) pool: BlockPool,
    pub(crate) windows: Vec<Window>,
}

impl LayerTables {
    /// The pool of slots.
    pub fn pool(&self) -> &BlockPool {
        &self.pool
    }

    /// The windows, one per sequence.
    pub fn windows(&self) -> &[Window] {
        &self.windows
    }

    /// Slots of the current chunk, sequence after sequence: the slot mapping of a write.
    pub(crate) fn write_slots(&self) -> Vec<SlotId> {
        self.windows.iter().flat_map(Window::chunk_slots).copied().collect()
    }
}

/// Turns a recipe into decisions. Holds no state of its own.
#[derive(Clone, Debug)]
pub struct Planner {
    recipe: Recipe,
    regions: Regions,
}

impl Planner {
    /// A planner for chunks of `units_per_chunk`.
    ///
    /// # Errors
    /// As [`Recipe::regions`].
    pub fn new(recipe: Recipe, units_per_chunk: usize) -> Result<Self, Error> {
        let regions = recipe.regions(units_per_chunk)?;
        Ok(Self { recipe, regions })
    }

    /// The recipe.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// The region sizes.
    pub fn regions(&self) -> &Regions {
        &self.regions
    }

    /// True when clean units must leave moments behind.
    pub fn needs_moments(&self) -> bool {
        self.regions.memory() > 0 && (self.needs_logits() || self.recipe.edit.is_some())
    }

    /// Empty tables for `sequences` sequences.
    pub fn tables(&self, sequences: usize) -> LayerTables {
        LayerTables {
            pool: BlockPool::new(self.regions.initial_slots().saturating_mul(sequences)),
            windows: vec![Window::new(self.regions.clone()); sequences],
        }
    }

    /// Makes room for the next chunk in every window, and returns the units of each that left for good. The pool grows where the
    /// layout is not bounded.
    ///
    /// # Errors
    /// [`Error::Layout`]; `tables` are then partly advanced and must be thrown away.
    pub fn begin_chunk(&self, tables: &mut LayerTables) -> Result<Vec<Vec<Member>>, Error> {
        let needed = self.regions.chunk() * tables.windows.len();
        if !self.regions.is_bounded() && tables.pool.free() < needed {
            let half_more = tables.pool.capacity() + tables.pool.capacity() / 2;
            let slots = half_more.max(tables.pool.in_use() + needed);
            if slots > u32::MAX as usize {
                return Err(LayoutError::Overflow { what: "slots" }.into());
            }
            tables.pool.grow(slots);
        }
        let mut gone = Vec::with_capacity(tables.windows.len());
        for window in &mut tables.windows {
            gone.push(window.begin_chunk(&mut tables.pool)?.into_vec());
            if self.regions.archives() && !self.recalls() && !window.archive().is_empty() {
                self.fill_memory(window, &[])?;
            }
        }
        Ok(gone)
    }

    /// Fills memory from the archive, by the scores of those that are in it.
    fn fill_memory(&self, window: &mut Window, scores: &[f32]) -> Result<(), Error> {
        let frames = units(window.archive());
        let choice = FrameChoice { scores, frames: &frames, kept: self.regions.memory() };
        let picks = self.selector()?.select(choice)?;
        Ok(window.recall(&picks)?)
    }

    /// True when memory is chosen from the archive by the chunk's own queries: in a recall phase.
    pub fn recalls(&self) -> bool {
        self.recipe.recalls()
    }

    /// Whom a recall has to choose among, of every sequence; all empty when nothing is to be decided.
    pub fn recallable(&self, tables: &LayerTables) -> Vec<Vec<Member>> {
        let of = |window: &Window| if self.recalls() { window.archive().to_vec() } else { Vec::new() };
        tables.windows.iter().map(of).collect()
    }

    /// Fills every memory from `candidates` (from [`Planner::recallable`]), and says with whom. `logits` are as in [`Planner::plan`].
    ///
    /// # Errors
    /// As [`Planner::plan`].
    pub fn recall(
        &self,
        tables: &mut LayerTables,
        layer: LayerId,
        chunk: ChunkIndex,
        candidates: &[Vec<Member>],
        logits: &[f32],
    ) -> Result<RecallPlan, Error> {
        let mut plan = RecallPlan { layer, chunk, memory: Vec::new() };
        if candidates.iter().all(Vec::is_empty) {
            return Ok(plan);
        }
        let scores = self.score(candidates, logits)?;
        for (window, scores) in tables.windows.iter_mut().zip(scores) {
            self.fill_memory(window, &scores.score)?;
            let memory = window.region(Region::Memory);
            let members = window.slots()[memory.clone()].iter().zip(&window.units()[memory]);
            let members =
                members.filter_map(|(&slot, &unit)| unit.map(|unit| Member { unit, slot })).collect();
            plan.memory.push(RecalledUnits { members, scores: scores.score });
        }
        Ok(plan)
    }

    /// The candidates of every sequence, after labelling a window that has just become full; all empty when nothing is to be decided.
    pub fn candidates(&self, tables: &mut LayerTables) -> Vec<Vec<Member>> {
        tables.windows.iter_mut().for_each(Window::settle);
        tables.windows.iter().map(Window::candidates).collect()
    }

    /// True when choosing among the candidates needs their mean attention logits.
    pub fn needs_logits(&self) -> bool {
        self.recipe.needs_logits()
    }

    /// Decides on `candidates` (from [`Planner::candidates`]) and applies the decision to `tables`. `logits` are their mean attention
    /// logits, sequence after sequence; unused unless [`Planner::needs_logits`].
    ///
    /// # Errors
    /// [`Error::Score`] for logits that cannot be ranked, [`Error::Edit`], [`Error::Layout`]; `tables` may then be partly changed and
    /// must be thrown away.
    pub fn plan(
        &self,
        tables: &mut LayerTables,
        layer: LayerId,
        chunk: ChunkIndex,
        candidates: &[Vec<Member>],
        logits: &[f32],
    ) -> Result<CommitPlan, Error> {
        let mut plan = CommitPlan { layer, chunk, memory: Vec::new(), edits: Vec::new() };
        if candidates.iter().all(Vec::is_empty) {
            return Ok(plan);
        }
        if candidates.len() != tables.windows.len() {
            let (expected, got) = (tables.windows.len(), candidates.len());
            return Err(CoreError::Count { what: "candidate lists", expected, got }.into());
        }
        let scores = self.score(candidates, logits)?;
        let (selector, budget) = (self.selector()?, self.regions.memory());
        // Whom to trust is settled before anybody is admitted or dropped.
        let before: Vec<[Vec<SlotId>; 3]> = tables
            .windows
            .iter()
            .map(|w| [Region::Sink, Region::Memory, Region::Recent].map(|r| w.slots()[w.region(r)].to_vec()))
            .collect();
        for (i, window) in tables.windows.iter_mut().enumerate() {
            let (scores, frames) = (scores.get(i), units(&candidates[i]));
            let choice =
                FrameChoice { scores: scores.map_or(&[], |s| &s.score), frames: &frames, kept: budget };
            let keep = selector.select(choice)?;
            let scores = scores.map(|s| s.score.clone()).unwrap_or_default();
            plan.memory.push(MemoryPlan { scores, ..window.admit(&keep, &mut tables.pool)? });
        }
        if let Some(editor) = &self.recipe.edit {
            let admitted: Vec<Vec<SlotId>> =
                plan.memory.iter().map(|m| m.admit.iter().map(|a| a.slot).collect()).collect();
            let sequences: Vec<SequenceEdit<'_>> = before
                .iter()
                .zip(&admitted)
                .map(|([sink, memory, recent], admitted)| SequenceEdit { sink, memory, recent, admitted })
                .collect();
            let mixed = self.recipe.statistics() == BatchStatistics::Mixed;
            plan.edits.extend(editor.plan(&sequences, mixed)?);
        }
        Ok(plan)
    }

    fn score(&self, candidates: &[Vec<Member>], logits: &[f32]) -> Result<Vec<UnitScores>, Error> {
        if !self.selector()?.needs_scores() {
            return Ok(Vec::new());
        }
        let Some(scorer) = &self.recipe.score else {
            return Err(self.refuse("this [select] part chooses by scores, so it needs a [score] part"));
        };
        let frames: Vec<Vec<u64>> = candidates.iter().map(|c| units(c)).collect();
        let mut rest = logits;
        let mut rows = Vec::with_capacity(frames.len());
        for frames in &frames {
            let (logits, after) = rest.split_at_checked(frames.len()).unwrap_or((rest, &[]));
            rows.push(FrameCandidates { logits, frames });
            rest = after;
        }
        Ok(scorer.score_batch(rows, self.recipe.statistics())?)
    }

    fn selector(&self) -> Result<&FrameSelector, Error> {
        self.recipe.select.as_ref().ok_or_else(|| self.refuse("a memory region needs a [select] part"))
    }

    fn refuse(&self, problem: &'static str) -> Error {
        RecipeError::Combination { recipe: self.recipe.name.clone(), problem }.into()
    }
}

/// Indices in time.
fn units(members: &[Member]) -> Vec<u64> {
    members.iter().map(|m| m.unit.0).collect()
}
