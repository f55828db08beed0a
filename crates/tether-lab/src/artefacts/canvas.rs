//! An RGB drawing surface: rectangles, enlarged frames, and labels.

use super::experiment::Rgb8Frame;
use super::font::{ADVANCE, GLYPH_HEIGHT, GLYPH_WIDTH, glyph};

/// A colour.
pub(crate) type Rgb = [u8; 3];

/// Behind everything.
pub(crate) const PAPER: Rgb = [24, 26, 30];
/// Labels.
pub(crate) const INK: Rgb = [236, 238, 240];
/// Labels that matter less, and separators.
pub(crate) const FAINT: Rgb = [150, 156, 164];
/// What marks the given frames.
pub(crate) const MARK: Rgb = [240, 170, 40];

/// A picture under construction. Whatever falls outside is cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Canvas {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Canvas {
    /// A canvas of one colour.
    pub(crate) fn new(width: usize, height: usize, colour: Rgb) -> Self {
        Self { width, height, rgb: colour.repeat(width * height) }
    }

    /// Pixels across.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Pixels down.
    pub(crate) fn height(&self) -> usize {
        self.height
    }

    /// The bytes, three a pixel, rows from the top.
    pub(crate) fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// Fills a rectangle.
    pub(crate) fn fill(&mut self, x: usize, y: usize, width: usize, height: usize, colour: Rgb) {
        let (left, right) = (x.min(self.width), (x + width).min(self.width));
        for row in y.min(self.height)..(y + height).min(self.height) {
            let span = (row * self.width + left) * 3..(row * self.width + right) * 3;
            for pixel in self.rgb[span].chunks_exact_mut(3) {
                pixel.copy_from_slice(&colour);
            }
        }
    }

    /// Draws a frame with every pixel `scale` by `scale`.
    pub(crate) fn frame(&mut self, x: usize, y: usize, frame: &Rgb8Frame, scale: usize) {
        for (index, pixel) in frame.rgb.chunks_exact(3).enumerate() {
            let (column, row) = (index % frame.width, index / frame.width);
            let colour = [pixel[0], pixel[1], pixel[2]];
            self.fill(x + column * scale, y + row * scale, scale, scale, colour);
        }
    }

    /// Writes one line with its top left corner at `x`, `y`.
    pub(crate) fn text(&mut self, x: usize, y: usize, text: &str, scale: usize, colour: Rgb) {
        for (position, letter) in text.chars().enumerate() {
            for (row, dots) in glyph(letter).into_iter().enumerate() {
                for column in 0..GLYPH_WIDTH {
                    if dots >> (GLYPH_WIDTH - 1 - column) & 1 == 1 {
                        let x = x + (position * ADVANCE + column) * scale;
                        self.fill(x, y + row * scale, scale, scale, colour);
                    }
                }
            }
        }
    }

    /// Writes one line centred on `centre`, or from the left edge when it does not fit.
    pub(crate) fn text_centred(&mut self, centre: usize, y: usize, text: &str, scale: usize, colour: Rgb) {
        let x = centre.saturating_sub(text_width(text, scale) / 2);
        self.text(x, y, text, scale, colour);
    }
}

/// Pixels across a line of text.
pub(crate) fn text_width(text: &str, scale: usize) -> usize {
    (text.chars().count() * ADVANCE).saturating_sub(1) * scale
}

/// Pixels down a line of text.
pub(crate) fn text_height(scale: usize) -> usize {
    GLYPH_HEIGHT * scale
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(canvas: &Canvas, x: usize, y: usize) -> &[u8] {
        &canvas.rgb()[(y * canvas.width() + x) * 3..][..3]
    }

    #[test]
    fn frames_are_enlarged_without_smoothing() {
        let frame = Rgb8Frame { width: 2, height: 1, rgb: vec![255, 0, 0, 0, 0, 255] };
        let mut canvas = Canvas::new(6, 4, [0; 3]);
        canvas.frame(1, 1, &frame, 2);
        assert_eq!(at(&canvas, 2, 2), [255, 0, 0]);
        assert_eq!(at(&canvas, 3, 1), [0, 0, 255]);
        assert_eq!(at(&canvas, 0, 1), [0, 0, 0]);
        assert_eq!(at(&canvas, 5, 1), [0, 0, 0]);
        assert_eq!(at(&canvas, 1, 3), [0, 0, 0]);
    }

    #[test]
    fn drawing_outside_is_cut_off() {
        let mut canvas = Canvas::new(4, 4, [0; 3]);
        canvas.fill(3, 3, 10, 10, [9; 3]);
        canvas.fill(100, 100, 1, 1, [9; 3]);
        canvas.text(2, 2, "wide", 3, [9; 3]);
        assert_eq!(at(&canvas, 3, 3), [9, 9, 9]);
        assert_eq!(at(&canvas, 0, 0), [0, 0, 0]);
        assert_eq!(canvas.rgb().len(), 48);
    }

    #[test]
    fn text_has_the_shape_of_its_letters() {
        let mut canvas = Canvas::new(text_width("l-", 1), text_height(1), [0; 3]);
        canvas.text(0, 0, "l-", 1, [1; 3]);
        let row: Vec<u8> = (0..canvas.width()).map(|x| at(&canvas, x, 3)[0]).collect();
        assert_eq!(row, [0, 0, 1, 0, 0, 0, 1, 1, 1, 1, 1]);
    }
}
