//! Backends to test with: one that fails and counts, and one that does nothing. They are for everybody who writes a backend, or a session over one.

mod call;
mod faulty;
mod null;
mod watch;

pub use call::Call;
pub use faulty::{Faulty, WatchedRead};
pub use null::{Null, NullIndices, NullRead, NullTables, NullTensor};
pub use watch::{BytesMoved, Watch};
