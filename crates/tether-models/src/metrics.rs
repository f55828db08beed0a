//! How good a generated video is, measured against its scene.

mod background;
mod segment;
mod sprites;

use serde::{Deserialize, Serialize};

pub use self::segment::{SegmentScore, drift, segment_scores};

use self::background::BackgroundMatcher;
use self::sprites::{SpriteCounter, lower_median};
use crate::frame::{CHANNELS, Frame, PIXELS};
use crate::{ModelError, Scene};

/// Measurements of every frame of a video; all vectors have one entry per frame.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FrameMetrics {
    /// PSNR of the best 70 % of the pixels to the background at its best-matching camera offset, in dB, at most 40.
    pub bg_psnr: Vec<f64>,
    /// Mean over the sprites of `min(n, r) / max(n, r)`, where n is the number of pixels of the sprite's colour
    /// and r its median over the real video: 1 when both sprites keep their size and colour.
    pub ident: Vec<f64>,
    /// Fraction of the sprites with more than 40 % of that median.
    pub present: Vec<f64>,
    /// Mean saturation (largest minus smallest channel) minus the real frame's.
    pub sat: Vec<f64>,
    /// Mean over the channels of the absolute difference of the mean colour to the real frame's.
    pub colour: Vec<f64>,
    /// Mean absolute difference to the previous frame; the first frame has the second's.
    pub motion: Vec<f64>,
    /// The same of the real video.
    pub motion_real: Vec<f64>,
}

/// Measures `frames`, frame i of which is the video's frame at time i; the real frames are rendered from `scene`.
///
/// # Errors
/// [`ModelError::TooFewFrames`] when there are fewer than two frames.
pub fn frame_metrics(scene: &Scene, frames: &[Frame]) -> Result<FrameMetrics, ModelError> {
    if frames.len() < 2 {
        return Err(ModelError::TooFewFrames { needed: 2, got: frames.len() });
    }
    let real: Vec<Frame> = (0..frames.len()).map(|t| scene.render(t as f32)).collect();
    let views = scene.world_views();
    let mut background = BackgroundMatcher::new(&views);
    let counter = SpriteCounter::new(scene);
    let real_counts: Vec<_> = real.iter().map(|f| counter.count(f)).collect();
    let reference: Vec<f64> = (0..scene.sprites.len())
        .map(|s| lower_median(real_counts.iter().map(|c| c[s]).collect()).max(4) as f64)
        .collect();

    let mut metrics =
        FrameMetrics { motion: motion(frames), motion_real: motion(&real), ..FrameMetrics::default() };
    for (frame, real) in frames.iter().zip(&real) {
        metrics.bg_psnr.push(background.psnr(frame));
        let (mut ident, mut present) = (0.0, 0.0);
        for (n, reference) in counter.count(frame).into_iter().zip(&reference) {
            let n = n as f64;
            ident += n.min(*reference) / n.max(*reference);
            present += f64::from(u8::from(n > 0.4 * reference));
        }
        let sprites = reference.len() as f64;
        metrics.ident.push(ident / sprites);
        metrics.present.push(present / sprites);
        metrics.sat.push(saturation(frame) - saturation(real));
        metrics.colour.push(colour_distance(frame, real));
    }
    Ok(metrics)
}

fn motion(frames: &[Frame]) -> Vec<f64> {
    let change = |pair: &[Frame]| {
        let sum: f64 =
            pair[0].values().iter().zip(pair[1].values()).map(|(a, b)| f64::from((b - a).abs())).sum();
        sum / Frame::LEN as f64
    };
    let mut motion: Vec<f64> = frames.windows(2).map(change).collect();
    motion.insert(0, motion[0]);
    motion
}

fn saturation(frame: &Frame) -> f64 {
    let [r, g, b] = [0, 1, 2].map(|c| frame.channel(c));
    let sum: f64 =
        r.iter().zip(g).zip(b).map(|((r, g), b)| f64::from(r.max(*g).max(*b) - r.min(*g).min(*b))).sum();
    sum / PIXELS as f64
}

fn colour_distance(a: &Frame, b: &Frame) -> f64 {
    let mean = |f: &Frame, c| f.channel(c).iter().map(|x| f64::from(*x)).sum::<f64>() / PIXELS as f64;
    (0..CHANNELS).map(|c| (mean(a, c) - mean(b, c)).abs()).sum::<f64>() / CHANNELS as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_real_video_scores_near_the_top() {
        let scene = Scene::sample(11, 2);
        let real: Vec<Frame> = (0..48).map(|t| scene.render(t as f32)).collect();
        let m = frame_metrics(&scene, &real).expect("enough frames");
        assert!(m.bg_psnr.iter().all(|x| *x > 30.0));
        assert_eq!(m.motion, m.motion_real);
        assert!(m.sat.iter().chain(&m.colour).all(|x| *x == 0.0));
        let scores = segment_scores(&m, 9, 4).expect("enough frames");
        assert!(scores.iter().all(|s| s.quality > 88.0), "{scores:?}");
    }

    #[test]
    fn a_lost_sprite_and_a_still_picture_cost_quality() {
        let scene = Scene::sample(11, 3);
        let view = scene.world_views().swap_remove(4);
        let frames = vec![view; 20];
        let m = frame_metrics(&scene, &frames).expect("enough frames");
        assert!(m.present.iter().all(|x| *x == 0.0));
        assert!(m.motion.iter().all(|x| *x == 0.0));
        assert!(m.bg_psnr.iter().all(|x| *x == 40.0));
        let quality = segment_scores(&m, 0, 1).expect("enough frames")[0].quality;
        assert!(quality < 45.0, "{quality}");
    }

    #[test]
    fn one_frame_is_not_a_video() {
        let scene = Scene::sample(0, 0);
        let got = frame_metrics(&scene, &[scene.render(0.0)]);
        assert!(matches!(got, Err(ModelError::TooFewFrames { needed: 2, got: 1 })));
    }
}
