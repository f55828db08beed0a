//! What plots have in common: colours, and the way into a file.

use std::path::Path;

use anyhow::{Context, Result};
use plotters::prelude::RGBColor;

// Colours that stay apart for colour-blind readers and in print (after Okabe and Ito).
pub(crate) const VERMILION: RGBColor = RGBColor(213, 94, 0);
pub(crate) const ORANGE: RGBColor = RGBColor(230, 159, 0);
pub(crate) const GREEN: RGBColor = RGBColor(0, 158, 115);
pub(crate) const BLUE: RGBColor = RGBColor(0, 114, 178);
pub(crate) const GREY: RGBColor = RGBColor(90, 90, 90);
pub(crate) const PURPLE: RGBColor = RGBColor(204, 121, 167);
pub(crate) const SKY: RGBColor = RGBColor(86, 180, 233);

/// Text and axes.
pub(crate) const DARK: RGBColor = RGBColor(50, 50, 50);

/// Writes a picture that was drawn.
///
/// # Errors
/// When it could not be drawn, or the file cannot be written.
pub(crate) fn write_svg(path: &Path, drawn: Result<String>) -> Result<()> {
    let svg = drawn.with_context(|| format!("drawing the plot {}", path.display()))?;
    std::fs::write(path, svg).with_context(|| format!("writing the plot {}", path.display()))
}
