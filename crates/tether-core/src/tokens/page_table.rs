//! Page tables that stay on a device, and the lists that are read through them.

use crate::{CoreError, checks};

/// Which entries of a page table are the pages of which lists: of list `i`, those from `starts[i]` on, of which the first `lengths[i]` tokens count. Lists are
/// numbered as those of [`super::BlockTables`], and may share entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLists<'a> {
    /// Tokens of a page.
    pub page_size: usize,
    /// Groups of key heads.
    pub groups: usize,
    /// The first entry of each list.
    pub starts: &'a [u32],
    /// Tokens of each list.
    pub lengths: &'a [u32],
}

impl PageLists<'_> {
    /// The lists lie within a table of `entries` entries.
    ///
    /// # Errors
    /// [`CoreError::Geometry`] for a size of 0, [`CoreError::Count`] for lists that do not fit each other or the table.
    pub fn check(&self, entries: usize) -> Result<(), CoreError> {
        checks::setting(self.page_size > 0, "page_size", 0, "must be at least 1")?;
        checks::setting(self.groups > 0, "groups", 0, "must be at least 1")?;
        let whole = self.lengths.len().is_multiple_of(self.groups);
        checks::setting(whole, "lengths", self.lengths.len(), "must be a multiple of groups")?;
        checks::count("starts of lists", self.lengths.len(), self.starts.len())?;
        for (&start, &length) in self.starts.iter().zip(self.lengths) {
            let end = start as usize + (length as usize).div_ceil(self.page_size);
            if end > entries {
                return Err(CoreError::Count {
                    what: "entries of a page table",
                    expected: end,
                    got: entries,
                });
            }
        }
        Ok(())
    }
}

/// Entries that are written lie within a table of `entries` entries, one page for each.
///
/// # Errors
/// [`CoreError::Count`].
pub fn check_entries(entries: usize, at: &[u32], pages: &[u32]) -> Result<(), CoreError> {
    checks::count("pages", at.len(), pages.len())?;
    let bound = at.iter().max().map_or(0, |&at| at as usize + 1);
    if bound > entries {
        return Err(CoreError::Count { what: "entries of a page table", expected: bound, got: entries });
    }
    Ok(())
}

/// Some tokens of lists, those of each in the order of their numbers.
#[derive(Clone, Copy, Debug)]
pub struct ChosenTokens<'a, I> {
    /// The first tokens of a list, all of which are among them.
    pub first: usize,
    /// Others, `[lists, n]`, counted from `first` on.
    pub chosen: &'a I,
    /// The last tokens of a list, all of which are among them.
    pub last: usize,
}

impl<I> ChosenTokens<'_, I> {
    /// How many they are of each of `lists` lists of `tokens` tokens, where `chosen` has this shape and nothing of `bound` or more.
    ///
    /// # Errors
    /// [`CoreError::ShapeMismatch`] for other lists, [`CoreError::Count`] where lists have fewer tokens.
    pub fn count(
        &self,
        (lists, tokens): (usize, usize),
        chosen: &[usize],
        bound: usize,
    ) -> Result<usize, CoreError> {
        let &[of, n] = chosen else {
            let (what, expected) = ("chosen tokens", [lists, 0].into());
            return Err(CoreError::ShapeMismatch { what, expected, got: chosen.into() });
        };
        if of != lists {
            let (what, expected) = ("chosen tokens", [lists, n].into());
            return Err(CoreError::ShapeMismatch { what, expected, got: chosen.into() });
        }
        let ends = self.first.saturating_add(self.last);
        let needed = ends.saturating_add(if n > 0 { bound.max(n) } else { 0 });
        if needed > tokens {
            return Err(CoreError::Count { what: "tokens of a list", expected: needed, got: tokens });
        }
        Ok(ends + n)
    }
}
