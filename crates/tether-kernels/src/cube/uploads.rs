//! Small tables on the device, kept for as long as they are asked for again.
//!
//! A decoded token asks for the same few numbers in every layer: which rows it is written to, how long lists are, where they begin. Uploading them
//! costs the host more than a launch does.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use cubecl::prelude::*;
use cubecl::server::Handle;

use super::launch::uploaded;

/// Words of a table that is worth looking for.
const LONGEST: usize = 1024;
/// Tables of a generation: some for each layer of a large model.
const GENERATION: usize = 256;

type Tables = HashMap<Vec<u32>, Handle, ahash::RandomState>;

/// Tables by their numbers, in two generations: what is not asked for while a generation fills is forgotten.
#[derive(Debug, Default)]
struct Generations {
    young: Tables,
    old: Tables,
}

impl Generations {
    fn find(&mut self, table: &[u32]) -> Option<Handle> {
        if let Some(handle) = self.young.get(table) {
            return Some(handle.clone());
        }
        let (table, handle) = self.old.remove_entry(table)?;
        self.insert(table, handle.clone());
        Some(handle)
    }

    fn insert(&mut self, table: Vec<u32>, handle: Handle) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(table, handle);
    }
}

/// Tables that were uploaded lately. Nobody writes to them.
#[derive(Debug, Default)]
pub(super) struct RecentUploads(Mutex<Generations>);

impl RecentUploads {
    /// The table on the device; it has one word at least.
    pub(super) fn table<R: Runtime>(&self, client: &ComputeClient<R>, table: &[u32]) -> Handle {
        if table.len() > LONGEST {
            return uploaded(client, table).0;
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.find(table).unwrap_or_else(|| {
            let handle = uploaded(client, table).0;
            known.insert(table.to_vec(), handle.clone());
            handle
        })
    }
}
