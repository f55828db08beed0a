//! Whether a scene's sprites are still there.

use crate::Scene;
use crate::frame::Frame;

/// Largest distance, in [-1, 1] RGB, at which a pixel still has a sprite's colour.
const RADIUS: f32 = 0.7;

/// Counts pixels of the sprites' colours.
pub(super) struct SpriteCounter {
    colours: [[f32; 3]; 2],
}

impl SpriteCounter {
    pub(super) fn new(scene: &Scene) -> Self {
        Self { colours: scene.sprites.map(|s| s.colour.rgb()) }
    }

    /// Pixels of each sprite's colour.
    pub(super) fn count(&self, frame: &Frame) -> [usize; 2] {
        let [r, g, b] = [0, 1, 2].map(|c| frame.channel(c));
        self.colours.map(|[cr, cg, cb]| {
            r.iter()
                .zip(g)
                .zip(b)
                .filter(|((r, g), b)| {
                    let (r, g, b) = (*r - cr, *g - cg, *b - cb);
                    (r * r + g * g + b * b).sqrt() < RADIUS
                })
                .count()
        })
    }
}

/// The median; the lower of the two middle values when there is no middle one. 0 of nothing.
pub(super) fn lower_median(mut values: Vec<usize>) -> usize {
    if values.is_empty() {
        return 0;
    }
    let middle = (values.len() - 1) / 2;
    *values.select_nth_unstable(middle).1
}

#[cfg(test)]
mod tests {
    use super::lower_median;

    #[test]
    fn median_is_the_lower_middle() {
        assert_eq!(lower_median(vec![5, 1, 9]), 5);
        assert_eq!(lower_median(vec![5, 1, 9, 7]), 5);
        assert_eq!(lower_median(vec![]), 0);
    }
}
