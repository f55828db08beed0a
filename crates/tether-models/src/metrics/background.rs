//! How well a frame's background is that of the scene.

use pulp::{Arch, Simd, WithSimd};

use crate::frame::{CHANNELS, Frame, PIXELS};
use crate::similarity::decibels;

/// Pixels that count: the best 70 %, so that sprites need not be masked.
const KEPT: usize = PIXELS * 7 / 10;
/// Mean squared error in [0, 1] units below which frames count as equal: 40 dB.
const FLOOR: f64 = 1e-4;

/// Compares frames with the backgrounds that a scene's camera can see.
pub(super) struct BackgroundMatcher<'a> {
    arch: Arch,
    views: &'a [Frame],
    errors: Vec<u32>,
}

impl<'a> BackgroundMatcher<'a> {
    pub(super) fn new(views: &'a [Frame]) -> Self {
        Self { arch: Arch::new(), views, errors: vec![0; PIXELS] }
    }

    /// PSNR, in dB, to the best view.
    pub(super) fn psnr(&mut self, frame: &Frame) -> f64 {
        let mse =
            (0..self.views.len()).map(|view| self.trimmed_error(frame, view)).fold(f64::INFINITY, f64::min);
        decibels(mse, FLOOR)
    }

    fn trimmed_error(&mut self, frame: &Frame, view: usize) -> f64 {
        self.arch.dispatch(SquaredErrors { frame, view: &self.views[view], errors: &mut self.errors });
        let (kept, last, _) = self.errors.select_nth_unstable(KEPT - 1);
        let sum: f64 = kept.iter().chain([&*last]).map(|e| f64::from(f32::from_bits(*e))).sum();
        sum / (KEPT * CHANNELS) as f64
    }
}

/// Writes every pixel's squared error, summed over the channels, as the bits of an `f32`.
struct SquaredErrors<'a> {
    frame: &'a Frame,
    view: &'a Frame,
    errors: &'a mut [u32],
}

impl WithSimd for SquaredErrors<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let [fr, fg, fb] = [0, 1, 2].map(|c| self.frame.channel(c));
        let [vr, vg, vb] = [0, 1, 2].map(|c| self.view.channel(c));
        let pairs = fr.iter().zip(vr).zip(fg.iter().zip(vg)).zip(fb.iter().zip(vb));
        for (e, (((fr, vr), (fg, vg)), (fb, vb))) in self.errors.iter_mut().zip(pairs) {
            let (r, g, b) = (fr - vr, fg - vg, fb - vb);
            // Non-negative floats compare like their bits, and integers select faster.
            *e = (r * r + g * g + b * b).to_bits();
        }
    }
}
