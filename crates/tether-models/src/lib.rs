#![doc = include_str!("../README.md")]

mod activation;
mod attention;
#[cfg(feature = "language")]
mod cached_attention;
#[cfg(feature = "language")]
mod dense_attention;
mod error;
mod frame;
mod linear;
#[cfg(feature = "language")]
mod llama;
mod metrics;
mod noise;
mod norm;
mod observer;
mod palette;
mod published;
mod received;
#[cfg(feature = "language")]
mod recorded_pass;
mod sampler;
mod scene;
mod session;
mod similarity;
mod step_reuse;
mod tinyvideo;
#[cfg(feature = "language")]
mod token_attention;

pub use attention::ChunkAttention;
#[cfg(feature = "language")]
pub use cached_attention::CachedAttention;
#[cfg(feature = "language")]
pub use dense_attention::DenseAttention;
pub use error::{ForwardError, ModelError};
pub use frame::{CHANNELS, FRAME_SIZE, Frame, PATCH, TOKEN_VALUES, TOKENS_PER_FRAME, patchify, unpatchify};
#[cfg(feature = "language")]
pub use llama::{
    BlockFormat, GgufError, GgufFile, GgufValue, HeadProbe, Llama, LlamaConfig, LlamaSession, LlamaWorkspace,
    Prediction, RopeScaling, TextStream, TextTokenizer, TokenTiming, greedy,
};
pub use metrics::{FrameMetrics, SegmentScore, drift, frame_metrics, segment_scores};
pub use noise::chunk_noise;
pub use observer::ForwardObserver;
pub use palette::SpriteColour;
pub use published::{PUBLISHED, PublishedModel, SMOLLM2};
pub use received::ReceivedAttention;
#[cfg(feature = "language")]
pub use recorded_pass::RecordedPass;
pub use sampler::{Schedule, sample_chunk, sample_chunk_hooked};
pub use scene::{Blob, Camera, Scene, Sprite, SpriteShape, Stripe};
pub use session::{CachedPass, SessionError, SessionTiming, VideoSession};
pub use similarity::{psnr, ssim};
pub use step_reuse::{PlaceCall, PlaceHook, PlaceRecorder, VideoReuse};
pub use tinyvideo::{TinyVideo, TinyVideoConfig, Workspace};
#[cfg(feature = "language")]
pub use token_attention::{TokenAttention, TokenBlock};
