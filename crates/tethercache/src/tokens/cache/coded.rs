//! Tokens of a head that are stored as codes: their pages, and attention over them.

use std::collections::HashSet;
use std::sync::Arc;

use tether_codec::{CodedRows, HadamardRotation, RowFrame};
use tether_core::{CoreError, Side, merge_partial};
use tether_host::attend_to_rows;
use tether_score::tokens::TierPage;

use super::TokenGeometry;
use crate::tokens::CodecPart;

/// Seeds of the rotations of keys and of values.
const SEEDS: [u64; 2] = [0, 1];

/// The rotations that all frames of a cache share.
#[derive(Clone, Debug)]
pub(super) struct Rotations {
    pub keys: Arc<HadamardRotation>,
    pub values: Arc<HadamardRotation>,
}

impl Rotations {
    pub(super) fn new(geometry: &TokenGeometry) -> Self {
        let made = |dim, seed| Arc::new(HadamardRotation::new(dim, seed));
        Self { keys: made(geometry.head_dim_k, SEEDS[0]), values: made(geometry.head_dim_v, SEEDS[1]) }
    }
}

/// What the codes of a head's keys and values are relative to.
#[derive(Debug)]
pub(super) struct HeadFrame {
    keys: RowFrame,
    values: RowFrame,
}

impl HeadFrame {
    pub(super) fn new(
        part: &CodecPart,
        rotations: &Rotations,
        (keys, values): (&[f32], &[f32]),
    ) -> Result<Self, CoreError> {
        Ok(Self {
            keys: part.keys.frame(keys, &rotations.keys)?,
            values: part.values.frame(values, &rotations.values)?,
        })
    }

    pub(super) fn of(&self, side: Side) -> &RowFrame {
        match side {
            Side::Keys => &self.keys,
            Side::Values => &self.values,
        }
    }

    fn bytes(&self) -> usize {
        self.keys.bytes() + self.values.bytes()
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
    frame: Arc<HeadFrame>,
    positions: PagePositions,
    keys: CodedRows,
    values: CodedRows,
}

impl CodedPage {
    pub(super) fn new(
        header: TierPage,
        frame: &Arc<HeadFrame>,
        positions: &[i32],
        (keys, values): (CodedRows, CodedRows),
    ) -> Self {
        Self { header, frame: Arc::clone(frame), positions: PagePositions::new(positions), keys, values }
    }

    /// The tier of all its tokens; 0 where there is but one.
    pub(super) fn tier(&self) -> u8 {
        self.header.tier
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

    pub(super) fn rows(&self, side: Side) -> &CodedRows {
        match side {
            Side::Keys => &self.keys,
            Side::Values => &self.values,
        }
    }

    /// Header, positions, and codes with what goes beside them. The frame is counted on its own.
    fn bytes(&self) -> usize {
        size_of_val(&self.header) + self.positions.bytes() + self.keys.bytes() + self.values.bytes()
    }
}

/// The coded tokens of one head.
#[derive(Clone, Debug, Default)]
pub(super) struct CodedHead {
    pub pages: Vec<Arc<CodedPage>>,
    /// The frame of pages that have none of their own.
    pub frame: Option<Arc<HeadFrame>>,
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

    /// Codes tokens, whole pages of them, and adds them. This head stays as it is.
    pub(super) fn with(
        &self,
        part: &CodecPart,
        rotations: &Rotations,
        positions: &[i32],
        (keys, values): (&[f32], &[f32]),
    ) -> Result<Self, CoreError> {
        let mut made = self.clone();
        if positions.is_empty() {
            return Ok(made);
        }
        let (dk, dv) = (rotations.keys.head_dim(), rotations.values.head_dim());
        let own = part.keys.frame_of_page() || part.values.frame_of_page();
        if !own && made.frame.is_none() {
            made.frame = Some(Arc::new(HeadFrame::new(part, rotations, (keys, values))?));
        }
        let rows = keys.chunks(part.page * dk).zip(values.chunks(part.page * dv));
        for (positions, (keys, values)) in positions.chunks(part.page).zip(rows) {
            let frame = match &made.frame {
                Some(frame) => Arc::clone(frame),
                None => Arc::new(HeadFrame::new(part, rotations, (keys, values))?),
            };
            let keys = part.keys.encode(Side::Keys, &frame.keys, keys)?;
            let values = part.values.encode(Side::Values, &frame.values, values)?;
            let last = positions.len().saturating_sub(1) as u8;
            let header = TierPage { tier: 0, last, generation: 0, first: made.len() as u32 };
            made.pages.push(Arc::new(CodedPage::new(header, &frame, positions, (keys, values))));
        }
        Ok(made)
    }

    /// What the codes stand for, page after page.
    pub(super) fn restored(&self, side: Side) -> Result<Vec<f32>, CoreError> {
        let mut rows = Vec::new();
        for page in &self.pages {
            rows.extend(page.rows(side).restored(page.frame.of(side))?);
        }
        Ok(rows)
    }

    /// Merges attention of scaled queries `[rows, head_dim_k]` to all of these tokens into `out` and `lse`.
    ///
    /// Logits and sums are made from codes: queries are turned once for all pages of a frame, and sums turned back once.
    pub(super) fn attend(
        &self,
        queries: &[f32],
        dims: (usize, usize),
        (out, lse): (&mut [f32], &mut [f32]),
    ) -> Result<(), CoreError> {
        for pages in self.pages.chunk_by(|a, b| Arc::ptr_eq(&a.frame, &b.frame)) {
            let Some(frame) = pages.first().map(|page| &page.frame) else { continue };
            let mut entered = queries.to_vec();
            let shared = frame.keys.enter(&mut entered);
            let mut starts = vec![0usize];
            starts.extend(pages.iter().scan(0, |n, page| {
                *n += page.tokens();
                Some(*n)
            }));
            // Rows that are not there are not asked for, so the first problem, if there is one, is a frame that does not fit.
            let problem = std::cell::RefCell::new(Ok(()));
            let load = |side: Side, row: usize, into: &mut [f32]| {
                let read = read_rows(pages, &starts, (side, frame.of(side)), row, into);
                if let Err(e) = read {
                    *problem.borrow_mut() = Err(e);
                }
            };
            let tokens = starts.last().copied().unwrap_or(0);
            let (mut part, mut part_lse) = attend_to_rows(&entered, dims, tokens, load);
            problem.into_inner()?;
            frame.values.leave(&mut part);
            part_lse.iter_mut().zip(shared).for_each(|(l, s)| *l += s);
            merge_partial((&mut *out, &mut *lse), (&part, &part_lse))?;
        }
        Ok(())
    }

    /// Bytes of pages and frames that are not among `counted` yet.
    pub(super) fn bytes(&self, counted: &mut HashSet<usize>) -> u64 {
        let mut bytes = 0;
        let frames = self.pages.iter().map(|page| &page.frame).chain(&self.frame);
        for frame in frames {
            if counted.insert(Arc::as_ptr(frame).addr()) {
                bytes += frame.bytes();
            }
        }
        for page in &self.pages {
            if counted.insert(Arc::as_ptr(page).addr()) {
                bytes += page.bytes();
            }
        }
        bytes as u64
    }
}

/// Rows of pages of one frame from row `row` of them all on.
fn read_rows(
    pages: &[Arc<CodedPage>],
    starts: &[usize],
    (side, frame): (Side, &RowFrame),
    mut row: usize,
    mut into: &mut [f32],
) -> Result<(), CoreError> {
    let dim = frame.head_dim();
    while !into.is_empty() {
        let number = starts.partition_point(|&start| start <= row) - 1;
        let Some(page) = pages.get(number) else {
            return Err(CoreError::Count { what: "rows", expected: row + 1, got: starts[pages.len()] });
        };
        let count = (starts[number + 1] - row).min(into.len() / dim);
        let (now, later) = std::mem::take(&mut into).split_at_mut(count * dim);
        page.rows(side).read(frame, row - starts[number], now)?;
        (into, row) = (later, row + count);
    }
    Ok(())
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
