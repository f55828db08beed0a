//! Where codes lie in words, and their levels in the table of all levels.

use cubecl::prelude::*;

/// Index of the first level of codes of `bits` bits in the table of all levels: those of 1, 2, 3, 4 and 6 bits, one after the other.
pub(crate) fn level_offset(bits: u32) -> u32 {
    if bits == 6 { 30 } else { (1 << bits) - 2 }
}

/// Code of channel `channel` of a row that begins at word `first`.
#[allow(clippy::collapsible_if, reason = "the outer condition is the compiler's, the inner one the device's")]
#[cube]
pub(crate) fn code_at(codes: &Array<u32>, first: u32, channel: u32, #[comptime] bits: u32) -> u32 {
    let bit = channel * bits;
    let shift = bit % 32;
    let mut code = codes[(first + bit / 32) as usize] >> shift;
    if comptime!(32 % bits != 0) {
        if shift > comptime!(32 - bits) {
            code |= codes[(first + bit / 32 + 1) as usize] << (32 - shift);
        }
    }
    code & comptime!((1u32 << bits) - 1)
}
