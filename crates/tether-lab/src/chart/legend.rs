//! The legend: above the panels, where no line can run through it, and never wider than the figure.

use plotters::prelude::*;

use super::colour::{DARK, SERIES, SHADE};
use super::{Area, Drawn, label};

/// Height of a row.
const ROW: u32 = 24;
/// Width of a letter, on the generous side since the viewer's font is unknown.
const LETTER: u32 = 8;
const LEFT: u32 = 30;
/// From a swatch to its text.
const TEXT: u32 = 38;

/// What an entry shows beside its text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Swatch {
    /// A series, by its number.
    Series(usize),
    /// A stretch of a panel.
    Shade,
    /// A dashed line.
    Dashes,
    /// A dot with an interval.
    #[cfg(feature = "language")]
    Dot(RGBColor),
    /// A ring with an interval.
    #[cfg(feature = "language")]
    Ring(RGBColor),
}

struct Item {
    text: String,
    swatch: Swatch,
    row: u32,
    x: u32,
}

/// Entries with their places.
pub(super) struct Legend(Vec<Item>);

impl Legend {
    pub(super) fn of(entries: &[(Swatch, String)], width: u32) -> Self {
        let mut items: Vec<Item> = Vec::with_capacity(entries.len());
        let (mut row, mut x) = (0, LEFT);
        for (swatch, text) in entries {
            let own = TEXT + text.chars().count() as u32 * LETTER + 18;
            let other_kind = |last: &Item| {
                matches!(last.swatch, Swatch::Series(_)) && !matches!(swatch, Swatch::Series(_))
            };
            if x > LEFT && (items.last().is_some_and(other_kind) || x + own > width) {
                (row, x) = (row + 1, LEFT);
            }
            items.push(Item { text: text.clone(), swatch: *swatch, row, x });
            x += own;
        }
        Self(items)
    }

    /// Pixels down.
    pub(super) fn height(&self) -> u32 {
        self.0.last().map_or(0, |item| (item.row + 1) * ROW + 16)
    }

    pub(super) fn draw(&self, area: &Area<'_>) -> Drawn {
        for item in &self.0 {
            let (x, y) = (item.x as i32, (item.row * ROW) as i32 + 20);
            let line = |colour: RGBColor, width| {
                PathElement::new(vec![(x, y), (x + 30, y)], colour.stroke_width(width))
            };
            let middle = (x + 15, y);
            match item.swatch {
                Swatch::Series(number) => {
                    area.draw(&line(series(number), 3))?;
                    area.draw(&mark(number, middle))?;
                }
                Swatch::Shade => area.draw(&Rectangle::new([(x, y - 7), (x + 30, y + 7)], SHADE.filled()))?,
                Swatch::Dashes => {
                    for start in [x, x + 11, x + 22] {
                        area.draw(&PathElement::new(vec![(start, y), (start + 6, y)], DARK.stroke_width(1)))?;
                    }
                }
                #[cfg(feature = "language")]
                Swatch::Dot(colour) => {
                    area.draw(&line(colour, 1))?;
                    area.draw(&Circle::new(middle, 4, colour.filled()))?;
                }
                #[cfg(feature = "language")]
                Swatch::Ring(colour) => {
                    area.draw(&line(colour, 1))?;
                    area.draw(&Circle::new(middle, 4, WHITE.filled()))?;
                    area.draw(&Circle::new(middle, 4, colour.stroke_width(2)))?;
                }
            }
            area.draw(&Text::new(item.text.clone(), (x + TEXT as i32, y - 8), label()))?;
        }
        Ok(())
    }
}

/// The colour of a series.
pub(super) fn series(number: usize) -> RGBColor {
    SERIES[number % SERIES.len()]
}

/// The mark of a series. Colours repeat after a while; the second time round the marks are hollow.
pub(super) fn mark<C>(number: usize, at: C) -> Circle<C, i32> {
    let colour = series(number);
    let style = if number < SERIES.len() { colour.filled() } else { colour.stroke_width(2) };
    Circle::new(at, 4, style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_on_the_picture() {
        let entries: Vec<_> = (0..12).map(|i| (Swatch::Series(i), format!("another-recipe-{i}"))).collect();
        let legend = Legend::of(&entries, 1000);
        for pair in legend.0.windows(2) {
            let end = pair[0].x + TEXT + pair[0].text.len() as u32 * LETTER;
            assert!(end <= 1000);
            assert!(pair[1].row == pair[0].row + 1 || (pair[1].row == pair[0].row && pair[1].x > end));
        }
        assert_eq!(legend.height(), (legend.0[11].row + 1) * ROW + 16);
    }

    #[test]
    fn what_is_no_series_has_rows_of_its_own() {
        let entries = [(Swatch::Series(0), "a".to_owned()), (Swatch::Shade, "b".to_owned())];
        let legend = Legend::of(&entries, 1000);
        assert_eq!((legend.0[0].row, legend.0[1].row, legend.0[1].x), (0, 1, LEFT));
    }
}
