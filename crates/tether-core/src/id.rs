//! Identifiers: a slot is where a unit lies, a frame index is which unit it is, a position is what its keys are rotated by.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A number with a meaning: it converts from plain numbers and prints as one. A number that does not fit becomes the largest, which names nothing that
/// there is.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty) from $($from:ty),*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl From<$inner> for $name {
            fn from(number: $inner) -> Self {
                Self(number)
            }
        }

        $(impl From<$from> for $name {
            fn from(number: $from) -> Self {
                Self(<$inner>::try_from(number).unwrap_or(<$inner>::MAX))
            }
        })*

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

// From `i32` too: without it a plain `0` would have to say which of the others it is.
id! {
    /// Physical place of one unit in a store. Never a position.
    SlotId(u32) from usize, i32
}

id! {
    /// Layer number, from 0.
    LayerId(u32) from usize, i32
}

id! {
    /// Global index of a unit (frame, chunk, token) in its sequence, in order of generation, from 0.
    UnitIndex(u64) from u32, usize, i32
}

id! {
    /// Number of a chunk (units that are generated together), from 0.
    ChunkIndex(u64) from u32, usize, i32
}

impl SlotId {
    /// As an array index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl LayerId {
    /// As an array index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

#[cfg(test)]
mod tests {
    use super::{ChunkIndex, LayerId, SlotId, UnitIndex};

    #[test]
    fn plain_numbers_become_ids_and_print_as_numbers() {
        fn layer(layer: impl Into<LayerId>) -> String {
            format!("layer {:>3}", layer.into())
        }
        assert_eq!([layer(7), layer(7u32), layer(7usize)], ["layer   7"; 3]);
        assert_eq!(SlotId::from(3).to_string(), "3");
        assert_eq!(UnitIndex::from(u64::MAX).to_string(), u64::MAX.to_string());
        assert_eq!(
            [ChunkIndex::from(5), ChunkIndex::from(5u32), ChunkIndex::from(5usize)],
            [ChunkIndex(5); 3]
        );
    }

    #[test]
    fn a_number_that_does_not_fit_names_nothing() {
        assert_eq!([LayerId::from(-1), LayerId::from(1usize << 40)], [LayerId(u32::MAX); 2]);
        assert_eq!(ChunkIndex::from(-1), ChunkIndex(u64::MAX));
    }
}
