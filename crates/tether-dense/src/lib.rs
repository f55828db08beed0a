#![doc = include_str!("../README.md")]

mod exp;
mod matmul;
mod softmax;

pub use exp::exp;
pub use matmul::{MatRef, matmul};
pub use softmax::softmax_rows;
