//! Rows of one head's keys or values under any codec: what a session stores, and reads without knowing which codec it is.
//!
//! A [`tether_core::RowCodec`] is the setting. From it comes a [`RowFrame`], which is what the codes of a head have in
//! common, and then codes pages of rows in it ([`CodedRows`]). Codes are read
//! in the frame's own coordinates, so that what is linear is done once for a query and not once for a row: [`RowFrame::enter`] takes queries there, and
//! [`RowFrame::leave`] brings sums of values back.

mod codec;
mod coded;
mod frame;

pub use codec::page_bytes;
pub use coded::CodedRows;
pub use frame::RowFrame;
