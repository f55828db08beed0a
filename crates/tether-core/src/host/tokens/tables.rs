//! Block tables in host memory.

use crate::{BlockTables, CoreError, DecodeProblem};

/// [`BlockTables`] that own their lists, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostTables {
    page_size: usize,
    groups: usize,
    indptr: Vec<u32>,
    pages: Vec<u32>,
    lengths: Vec<u32>,
}

impl HostTables {
    pub(super) fn new(tables: &BlockTables<'_>) -> Result<Self, CoreError> {
        tables.check()?;
        Ok(Self {
            page_size: tables.page_size,
            groups: tables.groups,
            indptr: tables.indptr.to_vec(),
            pages: tables.pages.to_vec(),
            lengths: tables.lengths.to_vec(),
        })
    }

    /// The lists.
    pub fn view(&self) -> BlockTables<'_> {
        BlockTables {
            page_size: self.page_size,
            groups: self.groups,
            indptr: &self.indptr,
            pages: &self.pages,
            lengths: &self.lengths,
        }
    }

    /// The problem of attending with queries of shape `q` to pools of shapes `k` and `v`.
    ///
    /// # Errors
    /// Those of [`DecodeProblem::new`].
    pub fn problem(&self, q: &[usize], k: &[usize], v: &[usize]) -> Result<DecodeProblem, CoreError> {
        let view = self.view();
        DecodeProblem::new(q, k, v, (self.page_size, self.groups, view.sequences()), view.page_bound())
    }
}
