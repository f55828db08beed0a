//! The memory of one layer's codes: pages in one format each, and page tables of the sequences that attend to them.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tether_core::{CodeFrames, CodeSpec, CoreError, PageLists, TokenEngine, checks};

use super::SequenceId;
use super::coded::{CodedHead, CodedPage, LayerFrames};

/// Numbers of pages that nobody holds.
type FreePages = Arc<Mutex<Vec<u32>>>;

fn locked(free: &FreePages) -> std::sync::MutexGuard<'_, Vec<u32>> {
    free.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A page of a pool, in use for as long as somebody holds this.
#[derive(Debug)]
pub(super) struct HeldPage {
    number: AtomicU32,
    free: FreePages,
}

impl HeldPage {
    pub(super) fn number(&self) -> u32 {
        self.number.load(Ordering::Relaxed)
    }
}

impl Drop for HeldPage {
    fn drop(&mut self) {
        locked(&self.free).push(self.number());
    }
}

/// Pages of codes of one format.
#[derive(Debug)]
pub(super) struct CodePool<E: TokenEngine> {
    pub codes: E::CodePages,
    pub spec: CodeSpec,
    free: FreePages,
}

/// A sixteenth more pages than are needed: growing costs a copy, and what is not needed is still held.
fn with_room(pages: usize) -> usize {
    pages + pages / 16
}

impl<E: TokenEngine> CodePool<E> {
    fn new(engine: &E, spec: &CodeSpec) -> Result<Self, CoreError> {
        let spec = CodeSpec { pages: 0, ..*spec };
        Ok(Self { codes: engine.create_codes(&spec)?, spec, free: FreePages::default() })
    }

    /// Pages, in use or not.
    pub(super) fn capacity(&self) -> usize {
        self.spec.pages
    }

    fn in_use(&self) -> usize {
        self.spec.pages - locked(&self.free).len()
    }

    /// Pages that nobody has written to.
    pub(super) fn take(&mut self, engine: &E, count: usize) -> Result<Vec<HeldPage>, CoreError> {
        if locked(&self.free).len() < count {
            self.grow(engine, with_room(self.in_use() + count))?;
        }
        let mut free = locked(&self.free);
        let rest = free.len() - count;
        let taken = free.split_off(rest).into_iter().rev();
        let hold = |number| HeldPage { number: AtomicU32::new(number), free: Arc::clone(&self.free) };
        Ok(taken.map(hold).collect())
    }

    fn grow(&mut self, engine: &E, pages: usize) -> Result<(), CoreError> {
        let (now, spec) = (self.spec.pages, CodeSpec { pages, ..self.spec });
        self.codes = if now == 0 {
            engine.create_codes(&spec)?
        } else {
            // Pages that are not in use hold whatever page 0 does, until they are.
            let from: Vec<u32> = (0..pages).map(|page| if page < now { page as u32 } else { 0 }).collect();
            engine.gather_codes(&self.codes, &from)?
        };
        self.spec = spec;
        let mut free = locked(&self.free);
        let before = std::mem::take(&mut *free);
        *free = (now as u32..pages as u32).rev().chain(before).collect();
        Ok(())
    }

    /// Gives back pages beyond the first `pages`, of which none is in use.
    pub(super) fn cut(&mut self, engine: &E, pages: usize) -> Result<(), CoreError> {
        if pages >= self.spec.pages {
            return Ok(());
        }
        let kept: Vec<u32> = (0..pages as u32).collect();
        self.codes = engine.gather_codes(&self.codes, &kept)?;
        self.spec.pages = pages;
        locked(&self.free).retain(|&page| (page as usize) < pages);
        Ok(())
    }

    /// Gives back what is neither in use nor room for what comes next, when that is more than a third. True when pages
    /// are numbered anew: `held` are all that are in use, each any number of times.
    fn shrink(&mut self, engine: &E, held: &[&HeldPage]) -> Result<bool, CoreError> {
        let pages = with_room(self.in_use());
        if self.spec.pages.saturating_sub(pages) <= self.spec.pages / 3 {
            return Ok(false);
        }
        let mut seen = HashSet::new();
        let held: Vec<&HeldPage> =
            held.iter().copied().filter(|&page| seen.insert(std::ptr::from_ref(page).addr())).collect();
        let mut from: Vec<u32> = held.iter().map(|page| page.number()).collect();
        let used = from.len();
        checks::count("pages of codes in use", self.in_use(), used)?;
        from.resize(pages, 0);
        self.codes = engine.gather_codes(&self.codes, &from)?;
        self.spec.pages = pages;
        for (number, page) in held.iter().enumerate() {
            page.number.store(number as u32, Ordering::Relaxed);
        }
        *locked(&self.free) = (used as u32..pages as u32).rev().collect();
        Ok(true)
    }
}

/// Lists of pages of a sequence's heads, on the device.
#[derive(Debug)]
struct CodeTable<E: TokenEngine> {
    table: E::PageTable,
    entries: usize,
    starts: Vec<u32>,
    lengths: Vec<u32>,
    /// The lists for as many query tokens as there were last.
    lists: Option<(usize, E::Tables)>,
}

/// The codes that a sequence has of a layer.
#[derive(Debug)]
pub(super) struct CodedLayer<'a, T> {
    /// The sequence, and since when its codes are what they are.
    pub of: (SequenceId, u64),
    pub heads: Vec<&'a CodedHead>,
    pub frames: Option<&'a LayerFrames<T>>,
    /// Multiplies logits.
    pub scale: f32,
}

/// Since when a sequence's codes are what they are, and a table for each pool.
type StampedTables<E> = (u64, Vec<Option<CodeTable<E>>>);

/// The codes of one layer.
#[derive(Debug)]
pub(super) struct LayerCodes<E: TokenEngine> {
    /// One for each format: ascending in bits, where tokens have different ones.
    pub pools: Vec<CodePool<E>>,
    page_size: usize,
    tables: BTreeMap<SequenceId, StampedTables<E>>,
}

impl<E: TokenEngine> LayerCodes<E> {
    /// Nothing, in these formats.
    pub(super) fn new(engine: &E, specs: &[CodeSpec]) -> Result<Self, CoreError> {
        let pools = specs.iter().map(|spec| CodePool::new(engine, spec)).collect::<Result<Vec<_>, _>>()?;
        let page_size = specs.first().map_or(1, |spec| spec.page_size);
        Ok(Self { pools, page_size, tables: BTreeMap::new() })
    }

    /// Pages of each pool.
    pub(super) fn capacities(&self) -> Vec<usize> {
        self.pools.iter().map(CodePool::capacity).collect()
    }

    /// Gives back pages that were taken for what did not come about. A device that cannot do that now loses memory and
    /// nothing else.
    pub(super) fn cut(&mut self, engine: &E, capacities: &[usize]) {
        for (pool, &pages) in self.pools.iter_mut().zip(capacities) {
            pool.cut(engine, pages).unwrap_or_default();
        }
    }

    /// Gives back memory where much of it is free; `heads` are all that have codes of this layer.
    pub(super) fn shrink<'a>(&mut self, engine: &E, heads: impl Iterator<Item = &'a CodedHead> + Clone) {
        let mut renumbered = false;
        for (number, pool) in self.pools.iter_mut().enumerate() {
            let of_pool = |page: &&Arc<CodedPage>| page.pool() == number;
            let held: Vec<&HeldPage> =
                heads.clone().flat_map(|h| &h.pages).filter(of_pool).map(|p| &p.held).collect();
            // Who cannot give back now is asked again later.
            renumbered |= pool.shrink(engine, &held).unwrap_or(false);
        }
        if renumbered {
            self.tables.clear();
        }
    }

    /// Forgets a sequence.
    pub(super) fn forget(&mut self, sequence: SequenceId) {
        self.tables.remove(&sequence);
    }

    /// Bytes of pages that are not in use, and of what pages in use hold beside `counted`, the bytes of their tokens.
    pub(super) fn room(&self, counted: u64) -> u64 {
        let held: usize = self.pools.iter().map(|pool| pool.capacity() * page_bytes(&pool.spec)).sum();
        (held as u64).saturating_sub(counted)
    }

    /// Bytes of the codes of a page of `tokens` tokens.
    pub(super) fn bytes_of(&self, pool: usize, tokens: usize) -> usize {
        self.pools.get(pool).map_or(0, |pool| super::coded::code_bytes(&pool.spec, tokens))
    }

    /// [`LayerCodes::attend`] for some tokens of a batch, whose queries and results are among those of all.
    pub(super) fn attend_some(
        &mut self,
        engine: &E,
        coded: &CodedLayer<'_, E::Tensor>,
        (q, tokens): (&E::Tensor, Range<u32>),
        (mut out, mut lse): (E::Tensor, E::Tensor),
    ) -> Result<(E::Tensor, E::Tensor), CoreError> {
        let &[all, heads, _] = engine.describe(q).0 else {
            return Err(CoreError::ShapeMismatch { what: "q", expected: [0, 0, 0].into(), got: [].into() });
        };
        let count = tokens.len();
        if count == all {
            return self.attend(engine, coded, (q, count), (out, lse));
        }
        let of_heads: Vec<u32> = (tokens.start * heads as u32..tokens.end * heads as u32).collect();
        let of_heads = engine.upload_indices(&[count, heads], &of_heads)?;
        let of_tokens: Vec<u32> = tokens.collect();
        let of_tokens = engine.upload_indices(&[count], &of_tokens)?;
        let q = engine.read_rows(q, &of_heads)?;
        let own = (engine.read_rows(&out, &of_heads)?, engine.read_rows(&lse, &of_tokens)?);
        let (own, own_lse) = self.attend(engine, coded, (&q, count), own)?;
        engine.write_rows(&mut out, &of_heads, &own)?;
        engine.write_rows(&mut lse, &of_tokens, &own_lse)?;
        Ok((out, lse))
    }

    /// Attention of `tokens` tokens' queries to codes, merged with what they have attended to so far.
    fn attend(
        &mut self,
        engine: &E,
        coded: &CodedLayer<'_, E::Tensor>,
        (q, tokens): (&E::Tensor, usize),
        so_far: (E::Tensor, E::Tensor),
    ) -> Result<(E::Tensor, E::Tensor), CoreError> {
        let &CodedLayer { of: (sequence, stamp), ref heads, frames, scale } = coded;
        if self.tables.get(&sequence).is_none_or(|(known, _)| *known != stamp) {
            let mut before = self.tables.remove(&sequence).map(|(_, tables)| tables).unwrap_or_default();
            before.resize_with(self.pools.len(), || None);
            let tables = before
                .into_iter()
                .enumerate()
                .map(|(pool, before)| table(engine, heads, pool, before))
                .collect::<Result<Vec<_>, _>>()?;
            self.tables.insert(sequence, (stamp, tables));
        }
        let mut merged = so_far;
        let Some((_, tables)) = self.tables.get_mut(&sequence) else { return Ok(merged) };
        for (pool, table) in self.pools.iter().zip(tables) {
            let Some(table) = table else { continue };
            if table.lists.as_ref().is_none_or(|(count, _)| *count != tokens) {
                let repeat = |of: &[u32]| -> Vec<u32> {
                    of.iter().flat_map(|&x| std::iter::repeat_n(x, tokens)).collect()
                };
                let (starts, lengths) = (repeat(&table.starts), repeat(&table.lengths));
                let lists = PageLists {
                    page_size: self.page_size,
                    groups: heads.len(),
                    starts: &starts,
                    lengths: &lengths,
                };
                table.lists = Some((tokens, engine.page_lists(&table.table, &lists)?));
            }
            let Some((_, lists)) = &table.lists else { continue };
            let frames = CodeFrames {
                keys: frames.and_then(|f| f.keys.as_ref()),
                values: frames.and_then(|f| f.values.as_ref()),
            };
            let (out, lse) = engine.attend_codes(q, &pool.codes, &frames, lists, scale)?;
            merged = engine.merge_attention((&merged.0, &merged.1), (&out, &lse))?;
        }
        Ok(merged)
    }
}

fn page_bytes(spec: &CodeSpec) -> usize {
    super::coded::code_bytes(spec, spec.page_size)
}

/// The lists of the pages of one pool, written over those of before where there is room; `None` where there are no
/// pages.
fn table<E: TokenEngine>(
    engine: &E,
    heads: &[&CodedHead],
    pool: usize,
    before: Option<CodeTable<E>>,
) -> Result<Option<CodeTable<E>>, CoreError> {
    let (mut pages, mut starts, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
    for head in heads {
        starts.push(pages.len() as u32);
        let of_pool = || head.pages.iter().filter(|page| page.pool() == pool);
        pages.extend(of_pool().map(|page| page.held.number()));
        lengths.push(of_pool().map(|page| page.tokens() as u32).sum());
    }
    if pages.is_empty() {
        return Ok(None);
    }
    let (mut table, entries) = match before {
        Some(before) if before.entries >= pages.len() => (before.table, before.entries),
        _ => {
            let entries = pages.len().next_power_of_two();
            (engine.create_page_table(entries)?, entries)
        }
    };
    let at: Vec<u32> = (0..pages.len() as u32).collect();
    engine.write_page_table(&mut table, &at, &pages)?;
    Ok(Some(CodeTable { table, entries, starts, lengths, lists: None }))
}
