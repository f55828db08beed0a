//! New tokens: written to pages, and attended with.

use tether_core::{CoreError, LayerId, NewQueries, PageLists, PagedKv, TokenEngine, check_starts};
use tether_score::tokens::{GridPlace, KeptIndices};

use super::code_pool::CodedLayer;
use super::compact::position_words;
use super::head_pages::{HeadPages, Mark};
use super::reading::{PageReading, chooses_for_each};
use super::recorded::{Piece, QueryTail};
use super::{SequenceId, SequenceLayer, TokenCache, unknown};
use crate::Error;

/// A block of new tokens in one layer. Tensors are `[tokens, heads, head_dim]` in the cache's dtype.
#[derive(Debug)]
pub struct NewTokens<'a, E: TokenEngine> {
    /// Rotated queries.
    pub q: &'a E::Tensor,
    /// Rotated keys.
    pub k: &'a E::Tensor,
    /// Values.
    pub v: &'a E::Tensor,
    /// Queries before the rotation, where the recipe needs them.
    pub raw_q: Option<&'a E::Tensor>,
    /// Position of each token.
    pub positions: &'a [i32],
    /// Where each token stands in an image, `None` for text, where the recipe needs it; every layer is told. All are text without it.
    pub grid: Option<&'a [Option<GridPlace>]>,
}

impl<'a, E: TokenEngine> NewTokens<'a, E> {
    /// New tokens of text.
    pub fn new(q: &'a E::Tensor, k: &'a E::Tensor, v: &'a E::Tensor, positions: &'a [i32]) -> Self {
        Self { q, k, v, raw_q: None, positions, grid: None }
    }

    /// With their queries before the rotation.
    #[must_use]
    pub fn raw_queries(self, raw_q: &'a E::Tensor) -> Self {
        Self { raw_q: Some(raw_q), ..self }
    }

    /// With where they stand in images.
    #[must_use]
    pub fn grid(self, grid: &'a [Option<GridPlace>]) -> Self {
        Self { grid: Some(grid), ..self }
    }
}

/// New tokens of several sequences, one sequence after the other: a token of each, pieces of prompts, or both.
#[derive(Debug)]
pub struct TokenBatch<'a, E: TokenEngine> {
    /// The sequences, each once.
    pub sequences: &'a [SequenceId],
    /// Where each sequence's tokens begin, and where the last one's end: one number more than sequences.
    pub starts: &'a [u32],
    /// The tokens of all of them.
    pub tokens: NewTokens<'a, E>,
}

/// Some of the lists of a layer.
type ListsOf<T> = fn(&mut SequenceLayer<T>) -> &mut Vec<HeadPages>;

/// The new tokens of a batch in one layer, and the lists of the sequences that take them.
struct Batch<'b, 'a, E: TokenEngine> {
    layer: usize,
    sequences: &'b [SequenceId],
    starts: &'b [u32],
    new: &'b NewTokens<'a, E>,
    /// False for tokens whose attention is known.
    attend: bool,
    /// True for each sequence whose prompt has been evicted from.
    decoding: Vec<bool>,
}

impl<E: TokenEngine> Batch<'_, '_, E> {
    /// The new positions of each sequence.
    fn positions(&self, sequence: usize) -> &[i32] {
        &self.new.positions[self.starts[sequence] as usize..self.starts[sequence + 1] as usize]
    }

    fn tokens(&self, sequence: usize) -> usize {
        (self.starts[sequence + 1] - self.starts[sequence]) as usize
    }
}

/// What a batch leaves behind beside its tokens.
struct Added<T> {
    out: Option<T>,
    /// Tokens that the last new token of each sequence attended to, summed over key heads.
    attended: Vec<usize>,
    /// Queries of each sequence that are recorded, rotated and raw.
    queries: Vec<[Option<Piece<T>>; 2]>,
}

impl<E: TokenEngine> TokenCache<E> {
    /// Adds new tokens to a layer of a sequence and attends with them, each to what the layer holds and to the new tokens up to itself:
    /// `[tokens, query_heads, head_dim_v]`. Logits are made as [`super::super::TokenGeometry::attention`] says.
    ///
    /// # Errors
    /// [`Error::UnknownSequence`], [`Error::NoSuchLayer`], [`Error::LayerTokens`] when another layer has had other tokens,
    /// [`Error::Core`] for wrong shapes, dtypes and counts, for queries before the rotation that the recipe needs and that are not there, for NaN where an engine sees it, and for what the device refuses; the sequence is as it
    /// was.
    pub fn extend(
        &mut self,
        sequence: SequenceId,
        layer: impl Into<LayerId>,
        new: &NewTokens<'_, E>,
    ) -> Result<E::Tensor, Error> {
        let starts = [0, new.positions.len() as u32];
        let none = || CoreError::Count { what: "results of an attention", expected: 1, got: 0 };
        Ok(self.add(&[sequence], &starts, layer.into(), new, true)?.ok_or_else(none)?)
    }

    /// [`TokenCache::extend`] for several sequences in one call: a token of each, pieces of prompts, or both.
    ///
    /// # Errors
    /// As [`TokenCache::extend`]; [`crate::RecipeError::Combination`] for several sequences that read what was chosen on the host;
    /// [`Error::Core`] for a batch without sequences, for starts that do not cut the tokens, and for a sequence that is named
    /// twice. All sequences are as they were.
    pub fn extend_batch(
        &mut self,
        layer: impl Into<LayerId>,
        batch: &TokenBatch<'_, E>,
    ) -> Result<E::Tensor, Error> {
        let none = || CoreError::Count { what: "sequences of a batch", expected: 1, got: 0 };
        let added = self.add(batch.sequences, batch.starts, layer.into(), &batch.tokens, true)?;
        Ok(added.ok_or_else(none)?)
    }

    /// Adds new tokens as [`TokenCache::extend`] does, but attends with none: for tokens whose attention is known, such as those of a text that
    /// another cache has read.
    ///
    /// # Errors
    /// As [`TokenCache::extend`].
    pub fn append(
        &mut self,
        sequence: SequenceId,
        layer: impl Into<LayerId>,
        new: &NewTokens<'_, E>,
    ) -> Result<(), Error> {
        let starts = [0, new.positions.len() as u32];
        self.add(&[sequence], &starts, layer.into(), new, false).map(drop)
    }

    fn add(
        &mut self,
        sequences: &[SequenceId],
        starts: &[u32],
        layer: LayerId,
        new: &NewTokens<'_, E>,
        attend: bool,
    ) -> Result<Option<E::Tensor>, Error> {
        let layer = self.layer_index(layer)?;
        self.check(new, new.positions.len())?;
        check_starts(starts, sequences.len(), new.positions.len())?;
        let decoding =
            sequences.iter().map(|&s| Ok(self.sequence(s)?.decoding)).collect::<Result<_, Error>>()?;
        let batch = Batch { layer, sequences, starts, new, attend, decoding };
        for (number, &sequence) in sequences.iter().enumerate() {
            if sequences[..number].contains(&sequence) {
                let requirement = "must name each sequence once";
                let value = sequence.0 as usize;
                return Err(CoreError::Geometry { field: "sequences", value, requirement }.into());
            }
            self.check_order(sequence, layer, batch.positions(number))?;
        }
        if sequences.len() > 1 && self.reads_by_choice(sequences, layer)? {
            return Err(self.one_by_one());
        }
        let mut held = Vec::with_capacity(sequences.len());
        for sequence in sequences {
            let entry = self.sequences.get_mut(sequence).ok_or(unknown(*sequence))?;
            held.push(std::mem::take(&mut entry.layers[layer]));
        }
        let added = self.add_to(&mut held, &batch);
        for (number, (sequence, mut layer_of)) in sequences.iter().zip(held).enumerate() {
            if let Ok(added) = &added {
                layer_of.seen += batch.tokens(number);
                layer_of.attended = added.attended[number];
            }
            let entry = self.sequences.get_mut(sequence).ok_or(unknown(*sequence))?;
            entry.layers[layer] = layer_of;
        }
        Ok(added?.out)
    }

    /// Positions ascend, and layers take the same tokens.
    fn check_order(&self, sequence: SequenceId, layer: usize, positions: &[i32]) -> Result<(), Error> {
        let held = self.sequence(sequence)?;
        let seen = held.layers[layer].seen + positions.len();
        if let Some(before) = layer.checked_sub(1).map(|l| held.layers[l].seen)
            && before != seen
        {
            return Err(Error::LayerTokens { layer: LayerId(layer as u32), expected: before, got: seen });
        }
        let mut last = held.layers[layer].heads.iter().filter_map(|h| h.positions.last()).max();
        for (value, &position) in positions.iter().enumerate() {
            if last.is_some_and(|last| position <= last) {
                let requirement = "must ascend, from those of the tokens before on";
                return Err(CoreError::Geometry { field: "positions", value, requirement }.into());
            }
            last = Some(position);
        }
        Ok(())
    }

    fn check(&self, new: &NewTokens<'_, E>, tokens: usize) -> Result<(), CoreError> {
        let g = &self.geometry;
        if tokens == 0 {
            return Err(CoreError::Count { what: "new tokens", expected: 1, got: 0 });
        }
        if let Some(got) = new.grid.map(<[_]>::len).filter(|&got| got != tokens) {
            return Err(CoreError::Count { what: "places in a grid", expected: tokens, got });
        }
        if new.raw_q.is_none() && self.planner.needs().raw_queries > 0 {
            return Err(CoreError::Count { what: "queries before the rotation", expected: tokens, got: 0 });
        }
        let q = [tokens, g.query_heads, g.head_dim_k];
        let tensors = [
            ("q", Some(new.q), q),
            ("k", Some(new.k), [tokens, g.kv_heads, g.head_dim_k]),
            ("v", Some(new.v), [tokens, g.kv_heads, g.head_dim_v]),
            ("raw_q", new.raw_q, q),
        ];
        for (what, tensor, expected) in tensors {
            let Some(tensor) = tensor else { continue };
            let (shape, dtype) = self.engine.describe(tensor);
            if shape != expected {
                return Err(CoreError::ShapeMismatch { what, expected: expected.into(), got: shape.into() });
            }
            if dtype != g.dtype {
                return Err(CoreError::DTypeMismatch { what, expected: g.dtype, got: dtype });
            }
            self.engine.check_finite(what, tensor)?;
        }
        Ok(())
    }

    /// Adds a batch to the layers of its sequences; they are as they were when it fails.
    fn add_to(
        &mut self,
        held: &mut [SequenceLayer<E::Tensor>],
        batch: &Batch<'_, '_, E>,
    ) -> Result<Added<E::Tensor>, Error> {
        let size = self.geometry.block_size;
        let pools = &mut self.layers[batch.layer];
        let shared = |pool: &tether_layout::BlockPool, list: &HeadPages| {
            let partly = !list.len().is_multiple_of(size);
            partly && list.blocks.last().is_some_and(|&b| pool.references(b) > 1)
        };
        let more = |list: &HeadPages, new: usize| (list.len() + new).div_ceil(size) - list.blocks.len();
        let counted = held.iter().enumerate().flat_map(|(i, h)| h.lists().map(move |l| (l, batch.tokens(i))));
        let needed = counted.map(|(l, new)| more(l, new) + usize::from(shared(&pools.pool, l))).sum();
        pools.reserve(&self.engine, needed)?;
        let taken = pools.pool.allocate(needed)?;
        let mut fresh = taken.iter().copied();
        let (mut from, mut to) = (Vec::new(), Vec::new());
        let mut marks: Vec<Mark> = Vec::new();
        for (number, layer) in held.iter_mut().enumerate() {
            for list in layer.lists_mut() {
                marks.push(list.mark());
                let last = list.blocks.len().saturating_sub(1);
                if shared(&pools.pool, list)
                    && let (Some(page), Some(copy)) = (list.blocks.last_mut(), fresh.next())
                {
                    let rows = |page: u32| page * size as u32..(page + 1) * size as u32;
                    from.extend(rows(*page));
                    to.extend(rows(copy));
                    *page = copy;
                    list.region.changed_from(last);
                }
                let count = more(list, batch.tokens(number));
                list.blocks.extend(fresh.by_ref().take(count));
            }
        }
        let copied = pools.copy_rows(&self.engine, &from, &to).map_err(Error::from);
        let result = copied.and_then(|()| self.write_and_attend(held, batch));
        let pool = &mut self.layers[batch.layer].pool;
        let lists = held.iter_mut().flat_map(SequenceLayer::lists_mut).zip(marks);
        match result {
            Ok(mut added) => {
                // Pages that were shared, and of which these sequences have copies now.
                for (list, mark) in lists {
                    if let Some(before) = list.replaced(mark) {
                        pool.release(before)?;
                    }
                }
                for (layer, queries) in held.iter_mut().zip(std::mem::take(&mut added.queries)) {
                    let wanted = self.queries_wanted(layer);
                    let tails = [&mut layer.recorded.queries, &mut layer.recorded.raw_queries];
                    for ((tail, piece), keep) in tails.into_iter().zip(queries).zip(wanted) {
                        tail.push(piece, keep);
                    }
                }
                Ok(added)
            }
            Err(e) => {
                lists.for_each(|(list, mark)| list.back_to(mark));
                taken.into_iter().try_for_each(|page| pool.release(page).map(drop))?;
                Err(e)
            }
        }
    }

    /// How many of the last tokens' queries a layer records, rotated and raw. Nobody asks for more than those of tokens that are in pages.
    fn queries_wanted(&self, layer: &SequenceLayer<E::Tensor>) -> [usize; 2] {
        let needs = self.planner.needs();
        let most = layer.heads.iter().map(HeadPages::len).max().unwrap_or(0);
        [needs.last_queries.max(self.probes_wanted()).min(most), needs.raw_queries.min(most)]
    }

    /// True where a sequence reads what was chosen on the host.
    fn reads_by_choice(&self, sequences: &[SequenceId], layer: usize) -> Result<bool, Error> {
        let mut decoding = 0;
        for &sequence in sequences {
            let held = self.sequence(sequence)?;
            decoding += usize::from(held.decoding);
            if !held.layers[layer].read.is_empty() {
                return Ok(true);
            }
        }
        let chooses = chooses_for_each(self.planner.recipe()) && decoding > 0;
        Ok(chooses && (decoding < sequences.len() || !self.chooses_on_device(layer)))
    }

    /// The refusal of a batch.
    fn one_by_one(&self) -> Error {
        let problem = "its sequences choose what they read: extend them one by one";
        let recipe = self.planner.recipe().name.clone();
        crate::RecipeError::Combination { recipe, problem }.into()
    }

    /// Writes the new tokens to all lists, and attends with them over those that are read, unless that is known.
    fn write_and_attend(
        &mut self,
        held: &mut [SequenceLayer<E::Tensor>],
        batch: &Batch<'_, '_, E>,
    ) -> Result<Added<E::Tensor>, Error> {
        let &Batch { layer, starts, new, attend, .. } = batch;
        let (engine, g) = (&self.engine, &self.geometry);
        let pools = &mut self.layers[layer];
        // What the sequences hold, and then what is read of one where a choice holds; both take the new tokens.
        let lists: [ListsOf<E::Tensor>; 2] = [|layer| &mut layer.heads, |layer| &mut layer.read];
        for of in lists {
            let mut rows = Vec::with_capacity(new.positions.len() * g.kv_heads);
            for (number, layer) in held.iter_mut().enumerate() {
                let (heads, positions) = (of(layer), batch.positions(number));
                for i in 0..positions.len() {
                    rows.extend(heads.iter().map(|h| h.row(h.len() + i, g.block_size)));
                }
                heads.iter_mut().for_each(|head| head.append(positions));
            }
            if !rows.is_empty() {
                let rows = engine.upload_indices(&[new.positions.len(), g.kv_heads], &rows)?;
                let mut writes = vec![(&mut pools.k, new.k), (&mut pools.v, new.v)];
                let words;
                if let Some(pool) = &mut pools.positions {
                    let repeat = |&p: &i32| std::iter::repeat_n(p, g.kv_heads);
                    let repeated: Vec<i32> = new.positions.iter().flat_map(repeat).collect();
                    words = engine.upload(&position_words(&repeated)?)?;
                    writes.push((pool, &words));
                }
                engine.write_rows_together(&mut writes, &rows)?;
            }
        }
        for (number, layer) in held.iter_mut().enumerate() {
            let grid = new.grid.map(|g| &g[starts[number] as usize..starts[number + 1] as usize]);
            layer.heads.iter_mut().for_each(|head| head.set_grid(grid));
        }
        let mut added = Added { out: None, attended: Vec::new(), queries: Vec::with_capacity(held.len()) };
        self.summarise(held, layer, |number| batch.tokens(number))?;
        if attend && batch.decoding[0] && chooses_for_each(self.planner.recipe()) {
            match (self.attend_to_pages(held, (layer, starts), new)?, &*held) {
                (PageReading::Chosen(out, attended), _) => {
                    (added.out, added.attended) = (Some(out), attended);
                }
                (PageReading::Everything, _) => {}
                (PageReading::OnHost, [one]) => {
                    let choices = self.choices(one, layer, new)?;
                    let heads = one.reading();
                    let before = heads[0].len() - new.positions.len();
                    let everything =
                        |(i, c): (usize, &KeptIndices)| c.total() == heads.len() * (before + i + 1);
                    if !choices.iter().enumerate().all(everything) {
                        let all: usize = heads.iter().map(HeadPages::len).sum();
                        added.attended = vec![choices.last().map_or(all, KeptIndices::total)];
                        added.out = Some(self.attend_to(layer, heads, new, &choices)?);
                    }
                }
                (PageReading::OnHost, _) => return Err(self.one_by_one()),
            }
        }
        if added.out.is_none() {
            added.attended = held.iter().map(|h| h.reading().iter().map(HeadPages::len).sum()).collect();
            added.out = self.attend_to_all(held, batch)?;
        }
        for (number, layer) in held.iter().enumerate() {
            let [rotated, raw] = self.queries_wanted(layer);
            let of = starts[number] as usize..starts[number + 1] as usize;
            let raw = match new.raw_q {
                Some(q) => QueryTail::piece(&self.engine, q, of.clone(), raw)?,
                None => None,
            };
            added.queries.push([QueryTail::piece(&self.engine, new.q, of, rotated)?, raw]);
        }
        Ok(added)
    }

    /// Attention of a batch over all that its sequences read, added up where the recipe asks for it; nothing where neither is wanted.
    fn attend_to_all(
        &mut self,
        held: &mut [SequenceLayer<E::Tensor>],
        batch: &Batch<'_, '_, E>,
    ) -> Result<Option<E::Tensor>, Error> {
        let &Batch { layer, starts, new, attend, .. } = batch;
        let (engine, g) = (&self.engine, &self.geometry);
        let pools = &mut self.layers[layer];
        if !attend && pools.sums.is_none() {
            return Ok(None);
        }
        let mut lists: Vec<&mut HeadPages> = held.iter_mut().flat_map(|h| h.reading_mut()).collect();
        pools.regions.sync(engine, &mut lists)?;
        // A head's lists stand together, one for each sequence.
        let (mut first, mut lengths) = (Vec::with_capacity(lists.len()), Vec::with_capacity(lists.len()));
        for head in 0..g.kv_heads {
            for list in lists.iter().skip(head).step_by(g.kv_heads) {
                first.push(list.region.start());
                lengths.push(list.len() as u32);
            }
        }
        let tables = engine.page_lists(
            pools.regions.table(),
            &PageLists { page_size: g.block_size, groups: g.kv_heads, starts: &first, lengths: &lengths },
        )?;
        let attention = &self.attention[layer];
        // Of rows, which are an `i32`'s bits and so of no bound, and of the new tokens.
        let positions = match &pools.positions {
            Some(pool) => {
                let words: Vec<u32> = new.positions.iter().map(|p| p.cast_unsigned()).collect();
                let of_rows = engine.indices(pool, usize::MAX)?;
                Some((of_rows, engine.upload_indices(&[words.len()], &words)?))
            }
            None => None,
        };
        let (of_rows, of_new) = (positions.as_ref().map(|p| &p.0), positions.as_ref().map(|p| &p.1));
        let queries = NewQueries { q: new.q, starts, positions: of_new };
        let kv = PagedKv { k: &pools.k, v: &pools.v, positions: of_rows };
        let (mut out, mut lse) = engine.attend_paged(&queries, &kv, &tables, attention)?;
        if let Some(sums) = &mut pools.sums {
            engine.add_attention(sums, &queries, &kv, &tables, attention, &lse)?;
        }
        if !attend {
            return Ok(None);
        }
        for (number, held) in held.iter().enumerate() {
            let Some(stand_ins) = &held.beside.stand_ins else { continue };
            let tokens = starts[number] as usize..starts[number + 1] as usize;
            engine.attend_stand_ins(new.q, &stand_ins.rows(), tokens, g.scale(), (&mut out, &mut lse))?;
        }
        let mut so_far = (out, lse);
        for (number, held) in
            held.iter().enumerate().filter(|(_, held)| held.heads.iter().any(HeadPages::has_codes))
        {
            let tokens = starts[number]..starts[number + 1];
            let coded = CodedLayer {
                of: (batch.sequences[number], held.coded_at),
                heads: held.heads.iter().map(|head| &head.coded).collect(),
                frames: held.frames.as_deref(),
                scale: g.scale(),
            };
            so_far = self.codes[layer].attend_some(engine, &coded, (new.q, tokens), so_far)?;
        }
        Ok(Some(so_far.0))
    }
}
