//! Causal attention of blocks of new tokens over pages.

use tether_core::{
    AttendOptions, BlockTables, CausalLists, CoreError, DType, DecodeProblem, NewQueries, PageLists, PagedKv,
    TokenEngine,
};

use super::assert_refused;
use super::decode::{DecodeShape, PagedTokens, shape};
use crate::oracle::literal_decode;
use crate::tensors::{poison, random, read, tensor};
use crate::{Op, assert_close, tolerance};

/// Lists, and how many of the last tokens of each sequence are new.
const BLOCKS: [(DecodeShape, &[u32]); 25] = [
    (shape((1, 1), (1, 1), (64, 64), 16, &[1]), &[1]),
    (shape((1, 3), (3, 1), (64, 64), 16, &[70]), &[70]),
    // Heads of unequal length.
    (shape((1, 3), (3, 1), (64, 64), 16, &[97, 41, 40]), &[40]),
    (shape((1, 2), (1, 3), (6, 10), 5, &[23]), &[9]),
    (shape((1, 4), (2, 1), (128, 128), 16, &[300, 33]), &[33]),
    (shape((1, 1), (2, 2), (80, 96), 5, &[12, 17]), &[3]),
    (shape((1, 8), (1, 1), (128, 128), 16, &[500]), &[1]),
    // Several sequences: single tokens, and pieces of prompts beside them. Lists of a group stand together.
    (shape((3, 2), (2, 1), (64, 64), 16, &[5, 40, 17, 6, 33, 18]), &[1, 1, 1]),
    (shape((3, 2), (2, 1), (64, 64), 16, &[5, 40, 17, 6, 33, 18]), &[1, 33, 4]),
    (shape((2, 3), (1, 2), (128, 128), 5, &[50, 7]), &[20, 7]),
    // Blocks of more rows than a kernel takes at a time, over nothing and over what was there; the last rows are few.
    (shape((1, 1), (1, 1), (64, 64), 16, &[300]), &[300]),
    (shape((1, 4), (2, 1), (128, 128), 16, &[301, 290]), &[150]),
    (shape((1, 7), (1, 2), (64, 64), 64, &[130]), &[75]),
    (shape((1, 5), (2, 1), (96, 64), 16, &[77, 200]), &[77]),
    (shape((1, 8), (1, 1), (64, 128), 5, &[99]), &[67]),
    // Heads of sizes that are not those of tiles.
    (shape((1, 2), (2, 1), (80, 80), 1, &[40, 53]), &[33]),
    (shape((1, 6), (1, 1), (96, 96), 5, &[140]), &[61]),
    (shape((1, 2), (1, 2), (256, 256), 16, &[90]), &[85]),
    (shape((1, 3), (3, 1), (16, 48), 64, &[70, 65, 90]), &[64]),
    (shape((1, 4), (1, 2), (6, 10), 5, &[60]), &[20]),
    // Few queries of long lists, whose keys are shared out.
    (shape((1, 8), (1, 1), (64, 64), 16, &[2500]), &[3]),
    (shape((2, 4), (2, 1), (128, 128), 16, &[2111, 40, 900, 2300]), &[9, 5]),
    // Everything at once: single tokens before, between and after pieces.
    (shape((5, 4), (2, 1), (64, 64), 16, &[9, 80, 33, 200, 64, 50, 91]), &[1, 33, 1, 50, 1]),
    // Nearly one-hot, and logits that overflow without their maximum and fall with the product.
    (shape((1, 4), (1, 2), (128, 128), 16, &[90]).sharpened(40.0), &[40]),
    (shape((2, 4), (1, 1), (64, 64), 5, &[44, 70]).sharpened(-300.0), &[30, 9]),
];

/// A batch's starts.
pub(super) fn starts(new: &[u32]) -> Vec<u32> {
    let ends = new.iter().scan(0, |end, n| {
        *end += n;
        Some(*end)
    });
    std::iter::once(0).chain(ends).collect()
}

/// A list for each new token, of what it sees: what the oracle reads, whose lists do not share pages.
pub(super) struct TokenLists {
    indptr: Vec<u32>,
    pages: Vec<u32>,
    lengths: Vec<u32>,
}

impl TokenLists {
    pub(super) fn of(tables: &BlockTables<'_>, starts: &[u32]) -> Self {
        let lists = (&tables.indptr[..tables.lengths.len()], tables.lengths);
        let causal = CausalLists::new(starts, tables.groups, lists);
        let (mut indptr, mut pages) = (vec![0], Vec::new());
        for (&start, &length) in causal.starts.iter().zip(&causal.lengths) {
            let count = (length as usize).div_ceil(tables.page_size);
            pages.extend(&tables.pages[start as usize..][..count]);
            indptr.push(pages.len() as u32);
        }
        Self { indptr, pages, lengths: causal.lengths }
    }

    pub(super) fn tables<'a>(&'a self, of: &BlockTables<'a>) -> BlockTables<'a> {
        BlockTables { indptr: &self.indptr, pages: &self.pages, lengths: &self.lengths, ..*of }
    }
}

/// Each token of a block attends to what came before it and to itself, through tables that are uploaded and through one that is on the device and written in
/// place.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When an output or a log-sum-exp is wrong.
pub fn extends_what_is_cached<E: TokenEngine>(engine: &E, dtype: DType) -> Result<(), CoreError> {
    for (i, (of, new)) in BLOCKS.iter().enumerate() {
        let what = format!("{of:?}, {new:?} new, {dtype}");
        let made = PagedTokens::of(of, 501 + 10 * i as u64);
        let [k, v] = [(&made.pool[0], &made.k), (&made.pool[1], &made.v)]
            .map(|(shape, values)| tensor(shape, dtype, values));
        let (tables, starts) = (made.tables(), starts(new));
        let block = starts[new.len()] as usize;
        let q = random(601 + i as u64, &[block, of.query_heads(), of.head_dims.0], dtype, 0.0);
        let token_lists = TokenLists::of(&tables, &starts);
        let literal = token_lists.tables(&tables);
        let extents = (tables.page_size, tables.groups, block);
        let problem =
            DecodeProblem::new(q.shape(), &made.pool[0], &made.pool[1], extents, tables.page_bound())?;
        let (expected, expected_lse) =
            literal_decode(&q.to_f32_vec(), &k.to_f32_vec(), &v.to_f32_vec(), &problem, &literal, of.scale());
        let (q, k, v) = (engine.upload(&q)?, engine.upload(&k)?, engine.upload(&v)?);
        let attention = engine.upload_attention(&AttendOptions::scaled(of.scale()))?;
        for (way, tables) in
            [("uploaded", engine.upload_tables(&tables)?), ("in place", in_place(engine, &tables)?)]
        {
            poison(engine, block * of.query_heads() * of.head_dims.1)?;
            let queries = NewQueries { q: &q, starts: &starts, positions: None };
            let kv = PagedKv { k: &k, v: &v, positions: None };
            let (out, lse) = engine.attend_paged(&queries, &kv, &tables, &attention)?;
            let out = read(engine, &out)?;
            assert_eq!(out.shape(), [block, of.query_heads(), of.head_dims.1], "{what}, {way}");
            let tolerance_of = |op| tolerance(op, dtype);
            assert_close(&format!("{what}, {way}"), &out.to_f32_vec(), &expected, tolerance_of(Op::Attend));
            let lse = read(engine, &lse)?.to_f32_vec();
            assert_close(&format!("{what}, {way}, lse"), &lse, &expected_lse, tolerance_of(Op::LogSumExp));
        }
    }
    Ok(())
}

/// The lists of a page table that grows for each of them, with gaps between.
fn in_place<E: TokenEngine>(engine: &E, tables: &BlockTables<'_>) -> Result<E::Tables, CoreError> {
    let mut table = engine.create_page_table(0)?;
    let (mut starts, mut end) = (Vec::new(), 0);
    for bounds in tables.indptr.windows(2) {
        let pages = &tables.pages[bounds[0] as usize..bounds[1] as usize];
        let start = end as u32 + 2;
        end = start as usize + pages.len();
        engine.grow_page_table(&mut table, end)?;
        let at: Vec<u32> = (start..).take(pages.len()).collect();
        engine.write_page_table(&mut table, &at, pages)?;
        starts.push(start);
    }
    let (page_size, groups, lengths) = (tables.page_size, tables.groups, tables.lengths);
    engine.page_lists(&table, &PageLists { page_size, groups, starts: &starts, lengths })
}

/// Batches that do not fit their lists, and entries and lists that a table does not have, are refused.
///
/// # Errors
/// What the engine refuses and should not.
///
/// # Panics
/// When it accepts one of the calls.
pub fn refuses_blocks_that_do_not_fit<E: TokenEngine>(engine: &E) -> Result<(), CoreError> {
    let pool = engine.upload(&random(701, &[2, 4, 1, 8], DType::F32, 0.0))?;
    let q = engine.upload(&random(702, &[3, 2, 8], DType::F32, 0.0))?;
    let attention = engine.upload_attention(&AttendOptions::scaled(1.0))?;
    let tables = |indptr: &'static [u32], lengths: &'static [u32], groups| {
        engine.upload_tables(&BlockTables { page_size: 4, groups, indptr, pages: &[0, 1], lengths })
    };
    let attend = |tables: &E::Tables, starts: &[u32]| {
        let queries = NewQueries { q: &q, starts, positions: None };
        let kv = PagedKv { k: &pool, v: &pool, positions: None };
        engine.attend_paged(&queries, &kv, tables, &attention)
    };
    let short = tables(&[0, 1], &[2], 1)?;
    assert_refused!(
        attend(&short, &[0, 3]),
        CoreError::Count { what: "tokens of a list", expected: 3, got: 2 }
    );
    let two = tables(&[0, 1, 2], &[3, 3], 1)?;
    assert_refused!(
        attend(&two, &[0, 3]),
        CoreError::Count { what: "starts of sequences", expected: 3, got: 2 }
    );
    assert_refused!(attend(&two, &[0, 3, 3]), CoreError::Geometry { field: "starts", value: 3, .. });
    assert_refused!(attend(&two, &[0, 1, 2]), CoreError::Count { what: "tokens of a batch", .. });
    let heads = tables(&[0, 1, 2], &[3, 4], 2)?;
    assert!(attend(&heads, &[0, 3]).is_ok(), "a list for each of two heads");

    let mut table = engine.create_page_table(2)?;
    assert_refused!(
        engine.write_page_table(&mut table, &[2], &[0]),
        CoreError::Count { what: "entries of a page table", expected: 3, got: 2 }
    );
    assert_refused!(
        engine.write_page_table(&mut table, &[0, 1], &[0]),
        CoreError::Count { what: "pages", expected: 2, got: 1 }
    );
    let lists = |starts, lengths| PageLists { page_size: 4, groups: 1, starts, lengths };
    assert_refused!(
        engine.page_lists(&table, &lists(&[1], &[5])),
        CoreError::Count { what: "entries of a page table", expected: 3, got: 2 }
    );
    assert_refused!(
        engine.page_lists(&table, &lists(&[0, 1], &[4])),
        CoreError::Count { what: "starts of lists", .. }
    );
    Ok(())
}
