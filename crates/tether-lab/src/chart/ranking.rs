//! Values in their order, each with its name and its interval.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde::{Deserialize, Serialize};

use super::colour::{BLUE, DARK, GREEN, GREY, LIGHT, VERMILION};
use super::{Area, Drawn, Swatch, label, tick, title};
use crate::estimate::Estimate;

/// Pixels down a row.
const ROW: u32 = 16;
const TOP: u32 = 34;
const BOTTOM: u32 = 46;
/// Room for names, and to the right of the axis.
const NAMES: i32 = 158;
const RIGHT: i32 = 26;
/// Values beyond so many times the median are not drawn to scale: one that is lost would press all others together.
const FAR: f64 = 3.5;

/// How a value stands beside those that it is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Standing {
    /// One of those that others are compared with.
    Control,
    Better,
    Worse,
    NotResolved,
}

impl Standing {
    /// Every standing, in the order of the legend.
    pub(crate) const ALL: [Self; 4] = [Self::Better, Self::NotResolved, Self::Worse, Self::Control];

    pub(crate) fn swatch(self) -> Swatch {
        match self {
            Self::Control => Swatch::Ring(GREY),
            Self::Better => Swatch::Dot(GREEN),
            Self::Worse => Swatch::Dot(VERMILION),
            Self::NotResolved => Swatch::Dot(BLUE),
        }
    }
}

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rank {
    pub(crate) name: String,
    pub(crate) value: Estimate,
    pub(crate) standing: Standing,
}

/// A panel of rows.
#[derive(Clone, Debug)]
pub(crate) struct Ranking {
    pub(crate) title: String,
    /// What the values are.
    pub(crate) measure: String,
    /// Best first.
    pub(crate) rows: Vec<Rank>,
    /// Where a line stands: what all are measured against.
    pub(crate) line: Option<f64>,
}

impl Ranking {
    /// Puts the best first.
    pub(crate) fn sort(&mut self, more_is_better: bool) {
        self.rows.sort_by(|a, b| a.value.mean.total_cmp(&b.value.mean));
        if more_is_better {
            self.rows.reverse();
        }
    }

    pub(super) fn height(&self) -> u32 {
        TOP + self.rows.len() as u32 * ROW + BOTTOM
    }

    /// What is drawn to scale.
    fn range(&self) -> std::ops::Range<f64> {
        let mut means: Vec<f64> = self.rows.iter().map(|r| r.value.mean).filter(|m| m.is_finite()).collect();
        means.sort_by(f64::total_cmp);
        let far = means.get(means.len() / 2).map_or(f64::INFINITY, |median| FAR * median.abs());
        let near = self.rows.iter().filter(|r| r.value.mean.abs() <= far);
        let ends = near.flat_map(|r| [*r.value.interval().start(), *r.value.interval().end()]);
        super::range(ends.map(|x| x.clamp(-far, far)).chain(self.line).chain([0.0]))
    }

    pub(super) fn draw(&self, area: &Area<'_>) -> Drawn {
        let (width, _) = area.dim_in_pixel();
        let (left, right) = (NAMES, width as i32 - RIGHT);
        let (top, bottom) = (TOP as i32, (TOP + self.rows.len() as u32 * ROW) as i32);
        let range = self.range();
        let place = |value: f64| {
            let share = (value - range.start) / (range.end - range.start);
            (left + (share * f64::from(right - left)).round() as i32).clamp(left, right)
        };
        let text = |h, v| label().pos(Pos::new(h, v));
        area.draw(&Text::new(self.title.clone(), (left, 8), title()))?;
        for value in marks(&range) {
            let x = place(value);
            area.draw(&PathElement::new(vec![(x, top), (x, bottom)], LIGHT.stroke_width(1)))?;
            area.draw(&Text::new(tick(value), (x, bottom + 6), text(HPos::Center, VPos::Top)))?;
        }
        area.draw(&PathElement::new(vec![(left, bottom), (right, bottom)], DARK.stroke_width(1)))?;
        let middle = ((left + right) / 2, bottom + 24);
        area.draw(&Text::new(self.measure.clone(), middle, text(HPos::Center, VPos::Top)))?;
        if let Some(at) = self.line {
            let x = place(at);
            for y in (top..bottom).step_by(9) {
                area.draw(&PathElement::new(vec![(x, y), (x, (y + 5).min(bottom))], DARK.stroke_width(1)))?;
            }
        }
        for (index, row) in self.rows.iter().enumerate() {
            let y = top + index as i32 * ROW as i32 + ROW as i32 / 2;
            area.draw(&Text::new(row.name.clone(), (left - 8, y), text(HPos::Right, VPos::Center)))?;
            self.draw_value(area, row, y, &range, &place)?;
        }
        Ok(())
    }

    fn draw_value(
        &self,
        area: &Area<'_>,
        row: &Rank,
        y: i32,
        range: &std::ops::Range<f64>,
        place: &impl Fn(f64) -> i32,
    ) -> Drawn {
        let colour = match row.standing.swatch() {
            Swatch::Dot(colour) | Swatch::Ring(colour) => colour,
            _ => DARK,
        };
        let mean = row.value.mean;
        if !mean.is_finite() {
            return Ok(());
        }
        if mean > range.end {
            // Off the scale: an arrow, and the number.
            let x = place(range.end);
            let arrow = vec![(x - 7, y - 4), (x, y), (x - 7, y + 4)];
            area.draw(&Polygon::new(arrow, colour.filled()))?;
            let right = label().pos(Pos::new(HPos::Right, VPos::Center));
            return area.draw(&Text::new(tick(mean), (x - 12, y), right));
        }
        let interval = row.value.interval();
        let ends = vec![(place(*interval.start()), y), (place(*interval.end()), y)];
        area.draw(&PathElement::new(ends, colour.stroke_width(2)))?;
        let at = (place(mean), y);
        if row.standing == Standing::Control {
            area.draw(&Circle::new(at, 4, WHITE.filled()))?;
            area.draw(&Circle::new(at, 4, colour.stroke_width(2)))
        } else {
            area.draw(&Circle::new(at, 4, colour.filled()))
        }
    }
}

/// Round numbers in a range, about five.
fn marks(range: &std::ops::Range<f64>) -> Vec<f64> {
    let rough = (range.end - range.start) / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|step| *step >= rough);
    let step = step.unwrap_or(power);
    let first = (range.start / step).ceil() as i64;
    (first..).map(|i| i as f64 * step).take_while(|x| *x <= range.end).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Figure, Panel};
    use super::*;

    fn ranking() -> Ranking {
        let row = |name: &str, mean, standing| Rank {
            name: name.to_owned(),
            value: Estimate { mean, se: Some(0.01), n: 9 },
            standing,
        };
        let mut ranking = Ranking {
            title: "a tenth kept".into(),
            measure: "loss".into(),
            rows: vec![
                row("window", 0.9, Standing::Control),
                row("knorm", 0.3, Standing::Worse),
                row("sink-recent", 0.15, Standing::Control),
                row("snapkv", 0.05, Standing::Better),
                row("tova", 0.14, Standing::NotResolved),
                row("lost", f64::NAN, Standing::Worse),
            ],
            line: Some(0.15),
        };
        ranking.sort(false);
        ranking
    }

    #[test]
    fn rows_stand_in_order_and_every_one_is_named() {
        let ranking = ranking();
        let names: Vec<&str> = ranking.rows.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(names, ["snapkv", "tova", "sink-recent", "knorm", "window", "lost"]);
        let svg =
            Figure { legend: Vec::new(), columns: 2, panels: vec![Panel::Ranking(ranking.clone())] }.svg();
        let svg = svg.unwrap();
        for name in names.iter().chain(&["a tenth kept", "loss"]) {
            assert_eq!(svg.matches(&format!("\n{name}\n")).count(), 1, "{name}: {svg}");
        }
        assert!(!svg.contains("NaN"));
    }

    #[test]
    fn a_value_far_off_is_an_arrow_with_its_number() {
        let range = ranking().range();
        assert!(range.end < 0.6 && range.start <= 0.0, "{range:?}");
        let figure = Figure { legend: Vec::new(), columns: 1, panels: vec![Panel::Ranking(ranking())] };
        let svg = figure.svg().unwrap();
        assert!(svg.contains("<polygon") && svg.contains("\n0.9\n"), "{svg}");
    }

    #[test]
    fn marks_are_round() {
        assert_eq!(marks(&(-0.1..1.05)), [0.0, 0.5, 1.0]);
        assert_eq!(marks(&(0.0..10.0)), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
    }
}
