//! The colours that sprites may have.

use serde::{Deserialize, Serialize};

/// A sprite's colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpriteColour {
    /// Red.
    Red,
    /// Green.
    Green,
    /// Blue.
    Blue,
    /// Yellow.
    Yellow,
    /// Magenta.
    Magenta,
    /// Cyan.
    Cyan,
}

impl SpriteColour {
    /// All colours.
    pub const ALL: [Self; 6] = [Self::Red, Self::Green, Self::Blue, Self::Yellow, Self::Magenta, Self::Cyan];

    /// Red, green and blue in [-1, 1].
    pub fn rgb(self) -> [f32; 3] {
        match self {
            Self::Red => [0.9, -0.8, -0.8],
            Self::Green => [-0.8, 0.9, -0.8],
            Self::Blue => [-0.8, -0.6, 0.95],
            Self::Yellow => [0.9, 0.85, -0.8],
            Self::Magenta => [0.9, -0.8, 0.9],
            Self::Cyan => [-0.8, 0.85, 0.9],
        }
    }
}
