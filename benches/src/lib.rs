//! Nothing but benches: `cargo bench -p tether-benches`.
