//! Requests that make no sense.

/// A request that cannot be met as it was put.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);
