#![doc = include_str!("../README.md")]

mod align_moments;
mod edit_frames;
mod error;
pub mod tokens;

pub use align_moments::{AlignMoments, SequenceEdit, align_tokens};
pub use edit_frames::{EditFrames, FrameEditor};
pub use error::EditError;
pub use tether_core::{AlignJob, ChannelAlignment, Edit, Moments, MomentsView, Region, SlotId, Spread};
pub use tether_part as part;
