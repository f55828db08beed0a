//! Paged decode attention.

use tether_core::{
    BlockTables, CoreError, DType, DecodeProblem, EMPTY_LSE, HostTensor, TokenEngine, merge_partial,
};

use super::assert_refused;
use crate::oracle::literal_decode;
use crate::tensors::{indices, poison, random, read, tensor};
use crate::{Op, assert_close, tolerance};

/// Pools and who asks them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DecodeShape {
    sequences: usize,
    /// Groups of key heads, and key heads of a group.
    groups: (usize, usize),
    /// Query heads of a key head.
    group: usize,
    pub(crate) head_dims: (usize, usize),
    page_size: usize,
    /// Tokens of the lists, over and over.
    lengths: &'static [u32],
    /// Multiplies `1 / sqrt(head_dim)`.
    sharpness: f32,
}

pub(super) const fn shape(
    (sequences, group): (usize, usize),
    groups: (usize, usize),
    head_dims: (usize, usize),
    page_size: usize,
    lengths: &'static [u32],
) -> DecodeShape {
    DecodeShape { sequences, groups, group, head_dims, page_size, lengths, sharpness: 1.0 }
}

pub(crate) const DECODE_SHAPES: [DecodeShape; 17] = [
    shape((1, 1), (1, 1), (64, 64), 16, &[1]),
    shape((2, 3), (2, 3), (6, 10), 5, &[7, 1, 12, 5]),
    shape((3, 3), (1, 2), (80, 96), 16, &[5, 0, 37]),
    // A group per head: each has lengths of its own.
    shape((2, 4), (4, 1), (128, 128), 5, &[23, 9, 0, 40, 5, 1]),
    shape((2, 8), (1, 2), (128, 128), 16, &[100, 64]),
    shape((1, 1), (1, 3), (256, 256), 1, &[19]),
    shape((2, 4), (1, 2), (96, 64), 16, &[33, 48]),
    shape((3, 1), (2, 2), (64, 128), 1, &[3, 17]),
    shape((2, 3), (1, 1), (80, 80), 5, &[1, 2]),
    shape((1, 8), (8, 1), (64, 64), 16, &[31, 16, 0, 2]),
    shape((4, 4), (1, 1), (128, 128), 16, &[257, 1, 0, 130]),
    // Long enough to be split, unevenly.
    shape((1, 4), (1, 1), (64, 64), 16, &[3001]),
    shape((2, 1), (1, 2), (128, 128), 16, &[1500, 0]),
    // Nobody has anything.
    shape((2, 2), (2, 1), (64, 64), 16, &[0]),
    shape((0, 2), (2, 2), (64, 64), 16, &[1]),
    // Nearly one-hot, and logits that overflow without their maximum.
    DecodeShape { sharpness: 40.0, ..shape((2, 4), (1, 2), (128, 128), 16, &[90, 33]) },
    DecodeShape { sharpness: -300.0, ..shape((1, 2), (1, 1), (64, 64), 5, &[44]) },
];

impl DecodeShape {
    /// With logits so many times as large.
    pub(super) const fn sharpened(self, sharpness: f32) -> Self {
        Self { sharpness, ..self }
    }

    pub(super) fn query_heads(&self) -> usize {
        self.groups.0 * self.groups.1 * self.group
    }

    pub(crate) fn scale(&self) -> f32 {
        self.sharpness / (self.head_dims.0.max(1) as f32).sqrt()
    }

    pub(crate) fn q(&self, seed: u64, dtype: DType) -> HostTensor {
        random(seed, &[self.sequences, self.query_heads(), self.head_dims.0], dtype, 0.0)
    }
}

/// Tokens in shuffled pages; what is in no list is NaN, for a kernel that looks at it to show.
pub(crate) struct PagedTokens {
    page_size: usize,
    groups: usize,
    indptr: Vec<u32>,
    pages: Vec<u32>,
    lengths: Vec<u32>,
    /// `[pages, page_size, page_heads, head_dim]`.
    pub(crate) pool: [Vec<usize>; 2],
    pub(crate) k: Vec<f32>,
    pub(crate) v: Vec<f32>,
}

impl PagedTokens {
    pub(crate) fn of(shape: &DecodeShape, seed: u64) -> Self {
        let (groups, page_heads) = shape.groups;
        let lengths: Vec<u32> =
            shape.lengths.iter().copied().cycle().take(groups * shape.sequences).collect();
        let mut indptr = vec![0u32];
        for (i, &length) in lengths.iter().enumerate() {
            // Some lists have a page more than they need, as after an allocation ahead.
            let needed = length.div_ceil(shape.page_size as u32) + u32::from(i % 3 == 1);
            indptr.push(indptr[i] + needed);
        }
        let used = indptr[lengths.len()] as usize;
        let pool_pages = used + 3;
        let mut pages: Vec<u32> = (0..pool_pages as u32).collect();
        for (i, j) in (1..pool_pages).zip(indices(seed, usize::MAX >> 33)) {
            pages.swap(i, j as usize % (i + 1));
        }
        pages.truncate(used);
        let (dim_k, dim_v) = shape.head_dims;
        let pool = [dim_k, dim_v].map(|dim| vec![pool_pages, shape.page_size, page_heads, dim]);
        let mut made = Self {
            page_size: shape.page_size,
            groups,
            indptr,
            pages,
            lengths,
            k: random(seed + 1, &pool[0], DType::F32, 0.1).to_f32_vec(),
            v: random(seed + 2, &pool[1], DType::F32, -0.2).to_f32_vec(),
            pool,
        };
        let live = made.live_rows(page_heads);
        for (values, dim) in [(&mut made.k, dim_k), (&mut made.v, dim_v)] {
            let rows = values.chunks_exact_mut(dim).zip(&live).filter(|(_, live)| !**live);
            rows.for_each(|(row, _)| row.fill(f32::NAN));
        }
        made
    }

    /// Which rows `[pages * page_size * page_heads]` belong to a token.
    pub(crate) fn live_rows(&self, page_heads: usize) -> Vec<bool> {
        let mut live = vec![false; self.pool[0][0] * self.page_size * page_heads];
        for (list, &length) in self.lengths.iter().enumerate() {
            for token in 0..length as usize {
                let page = self.pages[self.indptr[list] as usize + token / self.page_size] as usize;
                let slot = page * self.page_size + token % self.page_size;
                live[slot * page_heads..(slot + 1) * page_heads].fill(true);
            }
        }
        live
    }

    /// Key head of each row; that of nobody's rows is 0.
    pub(crate) fn heads_of_rows(&self, page_heads: usize) -> Vec<usize> {
        let mut heads = vec![0; self.pool[0][0] * self.page_size * page_heads];
        let sequences = self.lengths.len() / self.groups.max(1);
        for list in 0..self.lengths.len() {
            for page in &self.pages[self.indptr[list] as usize..self.indptr[list + 1] as usize] {
                let rows = *page as usize * self.page_size * page_heads;
                for (i, head) in heads[rows..][..self.page_size * page_heads].iter_mut().enumerate() {
                    *head = list / sequences * page_heads + i % page_heads;
                }
            }
        }
        heads
    }

    pub(crate) fn tables(&self) -> BlockTables<'_> {
        BlockTables {
            page_size: self.page_size,
            groups: self.groups,
            indptr: &self.indptr,
            pages: &self.pages,
            lengths: &self.lengths,
        }
    }

    pub(crate) fn problem(&self, q: &HostTensor) -> Result<DecodeProblem, CoreError> {
        let tables = self.tables();
        let extents = (tables.page_size, tables.groups, tables.sequences());
        DecodeProblem::new(q.shape(), &self.pool[0], &self.pool[1], extents, tables.page_bound())
    }

    fn tensors(&self, dtype: DType) -> [HostTensor; 2] {
        [tensor(&self.pool[0], dtype, &self.k), tensor(&self.pool[1], dtype, &self.v)]
    }
}

/// Attention over pages is the oracle's, and so are its log-sum-exps; what no list names is not looked at.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When a result is out of tolerance.
pub fn attends_over_pages<E: TokenEngine>(engine: &E, dtype: DType) -> Result<(), CoreError> {
    for (i, shape) in DECODE_SHAPES.iter().enumerate() {
        let what = format!("{shape:?} {dtype}");
        let tokens = PagedTokens::of(shape, 101 + i as u64);
        let q = shape.q(121 + i as u64, dtype);
        let [k, v] = tokens.tensors(dtype);
        let problem = tokens.problem(&q)?;
        let uploaded = (engine.upload(&q)?, engine.upload(&k)?, engine.upload(&v)?);
        let tables = engine.upload_tables(&tokens.tables())?;
        let out_shape = [shape.sequences, shape.query_heads(), shape.head_dims.1];
        poison(engine, out_shape.iter().product())?;
        let (out, lse) = engine.decode(&uploaded.0, &uploaded.1, &uploaded.2, &tables, shape.scale())?;
        let (out, lse) = (read(engine, &out)?, read(engine, &lse)?);
        assert_eq!((out.shape(), out.dtype()), (&out_shape[..], dtype), "{what}");
        assert_eq!((lse.shape(), lse.dtype()), (&out_shape[..2], DType::F32), "{what}");
        let (q, k, v) = (q.to_f32_vec(), k.to_f32_vec(), v.to_f32_vec());
        let (expected, expected_lse) = literal_decode(&q, &k, &v, &problem, &tokens.tables(), shape.scale());
        assert_close(&what, &out.to_f32_vec(), &expected, tolerance(Op::Attend, dtype));
        let what = format!("{what}: log-sum-exp");
        let lse = lse.to_f32_vec();
        assert_close(&what, &lse, &expected_lse, tolerance(Op::LogSumExp, dtype));
        for (lse, expected) in lse.iter().zip(&expected_lse).filter(|(_, e)| **e <= EMPTY_LSE) {
            assert_eq!(lse, expected, "{what} of nothing");
        }
    }
    Ok(())
}

/// Attention over the first and the last pages of each list, merged, is attention over all.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When a result is out of tolerance.
pub fn merges_partial_results<E: TokenEngine>(engine: &E) -> Result<(), CoreError> {
    for (i, shape) in DECODE_SHAPES.iter().enumerate() {
        let tokens = PagedTokens::of(shape, 141 + i as u64);
        let q = shape.q(161 + i as u64, DType::F32);
        let [k, v] = tokens.tensors(DType::F32);
        let (on_q, on_k, on_v) = (engine.upload(&q)?, engine.upload(&k)?, engine.upload(&v)?);
        let attend = |indptr: &[u32], pages: &[u32], lengths: &[u32]| {
            let tables = BlockTables { indptr, pages, lengths, ..tokens.tables() };
            let (out, lse) =
                engine.decode(&on_q, &on_k, &on_v, &engine.upload_tables(&tables)?, shape.scale())?;
            Ok::<_, CoreError>((read(engine, &out)?.to_f32_vec(), read(engine, &lse)?.to_f32_vec()))
        };
        let mut parts = [(vec![0u32], Vec::new(), Vec::new()), (vec![0u32], Vec::new(), Vec::new())];
        for (list, &length) in tokens.lengths.iter().enumerate() {
            let pages = &tokens.pages[tokens.indptr[list] as usize..tokens.indptr[list + 1] as usize];
            // One list in three is all in one part.
            let cut = if list % 3 == 2 { 0 } else { (length as usize / shape.page_size).div_ceil(2) };
            let first = ((cut * shape.page_size) as u32).min(length);
            for ((indptr, all, lengths), (pages, length)) in
                parts.iter_mut().zip([(&pages[..cut], first), (&pages[cut..], length - first)])
            {
                all.extend_from_slice(pages);
                indptr.push(all.len() as u32);
                lengths.push(length);
            }
        }
        let (mut out, mut lse) = attend(&parts[0].0, &parts[0].1, &parts[0].2)?;
        let (other_out, other_lse) = attend(&parts[1].0, &parts[1].1, &parts[1].2)?;
        merge_partial((&mut out, &mut lse), (&other_out, &other_lse))?;
        let (whole, whole_lse) = attend(&tokens.indptr, &tokens.pages, &tokens.lengths)?;
        let what = format!("{shape:?} merged");
        assert_close(&what, &out, &whole, tolerance(Op::Attend, DType::F32));
        assert_close(&what, &lse, &whole_lse, tolerance(Op::LogSumExp, DType::F32));
    }
    Ok(())
}

/// Tables, pools and queries that do not fit are refused.
///
/// # Errors
/// What the engine refuses and should not.
///
/// # Panics
/// When it accepts one of the calls.
pub fn refuses_pages_that_do_not_fit<E: TokenEngine>(engine: &E) -> Result<(), CoreError> {
    let good =
        BlockTables { page_size: 4, groups: 2, indptr: &[0, 2, 3], pages: &[3, 0, 1], lengths: &[7, 4] };
    let wrong = |tables: BlockTables<'_>| engine.upload_tables(&tables);
    assert_refused!(
        wrong(BlockTables { page_size: 0, ..good }),
        CoreError::Geometry { field: "page_size", .. }
    );
    assert_refused!(wrong(BlockTables { groups: 0, ..good }), CoreError::Geometry { field: "groups", .. });
    assert_refused!(wrong(BlockTables { groups: 3, ..good }), CoreError::Geometry { field: "lengths", .. });
    assert_refused!(wrong(BlockTables { indptr: &[0, 3], ..good }), CoreError::Count { what: "indptr", .. });
    assert_refused!(
        wrong(BlockTables { lengths: &[9, 4], ..good }),
        CoreError::Count { what: "pages of a list", .. }
    );
    assert_refused!(
        wrong(BlockTables { indptr: &[2, 0, 1], ..good }),
        CoreError::Count { what: "pages of a list", .. }
    );
    assert_refused!(
        wrong(BlockTables { indptr: &[0, 2, 4], ..good }),
        CoreError::Count { what: "pages", .. }
    );

    let tables = wrong(good)?;
    let upload = |shape: &[usize]| engine.upload(&random(181, shape, DType::F32, 0.0));
    let (q, k, v) = (upload(&[1, 6, 8])?, upload(&[4, 4, 1, 8])?, upload(&[4, 4, 1, 6])?);
    assert!(engine.decode(&q, &k, &v, &tables, 1.0).is_ok(), "two groups of one head, three queries each");
    let small = (upload(&[3, 4, 1, 8])?, upload(&[3, 4, 1, 6])?);
    assert_refused!(
        engine.decode(&q, &small.0, &small.1, &tables, 1.0),
        CoreError::Count { what: "pages of the pool", expected: 4, got: 3 }
    );
    assert_refused!(
        engine.decode(&q, &upload(&[4, 5, 1, 8])?, &v, &tables, 1.0),
        CoreError::ShapeMismatch { what: "k", .. }
    );
    assert_refused!(
        engine.decode(&q, &upload(&[16, 1, 8])?, &v, &tables, 1.0),
        CoreError::ShapeMismatch { what: "k", .. }
    );
    assert_refused!(
        engine.decode(&q, &k, &upload(&[4, 4, 2, 6])?, &tables, 1.0),
        CoreError::ShapeMismatch { what: "v", .. }
    );
    assert_refused!(
        engine.decode(&upload(&[2, 6, 8])?, &k, &v, &tables, 1.0),
        CoreError::ShapeMismatch { what: "q", .. }
    );
    assert_refused!(
        engine.decode(&upload(&[1, 6, 6])?, &k, &v, &tables, 1.0),
        CoreError::ShapeMismatch { what: "q", .. }
    );
    assert_refused!(
        engine.decode(&upload(&[1, 5, 8])?, &k, &v, &tables, 1.0),
        CoreError::Geometry { field: "query_heads", .. }
    );
    if let Ok(half) = engine.upload(&random(181, &[4, 4, 1, 6], DType::F16, 0.0)) {
        assert_refused!(
            engine.decode(&q, &k, &half, &tables, 1.0),
            CoreError::DTypeMismatch { what: "v", .. }
        );
    }
    Ok(())
}
