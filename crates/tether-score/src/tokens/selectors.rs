//! The selectors, one a file.

mod blocks;
mod chunks;
mod elastic_official;
mod pages;
mod spans;
mod top_k;
mod windows;

pub use blocks::Blocks;
pub use chunks::Chunks;
pub use elastic_official::ElasticOfficial;
pub use pages::Pages;
pub use top_k::TopK;
pub(super) use top_k::{across_heads, best};
pub use windows::Windows;
