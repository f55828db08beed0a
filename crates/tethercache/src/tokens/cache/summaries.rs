//! What is told of pages of keys when they are full, so that choosing between pages reads no old key again.
//!
//! Summaries lie beside the pages, so sequences that share a page share them, and what moves a page moves them. Where
//! what is chosen together is no whole number of pages, a page has several parts. One that is not full has no
//! summary: what has come last is read whatever it holds.

use std::ops::Range;

use tether_core::{
    CoreError, DType, HostTensor, ObservedLayer, RowLists, ScoreLeaf, Side, TokenEngine, TokenLayout,
};
use tether_rope::{Angles, RopeError, TokenRope, turned};
use tether_score::tokens::{BlockGrid, Needs, page_bounds};

use super::head_pages::HeadPages;
use super::{SequenceLayer, TokenCache, TokenGeometry};
use crate::Error;

/// Which summaries a recipe reads: tokens of the parts of a page that are summed up, 0 for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Bounds of keys.
    pub bounds: usize,
    /// Mean keys before the rotation.
    pub means: usize,
}

fn common(a: usize, b: usize) -> usize {
    if b == 0 { a } else { common(b, a % b) }
}

impl Wanted {
    /// What a recipe needs that retains what it does not read. Where tokens leave, pages do not stay what they are.
    pub(super) fn of(needs: Needs, retain: bool, block_size: usize) -> Self {
        if !retain {
            return Self::default();
        }
        let grid = |grid: BlockGrid| common(common(block_size, grid.size), grid.first);
        Self {
            bounds: if needs.page_bounds > 0 { common(block_size, needs.page_bounds) } else { 0 },
            means: needs.block_means.map_or(0, grid),
        }
    }

    /// Bytes of what is told of a page.
    pub(super) fn page_bytes(self, geometry: &TokenGeometry) -> usize {
        let parts = |part: usize| geometry.block_size.checked_div(part).unwrap_or(0);
        let bounds = 2 * parts(self.bounds) * geometry.dtype.bytes();
        geometry.head_dim_k * (bounds + parts(self.means) * size_of::<f32>())
    }
}

/// Summaries of the pages of a layer's pools.
#[derive(Debug)]
pub(super) struct PageSummaries<T> {
    /// Lowest and highest number of each channel, `[pages, parts, 2, head_dim_k]` in the cache's dtype.
    pub bounds: Option<T>,
    /// Mean keys before the rotation, `f32` `[pages, parts, head_dim_k]`.
    pub means: Option<T>,
}

impl<T> PageSummaries<T> {
    pub(super) fn new<E: TokenEngine<Tensor = T>>(
        engine: &E,
        geometry: &TokenGeometry,
        (pages, wanted): (usize, Wanted),
    ) -> Result<Self, CoreError> {
        let dim = geometry.head_dim_k;
        let make = |part: usize, row: &[usize], dtype| {
            let parts = geometry.block_size.checked_div(part)?;
            let shape = [&[pages, parts], row].concat();
            Some(HostTensor::zeros(&shape, dtype).and_then(|zeros| engine.upload(&zeros)))
        };
        Ok(Self {
            bounds: make(wanted.bounds, &[2, dim], geometry.dtype).transpose()?,
            means: make(wanted.means, &[dim], DType::F32).transpose()?,
        })
    }

    /// Of pools whose page `i` is page `from[i]` of these.
    pub(super) fn copied<E: TokenEngine<Tensor = T>>(
        &self,
        engine: &E,
        from: &E::Indices,
    ) -> Result<Self, CoreError> {
        let of = |x: &Option<T>| x.as_ref().map(|x| engine.gather_pages(x, from)).transpose();
        Ok(Self { bounds: of(&self.bounds)?, means: of(&self.means)? })
    }
}

/// Tokens of a list from the page on that its newest `new` tokens came to, as far as they fill parts of `part` tokens.
fn filled(list: &HeadPages, new: usize, block_size: usize, part: usize) -> Range<usize> {
    let first = (list.len() - new) / block_size * block_size;
    first..(list.len() / part * part).max(first)
}

/// The parts of `part` tokens that tokens `tokens` of a list fill, counted through the pool.
fn parts(
    list: &HeadPages,
    tokens: Range<usize>,
    block_size: usize,
    part: usize,
) -> impl Iterator<Item = u32> {
    tokens.step_by(part).map(move |token| list.row(token, block_size) / part as u32)
}

impl<E: TokenEngine> TokenCache<E> {
    /// Sums up what the newest tokens of a layer have filled, so many of each sequence.
    pub(super) fn summarise(
        &mut self,
        held: &[SequenceLayer<E::Tensor>],
        layer: usize,
        new: impl Fn(usize) -> usize,
    ) -> Result<(), Error> {
        let (wanted, size) = (self.wanted(), self.geometry.block_size);
        let lists = || held.iter().enumerate().flat_map(|(n, held)| held.heads.iter().map(move |h| (n, h)));
        if wanted.bounds > 0 {
            let part = wanted.bounds;
            let of_list = |(n, list)| parts(list, filled(list, new(n), size, part), size, part);
            let which: Vec<u32> = lists().flat_map(of_list).collect();
            let pools = &mut self.layers[layer];
            if let (Some(bounds), false) = (&mut pools.summaries.bounds, which.is_empty()) {
                let which = self.engine.upload_indices(&[which.len()], &which)?;
                self.engine.write_page_bounds(bounds, &pools.k, &which)?;
            }
        }
        if wanted.means == 0 {
            return Ok(());
        }
        let part = wanted.means;
        let (mut which, mut rows, mut back) = (Vec::new(), Vec::new(), Vec::new());
        for (number, list) in lists() {
            let tokens = filled(list, new(number), size, part);
            which.extend(parts(list, tokens.clone(), size, part));
            rows.extend(tokens.clone().map(|token| list.row(token, size)));
            back.extend(tokens.map(|token| -list.positions.at(token)));
        }
        if which.is_empty() {
            return Ok(());
        }
        // Keys as they were before they were rotated.
        let raw = self.engine.upload_rotation(&self.rope()?.to_raw(&[&back]))?;
        let (engine, pools) = (&self.engine, &mut self.layers[layer]);
        let keys = engine.read_rows(&pools.k, &engine.upload_indices(&[rows.len(), 1], &rows)?)?;
        let keys = engine.rotated(&keys, TokenLayout::Nhd, &raw)?;
        let means = mean_of(engine, &keys, &(0..rows.len() as u32).collect::<Vec<_>>(), part)?;
        if let Some(into) = &mut pools.summaries.means {
            engine.write_rows(into, &engine.upload_indices(&[which.len()], &which)?, &means)?;
        }
        Ok(())
    }

    /// Bounds of the pages of `page` tokens that a list's first `tokens` tokens make, `[pages, 2, head_dim_k]`;
    /// `None` where they are not kept.
    pub(super) fn bounds_of(
        &self,
        (layer, list): (usize, &HeadPages),
        tokens: usize,
        page: usize,
    ) -> Result<Option<Vec<f32>>, CoreError> {
        let (size, dim, part) = (self.geometry.block_size, self.geometry.head_dim_k, self.wanted().bounds);
        let bounds = self.layers[layer].summaries.bounds.as_ref();
        let Some(bounds) = bounds.filter(|_| page.is_multiple_of(part) && list.is_in_order()) else {
            return Ok(None);
        };
        let whole = tokens / page;
        let rows: Vec<u32> =
            parts(list, 0..whole * page, size, part).flat_map(|part| [2 * part, 2 * part + 1]).collect();
        let rows = self.engine.upload_indices(&[rows.len()], &rows)?;
        let read = self.host_rows(&self.engine.read_rows(bounds, &rows)?)?;
        let mut all = Vec::with_capacity(2 * (whole + 1) * dim);
        for run in read.chunks_exact(page / part * 2 * dim) {
            let (first, others) = run.split_at(2 * dim);
            let mut both = first.to_vec();
            for other in others.chunks_exact(2 * dim) {
                let (low, high) = both.split_at_mut(dim);
                low.iter_mut().zip(other).for_each(|(low, &x)| *low = low.min(x));
                high.iter_mut().zip(&other[dim..]).for_each(|(high, &x)| *high = high.max(x));
            }
            all.extend(both);
        }
        // The last page is not full yet.
        let open: Vec<u32> = ((whole * page) as u32..tokens as u32).collect();
        all.extend(page_bounds(&self.tokens_of(layer, Side::Keys, list, &open)?, dim, page));
        Ok(Some(all))
    }

    /// Parts of pages that the first `blocks` blocks of a list are made of; `None` where they have no means.
    pub(super) fn parts_of_blocks(
        &self,
        (layer, list): (usize, &HeadPages),
        grid: BlockGrid,
        blocks: usize,
    ) -> Option<Vec<u32>> {
        let kept = self.layers[layer].summaries.means.is_some()
            && self.planner.needs().block_means == Some(grid)
            && list.is_in_order();
        let (end, part) = (grid.first + blocks * grid.size, self.wanted().means);
        let tokens = grid.first..if blocks == 0 { grid.first } else { end };
        let fits = kept && tokens.end <= list.len().max(tokens.start);
        fits.then(|| parts(list, tokens, self.geometry.block_size, part).collect())
    }

    /// Means of the first `blocks` blocks of a list, `[blocks, head_dim_k]`; `None` where they are not kept.
    pub(super) fn means_of(
        &self,
        of: (usize, &HeadPages),
        grid: BlockGrid,
        blocks: usize,
    ) -> Result<Option<Vec<f64>>, CoreError> {
        let Some(parts) = self.parts_of_blocks(of, grid, blocks) else { return Ok(None) };
        let Some(means) = &self.layers[of.0].summaries.means else { return Ok(None) };
        let rows = self.engine.upload_indices(&[parts.len()], &parts)?;
        let read = self.host_rows(&self.engine.read_rows(means, &rows)?)?;
        let (dim, run) = (self.geometry.head_dim_k, grid.size / self.wanted().means);
        let of_block = |rows: &[f32]| -> Vec<f64> {
            let sum = |c: usize| rows.iter().skip(c).step_by(dim).map(|&x| f64::from(x)).sum::<f64>();
            (0..dim).map(|c| sum(c) / run as f64).collect()
        };
        Ok(Some(read.chunks_exact((run * dim).max(1)).flat_map(of_block).collect()))
    }

    /// Products of the mean keys of blocks and the mean of the last `queries` queries, both before the rotation, of
    /// heads that hold equally many tokens: `[heads, blocks]`.
    pub(super) fn block_logits(
        &self,
        (layer, held): (usize, &SequenceLayer<E::Tensor>),
        heads: Range<usize>,
        grid: BlockGrid,
        queries: usize,
    ) -> Result<E::Tensor, CoreError> {
        let (engine, g) = (&self.engine, &self.geometry);
        let missing = |what| CoreError::Count { what, expected: 1, got: 0 };
        let means = self.layers[layer].summaries.means.as_ref().ok_or(missing("means of pages"))?;
        let leaf = ScoreLeaf::BlockMeanLogit { first: grid.first, size: grid.size, queries };
        let blocks = leaf.columns(held.heads[heads.start].len());
        let mut parts = Vec::new();
        for list in &held.heads[heads.clone()] {
            let of_list = self.parts_of_blocks((layer, list), grid, blocks);
            parts.extend(of_list.ok_or(missing("means of a list's pages"))?);
        }
        let count = heads.len();
        let of_blocks = mean_of(engine, means, &parts, grid.size / self.wanted().means)?;
        let asked = heads.start * g.group()..heads.end * g.group();
        let asked = held.recorded.raw_queries.on_device(engine, queries, asked)?;
        let asked = asked.ok_or(missing("queries before the rotation"))?;
        let of_head = g.group() * engine.describe(&asked).0[1];
        let all: Vec<u32> = (0..(count * of_head) as u32).collect();
        let question = mean_of(engine, &asked, &all, of_head)?;
        let one_each = engine.upload_indices(&[count, 1], &(0..count as u32).collect::<Vec<_>>())?;
        let question = engine.read_rows(&question, &one_each)?;
        let rows: Vec<u32> = (0..(count * blocks) as u32).collect();
        let rows = engine.upload_indices(&[count, blocks], &rows)?;
        // As scorers take queries: they multiply by `1 / sqrt(head_dim)` where they do.
        let scale = g.group() as f32 * g.scale() * (g.head_dim_k as f32).sqrt();
        let queries = Some(&question);
        let layer = ObservedLayer { queries, ..ObservedLayer::new((&of_blocks, &of_blocks), &rows, scale) };
        engine.observe(&ScoreLeaf::MeanLogit { queries: 1 }, &layer)
    }

    /// Which summaries are kept.
    pub(super) fn wanted(&self) -> Wanted {
        Wanted::of(self.planner.needs(), self.planner.recipe().retain, self.geometry.block_size)
    }
}

/// Means of each `of` of the rows of a pool, `f32` `[means, row]`.
fn mean_of<E: TokenEngine>(
    engine: &E,
    pool: &E::Tensor,
    rows: &[u32],
    of: usize,
) -> Result<E::Tensor, CoreError> {
    let starts: Vec<u32> = (0..=rows.len() / of).map(|list| (list * of) as u32).collect();
    let weights = vec![1.0; rows.len()];
    engine.weighted_rows(pool, &RowLists { starts: &starts, rows, weights: &weights }, DType::F32)
}

/// Keys `[tokens, dim]` as they were before they were rotated to `positions`.
pub(super) fn unrotated(
    rope: &TokenRope,
    keys: Vec<f32>,
    positions: &[i32],
    dim: usize,
) -> Result<Vec<f32>, RopeError> {
    let back: Vec<i32> = positions.iter().map(|&p| -p).collect();
    turned(keys, dim, &rope.to_raw(&[&back]), Angles::Exact)
}

#[cfg(test)]
mod tests {
    use tether_core::{Pairing, TensorData};
    use tether_host::Host;
    use tether_score::tokens::block_means;

    use super::super::{ModelInfo, NewTokens, SequenceId};
    use super::*;
    use crate::tokens::{TokenAttention, TokenRecipe};

    const DIM: usize = 4;
    const HEADS: usize = 2;

    fn cache(name: &str, overrides: &[&str]) -> TokenCache<Host> {
        let geometry = TokenGeometry {
            layers: 1,
            query_heads: HEADS,
            kv_heads: HEADS,
            head_dim_k: DIM,
            head_dim_v: DIM,
            block_size: 4,
            dtype: DType::F32,
            attention: TokenAttention::default(),
        };
        let recipe = TokenRecipe::named(name).and_then(|r| r.with_overrides(overrides)).expect("a recipe");
        let rope = TokenRope::new(Pairing::Half, 10_000.0, DIM).expect("a rotation");
        let facts = ModelInfo { rope: Some(rope), ..ModelInfo::default() };
        TokenCache::new(Host::new(), geometry, recipe, facts).expect("they fit")
    }

    /// Adds tokens whose numbers depend on `seed`.
    fn extend(cache: &mut TokenCache<Host>, sequence: SequenceId, tokens: usize, seed: usize) {
        let seen = cache.seen(sequence, 0).expect("it is there");
        let numbers = (0..tokens * HEADS * DIM).map(|i| ((i * 7 + seed * 13) % 23) as f32 - 11.0).collect();
        let x = HostTensor::new(&[tokens, HEADS, DIM], TensorData::F32(numbers)).expect("so many");
        let positions: Vec<i32> = (seen..seen + tokens).map(|p| p as i32).collect();
        let new = NewTokens::new(&x, &x, &x, &positions).raw_queries(&x);
        cache.extend(sequence, 0, &new).expect("it fits");
    }

    /// Summaries of a sequence are those that its keys make, whatever came and went.
    fn check(cache: &TokenCache<Host>, sequence: SequenceId, what: &str) {
        let held = &cache.sequence(sequence).expect("it is there").layers[0];
        for (number, list) in held.heads.iter().enumerate() {
            let contents = cache.contents(sequence, 0, number).expect("the host reads");
            let part = cache.wanted().bounds;
            for page in [part, 4 * part, 12] {
                if part == 0 {
                    continue;
                }
                for tokens in [list.len(), list.len().saturating_sub(3)] {
                    let keys = &contents.keys[..tokens * DIM];
                    let got = cache.bounds_of((0, list), tokens, page).expect("the host reads");
                    assert_eq!(
                        got,
                        Some(page_bounds(keys, DIM, page)),
                        "{what}, head {number}, pages of {page}"
                    );
                }
            }
            let Some(grid) = cache.planner.needs().block_means else { continue };
            let blocks = list.len().saturating_sub(grid.first) / grid.size;
            let rope = cache.rope().expect("there is one");
            let raw = unrotated(rope, contents.keys, &contents.positions, DIM).expect("it fits");
            let expected = block_means(&raw[(grid.first * DIM).min(raw.len())..], DIM, grid.size, blocks);
            let got =
                cache.means_of((0, list), grid, blocks).expect("the host reads").expect("they are kept");
            assert_eq!(got.len(), expected.len());
            for (got, expected) in got.iter().zip(&expected) {
                assert!((got - expected).abs() < 1e-5, "{what}, head {number}: {got} for {expected}");
            }
        }
    }

    #[test]
    fn are_those_of_the_whole_text_and_go_back() {
        for (name, overrides) in [
            ("quest", &["score.page=8", "select.size=8", "budget.dense=0"][..]),
            // Parts of pages.
            ("quest", &["score.page=6", "select.size=6", "budget.dense=0"]),
            ("rekv", &["score.block=6", "score.init=3", "score.question=2", "select.size=6", "select.top=2"]),
            ("rekv", &["score.block=8", "score.init=4", "score.question=2", "select.size=8", "select.top=2"]),
        ] {
            let mut cache = cache(name, overrides);
            let sequence = cache.start();
            let mut copies = Vec::new();
            for (step, tokens) in [1, 2, 6, 1, 1, 9, 4, 3, 1, 5].into_iter().enumerate() {
                // Drafts that fill pages, and are taken back.
                extend(&mut cache, sequence, 7, 100 + step);
                check(&cache, sequence, name);
                cache.truncate(sequence, 7).expect("they are the newest");
                extend(&mut cache, sequence, tokens, step);
                check(&cache, sequence, name);
                if step % 3 == 2 {
                    copies.push(cache.fork(sequence).expect("it is there"));
                }
            }
            for (n, &copy) in copies.iter().enumerate() {
                extend(&mut cache, copy, 5 + n, 200 + n);
            }
            copies.push(sequence);
            copies.iter().for_each(|&copy| check(&cache, copy, name));
            // Pages that are numbered anew take their summaries along.
            for gone in copies.drain(1..) {
                cache.remove(gone).expect("it is there");
            }
            check(&cache, copies[0], name);
        }
    }
}
