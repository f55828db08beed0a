//! Tokens of a head that are codes, and how they come to be.

use std::collections::HashSet;
use std::sync::Arc;

use tether_core::{
    CodeFrames, CodeSpec, CoreError, DType, HostTensor, MeanOf, Readback, RowCodec, Side, TokenEngine,
};
use tether_score::tokens::TierPage;

use super::TokenGeometry;
use super::code_pool::{CodePool, HeldPage, LayerCodes};
use super::head_pages::HeadPages;
use super::layer_pools::LayerPools;
use crate::tokens::CodecPart;

const SIDES: [Side; 2] = [Side::Keys, Side::Values];

/// The formats of a recipe's codes: one, or one for each number of bits that a token may have.
pub(super) fn formats(part: &CodecPart, geometry: &TokenGeometry) -> Vec<CodeSpec> {
    let spec = |keys, values| CodeSpec {
        keys,
        values,
        head_dims: (geometry.head_dim_k, geometry.head_dim_v),
        page_size: part.page,
        pages: 0,
    };
    match (&part.retention, part.widths(), part.keys) {
        (Some(_), Some(widths), RowCodec::Spherical { mean, .. }) => {
            let of = |bits: usize| RowCodec::Spherical { bits, mean };
            widths.iter().map(|width| spec(of(width.bits()), of(width.bits()))).collect()
        }
        // Where one side's means are those of pages, so are the other's.
        _ if part.keys.frame_of_page() || part.values.frame_of_page() => {
            let of_page = |codec: RowCodec| match codec {
                RowCodec::Spherical { bits, .. } => RowCodec::Spherical { bits, mean: MeanOf::Page },
                other => other,
            };
            vec![spec(of_page(part.keys), of_page(part.values))]
        }
        _ => vec![spec(part.keys, part.values)],
    }
}

/// Bytes of the codes of `tokens` tokens of a page, with what goes beside them.
pub(super) fn code_bytes(spec: &CodeSpec, tokens: usize) -> usize {
    SIDES
        .into_iter()
        .map(|side| tether_codec::page_bytes(spec.codec(side), side, tokens, spec.head_dim(side)))
        .sum()
}

/// What the codes of a layer's heads are relative to, `[kv_heads, frame_len]` of either side.
#[derive(Clone, Debug)]
pub(super) struct LayerFrames<T> {
    pub keys: Option<T>,
    pub values: Option<T>,
    /// Heads that have theirs.
    known: Vec<bool>,
    /// Bytes of a head's.
    bytes: usize,
}

impl<T> LayerFrames<T> {
    pub(super) fn bytes(&self) -> u64 {
        (self.known.iter().filter(|known| **known).count() * self.bytes) as u64
    }

    fn of(&self, side: Side) -> Option<&T> {
        match side {
            Side::Keys => self.keys.as_ref(),
            Side::Values => self.values.as_ref(),
        }
    }
}

/// Positions of a page's tokens, ascending.
#[derive(Clone, Debug)]
struct PagePositions {
    first: i32,
    count: usize,
    /// What each token but the first is ahead of the one before it, in 7 bits a byte, lowest first, the highest bit of all but a number's last byte set. Nothing
    /// where it is 1 for all of them.
    steps: Vec<u8>,
}

impl PagePositions {
    fn new(positions: &[i32]) -> Self {
        let mut steps = Vec::new();
        let apart = positions.windows(2).map(|pair| pair[0].abs_diff(pair[1]));
        if apart.clone().any(|step| step != 1) {
            for mut step in apart {
                while step > 127 {
                    steps.push(step as u8 | 128);
                    step >>= 7;
                }
                steps.push(step as u8);
            }
        }
        Self { first: positions.first().copied().unwrap_or(0), count: positions.len(), steps }
    }

    fn iter(&self) -> impl Iterator<Item = i32> + '_ {
        let (mut at, mut bytes) = (self.first, self.steps.iter());
        (0..self.count).map(move |i| {
            if i > 0 {
                let (mut step, mut shift) = (0u32, 0);
                for byte in bytes.by_ref() {
                    step |= u32::from(byte & 127) << shift;
                    shift += 7;
                    if *byte < 128 {
                        break;
                    }
                }
                at = at.wrapping_add_unsigned(if shift == 0 { 1 } else { step });
            }
            at
        })
    }

    /// The first is in the page's header.
    fn bytes(&self) -> usize {
        self.steps.len()
    }
}

/// A page of tokens of one head. Nobody changes one: a sequence that would has pages of its own from then on.
#[derive(Debug)]
pub(super) struct CodedPage {
    header: TierPage,
    pub held: HeldPage,
    positions: PagePositions,
    code_bytes: usize,
}

impl CodedPage {
    pub(super) fn new(header: TierPage, held: HeldPage, positions: &[i32], code_bytes: usize) -> Self {
        Self { header, held, positions: PagePositions::new(positions), code_bytes }
    }

    /// The tier of all its tokens; 0 where there is but one.
    pub(super) fn tier(&self) -> u8 {
        self.header.tier
    }

    /// The number of its pool.
    pub(super) fn pool(&self) -> usize {
        usize::from(self.header.tier).saturating_sub(1)
    }

    /// How many allocations there were before the one that made it.
    pub(super) fn generation(&self) -> u16 {
        self.header.generation
    }

    pub(super) fn positions(&self) -> impl Iterator<Item = i32> {
        self.positions.iter()
    }

    pub(super) fn tokens(&self) -> usize {
        self.positions.count
    }

    /// Header, positions, and codes with what goes beside them. Frames are counted on their own.
    fn bytes(&self) -> usize {
        size_of_val(&self.header) + self.positions.bytes() + self.code_bytes
    }
}

/// The coded tokens of one head.
#[derive(Clone, Debug, Default)]
pub(super) struct CodedHead {
    pub pages: Vec<Arc<CodedPage>>,
}

impl CodedHead {
    pub(super) fn len(&self) -> usize {
        self.pages.iter().map(|page| page.tokens()).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Positions, page after page.
    pub(super) fn page_positions(&self) -> Vec<i32> {
        self.pages.iter().flat_map(|page| page.positions.iter()).collect()
    }

    /// Bytes of pages that are not among `counted` yet.
    pub(super) fn bytes(&self, counted: &mut HashSet<usize>) -> u64 {
        let new = self.pages.iter().filter(|page| counted.insert(Arc::as_ptr(page).addr()));
        new.map(|page| page.bytes() as u64).sum()
    }

    /// Bytes of codes alone of pages that are not among `counted` yet.
    pub(super) fn code_bytes(&self, counted: &mut HashSet<usize>) -> u64 {
        let new = self.pages.iter().filter(|page| counted.insert(Arc::as_ptr(page).addr()));
        new.map(|page| page.code_bytes as u64).sum()
    }
}

/// What a layer is coded from, and to.
pub(super) struct Coder<'a, E: TokenEngine> {
    pub engine: &'a E,
    pub geometry: &'a TokenGeometry,
    pub part: &'a CodecPart,
    pub pools: &'a LayerPools<E>,
    pub codes: &'a mut LayerCodes<E>,
}

/// Frames of a layer that sequences may share.
pub(super) type SharedFrames<T> = Option<Arc<LayerFrames<T>>>;

impl<E: TokenEngine> Coder<'_, E> {
    /// Codes tokens `leaving` of each head, whole pages of them, and adds them to what it has. What there is stays as
    /// it is.
    pub(super) fn add(
        &mut self,
        heads: &[HeadPages],
        frames: &SharedFrames<E::Tensor>,
        leaving: &[Vec<u32>],
    ) -> Result<(Vec<CodedHead>, SharedFrames<E::Tensor>), CoreError> {
        let (size, block) = (self.part.page, self.geometry.block_size);
        let mut coded: Vec<CodedHead> = heads.iter().map(|head| head.coded.clone()).collect();
        // Head and tokens of each page.
        let pages: Vec<(usize, &[u32])> = (leaving.iter().enumerate())
            .flat_map(|(head, tokens)| tokens.chunks(size).map(move |page| (head, page)))
            .collect();
        if pages.is_empty() {
            return Ok((coded, frames.clone()));
        }
        let rows: Vec<u32> = (0..size)
            .flat_map(|t| pages.iter().map(move |(head, page)| (head, page[t])))
            .map(|(&head, token)| heads[head].row(token as usize, block))
            .collect();
        let rows = self.engine.upload_indices(&[size, pages.len()], &rows)?;
        let k = self.engine.read_rows(&self.pools.k, &rows)?;
        let v = self.engine.read_rows(&self.pools.v, &rows)?;
        let frames = self.frames(heads, frames, leaving)?;
        let of_pages: Vec<usize> = pages.iter().map(|(head, _)| *head).collect();
        let held = self.write(0, &of_pages, [&k, &v], frames.as_deref())?;
        let bytes = self.codes.bytes_of(0, size);
        for (held, (head, tokens)) in held.into_iter().zip(pages) {
            let positions: Vec<i32> = tokens.iter().map(|&t| heads[head].positions.at(t as usize)).collect();
            let first = coded[head].len() as u32;
            let header = TierPage { tier: 0, last: (size - 1) as u8, generation: 0, first };
            coded[head].pages.push(Arc::new(CodedPage::new(header, held, &positions, bytes)));
        }
        Ok((coded, frames))
    }

    /// Codes rows `[page, n, head_dim]` of either side into pages of their own of a pool; page `i` is of head
    /// `heads[i]`.
    pub(super) fn write(
        &mut self,
        pool: usize,
        heads: &[usize],
        rows: [&E::Tensor; 2],
        frames: Option<&LayerFrames<E::Tensor>>,
    ) -> Result<Vec<HeldPage>, CoreError> {
        let of_pages = PageFrames::new(self.engine, heads, frames)?;
        let pool = pool_mut(self.codes, pool)?;
        let held = pool.take(self.engine, heads.len())?;
        let numbers: Vec<u32> = held.iter().map(HeldPage::number).collect();
        self.engine.write_codes(&mut pool.codes, &numbers, rows, &of_pages.borrowed())?;
        Ok(held)
    }

    /// Frames, with those of heads that are coded for the first time: what they are relative to are the tokens that
    /// leave.
    pub(super) fn frames(
        &self,
        heads: &[HeadPages],
        frames: &SharedFrames<E::Tensor>,
        leaving: &[Vec<u32>],
    ) -> Result<SharedFrames<E::Tensor>, CoreError> {
        let Some(format) = self.codes.pools.first() else { return Ok(None) };
        let (spec, g) = (&format.spec, self.geometry);
        let lens = SIDES.map(|side| spec.codec(side).frame_len(spec.head_dim(side)));
        let known = |head: usize| frames.as_ref().is_some_and(|f| f.known[head]);
        let new: Vec<usize> = (0..heads.len()).filter(|&h| !leaving[h].is_empty() && !known(h)).collect();
        if new.is_empty() || lens == [0, 0] {
            return Ok(frames.clone());
        }
        let mut made = LayerFrames {
            keys: None,
            values: None,
            known: (0..heads.len()).map(|h| known(h) || new.contains(&h)).collect(),
            bytes: frame_bytes(&spec.keys, lens[0]) + frame_bytes(&spec.values, lens[1]),
        };
        for side in SIDES.into_iter().filter(|&side| lens[side as usize] > 0) {
            let len = lens[side as usize];
            let mut of_heads = match frames.as_ref().and_then(|f| f.of(side)) {
                // Others may have the old ones.
                Some(before) => {
                    let all: Vec<u32> = (0..heads.len() as u32).collect();
                    self.engine.read_rows(before, &self.engine.upload_indices(&[all.len()], &all)?)?
                }
                None => self.engine.upload(&HostTensor::zeros(&[heads.len(), len], DType::F32)?)?,
            };
            let mut first = 0;
            // Heads that have as many tokens are done together.
            while first < new.len() {
                let count = leaving[new[first]].len();
                let alike = new[first..].iter().take_while(|&&h| leaving[h].len() == count).count();
                let together = &new[first..first + alike];
                let rows: Vec<u32> = (0..count)
                    .flat_map(|t| together.iter().map(move |&h| (h, leaving[h][t] as usize)))
                    .map(|(h, token)| heads[h].row(token, g.block_size))
                    .collect();
                let rows = self.engine.upload_indices(&[count, alike], &rows)?;
                let pool = if side == Side::Keys { &self.pools.k } else { &self.pools.v };
                let x = self.engine.read_rows(pool, &rows)?;
                if let Some(own) = self.engine.code_frames(&format.codes, side, &x)? {
                    let at: Vec<u32> = together.iter().map(|&h| h as u32).collect();
                    let at = self.engine.upload_indices(&[alike], &at)?;
                    self.engine.write_rows(&mut of_heads, &at, &own)?;
                }
                first += alike;
            }
            match side {
                Side::Keys => made.keys = Some(of_heads),
                Side::Values => made.values = Some(of_heads),
            }
        }
        Ok(Some(Arc::new(made)))
    }
}

fn frame_bytes(codec: &RowCodec, len: usize) -> usize {
    // Means are rounded to `f16`; directions are not.
    len * if matches!(codec, RowCodec::SphericalPublished { .. }) { 4 } else { 2 }
}

fn pool_mut<E: TokenEngine>(codes: &mut LayerCodes<E>, pool: usize) -> Result<&mut CodePool<E>, CoreError> {
    let got = codes.pools.len();
    codes.pools.get_mut(pool).ok_or(CoreError::Count { what: "formats of codes", expected: pool + 1, got })
}

/// The frames of pages, one for each.
pub(super) struct PageFrames<T> {
    keys: Option<T>,
    values: Option<T>,
}

impl<T> PageFrames<T> {
    /// Page `i` is of head `heads[i]`.
    pub(super) fn new<E: TokenEngine<Tensor = T>>(
        engine: &E,
        heads: &[usize],
        frames: Option<&LayerFrames<T>>,
    ) -> Result<Self, CoreError> {
        let numbers: Vec<u32> = heads.iter().map(|&head| head as u32).collect();
        let side = |side: Side| -> Result<Option<T>, CoreError> {
            let Some(frames) = frames.and_then(|f| f.of(side)) else { return Ok(None) };
            let rows = engine.upload_indices(&[numbers.len()], &numbers)?;
            engine.read_rows(frames, &rows).map(Some)
        };
        Ok(Self { keys: side(Side::Keys)?, values: side(Side::Values)? })
    }

    pub(super) fn borrowed<E: TokenEngine<Tensor = T>>(&self) -> CodeFrames<'_, E> {
        CodeFrames { keys: self.keys.as_ref(), values: self.values.as_ref() }
    }
}

/// What the codes of a head stand for, keys and values, page after page.
pub(super) fn restored<E: TokenEngine>(
    engine: &E,
    codes: &LayerCodes<E>,
    (head, number): (&CodedHead, usize),
    frames: Option<&LayerFrames<E::Tensor>>,
) -> Result<[Vec<f32>; 2], CoreError> {
    let mut rows: [Vec<Vec<f32>>; 2] =
        [vec![Vec::new(); head.pages.len()], vec![Vec::new(); head.pages.len()]];
    for (of_pool, pool) in codes.pools.iter().enumerate() {
        let pages: Vec<usize> = (0..head.pages.len()).filter(|&p| head.pages[p].pool() == of_pool).collect();
        if pages.is_empty() {
            continue;
        }
        let numbers: Vec<u32> = pages.iter().map(|&p| head.pages[p].held.number()).collect();
        let of_pages = PageFrames::new(engine, &vec![number; pages.len()], frames)?;
        let [k, v] = engine.restore_codes(&pool.codes, &numbers, &of_pages.borrowed(), DType::F32)?;
        for (rows, x) in rows.iter_mut().zip(engine.read(&[&k, &v])?.wait()?) {
            let dim = x.shape()[2];
            let x = x.to_f32_vec();
            for (i, &page) in pages.iter().enumerate() {
                let row = |t: usize| &x[(t * pages.len() + i) * dim..][..dim];
                rows[page] = (0..head.pages[page].tokens()).flat_map(row).copied().collect();
            }
        }
    }
    Ok(rows.map(|pages| pages.concat()))
}

#[cfg(test)]
mod tests {
    use super::PagePositions;

    #[test]
    fn positions_come_back_however_far_apart() {
        for (positions, bytes) in [
            (vec![], 0),
            (vec![7], 0),
            (vec![-3, -2, -1, 0, 1], 0),
            (vec![0, 1, 3, 130, 300, 301], 1 + 1 + 1 + 2 + 1),
            (vec![i32::MIN, -5, i32::MAX], 5 + 5),
        ] {
            let page = PagePositions::new(&positions);
            assert_eq!(page.iter().collect::<Vec<_>>(), positions);
            assert_eq!(page.bytes(), bytes, "{positions:?}");
        }
    }
}
