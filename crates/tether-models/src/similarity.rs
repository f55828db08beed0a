//! How near two videos are to each other, pixel by pixel.

use crate::frame::{CHANNELS, FRAME_SIZE, Frame};

/// Squared error, in units of the pixels' range, below which frames count as equal: 100 dB.
const FLOOR: f64 = 1e-10;
/// Radius of SSIM's window.
const RADIUS: usize = 5;

/// PSNR of two frames in dB over all pixels and channels, at most 100.
pub fn psnr(a: &Frame, b: &Frame) -> f64 {
    let sum: f64 = a.values().iter().zip(b.values()).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    decibels(sum / Frame::LEN as f64, FLOOR)
}

/// PSNR of a mean squared error of pixels, which counts as `floor` (in [0, 1] units) where it is less.
pub(crate) fn decibels(mse: f64, floor: f64) -> f64 {
    // The range of a pixel is 2, so its squared error is four times that in [0, 1].
    -10.0 * (mse / 4.0).max(floor).log10()
}

/// SSIM of two frames: the mean over channels and over windows of 11 x 11 pixels that lie inside, weighted by a Gaussian of deviation 1.5,
/// with the usual constants 0.01 and 0.03.
pub fn ssim(a: &Frame, b: &Frame) -> f64 {
    let weights: Vec<f64> =
        (0..=2 * RADIUS).map(|i| (-(i as f64 - RADIUS as f64).powi(2) / (2.0 * 1.5 * 1.5)).exp()).collect();
    let total: f64 = weights.iter().sum();
    let weights: Vec<f64> = weights.iter().map(|w| w / total).collect();
    let (c1, c2) = (0.01f64.powi(2), 0.03f64.powi(2));
    let inside = FRAME_SIZE - 2 * RADIUS;
    let mut sum = 0.0;
    for channel in 0..CHANNELS {
        let unit = |f: &Frame, i: usize| (f64::from(f.channel(channel)[i]) + 1.0) / 2.0;
        for place in 0..inside * inside {
            let (row, column) = (place / inside, place % inside);
            let mut m = [0f64; 5];
            for (dy, wy) in weights.iter().enumerate() {
                for (dx, wx) in weights.iter().enumerate() {
                    let i = (row + dy) * FRAME_SIZE + column + dx;
                    let (x, y, w) = (unit(a, i), unit(b, i), wy * wx);
                    for (m, v) in m.iter_mut().zip([x, y, x * x, y * y, x * y]) {
                        *m += w * v;
                    }
                }
            }
            let [x, y, xx, yy, xy] = m;
            let (vx, vy, cov) = (xx - x * x, yy - y * y, xy - x * y);
            sum += (2.0 * x * y + c1) * (2.0 * cov + c2) / ((x * x + y * y + c1) * (vx + vy + c2));
        }
    }
    sum / (CHANNELS * inside * inside) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scene;

    #[test]
    fn equal_frames_are_as_near_as_can_be() {
        let frame = Scene::sample(1, 1).render(3.0);
        assert_eq!(psnr(&frame, &frame), 100.0);
        assert!((ssim(&frame, &frame) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_constant_error_by_hand() {
        let (a, b) = (Frame::black(), Frame::new(vec![-0.8; Frame::LEN]).expect("right length"));
        assert!((psnr(&a, &b) - 20.0).abs() < 1e-5, "0.1 of the range");
        // Means 0 and 0.1, no variance.
        let want = 1e-4 / (0.01 + 1e-4);
        assert!((ssim(&a, &b) - want).abs() < 1e-6);
    }

    #[test]
    fn more_noise_is_further_away() {
        let frame = Scene::sample(1, 2).render(0.0);
        let noisy = |size: f32| {
            let values = frame.values().iter().enumerate();
            let values = values.map(|(i, x)| x + size * ((i * 7919 % 101) as f32 / 50.0 - 1.0));
            Frame::new(values.collect()).expect("right length")
        };
        let (little, much) = (noisy(0.05), noisy(0.3));
        assert!(psnr(&frame, &little) > psnr(&frame, &much) + 10.0);
        assert!(ssim(&frame, &little) > ssim(&frame, &much));
    }
}
