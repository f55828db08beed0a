//! The same codec operations for every engine, against `f64` oracles.
//!
//! A case takes the storage type where it matters and runs over its own table of shapes; it returns what the engine refuses and panics when a
//! result is wrong.

mod code_pages;
mod decode;
mod quantise;
mod spherical;
mod spherical_decode;

pub use code_pages::{
    attends_over_pages_of_codes, copies_codes_unchanged, merges_segments,
    refuses_pages_of_codes_that_do_not_fit, writes_and_restores_pages,
};
pub use decode::{attends_over_codes, refuses_codes_it_cannot_attend_to};
pub use quantise::{
    carries_codes_unchanged, quantises, quantises_what_it_dequantised, refuses_formats_that_do_not_fit,
};
pub use spherical::{
    carries_spherical_codes_unchanged, codes_spherically, refuses_spherical_codes_that_do_not_fit,
    restores_spherical_codes, writes_spherical_rows,
};
pub use spherical_decode::{
    attends_over_spherical_codes, merges_spherical_codes_with_numbers,
    refuses_spherical_codes_it_cannot_attend_to,
};
