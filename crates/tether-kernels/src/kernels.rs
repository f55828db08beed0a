//! The kernels, one concept a file. They are generic over the storage type and compute in `f32`; launching them, checks and buffers are
//! `cube`'s business.

pub(crate) mod align;
pub(crate) mod attend;
pub(crate) mod copy;
pub(crate) mod mass;
pub(crate) mod moments;
pub(crate) mod rotate;
