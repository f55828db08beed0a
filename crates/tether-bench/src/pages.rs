//! Pages of decode attention's sequences.

use tether_core::BlockTables;

pub(crate) const HEADS: usize = 32;
pub(crate) const KV_HEADS: usize = 8;
pub(crate) const DIM: usize = 128;

/// Pages of each list (the heads of a page, of a sequence), in an order that no two lists share.
pub(crate) struct Pages {
    batch: usize,
    context: usize,
    /// Tokens and heads of a page.
    size: usize,
    heads: usize,
    indptr: Vec<u32>,
    pages: Vec<u32>,
    lengths: Vec<u32>,
}

impl Pages {
    pub(crate) fn new(batch: usize, context: usize, size: usize, heads: usize) -> Self {
        let (each, lists) = (context / size, KV_HEADS / heads * batch);
        let of_list = |list| (0..each).map(move |i| page(list, i, each));
        Self {
            batch,
            context,
            size,
            heads,
            indptr: (0..=lists).map(|list| (list * each) as u32).collect(),
            pages: (0..lists).flat_map(of_list).collect(),
            lengths: vec![context as u32; lists],
        }
    }

    pub(crate) fn tables(&self) -> BlockTables<'_> {
        BlockTables {
            page_size: self.size,
            groups: KV_HEADS / self.heads,
            indptr: &self.indptr,
            pages: &self.pages,
            lengths: &self.lengths,
        }
    }

    /// Pages of list `list`, in the order of its tokens.
    pub(crate) fn of_list(&self, list: usize) -> &[u32] {
        &self.pages[self.indptr[list] as usize..self.indptr[list + 1] as usize]
    }

    /// The pool's row of each token and key head, sequence after sequence.
    pub(crate) fn rows(&self) -> Vec<u32> {
        let &Self { batch, context, size, heads, .. } = self;
        let row = |sequence: usize, token: usize, head: usize| {
            let page = page(head / heads * batch + sequence, token / size, context / size) as usize;
            ((page * size + token % size) * heads + head % heads) as u32
        };
        (0..batch * context)
            .flat_map(|t| (0..KV_HEADS).map(move |head| row(t / context, t % context, head)))
            .collect()
    }
}

/// Page number `i` of the `each` pages of a list. An odd step visits every page once, as their number is a power of two.
fn page(list: usize, i: usize, each: usize) -> u32 {
    (i * (2 * list + 77_777) % each + list * each) as u32
}
