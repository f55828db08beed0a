//! Frames, and the tokens that they are cut into.

use crate::ModelError;

/// Pixels along each side of a frame.
pub const FRAME_SIZE: usize = 32;
/// Colour channels.
pub const CHANNELS: usize = 3;
/// Pixels along each side of a token's patch.
pub const PATCH: usize = 4;
/// Tokens of a frame.
pub const TOKENS_PER_FRAME: usize = GRID * GRID;
/// Pixel values of a token.
pub const TOKEN_VALUES: usize = CHANNELS * PATCH * PATCH;

const GRID: usize = FRAME_SIZE / PATCH;
pub(crate) const PIXELS: usize = FRAME_SIZE * FRAME_SIZE;

/// One picture, `[3, 32, 32]` (channel, row, column), nominally in [-1, 1].
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    values: Vec<f32>,
}

impl Frame {
    /// Values of a frame.
    pub const LEN: usize = CHANNELS * PIXELS;

    /// A frame of `[3, 32, 32]` values.
    ///
    /// # Errors
    /// [`ModelError::Length`] when there are not [`Frame::LEN`] of them.
    pub fn new(values: Vec<f32>) -> Result<Self, ModelError> {
        if values.len() != Self::LEN {
            return Err(ModelError::Length { what: "frame", expected: Self::LEN, got: values.len() });
        }
        Ok(Self { values })
    }

    pub(crate) fn black() -> Self {
        Self { values: vec![-1.0; Self::LEN] }
    }

    /// The values, `[3, 32, 32]`.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The values for writing, `[3, 32, 32]`.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// One channel, `[32, 32]`, of the three.
    pub(crate) fn channel(&self, channel: usize) -> &[f32] {
        &self.values[channel * PIXELS..(channel + 1) * PIXELS]
    }

    /// Interleaved 8-bit RGB, row by row: -1 is 0, 1 is 255, values beyond saturate, NaN is 0.
    pub fn to_rgb8(&self) -> Vec<u8> {
        (0..PIXELS)
            .flat_map(|pixel| (0..CHANNELS).map(move |c| (c, pixel)))
            .map(|(c, pixel)| ((self.channel(c)[pixel] + 1.0) * 127.5).round() as u8)
            .collect()
    }
}

/// Calls `f(token value index, frame value index)` for every value of a frame.
fn for_each_value(mut f: impl FnMut(usize, usize)) {
    for token in 0..TOKENS_PER_FRAME {
        let (row, column) = (token / GRID * PATCH, token % GRID * PATCH);
        for value in 0..TOKEN_VALUES {
            let (c, py, px) = (value / (PATCH * PATCH), value / PATCH % PATCH, value % PATCH);
            f(token * TOKEN_VALUES + value, c * PIXELS + (row + py) * FRAME_SIZE + column + px);
        }
    }
}

/// Frames as tokens, `[frames * 64, 48]`: patches row by row, the values of a patch ordered (channel, row, column).
pub fn patchify(frames: &[Frame]) -> Vec<f32> {
    let mut tokens = vec![0.0; frames.len() * Frame::LEN];
    for (frame, tokens) in frames.iter().zip(tokens.chunks_exact_mut(Frame::LEN)) {
        for_each_value(|token, value| tokens[token] = frame.values[value]);
    }
    tokens
}

/// The inverse of [`patchify`].
///
/// # Errors
/// [`ModelError::NotAMultiple`] when `tokens` is not a whole number of frames.
pub fn unpatchify(tokens: &[f32]) -> Result<Vec<Frame>, ModelError> {
    if !tokens.len().is_multiple_of(Frame::LEN) {
        return Err(ModelError::NotAMultiple { what: "tokens", unit: Frame::LEN, got: tokens.len() });
    }
    Ok(tokens
        .chunks_exact(Frame::LEN)
        .map(|tokens| {
            let mut frame = Frame::black();
            for_each_value(|token, value| frame.values[value] = tokens[token]);
            frame
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_ordered_channel_row_column() {
        let frame = Frame::new((0..Frame::LEN).map(|i| i as f32).collect()).expect("right length");
        let tokens = patchify(std::slice::from_ref(&frame));
        // Token 9 is the second patch of the second row of patches; its value 37 is channel 2, row 1, column 1.
        assert_eq!(tokens[9 * 48 + 37], (2 * 1024 + (4 + 1) * 32 + 4 + 1) as f32);
        assert_eq!(unpatchify(&tokens).expect("whole frames"), [frame]);
    }

    #[test]
    fn rgb8_is_interleaved_rounded_and_saturated() {
        let mut values = vec![-1.0; Frame::LEN];
        (values[0], values[1024], values[2048]) = (1.5, 0.0, f32::NAN);
        let bytes = Frame::new(values).expect("right length").to_rgb8();
        assert_eq!(&bytes[..6], [255, 128, 0, 0, 0, 0]);
    }

    #[test]
    fn wrong_lengths_are_errors() {
        assert!(matches!(Frame::new(vec![0.0; 5]), Err(ModelError::Length { expected: 3072, got: 5, .. })));
        assert!(matches!(unpatchify(&[0.0; 5]), Err(ModelError::NotAMultiple { got: 5, .. })));
    }
}
