//! Block tables in the form that paged attention kernels take.

use serde::{Deserialize, Serialize};
use tether_core::SlotId;

/// Slots of several sequences as compressed rows: sequence `i` attends to `indices[indptr[i]..indptr[i + 1]]`, of whose last slot
/// `last_page_len[i]` tokens count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Csr {
    /// `sequences + 1` offsets into `indices`.
    pub indptr: Vec<u32>,
    /// Slots, in logical order.
    pub indices: Vec<u32>,
    /// Tokens in each sequence's last slot; 0 for an empty one.
    pub last_page_len: Vec<u32>,
}

impl Csr {
    /// Rows from slot tables whose slots are all full with `tokens_per_unit` tokens.
    pub fn from_tables<'a>(tables: impl IntoIterator<Item = &'a [SlotId]>, tokens_per_unit: u32) -> Self {
        let mut csr = Self { indptr: vec![0], ..Self::default() };
        for slots in tables {
            csr.indices.extend(slots.iter().map(|s| s.0));
            csr.indptr.push(csr.indices.len() as u32);
            csr.last_page_len.push(if slots.is_empty() { 0 } else { tokens_per_unit });
        }
        csr
    }
}
