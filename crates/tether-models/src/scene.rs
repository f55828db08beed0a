//! Random moving scenes, in closed form in time.

mod render;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::frame::FRAME_SIZE;
use crate::noise::stream;
use crate::palette::SpriteColour;

/// Width of the textured world, in pixels; a dark wall lies beyond either end.
pub(crate) const SPAN: f32 = 42.0;
/// How far the camera can move, in pixels.
pub(crate) const CAMERA_RANGE: f32 = SPAN - FRAME_SIZE as f32;

/// A scene of the kind that TinyVideo was trained on: two sprites that bounce in front of a background along which a
/// camera moves back and forth.
///
/// Positions are in pixels, times in frames, colours in [-1, 1].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scene {
    /// The background's base colour.
    pub base: [f32; 3],
    /// Soft spots of colour, added to the base.
    pub blobs: [Blob; 8],
    /// A plane wave, added to the base.
    pub stripe: Stripe,
    /// The camera's path.
    pub camera: Camera,
    /// The sprites, later ones in front.
    pub sprites: [Sprite; 2],
}

/// A Gaussian spot of the background.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Blob {
    /// Centre, in world pixels from the left.
    pub x: f32,
    /// Centre, in pixels from the top.
    pub y: f32,
    /// Standard deviation, in pixels.
    pub sigma: f32,
    /// Colour at the centre.
    pub colour: [f32; 3],
}

/// A sine wave over the background.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stripe {
    /// Radians per pixel to the right.
    pub fx: f32,
    /// Radians per pixel down.
    pub fy: f32,
    /// Phase at the world's origin, in radians.
    pub phase: f32,
    /// Amplitude per channel.
    pub colour: [f32; 3],
}

/// A camera that moves right and left at constant speed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Camera {
    /// Phase at time 0, in pixels along the way to the right end and back.
    pub start: f32,
    /// Pixels per frame.
    pub speed: f32,
}

/// A sprite's outline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpriteShape {
    /// A disc.
    Disc,
    /// A square.
    Square,
    /// A square on its corner.
    Diamond,
}

/// A coloured shape that bounces inside the frame.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sprite {
    /// Its colour.
    pub colour: SpriteColour,
    /// Its outline.
    pub shape: SpriteShape,
    /// Half its size, in pixels.
    pub radius: f32,
    /// Phase at time 0 along x and y, in pixels along the way to the far side and back.
    pub start: [f32; 2],
    /// Pixels per frame along x and y.
    pub speed: [f32; 2],
}

impl Scene {
    /// Scene number `index` of the family `seed`, from the distribution that the model was trained on.
    pub fn sample(seed: u64, index: u64) -> Self {
        let mut draw = Draw(stream(*b"tv-scene", seed, index, 0));
        let base = draw.colour(0.7);
        let blobs = std::array::from_fn(|_| Blob {
            x: draw.between(0.0, SPAN),
            y: draw.between(0.0, FRAME_SIZE as f32),
            sigma: draw.between(4.5, 8.5),
            colour: draw.colour(1.4),
        });
        let angle = draw.between(0.0, std::f32::consts::PI);
        let wave_number = std::f32::consts::TAU / draw.between(12.0, 24.0);
        let stripe = Stripe {
            fx: angle.cos() * wave_number,
            fy: angle.sin() * wave_number,
            phase: draw.between(0.0, std::f32::consts::TAU),
            colour: draw.colour(0.4),
        };
        let camera = Camera { start: draw.between(0.0, 2.0 * CAMERA_RANGE), speed: draw.between(0.15, 0.45) };
        let mut colours = SpriteColour::ALL.to_vec();
        let sprites = std::array::from_fn(|_| Sprite {
            colour: colours.swap_remove(draw.below(colours.len())),
            shape: [SpriteShape::Disc, SpriteShape::Square, SpriteShape::Diamond][draw.below(3)],
            radius: draw.between(3.8, 5.2),
            start: [draw.between(0.0, 64.0), draw.between(0.0, 64.0)],
            speed: [draw.between(0.3, 0.9), draw.between(0.3, 0.9)],
        });
        Self { base, blobs, stripe, camera, sprites }
    }
}

/// The draws that a scene is made of.
struct Draw(ChaCha8Rng);

impl Draw {
    fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.0.random::<f32>()
    }

    /// Three channels, uniform over an interval of length `width` around 0.
    fn colour(&mut self, width: f32) -> [f32; 3] {
        std::array::from_fn(|_| self.between(-width / 2.0, width / 2.0))
    }

    fn below(&mut self, n: usize) -> usize {
        self.0.random_range(0..n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_stay_inside_the_training_distribution() {
        for index in 0..200 {
            let s = Scene::sample(1, index);
            assert!(s.base.iter().all(|c| c.abs() <= 0.35));
            assert!(s.blobs.iter().all(|b| (0.0..SPAN).contains(&b.x) && (4.5..=8.5).contains(&b.sigma)));
            let wavelength = std::f32::consts::TAU / s.stripe.fx.hypot(s.stripe.fy);
            assert!((11.99..=24.01).contains(&wavelength));
            assert!((0.15..=0.45).contains(&s.camera.speed));
            assert_ne!(s.sprites[0].colour, s.sprites[1].colour);
            assert!(
                s.sprites
                    .iter()
                    .all(|p| (3.8..=5.2).contains(&p.radius) && p.speed.iter().all(|v| *v <= 0.9))
            );
        }
    }

    #[test]
    fn scenes_are_reproducible_and_differ() {
        assert_eq!(Scene::sample(3, 4), Scene::sample(3, 4));
        assert_ne!(Scene::sample(3, 4), Scene::sample(3, 5));
        assert_ne!(Scene::sample(3, 4), Scene::sample(4, 4));
    }
}
