//! Drawing a scene.

use super::{CAMERA_RANGE, SPAN, Scene, Sprite, SpriteShape};
use crate::frame::{CHANNELS, FRAME_SIZE, Frame, PIXELS};

/// Camera offsets of [`Scene::world_views`]: 0 to 24 pixels in half pixels. They reach past the camera's range, as the
/// metric's definition does; views out there are mostly wall and never the best match.
const VIEWS: usize = 49;

/// Position after travelling `x` between 0 and `range`, reflected at both ends.
fn bounce(x: f32, range: f32) -> f32 {
    let m = x.rem_euclid(2.0 * range);
    if m > range { 2.0 * range - m } else { m }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Centre of pixel `i`.
fn centre(i: usize) -> f32 {
    i as f32 + 0.5
}

impl Scene {
    /// The frame at time `t` (in frames; any non-negative number).
    pub fn render(&self, t: f32) -> Frame {
        let mut frame = self.background(bounce(self.camera.start + self.camera.speed * t, CAMERA_RANGE));
        for sprite in &self.sprites {
            sprite.draw(t, &mut frame);
        }
        frame
    }

    /// The background alone at 49 camera offsets: 0, 0.5, ... 24 pixels.
    pub fn world_views(&self) -> Vec<Frame> {
        (0..VIEWS).map(|i| self.background(i as f32 * 0.5)).collect()
    }

    fn background(&self, camera: f32) -> Frame {
        const CONTRAST: f32 = 0.45;
        const WALL: f32 = -0.9;
        let world_x: [f32; FRAME_SIZE] = std::array::from_fn(|i| camera + centre(i));
        let gauss = |distance: f32, sigma: f32| (-(distance * distance) / (2.0 * sigma * sigma)).exp();
        let across = self.blobs.map(|b| world_x.map(|x| gauss(x - b.x, b.sigma)));
        let wall = world_x.map(|x| sigmoid((2.0 - x) * 2.0) + sigmoid((x - (SPAN - 2.0)) * 2.0));
        let mut frame = Frame::black();
        for row in 0..FRAME_SIZE {
            let down = self.blobs.map(|b| gauss(centre(row) - b.y, b.sigma));
            for column in 0..FRAME_SIZE {
                let phase =
                    self.stripe.fx * world_x[column] + self.stripe.fy * centre(row) + self.stripe.phase;
                let wave = phase.sin();
                let open = 1.0 - wall[column];
                for c in 0..CHANNELS {
                    let spots: f32 = (0..self.blobs.len())
                        .map(|k| across[k][column] * down[k] * self.blobs[k].colour[c])
                        .sum();
                    let colour = spots + wave * self.stripe.colour[c] + self.base[c];
                    frame.values_mut()[c * PIXELS + row * FRAME_SIZE + column] =
                        CONTRAST * (colour / CONTRAST).tanh() * open + WALL * wall[column];
                }
            }
        }
        frame
    }
}

impl Sprite {
    fn draw(&self, t: f32, frame: &mut Frame) {
        const EDGE: f32 = 2.5;
        let r = self.radius;
        let range = FRAME_SIZE as f32 - 2.0 * r;
        let [x, y] = std::array::from_fn(|axis| r + bounce(self.start[axis] + self.speed[axis] * t, range));
        let rgb = self.colour.rgb();
        for pixel in 0..PIXELS {
            let dx = (centre(pixel % FRAME_SIZE) - x).abs();
            let dy = (centre(pixel / FRAME_SIZE) - y).abs();
            let outside = match self.shape {
                SpriteShape::Disc => (dx * dx + dy * dy + 1e-6).sqrt() - r,
                SpriteShape::Square => dx.max(dy) - r * 0.88,
                SpriteShape::Diamond => (dx + dy - r * 1.25) * 0.7,
            };
            let cover = sigmoid(-outside * EDGE);
            for (c, colour) in rgb.iter().enumerate() {
                let value = &mut frame.values_mut()[c * PIXELS + pixel];
                *value = *value * (1.0 - cover) + colour * cover;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounce_reflects_at_both_ends() {
        for (x, want) in [(0.0, 0.0), (3.0, 3.0), (10.0, 10.0), (12.0, 8.0), (20.0, 0.0), (23.0, 3.0)] {
            assert_eq!(bounce(x, 10.0), want);
        }
    }

    #[test]
    fn sprites_show_their_colour_at_their_centre() {
        let mut scene = Scene::sample(5, 0);
        scene.sprites[1].start = [0.0, 0.0];
        scene.sprites[1].speed = [0.0, 0.0];
        let frame = scene.render(17.0);
        let r = scene.sprites[1].radius as usize;
        for (c, want) in scene.sprites[1].colour.rgb().into_iter().enumerate() {
            assert!((frame.channel(c)[r * FRAME_SIZE + r] - want).abs() < 0.05);
        }
    }
}
