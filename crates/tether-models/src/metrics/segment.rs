//! Scores of equal parts of a video, and how they fall.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::FrameMetrics;
use crate::ModelError;

/// PSNR, in dB, that counts as a perfect background.
const BEST_PSNR: f64 = 40.0;

/// The score of a run of frames.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SegmentScore {
    /// First frame.
    pub start: usize,
    /// One past the last frame.
    pub end: usize,
    /// Mean of [`FrameMetrics::bg_psnr`], in dB.
    pub bg_psnr: f64,
    /// Mean of [`FrameMetrics::ident`].
    pub ident: f64,
    /// Mean of [`FrameMetrics::colour`].
    pub colour: f64,
    /// Mean of [`FrameMetrics::sat`].
    pub sat: f64,
    /// Motion over the real video's.
    pub motion_ratio: f64,
    /// 1 at the real amount of motion, 0 at none or twice as much.
    pub motion_score: f64,
    /// Quality, 0 to 100: the mean of background (PSNR over 40 dB), identity and motion score.
    pub quality: f64,
}

/// Scores of `segments` equal parts of the frames from `given` on; the frames before were not generated.
///
/// # Errors
/// [`ModelError::OutOfRange`] when `segments` is 0; [`ModelError::TooFewFrames`] when there is less than one frame per
/// segment; [`ModelError::Length`] when the vectors of `m` differ in length.
pub fn segment_scores(
    m: &FrameMetrics,
    given: usize,
    segments: usize,
) -> Result<Vec<SegmentScore>, ModelError> {
    let frames = m.bg_psnr.len();
    let lengths = [
        ("ident", m.ident.len()),
        ("colour", m.colour.len()),
        ("sat", m.sat.len()),
        ("motion", m.motion.len()),
        ("motion_real", m.motion_real.len()),
    ];
    if let Some((what, got)) = lengths.into_iter().find(|(_, got)| *got != frames) {
        return Err(ModelError::Length { what, expected: frames, got });
    }
    if segments == 0 {
        return Err(ModelError::OutOfRange { what: "segments", value: 0.0, requirement: "must be positive" });
    }
    let needed = given.saturating_add(segments);
    if frames < needed {
        return Err(ModelError::TooFewFrames { needed, got: frames });
    }
    let width = (frames - given) as f64 / segments as f64;
    let bound = |i: usize| (given as f64 + width * i as f64).round_ties_even() as usize;
    Ok((0..segments).map(|i| score(m, bound(i)..bound(i + 1))).collect())
}

/// Quality lost between the first and the last segment, in either direction; `None` without segments.
pub fn drift(scores: &[SegmentScore]) -> Option<f64> {
    Some((scores.first()?.quality - scores.last()?.quality).abs())
}

fn score(m: &FrameMetrics, frames: Range<usize>) -> SegmentScore {
    let n = frames.len() as f64;
    let mean = |values: &[f64]| values[frames.clone()].iter().sum::<f64>() / n;
    let (motion, real) = (mean(&m.motion), mean(&m.motion_real));
    let motion_ratio = if motion == real { 1.0 } else { motion / real };
    let motion_score = (1.0 - (motion_ratio - 1.0).abs()).clamp(0.0, 1.0);
    let (bg_psnr, ident) = (mean(&m.bg_psnr), mean(&m.ident));
    SegmentScore {
        start: frames.start,
        end: frames.end,
        bg_psnr,
        ident,
        colour: mean(&m.colour),
        sat: mean(&m.sat),
        motion_ratio,
        motion_score,
        quality: 100.0 * ((bg_psnr / BEST_PSNR).clamp(0.0, 1.0) + ident + motion_score) / 3.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(frames: usize) -> FrameMetrics {
        FrameMetrics {
            bg_psnr: vec![30.0; frames],
            ident: vec![0.5; frames],
            present: vec![1.0; frames],
            sat: vec![0.1; frames],
            colour: vec![0.2; frames],
            motion: vec![0.03; frames],
            motion_real: vec![0.04; frames],
        }
    }

    #[test]
    fn bounds_round_halves_to_even() {
        let scores = segment_scores(&flat(240), 9, 4).expect("long enough");
        let bounds: Vec<_> = scores.iter().map(|s| (s.start, s.end)).collect();
        assert_eq!(bounds, [(9, 67), (67, 124), (124, 182), (182, 240)]);
    }

    #[test]
    fn quality_is_the_mean_of_its_three_parts() {
        let mut m = flat(40);
        m.ident[20..].fill(0.2);
        let scores = segment_scores(&m, 0, 2).expect("long enough");
        assert!((scores[0].quality - 100.0 * (0.75 + 0.5 + 0.75) / 3.0).abs() < 1e-9);
        assert!((drift(&scores).expect("two segments") - 10.0).abs() < 1e-9);
        assert_eq!(drift(&[]), None);
    }

    #[test]
    fn bad_requests_are_errors() {
        let mut m = flat(10);
        assert!(matches!(segment_scores(&m, 0, 0), Err(ModelError::OutOfRange { .. })));
        assert!(matches!(segment_scores(&m, 8, 4), Err(ModelError::TooFewFrames { needed: 12, got: 10 })));
        m.sat.pop();
        assert!(matches!(segment_scores(&m, 0, 1), Err(ModelError::Length { what: "sat", .. })));
    }
}
