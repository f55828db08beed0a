//! Rows of whole numbers with scales and zeros, of half precision, and of radii with trained directions: numbers to
//! codes, and back.
//!
//! A page's codes are rows of whole words. `beside` has what goes beside them, in words: a scale and a zero in half
//! precision for each row and group of channels, or for each channel of a page; or a byte of radius for each row and
//! group, in whole words, and then a scale (`f32`) for each group of the page.

use cubecl::prelude::*;

use super::halves::{half_bits, half_value};

/// What codes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Coding {
    /// Half precision.
    Half,
    /// Whole numbers; so many channels of a row share a scale.
    Channels(u32),
    /// Whole numbers; a channel of all rows of a page has one scale.
    Tokens,
    /// Radii and directions of groups of so many channels.
    Directions(u32),
}

/// How rows of a side are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RowFormat {
    pub(crate) coding: Coding,
    /// Bits of a code.
    pub(crate) bits: u32,
    pub(crate) dim: u32,
    /// Rows of a page.
    pub(crate) page: u32,
}

impl RowFormat {
    /// Codes of a byte, where channels far apart share one; 0 where codes follow each other.
    fn planes(self) -> u32 {
        let count = 8 / self.bits.min(8);
        let planar = matches!(self.coding, Coding::Channels(_) | Coding::Tokens)
            && 8 % self.bits == 0
            && self.dim.is_multiple_of(count);
        if planar { count } else { 0 }
    }

    /// Codes of a row.
    pub(crate) fn codes(self) -> u32 {
        match self.coding {
            Coding::Directions(channels) => self.dim / channels,
            _ => self.dim,
        }
    }

    /// Words of a row's codes.
    pub(crate) fn row_words(self) -> u32 {
        (self.codes() * self.bits).div_ceil(32)
    }

    /// Groups of a row that have something beside them.
    pub(crate) fn groups(self) -> u32 {
        match self.coding {
            Coding::Half => 0,
            Coding::Channels(size) | Coding::Directions(size) => self.dim.div_ceil(size),
            Coding::Tokens => self.dim,
        }
    }

    /// Channels of a row that have one scale or direction.
    fn together(self) -> u32 {
        match self.coding {
            Coding::Channels(size) | Coding::Directions(size) => size,
            Coding::Half | Coding::Tokens => 1,
        }
    }

    fn is_directions(self) -> bool {
        matches!(self.coding, Coding::Directions(_))
    }

    /// Words of a row's radii.
    fn radius_words(self) -> u32 {
        self.groups().div_ceil(4)
    }

    /// Words beside a page's codes.
    pub(crate) fn page_words(self) -> u32 {
        match self.coding {
            Coding::Half => 0,
            Coding::Channels(_) => self.page * self.groups(),
            Coding::Tokens => self.dim,
            Coding::Directions(_) => self.page * self.radius_words() + self.groups(),
        }
    }
}

/// Code number `code` of the row whose codes begin at word `first`.
#[allow(clippy::collapsible_if, reason = "the outer condition is the compiler's, the inner one the device's")]
#[cube]
fn code_at(codes: &Array<u32>, first: u32, code: u32, #[comptime] format: RowFormat) -> u32 {
    let bits = comptime!(format.bits);
    let planes = comptime!(format.planes());
    let mut bit = code * bits;
    if comptime!(planes > 0) {
        let bytes = comptime!(format.dim / planes.max(1));
        bit = code % bytes * 8 + code / bytes * bits;
    }
    let shift = bit % 32;
    let mut word = codes[(first + bit / 32) as usize] >> shift;
    if comptime!(planes == 0 && 32 % bits != 0) {
        if shift > comptime!(32 - bits) {
            word |= codes[(first + bit / 32 + 1) as usize] << (32 - shift);
        }
    }
    word & comptime!((1u32 << bits) - 1)
}

/// The number that channel `channel` of row `row` of the pool is; `frames` holds the directions of head `head`.
#[cube]
pub(crate) fn number_at(
    codes: &Array<u32>,
    beside: &Array<u32>,
    frames: &Array<f32>,
    row: u32,
    head: u32,
    channel: u32,
    #[comptime] format: RowFormat,
) -> f32 {
    let first = row * comptime!(format.row_words());
    let page = row / comptime!(format.page);
    if comptime!(format.coding == Coding::Half) {
        half_value(code_at(codes, first, channel, format))
    } else if comptime!(format.is_directions()) {
        let channels = comptime!(format.together());
        let group = channel / channels;
        let words = comptime!(format.page_words());
        let radii = page * words + row % comptime!(format.page) * comptime!(format.radius_words());
        let radius = (beside[(radii + group / 4) as usize] >> (group % 4 * 8)) & 255u32;
        let scales = page * words + comptime!(format.page * format.radius_words());
        let scale = f32::reinterpret(beside[(scales + group) as usize]);
        let book = comptime!(format.together() << format.bits);
        let entry = code_at(codes, first, group, format) * channels + channel % channels;
        let at = head * comptime!(format.groups() * book) + group * book + entry;
        f32::cast_from(radius) * scale * frames[at as usize]
    } else {
        let mut at = page * comptime!(format.dim) + channel;
        if comptime!(format.coding != Coding::Tokens) {
            at = row * comptime!(format.groups()) + channel / comptime!(format.together());
        }
        let pair = beside[at as usize];
        let code = f32::cast_from(code_at(codes, first, channel, format));
        code * half_value(pair) + half_value(pair >> 16u32)
    }
}

/// Scales and zeros of what is coded to whole numbers, one thread each. `x` is `[rows of a page, pages, dim]`, and page
/// `i` goes to page `places[i]`.
#[cube(launch_unchecked)]
pub(crate) fn scales_of_groups<F: Float>(
    x: &Array<F>,
    places: &Array<u32>,
    beside: &mut Array<u32>,
    pages: u32,
    smallest: f32,
    #[comptime] format: RowFormat,
) {
    let at = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * CUBE_DIM_X + UNIT_POS_X;
    let groups = comptime!(format.groups());
    let dim = comptime!(format.dim);
    let by_token = comptime!(format.coding != Coding::Tokens);
    let rows = comptime!(if by_token { format.page } else { 1u32 });
    if at < pages * rows * groups {
        let group = at % groups;
        let row = at / groups % rows;
        let page = at / groups / rows;
        let mut first = (row * pages + page) * dim + group;
        let mut step = pages * dim;
        let mut count = comptime!(format.page).runtime();
        if comptime!(by_token) {
            let size = comptime!(format.together());
            first = (row * pages + page) * dim + group * size;
            step = 1u32.runtime();
            count = size.runtime();
            if group * size + count > dim {
                count = dim - group * size;
            }
        }
        let mut low = f32::cast_from(x[first as usize]);
        let mut high = low;
        for i in 0..count {
            let number = f32::cast_from(x[(first + i * step) as usize]);
            low = low.min(number);
            high = high.max(number);
        }
        let range = (high - low).max(smallest);
        let scale = half_bits(range / comptime!(((1u32 << format.bits) - 1) as f32));
        let place = places[page as usize];
        beside[((place * rows + row) * groups + group) as usize] = scale | (half_bits(low) << 16u32);
    }
}

/// The code of `number`.
#[cube]
fn code_of(number: f32, pair: u32, #[comptime] bits: u32) -> u32 {
    let scale = half_value(pair);
    let zero = half_value(pair >> 16u32);
    let most = comptime!(((1u32 << bits) - 1) as f32);
    let steps = (number - zero) / select(scale > 0.0f32, scale, 1.0f32);
    let whole = steps.floor();
    // Halves away from zero; what is below it is code 0.
    let rounded = whole + select(steps - whole >= 0.5f32, 1.0f32, 0.0f32);
    let code = u32::cast_from(rounded.max(0.0f32).min(most));
    select(scale > 0.0f32, code, 0u32)
}

/// Codes of half precision and of whole numbers, one thread for each word. Arguments are those of [`scales_of_groups`],
/// which ran before.
#[cube(launch_unchecked)]
pub(crate) fn codes_of_rows<F: Float>(
    x: &Array<F>,
    places: &Array<u32>,
    beside: &Array<u32>,
    codes: &mut Array<u32>,
    pages: u32,
    #[comptime] format: RowFormat,
) {
    let at = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * CUBE_DIM_X + UNIT_POS_X;
    let words = comptime!(format.row_words());
    let dim = comptime!(format.dim);
    let bits = comptime!(format.bits);
    let planes = comptime!(format.planes());
    if at < comptime!(format.page) * pages * words {
        let word = at % words;
        let row = at / words;
        let page = row % pages;
        let place = places[page as usize];
        let place_row = place * comptime!(format.page) + row / pages;
        // A code before the word may reach into it.
        let mut first = word * 32 / bits;
        let mut last = ((word + 1) * 32).div_ceil(bits);
        if comptime!(planes > 0) {
            first = word * 4;
            last = (word + 1) * 4;
        }
        let row_codes = comptime!(if planes > 0 { dim / planes.max(1) } else { dim });
        if last > row_codes {
            last = row_codes.runtime();
        }
        let mut packed = 0u32.runtime();
        for i in first..last {
            #[unroll]
            for plane in 0..comptime!(planes.max(1)) {
                let channel = i + plane * row_codes;
                let number = f32::cast_from(x[(row * dim + channel) as usize]);
                let code = if comptime!(format.coding == Coding::Half) {
                    half_bits(number)
                } else {
                    let mut pair = place * dim + channel;
                    if comptime!(format.coding != Coding::Tokens) {
                        pair =
                            place_row * comptime!(format.groups()) + channel / comptime!(format.together());
                    }
                    code_of(number, beside[pair as usize], bits)
                };
                if comptime!(planes > 0) {
                    packed |= code << ((i - first) * 8 + comptime!(plane * bits));
                } else if i * bits >= word * 32 {
                    packed |= code << (i * bits - word * 32);
                } else {
                    packed |= code >> (word * 32 - i * bits);
                }
            }
        }
        codes[(place_row * words + word) as usize] = packed;
    }
}

/// Scales of the groups of pages that are coded to directions, one thread each: the largest radius over the largest
/// code.
#[cube(launch_unchecked)]
pub(crate) fn scales_of_radii<F: Float>(
    x: &Array<F>,
    places: &Array<u32>,
    beside: &mut Array<u32>,
    pages: u32,
    #[comptime] format: RowFormat,
) {
    let at = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * CUBE_DIM_X + UNIT_POS_X;
    let groups = comptime!(format.groups());
    if at < pages * groups {
        let group = at % groups;
        let page = at / groups;
        let channels = comptime!(format.dim / format.groups());
        let mut largest = 0.0f32;
        for row in 0..comptime!(format.page) {
            let first = (row * pages + page) * comptime!(format.dim) + group * channels;
            let mut square = 0.0f32;
            for i in 0..channels {
                let number = f32::cast_from(x[(first + i) as usize]);
                square += number * number;
            }
            let radius = square.sqrt();
            largest = select(radius > largest, radius, largest);
        }
        let scales = comptime!(format.page * format.radius_words());
        let at = places[page as usize] * comptime!(format.page_words()) + scales + group;
        beside[at as usize] = u32::reinterpret(largest / 127.0f32);
    }
}

/// Radii and directions of rows, one thread a row. `frames` holds the directions of each page. Scales are there.
#[cube(launch_unchecked)]
pub(crate) fn directions_of_rows<F: Float>(
    x: &Array<F>,
    places: &Array<u32>,
    frames: &Array<f32>,
    beside: &mut Array<u32>,
    codes: &mut Array<u32>,
    pages: u32,
    #[comptime] format: RowFormat,
) {
    let row = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * CUBE_DIM_X + UNIT_POS_X;
    let groups = comptime!(format.groups());
    let bits = comptime!(format.bits);
    let words = comptime!(format.row_words());
    if row < comptime!(format.page) * pages {
        let page = row % pages;
        let place = places[page as usize];
        let place_row = place * comptime!(format.page) + row / pages;
        let channels = comptime!(format.dim / format.groups());
        let book = comptime!(channels << bits);
        let of_page = place * comptime!(format.page_words());
        let radii = of_page + row / pages * comptime!(format.radius_words());
        for word in 0..words {
            codes[(place_row * words + word) as usize] = 0u32.runtime();
        }
        for word in 0..comptime!(format.radius_words()) {
            beside[(radii + word) as usize] = 0u32.runtime();
        }
        for group in 0..groups {
            let first = row * comptime!(format.dim) + group * channels;
            let directions = (page * groups + group) * book;
            let mut square = 0.0f32;
            for i in 0..channels {
                let number = f32::cast_from(x[(first + i) as usize]);
                square += number * number;
            }
            let mut best = 0u32.runtime();
            let mut along = f32::new(-3e38);
            for entry in 0..comptime!(1u32 << bits) {
                let mut dot = 0.0f32;
                for i in 0..channels {
                    dot += frames[(directions + entry * channels + i) as usize]
                        * f32::cast_from(x[(first + i) as usize]);
                }
                // The lower of two as near.
                if dot > along {
                    along = dot;
                    best = entry;
                }
            }
            let bit = group * bits;
            let at = place_row * words + bit / 32;
            codes[at as usize] |= best << (bit % 32);
            if bit % 32 + bits > 32 {
                codes[(at + 1) as usize] |= best >> (32 - bit % 32);
            }
            let scales = of_page + comptime!(format.page * format.radius_words());
            let scale = f32::reinterpret(beside[(scales + group) as usize]);
            let steps = square.sqrt() / select(scale > 0.0f32, scale, 1.0f32);
            let whole = steps.floor();
            let rounded = whole + select(steps - whole >= 0.5f32, 1.0f32, 0.0f32);
            let radius = select(scale > 0.0f32, u32::cast_from(rounded.min(127.0f32)), 0u32);
            beside[(radii + group / 4) as usize] |= radius << (group % 4 * 8);
        }
    }
}

/// The numbers that pages stand for, `[rows of a page, pages, dim]`, one thread each. `frames` holds the directions of
/// each page.
#[cube(launch_unchecked)]
pub(crate) fn restore_rows<F: Float>(
    codes: &Array<u32>,
    beside: &Array<u32>,
    frames: &Array<f32>,
    places: &Array<u32>,
    out: &mut Array<F>,
    pages: u32,
    #[comptime] format: RowFormat,
) {
    let at = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * CUBE_DIM_X + UNIT_POS_X;
    let dim = comptime!(format.dim);
    if at < comptime!(format.page) * pages * dim {
        let row = at / dim;
        let page = row % pages;
        let place_row = places[page as usize] * comptime!(format.page) + row / pages;
        let number = number_at(codes, beside, frames, place_row, page, at % dim, format);
        out[at as usize] = F::cast_from(number);
    }
}
