//! Colours that stay apart for colour-blind readers and in print (after Okabe and Ito).

use plotters::prelude::RGBColor;

pub(crate) const VERMILION: RGBColor = RGBColor(213, 94, 0);
pub(crate) const ORANGE: RGBColor = RGBColor(230, 159, 0);
pub(crate) const GREEN: RGBColor = RGBColor(0, 158, 115);
pub(crate) const BLUE: RGBColor = RGBColor(0, 114, 178);
pub(crate) const GREY: RGBColor = RGBColor(90, 90, 90);
pub(crate) const PURPLE: RGBColor = RGBColor(204, 121, 167);
pub(crate) const SKY: RGBColor = RGBColor(86, 180, 233);
pub(crate) const BROWN: RGBColor = RGBColor(120, 80, 40);

/// Text and axes.
pub(crate) const DARK: RGBColor = RGBColor(50, 50, 50);
/// Lines behind everything.
pub(crate) const LIGHT: RGBColor = RGBColor(222, 222, 222);
/// A stretch of a panel that is set apart.
pub(crate) const SHADE: RGBColor = RGBColor(236, 236, 236);

/// Of series, in their order.
pub(crate) const SERIES: [RGBColor; 8] = [VERMILION, ORANGE, GREEN, BLUE, GREY, PURPLE, SKY, BROWN];
