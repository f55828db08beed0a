//! Committing: the clean pass decides which of the units that left the recent region are recalled, and edits them.

use std::time::Instant;

use tether_core::{
    ChunkIndex, CommitPlan, CoreError, Edit, Engine, HostTensor, LayerId, LogitQuery, Member, Readback,
    SlotId,
};

use super::{KvCache, Report};
use crate::Error;
use crate::planner::LayerTables;

/// A layer about whose units something is to be decided.
pub(super) struct Decision<'a, E: Engine> {
    pub(super) layer: LayerId,
    pub(super) q: &'a E::Tensor,
    /// Worked on until all is decided.
    pub(super) tables: LayerTables,
    /// Of each sequence.
    pub(super) candidates: Vec<Vec<Member>>,
}

impl<E: Engine> KvCache<E> {
    /// Settles a chunk of one layer after its clean pass was staged, with the clean pass's queries `q` (un-rotated,
    /// `[tokens, query_heads, head_dim_k]`, in the geometry's dtype). The clean pass attends after this, over the updated memory.
    ///
    /// Waits once for the scores of the candidates, and only when there are any.
    ///
    /// # Errors
    /// [`Error::CleanPassWithoutWrite`] when the clean keys and values are not in the cache, [`Error::ChunkOrder`] for another chunk
    /// than the staged one, wrong shapes and dtypes, scores that are NaN.
    pub fn commit(
        &mut self,
        layer: impl Into<LayerId>,
        chunk: impl Into<ChunkIndex>,
        q: &E::Tensor,
    ) -> Result<Report, Error> {
        let mut reports = self.commit_layers(chunk, &[(layer.into(), q)])?;
        Ok(reports.remove(0))
    }

    /// [`KvCache::commit`] of several layers, with one wait for all their scores.
    ///
    /// The published method needs layer by layer: its clean pass attends over the memory that was just updated, so the next layer's
    /// keys depend on this commit. Together is for a clean pass that attends before it is committed, which trades one chunk's delay of
    /// the update for a single wait.
    ///
    /// # Errors
    /// As [`KvCache::commit`]; when one layer is refused, none is committed. Should the engine itself fail in the middle of applying
    /// edits, the layers before are committed: [`KvCache::committed`] says which are left for the same call again.
    pub fn commit_layers(
        &mut self,
        chunk: impl Into<ChunkIndex>,
        queries: &[(LayerId, &E::Tensor)],
    ) -> Result<Vec<Report>, Error> {
        let chunk = chunk.into();
        for (i, &(layer, q)) in queries.iter().enumerate() {
            let index = self.layer_index(layer)?;
            let committed = ChunkIndex(self.layers[index].committed);
            match self.layers[index].open {
                _ if queries[..i].iter().any(|(l, _)| *l == layer) => {
                    return Err(Error::ChunkOrder {
                        layer,
                        expected: ChunkIndex(chunk.0.saturating_add(1)),
                        got: chunk,
                    });
                }
                Some(open) if open.chunk != chunk => {
                    return Err(Error::ChunkOrder { layer, expected: open.chunk, got: chunk });
                }
                Some(open) if open.clean => {}
                None if chunk < committed => {
                    return Err(Error::ChunkOrder { layer, expected: committed, got: chunk });
                }
                _ => return Err(Error::CleanPassWithoutWrite { layer, chunk }),
            }
            self.expect("q", q, &self.geometry.query_shape(), self.geometry.dtype)?;
        }

        let started = Instant::now();
        let mut work = Vec::with_capacity(queries.len());
        for &(layer, q) in queries {
            let mut tables = self.layers[layer.index()].tables.clone();
            let candidates = self.planner.candidates(&mut tables);
            work.push(Decision { layer, q, tables, candidates });
        }
        let preparing = started.elapsed();

        let logits = self.logits(&work)?;

        let mut planned: Vec<(LayerTables, CommitPlan, _)> = Vec::with_capacity(work.len());
        let shared = preparing / u32::try_from(work.len().max(1)).unwrap_or(u32::MAX);
        for (Decision { layer, mut tables, candidates, .. }, logits) in work.into_iter().zip(&logits) {
            let started = Instant::now();
            let plan = self.planner.plan(&mut tables, layer, chunk, &candidates, logits)?;
            planned.push((tables, plan, shared + started.elapsed()));
        }

        let mut reports = Vec::with_capacity(planned.len());
        for (tables, plan, planning) in planned {
            let layer = &mut self.layers[plan.layer.index()];
            let before = self.engine.traffic();
            for edit in &plan.edits {
                match edit {
                    Edit::Align { tau, jobs } => self.engine.align(&mut layer.store, *tau, jobs)?,
                    _ => {
                        let (engine, feature) = (self.engine.name(), "this kind of edit");
                        return Err(CoreError::Unsupported { engine, feature }.into());
                    }
                }
            }
            let moved = self.engine.traffic().since(&before);
            layer.tables = tables;
            layer.open = None;
            layer.committed = chunk.0 + 1;
            let dropped: usize = plan.memory.iter().map(|m| m.drop.len()).sum();
            reports.push(Report {
                bytes_edited: moved.edited,
                bytes_moved: moved.written + moved.gathered + moved.grown,
                bytes_freed: (dropped * self.geometry.unit_bytes()) as u64,
                plan,
                planning,
            });
        }
        Ok(reports)
    }

    /// Mean attention logits of every decision's candidates, in one question and one read.
    pub(super) fn logits(&self, work: &[Decision<'_, E>]) -> Result<Vec<Vec<f32>>, Error> {
        let mut logits = vec![Vec::new(); work.len()];
        if !self.planner.needs_logits() {
            return Ok(logits);
        }
        let slots = |members: &Vec<Member>| members.iter().map(|m| m.slot).collect();
        let asked: Vec<(usize, Vec<Vec<SlotId>>)> = work
            .iter()
            .enumerate()
            .filter(|(_, decision)| decision.candidates.iter().any(|c| !c.is_empty()))
            .map(|(i, decision)| (i, decision.candidates.iter().map(slots).collect()))
            .collect();
        if asked.is_empty() {
            return Ok(logits);
        }
        let queries: Vec<LogitQuery<'_, E>> = asked
            .iter()
            .map(|(i, candidates)| {
                let &Decision { layer, q, .. } = &work[*i];
                LogitQuery { store: &self.layers[layer.index()].store, q, candidates }
            })
            .collect();
        let all = self.engine.mean_logits_of(&queries)?;
        let read = self.engine.read(&[&all])?.wait()?;
        let all = read.first().map(HostTensor::to_f32_vec).unwrap_or_default();
        let mut rest = all.as_slice();
        for (i, candidates) in &asked {
            let count = candidates.iter().map(Vec::len).sum();
            let (of_layer, after) = rest.split_at_checked(count).unwrap_or((rest, &[]));
            logits[*i] = of_layer.to_vec();
            rest = after;
        }
        Ok(logits)
    }
}
