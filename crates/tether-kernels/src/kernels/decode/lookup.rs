//! Levels of two codes at once, from a table in shared memory.

use cubecl::prelude::*;

/// Threads of a plane, each of which has a copy of the table in a memory bank of its own.
const COPIES: u32 = 32;

/// Entries of the table of codes of `bits` bits, with its copies.
pub(crate) fn lookup_entries(bits: u32) -> usize {
    (COPIES << (2 * bits)) as usize
}

/// Fills `table` from entry `first` on: for every pair of codes, the first one in the lower bits, what they stand for. All `threads` threads of the cube take part,
/// and have to wait for each other afterwards.
#[cube]
pub(super) fn fill<F: Float, N2: Size>(
    table: &mut SharedMemory<Vector<F, N2>>,
    levels: &Array<f32>,
    first_level: u32,
    first: u32,
    #[comptime] bits: u32,
    #[comptime] threads: u32,
) {
    let entries = comptime!(lookup_entries(bits) as u32);
    // Unrolled, so that loads do not wait for each other.
    #[unroll]
    for round in 0..comptime!(entries.div_ceil(threads)) {
        let i = round * threads + UNIT_POS;
        let codes = i / COPIES;
        let mut pair = Vector::<F, N2>::empty();
        if i < entries {
            pair[0] = F::cast_from(levels[(first_level + codes % comptime!(1u32 << bits)) as usize]);
            pair[1] = F::cast_from(levels[(first_level + codes / comptime!(1u32 << bits)) as usize]);
            table[(first + i) as usize] = pair;
        }
    }
}

/// What the two codes from bit `bit` of `word` on stand for. `own` is 4 times the table's first entry plus the thread's number in its plane; the table begins at a
/// multiple of its size.
#[cube]
pub(super) fn look_up<F: Float, N2: Size>(
    table: &SharedMemory<Vector<F, N2>>,
    word: u32,
    own: u32,
    #[comptime] bit: u32,
    #[comptime] bits: u32,
) -> Vector<F, N2> {
    // In bytes, which is what an address is made of: shift, mask and bits of the thread are two instructions then.
    let entry = comptime!((4 * COPIES).ilog2());
    let mask = comptime!(((1u32 << (2 * bits)) - 1) << entry);
    let codes = if comptime!(bit >= entry) {
        (word >> comptime!(bit - entry)) & mask
    } else {
        (word << comptime!(entry - bit)) & mask
    };
    table[((codes | own) >> 2) as usize]
}

/// Codes of two rows' words, side by side: every second code from the first on, each of `x` below the one of `y`.
#[cube]
pub(super) fn even_codes(x: u32, y: u32, #[comptime] bits: u32) -> u32 {
    let mask = comptime!(every_second(bits));
    (x & mask) | ((y & mask) << bits)
}

/// As [`even_codes`], of the other codes.
#[cube]
pub(super) fn odd_codes(x: u32, y: u32, #[comptime] bits: u32) -> u32 {
    let mask = comptime!(every_second(bits));
    ((x >> bits) & mask) | (y & comptime!(mask << bits))
}

/// Bits of every second code.
fn every_second(bits: u32) -> u32 {
    match bits {
        1 => 0x5555_5555,
        2 => 0x3333_3333,
        _ => 0x0f0f_0f0f,
    }
}
