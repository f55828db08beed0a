//! Bits for each token by what it is worth: the allocation of a session, and the pages that come of it.

use std::sync::Arc;

use rayon::prelude::*;
use tether_codec::{SphericalBits, SphericalFormat};
use tether_core::{CoreError, Readback, Side, TokenEngine};
use tether_score::tokens::{RateGroup, RateWindow, Refresh, TierError, TierPage, TierPages, allocate};

use super::coded::{CodedHead, CodedPage, Coder, PageFrames, SharedFrames};
use super::evict::{Coding, Codings, LayerCoding};
use super::head_pages::HeadPages;
use super::recorded::by_head;
use super::{SequenceId, SequenceLayer, TokenCache, unknown};
use crate::Error;
use crate::tokens::{BudgetScope, CodecPart, RetentionPart, TokenPlan};

/// Where a token is now.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// Its number in the pages of numbers, which it leaves.
    Numbers(u32),
    /// The page of codes, and the row there.
    Codes(usize, usize),
}

/// Tokens of a head that have codes or are to have them, by position.
#[derive(Debug)]
struct Candidates {
    positions: Vec<i32>,
    sources: Vec<Source>,
    /// The tier that each is in; the last for those that leave the pages of numbers.
    tiers: Vec<u8>,
    /// What each loses in each tier.
    distortion: Vec<f32>,
    /// Tokens of the head that are not in pages of numbers, dropped ones included.
    out: usize,
    /// Where its rows begin among the layer's.
    first: usize,
}

/// The numbers that a layer's candidates stand for, head after head.
#[derive(Debug)]
struct LayerRows<T> {
    keys: T,
    values: T,
}

/// What is known of a layer before bits are chosen.
struct LayerCandidates<T> {
    heads: Vec<Candidates>,
    rows: LayerRows<T>,
    frames: SharedFrames<T>,
}

impl<E: TokenEngine> TokenCache<E> {
    /// One allocation over all layers and heads where anything leaves the pages of numbers, and the codes that follow
    /// from it. `plans` say what stays there.
    pub(super) fn allocated(
        &mut self,
        sequence: SequenceId,
        plans: &[TokenPlan],
        leaving: &[Vec<Vec<u32>>],
        (part, retention): (&CodecPart, &RetentionPart),
    ) -> Result<Codings<E::Tensor>, Error> {
        let widths = part.widths().unwrap_or_default();
        if leaving.iter().flatten().all(Vec::is_empty) {
            let held = self.sequence(sequence)?;
            return Ok((held.layers.iter().map(LayerCoding::unchanged).collect(), 0.0));
        }
        let mut tiers = vec![TierError::Dropped];
        tiers.extend(widths.iter().map(|bits| TierError::Coded(bits.distortion())));
        let mut layers = Vec::with_capacity(plans.len());
        for (plan, leaving) in plans.iter().zip(leaving) {
            layers.push(self.candidates(sequence, plan, leaving, (part, retention, &tiers))?);
        }
        let (chosen, distortion) = self.choose(&layers, widths, (part, retention))?;
        let Self { engine, geometry, layers: pools, codes, sequences, .. } = self;
        let held = sequences.get(&sequence).ok_or(unknown(sequence))?;
        let mut codings = Vec::with_capacity(layers.len());
        let mut chosen = chosen.into_iter();
        for (layer, of_layer) in layers.into_iter().enumerate() {
            let (pools, codes) = (&pools[layer], &mut codes[layer]);
            let mut coder = Coder { engine, geometry, part, pools, codes };
            let tiers: Vec<Vec<u8>> = chosen.by_ref().take(of_layer.heads.len()).collect();
            codings.push(coder.coded_anew(&held.layers[layer], of_layer, &tiers)?);
        }
        Ok((codings, distortion))
    }

    /// The tier of each token, and what is foreseen of them all.
    fn choose(
        &self,
        layers: &[LayerCandidates<E::Tensor>],
        widths: &[SphericalBits],
        (part, retention): (&CodecPart, &RetentionPart),
    ) -> Result<(Vec<Vec<u8>>, f64), Error> {
        let heads: Vec<&Candidates> = layers.iter().flat_map(|layer| &layer.heads).collect();
        let costs = self.costs(widths);
        let groups: Vec<RateGroup<'_>> = heads
            .iter()
            .map(|c| RateGroup {
                costs: &costs,
                distortion: &c.distortion,
                fixed: (0, 0),
                refresh: Some(Refresh {
                    current: &c.tiers,
                    hysteresis: retention.hysteresis,
                    restorable: false,
                }),
            })
            .collect();
        let together = match retention.scope {
            BudgetScope::Head => 1,
            BudgetScope::Layer => self.geometry.kv_heads,
            BudgetScope::All => heads.len(),
        };
        let (mut chosen, mut distortion) = (Vec::with_capacity(heads.len()), 0.0);
        for (groups, heads) in groups.chunks(together).zip(heads.chunks(together)) {
            let budget = heads.iter().map(|c| self.budget(c, part, retention, widths.len())).sum();
            let allocation = allocate(groups, budget)?;
            distortion += allocation.distortion;
            chosen.extend(allocation.tiers);
        }
        Ok((chosen, distortion))
    }

    /// The tokens of a layer's heads that have codes or are to have them, and what each loses in each tier, as the last
    /// queries see it.
    fn candidates(
        &mut self,
        sequence: SequenceId,
        plan: &TokenPlan,
        leaving: &[Vec<u32>],
        (part, retention, tiers): (&CodecPart, &RetentionPart, &[TierError]),
    ) -> Result<LayerCandidates<E::Tensor>, Error> {
        let layer = plan.layer;
        let Self { engine, geometry, layers: pools, codes, sequences, .. } = self;
        let held = &sequences.get(&sequence).ok_or(unknown(sequence))?.layers[layer];
        let coder = Coder { engine, geometry, part, pools: &pools[layer], codes: &mut codes[layer] };
        let frames = coder.frames(&held.heads, &held.frames, leaving)?;
        let mut first = 0;
        let mut heads = Vec::with_capacity(held.heads.len());
        for (number, (head, leaving)) in held.heads.iter().zip(leaving).enumerate() {
            let out = held.seen - plan.keep.head(number).len();
            heads.push(Candidates::new(head, leaving, (tiers.len() - 1, out, first)));
            first += heads[number].positions.len();
        }
        let rows = coder.rows(&held.heads, &heads, &frames)?;
        let (queries, means) = (held.recorded.queries.on_host(engine)?, frames.as_deref());
        let mut read = engine.read(&[&rows.keys, &rows.values])?.wait()?.into_iter();
        let [k, v] = [read.next(), read.next()].map(|x| x.map(|x| x.into_f32_vec()).unwrap_or_default());
        let (mut k_means, mut v_means) = (Vec::new(), Vec::new());
        if let Some((keys, values)) = means.and_then(|f| f.keys.as_ref().zip(f.values.as_ref())) {
            let read = engine.read(&[keys, values])?.wait()?;
            (k_means, v_means) = (read[0].to_f32_vec(), read[1].to_f32_vec());
        }
        let held = &self.sequence(sequence)?.layers[layer];
        let g = &self.geometry;
        let (dk, dv) = (g.head_dim_k, g.head_dim_v);
        let mut seen = Vec::with_capacity(heads.len());
        for (number, (head, candidates)) in held.heads.iter().zip(&heads).enumerate() {
            let stays = plan.keep.head(number);
            let (before, after) = stays.split_at(part.sink.min(stays.len()));
            let around = |side, own: &[f32]| -> Result<Vec<f32>, CoreError> {
                let before = self.tokens_of(layer, side, head, before)?;
                let after = self.tokens_of(layer, side, head, after)?;
                Ok([&before, own, &after].concat())
            };
            let tokens = candidates.first..candidates.first + candidates.positions.len();
            let group = number * g.group()..(number + 1) * g.group();
            seen.push(Seen {
                q: by_head(&queries, retention.window, g.query_heads, group, dk),
                k: around(Side::Keys, &k[tokens.start * dk..tokens.end * dk])?,
                v: around(Side::Values, &v[tokens.start * dv..tokens.end * dv])?,
                k_mean: k_means[number * dk..][..dk].to_vec(),
                v_mean: v_means[number * dv..][..dv].to_vec(),
            });
        }
        let settings = (g.group(), part.sink, retention.hysteresis);
        heads.par_iter_mut().zip(seen).try_for_each(|(of, seen)| of.estimate(&seen, tiers, settings))?;
        Ok(LayerCandidates { heads, rows, frames })
    }

    /// Bytes that a token costs in each tier: its codes, its radii, and its position, of which what a gap of more than 127 takes is not its own.
    fn costs(&self, widths: &[SphericalBits]) -> Vec<u32> {
        let row = |side, bits: SphericalBits, dim: usize| {
            let format = SphericalFormat::of(side, bits);
            (format.row_bits(dim) - 16).div_ceil(32) * 4 + 2
        };
        let (dk, dv) = (self.geometry.head_dim_k, self.geometry.head_dim_v);
        let cost =
            |&bits: &SphericalBits| (row(Side::Keys, bits, dk) + row(Side::Values, bits, dv) + 1) as u32;
        std::iter::once(0).chain(widths.iter().map(cost)).collect()
    }

    /// Bytes that the tokens of a head may cost: what its share of bits comes to, without the most that headers and long gaps between positions can take.
    fn budget(&self, c: &Candidates, part: &CodecPart, retention: &RetentionPart, widths: usize) -> u64 {
        let channels = (self.geometry.head_dim_k + self.geometry.head_dim_v) as f64;
        let bytes = f64::from(retention.bits) * channels * c.out as f64 / 8.0;
        let headers = (c.positions.len() / part.page + widths) * size_of::<TierPage>();
        let span = c.positions.first().zip(c.positions.last()).map_or(0, |(a, b)| b.abs_diff(*a) as usize);
        (bytes as u64).saturating_sub((headers + widths * (span / 128)) as u64)
    }
}

/// A head as its last queries see it.
#[derive(Debug)]
struct Seen {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    k_mean: Vec<f32>,
    v_mean: Vec<f32>,
}

impl Candidates {
    /// What each token loses in each tier, as the last queries see it.
    fn estimate(
        &mut self,
        seen: &Seen,
        tiers: &[TierError],
        (group, sink, hysteresis): (usize, usize, f32),
    ) -> Result<(), Error> {
        let Seen { q, k, v, k_mean, v_mean } = seen;
        let scale = 1.0 / (k_mean.len() as f32).sqrt();
        let window = RateWindow { q, group, k, v, k_mean, v_mean, scale };
        let of_all = window.distortion(tiers)?;
        self.distortion = of_all[sink * tiers.len()..][..self.positions.len() * tiers.len()].to_vec();
        // What has no codes yet is not forgiven for anything.
        let rows = self.distortion.chunks_exact_mut(tiers.len());
        for (row, _) in rows.zip(&self.sources).filter(|(_, source)| matches!(source, Source::Numbers(_))) {
            row[tiers.len() - 1] /= 1.0 - hysteresis;
        }
        Ok(())
    }

    /// From what a head has and what leaves its pages of numbers, whose tier is `top`.
    fn new(head: &HeadPages, leaving: &[u32], (top, out, first): (usize, usize, usize)) -> Self {
        let mut tokens: Vec<(i32, Source, u8)> = Vec::new();
        for (number, page) in head.coded.pages.iter().enumerate() {
            let rows = page.positions().enumerate();
            tokens.extend(rows.map(|(row, at)| (at, Source::Codes(number, row), page.tier())));
        }
        let of_numbers = |&t: &u32| (head.positions.at(t as usize), Source::Numbers(t), top as u8);
        tokens.extend(leaving.iter().map(of_numbers));
        // By position, which no two tokens of a head share.
        tokens.sort_by_key(|token| token.0);
        Self {
            positions: tokens.iter().map(|t| t.0).collect(),
            sources: tokens.iter().map(|t| t.1).collect(),
            tiers: tokens.iter().map(|t| t.2).collect(),
            distortion: Vec::new(),
            out,
            first,
        }
    }
}

impl<E: TokenEngine> Coder<'_, E> {
    /// The numbers that candidates stand for.
    fn rows(
        &self,
        heads: &[HeadPages],
        candidates: &[Candidates],
        frames: &SharedFrames<E::Tensor>,
    ) -> Result<LayerRows<E::Tensor>, CoreError> {
        let (engine, size) = (self.engine, self.part.page);
        let mut rows = Vec::new();
        for (head, of_head) in heads.iter().zip(candidates) {
            // Any row will do for those that are codes, whose numbers are written over it.
            let any = if head.len() > 0 { head.row(0, self.geometry.block_size) } else { 0 };
            rows.extend(of_head.sources.iter().map(|source| match *source {
                Source::Numbers(token) => head.row(token as usize, self.geometry.block_size),
                Source::Codes(..) => any,
            }));
        }
        let rows = engine.upload_indices(&[rows.len()], &rows)?;
        let mut made = LayerRows {
            keys: engine.read_rows(&self.pools.k, &rows)?,
            values: engine.read_rows(&self.pools.v, &rows)?,
        };
        for (number, pool) in self.codes.pools.iter().enumerate() {
            let of_head = |(h, head): (usize, &HeadPages)| -> Vec<(usize, usize, Arc<CodedPage>)> {
                let pages = head.coded.pages.iter().enumerate().filter(|(_, page)| page.pool() == number);
                pages.map(|(p, page)| (h, p, Arc::clone(page))).collect()
            };
            let pages: Vec<_> = heads.iter().enumerate().flat_map(of_head).collect();
            if pages.is_empty() {
                continue;
            }
            let (mut from, mut to) = (Vec::new(), Vec::new());
            for (place, (head, page, _)) in pages.iter().enumerate() {
                for (i, source) in candidates[*head].sources.iter().enumerate() {
                    if let Source::Codes(of, row) = source
                        && of == page
                    {
                        from.push((row * pages.len() + place) as u32);
                        to.push((candidates[*head].first + i) as u32);
                    }
                }
            }
            let of_pages: Vec<usize> = pages.iter().map(|(head, ..)| *head).collect();
            let of_pages = PageFrames::new(engine, &of_pages, frames.as_deref())?;
            let numbers: Vec<u32> = pages.iter().map(|(_, _, page)| page.held.number()).collect();
            let dtype = self.geometry.dtype;
            let [k, v] = engine.restore_codes(&pool.codes, &numbers, &of_pages.borrowed(), dtype)?;
            debug_assert_eq!(engine.describe(&k).0[0], size);
            let from = engine.upload_indices(&[from.len()], &from)?;
            let to = engine.upload_indices(&[to.len()], &to)?;
            engine.write_rows(&mut made.keys, &to, &engine.read_rows(&k, &from)?)?;
            engine.write_rows(&mut made.values, &to, &engine.read_rows(&v, &from)?)?;
        }
        Ok(made)
    }

    /// Pages of the tiers that were chosen. Tokens that stay in their tier keep their codes, bit by bit.
    fn coded_anew(
        &mut self,
        held: &SequenceLayer<E::Tensor>,
        of_layer: LayerCandidates<E::Tensor>,
        tiers: &[Vec<u8>],
    ) -> Result<LayerCoding<E::Tensor>, CoreError> {
        let (engine, size) = (self.engine, self.part.page);
        let LayerCandidates { heads, rows, frames } = of_layer;
        let layouts: Vec<TierPages> = held
            .heads
            .iter()
            .zip(tiers)
            .map(|(head, tiers)| {
                let before = head.coded.pages.first().map_or(0, |p| p.generation().wrapping_add(1));
                TierPages::new(tiers, Some(0), size, before)
            })
            .collect();
        let mut made = vec![CodedHead::default(); heads.len()];
        for number in 0..self.codes.pools.len() {
            let of_head = |(head, layout): (usize, &TierPages)| -> Vec<(usize, TierPage)> {
                let of_tier = layout.pages.iter().filter(|page| usize::from(page.tier) == number + 1);
                of_tier.map(|page| (head, *page)).collect()
            };
            let pages: Vec<(usize, TierPage)> = layouts.iter().enumerate().flat_map(of_head).collect();
            if pages.is_empty() {
                continue;
            }
            let tokens = |&(head, page): &(usize, TierPage)| {
                &layouts[head].tokens[page.first as usize..][..usize::from(page.last) + 1]
            };
            // What lies past the last token of a page is never read.
            let row = |t: usize, page: &(usize, TierPage)| {
                let tokens = tokens(page);
                heads[page.0].first as u32 + tokens[t.min(tokens.len() - 1)]
            };
            let from: Vec<u32> = (0..size).flat_map(|t| pages.iter().map(move |p| row(t, p))).collect();
            let from = engine.upload_indices(&[size, pages.len()], &from)?;
            let k = engine.read_rows(&rows.keys, &from)?;
            let v = engine.read_rows(&rows.values, &from)?;
            let of_pages: Vec<usize> = pages.iter().map(|(head, _)| *head).collect();
            let fresh = self.write(number, &of_pages, [&k, &v], frames.as_deref())?;
            let (mut from, mut to) = (Vec::new(), Vec::new());
            for (page, fresh) in pages.iter().zip(&fresh) {
                let (head, candidates) = (&held.heads[page.0], &heads[page.0]);
                for (row, &token) in tokens(page).iter().enumerate() {
                    let token = token as usize;
                    if let Source::Codes(old, old_row) = candidates.sources[token]
                        && candidates.tiers[token] == page.1.tier
                    {
                        let old = head.coded.pages[old].held.number() as usize;
                        from.push((old * size + old_row) as u32);
                        to.push((fresh.number() as usize * size + row) as u32);
                    }
                }
            }
            if !from.is_empty() {
                engine.copy_code_rows(&mut self.codes.pools[number].codes, &from, &to)?;
            }
            for (page, fresh) in pages.iter().zip(fresh) {
                let positions: Vec<i32> =
                    tokens(page).iter().map(|&t| heads[page.0].positions[t as usize]).collect();
                let bytes = self.codes.bytes_of(number, positions.len());
                made[page.0].pages.push(Arc::new(CodedPage::new(page.1, fresh, &positions, bytes)));
            }
        }
        let codings = heads.iter().zip(tiers).zip(made).map(|((candidates, tiers), coded)| {
            let kept = candidates.sources.iter().zip(tiers).filter(|(_, tier)| **tier > 0);
            let new = kept.filter(|(source, _)| matches!(source, Source::Numbers(_))).count();
            Coding { coded, new, gone: tiers.iter().filter(|tier| **tier == 0).count() }
        });
        Ok(LayerCoding { heads: codings.collect(), frames })
    }
}
