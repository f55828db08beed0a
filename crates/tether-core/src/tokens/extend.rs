//! Attention of a block of new tokens over pages that hold it and what came before.

use super::BlockTables;
use crate::CoreError;

/// Tables of one sequence as those of a sequence for each of its last `tokens` tokens, which see no token after their own: so that
/// [`super::TokenEngine::decode`] attends with all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CausalTables {
    indptr: Vec<u32>,
    pages: Vec<u32>,
    lengths: Vec<u32>,
}

impl CausalTables {
    /// Of a block of `tokens` tokens.
    ///
    /// # Errors
    /// Those of [`check_extend`].
    pub fn new(tables: &BlockTables<'_>, tokens: usize) -> Result<Self, CoreError> {
        check_extend(tables, tokens)?;
        let mut all = Self { indptr: vec![0], ..Self::default() };
        for group in 0..tables.groups {
            let (first, length) = (tables.indptr[group] as usize, tables.lengths[group] as usize);
            for seen in length - tokens + 1..=length {
                all.pages.extend(&tables.pages[first..first + seen.div_ceil(tables.page_size)]);
                all.indptr.push(all.pages.len() as u32);
                all.lengths.push(seen as u32);
            }
        }
        Ok(all)
    }

    /// As tables.
    pub fn view(&self, page_size: usize, groups: usize) -> BlockTables<'_> {
        let Self { indptr, pages, lengths } = self;
        BlockTables { page_size, groups, indptr, pages, lengths }
    }
}

/// Tables fit a block of `tokens` tokens of one sequence.
///
/// # Errors
/// Those of [`BlockTables::check`], [`CoreError::Count`] for tables of several sequences, or lists that are shorter than the block.
pub fn check_extend(tables: &BlockTables<'_>, tokens: usize) -> Result<(), CoreError> {
    tables.check()?;
    if tables.sequences() != 1 {
        return Err(CoreError::Count { what: "sequences", expected: 1, got: tables.sequences() });
    }
    match tables.lengths.iter().find(|&&length| (length as usize) < tokens) {
        Some(&got) => Err(CoreError::Count { what: "tokens of a list", expected: tokens, got: got as usize }),
        None => Ok(()),
    }
}
