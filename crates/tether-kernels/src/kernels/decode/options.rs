//! Logits as [`tether_core::AttendOptions`] make them of `scale * q.k`.

use cubecl::prelude::*;

/// What a kernel is made for, beside a scale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Options {
    pub(crate) softcap: bool,
    pub(crate) window: bool,
    pub(crate) alibi: bool,
    /// Positions are given; else a token's position is its place in its list.
    pub(crate) positions: bool,
    /// The kernel makes whole results, which count the sinks.
    pub(crate) sinks: bool,
}

impl Options {
    /// Positions matter.
    pub(crate) fn by_position(self) -> bool {
        self.window || self.alibi
    }

    /// What a window hides is a list's beginning.
    pub(crate) fn trims(self) -> bool {
        self.window && !self.positions
    }

    /// What a window hides may lie anywhere in a list.
    pub(crate) fn skips(self) -> bool {
        self.window && self.positions
    }

    /// Positions are read.
    pub(crate) fn reads_positions(self) -> bool {
        self.by_position() && self.positions
    }
}

/// What stands for the logit of a token that is not seen.
pub(crate) const HIDDEN: f32 = -1e30;

/// Whether the window of a query ends before a token; positions are bits of an `i32`.
#[cube]
pub(crate) fn is_hidden(query: u32, token: u32, window: u32) -> bool {
    i32::cast_from(token) <= i32::cast_from(query) && query - token >= window
}

/// Whole units of `unit` tokens at the beginning of a list of `length` tokens that its last token's window does not reach.
#[cube]
pub(super) fn hidden_units(length: u32, window: u32, #[comptime] unit: u32) -> u32 {
    select(length > window, length - window, 0u32) / unit
}

/// The logit of a token, [`HIDDEN`] where it is not seen.
#[cube]
pub(crate) fn shaped(
    logit: f32,
    query: u32,
    token: u32,
    slope: f32,
    softcap: f32,
    window: u32,
    #[comptime] options: Options,
) -> f32 {
    let mut shaped = logit;
    if comptime!(options.softcap) {
        shaped = softcap * tanh(logit / softcap);
    }
    if comptime!(options.alibi) {
        shaped -= slope * f32::cast_from(i32::cast_from(query) - i32::cast_from(token));
    }
    if comptime!(options.window) {
        shaped = select(is_hidden(query, token, window), f32::new(HIDDEN), shaped);
    }
    shaped
}

/// The weight of a logit. A row of which nothing is seen has weights too, unless they are taken from it.
#[cube]
pub(super) fn weight_of(logit: f32, peak: f32, #[comptime] windowed: bool) -> f32 {
    let weight = (logit - peak).exp();
    if comptime!(windowed) { select(logit > f32::new(-1e29), weight, 0.0f32) } else { weight }
}

/// Hyperbolic tangent: what devices call so may be wrong in the fifth digit, or for large numbers.
#[cube]
fn tanh(x: f32) -> f32 {
    let size = x.abs();
    let e = (size * f32::new(-2.0)).exp();
    let far = (1.0f32 - e) / (1.0f32 + e);
    // Near 0 that difference has few digits left.
    let square = size * size;
    let mut near = square * f32::new(0.021_869_488) - f32::new(0.053_968_254);
    near = square * near + f32::new(0.133_333_33);
    near = square * near - f32::new(0.333_333_33);
    near = size * square * near + size;
    let result = select(size < 0.25f32, near, far);
    select(x < 0.0f32, -result, result)
}
