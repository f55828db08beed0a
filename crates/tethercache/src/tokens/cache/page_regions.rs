//! Which entries of a layer's page table belong to which list of pages.

use tether_core::{CoreError, TokenEngine};

use super::head_pages::HeadPages;

/// Entries of the smallest region.
const SMALLEST: usize = 8;

/// Entries of a page table that belong to one list, `start..start + capacity`. A copy of a list has none yet: who reads it has them written.
#[derive(Debug, Default)]
pub(super) struct Region {
    start: u32,
    capacity: usize,
    /// Entries that hold the list's pages, from the first on.
    written: usize,
}

impl Clone for Region {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Region {
    /// The first entry.
    pub(super) fn start(&self) -> u32 {
        self.start
    }

    /// True when the table has the list's first `pages` pages.
    pub(super) fn is_written(&self, pages: usize) -> bool {
        self.written == pages
    }

    /// Pages of the list from number `page` on are others now.
    pub(super) fn changed_from(&mut self, page: usize) {
        self.written = self.written.min(page);
    }
}

/// The page table of one layer, on the device, and the regions that lists have of it: powers of two, so that a list that grows moves seldom.
#[derive(Debug)]
pub(super) struct PageRegions<E: TokenEngine> {
    table: E::PageTable,
    entries: usize,
    /// Entries up to this one belong to some region, free or not.
    used: usize,
    /// Regions that nobody has, by the logarithm of their capacity.
    free: Vec<Vec<u32>>,
}

impl<E: TokenEngine> PageRegions<E> {
    pub(super) fn new(engine: &E, entries: usize) -> Result<Self, CoreError> {
        let entries = entries.next_power_of_two();
        Ok(Self { table: engine.create_page_table(entries)?, entries, used: 0, free: Vec::new() })
    }

    /// The table on the device.
    pub(super) fn table(&self) -> &E::PageTable {
        &self.table
    }

    /// Writes what of the lists' pages the table does not have yet.
    pub(super) fn sync(&mut self, engine: &E, lists: &mut [&mut HeadPages]) -> Result<(), CoreError> {
        let (mut at, mut pages) = (Vec::new(), Vec::new());
        for list in lists.iter_mut() {
            let needed = list.blocks.len();
            if needed > list.region.capacity {
                let region = self.take(engine, needed)?;
                self.put_back(std::mem::replace(&mut list.region, region));
            }
            let Region { start, written, .. } = list.region;
            at.extend((written..needed).map(|page| start + page as u32));
            pages.extend(list.blocks.iter().skip(written));
        }
        if !at.is_empty() {
            engine.write_page_table(&mut self.table, &at, &pages)?;
        }
        lists.iter_mut().for_each(|list| list.region.written = list.blocks.len());
        Ok(())
    }

    /// Takes back the region of a list that nobody reads any more.
    pub(super) fn put_back(&mut self, region: Region) {
        if region.capacity > 0 {
            let class = region.capacity.trailing_zeros() as usize;
            if self.free.len() <= class {
                self.free.resize(class + 1, Vec::new());
            }
            self.free[class].push(region.start);
        }
    }

    fn take(&mut self, engine: &E, needed: usize) -> Result<Region, CoreError> {
        let capacity = needed.next_power_of_two().max(SMALLEST);
        let class = capacity.trailing_zeros() as usize;
        if let Some(start) = self.free.get_mut(class).and_then(Vec::pop) {
            return Ok(Region { start, capacity, written: 0 });
        }
        let end = self.used + capacity;
        if end > self.entries {
            let entries = end.next_power_of_two();
            engine.grow_page_table(&mut self.table, entries)?;
            self.entries = entries;
        }
        let start = self.used as u32;
        self.used = end;
        Ok(Region { start, capacity, written: 0 })
    }
}

#[cfg(test)]
mod tests {
    use tether_host::Host;

    use super::*;

    #[test]
    fn regions_grow_and_are_used_again() {
        let host = Host::new();
        let mut regions: PageRegions<Host> = PageRegions::new(&host, 1).expect("the host has room");
        let mut lists = vec![HeadPages::default(); 3];
        for step in 0..40u32 {
            for (i, list) in lists.iter_mut().enumerate() {
                list.blocks.push(3 * step + i as u32);
            }
            regions.sync(&host, &mut lists.iter_mut().collect::<Vec<_>>()).expect("the pages fit");
            let mut taken: Vec<(u32, u32)> =
                lists.iter().map(|l| (l.region.start, l.region.start + l.region.capacity as u32)).collect();
            taken.sort_unstable();
            assert!(taken.windows(2).all(|pair| pair[0].1 <= pair[1].0), "regions overlap: {taken:?}");
        }
        // 8 + 16 + 32 + 64 of each list, of which the larger ones took over what the smaller ones left.
        assert!(regions.entries <= 512, "{}", regions.entries);
        let copy = lists[0].clone();
        assert_eq!(copy.region.capacity, 0, "a copy has entries of its own when it is read");
    }
}
