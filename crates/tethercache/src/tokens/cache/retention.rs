//! Bits for each token by what it is worth: the allocation of a session, and the pages that come of it.

use std::sync::Arc;

use rayon::prelude::*;
use tether_codec::{CodedRows, HostSpherical, MeanOf, RowCodec, SphericalBits, SphericalFormat};
use tether_core::{CoreError, Side, TokenEngine};
use tether_score::tokens::{RateGroup, RateWindow, Refresh, TierError, TierPage, TierPages, allocate};

use super::coded::{CodedHead, CodedPage, HeadFrame};
use super::evict::{Coding, ToCode};
use super::recorded::by_head;
use super::{Sequence, TokenCache};
use crate::Error;
use crate::tokens::{BudgetScope, CodecPart, RetentionPart, TokenPlan};

/// Where the codes of a token are.
#[derive(Clone, Copy, Debug)]
struct Source {
    page: usize,
    row: usize,
}

/// Tokens of a head that have codes or are to have them, by position.
#[derive(Debug)]
struct Candidates {
    frame: Arc<HeadFrame>,
    positions: Vec<i32>,
    /// Nothing for those that leave the blocks.
    sources: Vec<Option<Source>>,
    /// The tier that each is in; the last for those that leave the blocks.
    tiers: Vec<u8>,
    keys: Vec<f32>,
    values: Vec<f32>,
    /// What each loses in each tier.
    distortion: Vec<f32>,
    /// Tokens of the head that are not in blocks, dropped ones included.
    out: usize,
}

impl<E: TokenEngine> TokenCache<E> {
    /// One allocation over all layers and heads where anything leaves the blocks, and the codes that follow from it. `plans` say what stays in blocks.
    pub(super) fn allocated(
        &self,
        held: &Sequence<E::Tensor>,
        plans: &[TokenPlan],
        leaving: Vec<Vec<ToCode>>,
        (part, retention): (&CodecPart, &RetentionPart),
    ) -> Result<(Vec<Vec<Coding>>, f64), Error> {
        let widths = part.widths().unwrap_or_default();
        if leaving.iter().flatten().all(|l| l.positions.is_empty()) {
            let same = |h: &super::HeadPages| Coding { coded: h.coded.clone(), new: 0, gone: 0 };
            return Ok((held.layers.iter().map(|l| l.heads.iter().map(same).collect()).collect(), 0.0));
        }
        let mut heads = self.candidates(held, plans, &leaving, (part, retention))?;
        let mut tiers = vec![TierError::Dropped];
        tiers.extend(widths.iter().map(|bits| TierError::Coded(bits.distortion())));
        let group = self.geometry.group();
        heads.par_iter_mut().try_for_each(|(seen, candidates)| {
            candidates.estimate(seen, &tiers, (group, part.sink, retention.hysteresis))
        })?;
        let heads: Vec<Candidates> = heads.into_iter().map(|(_, candidates)| candidates).collect();
        let (chosen, distortion) = self.choose(&heads, widths, (part, retention))?;
        let generation =
            |coded: &CodedHead| coded.pages.first().map_or(0, |p| p.generation().wrapping_add(1));
        let before: Vec<&CodedHead> = held.layers.iter().flat_map(|l| &l.heads).map(|h| &h.coded).collect();
        let work = heads.par_iter().zip(&chosen).zip(before).map(|((candidates, tiers), before)| {
            let pages = TierPages::new(tiers, Some(0), part.page, generation(before));
            let coded = candidates.coded(before, tiers, &pages, widths)?;
            let kept = candidates.sources.iter().zip(tiers).filter(|(_, tier)| **tier > 0);
            let new = kept.filter(|(source, _)| source.is_none()).count();
            Ok(Coding { coded, new, gone: tiers.iter().filter(|tier| **tier == 0).count() })
        });
        let codings = work.collect::<Result<Vec<_>, Error>>()?;
        let mut codings = codings.into_iter();
        let of_layers = held.layers.iter().map(|l| codings.by_ref().take(l.heads.len()).collect()).collect();
        Ok((of_layers, distortion))
    }

    /// The tier of each token, and what is foreseen of them all.
    fn choose(
        &self,
        heads: &[Candidates],
        widths: &[SphericalBits],
        (part, retention): (&CodecPart, &RetentionPart),
    ) -> Result<(Vec<Vec<u8>>, f64), Error> {
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

    /// The tokens of all heads that have codes or are to have them, and how their last queries see them.
    fn candidates(
        &self,
        held: &Sequence<E::Tensor>,
        plans: &[TokenPlan],
        leaving: &[Vec<ToCode>],
        (part, retention): (&CodecPart, &RetentionPart),
    ) -> Result<Vec<(Seen, Candidates)>, Error> {
        let widths = part.widths().unwrap_or_default().len();
        let mut heads = Vec::new();
        for (plan, leaving) in plans.iter().zip(leaving) {
            let of_layer = &held.layers[plan.layer];
            for (number, (head, leaving)) in of_layer.heads.iter().zip(leaving).enumerate() {
                let frame = match &head.coded.frame {
                    Some(frame) => Arc::clone(frame),
                    None => {
                        let rows = (leaving.keys.as_slice(), leaving.values.as_slice());
                        Arc::new(HeadFrame::new(part, &self.rotations, rows)?)
                    }
                };
                let out = of_layer.seen - plan.keep.head(number).len();
                let candidates = self.candidates_of((&head.coded, frame, out), leaving, widths)?;
                let around = |side| -> Result<Vec<f32>, CoreError> {
                    let stays = plan.keep.head(number);
                    let (before, after) = stays.split_at(part.sink.min(stays.len()));
                    let before = self.tokens_of(plan.layer, side, head, before)?;
                    let after = self.tokens_of(plan.layer, side, head, after)?;
                    Ok([&before, candidates.rows(side), &after].concat())
                };
                let g = &self.geometry;
                let group = number * g.group()..(number + 1) * g.group();
                let queries = of_layer.recorded.queries.on_host(&self.engine)?;
                let seen = Seen {
                    q: by_head(&queries, retention.window, g.query_heads, group, g.head_dim_k),
                    k: around(Side::Keys)?,
                    v: around(Side::Values)?,
                };
                heads.push((seen, candidates));
            }
        }
        Ok(heads)
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

    /// Tokens of a head that are coded already and those that leave, with the numbers that they stand for.
    fn candidates_of(
        &self,
        (coded, frame, out): (&CodedHead, Arc<HeadFrame>, usize),
        leaving: &ToCode,
        top: usize,
    ) -> Result<Candidates, CoreError> {
        let mut tokens: Vec<(i32, Option<Source>, u8, usize)> = Vec::new();
        for (page, of_page) in coded.pages.iter().enumerate() {
            for (row, position) in of_page.positions().enumerate() {
                tokens.push((position, Some(Source { page, row }), of_page.tier(), tokens.len()));
            }
        }
        for &position in &leaving.positions {
            tokens.push((position, None, top as u8, tokens.len()));
        }
        // By position, which no two tokens of a head share.
        tokens.sort_by_key(|token| token.0);
        let (dk, dv) = (self.geometry.head_dim_k, self.geometry.head_dim_v);
        let ordered = |side, new: &[f32], dim: usize| -> Result<Vec<f32>, CoreError> {
            let rows = [coded.restored(side)?, new.to_vec()].concat();
            Ok(tokens.iter().flat_map(|token| &rows[token.3 * dim..][..dim]).copied().collect())
        };
        Ok(Candidates {
            frame,
            keys: ordered(Side::Keys, &leaving.keys, dk)?,
            values: ordered(Side::Values, &leaving.values, dv)?,
            positions: tokens.iter().map(|t| t.0).collect(),
            sources: tokens.iter().map(|t| t.1).collect(),
            tiers: tokens.iter().map(|t| t.2).collect(),
            distortion: Vec::new(),
            out,
        })
    }
}

/// A head as its last queries see it.
#[derive(Debug)]
struct Seen {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Candidates {
    /// What each token loses in each tier, as the last queries see it.
    fn estimate(
        &mut self,
        seen: &Seen,
        tiers: &[TierError],
        (group, sink, hysteresis): (usize, usize, f32),
    ) -> Result<(), Error> {
        let [k_mean, v_mean] = [Side::Keys, Side::Values].map(|side| self.frame.of(side).mean());
        let scale = 1.0 / (k_mean.len() as f32).sqrt();
        let window =
            RateWindow { q: &seen.q, group, k: &seen.k, v: &seen.v, k_mean: &k_mean, v_mean: &v_mean, scale };
        let of_all = window.distortion(tiers)?;
        self.distortion = of_all[sink * tiers.len()..][..self.positions.len() * tiers.len()].to_vec();
        // What has no codes yet is not forgiven for anything.
        let rows = self.distortion.chunks_exact_mut(tiers.len());
        for (row, _) in rows.zip(&self.sources).filter(|(_, source)| source.is_none()) {
            row[tiers.len() - 1] /= 1.0 - hysteresis;
        }
        Ok(())
    }

    fn rows(&self, side: Side) -> &[f32] {
        match side {
            Side::Keys => &self.keys,
            Side::Values => &self.values,
        }
    }

    /// Pages of the tiers that were chosen. Tokens that stay in their tier keep their codes, bit by bit.
    fn coded(
        &self,
        before: &CodedHead,
        tiers: &[u8],
        layout: &TierPages,
        widths: &[SphericalBits],
    ) -> Result<CodedHead, CoreError> {
        let mut made =
            CodedHead { pages: Vec::with_capacity(layout.pages.len()), frame: Some(Arc::clone(&self.frame)) };
        for &header in &layout.pages {
            let tokens = &layout.tokens[header.first as usize..][..usize::from(header.last) + 1];
            let bits = widths[usize::from(header.tier) - 1];
            let positions: Vec<i32> = tokens.iter().map(|&t| self.positions[t as usize]).collect();
            let rows = |side| self.page_rows(before, tiers, (side, bits), tokens);
            let rows = (rows(Side::Keys)?, rows(Side::Values)?);
            made.pages.push(Arc::new(CodedPage::new(header, &self.frame, &positions, rows)));
        }
        Ok(made)
    }

    fn page_rows(
        &self,
        before: &CodedHead,
        tiers: &[u8],
        (side, bits): (Side, SphericalBits),
        tokens: &[u32],
    ) -> Result<CodedRows, CoreError> {
        let frame = self.frame.of(side);
        let dim = frame.head_dim();
        let as_it_is = |token: u32| {
            let Source { page, row } = self.sources[token as usize]?;
            let stays = self.tiers[token as usize] == tiers[token as usize];
            match before.pages[page].rows(side) {
                CodedRows::Spherical(codes) if stays => Some((codes, row)),
                _ => None,
            }
        };
        let changed = tokens.iter().filter(|&&t| as_it_is(t).is_none());
        let rows: Vec<f32> =
            changed.flat_map(|&t| &self.rows(side)[t as usize * dim..][..dim]).copied().collect();
        let codec = RowCodec::Spherical { bits: bits.bits(), mean: MeanOf::Head };
        let CodedRows::Spherical(changed) = codec.encode(side, frame, &rows)? else {
            let feature = "retention of other than spherical codes";
            return Err(CoreError::Unsupported { engine: "the host", feature });
        };
        let mut next = 0..;
        let sources: Vec<(&HostSpherical, usize)> = tokens
            .iter()
            .map(|&t| as_it_is(t).unwrap_or_else(|| (&changed, next.next().unwrap_or_default())))
            .collect();
        let codes = HostSpherical::gathered(SphericalFormat::of(side, bits), dim, &sources)?;
        Ok(CodedRows::Spherical(codes))
    }
}
