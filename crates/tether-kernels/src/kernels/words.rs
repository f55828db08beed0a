//! Small tables that a kernel reads: lists of slots, rows and ranges.

use cubecl::prelude::*;

/// Words of a table. A short one rides with the launch, among its scalars: an upload of its own costs as much as a kernel. A long one
/// is the only entry of `table`.
#[derive(CubeType, CubeLaunch)]
pub(crate) struct Words {
    pub(crate) inline: Sequence<u32>,
    pub(crate) table: Sequence<Array<u32>>,
}

#[cube]
impl Words {
    /// Word `index`, which the table must have.
    pub(crate) fn get(&self, index: u32) -> u32 {
        let count = self.inline.len();
        let mut word = 0u32;
        if comptime!(count == 0) {
            word = self.table.index(0usize)[index as usize];
        } else {
            #[unroll]
            for i in 0..count {
                if index == comptime!(i as u32) {
                    word = *self.inline.index(i);
                }
            }
        }
        word
    }

    /// All words where many of them are read: in shared memory when they came with the launch. All threads of the cube take part.
    pub(crate) fn staged(&self) -> Slice<u32> {
        let count = self.inline.len();
        if comptime!(count == 0) {
            self.table.index(0usize).to_slice()
        } else {
            let mut words = SharedMemory::<u32>::new(count);
            if UNIT_POS == 0 {
                #[unroll]
                for i in 0..count {
                    words[i] = *self.inline.index(i);
                }
            }
            sync_cube();
            words.to_slice()
        }
    }
}
