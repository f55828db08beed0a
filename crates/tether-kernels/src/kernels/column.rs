//! Columns: one vector of every token. The threads of a cube divide a few columns side by side and many tokens among them.

use cubecl::prelude::*;

/// Bytes of the columns that a cube does side by side: two sectors of device memory, which neighbouring cubes complete to whole lines.
pub(crate) const NARROW: usize = 64;
/// The same where cubes are many or work of each is long: a whole line.
pub(crate) const WIDE: usize = 128;

/// Reads `count` tokens of a column, `token`, `token + lanes`, .. as far as they lie below `end`. The first one's vector is `at`, the others
/// follow `step` apart. All are under way at once.
#[cube]
pub(crate) fn load_batch<F: Numeric, N: Size>(
    from: &Array<Vector<F, N>>,
    held: &mut Array<Vector<F, N>>,
    at: u32,
    step: u32,
    token: u32,
    lanes: u32,
    end: u32,
    #[comptime] count: u32,
) {
    #[unroll]
    for i in 0..count {
        if token + i * lanes < end {
            held[i as usize] = from[(at + i * step) as usize];
        }
    }
}
