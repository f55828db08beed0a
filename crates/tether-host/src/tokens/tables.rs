//! Page tables and lists in host memory.

use std::sync::Arc;

use tether_core::{BlockTables, CoreError, DecodeProblem, PageLists, check_entries};

/// A page table that lists are made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostPageTable {
    pages: Arc<Vec<u32>>,
    /// One more than the largest page that was ever written.
    bound: usize,
}

impl HostPageTable {
    pub(super) fn grow(&mut self, entries: usize) {
        if entries > self.pages.len() {
            Arc::make_mut(&mut self.pages).resize(entries, 0);
        }
    }

    pub(super) fn write(&mut self, at: &[u32], pages: &[u32]) -> Result<(), CoreError> {
        check_entries(self.pages.len(), at, pages)?;
        let table = Arc::make_mut(&mut self.pages);
        for (&at, &page) in at.iter().zip(pages) {
            table[at as usize] = page;
            self.bound = self.bound.max(page as usize + 1);
        }
        Ok(())
    }

    pub(super) fn lists(&self, lists: &PageLists<'_>) -> Result<HostTables, CoreError> {
        lists.check(self.pages.len())?;
        Ok(HostTables {
            page_size: lists.page_size,
            groups: lists.groups,
            starts: lists.starts.to_vec(),
            lengths: lists.lengths.to_vec(),
            pages: Arc::clone(&self.pages),
            page_bound: self.bound,
        })
    }
}

/// Lists of pages, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostTables {
    pub(super) page_size: usize,
    pub(super) groups: usize,
    pub(super) starts: Vec<u32>,
    pub(super) lengths: Vec<u32>,
    pages: Arc<Vec<u32>>,
    page_bound: usize,
}

impl HostTables {
    pub(super) fn new(tables: &BlockTables<'_>) -> Result<Self, CoreError> {
        tables.check()?;
        Ok(Self {
            page_size: tables.page_size,
            groups: tables.groups,
            starts: tables.indptr[..tables.lengths.len()].to_vec(),
            lengths: tables.lengths.to_vec(),
            pages: Arc::new(tables.pages.to_vec()),
            page_bound: tables.page_bound(),
        })
    }

    /// Sequences.
    pub fn sequences(&self) -> usize {
        self.lengths.len() / self.groups.max(1)
    }

    pub(super) fn extents(&self) -> (usize, usize, usize) {
        (self.page_size, self.groups, self.page_bound)
    }

    /// The pages of a list.
    pub(super) fn pages(&self, list: usize) -> &[u32] {
        let pages = (self.lengths[list] as usize).div_ceil(self.page_size);
        &self.pages[self.starts[list] as usize..][..pages]
    }

    /// The problem of attending with queries of shape `q` to pools of shapes `k` and `v`.
    ///
    /// # Errors
    /// Those of [`DecodeProblem::new`].
    pub fn problem(&self, q: &[usize], k: &[usize], v: &[usize]) -> Result<DecodeProblem, CoreError> {
        DecodeProblem::new(q, k, v, (self.page_size, self.groups, self.sequences()), self.page_bound)
    }
}
