//! Charts, as vector pictures whose labels are text.
//!
//! A figure is a legend and panels below it, in columns. Nothing is drawn over a panel but its data.

mod colour;
mod legend;
mod lines;
#[cfg(feature = "language")]
mod ranking;

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use self::legend::Legend;
pub(crate) use self::legend::Swatch;
pub(crate) use self::lines::{Axis, Lines, Point, Series};
#[cfg(feature = "language")]
pub(crate) use self::ranking::{Rank, Ranking, Standing};

/// Pixels across a figure.
const WIDTH: u32 = 1000;
/// Size of labels.
const TEXT: u32 = 14;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// Drawing into a text cannot fail, but the drawing library does not know.
type Drawn = Result<(), DrawingAreaErrorKind<<SVGBackend<'static> as DrawingBackend>::ErrorType>>;

/// One panel.
#[derive(Clone, Debug)]
pub(crate) enum Panel {
    /// Values over a quantity.
    Lines(Lines),
    /// Values in their order.
    #[cfg(feature = "language")]
    Ranking(Ranking),
}

impl Panel {
    fn height(&self) -> u32 {
        match self {
            Self::Lines(lines) => lines.height,
            #[cfg(feature = "language")]
            Self::Ranking(ranking) => ranking.height(),
        }
    }

    fn draw(&self, area: &Area<'_>) -> Drawn {
        match self {
            Self::Lines(lines) => lines.draw(area),
            #[cfg(feature = "language")]
            Self::Ranking(ranking) => ranking.draw(area),
        }
    }
}

/// A legend and panels.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    /// What swatches stand for.
    pub(crate) legend: Vec<(Swatch, String)>,
    /// Panels side by side.
    pub(crate) columns: usize,
    pub(crate) panels: Vec<Panel>,
}

impl Figure {
    /// Writes the figure.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let svg = self.svg().with_context(|| format!("drawing the chart {}", path.display()))?;
        std::fs::write(path, svg).with_context(|| format!("writing the chart {}", path.display()))
    }

    /// The figure's text.
    pub(crate) fn svg(&self) -> Result<String> {
        let legend = Legend::of(&self.legend, WIDTH);
        let rows: Vec<&[Panel]> = self.panels.chunks(self.columns.max(1)).collect();
        let heights: Vec<u32> =
            rows.iter().map(|row| row.iter().map(Panel::height).max().unwrap_or(0)).collect();
        let mut svg = String::new();
        {
            let size = (WIDTH, legend.height() + heights.iter().sum::<u32>());
            let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
            // The drawing errors borrow from the picture, so they leave as text.
            self.draw(&root, &legend, &rows, &heights).map_err(|error| anyhow!("{error}"))?;
        }
        Ok(svg)
    }

    fn draw(&self, root: &Area<'_>, legend: &Legend, rows: &[&[Panel]], heights: &[u32]) -> Drawn {
        root.fill(&WHITE)?;
        let (top, mut rest) = root.split_vertically(legend.height());
        legend.draw(&top)?;
        for (row, height) in rows.iter().zip(heights) {
            let (now, after) = rest.split_vertically(*height);
            for (area, panel) in now.split_evenly((1, self.columns.max(1))).iter().zip(*row) {
                panel.draw(area)?;
            }
            rest = after;
        }
        root.present()
    }
}

fn label() -> TextStyle<'static> {
    ("sans-serif", TEXT).into_font().color(&colour::DARK)
}

fn title() -> TextStyle<'static> {
    ("sans-serif", TEXT + 2).into_font().color(&colour::DARK)
}

/// A range that holds the finite values with some air.
fn range(values: impl Iterator<Item = f64>) -> std::ops::Range<f64> {
    let finite = values.filter(|value| value.is_finite());
    let (low, high) = finite
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        return 0.0..1.0;
    }
    let air = if high > low { (high - low) * 0.06 } else { 1.0 };
    low - air..high + air
}

/// A number at an axis.
fn tick(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_their_values() {
        assert_eq!(range([f64::NAN].into_iter()), 0.0..1.0);
        assert_eq!(range([5.0, 5.0].into_iter()), 4.0..6.0);
        let wide = range([0.0, 100.0, f64::INFINITY].into_iter());
        assert_eq!((wide.start, wide.end), (-6.0, 106.0));
    }

    #[test]
    fn ticks_have_no_digits_that_say_nothing() {
        assert_eq!([0.5, 20.0, 0.25, 1.0].map(tick), ["0.5", "20", "0.25", "1"]);
    }

    #[test]
    fn a_figure_without_panels_is_a_picture() {
        let figure = Figure { legend: Vec::new(), columns: 2, panels: Vec::new() };
        assert!(figure.svg().unwrap().starts_with("<svg"));
    }
}
