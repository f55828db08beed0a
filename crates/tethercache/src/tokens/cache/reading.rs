//! What is read of a sequence that retains everything.
//!
//! A recipe with `retain` evicts nothing. Where it chooses for every token (`decode.every = 1`, Quest), each query attends over tables of the
//! blocks that hold what its own query chose, and nothing is copied: a choice of whole pages by their bounds is made
//! on the device. Any other choice holds until the next one: it is kept as lists of its own, as if a fork of the
//! sequence had evicted the rest, which share what they can with the sequence and take new tokens as it does.

use tether_core::{BlockTables, CoreError, HostTensor, PageChoice, PageLists, Readback, TokenEngine};
use tether_score::tokens::{KeptIndices, LayerBudget};

use super::extend::NewTokens;
use super::head_pages::HeadPages;
use super::observed::{Observed, Queries};
use super::pending::PendingLayer;
use super::recorded::QueryTail;
use super::{BesidePages, SequenceId, SequenceLayer, TokenCache, unknown};
use crate::tokens::{LayerContext, PagesRead, SequenceState, TokenPositions, TokenRecipe};
use crate::{Error, RecipeError};

/// True for a recipe that chooses for every token what it reads.
pub(super) fn chooses_for_each(recipe: &TokenRecipe) -> bool {
    recipe.retain && recipe.score.is_some() && recipe.decode.is_some_and(|d| d.every == 1)
}

/// Refuses what a choice for every token cannot do.
pub(super) fn check(recipe: &TokenRecipe, accumulates: bool) -> Result<(), RecipeError> {
    let refuse = |problem| Err(RecipeError::Combination { recipe: recipe.name.clone(), problem });
    if !chooses_for_each(recipe) {
        return Ok(());
    }
    if recipe.position.kind == TokenPositions::Contiguous {
        return refuse(
            "keys that move for every token would be turned for every token; leave [decode] out, or keep positions",
        );
    }
    if accumulates {
        return refuse(
            "attention is summed up after a token's own attention, which retain with decode.every = 1 decides before",
        );
    }
    if matches!(recipe.budget.layers, LayerBudget::Groups { .. }) {
        return refuse(
            "with retain and decode.every = 1 each layer chooses by its own query, so budget.layers must not be groups",
        );
    }
    Ok(())
}

/// Places of one head that one token reads, as blocks where they are whole blocks up to `upto` tokens.
fn whole_blocks(head: &HeadPages, set: &[u32], upto: usize, size: usize) -> Option<Vec<u32>> {
    if !head.is_in_order() {
        return None;
    }
    let of_block = |a: &u32, b: &u32| *a as usize / size == *b as usize / size;
    let mut blocks = Vec::with_capacity(set.len().div_ceil(size));
    for run in set.chunk_by(of_block) {
        let block = run[0] as usize / size;
        if run.len() != size.min(upto - block * size) {
            return None;
        }
        blocks.push(head.blocks[block]);
    }
    Some(blocks)
}

/// What new tokens attend to that choose pages by their bounds.
#[derive(Debug)]
pub(super) enum PageReading<T> {
    /// Attention over the chosen pages, and what the last token of each sequence reads.
    Chosen(T, Vec<usize>),
    /// All there is.
    Everything,
    /// What is chosen on the host.
    OnHost,
}

impl<E: TokenEngine> TokenCache<E> {
    /// Chooses anew what is read of a sequence: a question has come, and the tokens after it shall read what it points to. Does nothing for a
    /// recipe that does not retain what it leaves out, and for one that chooses for every token anyway. [`TokenCache::evict`] has chosen
    /// after the prompt.
    ///
    /// # Errors
    /// As [`TokenCache::evict`].
    pub fn recall(&mut self, sequence: SequenceId) -> Result<(), Error> {
        let held = self.sequence(sequence)?;
        let recipe = self.planner.recipe();
        if !recipe.retain || chooses_for_each(recipe) || !self.planner.evicts() || held.layers[0].seen == 0 {
            return Ok(());
        }
        if held.pending.is_none() {
            held.check_layers()?;
            let mut state = held.state.clone();
            let decisions = self.plans(held, &mut state)?;
            self.set_pending(sequence, state, decisions)?;
        }
        self.carry_out(sequence).map(drop)
    }

    /// Reads what the plan keeps from now on, instead of what was chosen before.
    pub(super) fn read_only(
        &mut self,
        sequence: SequenceId,
        next: &PendingLayer<E::Tensor>,
    ) -> Result<(), Error> {
        let layer = next.plan.layer;
        let held = &self.sequence(sequence)?.layers[layer];
        let plan = next.with_later_tokens(&held.heads);
        let gapless = |head: &HeadPages| match (head.positions.first(), head.positions.last()) {
            (Some(first), Some(last)) => (last - first) as usize + 1 == head.len(),
            _ => true,
        };
        let everything = plan.keep.total() == plan.total;
        let all = everything && (plan.positions.is_none() || held.heads.iter().all(gapless));
        let mut read = Vec::new();
        if !all {
            let views: Vec<HeadPages> = held.heads.iter().map(HeadPages::view).collect();
            let pages: Vec<u32> = views.iter().flat_map(|h| &h.blocks).copied().collect();
            let pool = &mut self.layers[layer].pool;
            pages.iter().try_for_each(|&page| pool.share(page))?;
            let done = self.compact(&views, &BesidePages::default(), &plan);
            let pool = &mut self.layers[layer].pool;
            match done {
                Ok(done) => {
                    done.given_up.into_iter().try_for_each(|page| pool.release(page).map(drop))?;
                    read = done.heads;
                }
                Err(e) => {
                    pages.into_iter().try_for_each(|page| pool.release(page).map(drop))?;
                    return Err(e);
                }
            }
        }
        let held = self.sequences.get_mut(&sequence).ok_or(unknown(sequence))?;
        let before = std::mem::replace(&mut held.layers[layer].read, read);
        self.layers[layer].forget(before)
    }

    /// True where the device can choose pages by their bounds.
    pub(super) fn chooses_on_device(&self, layer: usize) -> bool {
        self.engine.chooses_pages()
            && self.layers[layer].summaries.bounds.is_some()
            && self.wanted().bounds == self.geometry.block_size
    }

    /// Attention of a batch's tokens, each over the pages that its own query chooses by their bounds, where the
    /// device does that.
    pub(super) fn attend_to_pages(
        &mut self,
        held: &mut [SequenceLayer<E::Tensor>],
        (layer, starts): (usize, &[u32]),
        new: &NewTokens<'_, E>,
    ) -> Result<PageReading<E::Tensor>, Error> {
        let g = &self.geometry;
        let (size, layers, kv_heads) = (g.block_size, g.layers, g.kv_heads);
        if !self.chooses_on_device(layer) {
            return Ok(PageReading::OnHost);
        }
        let (mut tokens, mut attended, mut all) = (Vec::new(), Vec::new(), true);
        for (number, held) in held.iter().enumerate() {
            let count = (starts[number + 1] - starts[number]) as usize;
            let length = held.heads.first().map_or(0, HeadPages::len);
            let mut last = 0;
            for upto in length - count + 1..=length {
                let turn = LayerContext { layer, layers, seen: upto, decoding: true };
                let read = self.planner.reads_pages(turn, kv_heads, upto)?;
                let Some(read) = read else { return Ok(PageReading::OnHost) };
                let left = (read.between.len() - read.count) * read.page;
                (last, all) = (kv_heads * (upto - left), all && left == 0);
                tokens.push((number, upto, read));
            }
            attended.push(last);
        }
        if all {
            return Ok(PageReading::Everything);
        }
        let pools = &mut self.layers[layer];
        pools
            .regions
            .sync(&self.engine, &mut held.iter_mut().flat_map(|h| &mut h.heads).collect::<Vec<_>>())?;
        let (engine, g) = (&self.engine, &self.geometry);
        let bounds = pools.summaries.bounds.as_ref();
        let bounds = bounds.ok_or(CoreError::Count { what: "bounds of pages", expected: 1, got: 0 })?;
        let attend = |q: &E::Tensor, (number, upto, read): &(usize, usize, PagesRead)| {
            let starts: Vec<u32> = held[*number].heads.iter().map(|head| head.region.start()).collect();
            let lengths = vec![*upto as u32; kv_heads];
            let lists = PageLists { page_size: size, groups: kv_heads, starts: &starts, lengths: &lengths };
            let tables = engine.choose_pages(&PageChoice {
                q,
                bounds,
                table: pools.regions.table(),
                lists: &lists,
                run: read.page / size,
                between: read.between.clone(),
                count: read.count,
            })?;
            Ok::<_, CoreError>(engine.decode(q, &pools.k, &pools.v, &tables, g.scale())?.0)
        };
        if let [one] = tokens.as_slice() {
            return Ok(PageReading::Chosen(attend(new.q, one)?, attended));
        }
        // Each token by itself, and what they attended to next to each other.
        let shape = [tokens.len(), g.query_heads, g.head_dim_v];
        let mut out = engine.upload(&HostTensor::zeros(&shape, g.dtype)?)?;
        for (number, token) in tokens.iter().enumerate() {
            let rows: Vec<u32> = (0..g.query_heads).map(|h| (number * g.query_heads + h) as u32).collect();
            let rows = engine.upload_indices(&[1, g.query_heads], &rows)?;
            let own = attend(&engine.read_rows(new.q, &rows)?, token)?;
            engine.write_rows(&mut out, &rows, &own)?;
        }
        Ok(PageReading::Chosen(out, attended))
    }

    /// What each new token of a layer that holds them already reads, chosen on the host.
    pub(super) fn choices(
        &self,
        held: &SequenceLayer<E::Tensor>,
        layer: usize,
        new: &NewTokens<'_, E>,
    ) -> Result<Vec<KeptIndices>, Error> {
        let heads = &held.heads;
        let (g, tokens) = (&self.geometry, new.positions.len());
        let needs = self.planner.needs();
        let with_new =
            |old: &QueryTail<E::Tensor>, new: Option<&E::Tensor>, keep: usize| -> Result<Vec<f32>, Error> {
                let Some(new) = new.filter(|_| keep > 0) else { return Ok(Vec::new()) };
                let mut all = old.on_host(&self.engine)?;
                all.extend(self.host_rows(new)?);
                Ok(all)
            };
        let queries = with_new(&held.recorded.queries, Some(new.q), needs.last_queries)?;
        let raw_queries = with_new(&held.recorded.raw_queries, new.raw_q, needs.raw_queries)?;
        let before = heads.first().map_or(0, HeadPages::len) - tokens;
        let mut choices = Vec::new();
        for token in 0..tokens {
            // Recorded queries end with those of the last new token.
            let until = |queries: &[f32]| {
                queries.len().saturating_sub((tokens - 1 - token) * g.query_heads * g.head_dim_k)
            };
            let queries = Queries::Host(&queries[..until(&queries)], &raw_queries[..until(&raw_queries)]);
            let upto = before + token + 1;
            let seen = Observed::new(self, (heads.as_slice(), layer), 0..g.kv_heads, queries).upto(upto);
            let turn = LayerContext { layer, layers: g.layers, seen: upto, decoding: true };
            choices.push(self.planner.plan(turn, &seen, &mut SequenceState::default())?.keep);
        }
        Ok(choices)
    }

    /// Attention of new tokens, the last of `heads`, each over its own choice of the tokens up to itself.
    pub(super) fn attend_to(
        &self,
        layer: usize,
        heads: &[HeadPages],
        new: &NewTokens<'_, E>,
        choices: &[KeptIndices],
    ) -> Result<E::Tensor, Error> {
        let scale = self.geometry.scale();
        let (engine, size, blocks) = (&self.engine, self.geometry.block_size, &self.layers[layer]);
        let before = heads.first().map_or(0, HeadPages::len) - choices.len();
        // Lists of a head stand together, one for each token.
        let lists = || {
            let tokens = |head| choices.iter().enumerate().map(move |(i, c)| (head, c, before + i + 1));
            (0..heads.len())
                .flat_map(tokens)
                .map(|(head, choice, upto)| (&heads[head], choice.head(head), upto))
        };
        let (mut indptr, mut pages, mut lengths) = (vec![0u32], Vec::new(), Vec::new());
        let whole: Option<Vec<Vec<u32>>> =
            lists().map(|(head, set, upto)| whole_blocks(head, set, upto, size)).collect();
        // Rows next to each other, filled up to whole blocks, where blocks are not read whole.
        let mut gathered: Vec<u32> = Vec::new();
        for (number, (head, set, _)) in lists().enumerate() {
            lengths.push(set.len() as u32);
            match &whole {
                Some(whole) => pages.extend(&whole[number]),
                None => {
                    let first = gathered.len() / size;
                    gathered.extend(set.iter().map(|&t| head.row(t as usize, size)));
                    let last = gathered.last().copied().unwrap_or(0);
                    gathered.resize(gathered.len().next_multiple_of(size), last);
                    pages.extend((first..gathered.len() / size).map(|page| page as u32));
                }
            }
            indptr.push(pages.len() as u32);
        }
        let tables = BlockTables {
            page_size: size,
            groups: heads.len(),
            indptr: &indptr,
            pages: &pages,
            lengths: &lengths,
        };
        let tables = engine.upload_tables(&tables)?;
        if whole.is_some() {
            return Ok(engine.decode(new.q, &blocks.k, &blocks.v, &tables, scale)?.0);
        }
        let rows = engine.upload_indices(&[gathered.len() / size, size, 1], &gathered)?;
        let (k, v) = (engine.read_rows(&blocks.k, &rows)?, engine.read_rows(&blocks.v, &rows)?);
        Ok(engine.decode(new.q, &k, &v, &tables, scale)?.0)
    }

    /// A tensor's numbers on the host.
    pub(super) fn host_rows(&self, tensor: &E::Tensor) -> Result<Vec<f32>, CoreError> {
        Ok(self.engine.read(&[tensor])?.wait()?[0].to_f32_vec())
    }
}
